//! Blocks that become parts of a message: text, images, documents.

use serde_json::Value;

use super::known::Ignored;
use crate::dialects::chat::Part;
use crate::fields::{FieldError, Fields};

/// The parts of a block: several where a document has images.
pub(super) fn parts(block: &Fields<'_>, ignored: &mut Ignored) -> Result<Vec<Part>, FieldError> {
    match block.string("type")? {
        Some("text") => {
            ignored.others("text", block, &["type", "text", "citations"]);
            Ok(vec![Part::Text(text(block, "text")?.to_owned())])
        }
        Some("image") => {
            ignored.others("image", block, &["type", "source"]);
            Ok(vec![Part::Image(image(&source(block)?)?)])
        }
        Some("document") => document(block, ignored),
        Some("search_result") => {
            ignored.others("search_result", block, &["type", "source", "title", "content"]);
            titled(block, &["title", "source"], content(block, ignored)?)
        }
        Some("tool_reference") => {
            let name = text(block, "tool_name")?;
            Ok(vec![Part::Text(format!("The tool {name} can be called."))])
        }
        Some(other) => {
            let problem = format!(
                "is {other:?}, which only Anthropic's own service knows; send text, images, results of \
                 tools or documents of plain text"
            );
            Err(block.error("type", problem))
        }
        None => Err(block.error("type", "must name the kind of the block")),
    }
}

/// A field that must be a string.
pub(super) fn text<'a>(block: &Fields<'a>, key: &str) -> Result<&'a str, FieldError> {
    block.string(key)?.ok_or_else(|| block.error(key, "must be a string"))
}

fn source<'a>(block: &Fields<'a>) -> Result<Fields<'a>, FieldError> {
    Fields::new(&block.name("source"), block.get("source").unwrap_or(&Value::Null))
}

/// The address of an image.
fn image(source: &Fields<'_>) -> Result<String, FieldError> {
    match source.string("type")? {
        Some("base64") => {
            Ok(format!("data:{};base64,{}", text(source, "media_type")?, text(source, "data")?))
        }
        Some("url") => Ok(text(source, "url")?.to_owned()),
        Some(other) => {
            let problem =
                format!("is {other:?}, and the hive keeps no files; send the image as base64 or url");
            Err(source.error("type", problem))
        }
        None => Err(source.error("type", "must be base64 or url")),
    }
}

fn document(block: &Fields<'_>, ignored: &mut Ignored) -> Result<Vec<Part>, FieldError> {
    ignored.others("document", block, &["type", "source", "title", "context"]);
    let source = source(block)?;
    let parts = match source.string("type")? {
        Some("text") => vec![Part::Text(text(&source, "data")?.to_owned())],
        Some("content") => content(&source, ignored)?,
        Some(other) => {
            let problem = format!(
                "is {other:?}, and the hive reads no PDF and keeps no files; send the document as text"
            );
            return Err(source.error("type", problem));
        }
        None => return Err(source.error("type", "must be text or content")),
    };
    titled(block, &["title", "context"], parts)
}

/// The parts after what is said about them.
fn titled(block: &Fields<'_>, about: &[&str], parts: Vec<Part>) -> Result<Vec<Part>, FieldError> {
    let mut all = Vec::new();
    for name in about {
        all.extend(block.string(name)?.map(|text| Part::Text(text.to_owned())));
    }
    all.extend(parts);
    Ok(all)
}

/// The content of a document: a string, or blocks of text and images.
fn content(fields: &Fields<'_>, ignored: &mut Ignored) -> Result<Vec<Part>, FieldError> {
    if let Some(text) = fields.get("content").and_then(Value::as_str) {
        return Ok(vec![Part::Text(text.to_owned())]);
    }
    let mut all = Vec::new();
    for block in fields.objects("content")? {
        let block = block?;
        match block.string("type")? {
            Some("text" | "image") => all.extend(parts(&block, ignored)?),
            _ => return Err(block.error("type", "must be text or image")),
        }
    }
    Ok(all)
}
