//! Parses the request of a chat completion.

use axum::http::StatusCode;
use serde_json::Value;

use super::error::ApiError;
use super::fields::Fields;
use crate::engine::sampling::SamplingParams;
use crate::engine::template::{Message, Role};
use crate::error::Code;

/// Most stop strings of a request.
const MAX_STOPS: usize = 16;
/// Longest stop string, in bytes.
const MAX_STOP_BYTES: usize = 1024;

/// Lower temperatures become 0, which is greedy: logits divided by them would overflow.
const MIN_TEMPERATURE: f32 = 1e-4;

/// A valid request. Only the model can still refuse it.
#[derive(Debug)]
pub(crate) struct ChatRequest {
    pub(crate) messages: Vec<Message>,
    pub(crate) sampling: SamplingParams,
    pub(crate) max_tokens: Option<usize>,
    pub(crate) stop: Vec<String>,
    pub(crate) stream: bool,
    /// Whether a stream ends with a chunk of usage.
    pub(crate) include_usage: bool,
}

impl ChatRequest {
    pub(crate) fn parse(body: &[u8]) -> Result<Self, ApiError> {
        let body: Value = serde_json::from_slice(body).map_err(|error| {
            ApiError::new(
                StatusCode::BAD_REQUEST,
                Code::InvalidJson.name(),
                format!("the body is not valid JSON: {error}"),
            )
        })?;
        let fields = Fields::new("", &body)?;
        refuse_unsupported(&fields)?;
        // The gateway routes by this field; a worker has only one model.
        fields.string("model")?;
        let stream = fields.bool("stream")?.unwrap_or(false);
        let include_usage = match fields.get("stream_options") {
            Some(_) if !stream => {
                return Err(fields.error("stream_options", "is allowed only where `stream` is true"));
            }
            Some(options) => Fields::new("stream_options", options)?.bool("include_usage")?.unwrap_or(false),
            None => false,
        };
        let max_tokens = match fields.whole_number("max_completion_tokens", 1)? {
            Some(tokens) => Some(tokens),
            None => fields.whole_number("max_tokens", 1)?,
        };
        Ok(Self {
            messages: messages(&fields)?,
            sampling: sampling(&fields)?,
            // A limit that is larger than the context is no error: the full context ends the answer.
            max_tokens: max_tokens.map(|tokens| usize::try_from(tokens).unwrap_or(usize::MAX)),
            stop: stop(&fields)?,
            stream,
            include_usage,
        })
    }
}

/// Fields of OpenAI's API that this worker does not support.
const UNSUPPORTED: [&str; 10] = [
    "tools",
    "functions",
    "tool_choice",
    "function_call",
    "response_format",
    "logprobs",
    "top_logprobs",
    "modalities",
    "audio",
    "web_search_options",
];

/// Whether the value asks for what the worker does without the field.
fn is_harmless(key: &str, value: &Value) -> bool {
    match key {
        "tools" | "functions" => value.as_array().is_some_and(Vec::is_empty),
        "tool_choice" | "function_call" => matches!(value.as_str(), Some("none" | "auto")),
        "response_format" => value.get("type").and_then(Value::as_str) == Some("text"),
        "logprobs" => value == &Value::Bool(false),
        "top_logprobs" => value.as_u64() == Some(0),
        "modalities" => value.as_array().is_some_and(|all| all.iter().all(|one| one == "text")),
        _ => false,
    }
}

/// Refuses unsupported fields, unless their value is harmless.
fn refuse_unsupported(fields: &Fields<'_>) -> Result<(), ApiError> {
    for key in UNSUPPORTED {
        if fields.get(key).is_some_and(|value| !is_harmless(key, value)) {
            return Err(fields.error(key, "is not supported by the built-in engine"));
        }
    }
    match fields.whole_number("n", 1)? {
        None | Some(1) => Ok(()),
        Some(n) => Err(fields.error("n", format_args!("is {n}; the built-in engine gives only one answer"))),
    }
}

