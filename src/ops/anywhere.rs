//! Where an operation runs: here, on another hive of the fleet, or, for a read, on all of them.

use super::asker::Asker;
use super::everywhere::Everywhere;
use super::field_error::FieldError;
use super::parse::Submission;
use crate::app::AppState;
use crate::error::Result;
use crate::fleet::{HiveName, Submit};
use crate::jobs::{OperationKind, Submitted};

/// Makes a job of a submission, there.
///
/// # Errors
/// Those of [`super::submit`]; those of the other hive, or that it does not answer.
pub(crate) async fn submit_to(
    app: &AppState,
    destination: Destination,
    submission: Submission,
    asker: &Asker,
    idempotency_key: Option<String>,
) -> Result<Submitted> {
    match destination {
        Destination::Here => super::submit(app, submission, asker, idempotency_key),
        Destination::All => {
            let everywhere = Box::new(Everywhere::of(&submission));
            super::submit(app, Submission { operation: everywhere, ..submission }, asker, idempotency_key)
        }
        Destination::Hive(hive) => {
            let submit = Submit {
                request: submission.for_hive(hive.as_str())?,
                idempotency_key,
                from: app.fleet.hive().map(|hive| hive.to_string()).unwrap_or_default(),
                caller: asker.caller.to_string(),
                inbox: None,
            };
            app.fleet.submit(&hive, submission.row.kind, submit).await
        }
    }
}

/// Where an operation runs.
#[derive(Debug)]
pub(crate) enum Destination {
    /// On this hive.
    Here,
    /// On another hive of the fleet.
    Hive(HiveName),
    /// On every hive.
    All,
}

/// Where a submission wants to run. `request_host` is the host that the request was sent to.
///
/// # Errors
/// [`Code::UnknownHive`](crate::error::Code::UnknownHive); that the fleet cannot be reached.
pub(crate) fn destination(
    app: &AppState,
    submission: &Submission,
    request_host: Option<&str>,
) -> Result<Destination> {
    let hive_id = &submission.hive_id;
    let unknown = match app.check_hive_id(hive_id, request_host) {
        Ok(()) => return Ok(Destination::Here),
        Err(unknown) => unknown,
    };
    if !app.fleet.is_on() {
        return Err(unknown);
    }
    if hive_id.eq_ignore_ascii_case("all") {
        if submission.row.kind == OperationKind::Act {
            let problem = "'all' is for operations that only read";
            return Err(FieldError::of_field("hive_id", problem).into_failure(submission.row.name));
        }
        return Ok(Destination::All);
    }
    let hive = app.fleet.named(hive_id)?;
    let is_this = app.fleet.hive().is_some_and(|own| own == hive);
    Ok(if is_this { Destination::Here } else { Destination::Hive(hive) })
}
