//! A request for a completion, checked before a worker sees it.

use std::collections::BTreeMap;
use std::time::Duration;

use axum::extract::Request;
use bytes::Bytes;
use serde_json::value::RawValue;

use super::problem::GatewayProblem;
use crate::config::KeepAlive;
use crate::error::{Code, Failure};
use crate::http::body::json_bytes;
use crate::http::numbers;
use crate::workers::Conversation;

/// The largest request, in bytes: with a few photographs, which are in Base64.
pub(super) const BODY_LIMIT: usize = 32 << 20;

/// A request for a completion, a chat completion or embeddings.
#[derive(Debug)]
pub(super) struct Completion {
    /// The model that it names.
    pub(super) model: String,
    /// Whether it asks for a stream of events.
    pub(super) streams: bool,
    /// Its messages.
    pub(super) conversation: Conversation,
    /// How long the worker that answers it stays without a request, which is Ollama's field.
    pub(super) keep_alive: Option<KeepAlive>,
    pub(super) body: Bytes,
}

impl Completion {
    /// Reads and checks the body, which must arrive within `time_limit`.
    ///
    /// # Errors
    /// Those of [`json_bytes`]; [`Code::InvalidField`] if the body is not an object, has no string
    /// `model`, or has a number outside its range (see [`numbers`]).
    pub(super) async fn read(request: Request, time_limit: Duration) -> Result<Self, GatewayProblem> {
        let body = json_bytes(request, BODY_LIMIT, time_limit).await?;
        let fields: BTreeMap<String, &RawValue> = serde_json::from_slice(&body).map_err(|error| {
            Failure::new(Code::InvalidField, format!("the body is not a request object: {error}"))
                .hint(r#"send {"model":"ID","messages":[{"role":"user","content":"Hello"}]}"#)
        })?;
        for (name, value) in &fields {
            numbers::check(name, value)
                .map_err(|(field, failure)| GatewayProblem::at_field(field, failure))?;
        }
        let streams = fields.get("stream").is_some_and(|value| value.get() == "true");
        let (conversation, keep_alive) = (conversation(&fields), keep_alive(&fields)?);
        let model = fields.get("model");
        let model = model.and_then(|value| serde_json::from_str::<String>(value.get()).ok());
        match model.filter(|model| !model.is_empty()) {
            Some(model) => Ok(Self { model, streams, conversation, keep_alive, body }),
            None => Err(GatewayProblem::at_field(
                "model",
                Failure::new(Code::InvalidField, "the request has no string 'model'")
                    .hint("GET /v1/models lists the models and says which are loaded"),
            )),
        }
    }
}

/// The conversation of the messages. What is wrong with them is for the engine to say.
fn conversation(fields: &BTreeMap<String, &RawValue>) -> Conversation {
    let messages = fields.get("messages").and_then(|value| serde_json::from_str(value.get()).ok());
    let messages: Vec<&RawValue> = messages.unwrap_or_default();
    Conversation::of(messages.into_iter().map(RawValue::get))
}

fn keep_alive(fields: &BTreeMap<String, &RawValue>) -> Result<Option<KeepAlive>, GatewayProblem> {
    let Some(value) = fields.get("keep_alive") else { return Ok(None) };
    serde_json::from_str(value.get()).map_err(|error| {
        let failure = Failure::new(Code::InvalidField, format!("'keep_alive' is not valid: {error}"))
            .hint(r#"send a duration such as "10m", seconds, -1 for as long as there is room, or 0"#);
        GatewayProblem::at_field("keep_alive", failure)
    })
}
