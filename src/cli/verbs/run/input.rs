//! What a question is made of: arguments, standard input, images, and the form of its answer.

use std::io::{self, IsTerminal, Read};
use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use crate::cli::end::{End, Ended};
use crate::cli::words;
use crate::error::{Code, Failure};
use crate::files;

/// The largest image, in bytes: more than the hive takes in one request by default.
const LARGEST_IMAGE: u64 = 64 << 20;

/// What standard input has, where that is no terminal, and then the arguments. `None` where both are empty and there is
/// a terminal to talk in.
pub(super) fn prompt(arguments: &[String]) -> Ended<Option<String>> {
    let typed = arguments.join(" ");
    let is_terminal = io::stdin().is_terminal();
    let mut piped = String::new();
    if !is_terminal {
        io::stdin().lock().read_to_string(&mut piped).map_err(|error| {
            Failure::new(Code::Io, format!("could not read standard input: {error}"))
                .hint("it has to be UTF-8 text; --image takes images")
        })?;
    }
    match (piped.trim_end(), typed.trim()) {
        ("", "") if is_terminal && words::out_is_terminal() => Ok(None),
        ("", "") => {
            let failure = Failure::new(Code::InvalidField, "there is no prompt, and no terminal to talk in");
            Err(End::Usage(failure.hint("give the prompt as arguments or on standard input")))
        }
        (piped, "") => Ok(Some(piped.to_owned())),
        ("", _) => Ok(Some(typed)),
        (piped, _) => Ok(Some(format!("{piped}\n\n{typed}"))),
    }
}

/// An image as a part of a message, with its bytes in a data URL (RFC 2397).
pub(super) fn image(file: &Path) -> Ended<Value> {
    let bytes = files::read(file, LARGEST_IMAGE)
        .map_err(|error| End::Usage(Failure::io("read the image", file, &error).hint("check --image")))?;
    let Some(kind) = kind(&bytes) else {
        let failure = Failure::new(Code::InvalidField, format!("'{}' is no image", file.display()));
        return Err(End::Usage(failure.hint("--image takes PNG, JPEG, GIF and WebP")));
    };
    let url = format!("data:image/{kind};base64,{}", STANDARD.encode(&bytes));
    Ok(json!({ "type": "image_url", "image_url": { "url": url } }))
}

/// The kind of an image by its first bytes.
fn kind(bytes: &[u8]) -> Option<&'static str> {
    match bytes {
        [0x89, b'P', b'N', b'G', b'\r', b'\n', 0x1a, b'\n', ..] => Some("png"),
        [0xff, 0xd8, 0xff, ..] => Some("jpeg"),
        [b'G', b'I', b'F', b'8', b'7' | b'9', b'a', ..] => Some("gif"),
        [b'R', b'I', b'F', b'F', _, _, _, _, b'W', b'E', b'B', b'P', ..] => Some("webp"),
        _ => None,
    }
}

/// The `response_format` of OpenAI's API: JSON, or what the JSON Schema of a file says.
pub(super) fn format(text: &str) -> Ended<Value> {
    if text == "json" {
        return Ok(json!({ "type": "json_object" }));
    }
    let unusable =
        |failure: Failure| End::Usage(failure.hint("--format takes json, or a file with a JSON Schema"));
    let schema = files::read_text(text)
        .map_err(|error| unusable(Failure::io("read the JSON Schema", Path::new(text), &error)))?;
    let schema: Value = serde_json::from_str(&schema).map_err(|error| {
        unusable(Failure::new(Code::InvalidField, format!("'{text}' is no JSON: {error}")))
    })?;
    Ok(
        json!({ "type": "json_schema", "json_schema": { "name": "answer", "schema": schema, "strict": true } }),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_image_is_known_by_its_first_bytes() {
        for (bytes, known) in [
            (&b"\x89PNG\r\n\x1a\nrest"[..], Some("png")),
            (b"\xff\xd8\xff\xe0", Some("jpeg")),
            (b"GIF89a", Some("gif")),
            (b"RIFF\0\0\0\0WEBPVP8 ", Some("webp")),
            (b"RIFF\0\0\0\0WAVE", None),
            (b"<svg>", None),
        ] {
            assert_eq!(kind(bytes), known, "{bytes:?}");
        }
    }

    #[test]
    fn a_form_is_json_or_a_schema() {
        assert_eq!(format("json").unwrap(), json!({"type": "json_object"}));
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), r#"{"type":"object"}"#).unwrap();
        let form = format(file.path().to_str().unwrap()).unwrap();
        assert_eq!(form["json_schema"]["schema"], json!({"type": "object"}));
        std::fs::write(file.path(), "no").unwrap();
        assert_eq!(format(file.path().to_str().unwrap()).unwrap_err().status(), 2);
        assert_eq!(format("/nonexistent").unwrap_err().status(), 2);
    }
}
