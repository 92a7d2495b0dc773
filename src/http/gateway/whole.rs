//! Answers of one JSON value, read to their end before they are passed on: half of one would look like a
//! defect of the client's.

use bytes::{Bytes, BytesMut};
use serde::de::IgnoredAny;
use serde_json::{Value, json};

use super::exchange::{Answer, NoAnswer, not_valid};
use crate::error::{Code, Failure};

/// The longest answer, in bytes: embeddings of many texts are the longest.
const MAX_ANSWER: usize = 256 << 20;

/// Reads the whole answer.
///
/// # Errors
/// Those of [`Answer::chunk`], and [`Code::WorkerError`] for an answer that is empty, is not JSON or is too
/// long.
pub(super) async fn read(answer: &mut Answer) -> Result<Bytes, NoAnswer> {
    let mut body = BytesMut::new();
    while let Some(chunk) = answer.chunk().await? {
        body.extend_from_slice(&chunk);
        if body.len() > MAX_ANSWER {
            return Err(not_valid(answer.pid, format_args!("with more than {} MiB", MAX_ANSWER >> 20)));
        }
    }
    let status = answer.status.as_u16();
    if body.iter().all(u8::is_ascii_whitespace) {
        return Err(not_valid(answer.pid, format_args!("{status} with nothing")));
    }
    if let Err(error) = serde_json::from_slice::<IgnoredAny>(&body) {
        let failure: Failure =
            not_valid(answer.pid, format_args!("{status} with JSON that breaks off")).into();
        return Err(NoAnswer::Invalid(failure.detail(error)));
    }
    let body = body.freeze();
    Ok(if answer.status.is_client_error() { in_openais_words(body) } else { body })
}

/// A prompt that is too long has one code and type at OpenAI, which client libraries look for, and others in
/// llama.cpp and vLLM. Their message, with the numbers, stays.
fn in_openais_words(body: Bytes) -> Bytes {
    let Ok(mut answer) = serde_json::from_slice::<Value>(&body) else { return body };
    // vLLM's older versions have the fields of the error at the top.
    let error = if answer["error"].is_object() { &answer["error"] } else { &answer };
    let message = error["message"].as_str().unwrap_or_default().to_owned();
    let too_long = error["type"] == "exceed_context_size_error" || message.contains("maximum context length");
    if !too_long || error["code"] == Code::ContextLengthExceeded.name() {
        return body;
    }
    answer["error"]["message"] = message.into();
    answer["error"]["type"] = json!("invalid_request_error");
    answer["error"]["code"] = json!(Code::ContextLengthExceeded.name());
    answer["error"]["param"] = json!("messages");
    answer.to_string().into()
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
            let bytes = in_openais_words(body.to_string().into());
            let error: Value = serde_json::from_slice(&bytes).unwrap();
            let error = &error["error"];
            assert_eq!(
                (&error["code"], &error["type"]),
                (&json!("context_length_exceeded"), &json!("invalid_request_error"))
            );
            assert!(error["message"].as_str().unwrap().contains("9 tokens"), "{error}");
        }
        let other = Bytes::from(r#"{"error": {"message":"no", "code":400}}"#);
        assert_eq!(in_openais_words(other.clone()), other, "byte for byte");
    }
}
