//! Stops a worker and narrates the steps.

use std::time::Duration;

use serde::Serialize;
use utoipa::ToSchema;

use super::end::{GroupEnd, Remains};
use super::exit::Exit;
use super::handle::Handle;
use super::registry::Registry;
use super::state::{Control, LifeStage, StopReason};
use crate::narration::waiting_for;
use crate::{n, text};

/// How a worker was stopped: the result of `WorkerProcessDelete`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
#[schema(as = WorkerProcessDeleteResult)]
pub struct Stopped {
    /// The process id that it had.
    pub pid: u32,
    /// Its exit code, where no signal ended it.
    pub exit_code: Option<i32>,
    /// The signal that ended it, such as `SIGTERM`.
    pub signal: Option<String>,
    /// The memory that it held last and that is free again.
    pub freed_bytes: u64,
    /// Whether all of it was seen to be gone; if not, a warning has told what remains.
    #[serde(skip)]
    pub proven: bool,
}

/// Stops a worker and waits for its end; removes a crashed one from the list.
pub(super) async fn stop(registry: &Registry, worker: &Handle, grace: Duration) -> Stopped {
    let pid = worker.pid;
    if give_up(registry, worker).is_some() {
        n!("worker_stop", "Worker {pid} had crashed before; it left the list");
        return stopped(worker, worker.ended().await);
    }
    n!("worker_stop", "Stopping worker {pid} of model '{}'", worker.model_id());
    let _wait = waiting_for(format!("worker {pid} to end"));
    let mut states = worker.state.subscribe();
    worker.control(Control::Stop { grace, reason: StopReason::User });
    let mut narrated = LifeStage::Ready;
    let end = loop {
        let state = *states.borrow_and_update();
        if let Some(end) = state.end {
            break end;
        }
        if narrated < state.stage {
            narrated = state.stage;
            narrate_stage(worker, state.stage, grace);
        }
        if states.changed().await.is_err() {
            break worker.ended().await;
        }
    };
    // A kill is so fast that the stage may have been replaced before it was seen.
    if narrated < LifeStage::Killing && end.exit.is_some_and(Exit::killed) {
        narrate_stage(worker, LifeStage::Killing, grace);
    }
    let stopped = stopped(worker, end);
    if let Some(remains) = end.remains.sentence(pid) {
        n!(warn: "worker_gone", "{remains}");
    } else {
        let how = match end.exit {
            Some(exit) => format!(" ({exit})"),
            None => " (how it ended is unknown: an earlier run of the hive had started it)".to_owned(),
        };
        n!("worker_gone", "Worker {pid} is gone{how} and has freed {}", text::bytes(stopped.freed_bytes));
    }
    stopped
}

/// Ends the restarts of a crashed worker and removes it from the list. Returns `None` for a worker that
/// has not crashed, else whether it was still in the list.
pub(super) fn give_up(registry: &Registry, worker: &Handle) -> Option<bool> {
    if worker.stage() != LifeStage::Crashed {
        return None;
    }
    worker.given_up.cancel();
    let was_listed = registry.take(worker);
    if was_listed {
        registry.removed(worker);
    }
    Some(was_listed)
}

fn stopped(worker: &Handle, end: GroupEnd) -> Stopped {
    let usage = worker.measurements.lock().usage.clone();
    Stopped {
        pid: worker.pid,
        exit_code: end.exit.and_then(|exit| exit.code),
        signal: end.exit.and_then(Exit::signal),
        freed_bytes: match end.remains {
            Remains::Nothing => usage.held_bytes(),
            Remains::GpuMemory => usage.rss_bytes,
            Remains::Processes => 0,
        },
        proven: end.proven(),
    }
}

fn narrate_stage(worker: &Handle, stage: LifeStage, grace: Duration) {
    let pid = worker.pid;
    match stage {
        LifeStage::Draining => {
            let count = worker.traffic.borrow().in_flight;
            if count > 0 {
                n!(
                    "worker_drain",
                    "Worker {pid} accepts no more requests; waiting up to {} s for {count} in flight",
                    grace.as_secs_f64()
                );
            }
        }
        LifeStage::Terminating => n!("worker_stop", "Asked worker {pid} to end (SIGTERM)"),
        LifeStage::Killing => {
            n!(warn: "worker_stop", "Worker {pid} did not end in time and was killed (SIGKILL)");
        }
        LifeStage::Reclaiming => {
            n!("worker_gpu", "Worker {pid} has ended; waiting for the driver to take its GPU memory back");
        }
        _ => {}
    }
}
