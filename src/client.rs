//! A typed client of a hive: what the command line uses, for programs in Rust.
//!
//! ```no_run
//! use rbee_hive::client::{Client, Followed};
//! use rbee_hive::jobs::event::Body;
//! use rbee_hive::models::Model;
//! use serde_json::json;
//!
//! # async fn example() -> Result<(), rbee_hive::client::Error> {
//! let hive = Client::connect("http://127.0.0.1:7835".parse()?, None)?;
//!
//! // An operation, to its end.
//! let models: Vec<Model> = hive.run(&json!({ "ModelList": {} })).await?;
//!
//! // The same in steps: submit it, then follow what its job tells.
//! let job = hive.submit(&json!({ "ModelLoad": { "id": models[0].id } })).await?;
//! let mut follow = hive.follow(job.as_str());
//! while let Some(followed) = follow.next().await? {
//!     if let Followed::Event(event) = followed
//!         && let Body::Narration { message, .. } = event.body
//!     {
//!         println!("{message}");
//!     }
//! }
//! # Ok(())
//! # }
//! ```
//!
//! Operations, results and events are those of `docs/EVENTS.md`.
//!
//! Invariants:
//! - A submission that is repeated after a lost connection makes no second job: each has an
//!   `Idempotency-Key` of its own.
//! - A stream that is followed goes on, after a lost connection, behind the last event that it gave out.
//! - The token goes only to the hive that it is for: no redirect is followed.

mod follow;
mod hive_events;
mod gateway;
mod stream;
mod connection;
mod host;
mod error;

use bytes::Bytes;
use futures::Stream;
use http::Method;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::jobs::event::{Body, Terminal};
use crate::jobs::job::JobSummary;
use crate::jobs::{JobId, JobPage, JobState};
use connection::{Connection, segment};

pub use error::{Error, Result};
pub use follow::{Follow, Followed};
pub use gateway::{ChatPart, ChatStream};
pub use hive_events::{HiveEvent, HiveEvents};
pub use host::{Host, Token};

/// A client of one hive. Cheap to clone; its clones share their connections.
#[derive(Clone, Debug)]
pub struct Client {
    connection: Connection,
}

/// Which jobs [`Client::jobs`] asks for.
#[derive(Clone, Debug, Default, Serialize)]
pub struct JobQuery {
    /// Only those in this state.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub state: Option<JobState>,
    /// Only those of this operation, in `snake_case`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub operation: Option<String>,
    /// Those of that hive of the fleet, or of `all`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hive: Option<String>,
    /// At most so many, 1 to 1000.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub limit: Option<usize>,
    /// The `next_cursor` of the page before.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cursor: Option<String>,
}

impl Client {
    /// A client of the hive at that address. It connects with its first request.
    ///
    /// # Errors
    /// [`Error::Unreachable`] if the client cannot be set up, such as where the system has no certificates for
    /// an `https` address.
    pub fn connect(host: Host, token: Option<Token>) -> Result<Self> {
        Ok(Self { connection: Connection::open(host, token)? })
    }

    /// Where the hive is.
    #[must_use]
    pub fn host(&self) -> &Host {
        self.connection.host()
    }

    /// Submits an operation, in either spelling: `{"ModelGet":{"id":"x"}}`. Gives the id of its job, which runs
    /// whether or not anybody follows it.
    ///
    /// # Errors
    /// [`Error::Refused`] if it is no operation, or may not be submitted; [`Error::Unreachable`].
    pub async fn submit(&self, operation: &Value) -> Result<JobId> {
        #[derive(serde::Deserialize)]
        struct Created {
            job_id: JobId,
        }
        let key = uuid::Uuid::new_v4().to_string();
        let request = || self.connection.request(Method::POST, "/v1/jobs").header("idempotency-key", &key);
        let Created { job_id } = self.connection.json_again(|| request().json(operation)).await?;
        Ok(job_id)
    }

    /// Follows a job from its first event on.
    #[must_use]
    pub fn follow(&self, job: &str) -> Follow {
        Follow::new(self.connection.clone(), job)
    }

    /// Runs an operation to its end and gives its result.
    ///
    /// # Errors
    /// [`Error::Failed`] or [`Error::Cancelled`], as its job ended; those of [`Client::submit`]; a result that is
    /// no `T` is [`Error::Failed`].
    pub async fn run<T: DeserializeOwned>(&self, operation: &Value) -> Result<T> {
        let job = self.submit(operation).await?;
        let mut follow = self.follow(job.as_str());
        let mut result = None;
        while let Some(followed) = follow.next().await? {
            let Followed::Event(event) = followed else { continue };
            match event.body {
                Body::Narration { .. } => {}
                Body::Result(data) => result = Some(data),
                Body::Terminal(Terminal::Done) => break,
                Body::Terminal(Terminal::Failed(failure)) => return Err(Error::failed(&failure)),
                Body::Terminal(Terminal::Cancelled) => return Err(Error::Cancelled),
            }
        }
        let result = result.as_ref().map_or("null", |data| data.get());
        serde_json::from_str(result).map_err(|error| Error::unexpected(&error))
    }

