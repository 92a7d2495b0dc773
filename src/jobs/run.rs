//! Runs one job from its submission to its end.
//!
//! The operation runs in a task of its own, so that a panic is caught, and so that a deadline, a
//! cancellation or a shutdown ends the job even if the operation does not listen: its token asks it to
//! stop, it gets time to tidy up, and then it is dropped.

use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use serde_json::value::RawValue;
use tokio::task::{JoinError, JoinHandle};
use tokio::time::{sleep, sleep_until, timeout};
use tokio_util::sync::CancellationToken;

use super::event::Terminal;
use super::job::{Job, JobClass, JobId, OperationKind, StopReason};
use super::limits::Claim;
use crate::config::Timers;
use crate::error::{Code, Failure, Result};
use crate::n;
use crate::narration::{self, JobStep, Level, NarrationContext, narrate_step};
use crate::spawn;
use crate::time::{in_words, monotonic};

/// How long dropping an operation may take: it is dropped at its next await.
const DROP_LIMIT: Duration = Duration::from_secs(1);

/// A job to be made.
pub struct NewJob {
    /// The operation's name in `snake_case`.
    pub operation: &'static str,
    /// Read or act.
    pub kind: OperationKind,
    /// The limit that it counts against.
    pub class: JobClass,
    /// Whether it runs even where its journal cannot be written.
    pub runs_unjournalled: bool,
    /// The request, in its `operation` spelling, with every default filled in.
    pub request: Box<RawValue>,
    /// The idempotency key that it is submitted with.
    pub idempotency_key: Option<String>,
    /// Sets the narration context and runs the job in it to its end, by [`JobRun::run`].
    pub run: RunJob,
}

/// Runs a job to its end.
pub type RunJob = Box<dyn FnOnce(JobRun, NarrationContext) -> BoxFuture<'static, Terminal> + Send>;

impl std::fmt::Debug for NewJob {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("NewJob").field("request", &self.request.get()).finish_non_exhaustive()
    }
}

/// A submitted job that has not run yet.
#[derive(Debug)]
pub struct JobRun {
    job: Arc<Job>,
    claim: Claim,
    limits: RunLimits,
}

/// What a running operation gets from its job.
#[derive(Clone, Debug)]
pub struct JobHandle {
    /// The job's id.
    pub id: JobId,
    /// Cancelled when the job is to stop.
    pub stop: CancellationToken,
}

/// The timers of every run.
#[derive(Clone, Copy, Debug)]
pub(super) struct RunLimits {
    /// After this much silence the job narrates what it waits for.
    silence: Duration,
    /// How long an operation may go on after it was asked to stop.
    cancel_grace: Duration,
}

impl RunLimits {
    pub(super) fn new(timers: &Timers) -> Self {
        Self { silence: *timers.silence, cancel_grace: *timers.cancel_grace }
    }
}

impl JobRun {
    pub(super) const fn new(job: Arc<Job>, claim: Claim, limits: RunLimits) -> Self {
        Self { job, claim, limits }
    }

    /// Waits for the job's permit, runs `operation`, and says how the job ended. `deadline` counts from
    /// the start. Called within the job's narration context.
    pub(crate) async fn run<F>(
        self,
        deadline: Option<Duration>,
        operation: impl FnOnce(JobHandle) -> F,
    ) -> Terminal
    where
        F: Future<Output = Result<()>> + Send + 'static,
    {
        let silence = self.limits.silence;
        let terminal = tokio::select! {
            terminal = self.queue_then_run(deadline, operation) => terminal,
            () = break_silence(silence) => unreachable!("it breaks every silence"),
        };
        if let Terminal::Failed(failure) = &terminal {
            narrate_reasons(failure);
        }
        terminal
    }

    async fn queue_then_run<F>(
        self,
        deadline: Option<Duration>,
        operation: impl FnOnce(JobHandle) -> F,
    ) -> Terminal
    where
        F: Future<Output = Result<()>> + Send + 'static,
    {
        let Self { job, claim, limits } = self;
        let queued_at = std::time::Instant::now();
        let permit = match claim {
            Claim::Permit(permit) => Some(permit),
            Claim::Wait(waiting) => {
                narrate_step(
                    JobStep::Queued,
                    Level::Info,
                    "job_queued",
                    format!(
                        "Waiting for a free place: {} job(s) like this one may run at once, {} wait before it",
                        waiting.total, waiting.ahead
                    ),
                );
                let _waiting = narration::waiting_for("a free place in its queue");
                tokio::select! {
                    () = job.stopping().cancelled() => None,
                    permit = waiting.permit() => Some(permit),
                }
            }
        };
        // Checked after the permit is there: a stop and a permit may come in the same moment.
        let Some(_permit) = permit.filter(|_| !job.stopping().is_cancelled()) else {
            n!("job_stopped", "Stopped before it started; nothing was done");
            return terminal_of_stopped(&job, None);
        };
        let waited = in_words(queued_at.elapsed());
        narrate_step(
            JobStep::Started,
            Level::Debug,
            "job_started",
            format!("Started {} after {waited} in the queue", job.header().operation),
        );
        let handle = JobHandle { id: job.id().clone(), stop: job.stopping().clone() };
        supervise(spawn::task(operation(handle)), &job, deadline, limits.cancel_grace).await
    }
}

