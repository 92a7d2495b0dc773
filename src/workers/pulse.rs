//! Watches whether a worker that serves still makes progress.
//!
//! A worker makes progress while its health route answers, or while its processes compute: a long prompt
//! keeps an engine from answering, and is no hang. One that does neither for `timers.unresponsive` hangs.
//! This task tells its owner, which takes no more requests for it and fails those under way; the task goes
//! on asking, and tells the owner when the worker answers again. Where the settings restart crashed
//! workers, one that hangs for as long again is ended, and is then a crashed one.
//!
//! The pulse is also when the memory that a worker takes is [remembered](super::learned).
//!
//! What is not recognised: a worker that computes without end and never answers.
//!
//! Probes without a sign of life are counted, and no clock is read: a hive that was suspended itself must
//! not blame its workers for the time.

use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::FutureExt;
use tokio::time::{MissedTickBehavior, interval, timeout};

use super::handle::Handle;
use super::shared::Shared;
use super::state::{Control, LifeStage};
use super::usage;
use crate::config::RestartPolicy;
use crate::spawn;

/// A group computes if it used at least this share of one core, in percent, since the last probe. A worker
/// that hangs may still have a thread that wakes up from time to time.
const COMPUTING_PERCENT: u128 = 1;

/// The signs of life of one worker.
#[derive(Debug, Default)]
struct Pulse {
    /// How many probes in a row found no sign.
    silent: u32,
    /// The processor time of its group at the last of them, and when that was read.
    computed: Option<(Instant, Duration)>,
}

/// Watches a worker until its end, or until another daemon does.
pub(super) async fn watch(shared: Arc<Shared>, worker: Arc<Handle>) {
    tokio::select! {
        _ = worker.ended() => {}
        () = worker.handed_over.cancelled() => {}
        () = keep_probing(&shared, &worker) => {}
    }
}

async fn keep_probing(shared: &Shared, worker: &Arc<Handle>) {
    let probe = *shared.timers.probe;
    let allowed = probes(*shared.timers.unresponsive, probe);
    let mut ticks = interval(probe);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut pulse = Pulse::default();
    let mut remembered = None;
    let mut remembering = None;
    loop {
        ticks.tick().await;
        let stage = worker.stage();
        if !matches!(stage, LifeStage::Ready | LifeStage::Unresponsive) {
            continue;
        }
        pulse.probe(shared, worker).await;
        // What it takes changes only by requests.
        let traffic = *worker.traffic.borrow();
        let work = (traffic.sent, traffic.in_flight);
        // Not awaited: it looks at the model's file, whose disk may not answer, and the probes must go on.
        drop(remembering.take_if(has_ended));
        if remembering.is_none() && (remembered != Some(work) || traffic.in_flight > 0) {
            remembered = Some(work);
            let (learned, worker) = (Arc::clone(&shared.learned), Arc::clone(worker));
            remembering = Some(spawn::blocking(move || learned.remember(&worker)));
        }
        match (stage, pulse.silent) {
            (LifeStage::Unresponsive, 0) => worker.control(Control::Responds),
            (LifeStage::Ready, silent) if silent >= allowed => {
                worker.control(Control::Unresponsive { silent_for: probe.saturating_mul(silent) });
            }
            (LifeStage::Unresponsive, silent)
                if silent >= allowed.saturating_mul(2)
                    && shared.settings().restart == RestartPolicy::OnFailure =>
            {
                worker.control(Control::EndUnresponsive);
            }
            _ => {}
        }
    }
}

fn has_ended(work: &mut (impl Future + Unpin)) -> bool {
    work.now_or_never().is_some()
}

/// How many probes take at least `limit`: two or more, as the first only begins to measure.
fn probes(limit: Duration, probe: Duration) -> u32 {
    u32::try_from(limit.as_nanos().div_ceil(probe.as_nanos().max(1))).unwrap_or(u32::MAX).max(2)
}

impl Pulse {
    /// Looks for a sign of life.
    async fn probe(&mut self, shared: &Shared, worker: &Handle) {
        if answers(shared, worker).await {
            *self = Self::default();
        } else if self.computes(worker.pid).await {
            self.silent = 0;
        } else {
            self.silent = self.silent.saturating_add(1);
        }
    }

    /// Whether the group has computed since the last silent probe.
    async fn computes(&mut self, group: u32) -> bool {
        let Ok(computed) = spawn::blocking(move || usage::processor_time(group)).await else {
            // That the look failed says nothing about the worker.
            return true;
        };
        let (now, before) = (Instant::now(), self.computed);
        self.computed = Some((now, computed));
        before.is_some_and(|(at, before)| {
            let (used, elapsed) = (computed.abs_diff(before), now.duration_since(at));
            used.as_nanos() * 100 > elapsed.as_nanos() * COMPUTING_PERCENT
        })
    }
}

/// Whether the worker's health route answers at all: what it answers is not asked here.
async fn answers(shared: &Shared, worker: &Handle) -> bool {
    let Some(url) = worker.url() else { return false };
    let asked = shared.client.answers(&url, &worker.engine.health_route);
    timeout(*shared.timers.probe, asked).await.unwrap_or(false)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_limit_is_a_number_of_probes() {
        let seconds = Duration::from_secs;
        assert_eq!(probes(seconds(30), seconds(5)), 6);
        assert_eq!(probes(seconds(31), seconds(5)), 7);
        assert_eq!(probes(seconds(1), seconds(5)), 2);
    }

    #[tokio::test]
    async fn a_group_that_computes_is_told_from_one_that_does_not() {
        let mut pulse = Pulse::default();
        let mut sleeper = spawn::command("sleep");
        let mut sleeper = sleeper.arg("1000").process_group(0).kill_on_drop(true).spawn().unwrap();
        let pid = sleeper.id().unwrap();
        assert!(!pulse.computes(pid).await && !pulse.computes(pid).await);
        sleeper.kill().await.unwrap();

        let mut busy = spawn::command("sh");
        let mut busy =
            busy.args(["-c", "while :; do :; done"]).process_group(0).kill_on_drop(true).spawn().unwrap();
        let pid = busy.id().unwrap();
        while !pulse.computes(pid).await {
            tokio::task::yield_now().await;
        }
        busy.kill().await.unwrap();
    }
}
