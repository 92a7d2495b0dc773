//! One rendering, from the template's source to the text.

use std::sync::Arc;

use minijinja::value::Serde;
use minijinja::{Error, ErrorKind, Value};
use serde::{Deserialize, Serialize};
use serde_json::Map;

use super::builtins::RAISED;
use super::environment::{NAME, compile};
use crate::error::{Code, Failure, Result};

/// The longest template, in bytes. Published ones have up to a few tens of kilobytes.
const MAX_SOURCE: usize = 1 << 20;
/// The longest text, in bytes, besides the conversation itself.
const MAX_TEXT: usize = 4 << 20;

/// What to render.
#[derive(Debug, Serialize, Deserialize)]
pub struct Rendering {
    /// The template.
    pub source: Arc<str>,
    /// Its variables. Without them, the template is only compiled.
    pub context: Option<Map<String, serde_json::Value>>,
}

impl Rendering {
    /// Renders in this process. `input` is the size of the context, in bytes.
    ///
    /// # Errors
    /// `invalid_field` if the template refuses the messages, `model_unsupported` for one that does not
    /// compile, fails, does not end or writes too much.
    pub fn run(&self, input: usize) -> Result<String> {
        if self.source.len() > MAX_SOURCE {
            return Err(unsupported(format!("has {} bytes, more than {MAX_SOURCE}", self.source.len())));
        }
        let mut environment = compile(&self.source).map_err(|error| {
            unsupported(format!("does not compile, line {}", error.line().unwrap_or(1))).cause(&error)
        })?;
        let Some(context) = &self.context else { return Ok(String::new()) };
        environment.set_fuel(Some(fuel(input)));
        let text = environment
            .get_template(NAME)
            .and_then(|template| template.render(Value::from(Serde(context))))
            .map_err(|error| failure(&error))?;
        match text.len() {
            bytes if bytes > input.saturating_add(MAX_TEXT) => {
                Err(unsupported(format!("writes {bytes} bytes for a conversation of {input}")))
            }
            _ => Ok(text),
        }
    }
}

/// How many instructions a template may execute; minijinja also charges one per 64 bytes created.
/// A published template needs a few hundred per message, and a message has no fewer bytes than 30.
fn fuel(input: usize) -> u64 {
    u64::try_from(input).unwrap_or(u64::MAX).saturating_mul(300).saturating_add(500_000).min(50_000_000)
}

/// The failure of a template that raised an exception, ran out of fuel or failed otherwise.
fn failure(error: &Error) -> Failure {
    let mut next: Option<&(dyn std::error::Error + 'static)> = Some(error);
    while let Some(cause) = next {
        let detail = cause.downcast_ref::<Error>().and_then(Error::detail);
        if let Some(reason) = detail.and_then(|detail| detail.strip_prefix(RAISED)) {
            return Failure::new(
                Code::InvalidField,
                format!("the model's chat template refuses the messages: {reason}"),
            )
            .hint("change the order or the roles of the messages");
        }
        next = cause.source();
    }
    let problem = match error.kind() {
        ErrorKind::OutOfFuel => "does not end, or makes too much data".to_owned(),
        _ => format!("fails at line {}", error.line().unwrap_or(1)),
    };
    unsupported(problem).cause(error)
}

/// The failure of a template with that problem.
pub(super) fn unsupported(problem: impl std::fmt::Display) -> Failure {
    Failure::new(Code::ModelUnsupported, format!("the model's chat template {problem}"))
        .hint("give the model another template with chat_template in [models.\"ID\"] of the configuration")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn render(source: &str) -> Result<String> {
        let context = json!({"messages": [{"role": "user", "content": "Hi"}], "tools": null});
        let context = context.as_object().cloned();
        Rendering { source: source.into(), context }.run(100)
    }

    #[test]
    fn white_space_around_blocks_is_removed_as_in_transformers() {
        // lstrip_blocks takes the indentation before a block, trim_blocks the newline after it.
        let source = "a\n  {% for m in messages %}\n{{ m.content | trim }}\n  {% endfor %}\nend";
        assert_eq!(render(source).unwrap(), "a\nHi\nend");
    }

    #[test]
    fn an_exception_of_the_template_is_an_invalid_field_with_its_message() {
        let failure = render("{{ raise_exception('no system role') }}").unwrap_err();
        assert_eq!(failure.code, Code::InvalidField);
        assert!(failure.message.ends_with("no system role"), "{failure}");
    }

    #[test]
    fn a_template_that_does_not_compile_or_fails_is_refused_with_the_line() {
        for (source, line) in
            [("a\n{% if %}", "line 2"), ("a\n\n{{ 1 / 0 }}", "line 3"), ("{% generation %}", "line 1")]
        {
            let failure = render(source).unwrap_err();
            assert_eq!(failure.code, Code::ModelUnsupported);
            assert!(failure.message.contains(line), "{source}: {failure}");
        }
    }

    #[test]
    fn a_template_that_does_not_end_or_writes_too_much_is_stopped() {
        for source in [
            "{% for a in range(100000) %}{% for b in range(100000) %}x{% endfor %}{% endfor %}",
            "{% set ns = namespace(s='x' * 1000) %}{% for i in range(60) %}{% set ns.s = ns.s + ns.s %}{% endfor %}",
            "{{ 'x'.center(9000000000) }}",
            "{{ '%9000000000d' % 1 }}",
            "{{ 'x' * 9000000000 }}",
            "{{ 'x' * 6000000 }}",
        ] {
            let failure = render(source).unwrap_err();
            assert_eq!(failure.code, Code::ModelUnsupported, "{source}: {failure}");
        }
        let long = "x".repeat(MAX_SOURCE + 1);
        assert!(render(&long).unwrap_err().message.contains("more than"));
    }

    #[test]
    fn json_in_ascii_leaves_the_marks_of_a_text() {
        let rendered = render("{{ '\u{F0000}ä\u{F0000}' | tojson(ensure_ascii=true) }}").unwrap();
        assert_eq!(rendered, "\"\u{F0000}\\u00e4\u{F0000}\"");
    }

    #[test]
    fn the_time_is_formatted_and_an_invalid_format_is_an_error() {
        assert_eq!(render("{{ strftime_now('%Y')[:2] }}").unwrap(), "20");
        assert!(render("{{ strftime_now('%!') }}").is_err());
    }
}
