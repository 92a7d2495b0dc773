//! The tables of the fields that requests may have, and what becomes of each.

use serde_json::Value;

use crate::fields::{FieldError, Fields, is_empty};

/// What becomes of a field.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Treatment {
    /// The request's parser reads it.
    Applied,
    /// It is refused, unless its value asks for what happens without it.
    Refused(Harmless),
    /// It changes nothing about the answer's text: a name, a note or a hint to a scheduler or a cache.
    Ignored,
}

/// The values of an unsupported field that ask for nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Harmless {
    /// No value but `null`.
    Nothing,
    /// `false`.
    False,
    /// `true`.
    True,
    /// 0, or what is smaller.
    Zero,
    /// 1.
    One,
    /// An empty array, object or string.
    Empty,
    /// `{"type": "text"}`, `"text"` or `["text"]`.
    Text,
}

use Harmless::{Empty, False, Nothing, One, Text, True, Zero};
use Treatment::{Applied, Ignored, Refused};

/// A field and what becomes of it.
pub(super) type Row = (&'static str, Treatment);

/// Every known field of a chat completion: OpenAI's first, then llama.cpp's and vLLM's.
pub(super) const CHAT: &[Row] = &[
    ("model", Applied),
    ("messages", Applied),
    ("max_tokens", Applied),
    ("max_completion_tokens", Applied),
    ("temperature", Applied),
    ("top_p", Applied),
    ("seed", Applied),
    ("stop", Applied),
    ("stream", Applied),
    ("stream_options", Applied),
    ("frequency_penalty", Applied),
    ("presence_penalty", Applied),
    ("logit_bias", Applied),
    ("reasoning_effort", Applied),
    ("thinking_budget_tokens", Applied),
    ("n", Applied),
    ("tools", Applied),
    ("functions", Applied),
    ("tool_choice", Applied),
    ("function_call", Applied),
    ("response_format", Applied),
    ("logprobs", Applied),
    ("top_logprobs", Applied),
    ("modalities", Refused(Text)),
    ("audio", Refused(Nothing)),
    ("web_search_options", Refused(Nothing)),
    ("moderation", Refused(Nothing)),
    ("user", Ignored),
    ("metadata", Ignored),
    ("store", Ignored),
    ("service_tier", Ignored),
    ("safety_identifier", Ignored),
    ("prompt_cache_key", Ignored),
    ("prompt_cache_retention", Ignored),
    ("prompt_cache_options", Ignored),
    ("parallel_tool_calls", Applied),
    // It makes an answer faster, not different.
    ("prediction", Ignored),
    // A wish about the length, for models that were trained for it.
    ("verbosity", Ignored),
    ("n_predict", Applied),
    ("top_k", Applied),
    ("min_p", Applied),
    ("repetition_penalty", Applied),
    ("repeat_penalty", Applied),
    ("chat_template_kwargs", Applied),
    ("grammar", Refused(Empty)),
    ("json_schema", Applied),
    ("guided_json", Applied),
    ("guided_regex", Applied),
    ("guided_choice", Applied),
    ("guided_grammar", Refused(Empty)),
    ("structured_outputs", Applied),
    ("chat_template", Refused(Empty)),
    ("documents", Refused(Empty)),
    ("lora", Refused(Empty)),
    ("samplers", Refused(Empty)),
    ("bad_words", Refused(Empty)),
    ("stop_token_ids", Refused(Empty)),
    ("best_of", Refused(One)),
    ("typical_p", Refused(One)),
    ("mirostat", Refused(Zero)),
    ("top_n_sigma", Refused(Zero)),
    ("dynatemp_range", Refused(Zero)),
    ("xtc_probability", Refused(Zero)),
    ("dry_multiplier", Refused(Zero)),
    ("min_tokens", Refused(Zero)),
    ("n_probs", Refused(Zero)),
    ("prompt_logprobs", Refused(Zero)),
    ("truncate_prompt_tokens", Refused(Zero)),
    ("length_penalty", Refused(One)),
    ("use_beam_search", Refused(False)),
    ("ignore_eos", Applied),
    ("echo", Refused(False)),
    ("continue_final_message", Refused(False)),
    ("add_generation_prompt", Refused(True)),
    ("cache_prompt", Ignored),
    ("id_slot", Ignored),
    ("timings_per_token", Ignored),
    ("return_progress", Ignored),
    ("priority", Ignored),
    ("request_id", Ignored),
    ("keep_alive", Ignored),
];

/// The fields of a completion that differ from those of a chat completion.
pub(super) const COMPLETION: &[Row] = &[
    ("prompt", Applied),
    ("echo", Applied),
    ("suffix", Refused(Empty)),
    ("messages", Refused(Empty)),
    ("tools", Refused(Empty)),
    ("functions", Refused(Empty)),
    ("tool_choice", Refused(Nothing)),
    ("function_call", Refused(Nothing)),
    ("parallel_tool_calls", Ignored),
    ("top_logprobs", Refused(Zero)),
    ("reasoning_effort", Ignored),
    ("thinking_budget_tokens", Ignored),
    ("chat_template_kwargs", Refused(Empty)),
];

/// The fields of a request for embeddings.
pub(super) const EMBEDDING: &[Row] = &[
    ("model", Applied),
    ("input", Applied),
    ("encoding_format", Applied),
    ("dimensions", Applied),
    ("truncate_prompt_tokens", Refused(Zero)),
    ("embd_normalize", Refused(Nothing)),
    ("user", Ignored),
    ("priority", Ignored),
    ("keep_alive", Ignored),
];

/// Refuses what this worker does not support. Returns the fields that nothing is known of. Of two rows, that of
/// the first table holds.
///
/// # Errors
/// The first field that asks for something else, with an engine that may have it.
pub(super) fn check(fields: &Fields<'_>, tables: &[&[Row]]) -> Result<Vec<String>, FieldError> {
    let mut unknown = Vec::new();
    for (name, value) in fields.present() {
        match tables.iter().copied().flatten().find(|(known, _)| *known == name) {
            Some((_, Refused(harmless))) if !harmless.covers(value) => {
                return Err(fields.error(
                    name,
                    "is not supported by the built-in engine; llama.cpp's server, described in \
                     docs/CONFIGURATION.md, supports more",
                ));
            }
            Some(_) => {}
            None => unknown.push(name.chars().take(64).collect()),
        }
    }
    Ok(unknown)
}

impl Harmless {
    fn covers(self, value: &Value) -> bool {
        match self {
            Nothing => false,
            False => value == &Value::Bool(false),
            True => value == &Value::Bool(true),
            Zero => value.as_f64().is_some_and(|number| number <= 0.0),
            One => value.as_f64() == Some(1.0),
            Empty => is_empty(value),
            Text => match value {
                Value::Array(items) => items.iter().all(|item| item == "text"),
                Value::Object(fields) => fields.get("type").is_some_and(|kind| kind == "text"),
                other => other == "text",
            },
        }
    }
}

#[cfg(test)]
pub(super) mod tests {
    use serde_json::json;

    use super::*;

    /// Checks each row of a table against the parser, which returns the field at fault. `asks` is a value that
    /// asks for something; what is applied is checked, and nothing takes an array with an empty object.
    pub(in super::super) fn assert_true(
        table: &[Row],
        asks: impl Fn(&str) -> Value,
        parse: impl Fn(&str, Value) -> Result<(), String>,
    ) {
        for (name, treatment) in table {
            match treatment {
                Refused(harmless) => {
                    let error = parse(name, asks(name)).expect_err(name);
                    assert!(error.contains(name) && error.contains("llama.cpp"), "{error}");
                    let nothing = match harmless {
                        Nothing => json!(null),
                        False => json!(false),
                        True => json!(true),
                        Zero => json!(0),
                        One => json!(1),
                        Empty => json!([]),
                        Text => json!({"type": "text"}),
                    };
                    parse(name, nothing).expect(name);
                }
                Applied => assert!(parse(name, json!([{}])).is_err(), "{name}"),
                Ignored => parse(name, json!([{}])).expect(name),
            }
        }
    }
}
