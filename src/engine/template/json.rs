//! `tojson` as `transformers` has it: Python's `json.dumps`, without any escaping of HTML.

use std::fmt::Write;

use minijinja::value::{Kwargs, ValueKind};
use minijinja::{Error, State, Value};

use super::values::{float, float_repr, invalid};
use crate::engine::tokenizer::MARKS;

/// The deepest nesting that is written. Python ends at its own limit of recursion, about a thousand.
const MAX_DEPTH: usize = 200;

/// The filter. Its parameters are `ensure_ascii`, `indent`, `separators` and `sort_keys`.
pub(super) fn tojson(
    state: &State,
    value: &Value,
    ascii: Option<bool>,
    options: Kwargs,
) -> Result<Value, Error> {
    let indent = indent(options.get("indent")?)?;
    let separators: Option<Vec<String>> = options.get("separators")?;
    let (item, key) = match separators.as_deref() {
        None if indent.is_some() => (",", ": "),
        None => (", ", ": "),
        Some([item, key]) => (item.as_str(), key.as_str()),
        Some(_) => return Err(invalid("separators must be two strings")),
    };
    let mut writer = Writer {
        state,
        json: String::new(),
        item,
        key,
        indent,
        ascii: options.get::<Option<bool>>("ensure_ascii")?.or(ascii).unwrap_or(false),
        sort_keys: options.get::<Option<bool>>("sort_keys")?.unwrap_or(false),
    };
    options.assert_all_used()?;
    writer.value(value, 0)?;
    Ok(Value::from(writer.json))
}

/// The text of one step of indentation: Python takes a number of spaces or the text itself.
fn indent(option: Option<Value>) -> Result<Option<String>, Error> {
    let Some(option) = option.filter(|option| !option.is_none()) else { return Ok(None) };
    if let Some(text) = option.as_str() {
        return Ok(Some(text.to_owned()));
    }
    let width = option.as_i64().ok_or_else(|| invalid("indent must be a number or a string"))?;
    Ok(Some(" ".repeat(usize::try_from(width).unwrap_or(0).min(16))))
}

struct Writer<'a> {
    state: &'a State<'a, 'a>,
    json: String,
    item: &'a str,
    key: &'a str,
    indent: Option<String>,
    ascii: bool,
    sort_keys: bool,
}

impl Writer<'_> {
    fn value(&mut self, value: &Value, depth: usize) -> Result<(), Error> {
        if depth > MAX_DEPTH {
            return Err(invalid("the value is nested too deeply, or contains itself"));
        }
        self.state.consume_fuel(1)?;
        match value.kind() {
            ValueKind::None => self.json.push_str("null"),
            ValueKind::Bool => self.json.push_str(if value.is_true() { "true" } else { "false" }),
            ValueKind::Number => match float(value) {
                Some(number) => self.json.push_str(&json_float(number)),
                None => {
                    let _infallible = write!(self.json, "{value}");
                }
            },
            ValueKind::String => self.string(value.as_str().unwrap_or_default())?,
            ValueKind::Seq => {
                let items: Vec<Value> = value.try_iter()?.collect();
                self.list(('[', ']'), &items, depth, |writer, item| writer.value(item, depth + 1))?;
            }
            ValueKind::Map if is_namespace(value) => {
                return Err(invalid("a namespace is not JSON serializable"));
            }
            ValueKind::Map => {
                let mut keys: Vec<Value> = value.try_iter()?.collect();
                if self.sort_keys {
                    keys.sort();
                }
                self.list(('{', '}'), &keys, depth, |writer, key| {
                    writer.key(key)?;
                    writer.value(&value.get_item(key)?, depth + 1)
                })?;
            }
            other => return Err(invalid(format!("{other} is not JSON serializable"))),
        }
        Ok(())
    }

    fn list(
        &mut self,
        (open, close): (char, char),
        items: &[Value],
        depth: usize,
        mut write: impl FnMut(&mut Self, &Value) -> Result<(), Error>,
    ) -> Result<(), Error> {
        self.json.push(open);
        for (index, item) in items.iter().enumerate() {
            if index > 0 {
                self.json.push_str(self.item);
            }
            self.new_line(depth + 1);
            write(self, item)?;
        }
        if !items.is_empty() {
            self.new_line(depth);
        }
        self.json.push(close);
        Ok(())
    }

    fn new_line(&mut self, depth: usize) {
        if let Some(indent) = &self.indent {
            self.json.push('\n');
            self.json.push_str(&indent.repeat(depth));
        }
    }

    /// Python writes keys that are not strings as it writes values, in quotes.
    fn key(&mut self, key: &Value) -> Result<(), Error> {
        match key.kind() {
            ValueKind::String => self.string(key.as_str().unwrap_or_default())?,
            ValueKind::None | ValueKind::Bool | ValueKind::Number => {
                self.json.push('"');
                self.value(key, 0)?;
                self.json.push('"');
            }
            other => return Err(invalid(format!("a key cannot be of type {other}"))),
        }
        self.json.push_str(self.key);
        Ok(())
    }

    /// The marks of the conversation's texts are removed later, and stay as they are.
    fn string(&mut self, text: &str) -> Result<(), Error> {
        self.state.consume_fuel(text.len() as u64 / 64)?;
        self.json.push('"');
        for c in text.chars() {
            match c {
                '"' => self.json.push_str("\\\""),
                '\\' => self.json.push_str("\\\\"),
                '\n' => self.json.push_str("\\n"),
                '\r' => self.json.push_str("\\r"),
                '\t' => self.json.push_str("\\t"),
                '\u{8}' => self.json.push_str("\\b"),
                '\u{c}' => self.json.push_str("\\f"),
                c if c < ' ' || (self.ascii && (!c.is_ascii() || c == '\u{7f}') && !MARKS.contains(&c)) => {
                    for unit in c.encode_utf16(&mut [0; 2]) {
                        let _infallible = write!(self.json, "\\u{unit:04x}");
                    }
                }
                c => self.json.push(c),
            }
        }
        self.json.push('"');
        Ok(())
    }
}

fn is_namespace(value: &Value) -> bool {
    value.as_object().is_some_and(|object| object.type_name().ends_with("::Namespace"))
}

fn json_float(number: f64) -> String {
    match number {
        n if n.is_nan() => "NaN".to_owned(),
        n if n.is_infinite() => if n > 0.0 { "Infinity" } else { "-Infinity" }.to_owned(),
        n => float_repr(n),
    }
}
