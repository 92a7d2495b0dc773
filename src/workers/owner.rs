//! The owner of one worker: the only task that holds its processes, from their start to the proof that
//! all of them are gone.

use std::sync::Arc;
use std::time::Duration;

use rustix::process::Signal;
use tokio::sync::mpsc;
use tokio::time::{Instant, interval, sleep_until, timeout};

use super::end::{GroupEnd, Remains};
use super::exit::Exit;
use super::handle::Handle;
use super::process_group::{PROOF_LIMIT, members};
use super::processes::Processes;
use super::registry::Cause;
use super::shared::Shared;
use super::state::{Control, LifeStage, StopReason};
use super::usage::GroupUsage;
use super::{pulse, usage};
use crate::spawn;
use crate::time::{in_words, monotonic};

/// How often the size of the worker's log is checked.
const LOG_CHECK: Duration = Duration::from_secs(1);
/// The least time that a worker gets after SIGTERM, even where its last requests used up the grace
/// period, but never longer than that period.
const MIN_TERM_GRACE: Duration = Duration::from_secs(2);
/// The longest grace period; a longer one would overflow the clock.
const MAX_GRACE: Duration = Duration::from_secs(24 * 3600);
/// How long a stop waits until the memory that the worker took is remembered.
const REMEMBER_LIMIT: Duration = Duration::from_secs(1);
/// How often a driver is asked whether it has taken back the memory of a GPU.
const RECLAIM_CHECK: Duration = Duration::from_millis(50);

/// The owner of one worker.
pub(super) struct Owner {
    processes: Processes,
    handle: Arc<Handle>,
    controls: mpsc::UnboundedReceiver<Control>,
    shared: Arc<Shared>,
}

/// Why an owner stopped watching its worker.
enum WatchEnd {
    /// The process ended without being asked to.
    ProcessEnded,
    /// The process gives no sign of life and is to be replaced.
    Hangs,
    /// The worker is to be ended.
    StopRequested { grace: Duration, reason: StopReason },
    /// The worker is to be left running.
    Released,
    /// Another daemon owns the worker from now on.
    HandedOver,
}

impl Owner {
    /// Starts the task that owns `processes`. It outlives the job that started the worker.
    pub(super) fn spawn(
        processes: Processes,
        handle: Arc<Handle>,
        controls: mpsc::UnboundedReceiver<Control>,
        shared: Arc<Shared>,
    ) {
        spawn::detached(Self { processes, handle, controls, shared }.run());
    }

    async fn run(mut self) {
        if !self.handle.is_adopted() {
            self.write_record(false).await;
        }
        spawn::detached(pulse::watch(Arc::clone(&self.shared), Arc::clone(&self.handle)));
        let watch_end = self.watch().await;
        if matches!(watch_end, WatchEnd::HandedOver) {
            // Where it has a lifeline, that would end with this process.
            self.processes.let_stay().await;
            self.processes.leave();
            self.handle.handed_over.cancel();
            return;
        }
        let was_ready = matches!(self.handle.stage(), LifeStage::Ready | LifeStage::Unresponsive);
        self.handle.traffic.send_modify(|traffic| traffic.open = false);
        if let WatchEnd::StopRequested { grace, .. } = watch_end {
            self.stop(grace.min(MAX_GRACE)).await;
        }
        // The receiver lives until the end, so that late controls are ignored silently.
        let Self { processes, handle, controls: _controls, shared } = self;
        let end = if matches!(watch_end, WatchEnd::Released) {
            processes.leave();
            GroupEnd { exit: None, remains: Remains::Processes }
        } else if handle.device.is_cpu() {
            processes.end().await
        } else {
            end_on_gpu(processes, &handle, &shared).await
        };
        if end.processes_gone() {
            // A later daemon has nothing to adopt.
            let folder = handle.folder.clone();
            let _removed = spawn::blocking(move || folder.remove_record()).await;
        }
        finish(&shared, handle, &watch_end, was_ready, end);
    }

    /// Acts on controls until the process ends, or is to be ended or left running.
    async fn watch(&mut self) -> WatchEnd {
        let mut log_check = interval(LOG_CHECK);
        loop {
            tokio::select! {
                biased;
                () = self.processes.exited() => return WatchEnd::ProcessEnded,
                Some(control) = self.controls.recv() => match control {
                    Control::Listening(port) => {
                        self.handle.state.send_modify(|state| state.port = Some(port));
                        publish(&self.shared, &self.handle, LifeStage::Loading);
                    }
                    Control::Ready => self.open().await,
                    Control::KeepAlive => drop(self.write_record(true).await),
                    Control::Unresponsive { silent_for } => self.close_to_requests(silent_for),
                    Control::Responds => self.open_again(),
                    Control::EndUnresponsive => return WatchEnd::Hangs,
                    Control::Stop { grace, reason } => return WatchEnd::StopRequested { grace, reason },
                    Control::Release => return WatchEnd::Released,
                    Control::HandOver => return WatchEnd::HandedOver,
                },
                _ = log_check.tick() => self.bound_log(),
            }
        }
    }

