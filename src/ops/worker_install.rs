//! `WorkerInstall`: installs an engine, or another version of it, once it has proved itself.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::operation::{Context, Deadline, Operation};
use crate::engines::{InstallRequest, Installation, Wanted};
use crate::error::Result;
use crate::jobs::{JobClass, OperationKind};
use crate::n;

/// Installs one engine.
#[derive(Debug, Deserialize, Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct WorkerInstall {
    /// The engine's id, such as `llama-server-cpu`.
    worker_id: String,
    /// The release; the version before, to go back to it.
    #[serde(default = "latest")]
    version: String,
    /// Where it comes from.
    #[serde(default)]
    from: Wanted,
    /// Answer with the plan, and do nothing.
    #[serde(default)]
    dry_run: bool,
}

fn latest() -> String {
    "latest".to_owned()
}

impl Operation for WorkerInstall {
    const NAME: &'static str = "WorkerInstall";
    const VERB: &'static str = "engines install";
    const KIND: OperationKind = OperationKind::Act;
    const CLASS: JobClass = JobClass::Downloads;
    const DEADLINE: Deadline = Deadline::None;

    type Output = Installation;

    async fn run(self, cx: Context) -> Result<Self::Output> {
        let Self { worker_id, version, from, dry_run } = self;
        n!("worker_install", "📦 Installing engine '{worker_id}' ({version}) on hive '{}'", cx.hive_id);
        let request = InstallRequest { worker_id, version, from };
        if dry_run {
            return cx
                .app
                .engines
                .plan_install(&request)
                .await
                .map(|plan| Installation::Planned(Box::new(plan)));
        }
        let installed = cx.app.engines.install(&request, &cx.stop).await?;
        Ok(Installation::Done(Box::new(installed)))
    }
}
