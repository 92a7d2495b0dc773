//! Replaces a worker that has less than what is asked for.

use std::sync::Arc;

use tokio_util::sync::CancellationToken;

use super::handle::Handle;
use super::request::StartRequest;
use super::shared::Shared;
use super::start::start;
use super::start_error::StartError;
use super::stop;
use super::worker::Worker;
use crate::error::{Code, Failure};
use crate::n;
use crate::narration::waiting_for;

/// Ends `old` once it is idle, and starts a worker for the request that has at least what `old` had. The
/// two may not fit into memory together, so `old` ends first; where the start fails, it is started again.
pub(super) async fn replace(
    shared: &Arc<Shared>,
    old: &Arc<Handle>,
    request: StartRequest,
    stop: &CancellationToken,
) -> Result<Worker, StartError> {
    let has = old.worker();
    n!(
        "worker_replace",
        "Worker {} serves '{}' with {}, less than what is asked for: it is replaced once it is idle",
        has.pid,
        has.model,
        capacity(&has)
    );
    until_idle(old, stop).await?;
    stop::stop(&shared.registry, old, *shared.timers.stop_grace).await;
    let replaced = start(shared, request.or_more(&has), 0, stop).await;
    if let Err(error) = &replaced
        && !stop.is_cancelled()
    {
        n!(warn: "worker_replace", "{}; '{}' is started again as it was", error.failure, has.model);
        if let Err(again) = start(shared, old.request.clone(), 0, stop).await {
            n!(warn: "worker_replace", "'{}' could not be started again: {}", has.model, again.failure);
        }
    }
    replaced
}

/// Waits until the worker answers no request, or has ended.
async fn until_idle(worker: &Handle, stop: &CancellationToken) -> Result<(), StartError> {
    let _waiting = waiting_for(format!("the requests to worker {} to end", worker.pid));
    let mut traffic = worker.traffic.subscribe();
    tokio::select! {
        () = stop.cancelled() => {
            let failure = Failure::new(Code::Cancelled, "stopped before the worker was replaced");
            Err(failure.hint("the worker goes on as it was").into())
        }
        _ = worker.ended() => Ok(()),
        _ = traffic.wait_for(|traffic| traffic.in_flight == 0) => Ok(()),
    }
}

/// The context and the slots of a worker, in words.
fn capacity(worker: &Worker) -> String {
    let slots = format!("{} slot(s)", worker.slots);
    worker.context_length.map_or(slots.clone(), |tokens| format!("{slots} of {tokens} tokens"))
}
