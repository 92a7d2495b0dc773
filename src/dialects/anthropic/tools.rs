//! The tools of a request, and whether they are to be called.

use super::known::Ignored;
use crate::dialects::chat::{Tool, ToolChoice};
use crate::fields::{FieldError, Fields};

pub(super) fn read(fields: &Fields<'_>, ignored: &mut Ignored) -> Result<Vec<Tool>, FieldError> {
    fields.objects("tools")?.map(|fields| tool(&fields?, ignored)).collect()
}

fn tool(fields: &Fields<'_>, ignored: &mut Ignored) -> Result<Tool, FieldError> {
    if let Some(kind) = fields.string("type")?.filter(|kind| *kind != "custom") {
        let problem = format!(
            "is {kind:?}, a tool of Anthropic's own service; send a tool with a name and an input_schema"
        );
        return Err(fields.error("type", problem));
    }
    // All tools are told to the model, also one that could wait until it is looked for.
    let known =
        ["type", "name", "description", "input_schema", "strict", "eager_input_streaming", "defer_loading"];
    ignored.others("tools", fields, &known);
    let name = fields.string("name")?.filter(|name| !name.is_empty());
    let schema = fields.get("input_schema").filter(|schema| schema.is_object());
    Ok(Tool {
        name: name.ok_or_else(|| fields.error("name", "must name the tool"))?.to_owned(),
        description: fields.string("description")?.map(str::to_owned),
        parameters: Some(
            schema.ok_or_else(|| fields.error("input_schema", "must be a JSON Schema"))?.clone(),
        ),
        strict: fields.bool("strict")?,
    })
}

/// Whether tools are called, and whether several at once may be.
pub(super) fn choice(
    fields: &Fields<'_>,
    tools: &[Tool],
    ignored: &mut Ignored,
) -> Result<(ToolChoice, Option<bool>), FieldError> {
    let Some(choice) = fields.object("tool_choice")? else { return Ok((ToolChoice::Auto, None)) };
    ignored.others("tool_choice", &choice, &["type", "name", "disable_parallel_tool_use"]);
    let of_tools = match choice.string("type")? {
        Some("auto") => ToolChoice::Auto,
        Some("any") => ToolChoice::Required,
        Some("none") => ToolChoice::Never,
        Some("tool") => match choice.string("name")? {
            Some(name) if tools.iter().any(|tool| tool.name == name) => ToolChoice::Named(name.to_owned()),
            _ => return Err(choice.error("name", "must be the name of one of the tools")),
        },
        _ => return Err(choice.error("type", "must be auto, any, tool or none")),
    };
    let parallel = choice.bool("disable_parallel_tool_use")?.map(|disable| !disable);
    Ok((of_tools, parallel))
}
