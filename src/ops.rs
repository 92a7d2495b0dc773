//! The operation table, and the one road that leads to it.
//!
//! [`TABLE`] is the only list of what the hive does. A new operation costs one file, one `mod` line
//! and one row; both spellings on the wire, the routing and the tests that every operation must
//! pass follow from the row.
//!
//! [`route_operation`] is the only place that sets the narration context. It does so for every
//! operation alike, before anything looks at which one it is.

mod hive_check;
mod model_delete;
mod model_download;
mod model_get;
mod model_list;
mod model_load;
mod model_unload;
mod parse;
mod refused;
mod worker_process_delete;
mod worker_process_get;
mod worker_process_list;
mod worker_spawn;

use std::time::Duration;

use futures::FutureExt;
use futures::future::BoxFuture;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use serde_json::value::RawValue;
use tokio_util::sync::CancellationToken;

use crate::app::AppState;
use crate::config::Timers;
use crate::error::{Failure, Result};
use crate::jobs::event::Terminal;
use crate::jobs::run::{Work, conduct};
use crate::jobs::{Class, JobId, Kind};
use crate::n;
use crate::narration::{NarrationContext, with_narration_context};

pub use parse::{Submission, parse};
pub use refused::{REFUSED, Refused};

/// Every operation of the hive.
pub static TABLE: &[Row] = &[
    Row::new::<hive_check::HiveCheck>("HiveCheck", "hive_check", Kind::Read, Class::Reads, Deadline::Read)
        .hive_field("alias"),
    Row::new::<model_list::ModelList>("ModelList", "model_list", Kind::Read, Class::Reads, Deadline::Read),
    Row::new::<model_get::ModelGet>("ModelGet", "model_get", Kind::Read, Class::Reads, Deadline::Read),
    Row::new::<model_download::ModelDownload>(
        "ModelDownload",
        "model_download",
        Kind::Act,
        Class::Downloads,
        Deadline::None,
    ),
    Row::new::<model_delete::ModelDelete>(
        "ModelDelete",
        "model_delete",
        Kind::Act,
        Class::Acts,
        Deadline::Act,
    ),
    Row::new::<model_load::ModelLoad>("ModelLoad", "model_load", Kind::Act, Class::Loads, Deadline::None),
    Row::new::<model_unload::ModelUnload>(
        "ModelUnload",
        "model_unload",
        Kind::Act,
        Class::Acts,
        Deadline::Act,
    ),
    Row::new::<worker_spawn::WorkerSpawn>(
        "WorkerSpawn",
        "worker_spawn",
        Kind::Act,
        Class::Loads,
        Deadline::None,
    ),
    Row::new::<worker_process_list::WorkerProcessList>(
        "WorkerProcessList",
        "worker_process_list",
        Kind::Read,
        Class::Reads,
        Deadline::Read,
    ),
    Row::new::<worker_process_get::WorkerProcessGet>(
        "WorkerProcessGet",
        "worker_process_get",
        Kind::Read,
        Class::Reads,
        Deadline::Read,
    ),
    Row::new::<worker_process_delete::WorkerProcessDelete>(
        "WorkerProcessDelete",
        "worker_process_delete",
        Kind::Act,
        Class::Acts,
        Deadline::Act,
    ),
];

/// One operation of the table.
#[derive(Debug)]
pub struct Row {
    /// The name as the key of a one-field object: `ModelList`.
    pub name: &'static str,
    /// The name as the value of `operation`, and everywhere else: `model_list`.
    pub wire_name: &'static str,
    /// Whether it only looks.
    pub kind: Kind,
    /// The limit that it counts against.
    pub class: Class,
    /// How long it may take.
    pub deadline: Deadline,
    /// The field that names the hive, besides `hive_id`.
    pub hive_field: &'static str,
    decode: fn(Value) -> Result<Decoded, parse::FieldError>,
}

/// A request that has been understood.
struct Decoded {
    call: Box<dyn Call>,
    /// The request's own fields, with every default filled in.
    request: Value,
}

