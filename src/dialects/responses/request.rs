//! The body of a request.

use serde_json::{Map, Value, json};

use super::ids::Ids;
use super::known::{self, REPEATED, SAMPLING};
use super::tools::{self, Offered};
use super::{input, items};
use crate::dialects::chat::{Chat, Message, Output, Role, Thinking};
use crate::fields::{FieldError, Fields};

/// A request for a response.
#[derive(Debug)]
pub(crate) struct Request {
    pub(crate) chat: Chat,
    /// The ids of the response.
    pub(crate) ids: Ids,
    /// The items of the input, each with an id.
    pub(crate) input: Vec<Value>,
    /// The tools that the model gets.
    pub(super) tools: Vec<Offered>,
    /// The fields of the response that say what was asked for.
    pub(crate) asked: Map<String, Value>,
    /// Whether the response is to be kept.
    pub(crate) stores: bool,
}

/// Reads a request. `history` has the items of the conversation so far, and `item` finds an item by its id.
///
/// # Errors
/// The first field that is not valid, or asks for something that the hive has not.
pub(crate) fn read(
    body: &Value,
    history: &[Value],
    item: &dyn Fn(&str) -> Option<Value>,
) -> Result<Request, FieldError> {
    let fields = Fields::new("", body)?;
    let mut ignored = Vec::new();
    known::check(&fields, &mut ignored)?;
    let ids = Ids::new();
    let input = input::read(&fields, &ids, item)?;
    let mut messages: Vec<Message> = Vec::new();
    let instructions = fields.string("instructions")?;
    messages.extend(instructions.map(|text| Message::text(Role::System, text)));
    let mut with_tools = vec![Fields::new("", body)?];
    let mut read_item = |path: &str, item, ignored: &mut Vec<String>| {
        let item = Fields::new(path, item)?;
        items::read(&item, &mut messages, ignored)?;
        with_tools.extend(Some(item).filter(items::adds_tools));
        Ok(())
    };
    for (at, item) in history.iter().enumerate() {
        read_item(&format!("previous[{at}]"), item, &mut Vec::new())?;
    }
    for (at, item) in input.iter().enumerate() {
        read_item(&format!("input[{at}]"), item, &mut ignored)?;
    }
    if history.is_empty() && input.is_empty() {
        return Err(fields.error("input", "is missing"));
    }
    let mut tools = tools::read(&with_tools, &mut ignored)?;
    let chat = Chat {
        model: fields.string("model")?.unwrap_or_default().to_owned(),
        messages,
        tool_choice: tools::choice(&fields, &mut tools)?,
        tools: tools.iter().map(|tool| tool.function.clone()).collect(),
        parallel_tool_calls: fields.bool("parallel_tool_calls")?,
        output: output(&fields, &mut ignored)?,
        thinking: thinking(&fields, &mut ignored)?,
        max_tokens: fields.whole_number("max_output_tokens", 1)?,
        stop: fields.texts("stop")?,
        options: options(&fields, &mut ignored)?,
        streams: fields.bool("stream")?.unwrap_or_default(),
        ignored,
    };
    let stores = fields.bool("store")?.unwrap_or(true);
    Ok(Request { asked: asked(&fields, stores), chat, ids, input, tools, stores })
}

