//! Reads `/api/chat` and `/api/generate`.

use std::collections::VecDeque;

use serde_json::Value;

use super::asked::{Asked, Work};
use super::{image, options};
use crate::dialects::chat::{Chat, Message, Output, Part, Role, Tool, ToolCall};
use crate::dialects::engine;
use crate::fields::{FieldError, Fields};

/// The fields of both that are applied.
const COMMON: [&str; 8] =
    ["model", "format", "options", "stream", "keep_alive", "think", "logprobs", "top_logprobs"];
const OF_CHAT: [&str; 2] = ["messages", "tools"];
const OF_GENERATE: [&str; 6] = ["prompt", "system", "images", "raw", "suffix", "template"];

/// The body of `/api/chat`. Without messages it only loads or unloads the model.
pub(crate) fn chat(body: &Value) -> Result<Asked, FieldError> {
    let fields = Fields::new("", body)?;
    let mut chat = Chat { model: model(&fields)?, ..Chat::default() };
    let mut calls = Calls::default();
    for message in fields.objects("messages")? {
        chat.messages.push(read_message(&message?, &mut calls)?);
    }
    for tool in fields.objects("tools")? {
        chat.tools.push(read_tool(&tool?)?);
    }
    let context_length = common(&fields, &mut chat, &OF_CHAT)?;
    let work = match chat.messages.is_empty() {
        true => nothing(chat),
        false => Work::Chat(Box::new(chat)),
    };
    Ok(Asked { work, keep_alive: fields.get("keep_alive").cloned(), context_length })
}

/// The body of `/api/generate`. Without a prompt it only loads or unloads the model.
pub(crate) fn generate(body: &Value) -> Result<Asked, FieldError> {
    let fields = Fields::new("", body)?;
    for field in ["suffix", "template"] {
        if fields.string(field)?.is_some_and(|text| !text.is_empty()) {
            return Err(
                fields.error(field, "is not supported: the chat template of the model's file applies")
            );
        }
    }
    let mut chat = Chat { model: model(&fields)?, ..Chat::default() };
    let prompt = fields.string("prompt")?.unwrap_or_default();
    let images = images(&fields)?;
    let context_length = common(&fields, &mut chat, &OF_GENERATE)?;
    let is_empty = prompt.is_empty() && images.is_empty();
    let work = if is_empty {
        nothing(chat)
    } else if fields.bool("raw")?.unwrap_or(false) {
        if !images.is_empty() {
            return Err(fields.error("images", "cannot be given with `raw`"));
        }
        raw(&fields, chat, prompt)?
    } else {
        let system = fields.string("system")?.filter(|text| !text.is_empty());
        chat.messages.extend(system.map(|text| Message::text(Role::System, text)));
        let mut asked = Message::text(Role::User, prompt);
        asked.content.extend(images);
        chat.messages.push(asked);
        Work::Chat(Box::new(chat))
    };
    Ok(Asked { work, keep_alive: fields.get("keep_alive").cloned(), context_length })
}

fn nothing(chat: Chat) -> Work {
    let Chat { model, streams, ignored, .. } = chat;
    Work::Nothing { model, streams, ignored }
}

/// The body of a completion. What only a chat can have is refused.
fn raw(fields: &Fields<'_>, chat: Chat, prompt: &str) -> Result<Work, FieldError> {
    for field in ["system", "think", "format", "logprobs"] {
        let is_asked = |value: &&Value| !matches!(value, Value::String(text) if text.is_empty());
        if fields.get(field).filter(is_asked).is_some_and(|value| *value != Value::Bool(false)) {
            return Err(fields.error(field, "cannot be given with `raw`"));
        }
    }
    let body = engine::completion(&chat, prompt);
    let Chat { model, streams, ignored, .. } = chat;
    Ok(Work::Raw { model, body, streams, ignored })
}

fn model(fields: &Fields<'_>) -> Result<String, FieldError> {
    let model = fields.string("model")?.filter(|model| !model.is_empty());
    model.map(str::to_owned).ok_or_else(|| fields.error("model", "must be the name of a model"))
}

/// The fields of both. Returns the least context.
fn common(fields: &Fields<'_>, chat: &mut Chat, own: &[&str]) -> Result<Option<u64>, FieldError> {
    chat.ignored.extend(fields.others(&[&COMMON, own].concat()));
    chat.streams = fields.bool("stream")?.unwrap_or(true);
    chat.output = output(fields)?;
    match fields.get("think") {
        None => {}
        Some(Value::Bool(thinks)) => chat.thinking.enabled = Some(*thinks),
        Some(Value::String(effort)) if !effort.is_empty() => {
            chat.thinking.enabled = Some(true);
            chat.thinking.effort = Some(effort.clone());
        }
        Some(_) => {
            return Err(fields.error("think", "must be true, false or how much, such as \"low\" or \"high\""));
        }
    }
    if fields.bool("logprobs")? == Some(true) {
        chat.options.insert("logprobs".to_owned(), true.into());
        if let Some(count) = fields.whole_number("top_logprobs", 0)? {
            chat.options.insert("top_logprobs".to_owned(), count.into());
        }
    }
    options::read(fields, chat)
}

