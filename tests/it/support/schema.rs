//! Checks values against JSON Schemas (draft 2020-12), as far as the description of the API uses that. A keyword that
//! is not known here fails the test: no schema passes for want of a check.

use jiff::Timestamp;
use serde_json::Value;

/// Keywords that say nothing of a value.
const NOTES: [&str; 7] =
    ["description", "title", "default", "example", "examples", "contentMediaType", "x-result"];
/// Formats that say how a number is kept.
const WIDTHS: [&str; 4] = ["int32", "int64", "float", "double"];

/// The faults of a value. `document` has the schemas that `schema` names.
pub(crate) fn faults(document: &Value, schema: &Value, value: &Value) -> Vec<String> {
    let mut found = Vec::new();
    Check { document }.check(schema, value, "", &mut found);
    found
}

struct Check<'a> {
    document: &'a Value,
}

impl Check<'_> {
    fn faults(&self, schema: &Value, value: &Value, at: &str) -> Vec<String> {
        let mut found = Vec::new();
        self.check(schema, value, at, &mut found);
        found
    }

    fn check(&self, schema: &Value, value: &Value, at: &str, found: &mut Vec<String>) {
        let Value::Object(keywords) = schema else { panic!("no schema: {schema}") };
        let mut own = Vec::new();
        let mut fault = |what: String| own.push(format!("{at}: {what}"));
        for (keyword, wanted) in keywords {
            let number = || wanted.as_f64().expect("a number");
            match keyword.as_str() {
                "$ref" => {
                    let path =
                        wanted.as_str().and_then(|path| path.strip_prefix('#')).expect("a local reference");
                    let named = self.document.pointer(path).unwrap_or_else(|| panic!("there is no {path}"));
                    self.faults(named, value, at).into_iter().for_each(|fault| found.push(fault));
                }
                "type" => {
                    let is_it = |kind: &Value| is_of_type(kind.as_str().expect("a type"), value);
                    if !wanted.as_array().map_or_else(|| is_it(wanted), |kinds| kinds.iter().any(is_it)) {
                        fault(format!("{value} is no {wanted}"));
                    }
                }
                "enum" if !wanted.as_array().expect("values").contains(value) => {
                    fault(format!("{value} is none of {wanted}"));
                }
                "minimum" if value.as_f64().is_some_and(|value| value < number()) => {
                    fault(format!("{value} is less than {wanted}"));
                }
                "maximum" if value.as_f64().is_some_and(|value| value > number()) => {
                    fault(format!("{value} is more than {wanted}"));
                }
                "minLength" if length(value).is_some_and(|length| length < number()) => {
                    fault(format!("{value} is shorter than {wanted}"));
                }
                "maxLength" if length(value).is_some_and(|length| length > number()) => {
                    fault(format!("{value} is longer than {wanted}"));
                }
                "minItems" if value.as_array().is_some_and(|items| (items.len() as f64) < number()) => {
                    fault(format!("has fewer items than {wanted}"));
                }
                "format" => {
                    let format = wanted.as_str().expect("a format");
                    let is_instant = |text: &str| text.parse::<Timestamp>().is_ok();
                    match format {
                        "date-time" if value.as_str().is_some_and(|text| !is_instant(text)) => {
                            fault(format!("{value} is no instant"));
                        }
                        _ => {
                            assert!(format == "date-time" || WIDTHS.contains(&format), "the format {format}");
                        }
                    }
                }
                "required" => {
                    let names = wanted.as_array().expect("names").iter().filter_map(Value::as_str);
                    let is_missing =
                        |name: &&str| value.as_object().is_some_and(|it| !it.contains_key(*name));
                    names.filter(is_missing).for_each(|name| fault(format!("{name} is missing")));
                }
                "properties" => {
                    for (name, schema) in wanted.as_object().expect("schemas") {
                        if let Some(member) = value.get(name) {
                            self.check(schema, member, &format!("{at}/{name}"), found);
                        }
                    }
                }
                "additionalProperties" => {
                    let known = schema["properties"].as_object();
                    let others = value.as_object().into_iter().flatten();
                    for (name, member) in
                        others.filter(|(name, _)| known.is_none_or(|it| !it.contains_key(*name)))
                    {
                        match wanted {
                            Value::Bool(true) => {}
                            Value::Bool(false) => found.push(format!("{at}: {name} is unknown")),
                            schema => self.check(schema, member, &format!("{at}/{name}"), found),
                        }
                    }
                }
                "items" => {
                    for (index, item) in value.as_array().into_iter().flatten().enumerate() {
                        self.check(wanted, item, &format!("{at}/{index}"), found);
                    }
                }
                // Of a text, which is JSON wherever a description has this.
                "contentSchema" => match value.as_str().map(serde_json::from_str) {
                    Some(Ok(content)) => self.check(wanted, &content, at, found),
                    _ => fault(format!("{value} is no JSON as text")),
                },
                "allOf" => {
                    for part in wanted.as_array().expect("schemas") {
                        self.check(part, value, at, found);
                    }
                }
                "oneOf" | "anyOf" => {
                    let each: Vec<_> = wanted
                        .as_array()
                        .expect("schemas")
                        .iter()
                        .map(|one| self.faults(one, value, at))
                        .collect();
                    match each.iter().filter(|faults| faults.is_empty()).count() {
                        0 => fault(format!("none of {keyword} fits: {each:?}")),
                        2.. if keyword == "oneOf" => fault("more than one of oneOf fits".to_owned()),
                        _ => {}
                    }
                }
                "propertyNames" | "pattern" | "enum" | "minimum" | "maximum" | "minLength" | "maxLength"
                | "minItems" => {}
                note => assert!(NOTES.contains(&note), "the tests do not know the keyword {note} at {at}"),
            }
        }
        found.extend(own);
    }
}