    /// Opens a ready worker for requests.
    async fn open(&mut self) {
        // The record comes first: a worker that may outlive the daemon can always be found again.
        let recorded = self.write_record(true).await;
        if recorded && !self.shared.settings().lifeline && !self.handle.is_trial() {
            self.processes.let_stay().await;
        }
        self.handle.traffic.send_modify(|traffic| {
            (traffic.open, traffic.ready_at) = (true, Some(monotonic()));
        });
        // First, so that whoever sees the worker ready no longer finds the one that it replaces.
        self.shared.registry.replace_crashed(&self.handle);
        publish(&self.shared, &self.handle, LifeStage::Ready);
    }

    /// Accepts no more requests for a worker that gives no sign of life. Those under way fail, as they see
    /// its new stage.
    fn close_to_requests(&self, silent_for: Duration) {
        let (pid, model) = (self.handle.pid, self.handle.model_id());
        let message = format!(
            "worker {pid} of '{model}' does not respond: for {} it has neither answered nor computed",
            in_words(silent_for)
        );
        tracing::warn!(pid, model, "{message}");
        self.handle.traffic.send_modify(|traffic| traffic.open = false);
        self.handle.state.send_modify(|state| {
            (state.stage, state.hangs) = (LifeStage::Unresponsive, true);
        });
        self.shared.registry.updated_because(&self.handle, Cause::Unresponsive, message);
    }

    /// Accepts requests again for a worker that was unresponsive.
    fn open_again(&self) {
        let (pid, model) = (self.handle.pid, self.handle.model_id());
        let message = format!("worker {pid} of '{model}' responds again");
        tracing::info!(pid, model, "{message}");
        self.handle.state.send_modify(|state| {
            (state.stage, state.hangs) = (LifeStage::Ready, false);
        });
        self.handle.traffic.send_modify(|traffic| traffic.open = true);
        self.shared.registry.updated_because(&self.handle, Cause::Responds, message);
    }

    /// Writes the record of the worker. Returns whether it was written.
    async fn write_record(&self, ready: bool) -> bool {
        let (handle, path) = (Arc::clone(&self.handle), self.handle.folder.record());
        let written = spawn::blocking(move || handle.record(ready).map(|record| record.write(&path))).await;
        match written {
            Ok(Some(Ok(()))) => true,
            // The process has ended, which `watch` notices next.
            Ok(None) => false,
            Ok(Some(Err(error))) => {
                tracing::warn!(
                    pid = self.handle.pid, %error,
                    "could not write the record of a worker: it will not outlive a killed hive"
                );
                false
            }
            Err(failure) => {
                tracing::error!(%failure, detail = ?failure.detail, "could not write the record of a worker");
                false
            }
        }
    }

    /// Waits for requests in flight, then sends SIGTERM, then SIGKILL. Returns when the leader has
    /// ended, or when it did not even end after SIGKILL.
    async fn stop(&mut self, grace: Duration) {
        self.measure_memory().await;
        let mut deadline = Instant::now() + grace;
        publish(&self.shared, &self.handle, LifeStage::Draining);
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
        publish(&self.shared, &self.handle, LifeStage::Terminating);
        deadline = deadline.max(Instant::now() + grace.min(MIN_TERM_GRACE));
        loop {
            tokio::select! {
                biased;
                () = self.processes.exited() => return,
                () = sleep_until(deadline) => break,
                Some(control) = self.controls.recv() => shorten(&mut deadline, &control),
            }
        }
        self.processes.signal(Signal::KILL);
        publish(&self.shared, &self.handle, LifeStage::Killing);
        // `Processes::end` reports a leader that did not even end now.
        let _ended = timeout(PROOF_LIMIT, self.processes.exited()).await;
    }