fn messages(fields: &Fields<'_>) -> Result<Vec<Message>, ApiError> {
    let messages = fields.array("messages")?.unwrap_or_default();
    if messages.is_empty() {
        return Err(fields.error("messages", "must be an array with at least one message"));
    }
    messages
        .iter()
        .enumerate()
        .map(|(index, message)| {
            let fields = Fields::new(&format!("messages[{index}]"), message)?;
            let role = match fields.string("role")? {
                Some("system" | "developer") => Role::System,
                Some("user") => Role::User,
                Some("assistant") => Role::Assistant,
                Some("tool") => Role::Tool,
                _ => {
                    let problem = "must be system, developer, user, assistant or tool";
                    return Err(fields.error("role", problem));
                }
            };
            if fields
                .get("tool_calls")
                .is_some_and(|calls| calls.as_array().is_none_or(|all| !all.is_empty()))
            {
                return Err(fields.error("tool_calls", "is not supported by the built-in engine"));
            }
            let content = match fields.get("content") {
                None if role == Role::Assistant => String::new(),
                Some(Value::String(text)) => text.clone(),
                Some(Value::Array(parts)) => text_parts(&fields.name("content"), parts)?,
                _ => return Err(fields.error("content", "must be a string or an array of text parts")),
            };
            Ok(Message { role, content, name: fields.string("name")?.map(str::to_owned) })
        })
        .collect()
}

fn text_parts(path: &str, parts: &[Value]) -> Result<String, ApiError> {
    let mut text = String::new();
    for (index, part) in parts.iter().enumerate() {
        let fields = Fields::new(&format!("{path}[{index}]"), part)?;
        match fields.string("type")? {
            Some("text") => {}
            Some(other) => {
                return Err(fields.error("type", format_args!("is {other:?}; only text is supported")));
            }
            None => return Err(fields.error("type", "must be \"text\"")),
        }
        text.push_str(fields.string("text")?.ok_or_else(|| fields.error("text", "must be a string"))?);
    }
    Ok(text)
}

fn sampling(fields: &Fields<'_>) -> Result<SamplingParams, ApiError> {
    let default = SamplingParams::default();
    let temperature = fields.number("temperature", 0.0, 2.0)?.unwrap_or(default.temperature);
    let repetition_penalty = match fields.number("repetition_penalty", 0.01, 10.0)? {
        Some(penalty) => Some(penalty),
        // llama.cpp's name for the same parameter.
        None => fields.number("repeat_penalty", 0.01, 10.0)?,
    };
    Ok(SamplingParams {
        temperature: if temperature < MIN_TEMPERATURE { 0.0 } else { temperature },
        top_k: fields
            .whole_number("top_k", 0)?
            .map_or(default.top_k, |top_k| usize::try_from(top_k).unwrap_or(usize::MAX)),
        top_p: fields.number("top_p", 0.0, 1.0)?.unwrap_or(default.top_p),
        min_p: fields.number("min_p", 0.0, 1.0)?.unwrap_or(default.min_p),
        seed: seed(fields)?,
        repetition_penalty: repetition_penalty.unwrap_or(default.repetition_penalty),
        frequency_penalty: fields.number("frequency_penalty", -2.0, 2.0)?.unwrap_or(0.0),
        presence_penalty: fields.number("presence_penalty", -2.0, 2.0)?.unwrap_or(0.0),
        logit_bias: logit_bias(fields)?,
    })
}

/// Any 64-bit integer, signed (as OpenAI's) or unsigned.
fn seed(fields: &Fields<'_>) -> Result<Option<u64>, ApiError> {
    let Some(value) = fields.get("seed") else { return Ok(None) };
    value
        .as_u64()
        .or_else(|| value.as_i64().map(i64::cast_unsigned))
        .map(Some)
        .ok_or_else(|| fields.error("seed", "must be a 64-bit integer"))
}

fn logit_bias(fields: &Fields<'_>) -> Result<Vec<(u32, f32)>, ApiError> {
    let Some(value) = fields.get("logit_bias") else { return Ok(Vec::new()) };
    let biases = Fields::new("logit_bias", value)?;
    let object = value.as_object().into_iter().flatten();
    object
        .map(|(token, _)| {
            let id = token.parse().map_err(|_| biases.error(token, "is not a token id"))?;
            Ok((id, biases.number(token, -100.0, 100.0)?.unwrap_or(0.0)))
        })
        .collect()
}