    /// `GET /v1/jobs`: the newest jobs first.
    ///
    /// # Errors
    /// [`Error::Refused`] for a query that is not valid; [`Error::Unreachable`].
    pub async fn jobs(&self, query: &JobQuery) -> Result<JobPage> {
        self.connection.json(self.connection.request(Method::GET, "/v1/jobs").query(query)).await
    }

    /// `GET /v1/jobs/{job_id}`
    ///
    /// # Errors
    /// [`Error::Refused`] with `job_not_found`; [`Error::Unreachable`].
    pub async fn job(&self, job: &str) -> Result<JobSummary> {
        self.get(&format!("/v1/jobs/{}", segment(job))).await
    }

    /// `DELETE /v1/jobs/{job_id}`: cancels a job, and waits for its end.
    ///
    /// # Errors
    /// [`Error::Refused`] with `job_not_found` or `job_ended`; [`Error::Unreachable`].
    pub async fn cancel(&self, job: &str) -> Result<()> {
        let request = self.connection.request(Method::DELETE, &format!("/v1/jobs/{}", segment(job)));
        self.connection.send(request).await.map(drop)
    }

    /// `GET /health`: whether the hive answers.
    ///
    /// # Errors
    /// [`Error::Unreachable`].
    pub async fn health(&self) -> Result<()> {
        self.connection.send(self.connection.request(Method::GET, "/health")).await.map(drop)
    }

    /// `GET /v1/capabilities`: the devices and the engines of the hive's machine.
    ///
    /// # Errors
    /// [`Error::Refused`] without the hive's token; [`Error::Unreachable`].
    pub async fn capabilities(&self) -> Result<Value> {
        self.get("/v1/capabilities").await
    }

    /// `POST /v1/reload`: reads the hive's settings again.
    ///
    /// # Errors
    /// [`Error::Refused`] if the settings are not valid; [`Error::Unreachable`].
    pub async fn reload(&self) -> Result<Value> {
        self.post("/v1/reload", &Value::Object(serde_json::Map::new())).await
    }

    /// `POST /v1/shutdown`: stops the hive.
    ///
    /// # Errors
    /// [`Error::Refused`] without the hive's token; [`Error::Unreachable`].
    pub async fn shutdown(&self) -> Result<()> {
        let request = self.connection.request(Method::POST, "/v1/shutdown");
        self.connection.send(request.json(&serde_json::json!({}))).await.map(drop)
    }

    /// `GET /v1/events`: the changes of the whole hive, a snapshot first.
    #[must_use]
    pub fn events(&self) -> HiveEvents {
        HiveEvents::new(self.connection.clone())
    }

    /// `GET /v1/workers/{pid}/log`: a worker's log, as the bytes come; with `follow` until the worker is gone.
    ///
    /// # Errors
    /// [`Error::Refused`] with `worker_not_found`; [`Error::Unreachable`], also of an item, where the connection is
    /// lost.
    pub async fn worker_log(
        &self,
        pid: u32,
        follow: bool,
    ) -> Result<impl Stream<Item = Result<Bytes>> + use<>> {
        let path = format!("/v1/workers/{pid}/log?follow={follow}");
        self.connection.bytes(self.connection.request(Method::GET, &path)).await
    }

    /// `GET /v1/models/{id}`: a model, a variant or an alias, by whatever names it, as the gateway's clients see it.
    ///
    /// # Errors
    /// [`Error::Refused`] with `model_not_found` or `model_ambiguous`; [`Error::Unreachable`].
    pub async fn model(&self, name: &str) -> Result<Value> {
        self.get(&format!("/v1/models/{}", segment(name))).await
    }

    /// `POST /v1/chat/completions`, streamed: what it waits for, and the chunks of the answer, as OpenAI's API has them. `request` is the
    /// body; its `stream` is set.
    ///
    /// # Errors
    /// [`Error::Refused`], also where the model could not be loaded; [`Error::Unreachable`].
    pub async fn chat(&self, request: &Value) -> Result<ChatStream> {
        ChatStream::open(&self.connection, request).await
    }

    /// `POST /v1/embeddings`
    ///
    /// # Errors
    /// As [`Client::chat`].
    pub async fn embeddings(&self, request: &Value) -> Result<Value> {
        self.post("/v1/embeddings", request).await
    }

    /// Any other route that answers with JSON. `path` begins with `/`, and may have a query.
    ///
    /// # Errors
    /// [`Error::Refused`]; [`Error::Unreachable`].
    pub async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T> {
        self.connection.json(self.connection.request(Method::GET, path)).await
    }

    /// Any other route that takes and answers with JSON. `path` begins with `/`.
    ///
    /// # Errors
    /// [`Error::Refused`]; [`Error::Unreachable`].
    pub async fn post<T: DeserializeOwned>(&self, path: &str, body: &Value) -> Result<T> {
        self.connection.json(self.connection.request(Method::POST, path).json(body)).await
    }
}
