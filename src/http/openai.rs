//! The gateway: OpenAI's API, answered by the workers of loaded models.
//!
//! A request is read once ([`Completion::read`]), its model is found, and [`relay`] passes the body
//! on byte for byte and the answer back as it arrives. Invariants:
//! - Nothing of the client's head travels to the worker, and the worker's secret travels nowhere
//!   else.
//! - Whatever holds the request in flight (the guard) lives in the answer's body: when the client
//!   goes away the body is dropped, which closes the connection to the worker and so ends the
//!   generation.
//! - A worker's answer reaches the client only as JSON or as an event stream. Anything else may hold
//!   what was never meant for a client, and is replaced by a problem.

mod relay;
mod routes;

use std::fmt;
use std::time::Duration;

use axum::extract::Request;
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use serde::Serialize;
use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};
use serde_json::value::RawValue;

pub(crate) use routes::{chat_completions, model, models};

use relay::relay;

use super::body::json_bytes;
use super::numbers;
use super::problem::Problem;
use crate::error::{Code, Failure};
use crate::models::{Model, Status};
use crate::text::excerpt;

/// The largest request, in bytes.
const BODY_LIMIT: usize = 4 << 20;
/// Loaded models that a refusal names at most.
const MOST_NAMED: usize = 5;

/// Whether a path is the gateway's, whose errors speak OpenAI's language too.
pub(crate) fn is_route(path: &str) -> bool {
    matches!(path, "/v1/models" | "/v1/chat/completions" | "/v1/completions" | "/v1/embeddings")
        || path.starts_with("/v1/models/")
}

/// A problem of the gateway: `?` on a [`Failure`] makes one.
#[derive(Debug)]
pub(crate) struct GatewayProblem(Problem);

impl From<Failure> for GatewayProblem {
    fn from(failure: Failure) -> Self {
        Self(Problem::from(failure).openai())
    }
}

impl IntoResponse for GatewayProblem {
    fn into_response(self) -> Response {
        self.0.into_response()
    }
}

fn at_field(field: &'static str, failure: Failure) -> GatewayProblem {
    GatewayProblem(Problem::from(failure).openai().param(field))
}

/// A request for a completion, a chat completion or embeddings.
#[derive(Debug)]
struct Completion {
    /// The model that it names.
    model: String,
    body: Bytes,
}

impl Completion {
    /// Reads and checks the body, which must arrive within `patience`.
    ///
    /// # Errors
    /// As [`json_bytes`]; [`Code::InvalidField`] where the body is not an object, names a field
    /// twice, has no string `model`, or a number outside its range (see [`numbers`]).
    async fn read(request: Request, patience: Duration) -> Result<Self, GatewayProblem> {
        let body = json_bytes(request, BODY_LIMIT, patience).await?;
        let Fields(fields) = serde_json::from_slice(&body).map_err(|error| {
            Failure::new(Code::InvalidField, format!("the body is not a request object: {error}"))
                .hint(r#"send {"model":"ID","messages":[{"role":"user","content":"Hello"}]}"#)
        })?;
        for (name, value) in &fields {
            numbers::check(name, value).map_err(|(field, failure)| at_field(field, failure))?;
        }
        let model = fields.iter().find(|(name, _)| name == "model");
        let model = model.and_then(|(_, value)| serde_json::from_str::<String>(value.get()).ok());
        match model.filter(|model| !model.is_empty()) {
            Some(model) => Ok(Self { model, body }),
            None => Err(at_field(
                "model",
                Failure::new(Code::InvalidField, "the request has no string 'model'")
                    .hint("GET /v1/models lists the models and says which are loaded"),
            )),
        }
    }
}

/// The fields of a JSON object, in order, their values unread. A name that comes twice is an error,
/// because the gateway and an engine may each believe another one of the two.
struct Fields<'a>(Vec<(String, &'a RawValue)>);

impl<'de> Deserialize<'de> for Fields<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct InOrder;

        impl<'de> Visitor<'de> for InOrder {
            type Value = Fields<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a JSON object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut seen = std::collections::HashSet::new();
                let mut fields = Vec::new();
                while let Some((name, value)) = map.next_entry::<String, &'de RawValue>()? {
                    if !seen.insert(name.clone()) {
                        return Err(serde::de::Error::custom(format_args!(
                            "field '{}' comes twice",
                            excerpt(&name)
                        )));
                    }
                    fields.push((name, value));
                }
                Ok(Fields(fields))
            }
        }

        deserializer.deserialize_map(InOrder)
    }
}

/// The refusal for a model that exists and that no worker serves. `loaded` are the models that
/// workers serve now.
fn not_loaded(id: &str, loaded: &[String]) -> Failure {
    let load = serde_json::json!({"ModelLoad": {"id": id}});
    let others = match loaded {
        [] => "no model is loaded".to_owned(),
        some if some.len() <= MOST_NAMED => format!("loaded are: {}", some.join(", ")),
        some => format!("loaded are {} models, such as {}", some.len(), some[..MOST_NAMED].join(", ")),
    };
    Failure::new(Code::ModelNotLoaded, format!("the model '{id}' is not loaded"))
        .hint(format!("load it with POST /v1/jobs {load}; {others}"))
}

/// A model in OpenAI's form, and what a client of a hive wants to know beyond it.
#[derive(Debug, Serialize)]
pub(crate) struct Card {
    id: String,
    object: &'static str,
    /// Seconds since the Unix epoch.
    created: i64,
    owned_by: &'static str,
    name: String,
    /// Whether a worker serves it.
    loaded: bool,
    /// Whether it can be loaded at all.
    status: Status,
    size_bytes: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    context_length: Option<u64>,
}

impl Card {
    fn of(model: &Model, loaded: bool) -> Self {
        Self {
            id: model.id.clone(),
            object: "model",
            created: model.added_at.parse::<jiff::Timestamp>().map_or(0, jiff::Timestamp::as_second),
            owned_by: "rbee-hive",
            name: model.name.clone(),
            loaded,
            status: model.status,
            size_bytes: model.size_bytes,
            context_length: model.context_length,
        }
    }
}

/// The answer of `GET /v1/models`.
#[derive(Debug, Serialize)]
pub(crate) struct Cards {
    object: &'static str,
    data: Vec<Card>,
}

impl From<Vec<Card>> for Cards {
    fn from(data: Vec<Card>) -> Self {
        Self { object: "list", data }
    }
}

#[cfg(test)]
mod tests;
