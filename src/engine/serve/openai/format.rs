//! Reads which form the answer must have: OpenAI's `response_format`, and the fields of llama.cpp
//! (`json_schema`) and vLLM (`guided_json`, `guided_regex`, `guided_choice`, `structured_outputs`).

use serde_json::{Value, json};

use crate::engine::constraint::Form;
use crate::fields::{FieldError, Fields};

/// The form that a field of the request asks for.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Wanted {
    /// The field.
    pub(super) field: String,
    pub(super) form: Form,
}

/// The form of the answer; `None` is any text.
///
/// # Errors
/// A field that is malformed, asks for another kind of form, or stands beside another one.
pub(super) fn wanted(fields: &Fields<'_>) -> Result<Option<Wanted>, FieldError> {
    let of_vllm = match fields.object("structured_outputs")? {
        Some(options) => structured_outputs(&options)?,
        None => None,
    };
    let all = [
        response_format(fields)?,
        schema(fields, "json_schema")?,
        schema(fields, "guided_json")?,
        pattern(fields, "guided_regex")?,
        choice(fields, "guided_choice")?,
        of_vllm,
    ];
    let mut wanted = all.into_iter().flatten();
    match (wanted.next(), wanted.next()) {
        (Some(first), Some(second)) => Err(FieldError::new(
            &second.field,
            format_args!("cannot be used together with `{}`", first.field),
        )),
        (first, _) => Ok(first),
    }
}

fn response_format(fields: &Fields<'_>) -> Result<Option<Wanted>, FieldError> {
    let Some(format) = fields.object("response_format")? else { return Ok(None) };
    let any_object = || json!({"type": "object"});
    let schema = match format.string("type")? {
        None | Some("text") => return Ok(None),
        // llama.cpp takes a schema here too.
        Some("json_object") => format.get("schema").cloned().unwrap_or_else(any_object),
        Some("json_schema") => {
            let described = format.get("json_schema").unwrap_or(&Value::Null);
            let described = Fields::new("response_format.json_schema", described)?;
            described.get("schema").cloned().unwrap_or_else(any_object)
        }
        Some(other) => {
            let problem =
                format_args!("is {other:?}; the built-in engine knows text, json_object and json_schema");
            return Err(format.error("type", problem));
        }
    };
    of_schema("response_format", schema)
}

fn structured_outputs(fields: &Fields<'_>) -> Result<Option<Wanted>, FieldError> {
    let known = ["json", "json_object", "regex", "choice"];
    if let Some((other, _)) = fields.present().find(|(name, _)| !known.contains(name)) {
        return Err(fields.error(other, "is not supported by the built-in engine"));
    }
    let object = fields.bool("json_object")?.unwrap_or(false).then(|| json!({"type": "object"}));
    let object = object.map_or(Ok(None), |schema| of_schema(&fields.name("json_object"), schema))?;
    let all = [schema(fields, "json")?, object, pattern(fields, "regex")?, choice(fields, "choice")?];
    let mut wanted = all.into_iter().flatten();
    match (wanted.next(), wanted.next()) {
        (_, Some(second)) => Err(FieldError::new(&second.field, "stands beside another form")),
        (first, None) => Ok(first),
    }
}

/// A schema, as an object or as JSON in a text.
fn schema(fields: &Fields<'_>, name: &str) -> Result<Option<Wanted>, FieldError> {
    match fields.get(name) {
        None => Ok(None),
        Some(Value::String(text)) if text.is_empty() => Ok(None),
        Some(Value::String(text)) => match serde_json::from_str(text) {
            Ok(schema) => of_schema(&fields.name(name), schema),
            Err(error) => Err(fields.error(name, format_args!("is not JSON: {error}"))),
        },
        Some(schema) => of_schema(&fields.name(name), schema.clone()),
    }
}

fn of_schema(field: &str, schema: Value) -> Result<Option<Wanted>, FieldError> {
    match schema {
        Value::Object(_) | Value::Bool(_) => {
            Ok(Some(Wanted { field: field.to_owned(), form: Form::Json(schema) }))
        }
        _ => Err(FieldError::new(field, "must have a JSON Schema, which is an object")),
    }
}

fn pattern(fields: &Fields<'_>, name: &str) -> Result<Option<Wanted>, FieldError> {
    let pattern = fields.string(name)?.filter(|pattern| !pattern.is_empty());
    Ok(pattern.map(|pattern| Wanted { field: fields.name(name), form: Form::Pattern(pattern.to_owned()) }))
}

fn choice(fields: &Fields<'_>, name: &str) -> Result<Option<Wanted>, FieldError> {
    let texts = fields.array(name)?.unwrap_or_default();
    let texts: Option<Vec<String>> = texts.iter().map(|text| text.as_str().map(str::to_owned)).collect();
    match texts {
        None => Err(fields.error(name, "must be an array of strings")),
        Some(texts) if texts.is_empty() => Ok(None),
        Some(texts) => Ok(Some(Wanted { field: fields.name(name), form: Form::Choice(texts) })),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(body: &Value) -> Result<Option<Form>, FieldError> {
        Ok(wanted(&Fields::new("", body).unwrap())?.map(|wanted| wanted.form))
    }

    #[test]
    fn each_field_asks_for_the_form_that_it_means() {
        let schema = json!({"type": "array"});
        let json_form = Some(Form::Json(schema.clone()));
        let object = Some(Form::Json(json!({"type": "object"})));
        for (body, form) in [
            (json!({"response_format": {"type": "text"}}), None),
            (json!({"response_format": {"type": "json_object"}}), object.clone()),
            (json!({"response_format": {"type": "json_object", "schema": schema}}), json_form.clone()),
            (
                json!({"response_format": {"type": "json_schema", "json_schema": {"name": "a", "schema": schema}}}),
                json_form.clone(),
            ),
            (json!({"json_schema": schema}), json_form.clone()),
            (json!({"guided_json": schema.to_string()}), json_form.clone()),
            (json!({"structured_outputs": {"json": schema, "regex": null}}), json_form),
            (json!({"structured_outputs": {"json_object": true}}), object),
            (json!({"structured_outputs": {}}), None),
            (json!({"guided_regex": "a+"}), Some(Form::Pattern("a+".to_owned()))),
            (json!({"guided_choice": ["a"]}), Some(Form::Choice(vec!["a".to_owned()]))),
        ] {
            assert_eq!(parse(&body).unwrap(), form, "{body}");
        }
    }

    #[test]
    fn a_form_that_is_malformed_or_not_alone_is_refused_by_name() {
        for (body, param) in [
            (json!({"response_format": {"type": "xml"}}), "response_format.type"),
            (json!({"response_format": {"type": "json_schema"}}), "response_format.json_schema"),
            (
                json!({"response_format": {"type": "json_schema", "json_schema": {"schema": 1}}}),
                "response_format",
            ),
            (json!({"guided_json": "{"}), "guided_json"),
            (json!({"guided_choice": [1]}), "guided_choice"),
            (json!({"structured_outputs": {"grammar": "x"}}), "structured_outputs.grammar"),
            (json!({"structured_outputs": {"json": {}, "regex": "x"}}), "structured_outputs.regex"),
            (json!({"response_format": {"type": "json_object"}, "json_schema": {}}), "json_schema"),
        ] {
            let error = parse(&body).unwrap_err();
            assert_eq!(error.field, param, "{error}");
        }
    }
}