/// Waits for the operation's task. Stops it when its deadline passes or the job is told to stop.
async fn supervise(
    mut task: JoinHandle<Result<()>>,
    job: &Job,
    deadline: Option<Duration>,
    cancel_grace: Duration,
) -> Terminal {
    let deadline = deadline.map(|after| tokio::time::Instant::now() + after);
    let mut give_up_at = None;
    loop {
        tokio::select! {
            // The stop comes first, so that its narration stands before whatever the operation ends with.
            biased;
            () = job.stopping().cancelled(), if give_up_at.is_none() => {
                n!("job_stopping", "{}", match job.stop_reason() {
                    Some(StopReason::Timeout) => "The deadline passed: stopping",
                    Some(StopReason::Shutdown) => "The hive is shutting down: stopping",
                    Some(StopReason::TakenForDead) => {
                        "The fleet took this hive for gone and has ended this job: stopping"
                    }
                    Some(StopReason::Cancel) | None => "Cancelling",
                });
                give_up_at = Some(tokio::time::Instant::now() + cancel_grace);
            }
            done = &mut task => return terminal_of_ended(job, done),
            () = until(deadline), if give_up_at.is_none() => job.stop(StopReason::Timeout),
            () = until(give_up_at) => {
                n!(warn: "job_abandoned",
                   "The operation did not stop within {}: it is dropped", in_words(cancel_grace));
                task.abort();
                return match timeout(DROP_LIMIT, &mut task).await {
                    Ok(Err(error)) if error.is_cancelled() => terminal_of_stopped(job, None),
                    Ok(done) => terminal_of_ended(job, done),
                    Err(_) => {
                        n!(warn: "job_abandoned",
                           "The operation blocks its thread and cannot be dropped: this is a defect");
                        terminal_of_stopped(job, None)
                    }
                };
            }
        }
    }
}

/// The terminal event of a job whose operation ended by itself.
fn terminal_of_ended(job: &Job, done: Result<Result<()>, JoinError>) -> Terminal {
    match done {
        // What succeeded has succeeded, even after a request to stop: its effects are there.
        Ok(Ok(())) => Terminal::Done,
        Ok(Err(failure)) => terminal_of_stopped(job, Some(failure)),
        Err(error) => {
            let mut failure = Failure::internal(format!("the operation {} panicked", job.header().operation));
            if let Ok(panic) = error.try_into_panic() {
                failure.causes.extend(panic_text(panic.as_ref()));
            }
            Terminal::Failed(Arc::new(failure))
        }
    }
}

/// The terminal event of a job that was told to stop, or that failed without being told.
fn terminal_of_stopped(job: &Job, failure: Option<Failure>) -> Terminal {
    let name = &job.header().operation;
    let failure = match (job.stop_reason(), failure) {
        (Some(StopReason::Cancel), failure) => {
            // The operation's own account of how far it came and what it kept.
            if let Some(failure) = failure {
                n!("job_cancelled", "{}", failure.message);
            }
            return Terminal::Cancelled;
        }
        (Some(StopReason::Timeout), failure) => stopped(
            Code::Timeout,
            format!("{name} did not finish before its deadline"),
            "the last narration says what it was doing; GET /v1/jobs shows what else is running",
            failure,
        ),
        (Some(StopReason::Shutdown), failure) => stopped(
            Code::Interrupted,
            format!("the hive was stopped while {name} was under way"),
            "submit it again once the hive is back",
            failure,
        ),
        (Some(StopReason::TakenForDead), failure) => stopped(
            Code::Interrupted,
            format!("the fleet took this hive for gone while {name} was under way"),
            "submit it again",
            failure,
        ),
        (None, Some(failure)) => failure,
        (None, None) => Failure::internal(format!("{name} was dropped without a reason")),
    };
    Terminal::Failed(Arc::new(failure))
}

/// The failure of a stopped operation. `account` is the operation's own, of how far it came, what it kept and
/// how to go on.
fn stopped(code: Code, message: String, hint: &str, account: Option<Failure>) -> Failure {
    match account {
        None => Failure::new(code, message).hint(hint),
        Some(account) => {
            let message = format!("{message}: {account}");
            let hint = account.hint.clone().unwrap_or_else(|| hint.to_owned());
            Failure { code, message, hint: Some(hint), ..account }
        }
    }
}

/// Narrates what stands behind a failure. A plain stream's terminal event is one line, which has no room for
/// it.
fn narrate_reasons(failure: &Failure) {
    for cause in failure.causes.iter().filter(|cause| !failure.message.contains(cause.as_str())) {
        n!(warn: "job_failed", "Cause: {cause}");
    }
    if !failure.log_tail.is_empty() {
        n!(warn: "job_failed", "The end of its log:\n  {}", failure.log_tail.join("\n  "));
    }
}

/// Narrates what the job waits for whenever it has said nothing for `silence`. Never returns.
async fn break_silence(silence: Duration) {
    let Some(context) = narration::current() else { return std::future::pending().await };
    loop {
        let quiet = context.quiet_for();
        if quiet < silence {
            sleep(silence - quiet).await;
            continue;
        }
        match context.waiting_for() {
            Some((what, since)) => {
                n!(
                    "still_waiting",
                    "Still waiting for {what}, for {} now",
                    in_words(monotonic().saturating_duration_since(since))
                );
            }
            None => n!("still_working", "Still running; the last narration was {} ago", in_words(quiet)),
        }
    }
}

async fn until(instant: Option<tokio::time::Instant>) {
    match instant {
        Some(instant) => sleep_until(instant).await,
        None => std::future::pending().await,
    }
}

fn panic_text(panic: &(dyn std::any::Any + Send)) -> Option<String> {
    panic
        .downcast_ref::<String>()
        .cloned()
        .or_else(|| panic.downcast_ref::<&'static str>().map(|text| (*text).to_owned()))
}

#[cfg(test)]
mod tests;
