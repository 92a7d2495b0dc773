//! Parses the request of a completion: `POST /v1/completions`.

use serde_json::Value;

use super::common::Common;
use super::known;
use crate::engine::answer::required::Shape;
use crate::engine::generation::MAX_WAITING;
use crate::engine::sampling::SamplingParams;
use crate::engine::serve::error::ApiError;
use crate::fields::{FieldError, Fields};

/// The limit of a request that says nothing, in tokens: OpenAI's.
const DEFAULT_MAX_TOKENS: usize = 16;
/// Most tokens that are told beside a generated one.
const MAX_LOGPROBS: u64 = 20;
/// Most texts of a request.
const MAX_TEXTS: usize = 2048;

/// A text, or its tokens.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Text {
    Text(String),
    Tokens(Vec<u32>),
}

/// A valid request. Only the model can still refuse it.
#[derive(Debug)]
pub(crate) struct CompletionRequest {
    pub(crate) common: Common,
    /// At least one.
    pub(crate) prompts: Vec<Text>,
    /// Whether the answer begins with its prompt.
    pub(crate) echo: bool,
    /// How many of the likeliest tokens to tell beside each generated one; `None` tells no probabilities.
    pub(crate) logprobs: Option<usize>,
    /// The names of the fields that are unknown.
    pub(crate) ignored: Vec<String>,
}

impl CompletionRequest {
    /// `default` is how the model is sampled where the request does not say.
    pub(crate) fn parse(body: &Value, default: SamplingParams) -> Result<Self, ApiError> {
        let fields = Fields::new("", body)?;
        let ignored = known::check(&fields, &[known::COMPLETION, known::CHAT])?;
        let mut common = Common::read(&fields, default)?;
        if ["max_completion_tokens", "max_tokens", "n_predict"].iter().all(|name| fields.get(name).is_none())
        {
            common.max_tokens = Some(DEFAULT_MAX_TOKENS);
        }
        let echo = fields.bool("echo")?.unwrap_or(false);
        let logprobs = match fields.whole_number("logprobs", 0)? {
            Some(count) if count > MAX_LOGPROBS => {
                return Err(fields.error("logprobs", format_args!("must be at most {MAX_LOGPROBS}")).into());
            }
            count => count.map(|count| count as usize),
        };
        if echo && logprobs.is_some() {
            return Err(fields.error("echo", "cannot be used together with `logprobs`").into());
        }
        let prompts = texts(&fields, "prompt")?;
        let answers = prompts.len() * common.choices;
        // More than may wait could never all be taken.
        if answers > MAX_WAITING {
            let field = if common.choices > 1 { "n" } else { "prompt" };
            let problem = format!("asks for {answers} answers in all, more than {MAX_WAITING}");
            return Err(fields.error(field, problem).into());
        }
        Ok(Self { common, prompts, echo, logprobs, ignored })
    }

    /// What the text of the answer must be, with the field that asks for it.
    pub(crate) fn shape(&self) -> Option<(&str, Shape)> {
        let wanted = self.common.wanted.as_ref()?;
        Some((&wanted.field, Shape { form: Some(wanted.form.clone()), ..Shape::default() }))
    }
}

/// One text or several: a string, an array of strings, the tokens of a text, or an array of those.
///
/// # Errors
/// A field that is missing, empty, or something else.
pub(super) fn texts(fields: &Fields<'_>, name: &str) -> Result<Vec<Text>, FieldError> {
    let problem = "must be a string, an array of strings, an array of tokens or an array of those";
    let one = |value: &Value| match value {
        Value::String(text) => Some(Text::Text(text.clone())),
        Value::Array(tokens) => tokens
            .iter()
            .map(|token| token.as_u64().and_then(|token| u32::try_from(token).ok()))
            .collect::<Option<Vec<u32>>>()
            .map(Text::Tokens),
        _ => None,
    };
    let texts = match fields.get(name) {
        Some(Value::Array(items)) if items.first().is_some_and(|item| !item.is_number()) => {
            items.iter().map(one).collect::<Option<Vec<Text>>>()
        }
        Some(value) => one(value).map(|text| vec![text]),
        None => None,
    };
    match texts {
        Some(texts) if texts.len() > MAX_TEXTS => {
            Err(fields.error(name, format_args!("has {} texts, more than {MAX_TEXTS}", texts.len())))
        }
        Some(texts) if !texts.is_empty() && !texts.contains(&Text::Tokens(Vec::new())) => Ok(texts),
        _ => Err(fields.error(name, problem)),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn parse(body: &Value) -> Result<CompletionRequest, ApiError> {
        CompletionRequest::parse(body, SamplingParams::default())
    }

    #[test]
    fn a_prompt_has_one_of_four_forms() {
        let text = |text: &str| Text::Text(text.to_owned());
        for (prompt, expected) in [
            (json!("a"), vec![text("a")]),
            (json!(["a", "b"]), vec![text("a"), text("b")]),
            (json!([1, 2]), vec![Text::Tokens(vec![1, 2])]),
            (json!([[1], [2, 3]]), vec![Text::Tokens(vec![1]), Text::Tokens(vec![2, 3])]),
        ] {
            let request = parse(&json!({"prompt": prompt})).unwrap();
            assert_eq!((request.prompts, request.common.max_tokens), (expected, Some(16)));
        }
        assert_eq!(parse(&json!({"prompt": "a", "max_tokens": -1})).unwrap().common.max_tokens, None);
    }

    #[test]
    fn every_known_field_is_applied_refused_or_harmless() {
        known::tests::assert_true(
            known::COMPLETION,
            |_| json!(["x"]),
            |name, value| {
                let mut body = json!({"prompt": "a"});
                body[name] = value;
                parse(&body).map(drop).map_err(|error| error.body().to_string())
            },
        );
    }

    #[test]
    fn what_a_completion_does_not_have_is_refused_by_name() {
        for (body, param) in [
            (json!({}), "prompt"),
            (json!({"prompt": []}), "prompt"),
            (json!({"prompt": [-1]}), "prompt"),
            (json!({"prompt": ["a", 1]}), "prompt"),
            (json!({"prompt": [[]]}), "prompt"),
            (json!({"prompt": vec!["a"; 257]}), "prompt"),
            (json!({"prompt": ["a", "b", "c"], "n": 100}), "n"),
            (json!({"prompt": "a", "suffix": "b"}), "suffix"),
            (json!({"prompt": "a", "best_of": 2}), "best_of"),
            (json!({"prompt": "a", "tools": [1]}), "tools"),
            (json!({"prompt": "a", "logprobs": true}), "logprobs"),
            (json!({"prompt": "a", "logprobs": 99}), "logprobs"),
            (json!({"prompt": "a", "logprobs": 1, "echo": true}), "echo"),
        ] {
            assert_eq!(parse(&body).unwrap_err().body()["error"]["param"], param, "{body}");
        }
        assert_eq!(parse(&json!({"prompt": ["a", "b"], "n": 128})).unwrap().prompts.len(), 2);
        assert_eq!(parse(&json!({"prompt": "a", "suffix": "", "odd": 1})).unwrap().ignored, ["odd"]);
    }
}
