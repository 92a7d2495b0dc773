//! The table of the fields that a request may have, and what becomes of each.

use serde_json::{Value, json};

use crate::fields::{FieldError, Fields};

/// What becomes of a field.
#[derive(Clone, Copy)]
enum Treatment {
    /// The request's reader reads it.
    Applied,
    /// It changes nothing about the answer: a name, a note or a hint to a scheduler or a cache.
    Noted,
    /// It has no effect, unless its value asks for what happens without it.
    Told(fn(&Value) -> bool),
    /// It is refused for this reason, unless its value asks for what happens without it.
    Refused(fn(&Value) -> bool, &'static str),
}

use Treatment::{Applied, Noted, Refused, Told};

/// Sampling, under the names that engines take: OpenAI's, then llama.cpp's, which clients add.
pub(super) const SAMPLING: [&str; 10] = [
    "temperature",
    "top_p",
    "top_k",
    "min_p",
    "seed",
    "frequency_penalty",
    "presence_penalty",
    "repeat_penalty",
    "repetition_penalty",
    "logit_bias",
];

/// The fields whose values the answer repeats, or has as `null`.
pub(super) const REPEATED: [&str; 5] =
    ["metadata", "user", "prompt_cache_key", "prompt_cache_retention", "safety_identifier"];

const FIELDS: &[(&str, Treatment)] = &[
    ("model", Applied),
    ("input", Applied),
    ("instructions", Applied),
    ("previous_response_id", Applied),
    ("tools", Applied),
    ("tool_choice", Applied),
    ("parallel_tool_calls", Applied),
    ("text", Applied),
    ("reasoning", Applied),
    ("max_output_tokens", Applied),
    ("top_logprobs", Applied),
    ("include", Applied),
    ("stream", Applied),
    ("store", Applied),
    // Of chat completions, which clients add.
    ("stop", Applied),
    // Ollama's field, which the gateway reads.
    ("keep_alive", Applied),
    ("metadata", Noted),
    // What Codex notes of its sessions.
    ("client_metadata", Noted),
    ("user", Noted),
    ("prompt_cache_key", Noted),
    ("prompt_cache_retention", Noted),
    ("safety_identifier", Noted),
    // The streams of the hive have no obfuscation.
    ("stream_options", Told(|value| *value == json!({"include_obfuscation": false}) || *value == json!({}))),
    ("truncation", Told(|value| value == "disabled")),
    ("service_tier", Told(|value| value == "auto" || value == "default")),
    // It counts the calls of built-in tools, of which there are none.
    ("max_tool_calls", Noted),
    (
        "background",
        Refused(|value| value == false, "asks for a response in the background; ask for a stream"),
    ),
    (
        "conversation",
        Refused(|_| false, "names a stored conversation, which the hive has not; use `previous_response_id`"),
    ),
    (
        "prompt",
        Refused(|_| false, "names a stored prompt, which the hive has not; send its text as `instructions`"),
    ),
    ("context_management", Refused(is_empty, "asks to shorten the conversation, which the hive never does")),
    ("moderation", Refused(|_| false, "asks for moderation, which the hive has not")),
];

fn is_empty(value: &Value) -> bool {
    value.as_array().is_some_and(Vec::is_empty)
}

/// Refuses what cannot be done, and names what has no effect in `ignored`.
///
/// # Errors
/// The first field that asks for something that cannot be done.
pub(super) fn check(fields: &Fields<'_>, ignored: &mut Vec<String>) -> Result<(), FieldError> {
    for (name, value) in fields.present() {
        match FIELDS.iter().find(|(known, _)| *known == name).map(|(_, treatment)| *treatment) {
            Some(Applied | Noted) => {}
            Some(Told(is_harmless) | Refused(is_harmless, _)) if is_harmless(value) => {}
            Some(Refused(_, why)) => return Err(fields.error(name, why)),
            None if SAMPLING.contains(&name) => {}
            Some(Told(_)) | None => ignored.push(name.to_owned()),
        }
    }
    Ok(())
}