fn stop(fields: &Fields<'_>) -> Result<Vec<String>, ApiError> {
    let problem = "must be a string or an array of strings";
    let stops: Vec<String> = match fields.get("stop") {
        None => Vec::new(),
        Some(Value::String(stop)) => vec![stop.clone()],
        Some(Value::Array(stops)) => stops
            .iter()
            .map(|stop| stop.as_str().map(str::to_owned).ok_or_else(|| fields.error("stop", problem)))
            .collect::<Result<_, _>>()?,
        Some(_) => return Err(fields.error("stop", problem)),
    };
    if stops.len() > MAX_STOPS {
        return Err(fields.error("stop", format_args!("has {} strings, more than {MAX_STOPS}", stops.len())));
    }
    if stops.iter().any(|stop| stop.is_empty() || stop.len() > MAX_STOP_BYTES) {
        return Err(fields.error("stop", format_args!("must have strings of 1 to {MAX_STOP_BYTES} bytes")));
    }
    Ok(stops)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn parse(extra: Value) -> Result<ChatRequest, ApiError> {
        let mut body = json!({"model": "m", "messages": [{"role": "user", "content": "hi"}]});
        for (key, value) in extra.as_object().unwrap() {
            body[key] = value.clone();
        }
        ChatRequest::parse(body.to_string().as_bytes())
    }

    #[test]
    fn a_request_with_many_fields_is_parsed() {
        let request = parse(json!({
            "messages": [
                {"role": "developer", "content": "Be brief."},
                {"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]},
                {"role": "assistant", "content": null},
                {"role": "tool", "content": "42", "tool_call_id": "x"},
            ],
            "max_completion_tokens": 5, "max_tokens": 9, "temperature": 0, "top_p": 0.5, "seed": -1,
            "stop": ["x", "y"], "stream": true, "stream_options": {"include_usage": true},
            "logit_bias": {"7": -100}, "tools": [], "response_format": {"type": "text"}, "logprobs": false,
            "user": "ignored", "unknown_field": {"a": 1}, "n": 1, "presence_penalty": null,
        }))
        .unwrap();
        assert_eq!(request.messages[0].role, Role::System);
        assert_eq!(request.messages[1].content, "ab");
        assert_eq!(request.messages[2].content, "");
        assert_eq!(request.max_tokens, Some(5));
        assert_eq!(request.sampling.seed, Some(u64::MAX));
        assert_eq!(request.sampling.logit_bias, [(7, -100.0)]);
        assert_eq!(request.stop, ["x", "y"]);
        assert!(request.stream && request.include_usage);
    }

    #[test]
    fn a_limit_above_the_context_is_accepted() {
        assert_eq!(parse(json!({"max_tokens": 1e30})).unwrap().max_tokens, Some(usize::MAX));
        assert_eq!(parse(json!({"top_k": u64::MAX})).unwrap().sampling.top_k, usize::MAX);
    }

    #[test]
    fn an_invalid_field_is_named() {
        for (extra, param) in [
            (json!({"max_tokens": -1}), "max_tokens"),
            (json!({"max_tokens": 0}), "max_tokens"),
            (json!({"max_tokens": 1.5}), "max_tokens"),
            (json!({"max_completion_tokens": "9"}), "max_completion_tokens"),
            (json!({"temperature": -0.1}), "temperature"),
            (json!({"temperature": 1e300}), "temperature"),
            (json!({"temperature": "hot"}), "temperature"),
            (json!({"top_p": 1.1}), "top_p"),
            (json!({"top_k": -40}), "top_k"),
            (json!({"min_p": -1}), "min_p"),
            (json!({"repetition_penalty": 0}), "repetition_penalty"),
            (json!({"frequency_penalty": 3}), "frequency_penalty"),
            (json!({"seed": 1.5}), "seed"),
            (json!({"logit_bias": {"x": 1}}), "logit_bias.x"),
            (json!({"logit_bias": {"1": 101}}), "logit_bias.1"),
            (json!({"n": 2}), "n"),
            (json!({"stop": ""}), "stop"),
            (json!({"stop": [1]}), "stop"),
            (json!({"stream": "yes"}), "stream"),
            (json!({"stream_options": {"include_usage": true}}), "stream_options"),
            (json!({"tools": [{}]}), "tools"),
            (json!({"response_format": {"type": "json_schema"}}), "response_format"),
            (json!({"logprobs": true}), "logprobs"),
            (json!({"messages": []}), "messages"),
            (json!({"messages": ["hi"]}), "messages[0]"),
            (json!({"messages": [{"role": "robot", "content": ""}]}), "messages[0].role"),
            (json!({"messages": [{"role": "user"}]}), "messages[0].content"),
            (
                json!({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}),
                "messages[0].content[0].type",
            ),
        ] {
            let error = parse(extra.clone()).unwrap_err().body();
            assert_eq!(error["error"]["param"], param, "{extra}: {error}");
            assert!(error["error"]["message"].as_str().unwrap().contains(param), "{error}");
        }
        for body in ["", "{", "{\"temperature\": NaN}", "{\"temperature\": 1e999}"] {
            let error = ChatRequest::parse(body.as_bytes()).unwrap_err().body();
            assert_eq!(error["error"]["code"], "invalid_json", "{body}");
        }
        assert_eq!(ChatRequest::parse(b"[]").unwrap_err().body()["error"]["param"], "body");
    }
}
