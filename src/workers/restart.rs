//! Starting crashed workers again, where the settings say so.
//!
//! The first restart comes after a second, each further one after twice as long, up to a minute; a
//! worker that was healthy for ten minutes starts over. The crashed worker stays in the list, with
//! its reason, until the new one is ready. Who deletes or unloads it gives it up.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;

use super::handle::Handle;
use super::registry::Cause;
use super::start;
use super::supervisor::Shared;
use crate::config::{RestartPolicy, Workers};
use crate::error::{Code, Failure};
use crate::narration::{NarrationContext, with_narration_context};
use crate::spawn;

/// Sees to a worker that has just crashed.
pub(super) fn after_crash(shared: Arc<Shared>, crashed: Arc<Handle>) {
    if shared.settings.restart == RestartPolicy::OnFailure {
        spawn::detached(restart(shared, crashed));
    }
}

/// How long to wait before the next restart, after so many crashes in a row.
fn backoff(settings: &Workers, crashes: u32) -> Duration {
    let factor = 1_u32.checked_shl(crashes).filter(|_| crashes < 31).unwrap_or(u32::MAX);
    settings.restart_first.saturating_mul(factor).min(*settings.restart_longest)
}

/// Whether a start that failed like this may succeed another time.
fn may_pass(failure: &Failure) -> bool {
    matches!(failure.code, Code::WorkerFailed | Code::Timeout | Code::OutOfMemory | Code::DeviceUnavailable)
}

async fn restart(shared: Arc<Shared>, crashed: Arc<Handle>) {
    let settings = &shared.settings;
    let mut crashes = if crashed.uptime() >= *settings.restart_reset { 0 } else { crashed.crashes };
    let pid = crashed.pid;
    loop {
        let wait = backoff(settings, crashes);
        crashes += 1;
        let message = format!("worker {pid} is started again in {}", crate::time::in_words(wait));
        tracing::info!(pid, model = crashed.model_id, "{message}");
        shared.registry.updated_because(&crashed, Cause::Restart, message);
        tokio::select! {
            () = tokio::time::sleep(wait) => {}
            () = crashed.given_up.cancelled() => return,
            () = shared.closing.cancelled() => return,
        }
        // Another worker may have taken its place in the meantime.
        if !shared.registry.has(&crashed) {
            return;
        }
        match again(&shared, &crashed, crashes).await {
            Ok(()) => return,
            Err(failure) if crashed.given_up.is_cancelled() => {
                tracing::info!(pid, %failure, "a restart was stopped");
                if shared.registry.take(&crashed) {
                    shared.registry.removed_because(&crashed, Cause::UserStop);
                }
                return;
            }
            Err(failure) if may_pass(&failure) => {
                tracing::warn!(pid, code = %failure.code, %failure, "a restart failed");
            }
            Err(failure) => {
                tracing::warn!(pid, code = %failure.code, %failure, "a worker is not started again");
                if shared.registry.has(&crashed) {
                    let message = format!("worker {pid} is not started again: {failure}");
                    shared.registry.updated_because(&crashed, Cause::GivenUp, message);
                }
                return;
            }
        }
    }
}

/// Starts the worker again. No job waits for it: what it narrates reaches the hive's log.
async fn again(shared: &Arc<Shared>, crashed: &Handle, crashes: u32) -> Result<(), Failure> {
    let (sender, mut said) = mpsc::unbounded_channel();
    let context = NarrationContext::new(String::new(), "worker_restart", sender);
    let start = start::start(shared, crashed.request.clone(), crashes, &crashed.given_up);
    let start = with_narration_context(context, start);
    tokio::pin!(start);
    loop {
        tokio::select! {
            started = &mut start => return started.map(drop),
            Some(_logged) = said.recv() => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_wait_doubles_up_to_its_limit() {
        let waits: Vec<_> = [0, 1, 2, 5, 6, 40].map(|n| backoff(&Workers::default(), n).as_secs()).into();
        assert_eq!(waits, [1, 2, 4, 32, 60, 60]);
    }
}
