//! The functions, filters and tests of the environment that differ from minijinja's.

use minijinja::value::{Kwargs, Rest, Tuple, ValueKind};
use minijinja::{Error, Output, State, Value, filters};

use super::python::pad;
use super::values::{float as as_float, float_repr, invalid, named};

/// Marks the message of an error that the template raised with `raise_exception`.
pub(super) const RAISED: &str = "the template refuses: ";

/// Ends the rendering with the template's own message.
pub(super) fn raise_exception(message: Value) -> Result<Value, Error> {
    Err(invalid(format!("{RAISED}{message}")))
}

/// The local time in a format of C's `strftime`.
pub(super) fn strftime_now(format: String) -> Result<String, Error> {
    jiff::fmt::strtime::format(format, &jiff::ZonedDateTime::now())
        .map_err(|error| invalid(error.to_string()))
}

/// Prints a value as Python does.
pub(super) fn print(output: &mut Output, state: &mut State, value: &Value) -> Result<(), Error> {
    match as_float(value) {
        Some(number) => Ok(output.write_str(&float_repr(number))?),
        None => minijinja::escape_formatter(output, state, value),
    }
}

/// `dict(pairs or a dictionary, name=value, ...)`.
pub(super) fn dict(from: Option<Value>, named: Kwargs) -> Result<Value, Error> {
    let mut pairs = Vec::new();
    for item in from.iter().flat_map(Value::try_iter).flatten() {
        match &from {
            Some(from) if from.kind() == ValueKind::Map => pairs.push((item.clone(), from.get_item(&item)?)),
            _ => pairs.push((item.get_item_by_index(0)?, item.get_item_by_index(1)?)),
        }
    }
    for name in named.args() {
        pairs.push((Value::from(name), named.get(name)?));
    }
    Ok(Value::from_pairs(pairs))
}

pub(super) fn cycler(items: Rest<Value>) -> Result<Value, Error> {
    minijinja_contrib::globals::cycler(items.0)
}

/// Wraps a macro so that it takes any arguments, as `dialect` describes.
pub(super) fn flexible_macro(function: Value) -> Result<Value, Error> {
    let parameters: Vec<String> =
        function.get_attr("arguments")?.try_iter()?.map(|name| name.to_string()).collect();
    // The last two are `varargs` and `kwargs`.
    let named = parameters.len().saturating_sub(2);
    Ok(Value::from_function(move |state: &mut State, args: Rest<Value>, given: Kwargs| {
        let mut args = args.0;
        let varargs = args.split_off(args.len().min(named));
        let (mut known, mut others) = (Vec::new(), Vec::new());
        for name in given.args() {
            let value: Value = given.get(name)?;
            match name == "caller" || parameters[..named].iter().any(|parameter| parameter == name) {
                true => known.push((name, value)),
                false => others.push((name, value)),
            }
        }
        known.push(("varargs", Value::from(Tuple::from(varargs))));
        known.push(("kwargs", Value::from_pairs(others)));
        args.push(known.into_iter().collect::<Kwargs>().into());
        function.call(state, &args)
    }))
}

/// `'...' % values`: the values of a tuple, or one value.
pub(super) fn percent(state: &mut State, text: Value, values: &Value) -> Result<Value, Error> {
    let tuple = values.downcast_object_ref::<Tuple>();
    let values = tuple.map_or_else(|| vec![values.clone()], |tuple| tuple.to_vec());
    state.apply_filter("format", &[vec![text], values].concat())
}

pub(super) fn default(
    value: &Value,
    other: Option<Value>,
    boolean: Option<bool>,
    options: Kwargs,
) -> Result<Value, Error> {
    let other = named(&options, "default_value", other)?.unwrap_or_else(|| Value::from(""));
    let boolean = named(&options, "boolean", boolean)?.unwrap_or(false);
    options.assert_all_used()?;
    let replaced = value.is_undefined() || (boolean && !value.is_true());
    Ok(if replaced { other } else { value.clone() })
}

/// The filter `int`, whose default is 0 for what is no number.
pub(super) fn int(
    state: &State,
    value: &Value,
    default: Option<Value>,
    base: Option<u32>,
    options: Kwargs,
) -> Result<Value, Error> {
    let default = named(&options, "default", default)?.unwrap_or_else(|| Value::from(0));
    filters::int(state, value, Some(default), base, options)
}

/// The filter `float`, whose default is 0.0 for what is no number.
pub(super) fn float(
    state: &State,
    value: &Value,
    default: Option<Value>,
    options: Kwargs,
) -> Result<Value, Error> {
    let default = named(&options, "default", default)?.unwrap_or_else(|| Value::from(0.0));
    filters::float(state, value, Some(default), options)
}

pub(super) fn center(state: &State, text: String, width: Option<usize>) -> Result<String, Error> {
    pad(state, &text, "center", width.unwrap_or(80), ' ')
}

pub(super) fn wordcount(text: String) -> usize {
    text.split(|c: char| c != '_' && !c.is_alphanumeric()).filter(|word| !word.is_empty()).count()
}

pub(super) fn is_iterable(value: &Value) -> bool {
    !value.is_none() && value.try_iter().is_ok()
}

/// Whether it has a length and items by index or key, as strings and dictionaries do too.
pub(super) fn is_sequence(value: &Value) -> bool {
    matches!(value.kind(), ValueKind::Undefined | ValueKind::String | ValueKind::Seq | ValueKind::Map)
}

pub(super) fn is_callable(value: &Value) -> bool {
    value.kind() == ValueKind::Plain
}
