//! A read on every hive of the fleet, as one job: each hive runs it, and the result has theirs by hive.

use std::collections::BTreeMap;
use std::sync::Arc;

use futures::future::BoxFuture;
use futures::{FutureExt, StreamExt, stream};
use serde::Serialize;
use serde_json::value::RawValue;
use serde_json::{Map, Value};

use super::asker::Asker;
use super::operation::Context;
use super::parse::Submission;
use super::row::{ReadyOperation, Row};
use super::submit::submit;
use crate::app::AppState;
use crate::error::{Code, Failure, Result};
use crate::fleet::{HiveName, Offer, Presence, Submit};
use crate::jobs::event::{Body, Terminal};
use crate::jobs::{Job, OperationKind};
use crate::n;
use crate::narration::Level;

/// How many hives are asked at once.
const AT_ONCE: usize = 32;

/// A read on every hive.
pub(super) struct Everywhere {
    row: &'static Row,
    fields: Map<String, Value>,
}

/// The result.
#[derive(Serialize)]
struct ByHive {
    hives: BTreeMap<String, Answer>,
}

/// What came of it on one hive.
#[derive(Serialize)]
#[serde(rename_all = "snake_case")]
enum Answer {
    Result(Arc<RawValue>),
    Failure(Arc<Failure>),
}

impl Everywhere {
    pub(super) fn of(submission: &Submission) -> Self {
        Self { row: submission.row, fields: submission.fields.clone() }
    }

    async fn ask(&self, app: &AppState, hive: &HiveName, presence: Presence) -> Answer {
        match self.job(app, hive, presence).await {
            Ok(job) => {
                follow(app, hive, &job).await.unwrap_or_else(|failure| Answer::Failure(failure.into()))
            }
            Err(failure) => {
                n!(warn: "fleet_asked", "{hive}: {failure}");
                Answer::Failure(failure.into())
            }
        }
    }

    /// The job that a hive makes of it.
    async fn job(&self, app: &AppState, hive: &HiveName, presence: Presence) -> Result<Arc<Job>> {
        if app.fleet.hive().as_ref() == Some(hive) {
            let submission = Submission::of(self.row, hive.to_string(), self.fields.clone())?;
            return Ok(submit(app, submission, &Asker::fleet(), None)?.job);
        }
        if presence == Presence::Unreachable {
            return Err(Failure::new(Code::HiveUnreachable, format!("hive '{hive}' does not answer"))
                .hint("`rbee-hive fleet status` shows since when"));
        }
        let request = self.row.request_for(hive.as_str(), self.fields.clone())?;
        let request = Submit { request, ..Submit::default() };
        Ok(app.fleet.submit(hive, OperationKind::Read, request).await?.job)
    }
}

/// Narrates what a hive narrates, to its end.
async fn follow(app: &AppState, hive: &HiveName, job: &Job) -> Result<Answer> {
    let mut cursor = app.jobs.log(job).await?.follow(0);
    let mut result = None;
    while let Some(batch) = cursor.next().await {
        for event in batch.events {
            match &event.body {
                Body::Narration { level: Level::Debug, .. } => {}
                Body::Narration { level: Level::Warn | Level::Error, message, .. } => {
                    n!(warn: "fleet_asked", "{hive}: {message}");
                }
                Body::Narration { message, .. } => n!("fleet_asked", "{hive}: {message}"),
                Body::Result(data) => result = Some(Arc::clone(data)),
                Body::Terminal(Terminal::Done) => {}
                Body::Terminal(Terminal::Failed(failure)) => {
                    n!(warn: "fleet_asked", "{hive}: {failure}");
                    return Ok(Answer::Failure(Arc::clone(failure)));
                }
                Body::Terminal(Terminal::Cancelled) => {
                    return Err(Failure::new(Code::Cancelled, format!("it was cancelled on hive '{hive}'")));
                }
            }
        }
    }
    result.map(Answer::Result).ok_or_else(|| Failure::internal(format!("hive '{hive}' gave no result")))
}

impl ReadyOperation for Everywhere {
    fn run(self: Box<Self>, cx: Context) -> BoxFuture<'static, Result<()>> {
        async move {
            let hives = cx.app.fleet.hives()?;
            n!("fleet_ask", "🛰️ Asking {} hive(s)", hives.len());
            let asked = stream::iter(hives).map(|(hive, member)| {
                let (everywhere, app) = (&self, &cx.app);
                async move { (hive.to_string(), everywhere.ask(app, &hive, member.presence).await) }
            });
            let hives = asked.buffer_unordered(AT_ONCE).collect::<BTreeMap<_, _>>().await;
            let result = serde_json::value::to_raw_value(&ByHive { hives })
                .map_err(|error| Failure::internal("the result did not serialise").detail(error))?;
            n!(result: result);
            Ok(())
        }
        .boxed()
    }

    fn offer<'a>(&'a self, _: &'a AppState) -> BoxFuture<'a, Result<Offer>> {
        async { Err(Failure::internal("a read on all hives runs where it was asked for")) }.boxed()
    }
}
