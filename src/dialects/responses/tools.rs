//! The tools of a request, as its client knows them and as engines do.
//!
//! Engines know functions, each by one name. A tool of a namespace becomes a function with the namespace in its name;
//! a custom tool, which takes a text, becomes a function with that text as its one argument. Its calls go back in the
//! form in which the client knows the tool.
//!
//! Items of the conversation may add tools to those of the request (`additional_tools`).
//!
//! A tool that OpenAI's service itself runs is left out, and told, where there are others: programs offer it with
//! every request, and do without it. Where there are no others, the request is refused: it asks for nothing else.

use serde_json::{Value, json};

use crate::dialects::chat::{Tool, ToolCall, ToolChoice};
use crate::fields::{FieldError, Fields};

/// The argument of a custom tool's function.
const INPUT: &str = "input";

/// The types of tools that the hive has.
const TYPES: [&str; 3] = ["function", "custom", "namespace"];

/// A tool that the model gets.
#[derive(Clone, Debug)]
pub(super) struct Offered {
    /// As engines know it.
    pub(super) function: Tool,
    pub(super) called: Called,
}

/// What a call names.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Called {
    pub(super) namespace: Option<String>,
    pub(super) name: String,
    /// Whether it takes a text in place of arguments.
    pub(super) is_custom: bool,
}

