//! Starts a worker: from a request to a process that answers, or to nothing left behind.

use std::sync::Arc;

use tokio_util::sync::CancellationToken;

use super::launch::launch;
use super::plan::StartPlan;
use super::readiness::Starting;
use super::request::StartRequest;
use super::shared::Shared;
use super::start_error::{StartError, StartErrorKind};
use super::worker::Worker;
use crate::{n, spawn, time};

/// How often a start is repeated with another port because the assigned one was taken.
const PORT_RETRIES: u32 = 3;

/// Starts a worker and returns it once it is ready. `crashes` counts the workers in a row that have
/// crashed and that this one replaces. Cancelling `stop` ends the start.
pub(super) async fn start(
    shared: &Arc<Shared>,
    request: StartRequest,
    crashes: u32,
    stop: &CancellationToken,
) -> Result<Worker, StartError> {
    shared.registry.check_open()?;
    let plan = StartPlan::new(shared, &request).await?;
    plan.check(&request)?;
    n!(
        "worker_choose",
        "Starting engine '{}' on {} for model '{}': {}",
        plan.engine.name,
        plan.place.devices(),
        request.served_id(),
        plan.place.reason
    );
    plan.narrate_template(&request);
    plan.narrate_options(&request);
    let mut attempt = 1;
    let handle = loop {
        let handle = launch(shared, &request, &plan, crashes).await?;
        let mut starting = Starting::new(Arc::clone(shared), handle);
        let ready = tokio::select! {
            biased;
            () = stop.cancelled() => Err(starting.cancelled()),
            ready = starting.until_ready() => ready,
        };
        let Err(error) = ready else { break starting.release() };
        let error = starting.abandon(error).await;
        learn(shared, &plan, Some(error.failure.log_tail.clone())).await;
        if error.kind != StartErrorKind::PortTaken || attempt > PORT_RETRIES {
            return Err(with_way_back(shared, &plan, error));
        }
        let failure = &error.failure;
        n!(warn: "worker_retry", "{failure}; trying another port ({attempt} of {PORT_RETRIES})");
        attempt += 1;
    };
    learn(shared, &plan, None).await;
    shared.troubles.started(&plan.engine);
    n!(
        "worker_ready",
        "Worker {} is ready on {} after {}",
        handle.pid,
        handle.url().unwrap_or_default(),
        time::in_words(handle.uptime())
    );
    Ok(handle.worker())
}

/// Counts a failed start, and names the way back where its engine fails too often.
fn with_way_back(shared: &Shared, plan: &StartPlan, mut error: StartError) -> StartError {
    shared.troubles.start_failed(&plan.engine, &error);
    if let Some(way_back) = shared.troubles.way_back(&plan.engine) {
        let hint = error.failure.hint.take();
        error.failure.hint =
            Some(hint.map_or_else(|| way_back.clone(), |hint| format!("{hint}; {way_back}")));
    }
    error
}

/// Remembers what the start showed of the engine: that it knows the model's kind, or that it does not.
async fn learn(shared: &Arc<Shared>, plan: &StartPlan, failed_with: Option<Vec<String>>) {
    let Some(needs) = plan.needs.clone() else { return };
    let (support, engine) = (Arc::clone(&shared.support), Arc::clone(&plan.engine));
    let learned = spawn::blocking(move || support.learn(&engine, &needs, failed_with.as_deref())).await;
    if let Err(failure) = learned {
        tracing::error!(%failure, detail = ?failure.detail, "could not learn from a start");
    }
}
