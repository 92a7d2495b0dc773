//! `options`: how to sample, and how much context.

use serde_json::Value;

use crate::dialects::chat::Chat;
use crate::fields::{FieldError, Fields};

/// Numbers that engines take under the same names.
const NUMBERS: [&str; 13] = [
    "temperature",
    "top_k",
    "top_p",
    "min_p",
    "typical_p",
    "seed",
    "repeat_penalty",
    "repeat_last_n",
    "presence_penalty",
    "frequency_penalty",
    "mirostat",
    "mirostat_tau",
    "mirostat_eta",
];

/// Takes the options over. Every other one is about how Ollama starts its engine, or unknown, and is told.
///
/// Returns the least context in tokens.
pub(super) fn read(fields: &Fields<'_>, chat: &mut Chat) -> Result<Option<u64>, FieldError> {
    let Some(options) = fields.object("options")? else { return Ok(None) };
    let mut context_length = None;
    for (name, value) in options.present() {
        match name {
            "num_predict" => chat.max_tokens = most_tokens(&options, value)?,
            "num_ctx" => context_length = options.whole_number("num_ctx", 1)?,
            "stop" => chat.stop = options.texts("stop")?,
            _ if NUMBERS.contains(&name) => {
                if !value.is_number() {
                    return Err(options.error(name, "must be a number"));
                }
                chat.options.insert(name.to_owned(), value.clone());
            }
            _ => chat.ignored.push(options.name(name)),
        }
    }
    Ok(context_length)
}

/// 0 and less stand for no limit.
fn most_tokens(options: &Fields<'_>, value: &Value) -> Result<Option<u64>, FieldError> {
    if value.as_f64().is_some_and(|tokens| tokens <= 0.0) {
        return Ok(None);
    }
    options.whole_number("num_predict", 1)
}