/// Reads the tools of the request, and of items that add more. Names what has no effect in `ignored`.
pub(super) fn read(lists: &[Fields<'_>], ignored: &mut Vec<String>) -> Result<Vec<Offered>, FieldError> {
    let (mut tools, mut refused, mut left_out) = (Vec::new(), None, Vec::new());
    for list in lists {
        for (at, tool) in list.objects("tools")?.enumerate() {
            let tool = tool?;
            match tool.required("type")? {
                "namespace" => namespace(&tool, &mut tools, ignored)?,
                kind if TYPES.contains(&kind) => tools.push(offered(&tool, None, ignored)?),
                kind => {
                    left_out.push(format!("{}[{at}]({kind})", list.name("tools")));
                    refused.get_or_insert(not_had(&tool, kind));
                }
            }
        }
    }
    if let Some(refused) = refused.filter(|_| tools.is_empty()) {
        return Err(refused);
    }
    ignored.extend(left_out);
    Ok(tools)
}

/// The tools of the request that the hive has, as the client sent them.
pub(super) fn had(fields: &Fields<'_>) -> Value {
    let tools = fields.get("tools").and_then(Value::as_array).into_iter().flatten();
    tools.filter(|tool| tool["type"].as_str().is_some_and(|kind| TYPES.contains(&kind))).cloned().collect()
}

/// Which tools the answer calls. Tools that are not allowed are taken from the list.
pub(super) fn choice(fields: &Fields<'_>, tools: &mut Vec<Offered>) -> Result<ToolChoice, FieldError> {
    let Some(choice) = fields.get("tool_choice") else { return Ok(ToolChoice::Auto) };
    let by_word = |word: &str| match word {
        "auto" => Some(ToolChoice::Auto),
        "none" => Some(ToolChoice::Never),
        "required" => Some(ToolChoice::Required),
        _ => None,
    };
    if let Some(word) = choice.as_str() {
        let problem = r#"must be "auto", "none", "required" or an object"#;
        return by_word(word).ok_or_else(|| fields.error("tool_choice", problem));
    }
    let choice = Fields::new("tool_choice", choice)?;
    match choice.string("type")? {
        Some("function" | "custom") => {
            Ok(ToolChoice::Named(function_name(choice.string("namespace")?, choice.required("name")?)))
        }
        Some("allowed_tools") => {
            let allowed = choice.array("tools")?.unwrap_or_default();
            let is_allowed = |called: &Called| {
                allowed.iter().any(|one| match one["type"].as_str() {
                    Some("namespace") => one["name"].as_str() == called.namespace.as_deref(),
                    _ => one["name"] == called.name.as_str(),
                })
            };
            tools.retain(|tool| is_allowed(&tool.called));
            let mode = choice.string("mode")?.unwrap_or("auto");
            by_word(mode).ok_or_else(|| choice.error("mode", r#"must be "auto" or "required""#))
        }
        _ => Err(choice.error("type", "names a tool that the hive has not; only functions can be called")),
    }
}

/// What a call of a function of that name names. What is not offered goes to the client as the model wrote it.
pub(super) fn called(tools: &[Offered], function: &str) -> Called {
    let tool = tools.iter().find(|tool| tool.function.name == function);
    tool.map_or_else(|| Called { name: function.to_owned(), ..Called::default() }, |tool| tool.called.clone())
}

/// A call of an earlier answer.
pub(super) fn call(item: &Fields<'_>, arguments: String) -> Result<ToolCall, FieldError> {
    Ok(ToolCall {
        id: item.required("call_id")?.to_owned(),
        name: function_name(item.string("namespace")?, item.required("name")?),
        arguments,
    })
}

/// The arguments of the function of a custom tool.
pub(super) fn arguments(input: &str) -> String {
    json!({INPUT: input}).to_string()
}

/// The text that a custom tool gets: all that the model wrote where it is not as it should be.
pub(super) fn input(arguments: &str) -> String {
    let read = serde_json::from_str::<Value>(arguments).unwrap_or_default();
    read[INPUT].as_str().or(read.as_str()).unwrap_or(arguments).to_owned()
}

fn function_name(namespace: Option<&str>, name: &str) -> String {
    namespace.map_or_else(|| name.to_owned(), |namespace| format!("{namespace}__{name}"))
}

fn not_had(tool: &Fields<'_>, kind: &str) -> FieldError {
    let problem = format!(
        "is {kind:?}, a tool that the hive has not; only functions, which your program calls, can be tools"
    );
    tool.error("type", problem)
}

/// Adds the tools of a namespace. The first one also has what is said of them all.
fn namespace(
    namespace: &Fields<'_>,
    tools: &mut Vec<Offered>,
    ignored: &mut Vec<String>,
) -> Result<(), FieldError> {
    ignored.extend(namespace.others(&["type", "name", "description", "tools"]));
    let mut about = namespace.string("description")?.filter(|about| !about.is_empty());
    for tool in namespace.objects("tools")? {
        let tool = tool?;
        match tool.string("type")? {
            Some("function" | "custom") => {}
            other => return Err(not_had(&tool, other.unwrap_or_default())),
        }
        let mut offered = offered(&tool, Some(namespace.required("name")?), ignored)?;
        if let Some(about) = about.take() {
            let own = offered.function.description.unwrap_or_default();
            offered.function.description = Some(format!("{about}\n\n{own}"));
        }
        tools.push(offered);
    }
    Ok(())
}

fn offered(
    tool: &Fields<'_>,
    namespace: Option<&str>,
    ignored: &mut Vec<String>,
) -> Result<Offered, FieldError> {
    let name = tool.required("name")?;
    let is_custom = tool.string("type")? == Some("custom");
    let description = tool.string("description")?.map(str::to_owned);
    let function = Tool { name: function_name(namespace, name), description, ..Tool::default() };
    let function = if is_custom {
        ignored.extend(tool.others(&["type", "name", "description", "format", "defer_loading"]));
        custom(function, tool, ignored)?
    } else {
        // All tools are told to the model, also one that could wait until it is looked for.
        let known = ["type", "name", "description", "parameters", "strict", "defer_loading"];
        ignored.extend(tool.others(&known));
        Tool { parameters: tool.get("parameters").cloned(), strict: tool.bool("strict")?, ..function }
    };
    let called = Called { namespace: namespace.map(str::to_owned), name: name.to_owned(), is_custom };
    Ok(Offered { function, called })
}

/// The function of a custom tool. The model is told the grammar of its input, to which no engine holds it.
fn custom(mut function: Tool, tool: &Fields<'_>, ignored: &mut Vec<String>) -> Result<Tool, FieldError> {
    function.parameters = Some(json!({
        "type": "object", "properties": {INPUT: {"type": "string"}}, "required": [INPUT],
        "additionalProperties": false,
    }));
    let Some(format) = tool.object("format")? else { return Ok(function) };
    if let Some(grammar) = format.string("definition")? {
        ignored.push(tool.name("format"));
        let syntax = format.string("syntax")?.unwrap_or("lark");
        let about = function.description.unwrap_or_default();
        function.description =
            Some(format!("{about}\n\nThe {INPUT} follows this {syntax} grammar:\n{grammar}"));
    }
    Ok(function)
}