/// How long an operation may take once it has started.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Deadline {
    /// As long as a read may.
    Read,
    /// As long as an act may.
    Act,
    /// As long as it likes: what it does has limits of its own.
    None,
}

impl Deadline {
    /// The deadline under these timers.
    #[must_use]
    pub fn after(self, timers: &Timers) -> Option<Duration> {
        match self {
            Self::Read => Some(*timers.read_deadline),
            Self::Act => Some(*timers.act_deadline),
            Self::None => None,
        }
    }
}

/// What an operation's file provides: its request type, which is this trait's implementor, and
/// what to do with it.
pub trait Operation: DeserializeOwned + Serialize + Send + 'static {
    /// What it answers: the result line.
    type Output: Serialize;

    /// Does it, narrating. Whatever can take long must also listen to `cx.stop`.
    fn run(self, cx: Cx) -> impl Future<Output = Result<Self::Output>> + Send;
}

/// What an operation is given besides its request.
#[derive(Clone, Debug)]
pub struct Cx {
    /// The hive.
    pub app: AppState,
    /// The name by which the caller addressed it.
    pub hive_id: String,
    /// The job.
    pub job_id: JobId,
    /// Cancelled when the job is to stop: tidy up, say what was kept, and return.
    pub stop: CancellationToken,
}

/// An operation ready to run, whichever it is.
pub trait Call: Send {
    /// Runs it and narrates its result.
    fn run(self: Box<Self>, cx: Cx) -> BoxFuture<'static, Result<()>>;
}

impl<T: Operation> Call for T {
    fn run(self: Box<Self>, cx: Cx) -> BoxFuture<'static, Result<()>> {
        async move {
            let output = Operation::run(*self, cx).await?;
            let result: Box<RawValue> = serde_json::value::to_raw_value(&output)
                .map_err(|error| Failure::internal("the result did not serialise").detail(error))?;
            n!(result: result);
            Ok(())
        }
        .boxed()
    }
}

impl Row {
    const fn new<T: Operation>(
        name: &'static str,
        wire_name: &'static str,
        kind: Kind,
        class: Class,
        deadline: Deadline,
    ) -> Self {
        Self { name, wire_name, kind, class, deadline, hive_field: "hive_id", decode: parse::decode::<T> }
    }

    const fn hive_field(mut self, field: &'static str) -> Self {
        self.hive_field = field;
        self
    }
}

/// Runs one operation inside its job's narration context, whichever operation it is, to its end.
pub(crate) async fn route_operation(work: Work, context: NarrationContext) -> Terminal {
    with_narration_context(context, async move {
        n!(debug: "route", "Routing {} for hive '{}'", work.row.wire_name, work.hive_id);
        conduct(work).await
    })
    .await
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `ModelList` -> `model_list`
    fn snake(name: &str) -> String {
        let mut snake = String::new();
        for (i, c) in name.char_indices() {
            if c.is_ascii_uppercase() && i > 0 {
                snake.push('_');
            }
            snake.push(c.to_ascii_lowercase());
        }
        snake
    }

    #[test]
    fn both_names_of_a_row_agree_and_no_two_rows_share_one() {
        let mut names: Vec<_> = TABLE.iter().map(|row| row.name).collect();
        for row in TABLE {
            assert_eq!(snake(row.name), row.wire_name);
        }
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), TABLE.len());
    }

    #[test]
    fn every_row_has_a_file_and_every_file_a_row() {
        let dir = concat!(env!("CARGO_MANIFEST_DIR"), "/src/ops");
        let mut files: Vec<_> = std::fs::read_dir(dir)
            .unwrap()
            .map(|entry| entry.unwrap().path().file_stem().unwrap().to_str().unwrap().to_owned())
            .filter(|file| !["parse", "refused"].contains(&file.as_str()))
            .collect();
        let mut rows: Vec<_> = TABLE.iter().map(|row| row.wire_name.to_owned()).collect();
        files.sort();
        rows.sort();
        assert_eq!(files, rows);
    }
}
