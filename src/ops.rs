//! The operation table. [`submit`] makes a running job of a row of it.
//!
//! [`TABLE`] is the only list of what the hive can do. A new operation costs one file, one `mod` line,
//! one row and its section in `docs/EVENTS.md`: everything else follows from the row.

mod fleet_expel;
mod fleet_join;
mod fleet_leave;
mod fleet_up;
mod fleet_invite;
mod into_fleet;
mod fleet_status;
mod hive_check;
mod hub_login;
mod hub_logout;
mod hidden;
mod memory_lease;
mod memory_release;
mod model_copy;
mod model_delete;
mod model_diagnose;
mod model_download;
mod model_get;
mod model_list;
mod model_load;
mod model_place;
mod model_settings_get;
mod model_settings_set;
mod model_settings;
mod model_unload;
mod at_home;
mod anywhere;
mod everywhere;
mod submit;
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

use utoipa::openapi::{RefOr, Schema};
use utoipa::{PartialSchema, ToSchema};

use crate::app::AppState;
use crate::error::Result;
use crate::fleet::{Agreed, HiveName};
use crate::text::clip;

pub(crate) use anywhere::{destination, submit_to};
pub use asker::{Asker, By};
use at_home::AnswerHives;
pub(crate) use into_fleet::resume as resume_fleet;
pub use operation::{Context, Deadline, Operation};
pub use parse::{Submission, parse_in};
pub use refused::{REFUSED, RefusalReason, Refused};
pub use row::Row;
pub use submit::submit;

/// Every operation of the hive.
pub static TABLE: &[Row] = &[
    Row::of::<hive_check::HiveCheck>(),
    Row::of::<model_list::ModelList>(),
    Row::of::<model_get::ModelGet>(),
    Row::of::<model_download::ModelDownload>(),
    Row::of::<model_copy::ModelCopy>(),
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
    Row::of::<model_place::ModelPlace>(),
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

/// This hive, as its fleet needs it.
pub(crate) fn at_home(app: AppState, answer_hives: AnswerHives) -> at_home::AtHome {
    at_home::AtHome { app, parse, answer_hives }
}

/// The hive that loads a model for a request, among those that have it under these ids.
///
/// # Errors
/// Why none of them can load it.
pub(crate) async fn where_it_fits(app: &AppState, holders: Vec<(HiveName, String)>) -> Result<Agreed> {
    anywhere::where_it_fits(app, parse, holders).await
}

/// The reason of an operation, as the end of its first narration.
fn because(reason: Option<&str>) -> String {
    reason.map_or_else(String::new, |reason| format!(": {}", clip(reason, 300)))
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
