//! Operations of the hive on behalf of a request that is no submission of a job.

use std::sync::Arc;

use serde_json::Value;

use crate::app::AppState;
use crate::error::{Code, Failure, Result};
use crate::jobs::Job;
use crate::jobs::event::Terminal;
use crate::jobs::log::Log;
use crate::ops::{self, Asker};

/// Makes a job of the operation and starts it.
///
/// # Errors
/// Those of [`ops::parse`] and [`ops::submit`].
pub(crate) fn submit(app: &AppState, asker: &Asker, operation: &Value) -> Result<Arc<Job>> {
    let submission = ops::parse(operation.to_string().as_bytes())?;
    Ok(ops::submit(app, submission, asker, None)?.job)
}

/// Runs the operation to its end. It goes on where the caller leaves.
///
/// # Errors
/// That with which the job fails.
pub(crate) async fn run(app: &AppState, asker: &Asker, operation: &Value) -> Result<()> {
    let job = submit(app, asker, operation)?;
    end_of(app, &job).await
}

/// Waits for the end of a job.
///
/// # Errors
/// That with which the job fails.
pub(crate) async fn end_of(app: &AppState, job: &Job) -> Result<()> {
    let log = app.jobs.log(job).await?;
    let mut cursor = log.follow(0);
    while cursor.next().await.is_some() {}
    outcome(&log)
}

/// What the end of a job says. One whose log ends without an outcome has not succeeded.
pub(crate) fn outcome(log: &Log) -> Result<()> {
    match log.outcome() {
        Some(Terminal::Done) => Ok(()),
        Some(Terminal::Failed(failure)) => Err(Failure::clone(&failure)),
        Some(Terminal::Cancelled) | None => Err(Failure::new(Code::Cancelled, "somebody cancelled it")
            .hint("GET /v1/jobs lists the jobs; ask again to repeat it")),
    }
}