    /// Measures how much memory the stop is about to free, and keeps its peak.
    async fn measure_memory(&self) {
        let group = self.processes.id();
        if let Ok(GroupUsage { rss_bytes, gpus, .. }) = spawn::blocking(move || usage::memory_of(group)).await
        {
            let usage = &mut self.handle.measurements.lock().usage;
            (usage.rss_bytes, usage.gpus) = (rss_bytes, gpus);
        }
        let (learned, handle) = (Arc::clone(&self.shared.learned), Arc::clone(&self.handle));
        // It looks at the model's file, whose disk may not answer: the stop goes on then.
        let remembered = spawn::blocking(move || learned.remember(&handle));
        let _in_time = timeout(REMEMBER_LIMIT, remembered).await;
    }

    fn bound_log(&self) {
        let folder = self.handle.folder.clone();
        drop(spawn::blocking(move || {
            if let Err(error) = folder.bound_log() {
                tracing::debug!(%error, "could not bound the log of a worker");
            }
        }));
    }
}

/// Publishes the end of a worker, and keeps it in the list only if it crashed.
fn finish(shared: &Arc<Shared>, handle: Arc<Handle>, watch_end: &WatchEnd, was_ready: bool, end: GroupEnd) {
    let registry = &shared.registry;
    let (stage, cause) = match watch_end {
        WatchEnd::Hangs => (LifeStage::Crashed, Cause::Crash),
        WatchEnd::ProcessEnded if was_ready => (LifeStage::Crashed, Cause::Crash),
        WatchEnd::ProcessEnded => (LifeStage::Crashed, Cause::FailedLoad),
        WatchEnd::StopRequested { reason, .. } => match reason {
            StopReason::User => (LifeStage::Stopped, Cause::UserStop),
            StopReason::FailedStart => (LifeStage::Stopped, Cause::FailedLoad),
            StopReason::Shutdown => (LifeStage::Stopped, Cause::Shutdown),
        },
        WatchEnd::Released | WatchEnd::HandedOver => (LifeStage::Stopped, Cause::Shutdown),
    };
    let crashed = cause == Cause::Crash;
    if crashed {
        tracing::warn!(pid = handle.pid, model = handle.model_id(), exit = ?end.exit, "a worker crashed");
    }
    if crashed {
        shared.troubles.crashed(&handle.engine, end.exit);
    } else if was_ready && cause == Cause::UserStop {
        shared.troubles.ended_well(&handle.engine);
    }
    // Whoever tries an engine tells of its crash.
    let stays = crashed && !handle.is_trial();
    if !stays {
        // Removed before its end is published, so that a caller who waits for the end finds it gone.
        registry.take(&handle);
    }
    handle.state.send_modify(|state| {
        state.stage = stage;
        state.end = Some(end);
        state.ended_at = Some(monotonic());
    });
    if stays {
        let mut how = handle.last_exit().unwrap_or_default();
        if end.exit.is_some_and(Exit::killed) && handle.saw_oom_kill() {
            how.push_str("; the kernel's out-of-memory killer killed a process after the worker started");
        }
        if let Some(way_back) = shared.troubles.way_back(&handle.engine) {
            how = format!("{how}; {way_back}");
        }
        registry.updated_because(&handle, cause, format!("worker {} crashed: {how}", handle.pid));
        registry.bound_crashed();
        (shared.after_crash)(Arc::clone(shared), handle);
    } else {
        registry.removed_because(&handle, cause);
    }
}

/// Publishes the stage that a worker has reached.
fn publish(shared: &Shared, handle: &Handle, stage: LifeStage) {
    handle.state.send_modify(|state| state.stage = stage);
    shared.registry.updated(handle);
}

/// Ends processes that may hold memory of a GPU. The driver takes it back only after they are gone,
/// and until then it is not free for the next worker.
async fn end_on_gpu(processes: Processes, handle: &Handle, shared: &Shared) -> GroupEnd {
    let group = processes.id();
    let members = spawn::blocking(move || members(group)).await.unwrap_or_default();
    let end = processes.end().await;
    let deadline = Instant::now() + PROOF_LIMIT;
    loop {
        let pids = members.clone();
        let listed = spawn::blocking(move || usage::is_on_a_gpu(&pids)).await.unwrap_or(false);
        if !listed || !end.proven() {
            return end;
        }
        if Instant::now() >= deadline {
            return GroupEnd { remains: Remains::GpuMemory, ..end };
        }
        if handle.stage() < LifeStage::Reclaiming {
            publish(shared, handle, LifeStage::Reclaiming);
        }
        tokio::time::sleep(RECLAIM_CHECK).await;
    }
}

/// Moves the deadline forward if this control asks for a shorter grace period.
fn shorten(deadline: &mut Instant, control: &Control) {
    if let Control::Stop { grace, .. } = control {
        *deadline = (*deadline).min(Instant::now() + (*grace).min(MAX_GRACE));
    }
}
