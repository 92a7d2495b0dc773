//! The owner of one worker: the one task that holds the unreaped child.

use std::sync::Arc;
use std::time::Duration;

use rustix::process::Signal;
use tokio::sync::mpsc;
use tokio::time::{Instant, interval, sleep_until, timeout};

use super::handle::{Control, Handle, Stage};
use super::process::{Group, PROOF_LIMIT};
use super::registry::Registry;
use super::usage;
use crate::spawn;

/// How often the size of the worker's log is looked at.
const LOG_CHECK: Duration = Duration::from_secs(1);
/// After SIGTERM a worker gets at least so long (but never longer than the grace), even where its
/// last requests used up the grace.
const LAST_WORDS: Duration = Duration::from_secs(2);
/// Nobody waits longer than a day; larger numbers would overflow the clock.
const MAX_GRACE: Duration = Duration::from_secs(24 * 3600);

/// Runs from the start of the process until its whole group is gone.
pub(super) struct Owner {
    pub(super) group: Group,
    pub(super) handle: Arc<Handle>,
    pub(super) controls: mpsc::UnboundedReceiver<Control>,
    pub(super) registry: Arc<Registry>,
}

impl Owner {
    pub(super) async fn run(mut self) {
        let asked = self.serve().await;
        let was_ready = self.handle.stage() == Stage::Ready;
        self.handle.traffic.send_modify(|traffic| traffic.open = false);
        if let Some(grace) = asked {
            self.stop(grace.min(MAX_GRACE)).await;
        }
        let Self { group, handle, controls: _controls, registry } = self;
        let end = group.end().await;
        let kept = asked.is_none() && was_ready;
        if kept {
            tracing::warn!(pid = handle.pid, model = handle.model_id, exit = ?end.exit, "a worker crashed");
        } else {
            // Out of the list before its end is known: who waited for the end finds it gone.
            registry.take(&handle);
        }
        handle.state.send_modify(|state| {
            state.stage = if asked.is_some() { Stage::Stopped } else { Stage::Crashed };
            state.end = Some(end);
            state.ended = Some(std::time::Instant::now());
        });
        if kept {
            registry.updated(&handle);
            registry.bound_crashed();
        } else {
            registry.removed(&handle);
        }
    }

    /// Until the process ends, or is to be ended: then how long it may take.
    async fn serve(&mut self) -> Option<Duration> {
        let mut log_check = interval(LOG_CHECK);
        loop {
            tokio::select! {
                biased;
                () = self.group.exited() => return None,
                Some(control) = self.controls.recv() => match control {
                    Control::Listening(port) => {
                        self.handle.state.send_modify(|state| state.port = Some(port));
                        self.publish(Stage::Loading);
                    }
                    Control::Ready => {
                        self.handle.traffic.send_modify(|traffic| traffic.open = true);
                        self.publish(Stage::Ready);
                        self.registry.replace_crashed(&self.handle);
                    }
                    Control::Stop { grace } => return Some(grace),
                },
                _ = log_check.tick() => self.bound_log(),
            }
        }
    }

    /// Drains, asks, kills: returns when the leader has ended or nothing more can be done.
    async fn stop(&mut self, grace: Duration) {
        self.note_memory().await;
        let mut deadline = Instant::now() + grace;
        self.publish(Stage::Draining);
        let mut traffic = self.handle.traffic.subscribe();
        loop {
            tokio::select! {
                biased;
                () = self.group.exited() => return,
                _ = traffic.wait_for(|traffic| traffic.in_flight == 0) => break,
                () = sleep_until(deadline) => break,
                Some(control) = self.controls.recv() => shorten(&mut deadline, &control),
            }
        }
        self.group.signal(Signal::TERM);
        self.publish(Stage::Terminating);
        deadline = deadline.max(Instant::now() + grace.min(LAST_WORDS));
        loop {
            tokio::select! {
                biased;
                () = self.group.exited() => return,
                () = sleep_until(deadline) => break,
                Some(control) = self.controls.recv() => shorten(&mut deadline, &control),
            }
        }
        self.group.signal(Signal::KILL);
        self.publish(Stage::Killing);
        // Where even that does not end it, `Group::end` says so.
        let _ended = timeout(PROOF_LIMIT, self.group.exited()).await;
    }

    /// Notes how much memory the stop is about to free.
    async fn note_memory(&self) {
        let group = self.group.id();
        if let Ok(bytes) = spawn::blocking(move || usage::resident_bytes(group)).await {
            self.handle.measures.lock().usage.rss_bytes = bytes;
        }
    }

    fn bound_log(&self) {
        let folder = self.handle.folder.clone();
        drop(spawn::blocking(move || {
            if let Err(error) = folder.bound_log() {
                tracing::debug!(%error, "a worker's log could not be bounded");
            }
        }));
    }

    fn publish(&self, stage: Stage) {
        self.handle.state.send_modify(|state| state.stage = stage);
        self.registry.updated(&self.handle);
    }
}

fn shorten(deadline: &mut Instant, control: &Control) {
    if let Control::Stop { grace } = control {
        *deadline = (*deadline).min(Instant::now() + (*grace).min(MAX_GRACE));
    }
}
