//! Restarts crashed workers, if the settings say so.
//!
//! The first restart comes after a second, each further one after twice as long, up to a minute; the
//! count starts again for a worker that ran for ten minutes. The crashed worker stays in the list, with
//! its reason, until the new one is ready. Deleting or unloading it ends its restarts.

use std::sync::Arc;
use std::time::Duration;

use super::handle::Handle;
use super::registry::Cause;
use super::shared::Shared;
use super::start;
use super::start_error::{StartError, StartErrorKind};
use crate::config::{RestartPolicy, Workers};
use crate::error::Failure;
use crate::{narration, spawn};

/// What owners do with a worker that has just crashed.
pub(super) fn after_crash(shared: Arc<Shared>, crashed: Arc<Handle>) {
    if shared.settings().restart == RestartPolicy::OnFailure {
        spawn::detached(restart(shared, crashed));
    }
}

/// How long to wait before the next restart, after this many crashes in a row.
fn backoff(settings: &Workers, crashes: u32) -> Duration {
    let factor = 1_u32.checked_shl(crashes).filter(|_| crashes < 31).unwrap_or(u32::MAX);
    settings.restart_first.saturating_mul(factor).min(*settings.restart_longest)
}

/// Starts workers in the place of a crashed one until one is ready or the restarts are given up.
async fn restart(shared: Arc<Shared>, crashed: Arc<Handle>) {
    let registry = &shared.registry;
    let is_reset = crashed.uptime() >= *shared.settings().restart_reset;
    let mut crashes = if is_reset { 0 } else { crashed.crashes() };
    let pid = crashed.pid;
    loop {
        let wait = backoff(&shared.settings(), crashes);
        crashes += 1;
        let message = format!("worker {pid} is restarted in {}", crate::time::in_words(wait));
        tracing::info!(pid, model = crashed.model_id(), "{message}");
        registry.updated_because(&crashed, Cause::Restart, message);
        tokio::select! {
            () = tokio::time::sleep(wait) => {}
            () = crashed.given_up.cancelled() => return,
            () = shared.closing.cancelled() => return,
        }
        // Meanwhile another worker may have replaced it.
        if !registry.has(&crashed) {
            return;
        }
        let start = start::start(&shared, crashed.request.clone(), crashes, &crashed.given_up);
        let Err(StartError { kind, failure }) = narration::by_itself("worker_restart", start).await else {
            return;
        };
        let is_unwanted = kind == StartErrorKind::StoppedByRequest || crashed.given_up.is_cancelled();
        if is_unwanted {
            tracing::info!(pid, %failure, "a restart was stopped");
            if registry.take(&crashed) {
                registry.removed_because(&crashed, Cause::UserStop);
            }
            return;
        }
        let is_given_up = kind != StartErrorKind::Temporary;
        let outcome = if is_given_up { "a worker is not restarted" } else { "a restart failed" };
        let Failure { code, causes, log_tail, .. } = &failure;
        tracing::warn!(pid, %code, %failure, ?causes, ?log_tail, "{outcome}");
        if is_given_up {
            if registry.has(&crashed) {
                let message = format!("worker {pid} is not restarted: {failure}");
                registry.updated_because(&crashed, Cause::GivenUp, message);
            }
            return;
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
