//! Answers of one JSON value, read to their end before they are passed on: half of one would look like a
//! defect of the client's.

use axum::http::StatusCode;
use bytes::{Bytes, BytesMut};
use serde::de::IgnoredAny;
use serde_json::{Value, json};

use super::exchange::{Answer, NoAnswer, invalid, not_valid};
use crate::error::Code;

/// The longest answer, in bytes: embeddings of many texts are the longest.
pub(super) const MAX_ANSWER: usize = 256 << 20;

/// Reads the whole answer, of at most so many bytes.
///
/// # Errors
/// Those of [`Answer::chunk`], and [`Code::WorkerError`] for an answer that is empty, is not JSON or is too
/// long.
pub(super) async fn read(answer: &mut Answer, most: usize) -> Result<Bytes, NoAnswer> {
    let mut body = BytesMut::new();
    while let Some(chunk) = answer.chunk().await? {
        body.extend_from_slice(&chunk);
        if body.len() > most {
            return Err(not_valid(&answer.by, format_args!("with more than {} MiB", most >> 20)));
        }
    }
    let status = answer.status.as_u16();
    if body.iter().all(u8::is_ascii_whitespace) {
        return Err(not_valid(&answer.by, format_args!("{status} with nothing")));
    }
    if let Err(error) = serde_json::from_slice::<IgnoredAny>(&body) {
        let failure = invalid(&answer.by, format_args!("{status} with JSON that breaks off"));
        return Err(NoAnswer::Invalid(failure.detail(error)));
    }
    let body = body.freeze();
    if answer.status.is_success() {
        return Ok(body);
    }
    let Some(told) = too_long(&body) else { return Ok(body) };
    answer.status = StatusCode::BAD_REQUEST;
    Ok(told)
}

/// The error for a prompt or a text that is too long, in OpenAI's words; `None` for any other. It has one code and
/// type at OpenAI, which client libraries look for, and others in llama.cpp and vLLM. Their message, with the numbers,
/// stays.
fn too_long(body: &[u8]) -> Option<Bytes> {
    let mut answer = serde_json::from_slice::<Value>(body).ok()?;
    // vLLM's older versions have the fields of the error at the top.
    let error = if answer["error"].is_object() { &answer["error"] } else { &answer };
    let mut message = error["message"].as_str().unwrap_or_default().to_owned();
    let mut param = "messages";
    // llama.cpp's, for a text that is embedded or ranked. The hive makes that batch as large as the context.
    if let Some((what, _)) = message.split_once(" is too large to process. increase the physical batch size")
    {
        message = format!(
            "{what} is longer than the context: send a shorter text, or load the model with a larger context_length"
        );
        param = "input";
    } else if error["type"] != "exceed_context_size_error" && !message.contains("maximum context length") {
        return None;
    }
    if error["code"] == Code::ContextLengthExceeded.name() {
        return None;
    }
    answer["error"]["message"] = message.into();
    answer["error"]["type"] = json!("invalid_request_error");
    answer["error"]["code"] = json!(Code::ContextLengthExceeded.name());
    answer["error"]["param"] = json!(param);
    Some(answer.to_string().into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prompt_that_is_too_long_has_openais_code_from_every_engine() {
        for body in [
            json!({"error": {"code": 400, "message": "the request exceeds the available context size (9 tokens)",
                             "type": "exceed_context_size_error", "n_prompt_tokens": 12, "n_ctx": 9}}),
            json!({"error": {"message": "This model's maximum context length is 9 tokens.", "code": 400}}),
            json!({"object": "error", "message": "This model's maximum context length is 9 tokens."}),
        ] {
            let bytes = too_long(body.to_string().as_bytes()).unwrap();
            let error: Value = serde_json::from_slice(&bytes).unwrap();
            let error = &error["error"];
            assert_eq!(
                (&error["code"], &error["type"]),
                (&json!("context_length_exceeded"), &json!("invalid_request_error"))
            );
            assert!(error["message"].as_str().unwrap().contains("9 tokens"), "{error}");
        }
        assert_eq!(too_long(br#"{"error": {"message":"no", "code":400}}"#), None);
    }
}
