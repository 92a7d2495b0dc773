//! Reads a request.

use serde_json::{Map, Value};

use super::known::Ignored;
use super::{messages, tools};
use crate::dialects::chat::{Chat, Output, Thinking};
use crate::fields::{FieldError, Fields};

/// The chat of the body of a request, also of one that only counts tokens.
///
/// # Errors
/// The first field that is not valid, or asks for what only Anthropic's own service can do.
pub(crate) fn read(body: &Value) -> Result<Chat, FieldError> {
    let fields = Fields::new("", body)?;
    let mut ignored = Ignored::of_body(&fields)?;
    let model = fields.string("model")?.filter(|model| !model.is_empty());
    let tools = tools::read(&fields, &mut ignored)?;
    let (tool_choice, parallel_tool_calls) = tools::choice(&fields, &tools, &mut ignored)?;
    let (output, effort) = output(&fields, &mut ignored)?;
    Ok(Chat {
        model: model.ok_or_else(|| fields.error("model", "must name a model"))?.to_owned(),
        messages: messages::read(&fields, &mut ignored)?,
        tools,
        tool_choice,
        parallel_tool_calls,
        output,
        thinking: Thinking { effort, ..thinking(&fields, &mut ignored)? },
        max_tokens: fields.whole_number("max_tokens", 1)?,
        stop: stop(&fields)?,
        options: options(&fields)?,
        streams: fields.bool("stream")?.unwrap_or_default(),
        ignored: ignored.into_names(),
    })
}

/// Where a request says nothing of it, the model does not think: its clients expect that an answer begins with
/// its text.
fn thinking(fields: &Fields<'_>, ignored: &mut Ignored) -> Result<Thinking, FieldError> {
    let Some(thinking) = fields.object("thinking")? else {
        return Ok(Thinking { enabled: Some(false), ..Thinking::default() });
    };
    ignored.others("thinking", &thinking, &["type", "budget_tokens"]);
    let enabled = match thinking.string("type")? {
        Some("enabled") => Some(true),
        Some("disabled") => Some(false),
        // The model decides.
        Some("adaptive" | "between_tools") => None,
        _ => return Err(thinking.error("type", "must be enabled, disabled or adaptive")),
    };
    let budget_tokens = thinking.whole_number("budget_tokens", 0)?.filter(|_| enabled != Some(false));
    Ok(Thinking { enabled, budget_tokens, effort: None })
}

/// The form of the answer, and the effort.
fn output(fields: &Fields<'_>, ignored: &mut Ignored) -> Result<(Output, Option<String>), FieldError> {
    let nothing = Value::Object(Map::new());
    let config = Fields::new("output_config", fields.get("output_config").unwrap_or(&nothing))?;
    ignored.others("output_config", &config, &["effort", "format"]);
    let effort = match config.string("effort")? {
        // No template knows more.
        Some("xhigh" | "max") => Some("high"),
        Some(effort @ ("low" | "medium" | "high")) => Some(effort),
        None => None,
        Some(_) => return Err(config.error("effort", "must be low, medium, high, xhigh or max")),
    };
    let format = match config.object("format")? {
        Some(format) => Some(format),
        None => fields.object("output_format")?,
    };
    let Some(format) = format else { return Ok((Output::Text, effort.map(str::to_owned))) };
    ignored.others("output_config.format", &format, &["type", "schema", "name"]);
    let schema = format.get("schema").filter(|schema| schema.is_object());
    let output = match (format.string("type")?, schema) {
        (Some("json_schema"), Some(schema)) => {
            let name = format.string("name")?.map(str::to_owned);
            Output::Schema { name, schema: schema.clone(), strict: Some(true) }
        }
        (Some("json_schema"), None) => return Err(format.error("schema", "must be a JSON Schema")),
        (Some("text"), _) => Output::Text,
        _ => return Err(format.error("type", "must be json_schema")),
    };
    Ok((output, effort.map(str::to_owned)))
}

fn stop(fields: &Fields<'_>) -> Result<Vec<String>, FieldError> {
    let strings = fields.array("stop_sequences")?.unwrap_or_default();
    let texts = strings.iter().map(|value| value.as_str().filter(|text| !text.is_empty()).map(str::to_owned));
    let texts: Option<Vec<String>> = texts.collect();
    texts.ok_or_else(|| fields.error("stop_sequences", "must be an array of strings that are not empty"))
}

/// The fields of sampling, which engines know by the same names.
fn options(fields: &Fields<'_>) -> Result<Map<String, Value>, FieldError> {
    fields.number("temperature", 0.0, 2.0)?;
    fields.number("top_p", 0.0, 1.0)?;
    fields.whole_number("top_k", 0)?;
    let names = ["temperature", "top_p", "top_k"].into_iter();
    Ok(names.filter_map(|name| Some((name.to_owned(), fields.get(name)?.clone()))).collect())
}
