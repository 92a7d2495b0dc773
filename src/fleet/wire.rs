//! What hives ask each other for over NATS, as JSON. Unknown fields are ignored, and an unknown request is refused, so
//! that hives of several versions work together.

use bytes::Bytes;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::error::{Code, Failure, Result};
use crate::jobs::job::JobHeader;
use crate::jobs::{JobId, JobState};
use crate::text::json;

/// The requests to one hive, by the last token of the subject.
pub(super) mod verb {
    pub(in crate::fleet) const SUBMIT: &str = "submit";
    pub(in crate::fleet) const OFFER: &str = "offer";
    pub(in crate::fleet) const FOLLOW: &str = "follow";
    pub(in crate::fleet) const CANCEL: &str = "cancel";
    pub(in crate::fleet) const LIST: &str = "jobs";
    /// What is this model, for a copy of it?
    pub(in crate::fleet) const SHEET: &str = "sheet";
    /// Has it this model?
    pub(in crate::fleet) const HAS: &str = "has";
    /// To the hive on duty: keep this model on so many hives.
    pub(in crate::fleet) const PLACE: &str = "place";
    /// Has it this file?
    pub(in crate::fleet) const BLOB: &str = "blob";
    /// To everyone: who has this job?
    pub(in crate::fleet) const FIND: &str = "find";
}

/// An operation for another hive.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(crate) struct Submit {
    /// The operation, in its `operation` spelling.
    pub(crate) request: Box<RawValue>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) idempotency_key: Option<String>,
    /// The hive that was asked. The fleet fills it in, and `inbox`.
    pub(crate) from: String,
    /// The caller there, for the audit log.
    #[serde(default)]
    pub(crate) caller: String,
    /// Why this hive was chosen, where it could have been another.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) placed: Option<String>,
    /// Where the events of a read go.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) inbox: Option<String>,
}

/// The job of an operation.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Made {
    pub(crate) job: JobHeader,
    /// Whether an earlier submission with the same key made it.
    #[serde(default)]
    pub(crate) repeated: bool,
}

/// Asks for a job.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct OfJob {
    pub(super) job_id: JobId,
    /// The last event that the asker has.
    #[serde(default)]
    pub(super) after: u64,
    /// Where the events go.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) inbox: Option<String>,
}

/// Who has a job.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Found {
    pub(super) hive: String,
    pub(super) job: JobHeader,
}

/// Asks what a model is.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct OfModel {
    /// Its id or name.
    pub(super) model: String,
}

/// Whether a hive has a model.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct HasModel {
    pub(crate) is_here: bool,
    /// In bytes; 0 where it is not here.
    pub(crate) size_bytes: u64,
    /// The job that copies it to that hive.
    pub(crate) copying: Option<JobId>,
}

/// Asks for a file of a model.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct OfBlob {
    /// In lower-case hexadecimal.
    pub(super) sha256: String,
}

/// Whether a hive has a file.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct HasBlob {
    /// Whether it has all of it.
    pub(super) complete: bool,
}

/// Asks for a page of jobs.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct List {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) state: Option<JobState>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) operation: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) before: Option<JobId>,
    pub(crate) limit: usize,
}

/// An answer.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Reply<T> {
    Done(T),
    Refused(Box<Failure>),
}

pub(super) fn encode(value: &impl Serialize) -> Bytes {
    json(value).into()
}

/// Reads a request.
///
/// # Errors
/// [`Code::InvalidJson`] if it is of another form.
pub(super) fn request<T: DeserializeOwned>(payload: &[u8]) -> Result<T> {
    serde_json::from_slice(payload).map_err(|error| {
        Failure::new(Code::InvalidJson, format!("a request of another hive was not understood: {error}"))
            .hint("the hives of the fleet may be of different versions: update the older one")
    })
}

/// Writes an answer.
pub(super) fn reply<T: Serialize>(result: Result<T>) -> Bytes {
    encode(&match result {
        Ok(done) => Reply::Done(done),
        Err(failure) => Reply::Refused(Box::new(failure)),
    })
}

/// Reads an answer of `hive`.
///
/// # Errors
/// What that hive answered; [`Code::HiveUnreachable`] if it cannot be understood.
pub(super) fn answer<T: DeserializeOwned>(hive: &str, payload: &[u8]) -> Result<T> {
    match serde_json::from_slice(payload) {
        Ok(Reply::Done(done)) => Ok(done),
        Ok(Reply::Refused(failure)) => Err(*failure),
        Err(error) => Err(Failure::new(
            Code::HiveUnreachable,
            format!("the answer of hive '{hive}' was not understood"),
        )
        .hint("the hives of the fleet may be of different versions: update the older one")
        .detail(error)),
    }
}