fn output(fields: &Fields<'_>) -> Result<Output, FieldError> {
    match fields.get("format") {
        None => Ok(Output::Text),
        Some(Value::String(format)) if format.is_empty() => Ok(Output::Text),
        Some(Value::String(format)) if format == "json" => Ok(Output::Json),
        Some(schema @ Value::Object(_)) => {
            Ok(Output::Schema { name: None, schema: schema.clone(), strict: Some(true) })
        }
        Some(_) => Err(fields.error("format", "must be \"json\" or a JSON Schema")),
    }
}

/// The images of a message or a prompt.
fn images(fields: &Fields<'_>) -> Result<Vec<Part>, FieldError> {
    let images = fields.array("images")?.unwrap_or_default().iter().enumerate();
    let image = |(at, value): (usize, &Value)| {
        let field = fields.name(&format!("images[{at}]"));
        let text = value.as_str().ok_or_else(|| FieldError::new(&field, "must be an image in Base64"))?;
        image::address(&field, text).map(Part::Image)
    };
    images.map(image).collect()
}

/// The calls of the messages so far.
#[derive(Default)]
struct Calls {
    count: usize,
    /// The ids and the tools of those without a result.
    open: VecDeque<(String, String)>,
}

impl Calls {
    fn add(&mut self, call: &ToolCall) {
        self.count += 1;
        self.open.push_back((call.id.clone(), call.name.clone()));
    }

    /// The id of the call that a result of the tool of that name answers: Ollama's clients number no calls, so where
    /// the result has no id it is the first one without a result.
    fn answer(&mut self, id: Option<String>, tool: Option<&str>) -> Option<String> {
        let Some(id) = id else {
            let of_tool = self.open.iter().position(|(_, name)| tool == Some(name.as_str()));
            return self.open.remove(of_tool.unwrap_or(0)).map(|(id, _)| id);
        };
        if let Some(at) = self.open.iter().position(|(open, _)| *open == id) {
            self.open.remove(at);
        }
        Some(id)
    }
}

fn read_message(fields: &Fields<'_>, calls: &mut Calls) -> Result<Message, FieldError> {
    let role = match fields.string("role")? {
        Some("system") => Role::System,
        Some("user") => Role::User,
        Some("assistant") => Role::Assistant,
        Some("tool") => Role::Tool,
        _ => return Err(fields.error("role", "must be \"system\", \"user\", \"assistant\" or \"tool\"")),
    };
    let text = fields.string("content")?.unwrap_or_default();
    let mut message = Message { role, ..Message::default() };
    message
        .content
        .extend(Some(text).filter(|text| !text.is_empty()).map(|text| Part::Text(text.to_owned())));
    message.content.extend(images(fields)?);
    message.reasoning = fields.string("thinking")?.filter(|text| !text.is_empty()).map(str::to_owned);
    for call in fields.objects("tool_calls")? {
        let call = read_call(&call?, calls.count)?;
        calls.add(&call);
        message.tool_calls.push(call);
    }
    if role == Role::Tool {
        let name = match fields.string("tool_name")? {
            Some(name) => Some(name),
            None => fields.string("name")?,
        };
        let id = fields.string("tool_call_id")?.filter(|id| !id.is_empty()).map(str::to_owned);
        message.tool_call_id = calls.answer(id, name);
        message.name = name.map(str::to_owned);
    }
    Ok(message)
}

fn read_call(call: &Fields<'_>, number: usize) -> Result<ToolCall, FieldError> {
    let function = call.object("function")?.ok_or_else(|| call.error("function", "must be an object"))?;
    let name = function.string("name")?.ok_or_else(|| function.error("name", "must be a string"))?;
    let arguments = match function.get("arguments") {
        None => "{}".to_owned(),
        Some(Value::String(json)) => json.clone(),
        Some(object) => object.to_string(),
    };
    let id = call.string("id")?.filter(|id| !id.is_empty());
    let id = id.map_or_else(|| format!("call_{number}"), str::to_owned);
    Ok(ToolCall { id, name: name.to_owned(), arguments })
}

fn read_tool(tool: &Fields<'_>) -> Result<Tool, FieldError> {
    let function = tool.object("function")?.ok_or_else(|| tool.error("function", "must be an object"))?;
    let name = function.string("name")?.filter(|name| !name.is_empty());
    Ok(Tool {
        name: name.ok_or_else(|| function.error("name", "must be a name"))?.to_owned(),
        description: function.string("description")?.map(str::to_owned),
        parameters: function.get("parameters").cloned(),
        strict: None,
    })
}
