//! Measures live workers: what their processes use, and what their engines count.

use std::sync::Arc;

use futures::future::join_all;
use parking_lot::Mutex;

use super::handle::Handle;
use super::health::{Health, WorkerClient};
use super::state::LifeStage;
use super::usage::Sampler;
use crate::spawn;

/// Measures every live one of these workers.
pub(super) async fn measure(sampler: Arc<Mutex<Sampler>>, client: &WorkerClient, workers: &[Arc<Handle>]) {
    let live: Vec<_> = workers.iter().filter(|worker| worker.status().lives()).collect();
    let groups: Vec<u32> = live.iter().map(|worker| worker.pid).collect();
    let usages = spawn::blocking(move || sampler.lock().groups(&groups).clone());
    let counted = join_all(live.iter().map(|worker| count(client, worker)));
    let (usages, _counted) = tokio::join!(usages, counted);
    // If sampling panicked, the last values stay.
    let usages = usages.unwrap_or_default();
    for worker in live {
        if let Some(usage) = usages.get(&worker.pid) {
            worker.measurements.lock().usage = usage.clone();
        }
    }
}

/// Asks a ready worker for its counters.
async fn count(client: &WorkerClient, worker: &Handle) {
    let Some(url) = worker.url().filter(|_| worker.stage() == LifeStage::Ready) else { return };
    match client.health(&url, &worker.engine.health_route).await {
        Ok(Health::Ready(counters)) => worker.measurements.lock().count(counters, &worker.request),
        Ok(Health::Loading(_)) => {}
        Err(error) => tracing::debug!(pid = worker.pid, %error, "a worker did not answer its health route"),
    }
    let Some(route) = &worker.engine.metrics_route else { return };
    match client.tokens_generated(&url, route, &worker.secret).await {
        Ok(tokens) => {
            let counted = &mut worker.measurements.lock().counters.tokens_generated;
            *counted = tokens.unwrap_or(0).max(*counted);
        }
        Err(error) => {
            tracing::debug!(pid = worker.pid, %error, "a worker did not answer its metrics route");
        }
    }
}
