//! What an operation's file provides, and what an operation gets when it runs.

use std::time::Duration;

use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio_util::sync::CancellationToken;
use utoipa::ToSchema;

use crate::app::AppState;
use crate::config::{Role, Timers};
use crate::error::{Code, Failure, Result};
use crate::fleet::Offer;
use crate::jobs::{JobClass, JobId, OperationKind};

/// One operation. The implementing type is its request: its fields, their types and their defaults are
/// those of the wire, and the schemas of both types are those of the API's description.
pub trait Operation: DeserializeOwned + Serialize + ToSchema + Send + Sync + 'static {
    /// The name as the key of a one-field object, such as `ModelList`. The other spelling, `model_list`,
    /// follows from it.
    const NAME: &'static str;
    /// The verb of the command line that submits it, such as `pull` or `engines install`.
    const VERB: &'static str;
    /// Whether it only reads or changes something.
    const KIND: OperationKind;
    /// The limit that it counts against.
    const CLASS: JobClass;
    /// How long it may take.
    const DEADLINE: Deadline;
    /// The role that a caller's token needs.
    const ROLE: Role = match Self::KIND {
        OperationKind::Read => Role::Read,
        OperationKind::Act => Role::Manage,
    };
    /// Whether it frees space or stops something, and so runs even where its journal cannot be written.
    const FREES: bool = false;
    /// The field that names the hive, besides `hive_id`.
    const HIVE_FIELD: &'static str = "hive_id";

    /// The result.
    type Output: Serialize + ToSchema;

    /// What this hive offers for the operation, where any hive of a fleet may run it. Narrates nothing.
    ///
    /// # Errors
    /// Why this hive cannot run it; by default, that it is for one hive that the caller names.
    fn offer(&self, app: &AppState) -> impl Future<Output = Result<Offer>> + Send {
        let _ = app;
        std::future::ready(Err(Failure::new(
            Code::InvalidField,
            format!("field `hive_id`: {} needs the name of one hive, not 'any'", Self::NAME),
        )
        .hint("ModelLoad, ModelUnload, ModelDownload, WorkerSpawn and operations that only read take 'any'")))
    }

    /// Runs the operation and narrates what it does. Whatever can take long must also listen to
    /// `cx.stop`.
    fn run(self, cx: Context) -> impl Future<Output = Result<Self::Output>> + Send;
}

/// What an operation gets besides its request.
#[derive(Clone, Debug)]
pub struct Context {
    /// The hive.
    pub app: AppState,
    /// The name by which the caller addressed the hive.
    pub hive_id: String,
    /// The job that runs the operation.
    pub job_id: JobId,
    /// Cancelled when the job is to stop: tidy up, say what was kept, and return.
    pub stop: CancellationToken,
}

/// How long an operation may take once it has started.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Deadline {
    /// As long as a read may.
    Read,
    /// As long as an act may.
    Act,
    /// No deadline: its work has limits of its own.
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
