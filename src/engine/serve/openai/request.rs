//! Parses the request of a chat completion.

use serde_json::{Map, Value};

use super::common::Common;
use super::known;
use super::messages::messages;
use super::thinking::ThinkingAsked;
use super::tools::{ToolChoice, Tools};
use crate::engine::answer::required::Shape;
use crate::engine::sampling::SamplingParams;
use crate::engine::serve::error::ApiError;
use crate::engine::template::message::Message;
use crate::fields::{FieldError, Fields};

/// Most tokens that are told beside a generated one.
const MAX_TOP_LOGPROBS: u64 = 20;

/// A valid request. Only the model can still refuse it.
#[derive(Debug)]
pub(crate) struct ChatRequest {
    pub(crate) messages: Vec<Message>,
    pub(crate) common: Common,
    pub(crate) tools: Tools,
    /// How many of the likeliest tokens to tell beside each generated one; `None` tells no probabilities.
    pub(crate) logprobs: Option<usize>,
    /// How long the model may think.
    pub(crate) thinking: ThinkingAsked,
    /// Further variables for the chat template.
    pub(crate) variables: Map<String, Value>,
    /// The names of the fields that are unknown.
    pub(crate) ignored: Vec<String>,
}

impl ChatRequest {
    /// `default` is how the model is sampled where the request does not say.
    pub(crate) fn parse(body: &Value, default: SamplingParams) -> Result<Self, ApiError> {
        let fields = Fields::new("", body)?;
        let ignored = known::check(&fields, &[known::CHAT])?;
        let variables = variables(&fields)?;
        Ok(Self {
            messages: messages(&fields)?,
            common: Common::read(&fields, default)?,
            tools: Tools::read(&fields)?,
            logprobs: logprobs(&fields)?,
            thinking: ThinkingAsked::read(&fields, &variables)?,
            variables,
            ignored,
        })
    }
}

impl ChatRequest {
    /// What the text of the answer must be, with the field that asks for it.
    pub(crate) fn shape(&self) -> Option<(&str, Shape)> {
        let tools = match self.tools.choice {
            ToolChoice::Auto if self.common.wanted.is_none() => return None,
            ToolChoice::None => Vec::new(),
            _ => self.tools.allowed(),
        };
        let or_text = self.tools.choice == ToolChoice::Auto;
        // A function that is named is called once.
        let several = self.tools.several && !matches!(self.tools.choice, ToolChoice::Named(_));
        let form = self.common.wanted.as_ref().map(|wanted| wanted.form.clone());
        let field = self.common.wanted.as_ref().map_or("tools", |wanted| &wanted.field);
        (form.is_some() || !tools.is_empty()).then_some((field, Shape { form, tools, several, or_text }))
    }
}

fn logprobs(fields: &Fields<'_>) -> Result<Option<usize>, FieldError> {
    let wanted = fields.bool("logprobs")?.unwrap_or(false);
    match fields.whole_number("top_logprobs", 0)? {
        Some(count) if count > 0 && !wanted => {
            Err(fields.error("top_logprobs", "needs `logprobs` to be true"))
        }
        Some(count) if count > MAX_TOP_LOGPROBS => {
            Err(fields.error("top_logprobs", format_args!("must be at most {MAX_TOP_LOGPROBS}")))
        }
        count => Ok(wanted.then(|| count.unwrap_or(0) as usize)),
    }
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
        if effort == "none" {
            variables.entry("enable_thinking").or_insert(Value::Bool(false));
        }
        variables.entry("reasoning_effort").or_insert_with(|| effort.into());
    }
    Ok(variables)
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
        ChatRequest::parse(&body, SamplingParams::default())
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
        assert_eq!(request.common.max_tokens, Some(5));
        assert_eq!(request.common.sampling.seed, Some(u64::MAX));
        assert_eq!(request.common.sampling.logit_bias, [(7, -100.0)]);
        assert_eq!(request.common.stop, ["x", "y"]);
        assert!(request.common.stream && request.common.include_usage);
    }

    #[test]
    fn what_other_servers_accept_is_accepted() {
        for no_limit in [json!({"max_tokens": -1}), json!({"max_tokens": null}), json!({"n_predict": -1})] {
            assert_eq!(parse(no_limit).unwrap().common.max_tokens, None);
        }
        assert_eq!(
            parse(json!({"max_completion_tokens": 2, "max_tokens": -1})).unwrap().common.max_tokens,
            Some(2)
        );
        for no_stop in
            [json!({"stop": ""}), json!({"stop": [""]}), json!({"stop": []}), json!({"stop": null})]
        {
            assert!(parse(no_stop).unwrap().common.stop.is_empty());
        }
        assert_eq!(parse(json!({"top_k": -1})).unwrap().common.sampling.top_k, 0);
        assert!(!parse(json!({"stream_options": {"include_usage": false}})).unwrap().common.stream);
        let variables =
            json!({"reasoning_effort": "low", "chat_template_kwargs": {"enable_thinking": false}});
        let variables = parse(variables).unwrap().variables;
        assert_eq!(Value::from(variables), json!({"enable_thinking": false, "reasoning_effort": "low"}));
        let none = parse(json!({"reasoning_effort": "none"})).unwrap().variables;
        assert_eq!(Value::from(none), json!({"enable_thinking": false, "reasoning_effort": "none"}));
    }

    /// Each row of the table, with a value that asks for something and one that does not.
    #[test]
    fn every_known_field_is_applied_refused_or_harmless() {
        let asks = |name: &str| match name {
            "modalities" => json!(["audio"]),
            "use_beam_search" | "echo" | "continue_final_message" => json!(true),
            "add_generation_prompt" => json!(false),
            "grammar" | "guided_grammar" | "chat_template" => json!("root ::= x"),
            "audio" | "web_search_options" | "moderation" => json!({"type": "object"}),
            "documents" | "lora" | "samplers" | "bad_words" | "stop_token_ids" => {
                json!(["a"])
            }
            _ => json!(7),
        };
        known::tests::assert_true(known::CHAT, asks, |name, value| {
            let request = parse(json!({name: value})).map_err(|error| error.body().to_string())?;
            assert!(request.ignored.is_empty(), "{name}");
            Ok(())
        });
    }

    #[test]
    fn a_limit_above_the_context_is_accepted() {
        assert_eq!(parse(json!({"max_tokens": 1e30})).unwrap().common.max_tokens, Some(usize::MAX));
        assert_eq!(parse(json!({"top_k": u64::MAX})).unwrap().common.sampling.top_k, usize::MAX);
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
            (json!({"n": 0}), "n"),
            (json!({"n": 1000}), "n"),
            (json!({"top_logprobs": 2}), "top_logprobs"),
            (json!({"logprobs": true, "top_logprobs": 21}), "top_logprobs"),
            (json!({"stop": [1]}), "stop"),
            (json!({"stream": "yes"}), "stream"),
            (json!({"stream_options": true}), "stream_options"),
            (json!({"chat_template_kwargs": {"messages": []}}), "chat_template_kwargs.messages"),
            (json!({"chat_template_kwargs": 1}), "chat_template_kwargs"),
            (json!({"tools": [{}]}), "tools[0].type"),
            (json!({"response_format": {"type": "json_schema"}}), "response_format.json_schema"),
            (json!({"logprobs": 2}), "logprobs"),
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
        assert_eq!(
            ChatRequest::parse(&json!([]), SamplingParams::default()).unwrap_err().body()["error"]["param"],
            "body"
        );
    }
}