fn is_of_type(kind: &str, value: &Value) -> bool {
    match kind {
        "null" => value.is_null(),
        "boolean" => value.is_boolean(),
        "integer" => value.is_u64() || value.is_i64(),
        "number" => value.is_number(),
        "string" => value.is_string(),
        "array" => value.is_array(),
        "object" => value.is_object(),
        other => panic!("the type {other}"),
    }
}

/// The length of a text, in characters.
fn length(value: &Value) -> Option<f64> {
    value.as_str().map(|text| text.chars().count() as f64)
}

#[test]
fn values_that_are_not_as_a_schema_says_are_found() {
    let document = serde_json::json!({ "named": { "type": "string", "maxLength": 2 } });
    for (schema, fits, does_not) in [
        (r##"{"$ref":"#/named"}"##, r#""ab""#, r#""abc""#),
        (r#"{"type":["integer","null"],"minimum":1,"maximum":2}"#, "2", "3"),
        (r#"{"type":"integer"}"#, "1", "1.5"),
        (r#"{"enum":["a"]}"#, r#""a""#, r#""b""#),
        (r#"{"type":"string","format":"date-time"}"#, r#""2026-11-23T12:00:00Z""#, r#""today""#),
        (r#"{"required":["a"],"properties":{"a":{"type":"boolean"}}}"#, r#"{"a":true}"#, r#"{"a":1}"#),
        (r#"{"required":["a"]}"#, r#"{"a":true}"#, "{}"),
        (r#"{"properties":{"a":{}},"additionalProperties":false}"#, r#"{"a":1}"#, r#"{"b":1}"#),
        (r#"{"additionalProperties":{"type":"null"}}"#, r#"{"a":null}"#, r#"{"a":1}"#),
        (r#"{"items":{"type":"null"},"minItems":1}"#, "[null]", "[1]"),
        (r#"{"contentSchema":{"minimum":1}}"#, r#""1""#, r#""0""#),
        (r#"{"contentSchema":{}}"#, r#""1""#, r#""a""#),
        (r#"{"allOf":[{"minimum":1},{"maximum":1}]}"#, "1", "2"),
        (r#"{"oneOf":[{"minimum":1},{"maximum":1}]}"#, "2", "1"),
        (r#"{"anyOf":[{"minimum":3},{"maximum":1}]}"#, "1", "2"),
    ] {
        let [of, fits, does_not] =
            [schema, fits, does_not].map(|text| serde_json::from_str(text).expect(text));
        assert_eq!(faults(&document, &of, &fits), Vec::<String>::new(), "{schema}");
        assert!(!faults(&document, &of, &does_not).is_empty(), "{schema} takes {does_not}");
    }
}
