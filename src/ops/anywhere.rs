//! Where an operation runs: here, on another hive of the fleet, on the best for it, or, for a read, on all of them.

use std::collections::BTreeMap;
use std::sync::Arc;

use futures::FutureExt;
use futures::future::BoxFuture;
use serde_json::json;

use super::asker::Asker;
use super::everywhere::Everywhere;
use super::field_error::FieldError;
use super::parse::Submission;
use super::submit::submit;
use crate::app::AppState;
use crate::error::{Failure, Result};
use crate::fleet::{Agreed, Asks, HiveName, Lead, Offer, Presence, Submit, agree};
use crate::jobs::{OperationKind, Submitted};
use crate::spawn;

/// Makes a job of a submission, there.
///
/// # Errors
/// Those of [`submit`]; those of the other hive, or that it does not answer.
pub(crate) async fn submit_to(
    app: &AppState,
    destination: Destination,
    submission: Submission,
    asker: &Asker,
    idempotency_key: Option<String>,
) -> Result<Submitted> {
    match destination {
        Destination::Here => submit(app, submission, asker, idempotency_key),
        Destination::All => {
            let everywhere = Box::new(Everywhere::of(&submission));
            submit(app, Submission { operation: everywhere, ..submission }, asker, idempotency_key)
        }
        Destination::Hive(hive) => submit_to_hive(app, &hive, submission, asker, idempotency_key).await,
        Destination::Any => {
            let known = match &idempotency_key {
                Some(key) => app.fleet.hive_of_key(key, None).await?,
                None => None,
            };
            let (mut hive, why, mut lead) = match known {
                Some(hive) => (hive, None, None),
                None => {
                    let Agreed { hive, why, lead } = on_the_best(app, &submission).await?;
                    (hive, Some(why), lead)
                }
            };
            if let Some(key) = &idempotency_key
                && let Some(other) = app.fleet.hive_of_key(key, Some(&hive)).await?
            {
                lead = lead.filter(|_| other == hive);
                hive = other;
            }
            let submission = Submission { placed: why, ..submission };
            let submitted = submit_to_hive(app, &hive, submission, asker, idempotency_key).await?;
            if let Some(lead) = lead {
                let job = Arc::clone(&submitted.job);
                spawn::detached(async move {
                    job.ended().await;
                    drop(lead);
                });
            }
            Ok(submitted)
        }
    }
}

/// The hive that loads a model for a request, among those that have it under these ids.
///
/// # Errors
/// Why none of them can load it.
pub(crate) async fn where_it_fits(
    app: &AppState,
    parse: fn(&[u8]) -> Result<Submission>,
    holders: Vec<(HiveName, String)>,
) -> Result<Agreed> {
    let hives = holders.iter().map(|(hive, _)| hive.clone()).collect();
    let loads = holders.into_iter().map(|(hive, id)| {
        let load = json!({"ModelLoad": {"id": id, "hive_id": hive.as_str()}});
        (hive, parse(load.to_string().as_bytes()))
    });
    let loads: BTreeMap<_, _> = loads.collect();
    let of = |hive: &HiveName| match loads.get(hive) {
        Some(Ok(load)) => Ok(load),
        Some(Err(failure)) => Err(failure.clone()),
        None => Err(Failure::internal("a hive was asked that does not have the model")),
    };
    agree(&Asked { app, of }, hives).await
}

/// The hive that does it, of all that can be reached.
async fn on_the_best(app: &AppState, submission: &Submission) -> Result<Agreed> {
    let hives = app.fleet.hives()?;
    let reachable = hives.into_iter().filter(|(_, member)| member.presence == Presence::Reachable);
    let reachable = reachable.map(|(hive, _)| hive).collect();
    agree(&Asked { app, of: |_: &HiveName| Ok(submission) }, reachable).await
}

/// What the hives of the fleet are asked for: `of` has it by hive.
struct Asked<'a, F> {
    app: &'a AppState,
    of: F,
}

impl<'a, F: Fn(&HiveName) -> Result<&'a Submission> + Send + Sync> Asks for Asked<'a, F> {
    fn offer<'b>(&'b self, hive: &'b HiveName) -> BoxFuture<'b, Result<Offer>> {
        async move {
            let submission = (self.of)(hive)?;
            offer(self.app, hive, submission).await
        }
        .boxed()
    }

    fn lead<'b>(
        &'b self,
        bytes: u64,
        hive: &'b HiveName,
        able: &'b [HiveName],
    ) -> BoxFuture<'b, Option<Lead>> {
        self.app.fleet.lead_of_load(bytes, hive, able).boxed()
    }
}

async fn offer(app: &AppState, hive: &HiveName, submission: &Submission) -> Result<Offer> {
    if app.fleet.hive().as_ref() == Some(hive) {
        return submission.operation.offer(app).await;
    }
    let request = submission.for_hive(hive.as_str())?;
    app.fleet.offer(hive, Submit { request, ..Submit::default() }).await
}

async fn submit_to_hive(
    app: &AppState,
    hive: &HiveName,
    submission: Submission,
    asker: &Asker,
    idempotency_key: Option<String>,
) -> Result<Submitted> {
    if app.fleet.hive().as_ref() == Some(hive) {
        // Addressed as to any other hive, so that a repetition by way of another one is the same request.
        let Submission { row, fields, placed, .. } = submission;
        let here = Submission { placed, ..Submission::of(row, hive.to_string(), fields)? };
        return submit(app, here, asker, idempotency_key);
    }
    let request = Submit {
        request: submission.for_hive(hive.as_str())?,
        idempotency_key,
        caller: asker.caller.to_string(),
        placed: submission.placed,
        ..Submit::default()
    };
    app.fleet.submit(hive, submission.row.kind, request).await
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
    /// On the hive that is best for it.
    Any,
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
    if hive_id.eq_ignore_ascii_case("any") {
        return Ok(match submission.row.kind {
            OperationKind::Read => Destination::Here,
            OperationKind::Act => Destination::Any,
        });
    }
    let hive = app.fleet.named(hive_id)?;
    let is_this = app.fleet.hive().is_some_and(|own| own == hive);
    Ok(if is_this { Destination::Here } else { Destination::Hive(hive) })
}
