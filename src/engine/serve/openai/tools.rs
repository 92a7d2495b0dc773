//! Reads the tools of a request: `tools` and `tool_choice`, or the older `functions` and `function_call`.

use serde_json::{Value, json};

use crate::engine::answer::Tool;
use crate::fields::{FieldError, Fields};

/// The tools that the answer may call.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Tools {
    /// In OpenAI's form.
    list: Vec<Value>,
    pub(crate) choice: ToolChoice,
    /// Whether the answer may have several calls.
    pub(crate) several: bool,
    /// Whether the request has the older fields, to which an older answer belongs.
    pub(crate) functions: bool,
}

/// Whether the answer calls a tool.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) enum ToolChoice {
    /// As the model likes.
    #[default]
    Auto,
    /// It calls none, and is shown none.
    None,
    /// It must call one.
    Required,
    /// It must call this one.
    Named(String),
}

impl Tools {
    /// Reads the fields.
    ///
    /// # Errors
    /// A field that is malformed, or asks for a tool that is not there.
    pub(super) fn read(fields: &Fields<'_>) -> Result<Self, FieldError> {
        let several = fields.bool("parallel_tool_calls")?;
        let sent = fields.array("tools")?.unwrap_or_default();
        let older = fields.array("functions")?.unwrap_or_default();
        if !sent.is_empty() && !older.is_empty() {
            return Err(fields.error("functions", "cannot be used together with `tools`"));
        }
        let functions = sent.is_empty() && (!older.is_empty() || fields.get("function_call").is_some());
        let (list, choice, name) = match functions {
            true => (
                older.iter().map(|function| json!({"type": "function", "function": function})).collect(),
                fields.get("function_call"),
                "function_call",
            ),
            false => (sent.to_vec(), fields.get("tool_choice"), "tool_choice"),
        };
        for (index, tool) in list.iter().enumerate() {
            check(if functions { "functions" } else { "tools" }, index, tool, functions)?;
        }
        // An older answer has room for one call.
        let tools = Self {
            list,
            choice: ToolChoice::Auto,
            several: several.unwrap_or(true) && !functions,
            functions,
        };
        let choice = choice.map_or(Ok(ToolChoice::Auto), |choice| read_choice(fields, name, choice))?;
        match &choice {
            ToolChoice::Required if tools.list.is_empty() => {
                Err(fields.error(name, "asks for a tool, and there is none"))
            }
            ToolChoice::Named(tool) if !tools.list.iter().any(|one| one["function"]["name"] == **tool) => {
                Err(fields.error(name, format_args!("names {tool:?}, which is none of the tools")))
            }
            _ => Ok(Self { choice, ..tools }),
        }
    }

    /// Those that the model is shown, in OpenAI's form.
    pub(crate) fn offered(&self) -> &[Value] {
        if self.choice == ToolChoice::None { &[] } else { &self.list }
    }

    /// Those that the answer may call.
    pub(crate) fn allowed(&self) -> Vec<Tool> {
        let functions = self.offered().iter().map(|tool| &tool["function"]);
        let tools = functions.filter_map(|function| {
            let parameters = function.get("parameters").filter(|parameters| !parameters.is_null());
            Some(Tool { name: function["name"].as_str()?.to_owned(), parameters: parameters.cloned() })
        });
        let chosen = |tool: &Tool| match &self.choice {
            ToolChoice::Named(name) => tool.name == *name,
            _ => true,
        };
        tools.filter(chosen).collect()
    }
}

fn check(list: &str, index: usize, tool: &Value, functions: bool) -> Result<(), FieldError> {
    let path = format!("{list}[{index}]");
    let fields = Fields::new(&path, tool)?;
    match fields.string("type")? {
        Some("function") => {}
        Some(other) => {
            return Err(
                fields.error("type", format_args!("is {other:?}; the built-in engine knows functions"))
            );
        }
        None => return Err(fields.error("type", "must be \"function\"")),
    }
    let path = if functions { path } else { format!("{path}.function") };
    let function = Fields::new(&path, fields.get("function").unwrap_or(&Value::Null))?;
    if function.string("name")?.is_none_or(str::is_empty) {
        return Err(function.error("name", "must be the name of the function"));
    }
    function.string("description")?;
    match function.get("parameters") {
        None | Some(Value::Object(_)) => Ok(()),
        Some(_) => Err(function.error("parameters", "must be a JSON Schema, which is an object")),
    }
}

