//! The owner of one worker: the one task that holds its processes.

use std::sync::Arc;
use std::time::Duration;

use rustix::process::Signal;
use tokio::sync::mpsc;
use tokio::time::{Instant, interval, sleep_until, timeout};

use super::exit::Exit;
use super::handle::{Control, Handle, Reason, Stage};
use super::process::{End, Left, PROOF_LIMIT, Processes, oom_kills};
use super::registry::{Cause, Registry};
use super::supervisor::Shared;
use super::{restart, usage};
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
    pub(super) processes: Processes,
    pub(super) handle: Arc<Handle>,
    pub(super) controls: mpsc::UnboundedReceiver<Control>,
    pub(super) shared: Arc<Shared>,
}

/// Why an owner's service ended.
enum Ended {
    /// The process ended by itself.
    Itself,
    /// It is to be ended.
    Asked { grace: Duration, reason: Reason },
    /// It is to be left alone.
    Released,
}

impl Owner {
    pub(super) async fn run(mut self) {
        if !self.handle.adopted {
            self.note(false).await;
        }
        let ended = self.serve().await;
        let was_ready = self.handle.stage() == Stage::Ready;
        self.handle.traffic.send_modify(|traffic| traffic.open = false);
        if let Ended::Asked { grace, .. } = ended {
            self.stop(grace.min(MAX_GRACE)).await;
        }
        let Self { processes, handle, controls: _controls, shared } = self;
        let registry = &shared.registry;
        let end = if matches!(ended, Ended::Released) {
            processes.leave();
            End { exit: None, left: Left::Processes }
        } else if handle.device.is_cpu() {
            processes.end().await
        } else {
            end_on_gpu(processes, &handle, registry).await
        };
        if end.processes_gone() {
            // Whoever starts next has nothing to look for.
            let folder = handle.folder.clone();
            let _removed = spawn::blocking(move || folder.forget()).await;
        }
        let cause = match ended {
            Ended::Itself if was_ready => Cause::Crash,
            Ended::Itself => Cause::FailedLoad,
            Ended::Asked { reason: Reason::Load, .. } => Cause::FailedLoad,
            Ended::Asked { reason: Reason::User, .. } => Cause::UserStop,
            Ended::Asked { reason: Reason::Shutdown, .. } | Ended::Released => Cause::Shutdown,
        };
        let kept = cause == Cause::Crash;
        if kept {
            tracing::warn!(pid = handle.pid, model = handle.model_id, exit = ?end.exit, "a worker crashed");
        } else {
            // Out of the list before its end is known: who waited for the end finds it gone.
            registry.take(&handle);
        }
        handle.state.send_modify(|state| {
            state.stage = if matches!(ended, Ended::Itself) { Stage::Crashed } else { Stage::Stopped };
            state.end = Some(end);
            state.ended = Some(std::time::Instant::now());
        });
        if kept {
            let mut how = handle.last_exit().unwrap_or_default();
            if end.exit.is_some_and(Exit::killed) && oom_kills() > handle.oom_kills_before {
                how.push_str("; the kernel's out-of-memory killer has struck since it was started");
            }
            registry.updated_because(&handle, cause, format!("worker {} crashed: {how}", handle.pid));
            registry.bound_crashed();
            restart::after_crash(shared, handle);
        } else {
            registry.removed_because(&handle, cause);
        }
    }

    /// Until the process ends, or is to be ended or left.
    async fn serve(&mut self) -> Ended {
        let mut log_check = interval(LOG_CHECK);
        loop {
            tokio::select! {
                biased;
                () = self.processes.exited() => return Ended::Itself,
                Some(control) = self.controls.recv() => match control {
                    Control::Listening(port) => {
                        self.handle.state.send_modify(|state| state.port = Some(port));
                        self.publish(Stage::Loading);
                    }
                    Control::Ready => {
                        // On disk before it may stay: one that stays can always be found again.
                        let noted = self.note(true).await;
                        if noted && !self.shared.settings.lifeline {
                            self.processes.let_stay().await;
                        }
                        self.handle.traffic.send_modify(|traffic| traffic.open = true);
                        self.publish(Stage::Ready);
                        self.shared.registry.replace_crashed(&self.handle);
                    }
                    Control::Stop { grace, reason } => return Ended::Asked { grace, reason },
                    Control::Release => return Ended::Released,
                },
                _ = log_check.tick() => self.bound_log(),
            }
        }
    }

    /// Writes down what a later daemon needs to know of the worker. Tells whether that worked.
    async fn note(&self, ready: bool) -> bool {
        let (handle, path) = (Arc::clone(&self.handle), self.handle.folder.record());
        let written = spawn::blocking(move || handle.record(ready).map(|record| record.write(&path))).await;
        match written {
            Ok(Some(Ok(()))) => true,
            // It has ended, which its owner is about to find.
            Ok(None) => false,
            Ok(Some(Err(error))) => {
                tracing::warn!(
                    pid = self.handle.pid, %error,
                    "a worker could not be written down: should the hive be killed, it ends or is swept up"
                );
                false
            }
            Err(error) => {
                tracing::error!(%error, "writing a worker down panicked");
                false
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
                () = self.processes.exited() => return,
                _ = traffic.wait_for(|traffic| traffic.in_flight == 0) => break,
                () = sleep_until(deadline) => break,
                Some(control) = self.controls.recv() => shorten(&mut deadline, &control),
            }
        }
        self.processes.signal(Signal::TERM);
        self.publish(Stage::Terminating);
        deadline = deadline.max(Instant::now() + grace.min(LAST_WORDS));
        loop {
            tokio::select! {
                biased;
                () = self.processes.exited() => return,
                () = sleep_until(deadline) => break,
                Some(control) = self.controls.recv() => shorten(&mut deadline, &control),
            }
        }
        self.processes.signal(Signal::KILL);
        self.publish(Stage::Killing);
        // Where even that does not end it, `Group::end` says so.
        let _ended = timeout(PROOF_LIMIT, self.processes.exited()).await;
    }

    /// Notes how much memory the stop is about to free.
    async fn note_memory(&self) {
        let group = self.processes.id();
        if let Ok((rss, vram)) = spawn::blocking(move || usage::held_bytes(group)).await {
            let usage = &mut self.handle.measures.lock().usage;
            (usage.rss_bytes, usage.vram_bytes) = (rss, vram);
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
        publish(&self.handle, &self.shared.registry, stage);
    }
}

fn publish(handle: &Arc<Handle>, registry: &Registry, stage: Stage) {
    handle.state.send_modify(|state| state.stage = stage);
    registry.updated(handle);
}

/// Ends processes that may hold memory on a GPU, which the driver takes back only after they are
/// gone: before that it is not free for the next worker.
async fn end_on_gpu(processes: Processes, handle: &Arc<Handle>, registry: &Registry) -> End {
    let group = processes.id();
    let members = spawn::blocking(move || super::process::members(group)).await.unwrap_or_default();
    let end = processes.end().await;
    let deadline = Instant::now() + PROOF_LIMIT;
    loop {
        let pids = members.clone();
        let listed = spawn::blocking(move || usage::is_on_a_gpu(&pids)).await.unwrap_or(false);
        if !listed || !end.proven() {
            return end;
        }
        if Instant::now() >= deadline {
            return End { left: Left::GpuMemory, ..end };
        }
        if handle.stage() < Stage::Reclaiming {
            publish(handle, registry, Stage::Reclaiming);
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

fn shorten(deadline: &mut Instant, control: &Control) {
    if let Control::Stop { grace, .. } = control {
        *deadline = (*deadline).min(Instant::now() + (*grace).min(MAX_GRACE));
    }
}
