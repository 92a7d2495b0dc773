//! Parses the request of a chat completion.

use axum::http::StatusCode;
use serde_json::{Map, Value};

use super::error::ApiError;
use super::format::{Wanted, wanted};
use super::known;
use super::messages::messages;
use crate::engine::sampling::SamplingParams;
use crate::engine::template::message::Message;
use crate::error::Code;
use crate::fields::{FieldError, Fields};

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
    /// The form that the answer must have.
    pub(crate) wanted: Option<Wanted>,
    pub(crate) stream: bool,
    /// Whether a stream ends with a chunk of usage.
    pub(crate) include_usage: bool,
    /// Further variables for the chat template.
    pub(crate) variables: Map<String, Value>,
    /// The names of the fields that are unknown.
    pub(crate) ignored: Vec<String>,
}

impl ChatRequest {
    /// `default` is how the model is sampled where the request does not say.
    pub(crate) fn parse(body: &[u8], default: SamplingParams) -> Result<Self, ApiError> {
        let body: Value = serde_json::from_slice(body).map_err(|error| {
            ApiError::new(
                StatusCode::BAD_REQUEST,
                Code::InvalidJson.name(),
                format!("the body is not valid JSON: {error}"),
            )
        })?;
        let fields = Fields::new("", &body)?;
        let ignored = known::check(&fields)?;
        // The gateway routes by this field; a worker has only one model.
        fields.string("model")?;
        let stream = fields.bool("stream")?.unwrap_or(false);
        let include_usage = match fields.get("stream_options") {
            Some(options) => Fields::new("stream_options", options)?.bool("include_usage")?.unwrap_or(false),
            None => false,
        };
        Ok(Self {
            messages: messages(&fields)?,
            sampling: sampling(&fields, default)?,
            max_tokens: max_tokens(&fields)?,
            stop: stop(&fields)?,
            wanted: wanted(&fields)?,
            stream,
            include_usage,
            variables: variables(&fields)?,
            ignored,
        })
    }
}

/// The limit, by the first of its names. -1 is none. A limit that is larger than the context is no error:
/// the full context ends the answer.
fn max_tokens(fields: &Fields<'_>) -> Result<Option<usize>, FieldError> {
    let names = ["max_completion_tokens", "max_tokens", "n_predict"];
    let Some(name) = names.into_iter().find(|name| fields.get(name).is_some()) else { return Ok(None) };
    if fields.get(name).and_then(Value::as_f64) == Some(-1.0) {
        return Ok(None);
    }
    let tokens = fields.whole_number(name, 1)?;
    Ok(tokens.map(|tokens| usize::try_from(tokens).unwrap_or(usize::MAX)))
}

/// Those of `chat_template_kwargs`, and `reasoning_effort`, which is a variable of the templates that know
/// it. The conversation's own variables cannot be replaced.
fn variables(fields: &Fields<'_>) -> Result<Map<String, Value>, FieldError> {
    let mut variables = match fields.get("chat_template_kwargs") {
        Some(Value::Object(variables)) => variables.clone(),
        Some(_) => return Err(fields.error("chat_template_kwargs", "must be an object")),
        None => Map::new(),
    };
    for own in ["messages", "tools", "documents", "add_generation_prompt", "bos_token", "eos_token"] {
        if variables.contains_key(own) {
            return Err(fields.error(&format!("chat_template_kwargs.{own}"), "is the engine's own variable"));
        }
    }
    if let Some(effort) = fields.string("reasoning_effort")? {
        variables.entry("reasoning_effort").or_insert_with(|| effort.into());
    }
    Ok(variables)
}

