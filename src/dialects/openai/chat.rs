//! The body of a request.

use serde_json::{Map, Value};

use super::messages;
use crate::dialects::chat::{Chat, Output, Thinking, Tool, ToolChoice};
use crate::fields::{FieldError, Fields};

/// The fields that a [`Chat`] has a place for. All others are among its options.
const READ: [&str; 15] = [
    "model",
    "messages",
    "tools",
    "tool_choice",
    "parallel_tool_calls",
    "response_format",
    "max_tokens",
    "max_completion_tokens",
    "stop",
    "stream",
    "stream_options",
    "reasoning_effort",
    "thinking_budget_tokens",
    "chat_template_kwargs",
    "functions",
];

/// Reads a request for a chat completion.
///
/// # Errors
/// The first field that is not valid.
pub(crate) fn read(body: &Value) -> Result<Chat, FieldError> {
    let fields = Fields::new("", body)?;
    let mut options: Map<String, Value> = fields
        .present()
        .filter(|(name, _)| !READ.contains(name))
        .map(|(name, value)| (name.to_owned(), value.clone()))
        .collect();
    let thinking = thinking(&fields, &mut options)?;
    let newer = fields.whole_number("max_completion_tokens", 0)?;
    Ok(Chat {
        model: fields.string("model")?.unwrap_or_default().to_owned(),
        messages: messages::read(&fields)?,
        tools: tools(&fields)?,
        tool_choice: tool_choice(&fields)?,
        parallel_tool_calls: fields.bool("parallel_tool_calls")?,
        output: output(&fields)?,
        thinking,
        max_tokens: newer.or(fields.whole_number("max_tokens", 0)?),
        stop: fields.texts("stop")?,
        options,
        streams: fields.bool("stream")?.unwrap_or_default(),
        ignored: Vec::new(),
    })
}

fn tools(fields: &Fields<'_>) -> Result<Vec<Tool>, FieldError> {
    let mut tools = Vec::new();
    for tool in fields.objects("tools")? {
        let tool = tool?;
        let function = tool.object("function")?.ok_or_else(|| tool.error("function", "is missing"))?;
        tools.push(self::tool(&function)?);
    }
    // The older form.
    for function in fields.objects("functions")? {
        tools.push(tool(&function?)?);
    }
    Ok(tools)
}

fn tool(function: &Fields<'_>) -> Result<Tool, FieldError> {
    Ok(Tool {
        name: function.required("name")?.to_owned(),
        description: function.string("description")?.map(str::to_owned),
        parameters: function.get("parameters").cloned(),
        strict: function.bool("strict")?,
    })
}

fn tool_choice(fields: &Fields<'_>) -> Result<ToolChoice, FieldError> {
    match fields.get("tool_choice") {
        None => Ok(ToolChoice::Auto),
        Some(Value::String(word)) => match word.as_str() {
            "auto" => Ok(ToolChoice::Auto),
            "none" => Ok(ToolChoice::Never),
            "required" => Ok(ToolChoice::Required),
            _ => Err(fields.error("tool_choice", "must be \"auto\", \"none\", \"required\" or a function")),
        },
        Some(choice) => match choice["function"]["name"].as_str() {
            Some(name) => Ok(ToolChoice::Named(name.to_owned())),
            None => Err(fields.error("tool_choice", "names no function")),
        },
    }
}

fn output(fields: &Fields<'_>) -> Result<Output, FieldError> {
    let Some(format) = fields.object("response_format")? else { return Ok(Output::Text) };
    match format.string("type")?.unwrap_or("text") {
        "text" => Ok(Output::Text),
        // llama.cpp takes a schema here too.
        "json_object" => Ok(match format.get("schema") {
            Some(schema) => Output::Schema { name: None, schema: schema.clone(), strict: None },
            None => Output::Json,
        }),
        "json_schema" => {
            let schema = format.object("json_schema")?;
            let schema = schema.ok_or_else(|| format.error("json_schema", "is missing"))?;
            Ok(Output::Schema {
                name: schema.string("name")?.map(str::to_owned),
                schema: schema.get("schema").cloned().unwrap_or_default(),
                strict: schema.bool("strict")?,
            })
        }
        _ => Err(format.error("type", "must be \"text\", \"json_object\" or \"json_schema\"")),
    }
}

/// What the request says about thinking. Other variables of the template stay among the options.
fn thinking(fields: &Fields<'_>, options: &mut Map<String, Value>) -> Result<Thinking, FieldError> {
    let mut thinking = Thinking {
        enabled: None,
        effort: fields.string("reasoning_effort")?.map(str::to_owned),
        budget_tokens: fields.whole_number("thinking_budget_tokens", 0)?,
    };
    if thinking.effort.as_deref() == Some("none") {
        thinking = Thinking { enabled: Some(false), effort: None, ..thinking };
    }
    let Some(variables) = fields.get("chat_template_kwargs") else { return Ok(thinking) };
    let mut others = variables.clone();
    if let Some(enabled) = variables.get("enable_thinking").and_then(Value::as_bool) {
        thinking.enabled = Some(enabled);
        others.as_object_mut().and_then(|others| others.shift_remove("enable_thinking"));
    }
    if others != Value::Object(Map::new()) {
        options.insert("chat_template_kwargs".to_owned(), others);
    }
    Ok(thinking)
}