fn read_choice(fields: &Fields<'_>, name: &str, choice: &Value) -> Result<ToolChoice, FieldError> {
    match choice {
        Value::String(choice) => {
            match choice.as_str() {
                "auto" => Ok(ToolChoice::Auto),
                "none" => Ok(ToolChoice::None),
                // `any` is Mistral's word.
                "required" | "any" if name == "tool_choice" => Ok(ToolChoice::Required),
                _ => Err(fields
                    .error(name, "must be none, auto, required or the name of a function in its object")),
            }
        }
        choice => {
            let object = Fields::new(name, choice)?;
            let named = match name {
                "function_call" => object.string("name")?,
                _ => match object.object("function")? {
                    Some(function) => function.string("name")?,
                    None => None,
                },
            };
            let missing = || fields.error(name, "must name a function");
            named.map(|named| ToolChoice::Named(named.to_owned())).ok_or_else(missing)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(body: &Value) -> Result<Tools, FieldError> {
        Tools::read(&Fields::new("", body).unwrap())
    }

    fn function(name: &str) -> Value {
        json!({"name": name, "parameters": {"type": "object"}})
    }

    fn tool(name: &str) -> Value {
        json!({"type": "function", "function": function(name)})
    }

    #[test]
    fn the_choice_says_which_tools_the_answer_may_call() {
        for (choice, offered, names, expected) in [
            (json!(null), 2, vec!["a", "b"], ToolChoice::Auto),
            (json!("none"), 0, vec![], ToolChoice::None),
            (json!("required"), 2, vec!["a", "b"], ToolChoice::Required),
            (
                json!({"type": "function", "function": {"name": "b"}}),
                2,
                vec!["b"],
                ToolChoice::Named("b".to_owned()),
            ),
        ] {
            let tools = read(&json!({"tools": [tool("a"), tool("b")], "tool_choice": choice})).unwrap();
            assert_eq!(
                (
                    tools.offered().len(),
                    tools.allowed().into_iter().map(|tool| tool.name).collect::<Vec<_>>()
                ),
                (offered, names.iter().map(|name| (*name).to_owned()).collect())
            );
            assert_eq!(tools.choice, expected);
            assert!(tools.several && !tools.functions);
        }
        let older = read(&json!({"functions": [function("a")], "function_call": {"name": "a"}})).unwrap();
        assert_eq!(older.offered(), [tool("a")]);
        assert!(older.functions && !older.several);
        assert!(read(&json!({"tools": [], "tool_choice": "auto"})).unwrap().offered().is_empty());
    }

    #[test]
    fn a_tool_or_a_choice_that_is_malformed_is_refused_by_name() {
        for (body, field) in [
            (json!({"tools": [1]}), "tools[0]"),
            (json!({"tools": [{"type": "web_search"}]}), "tools[0].type"),
            (json!({"tools": [{"type": "function"}]}), "tools[0].function"),
            (json!({"tools": [{"type": "function", "function": {}}]}), "tools[0].function.name"),
            (
                json!({"tools": [tool("a"), {"type": "function", "function": {"name": "b", "parameters": 1}}]}),
                "tools[1].function.parameters",
            ),
            (json!({"functions": [{}]}), "functions[0].name"),
            (json!({"tools": [tool("a")], "functions": [function("a")]}), "functions"),
            (json!({"tools": [tool("a")], "tool_choice": "often"}), "tool_choice"),
            (json!({"tools": [tool("a")], "tool_choice": {"type": "function"}}), "tool_choice"),
            (json!({"tools": [tool("a")], "tool_choice": {"function": {"name": "b"}}}), "tool_choice"),
            (json!({"tool_choice": "required"}), "tool_choice"),
            (json!({"tools": [tool("a")], "parallel_tool_calls": 1}), "parallel_tool_calls"),
        ] {
            assert_eq!(read(&body).unwrap_err().field, field, "{body}");
        }
    }
}
