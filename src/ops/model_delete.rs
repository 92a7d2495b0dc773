//! `ModelDelete`: removes a model that no worker serves.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::operation::{Context, Deadline, Operation};
use crate::error::{Code, Failure, Result};
use crate::jobs::{JobClass, OperationKind};
use crate::models::ModelId;
use crate::{n, text};

/// Removes one model.
#[derive(Debug, Deserialize, Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct ModelDelete {
    /// The model's id, or its name if only one model has it.
    id: ModelId,
    /// First stop the workers that serve it; also remove a model that the hive did not put there.
    #[serde(default)]
    force: bool,
}

/// The result.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = ModelDeleteResult)]
pub(super) struct Deleted {
    id: String,
    freed_bytes: u64,
}

impl Operation for ModelDelete {
    const NAME: &'static str = "ModelDelete";
    const VERB: &'static str = "rm";
    const KIND: OperationKind = OperationKind::Act;
    const CLASS: JobClass = JobClass::Acts;
    const DEADLINE: Deadline = Deadline::Act;
    const FREES: bool = true;

    type Output = Deleted;

    async fn run(self, cx: Context) -> Result<Self::Output> {
        n!("model_delete", "🗑️ Deleting model '{}' on hive '{}'", self.id, cx.hive_id);
        let model = cx.app.find_model(&self.id).await?;
        let workers = cx.app.workers.of_model(&model.id);
        if !workers.is_empty() && !self.force {
            let pids: Vec<_> = workers.iter().map(|worker| worker.pid.to_string()).collect();
            return Err(Failure::new(
                Code::ModelInUse,
                format!("the model '{}' is served by worker(s) {}", model.id, pids.join(", ")),
            )
            .hint("unload it with ModelUnload first, or delete it with force: true"));
        }
        for worker in workers {
            n!("model_delete", "Stopping worker {} first", worker.pid);
            cx.app.workers.stop(worker.pid, *cx.app.config.timers.stop_grace).await?;
        }
        let freed_bytes = cx.app.catalog.delete(&model, self.force).await?;
        cx.app.publish_model_change("removed", &model);
        n!("model_delete", "Deleted '{}'; {} freed", model.id, text::bytes(freed_bytes));
        Ok(Deleted { id: model.id, freed_bytes })
    }
}
