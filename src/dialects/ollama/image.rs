//! Images, which Ollama's clients send in Base64 without saying what they are.

use crate::fields::FieldError;

/// How the first bytes of each kind read in Base64.
const KINDS: [(&str, &str); 5] = [
    ("iVBORw0KGgo", "image/png"),
    ("/9j/", "image/jpeg"),
    ("R0lGOD", "image/gif"),
    ("UklGR", "image/webp"),
    ("Qk", "image/bmp"),
];

/// The image as an address (RFC 2397).
pub(super) fn address(field: &str, text: &str) -> Result<String, FieldError> {
    if text.starts_with("data:") {
        return Ok(text.to_owned());
    }
    let kind = KINDS.iter().find(|(beginning, _)| text.starts_with(beginning));
    kind.map(|(_, kind)| format!("data:{kind};base64,{text}"))
        .ok_or_else(|| FieldError::new(field, "must be a PNG, JPEG, GIF, WebP or BMP image in Base64"))
}
