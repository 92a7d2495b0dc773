//! Reads a JSON object field by field, with errors that name the field. `null` counts as absent.

use std::fmt;

use serde_json::{Map, Value};

use crate::error::{Code, Failure};

/// What is wrong with a field of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct FieldError {
    /// Its full path, such as `messages[0].content`.
    pub(crate) field: String,
    /// What is wrong with it, as the end of a sentence that begins with its name: `must be a string`.
    pub(crate) problem: String,
}

impl FieldError {
    pub(crate) fn new(field: &str, problem: impl fmt::Display) -> Self {
        Self { field: field.to_owned(), problem: problem.to_string() }
    }
}

impl fmt::Display for FieldError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "`{}` {}", self.field, self.problem)
    }
}

impl From<FieldError> for Failure {
    fn from(error: FieldError) -> Self {
        Self::new(Code::InvalidField, error.to_string()).hint("correct the field, or leave it out")
    }
}

/// Whether a value is a list, an object or a text of nothing.
pub(crate) fn is_empty(value: &Value) -> bool {
    match value {
        Value::Array(items) => items.is_empty(),
        Value::Object(fields) => fields.is_empty(),
        Value::String(text) => text.is_empty(),
        _ => false,
    }
}

/// One JSON object of a request, at `path` (empty for the body itself).
pub(crate) struct Fields<'a> {
    path: String,
    object: &'a Map<String, Value>,
}

impl<'a> Fields<'a> {
    pub(crate) fn new(path: &str, value: &'a Value) -> Result<Self, FieldError> {
        match value {
            Value::Object(object) => Ok(Self { path: path.to_owned(), object }),
            _ if path.is_empty() => Err(FieldError::new("body", "must be a JSON object")),
            _ => Err(FieldError::new(path, "must be an object")),
        }
    }

    /// The field's full path.
    pub(crate) fn name(&self, key: &str) -> String {
        if self.path.is_empty() { key.to_owned() } else { format!("{}.{key}", self.path) }
    }

    /// An error for the field `key`.
    pub(crate) fn error(&self, key: &str, problem: impl fmt::Display) -> FieldError {
        FieldError::new(&self.name(key), problem)
    }

    /// Every field that has a value other than `null`.
    pub(crate) fn present(&self) -> impl Iterator<Item = (&'a str, &'a Value)> {
        self.object.iter().map(|(name, value)| (name.as_str(), value)).filter(|(_, value)| !value.is_null())
    }

    /// Whether the field is there, with any value.
    pub(crate) fn has(&self, key: &str) -> bool {
        self.object.contains_key(key)
    }

    /// The field's value, unless it is absent or `null`.
    pub(crate) fn get(&self, key: &str) -> Option<&'a Value> {
        self.object.get(key).filter(|value| !value.is_null())
    }

    pub(crate) fn string(&self, key: &str) -> Result<Option<&'a str>, FieldError> {
        self.get(key)
            .map(|value| value.as_str().ok_or_else(|| self.error(key, "must be a string")))
            .transpose()
    }

    pub(crate) fn bool(&self, key: &str) -> Result<Option<bool>, FieldError> {
        self.get(key)
            .map(|value| value.as_bool().ok_or_else(|| self.error(key, "must be true or false")))
            .transpose()
    }

    pub(crate) fn array(&self, key: &str) -> Result<Option<&'a [Value]>, FieldError> {
        self.get(key)
            .map(|value| {
                value.as_array().map(Vec::as_slice).ok_or_else(|| self.error(key, "must be an array"))
            })
            .transpose()
    }

    /// A string that must be there.
    pub(crate) fn required(&self, key: &str) -> Result<&'a str, FieldError> {
        self.string(key)?.ok_or_else(|| self.error(key, "is missing"))
    }

    /// The object of the field.
    pub(crate) fn object(&self, key: &str) -> Result<Option<Self>, FieldError> {
        self.get(key).map(|value| Self::new(&self.name(key), value)).transpose()
    }

    /// Each object of the array of the field; none where that is absent. An item is checked when it is its turn.
    pub(crate) fn objects(
        &self,
        key: &str,
    ) -> Result<impl Iterator<Item = Result<Self, FieldError>> + use<'a>, FieldError> {
        let (path, items) = (self.name(key), self.array(key)?.unwrap_or_default());
        Ok(items.iter().enumerate().map(move |(at, item)| Self::new(&format!("{path}[{at}]"), item)))
    }

    /// The full paths of the fields that are there and not among `known`.
    pub(crate) fn others(&self, known: &[&str]) -> Vec<String> {
        let names = self.present().map(|(name, _)| name).filter(|name| !known.contains(name));
        names.map(|name| self.name(name)).collect()
    }

    /// One string, or several in an array.
    pub(crate) fn texts(&self, key: &str) -> Result<Vec<String>, FieldError> {
        match self.get(key) {
            None => Ok(Vec::new()),
            Some(Value::String(text)) => Ok(vec![text.clone()]),
            Some(texts) => serde_json::from_value(texts.clone())
                .map_err(|_| self.error(key, "must be a string or an array of strings")),
        }
    }

    /// A whole number of at least `least`. `16.0` is one, as in JavaScript.
    pub(crate) fn whole_number(&self, key: &str, least: u64) -> Result<Option<u64>, FieldError> {
        let Some(value) = self.get(key) else { return Ok(None) };
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "the guard admits whole numbers that are not negative; huge ones saturate"
        )]
        let number = value.as_u64().or_else(|| {
            value
                .as_f64()
                .filter(|number| *number >= 0.0 && number.fract() == 0.0)
                .map(|number| number as u64)
        });
        match number {
            Some(number) if number >= least => Ok(Some(number)),
            _ => Err(self.error(key, format_args!("must be a whole number of at least {least}"))),
        }
    }

    /// A number between `least` and `most`, both included.
    pub(crate) fn number(&self, key: &str, least: f32, most: f32) -> Result<Option<f32>, FieldError> {
        let Some(value) = self.get(key) else { return Ok(None) };
        #[expect(clippy::cast_possible_truncation, reason = "the range is checked afterwards")]
        let number = value.as_f64().map(|number| number as f32);
        match number {
            Some(number) if (least..=most).contains(&number) => Ok(Some(number)),
            _ => Err(self.error(key, format_args!("must be a number from {least} to {most}"))),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn numbers_are_within_their_bounds_which_are_included() {
        let whole = |value: Value| Fields::new("a", &json!({ "b": value })).unwrap().whole_number("b", 1);
        for (value, number) in
            [(json!(null), None), (json!(1), Some(1)), (json!(16.0), Some(16)), (json!(1e30), Some(u64::MAX))]
        {
            assert_eq!(whole(value.clone()), Ok(number), "{value}");
        }
        for value in [json!(0), json!(-1), json!(1.5), json!("1"), json!(-0.0)] {
            assert_eq!(whole(value.clone()).unwrap_err().field, "a.b", "{value}");
        }
        let number = |value: Value| Fields::new("", &json!({ "b": value })).unwrap().number("b", 0.0, 2.0);
        assert_eq!(
            [json!(0), json!(2), json!(0.5)].map(number),
            [Ok(Some(0.0)), Ok(Some(2.0)), Ok(Some(0.5))]
        );
        for value in [json!(-0.1), json!(2.1), json!("1"), json!(1e300)] {
            assert_eq!(
                number(value.clone()).unwrap_err().to_string(),
                "`b` must be a number from 0 to 2",
                "{value}"
            );
        }
    }
}