fn sampling(fields: &Fields<'_>, default: SamplingParams) -> Result<SamplingParams, FieldError> {
    let temperature = fields.number("temperature", 0.0, 100.0)?.unwrap_or(default.temperature);
    let repetition_penalty = match fields.number("repetition_penalty", 0.01, 10.0)? {
        Some(penalty) => Some(penalty),
        // llama.cpp's name for the same parameter.
        None => fields.number("repeat_penalty", 0.01, 10.0)?,
    };
    Ok(SamplingParams {
        temperature: if temperature < MIN_TEMPERATURE { 0.0 } else { temperature },
        top_k: top_k(fields)?.unwrap_or(default.top_k),
        top_p: fields.number("top_p", 0.0, 1.0)?.unwrap_or(default.top_p),
        min_p: fields.number("min_p", 0.0, 1.0)?.unwrap_or(default.min_p),
        seed: seed(fields)?,
        repetition_penalty: repetition_penalty.unwrap_or(default.repetition_penalty),
        frequency_penalty: fields.number("frequency_penalty", -2.0, 2.0)?.unwrap_or(0.0),
        presence_penalty: fields.number("presence_penalty", -2.0, 2.0)?.unwrap_or(0.0),
        logit_bias: logit_bias(fields)?,
    })
}

/// -1 is 0, which keeps all.
fn top_k(fields: &Fields<'_>) -> Result<Option<usize>, FieldError> {
    if fields.get("top_k").and_then(Value::as_f64) == Some(-1.0) {
        return Ok(Some(0));
    }
    let top_k = fields.whole_number("top_k", 0)?;
    Ok(top_k.map(|top_k| usize::try_from(top_k).unwrap_or(usize::MAX)))
}

/// Any 64-bit integer, signed (as OpenAI's) or unsigned.
fn seed(fields: &Fields<'_>) -> Result<Option<u64>, FieldError> {
    let Some(value) = fields.get("seed") else { return Ok(None) };
    value
        .as_u64()
        .or_else(|| value.as_i64().map(i64::cast_unsigned))
        .map(Some)
        .ok_or_else(|| fields.error("seed", "must be a 64-bit integer"))
}

