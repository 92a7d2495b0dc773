//! `GET /v1/config`: the settings in effect.

use std::path::PathBuf;

use axum::Json;
use axum::extract::State;
use serde::Serialize;
use utoipa::ToSchema;

use super::problem::Problem;
use crate::app::AppState;
use crate::config::Setting;
use crate::error::Code;
use crate::spawn;

/// The settings in effect: those of the start, with what reloads have taken over since.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct InEffect {
    /// The file; null where the hive was started without one.
    #[schema(value_type = Option<String>)]
    file: Option<PathBuf>,
    settings: Vec<Setting>,
    /// The settings that the file has otherwise since, and that need a restart.
    restart_needed: Vec<String>,
}

/// Tells the settings in effect, and where each comes from.
#[utoipa::path(
    get,
    path = "/v1/config",
    operation_id = "get_config",
    tag = "Hive",
    responses((status = 200, description = "The settings.", body = InEffect)),
    extensions(("x-errors" = json!([Code::ConfigInvalid])))
)]
pub(super) async fn get(State(app): State<AppState>) -> Result<Json<InEffect>, Problem> {
    let config = app.in_effect();
    let in_effect = spawn::blocking(move || {
        let (file, restart_needed) = match &config.file {
            Some(file) => (Some(file.path.clone()), file.waiting()),
            None => (None, Vec::new()),
        };
        config.settings().map(|settings| InEffect { file, settings, restart_needed })
    });
    Ok(Json(in_effect.await??))
}
