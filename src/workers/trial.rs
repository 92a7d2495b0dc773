//! Workers that try an engine, which need not be installed: it has to prove itself first.
//!
//! Such a worker is a worker like others: it is in the list (as what it is), has an owner, a record and a log, and
//! counts where memory is counted. What differs: no request can name what it serves, it starts only where there is
//! room beside what is in memory, it goes where a load needs its room, nothing is learned of it, it is neither
//! started again nor kept in the list after a crash, and the next hive ends it rather than adopt it.

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::adopted::kill_marked;
use super::device::Device;
use super::endpoint::Endpoint;
use super::engines::Engine;
use super::engines::discover::{ANSWER_LIMIT, Described, NoAnswer};
use super::exit::Exit;
use super::handle::Handle;
use super::plan::StartPlan;
use super::request::{StartRequest, Trial};
use super::shared::Shared;
use super::start_error::{StartError, StartErrorKind};
use super::state::{Control, LifeStage, StopReason};
use super::{causes, identity, log_follow, start, stop};
use crate::config::KeepAlive;
use crate::error::{Code, Failure, Result};
use crate::spawn;
use crate::text::clip;

/// How long a worker that no longer answers may take to be seen to have ended.
const END_AFTER_SILENCE: Duration = Duration::from_millis(500);
/// The last lines of what a program printed that go with a failure.
const TAIL_LINES: usize = 20;
/// The most characters of a line that a failure quotes: it may have two paths.
const LONGEST_QUOTE: usize = 400;

/// What a worker tries, and with what.
#[derive(Clone, Debug)]
pub(crate) struct Tried {
    /// The engine.
    pub(crate) engine: Arc<Engine>,
    /// What the list shows in the place of a model's id; no id has a space.
    pub(crate) shown_as: String,
    /// The file of the model.
    pub(crate) model: PathBuf,
    /// Always exact.
    pub(crate) device: Device,
    /// Tokens of context.
    pub(crate) context: u64,
}

impl Tried {
    fn request(&self) -> StartRequest {
        StartRequest {
            model_id: self.shown_as.clone(),
            model_path: self.model.clone(),
            engine: self.engine.name.clone(),
            device: self.device,
            context_length: Some(self.context),
            slots: Some(1),
            keep_alive: KeepAlive::Forever,
            trial: Some(Trial(Arc::clone(&self.engine))),
            ..StartRequest::default()
        }
    }
}

/// Why an engine could not be tried.
#[derive(Debug)]
pub(crate) struct TryError {
    pub(crate) why: WhyNot,
    pub(crate) failure: Failure,
}

/// What a [`TryError`] says of the engine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum WhyNot {
    /// It does not work.
    Engine,
    /// Nothing: there is no room for it now.
    NoRoom,
    /// Nothing: it was stopped.
    Stopped,
    /// Nothing: the hive could not do its part.
    Hive,
}

impl From<StartError> for TryError {
    fn from(StartError { kind, failure }: StartError) -> Self {
        let was_killed = failure.signal.as_deref() == Some("SIGKILL");
        let why = match (kind, failure.code) {
            (StartErrorKind::Cancelled | StartErrorKind::StoppedByRequest, _) | (_, Code::ShuttingDown) => {
                WhyNot::Stopped
            }
            (_, Code::OutOfMemory) => WhyNot::NoRoom,
            (_, Code::WorkerFailed) if was_killed => WhyNot::NoRoom,
            (StartErrorKind::PortTaken, _) => WhyNot::Hive,
            (_, Code::Io | Code::DiskFull | Code::Internal) => WhyNot::Hive,
            _ => WhyNot::Engine,
        };
        Self { why, failure }
    }
}

/// Asks the llama.cpp server at `program` to describe itself, as an engine of that name.
pub(super) async fn describe(shared: &Shared, name: &str, program: &Path) -> Result<Arc<Engine>, TryError> {
    let limit = ANSWER_LIMIT.min(*shared.timers.readiness);
    let Described { engine, devices } = shared
        .describe(name, program.to_owned(), limit)
        .await
        .map_err(|none| undescribed(name, &none, "start"))?;
    devices.map_err(|none| undescribed(name, &none, "devices"))?;
    Ok(Arc::new(engine))
}

fn undescribed(name: &str, none: &NoAnswer, stage: &str) -> TryError {
    let told = none.exit.and_then(|_| causes::told(&none.lines));
    let said = told.map_or_else(String::new, |line| format!(" ({})", clip(line.trim(), LONGEST_QUOTE)));
    let mut failure = Failure::new(Code::WorkerFailed, format!("'{name}' does not run: {none}{said}"))
        .hint(causes::next_step(none.exit, &none.lines, false, false))
        .stage(stage);
    failure.exit_code = none.exit.and_then(|exit| exit.code);
    failure.signal = none.exit.and_then(Exit::signal);
    failure.log_tail = none.lines[none.lines.len().saturating_sub(TAIL_LINES)..].to_vec();
    let was_killed = none.exit.is_some_and(Exit::killed);
    TryError { why: if was_killed { WhyNot::NoRoom } else { WhyNot::Engine }, failure }
}

