//! `ModelUnload`: stops every worker of a model, or of one variant of it, and succeeds once they are gone.

use std::sync::Arc;

use futures::future::join_all;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::operation::{Context, Deadline, Operation};
use crate::app::AppState;
use crate::error::{Code, Failure, Result};
use crate::fleet::Offer;
use crate::jobs::{JobClass, OperationKind};
use crate::models::ModelId;
use crate::{n, text};

/// Stops every worker that serves a model.
#[derive(Debug, Deserialize, Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct ModelUnload {
    /// The model's id, its name if only one model has it, an alias, or one of these with `@VARIANT`.
    id: ModelId,
}

/// The result.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = ModelUnloadResult)]
pub(super) struct Unloaded {
    id: String,
    workers: Vec<u32>,
    freed_bytes: u64,
}

impl Operation for ModelUnload {
    const NAME: &'static str = "ModelUnload";
    const VERB: &'static str = "unload";
    const KIND: OperationKind = OperationKind::Act;
    const CLASS: JobClass = JobClass::Acts;
    const DEADLINE: Deadline = Deadline::Act;
    const FREES: bool = true;

    type Output = Unloaded;

    async fn offer(&self, app: &AppState) -> Result<Offer> {
        let id = app.served_id(self.id.as_str()).await?;
        let workers = app.workers.of_model(&id);
        if workers.is_empty() {
            return Err(Failure::new(Code::ModelNotLoaded, format!("no worker serves the model '{id}'")));
        }
        let free_bytes = workers.iter().map(|worker| worker.rss_bytes).sum();
        let words = format!("{} worker(s) serve '{id}' there", workers.len());
        Ok(Offer { rank: Offer::HAS_IT, free_bytes, words, begins: None })
    }

    async fn run(self, cx: Context) -> Result<Self::Output> {
        n!("model_unload", "🛑 Unloading model '{}' on hive '{}'", self.id, cx.hive_id);
        // A worker may serve a model whose file is gone: the workers know their model too.
        let id = match cx.app.find_target(self.id.as_str()).await {
            Ok(target) => target.served_id(),
            Err(_) if cx.app.workers.serves(self.id.as_str()) => self.id.to_string(),
            Err(failure) => return Err(failure),
        };
        let given_up = cx.app.workers.give_up(&id);
        for pid in &given_up {
            n!("model_unload", "Worker {pid} had crashed before; it is not started again");
        }
        let workers: Vec<u32> = cx.app.workers.of_model(&id).iter().map(|worker| worker.pid).collect();
        // A crashed worker that waits for its restart counts as one to unload.
        if workers.is_empty() && given_up.is_empty() {
            return Err(Failure::new(Code::ModelNotLoaded, format!("no worker serves the model '{id}'"))
                .hint("nothing needs to be done; WorkerProcessList shows what is loaded"));
        }
        let admissions = cx.app.residency.admissions();
        let (served, failure) = (id.as_str().into(), Arc::new(unloaded(&id)));
        // Before the end of its workers, so that no request loads it again meanwhile, and after it, for those that
        // waited longer than that holds.
        admissions.fail(&served, Arc::clone(&failure));
        let grace = *cx.app.config.timers.stop_grace;
        let stopped = join_all(workers.iter().map(|pid| cx.app.workers.stop(*pid, grace))).await;
        admissions.fail(&served, failure);
        admissions.reset(&served);
        let (mut gone, mut freed_bytes) = (0, 0);
        for stopped in stopped {
            let stopped = stopped?;
            gone += usize::from(stopped.proven);
            freed_bytes += stopped.freed_bytes;
        }
        if let Ok(target) = cx.app.find_target(self.id.as_str()).await {
            cx.app.publish_model_change("unloaded", &target.model);
        }
        let freed = text::bytes(freed_bytes);
        if gone == workers.len() {
            n!("model_unload", "Unloaded '{id}': {gone} worker(s) gone, {freed} freed");
        } else {
            n!(
                warn: "model_unload",
                "Unloaded '{id}', but only {gone} of {} worker(s) were seen to be gone; {freed} freed",
                workers.len()
            );
        }
        Ok(Unloaded { id, workers, freed_bytes })
    }
}

/// The failure of the requests that wait for a model that somebody unloads.
fn unloaded(id: &str) -> Failure {
    Failure::new(
        Code::ModelNotLoaded,
        format!("the model '{id}' was unloaded while the request waited for it"),
    )
    .hint("somebody unloaded it by ModelUnload: ask again to load it")
}
