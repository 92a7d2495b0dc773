//! What the functions, filters and methods of the environment share: their arguments, their errors and
//! Python's floats.

use minijinja::value::{ArgType, Kwargs, ValueKind};
use minijinja::{Error, ErrorKind, Value};

/// The error of a value that cannot be used.
pub(super) fn invalid(problem: impl Into<std::borrow::Cow<'static, str>>) -> Error {
    Error::new(ErrorKind::InvalidOperation, problem)
}

/// An argument that may be given by position or by name.
pub(super) fn named<'a, T>(options: &'a Kwargs, name: &'a str, given: Option<T>) -> Result<Option<T>, Error>
where
    Option<T>: ArgType<'a, Output = Option<T>>,
{
    given.map_or_else(|| options.get(name), |given| Ok(Some(given)))
}

/// The value as a float, if it is a number and no integer.
pub(super) fn float(value: &Value) -> Option<f64> {
    let is_float = value.kind() == ValueKind::Number && !value.is_integer();
    is_float.then(|| f64::try_from(value.clone()).ok()).flatten()
}

/// A float as Python prints it: the fewest digits, with an exponent from 1e16 up and below 1e-4.
pub(super) fn float_repr(number: f64) -> String {
    if number == 0.0 || !number.is_finite() || (1e-4..1e16).contains(&number.abs()) {
        return format!("{number:?}");
    }
    let text = format!("{number:e}");
    match text.split_once('e') {
        Some((digits, exponent)) => match exponent.strip_prefix('-') {
            Some(exponent) => format!("{digits}e-{exponent:0>2}"),
            None => format!("{digits}e+{exponent:0>2}"),
        },
        None => text,
    }
}