/// Whether so many such workers have room beside what is in memory now, as far as that is known.
pub(super) async fn has_room(shared: &Shared, what: &Tried, count: u64) -> Result<bool> {
    Ok(StartPlan::new(shared, &what.request()).await?.has_room(count))
}

/// A worker that tries an engine. Dropping it ends the worker at once.
#[derive(Debug)]
pub(crate) struct TrialWorker {
    shared: Arc<Shared>,
    handle: Arc<Handle>,
}

/// What has become of a worker that tries an engine.
#[derive(Debug)]
pub(crate) enum Fate {
    /// It lives.
    Lives,
    /// Somebody stopped it.
    Stopped,
    /// It crashed.
    Crashed(Failure),
}

impl Drop for TrialWorker {
    fn drop(&mut self) {
        // The owner of one that has ended ignores it.
        self.handle.control(Control::Stop { grace: Duration::ZERO, reason: StopReason::FailedStart });
    }
}

impl TrialWorker {
    pub(super) async fn start(
        shared: &Arc<Shared>,
        what: &Tried,
        stop: &CancellationToken,
    ) -> Result<Self, TryError> {
        let worker = start::start(shared, what.request(), 0, stop).await?;
        let handle = shared.registry.find(worker.pid);
        let gone = |failure| TryError { why: WhyNot::Stopped, failure };
        Ok(Self { handle: handle.map_err(gone)?, shared: Arc::clone(shared) })
    }

    /// Where to send it a request; `None` where it accepts none.
    pub(crate) fn endpoint(&self) -> Option<Endpoint> {
        Endpoint::open(&self.handle, &self.shared.registry.activity)
    }

    /// The last lines of its log, up to 64 KiB.
    pub(crate) async fn log(&self) -> Vec<String> {
        let (log, secret) = (self.handle.folder.log(), self.handle.secret.clone());
        spawn::blocking(move || log_follow::tail(&log, usize::MAX, &secret)).await.unwrap_or_default()
    }

    /// What has become of it, for whoever got no answer: its end may be seen a moment later.
    pub(crate) async fn fate(&self) -> Fate {
        let Ok(end) = timeout(END_AFTER_SILENCE, self.handle.ended()).await else { return Fate::Lives };
        if self.handle.stage() != LifeStage::Crashed {
            return Fate::Stopped;
        }
        let (engine, how) = (&self.handle.engine.name, self.handle.last_exit().unwrap_or_default());
        let mut log = self.log().await;
        let (saw_oom_kill, is_restricted) = (self.handle.saw_oom_kill(), self.handle.is_restricted());
        let mut failure = Failure::new(Code::WorkerFailed, format!("'{engine}' crashed: {how}"))
            .hint(causes::next_step(end.exit, &log, saw_oom_kill, is_restricted));
        failure.exit_code = end.exit.and_then(|exit| exit.code);
        failure.signal = end.exit.and_then(Exit::signal);
        failure.log_tail = log.split_off(log.len().saturating_sub(TAIL_LINES));
        Fate::Crashed(failure)
    }

    /// Ends it, and looks whether all that it held is free again. Returns what was not seen to be gone, in a
    /// sentence.
    pub(crate) async fn end(self, at_once: bool) -> Option<String> {
        let grace = if at_once { Duration::ZERO } else { *self.shared.timers.stop_grace };
        let _stopped = stop::stop(&self.shared.registry, &self.handle, grace).await;
        let remains = self.handle.ended().await.remains.sentence(self.handle.pid);
        let strays = self.end_strays().await;
        let left = (strays > 0).then(|| {
            format!("It left {strays} process(es) behind that do not belong to its group; they were ended")
        });
        remains.or(left)
    }

    /// Ends its processes that left its group. Returns how many there were.
    async fn end_strays(&self) -> usize {
        let worker_id = self.handle.worker_id.clone();
        let look = move || {
            let marked = identity::marked().into_iter();
            let strays: HashSet<_> =
                marked.filter(|(_, id)| *id == worker_id).map(|(identity, _)| identity).collect();
            strays.into_iter().collect::<Vec<_>>()
        };
        let strays = spawn::blocking(look).await.unwrap_or_default();
        let _ended = kill_marked(&strays, &self.handle.worker_id).await;
        strays.len()
    }
}
