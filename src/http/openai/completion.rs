//! A request for a completion, checked before a worker sees it.

use std::collections::BTreeMap;
use std::time::Duration;

use axum::extract::Request;
use bytes::Bytes;
use serde_json::value::RawValue;

use super::problem::GatewayProblem;
use crate::error::{Code, Failure};
use crate::http::body::json_bytes;
use crate::http::numbers;

/// The largest request, in bytes: with a few photographs, which are in Base64.
pub(super) const BODY_LIMIT: usize = 32 << 20;

/// A request for a completion, a chat completion or embeddings.
#[derive(Debug)]
pub(super) struct Completion {
    /// The model that it names.
    pub(super) model: String,
    /// Whether it asks for a stream of events.
    pub(super) streams: bool,
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
        let model = fields.get("model");
        let model = model.and_then(|value| serde_json::from_str::<String>(value.get()).ok());
        match model.filter(|model| !model.is_empty()) {
            Some(model) => Ok(Self { model, streams, body }),
            None => Err(GatewayProblem::at_field(
                "model",
                Failure::new(Code::InvalidField, "the request has no string 'model'")
                    .hint("GET /v1/models lists the models and says which are loaded"),
            )),
        }
    }
}
