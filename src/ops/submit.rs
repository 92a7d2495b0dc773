//! From a submission to a running job.
//!
//! [`route_operation`] is the only place that sets the narration context. It does so for every
//! operation alike, before anything looks at which operation it is.

use std::sync::Arc;

use futures::FutureExt;
use tracing::field::Empty;
use tracing::{Instrument, Span};

use super::asker::Asker;
use super::operation::Context;
use super::parse::Submission;
use crate::app::AppState;
use crate::error::Result;
use crate::jobs::event::Terminal;
use crate::jobs::{JobRun, JobState, NewJob, OperationKind, Submitted};
use crate::n;
use crate::narration::{NarrationContext, with_narration_context};
use crate::traces::TARGET;

/// Makes a job of a submission and starts it. The audit log gets a line where it is an act.
///
/// # Errors
/// Those of [`Registry::submit`](crate::jobs::Registry::submit).
pub fn submit(
    app: &AppState,
    submission: Submission,
    asker: &Asker,
    idempotency_key: Option<String>,
) -> Result<Submitted> {
    let row = submission.row;
    let request = submission.request.clone();
    let hive = Arc::clone(app);
    let span = tracing::debug_span!(
        target: TARGET, "job", otel.name = row.wire_name, operation = row.wire_name, outcome = Empty
    );
    let submitted = app.jobs.submit(NewJob {
        operation: row.wire_name,
        kind: row.kind,
        class: row.class,
        runs_unjournalled: row.frees,
        request,
        idempotency_key,
        run: Box::new(move |job, context| {
            let run = route_operation(hive, submission, job, context);
            async move {
                let terminal = run.await;
                Span::current().record("outcome", JobState::from(&terminal).name());
                terminal
            }
            .instrument(span)
            .boxed()
        }),
    })?;
    if row.kind == OperationKind::Act && !submitted.repeated {
        asker.acts(row.wire_name, &submitted.job.id().to_string());
    }
    Ok(submitted)
}

/// Runs one job in its narration context, whichever operation it is, to its end.
async fn route_operation(
    app: AppState,
    submission: Submission,
    job: JobRun,
    context: NarrationContext,
) -> Terminal {
    with_narration_context(context, async move {
        let Submission { row, hive_id, operation, placed, .. } = submission;
        n!(debug: "route", "Routing {} for hive '{hive_id}'", row.wire_name);
        if let Some(placed) = placed {
            n!("placed", "🧭 {placed}");
        }
        let deadline = row.deadline.after(&app.config.timers);
        job.run(deadline, |job| async move {
            app.config.faults.inject(row.wire_name).await?;
            operation.run(Context { app, hive_id, job_id: job.id, stop: job.stop }).await
        })
        .await
    })
    .await
}
