//! What a request gets where it does not say: sampling, and the system prompt.
//!
//! The first of these that says a field counts: the request, the settings of the model, the model's own file
//! (`general.sampling.*`), llama.cpp. What the request says stays as it was written, byte for byte.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use serde::Deserialize;
use serde_json::value::{RawValue, to_raw_value};
use serde_json::{Map, Value, json};

use crate::config::{ModelSettings, Sampling};

/// The fields of OpenAI's API among those of sampling.
const OF_OPENAI: [&str; 2] = ["temperature", "top_p"];

/// What requests for one model get.
#[derive(Clone, Debug)]
pub(crate) struct Defaults {
    pub(super) settings: Arc<ModelSettings>,
    /// What the model's file recommends, if anything. `None` where the file is not known: then the engine, which
    /// reads it, is left to choose.
    pub(super) recommended: Option<Sampling>,
}

impl Defaults {
    /// The body of a request, with what it does not say; the same bytes where nothing is missing. An engine that
    /// does not have llama.cpp's fields gets those of OpenAI's API, and what a person has set.
    pub(crate) fn fill(&self, body: &Bytes, has_llama_cpp_fields: bool) -> Bytes {
        let Ok(mut fields) = serde_json::from_slice::<BTreeMap<Cow<'_, str>, &RawValue>>(body) else {
            return body.clone();
        };
        let missing = self.missing(&fields, has_llama_cpp_fields);
        let messages = self.prompted(&fields);
        if missing.is_empty() && messages.is_none() {
            return body.clone();
        }
        let missing: Vec<_> = missing
            .iter()
            .filter_map(|(name, value)| Some((name.as_str(), to_raw_value(value).ok()?)))
            .collect();
        for (name, value) in &missing {
            fields.insert(Cow::Borrowed(*name), &**value);
        }
        if let Some(messages) = &messages {
            fields.insert(Cow::Borrowed("messages"), &**messages);
        }
        serde_json::to_vec(&fields).map_or_else(|_| body.clone(), Bytes::from)
    }

    /// The fields of sampling that the request does not have.
    fn missing(
        &self,
        fields: &BTreeMap<Cow<'_, str>, &RawValue>,
        has_llama_cpp_fields: bool,
    ) -> Map<String, Value> {
        let says = |name: &str| fields.get(name).is_some_and(|value| value.get() != "null");
        let others = self.recommended.map(|recommended| object(recommended.or(Sampling::LLAMA_CPP)));
        let mut missing = others.unwrap_or_default();
        if !has_llama_cpp_fields {
            missing.retain(|name, _| OF_OPENAI.contains(&name.as_str()));
        }
        missing.extend(object(self.settings.sampling));
        missing.retain(|name, _| !spellings(name).iter().any(|name| says(name)));
        // The name that other engines have for it.
        if !has_llama_cpp_fields && let Some(penalty) = missing.remove("repeat_penalty") {
            missing.insert("repetition_penalty".to_owned(), penalty);
        }
        missing
    }

    /// The messages with the system prompt in front, where they have none.
    fn prompted(&self, fields: &BTreeMap<Cow<'_, str>, &RawValue>) -> Option<Box<RawValue>> {
        #[derive(Deserialize)]
        struct Message<'a> {
            #[serde(borrow)]
            role: Option<Cow<'a, str>>,
        }
        let prompt = self.settings.system_prompt.as_deref().filter(|prompt| !prompt.is_empty())?;
        let messages: Vec<&RawValue> = serde_json::from_str(fields.get("messages")?.get()).ok()?;
        let is_prompt = |message: &&RawValue| {
            let role =
                serde_json::from_str::<Message<'_>>(message.get()).ok().and_then(|message| message.role);
            matches!(role.as_deref(), Some("system" | "developer"))
        };
        if messages.iter().any(is_prompt) {
            return None;
        }
        let prompt = to_raw_value(&json!({"role": "system", "content": prompt})).ok()?;
        let all: Vec<&RawValue> = std::iter::once(&*prompt).chain(messages).collect();
        to_raw_value(&all).ok()
    }
}

