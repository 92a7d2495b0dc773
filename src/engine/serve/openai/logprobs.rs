//! The probabilities of tokens in OpenAI's forms.

use serde_json::{Value, json};

use crate::engine::generation::TokenLogprob;
use crate::engine::tokenizer::Tokenizer;

/// As a chat completion tells it.
pub(super) fn of_chat(tokenizer: &Tokenizer, logprob: &TokenLogprob) -> Value {
    let one = |id: u32, logprob: f32| {
        let bytes = spelling(tokenizer, id);
        json!({"token": String::from_utf8_lossy(&bytes), "logprob": logprob, "bytes": bytes})
    };
    let mut token = one(logprob.token, logprob.logprob);
    token["top_logprobs"] = logprob.top.iter().map(|(id, logprob)| one(*id, *logprob)).collect();
    token
}

/// The bytes of a token; the name of a control token.
pub(super) fn spelling(tokenizer: &Tokenizer, id: u32) -> Vec<u8> {
    match tokenizer.token(id).filter(|_| tokenizer.is_control(id)) {
        Some(name) => name.as_bytes().to_vec(),
        None => tokenizer.bytes(id),
    }
}
