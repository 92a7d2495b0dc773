//! The operation table, and how an operation becomes a running job.
//!
//! [`TABLE`] is the only list of what the hive can do. A new operation costs one file, one `mod` line,
//! one row and its section in `docs/EVENTS.md`: everything else follows from the row.
//!
//! [`route_operation`] is the only place that sets the narration context. It does so for every
//! operation alike, before anything looks at which operation it is.

mod fleet_expel;
mod fleet_join;
mod fleet_leave;
mod fleet_up;
mod fleet_invite;
mod into_fleet;
mod at_home;
mod anywhere;
mod everywhere;
mod fleet_status;
mod hive_check;
mod hub_login;
mod hub_logout;
mod hidden;
mod memory_lease;
mod memory_release;
mod model_delete;
mod model_diagnose;
mod model_download;
mod model_get;
mod model_list;
mod model_load;
mod model_settings_get;
mod model_settings_set;
mod model_settings;
mod model_unload;
mod parse;
mod refused;
mod residency_get;
mod schema;
mod row;
mod described;
mod token_create;
mod token_list;
mod token_revoke;
mod usage_report;
mod field_error;
mod worker_catalog_get;
mod worker_catalog_list;
mod worker_install;
mod worker_installed_get;
mod worker_list_installed;
mod worker_process_delete;
mod worker_process_get;
mod worker_process_list;
mod worker_remove;
mod worker_spawn;
mod loading;
mod operation;
mod asker;

use std::borrow::Cow;
use std::sync::Arc;

use futures::FutureExt;
use tracing::field::Empty;
use tracing::{Instrument, Span};
use utoipa::openapi::{RefOr, Schema};
use utoipa::{PartialSchema, ToSchema};

use crate::app::AppState;
use crate::error::Result;
use crate::jobs::event::Terminal;
use crate::jobs::{JobRun, JobState, NewJob, OperationKind, Submitted};
use crate::n;
use crate::narration::{NarrationContext, with_narration_context};
use crate::text::clip;
use crate::traces::TARGET;

pub(crate) use anywhere::{destination, submit_to};
pub use asker::{Asker, By};
pub(crate) use into_fleet::resume as resume_fleet;
pub use operation::{Context, Deadline, Operation};
pub use parse::{Submission, parse_in};
pub use refused::{REFUSED, RefusalReason, Refused};
pub use row::Row;

/// Every operation of the hive.
pub static TABLE: &[Row] = &[
    Row::of::<hive_check::HiveCheck>(),
    Row::of::<model_list::ModelList>(),
    Row::of::<model_get::ModelGet>(),
    Row::of::<model_download::ModelDownload>(),
    Row::of::<model_delete::ModelDelete>(),
    Row::of::<model_load::ModelLoad>(),
    Row::of::<model_unload::ModelUnload>(),
    Row::of::<model_diagnose::ModelDiagnose>(),
    Row::of::<model_settings_get::ModelSettingsGet>(),
    Row::of::<model_settings_set::ModelSettingsSet>(),
    Row::of::<worker_spawn::WorkerSpawn>(),
    Row::of::<worker_process_list::WorkerProcessList>(),
    Row::of::<worker_process_get::WorkerProcessGet>(),
    Row::of::<worker_process_delete::WorkerProcessDelete>(),
    Row::of::<worker_catalog_list::WorkerCatalogList>(),
    Row::of::<worker_catalog_get::WorkerCatalogGet>(),
    Row::of::<worker_install::WorkerInstall>(),
    Row::of::<worker_list_installed::WorkerListInstalled>(),
    Row::of::<worker_installed_get::WorkerInstalledGet>(),
    Row::of::<worker_remove::WorkerRemove>(),
    Row::of::<residency_get::ResidencyGet>(),
    Row::of::<memory_lease::MemoryLease>(),
    Row::of::<memory_release::MemoryRelease>(),
    Row::of::<token_create::TokenCreate>(),
    Row::of::<token_list::TokenList>(),
    Row::of::<token_revoke::TokenRevoke>(),
    Row::of::<usage_report::UsageReport>(),
    Row::of::<hub_login::HubLogin>(),
    Row::of::<hub_logout::HubLogout>(),
    Row::of::<fleet_status::FleetStatus>(),
    Row::of::<fleet_up::FleetUp>(),
    Row::of::<fleet_invite::FleetInvite>(),
    Row::of::<fleet_join::FleetJoin>(),
    Row::of::<fleet_leave::FleetLeave>(),
    Row::of::<fleet_expel::FleetExpel>(),
];

/// A body of `POST /v1/jobs`, for the description of the API: one operation of the [`TABLE`].
pub(crate) struct AnyOperation;

impl PartialSchema for AnyOperation {
    fn schema() -> RefOr<Schema> {
        schema::any(TABLE)
    }
}

impl ToSchema for AnyOperation {
    fn name() -> Cow<'static, str> {
        "Operation".into()
    }

    fn schemas(schemas: &mut Vec<(String, RefOr<Schema>)>) {
        schemas.extend(schema::named(TABLE));
    }
}

/// Understands a body as an operation of the [`TABLE`].
///
/// # Errors
/// Those of [`parse_in`].
pub fn parse(body: &[u8]) -> Result<Submission> {
    parse_in(TABLE, body)
}

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

/// The reason of an operation, as the end of its first narration.
fn because(reason: Option<&str>) -> String {
    reason.map_or_else(String::new, |reason| format!(": {}", clip(reason, 300)))
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_two_rows_share_a_name() {
        let mut names: Vec<_> = TABLE.iter().map(|row| row.wire_name).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), TABLE.len());
    }

    #[test]
    fn every_row_has_a_file_and_every_file_a_row() {
        let dir = concat!(env!("CARGO_MANIFEST_DIR"), "/src/ops");
        let mut files: Vec<_> = std::fs::read_dir(dir)
            .unwrap()
            .map(|entry| entry.unwrap().path())
            .filter(|path| {
                std::fs::read_to_string(path).is_ok_and(|text| text.contains("\nimpl Operation for "))
            })
            .map(|path| path.file_stem().unwrap().to_str().unwrap().to_owned())
            .collect();
        let mut rows: Vec<_> = TABLE.iter().map(|row| row.wire_name.to_owned()).collect();
        files.sort();
        rows.sort();
        assert_eq!(files, rows);
    }
}