/// The names under which requests say a field.
fn spellings(name: &str) -> Vec<&str> {
    match name {
        "max_tokens" => vec!["max_tokens", "max_completion_tokens", "n_predict"],
        "repeat_penalty" => vec!["repeat_penalty", "repetition_penalty"],
        name => vec![name],
    }
}

fn object(sampling: Sampling) -> Map<String, Value> {
    match serde_json::to_value(sampling) {
        Ok(Value::Object(fields)) => fields,
        _ => Map::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn defaults(settings: &str, recommended: Option<Sampling>) -> Defaults {
        Defaults { settings: Arc::new(toml::from_str(settings).unwrap()), recommended }
    }

    fn filled(defaults: &Defaults, body: &str, has_llama_cpp_fields: bool) -> Value {
        serde_json::from_slice(&defaults.fill(&Bytes::from(body.to_owned()), has_llama_cpp_fields)).unwrap()
    }

    #[test]
    fn a_request_says_more_than_the_settings_and_these_more_than_the_file_and_llama_cpp() {
        let file =
            Sampling { temperature: Some(0.3), top_k: Some(20), min_p: Some(0.1), ..Sampling::default() };
        let with = defaults("sampling = { top_k = 7, max_tokens = 9, repeat_penalty = 1.1 }", Some(file));
        assert_eq!(
            filled(&with, r#"{"model":"m","min_p":0,"temperature":null,"n_predict":5}"#, true),
            json!({"model": "m", "min_p": 0, "n_predict": 5, "temperature": 0.3, "top_k": 7, "top_p": 0.95,
                   "repeat_penalty": 1.1})
        );
        let none = defaults("", Some(Sampling::default()));
        assert_eq!(
            filled(&none, "{}", true),
            json!({"temperature": 0.8, "top_k": 40, "top_p": 0.95, "min_p": 0.05})
        );
    }

    #[test]
    fn an_engine_without_llama_cpps_fields_gets_openais_and_what_a_person_set() {
        let with = defaults("sampling = { min_p = 0.2, repeat_penalty = 1.1 }", Some(Sampling::default()));
        assert_eq!(
            filled(&with, r#"{"top_p":0.5}"#, false),
            json!({"temperature": 0.8, "top_p": 0.5, "min_p": 0.2, "repetition_penalty": 1.1})
        );
    }

    #[test]
    fn what_a_request_says_stays_byte_for_byte() {
        let with = defaults("sampling.temperature = 0.5\nsystem_prompt = \"Be kind.\"", None);
        let body = r#"{"model":"m","temperature":1.0,"messages":[ {"role":"system", "content":"\u00e9"} ],"x": 1e400}"#;
        let bytes = Bytes::from(body);
        let same = with.fill(&bytes, true);
        assert_eq!(same.as_ptr(), bytes.as_ptr(), "not even copied");
        let body = r#"{"model":"m","messages":[{"role":"user","content":"\u00e9" , "n":1.10}]}"#;
        let text = String::from_utf8(with.fill(&Bytes::from(body), true).to_vec()).unwrap();
        assert!(
            text.contains(
                r#"[{"role":"system","content":"Be kind."},{"role":"user","content":"\u00e9" , "n":1.10}]"#
            ),
            "{text}"
        );
        assert!(text.contains(r#""temperature":0.5"#), "{text}");
        for left_alone in ["[]", "{\"messages\":", ""] {
            assert_eq!(with.fill(&Bytes::from(left_alone), true), left_alone);
        }
        assert_eq!(filled(&with, r#"{"prompt":"x"}"#, true), json!({"prompt": "x", "temperature": 0.5}));
    }

    #[test]
    fn a_file_that_is_not_known_leaves_sampling_to_the_engine() {
        let body = Bytes::from("{\"model\":\"m\"}");
        assert_eq!(defaults("", None).fill(&body, true), body);
        assert_eq!(defaults("system_prompt = \"\"", None).fill(&body, true), body);
    }
}