fn logit_bias(fields: &Fields<'_>) -> Result<Vec<(u32, f32)>, FieldError> {
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

/// An empty string stops nothing.
fn stop(fields: &Fields<'_>) -> Result<Vec<String>, FieldError> {
    let problem = "must be a string or an array of strings";
    let mut stops: Vec<String> = match fields.get("stop") {
        None => Vec::new(),
        Some(Value::String(stop)) => vec![stop.clone()],
        Some(Value::Array(stops)) => stops
            .iter()
            .map(|stop| stop.as_str().map(str::to_owned).ok_or_else(|| fields.error("stop", problem)))
            .collect::<Result<_, _>>()?,
        Some(_) => return Err(fields.error("stop", problem)),
    };
    stops.retain(|stop| !stop.is_empty());
    if stops.len() > MAX_STOPS {
        return Err(fields.error("stop", format_args!("has {} strings, more than {MAX_STOPS}", stops.len())));
    }
    if stops.iter().any(|stop| stop.len() > MAX_STOP_BYTES) {
        return Err(fields.error("stop", format_args!("must have strings of at most {MAX_STOP_BYTES} bytes")));
    }
    Ok(stops)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::engine::template::message::Role;

    fn parse(extra: Value) -> Result<ChatRequest, ApiError> {
        let mut body = json!({"model": "m", "messages": [{"role": "user", "content": "hi"}]});
        for (key, value) in extra.as_object().unwrap() {
            body[key] = value.clone();
        }
        ChatRequest::parse(body.to_string().as_bytes(), SamplingParams::default())
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
        assert_eq!(request.messages[1].fields["content"], "ab");
        assert_eq!(request.messages[2].fields["content"], "");
        assert_eq!(request.messages[3].fields["tool_call_id"], "x");
        assert_eq!(request.ignored, ["unknown_field"]);
        assert_eq!(request.max_tokens, Some(5));
        assert_eq!(request.sampling.seed, Some(u64::MAX));
        assert_eq!(request.sampling.logit_bias, [(7, -100.0)]);
        assert_eq!(request.stop, ["x", "y"]);
        assert!(request.stream && request.include_usage);
    }

    #[test]
    fn what_other_servers_accept_is_accepted() {
        for no_limit in [json!({"max_tokens": -1}), json!({"max_tokens": null}), json!({"n_predict": -1})] {
            assert_eq!(parse(no_limit).unwrap().max_tokens, None);
        }
        assert_eq!(parse(json!({"max_completion_tokens": 2, "max_tokens": -1})).unwrap().max_tokens, Some(2));
        for no_stop in
            [json!({"stop": ""}), json!({"stop": [""]}), json!({"stop": []}), json!({"stop": null})]
        {
            assert!(parse(no_stop).unwrap().stop.is_empty());
        }
        assert_eq!(parse(json!({"top_k": -1})).unwrap().sampling.top_k, 0);
        assert!(!parse(json!({"stream_options": {"include_usage": false}})).unwrap().stream);
        let variables =
            json!({"reasoning_effort": "low", "chat_template_kwargs": {"enable_thinking": false}});
        let variables = parse(variables).unwrap().variables;
        assert_eq!(Value::from(variables), json!({"enable_thinking": false, "reasoning_effort": "low"}));
    }

    /// Each row of the table, with a value that asks for something and one that does not.
    #[test]
    fn every_known_field_is_applied_refused_or_harmless() {
        let asks = |name: &str| match name {
            "tools" | "functions" => json!([{"type": "function"}]),
            "tool_choice" | "function_call" => json!("required"),
            "modalities" => json!(["audio"]),
            "use_beam_search" | "ignore_eos" | "echo" | "continue_final_message" | "logprobs" => json!(true),
            "add_generation_prompt" => json!(false),
            "grammar" | "guided_grammar" | "chat_template" => json!("root ::= x"),
            "audio" | "web_search_options" | "moderation" => json!({"type": "object"}),
            "documents" | "lora" | "samplers" | "bad_words" | "stop_token_ids" => {
                json!(["a"])
            }
            _ => json!(7),
        };
        for (name, treatment) in known::FIELDS {
            let of = |value: Value| parse(json!({*name: value}));
            match treatment {
                known::Treatment::Refused(harmless) => {
                    let error = of(asks(name)).expect_err(name).body();
                    assert_eq!(error["error"]["param"], *name, "{error}");
                    assert!(error["error"]["message"].as_str().unwrap().contains("llama.cpp"), "{error}");
                    let nothing = match harmless {
                        known::Harmless::Nothing => json!(null),
                        known::Harmless::False => json!(false),
                        known::Harmless::True => json!(true),
                        known::Harmless::Zero => json!(0),
                        known::Harmless::One => json!(1),
                        known::Harmless::Empty => json!([]),
                        known::Harmless::Auto => json!("auto"),
                        known::Harmless::Text => json!({"type": "text"}),
                    };
                    of(nothing).expect(name);
                }
                // An applied field is checked: nothing takes an array of numbers.
                known::Treatment::Applied => assert!(of(json!([1])).is_err(), "{name}"),
                known::Treatment::Ignored => assert!(of(json!([1])).unwrap().ignored.is_empty(), "{name}"),
            }
        }
    }

    #[test]
    fn a_limit_above_the_context_is_accepted() {
        assert_eq!(parse(json!({"max_tokens": 1e30})).unwrap().max_tokens, Some(usize::MAX));
        assert_eq!(parse(json!({"top_k": u64::MAX})).unwrap().sampling.top_k, usize::MAX);
    }

    #[test]
    fn an_invalid_field_is_named() {
        for (extra, param) in [
            (json!({"max_tokens": -2}), "max_tokens"),
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
            (json!({"stop": [1]}), "stop"),
            (json!({"stream": "yes"}), "stream"),
            (json!({"stream_options": true}), "stream_options"),
            (json!({"chat_template_kwargs": {"messages": []}}), "chat_template_kwargs.messages"),
            (json!({"chat_template_kwargs": 1}), "chat_template_kwargs"),
            (json!({"tools": [{}]}), "tools"),
            (json!({"response_format": {"type": "json_schema"}}), "response_format.json_schema"),
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
            let error = ChatRequest::parse(body.as_bytes(), SamplingParams::default()).unwrap_err().body();
            assert_eq!(error["error"]["code"], "invalid_json", "{body}");
        }
        assert_eq!(
            ChatRequest::parse(b"[]", SamplingParams::default()).unwrap_err().body()["error"]["param"],
            "body"
        );
    }
}