fn output(fields: &Fields<'_>, ignored: &mut Vec<String>) -> Result<Output, FieldError> {
    let Some(text) = fields.object("text")? else { return Ok(Output::Text) };
    ignored.extend(text.others(&["format"]));
    let Some(format) = text.object("format")? else { return Ok(Output::Text) };
    match format.string("type")? {
        None | Some("text") => Ok(Output::Text),
        Some("json_object") => Ok(Output::Json),
        Some("json_schema") => {
            ignored.extend(format.others(&["type", "name", "schema", "strict"]));
            let schema = format.get("schema").ok_or_else(|| format.error("schema", "is missing"))?;
            Ok(Output::Schema {
                name: format.string("name")?.map(str::to_owned),
                schema: schema.clone(),
                strict: format.bool("strict")?,
            })
        }
        Some(_) => Err(format.error("type", r#"must be "text", "json_object" or "json_schema""#)),
    }
}

/// How much the model thinks. Its thoughts come as they are, so a summary of them has no effect.
fn thinking(fields: &Fields<'_>, ignored: &mut Vec<String>) -> Result<Thinking, FieldError> {
    let Some(reasoning) = fields.object("reasoning")? else { return Ok(Thinking::default()) };
    ignored.extend(reasoning.others(&["effort"]));
    Ok(match reasoning.string("effort")? {
        None => Thinking::default(),
        Some("none") => Thinking { enabled: Some(false), ..Thinking::default() },
        Some(effort) => {
            Thinking { enabled: Some(true), effort: Some(effort.to_owned()), ..Thinking::default() }
        }
    })
}

/// What can be included and needs nothing: it is of tools that the hive has not, the input has it anyway, or, as
/// encrypted reasoning, the answer has it in plain text.
const INCLUDED: [&str; 7] = [
    "file_search_call.results",
    "web_search_call.results",
    "web_search_call.action.sources",
    "code_interpreter_call.outputs",
    "computer_call_output.output.image_url",
    "message.input_image.image_url",
    "reasoning.encrypted_content",
];

/// Sampling and log probabilities.
fn options(fields: &Fields<'_>, ignored: &mut Vec<String>) -> Result<Map<String, Value>, FieldError> {
    fields.number("temperature", 0.0, 2.0)?;
    fields.number("top_p", 0.0, 1.0)?;
    let sampling = SAMPLING.into_iter().filter_map(|name| Some((name.to_owned(), fields.get(name)?.clone())));
    let mut options: Map<String, Value> = sampling.collect();
    let most = fields.whole_number("top_logprobs", 0)?.unwrap_or(0);
    if most > 20 {
        return Err(fields.error("top_logprobs", "must be a whole number from 0 to 20"));
    }
    let included = fields.array("include")?.unwrap_or_default();
    let has_logprobs = |name: &Value| name == "message.output_text.logprobs";
    let is_known =
        |name: &Value| has_logprobs(name) || name.as_str().is_some_and(|it| INCLUDED.contains(&it));
    ignored.extend(
        (0..).zip(included).filter(|(_, name)| !is_known(name)).map(|(at, _)| format!("include[{at}]")),
    );
    if most > 0 || included.iter().any(has_logprobs) {
        options.insert("logprobs".to_owned(), true.into());
        options.insert("top_logprobs".to_owned(), most.into());
    }
    Ok(options)
}

/// The fields of the response that say what was asked for; all are there, whatever the request has.
fn asked(fields: &Fields<'_>, stores: bool) -> Map<String, Value> {
    let value = |name: &str| fields.get(name).cloned();
    let mut text = value("text").filter(Value::is_object).unwrap_or_else(|| json!({}));
    if text["format"].is_null() {
        text["format"] = json!({"type": "text"});
    }
    let reasoning = value("reasoning").unwrap_or_default();
    let asked = json!({
        "instructions": value("instructions"),
        "max_output_tokens": value("max_output_tokens"),
        "max_tool_calls": value("max_tool_calls"),
        "parallel_tool_calls": value("parallel_tool_calls").unwrap_or(true.into()),
        "previous_response_id": value("previous_response_id"),
        "reasoning": {"effort": reasoning["effort"], "summary": null},
        "service_tier": "default",
        "store": stores,
        "temperature": value("temperature"),
        "text": text,
        "tool_choice": value("tool_choice").unwrap_or("auto".into()),
        "tools": tools::had(fields),
        "top_logprobs": value("top_logprobs").unwrap_or(0.into()),
        "top_p": value("top_p"),
        "truncation": "disabled",
    });
    let Value::Object(mut asked) = asked else { unreachable!("it is an object") };
    asked.extend(REPEATED.into_iter().map(|name| (name.to_owned(), value(name).unwrap_or_default())));
    if asked["metadata"].is_null() {
        asked.insert("metadata".to_owned(), json!({}));
    }
    asked
}
