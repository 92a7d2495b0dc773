//! The environment of a template: that of `transformers`, for which the templates of models are written.
//!
//! It is Jinja2's sandbox with `trim_blocks`, `lstrip_blocks` and loop controls. The functions
//! `raise_exception` and `strftime_now` and a `tojson` without HTML escaping are added to it. The tests in
//! `tests/it/templates.rs` compare it with Jinja2.

use minijinja::syntax::SyntaxConfig;
use minijinja::{Environment, Error};

use super::{builtins, dialect, json, python};

/// The name of the template in the environment. Without an extension, nothing is escaped.
pub(super) const NAME: &str = "chat";

/// An environment with the one template.
pub(super) fn compile(source: &str) -> Result<Environment<'static>, Error> {
    let mut environment = Environment::new();
    environment.set_syntax(SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build()?);
    environment.set_unknown_method_callback(python::call_method);
    environment.set_formatter(builtins::print);

    environment.add_function("raise_exception", builtins::raise_exception);
    environment.add_function("strftime_now", builtins::strftime_now);
    environment.add_function("dict", builtins::dict);
    environment.add_function("cycler", builtins::cycler);
    environment.add_function("joiner", minijinja_contrib::globals::joiner);
    environment.add_function(dialect::FLEXIBLE_MACRO, builtins::flexible_macro);

    environment.add_filter("tojson", json::tojson);
    environment.add_filter("default", builtins::default);
    environment.add_filter("d", builtins::default);
    environment.add_filter("int", builtins::int);
    environment.add_filter("float", builtins::float);
    environment.add_filter("center", builtins::center);
    environment.add_filter("wordcount", builtins::wordcount);
    environment.add_filter(dialect::PERCENT, builtins::percent);

    environment.add_test("iterable", builtins::is_iterable);
    environment.add_test("sequence", builtins::is_sequence);
    environment.add_test("callable", builtins::is_callable);

    environment.add_template_owned(NAME, dialect::translate(source))?;
    Ok(environment)
}
