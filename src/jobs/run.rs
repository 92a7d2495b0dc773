//! Conducts one job from its submission to its end, inside its narration context.
//!
//! The operation itself runs in a task of its own, so that a panic is caught, and so that a
//! deadline, a cancellation or a shutdown ends the job even where the operation does not listen:
//! it is asked to stop through its token, given time to tidy up, and dropped after that.

use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinError;
use tokio::time::{sleep, sleep_until, timeout};

use super::event::Terminal;
use super::job::{Job, StopReason};
use super::journal::{QUEUED, STARTED};
use super::limits::Claim;
use crate::app::AppState;
use crate::config::Timers;
use crate::error::{Code, Failure, Result};
use crate::n;
use crate::narration;
use crate::ops::{Call, Cx, Row};
use crate::spawn;
use crate::time::{Instant, in_words};

/// How long dropping an operation may take: it is done at its next await, which must not be far.
const DROP_PATIENCE: Duration = Duration::from_secs(1);

/// What is to be run.
pub(crate) struct Work {
    pub(crate) app: AppState,
    pub(crate) job: Arc<Job>,
    pub(crate) row: &'static Row,
    pub(crate) call: Box<dyn Call>,
    pub(crate) hive_id: String,
    pub(super) claim: Claim,
}

/// Runs the work to its end and says how it ended. Called by `ops::route_operation` alone.
pub(crate) async fn conduct(work: Work) -> Terminal {
    let silence = *work.app.config.timers.silence;
    tokio::select! {
        terminal = queue_then_run(work) => terminal,
        () = break_silence(silence) => unreachable!("silence is broken again and again"),
    }
}

async fn queue_then_run(work: Work) -> Terminal {
    let Work { app, job, row, call, hive_id, claim } = work;
    let queued_at = std::time::Instant::now();
    let place = match claim {
        Claim::Place(place) => Some(place),
        Claim::Wait(waiting) => {
            n!(
                QUEUED,
                "Waiting for a free place: {} job(s) like this one may run at once, {} wait before it",
                waiting.total,
                waiting.ahead
            );
            let _waiting = narration::waiting_for("a free place in its queue");
            tokio::select! {
                // A job that was stopped while it waited must never start.
                biased;
                () = job.stopping().cancelled() => None,
                place = waiting.turn() => Some(place),
            }
        }
    };
    let Some(_place) = place.filter(|_| !job.stopping().is_cancelled()) else {
        n!("job_stopped", "Stopped before it started; nothing was done");
        return ended_by(&job, row, None);
    };
    let waited = queued_at.elapsed();
    n!(debug: STARTED, "Started {} after {} in the queue", row.wire_name, in_words(waited));

    let faults = app.config.faults.clone();
    let timers = app.config.timers.clone();
    let cx = Cx { app, hive_id, job_id: job.id().clone(), stop: job.stopping().clone() };
    let work = spawn::task(async move {
        faults.inject(row.wire_name).await?;
        call.run(cx).await
    });
    attend(work, &job, row, &timers).await
}

/// Waits for the operation's task, and stops it where that is due.
async fn attend(
    mut work: tokio::task::JoinHandle<Result<()>>,
    job: &Job,
    row: &Row,
    timers: &Timers,
) -> Terminal {
    let deadline = row.deadline.after(timers).map(|after| tokio::time::Instant::now() + after);
    let mut give_up = None;
    loop {
        tokio::select! {
            // Why it stops is said before it ends, however quickly the operation listens.
            biased;
            () = job.stopping().cancelled(), if give_up.is_none() => {
                n!("job_stopping", "{}", match job.stop_reason() {
                    Some(StopReason::Timeout) => "Out of time: stopping",
                    Some(StopReason::Shutdown) => "The hive is shutting down: stopping",
                    Some(StopReason::Cancel) | None => "Cancelling",
                });
                give_up = Some(tokio::time::Instant::now() + *timers.cancel_grace);
            }
            done = &mut work => return concluded(job, row, done),
            () = until(deadline), if give_up.is_none() => job.stop(StopReason::Timeout),
            () = until(give_up) => {
                n!(warn: "job_abandoned",
                   "It did not stop within {}: dropped where it stood", in_words(*timers.cancel_grace));
                work.abort();
                return match timeout(DROP_PATIENCE, &mut work).await {
                    Ok(Err(error)) if error.is_cancelled() => ended_by(job, row, None),
                    Ok(done) => concluded(job, row, done),
                    Err(_) => {
                        n!(warn: "job_abandoned", "It holds its thread and goes on unseen: this is a defect");
                        ended_by(job, row, None)
                    }
                };
            }
        }
    }
}

/// How a job ended whose operation came to an end by itself.
fn concluded(job: &Job, row: &Row, done: Result<Result<()>, JoinError>) -> Terminal {
    match done {
        // What succeeded has succeeded, asked to stop or not: its effects are there.
        Ok(Ok(())) => Terminal::Done,
        Ok(Err(failure)) => ended_by(job, row, Some(failure)),
        Err(error) => {
            let mut failure = Failure::internal(format!("the operation {} panicked", row.wire_name));
            if let Ok(panic) = error.try_into_panic() {
                failure.causes.extend(panic_text(panic.as_ref()));
            }
            Terminal::Failed(Arc::new(failure))
        }
    }
}

/// How a job ended that was told to stop, or failed without being told.
fn ended_by(job: &Job, row: &Row, failure: Option<Failure>) -> Terminal {
    let name = row.wire_name;
    let failure = match (job.stop_reason(), failure) {
        (Some(StopReason::Cancel), failure) => {
            // How far it came and what it kept, in its own words.
            if let Some(failure) = failure {
                n!("job_cancelled", "{}", failure.message);
            }
            return Terminal::Cancelled;
        }
        (Some(StopReason::Timeout), _) => {
            Failure::new(Code::Timeout, format!("{name} did not finish before its deadline"))
                .hint("see the last narration for what it was doing; GET /v1/jobs shows what else is running")
        }
        (Some(StopReason::Shutdown), _) => {
            Failure::new(Code::Interrupted, format!("the hive was stopped while {name} was under way"))
                .hint("submit it again once the hive is back")
        }
        (None, Some(failure)) => failure,
        (None, None) => Failure::internal(format!("{name} was dropped without a reason")),
    };
    Terminal::Failed(Arc::new(failure))
}

/// Narrates what the job waits for whenever it has said nothing for `silence`.
async fn break_silence(silence: Duration) {
    let Some(context) = narration::current() else { return std::future::pending().await };
    loop {
        let quiet = Duration::from_millis(Instant::now().since_ms(context.last_at()));
        if quiet < silence {
            sleep(silence - quiet).await;
            continue;
        }
        match context.waiting_for() {
            Some((what, since)) => {
                n!("still_waiting", "Still waiting for {what}, for {} now", in_words(since.elapsed()));
            }
            None => n!("still_working", "Still at work; the last news was {} ago", in_words(quiet)),
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
