//! `ModelSettingsSet`: changes the settings of a model or of a variant of it.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use utoipa::ToSchema;

use super::model_settings::SettingsView;
use super::operation::{Context, Deadline, Operation};
use crate::app::{App, Target};
use crate::config::ModelSettings;
use crate::error::{Code, Failure, Result};
use crate::jobs::{JobClass, OperationKind};
use crate::models::ModelId;
use crate::n;
use crate::settings::Change;

/// Sets some settings of a model, and takes back others.
#[derive(Debug, Deserialize, Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct ModelSettingsSet {
    /// The model's id, its name if only one model has it, an alias, or one of these with `@VARIANT`. A variant
    /// of the model's id that does not exist yet is made.
    id: ModelId,
    /// The settings to set, as in the configuration file. Others stay as they are.
    #[serde(default)]
    #[schema(value_type = ModelSettings)]
    settings: Map<String, Value>,
    /// The dotted names of settings that operations had set, and that are to count no more.
    #[serde(default)]
    unset: Vec<String>,
}

/// The result.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = ModelSettingsSetResult)]
pub(super) struct Changed {
    #[serde(flatten)]
    view: SettingsView,
    /// The workers that have other settings: they are loaded again once they are idle.
    reloads: Vec<Reload>,
}

#[derive(Debug, Serialize, ToSchema)]
struct Reload {
    pid: u32,
    model: String,
}

impl Operation for ModelSettingsSet {
    const NAME: &'static str = "ModelSettingsSet";
    const VERB: &'static str = "settings";
    const KIND: OperationKind = OperationKind::Act;
    const CLASS: JobClass = JobClass::Acts;
    const DEADLINE: Deadline = Deadline::Act;

    type Output = Changed;

    async fn run(self, cx: Context) -> Result<Self::Output> {
        n!("model_settings_set", "🔧 Changing the settings of '{}' on hive '{}'", self.id, cx.hive_id);
        let app = &cx.app;
        let (model, variant) = self.place(app).await?;
        check_files(app, &self.settings)?;
        let models = app.catalog.list().await?;
        let taken = models.into_iter().flat_map(|model| [model.id, model.name]).collect();
        let change =
            Change { model: model.clone(), variant, settings: self.settings, unset: self.unset, taken };
        let id = crate::config::served_id(&change.model, change.variant.as_deref());
        app.settings.change(change).await?;
        // Where the variant is gone, its model is shown.
        let target = match app.find_target(&id).await {
            Ok(target) => target,
            Err(_) => app.find_target(&model).await?,
        };
        let reloads = outdated(app, &target);
        let view = SettingsView::of(app, &target).await?;
        n!("model_settings_set", "Settings of '{}': {}", target.served_id(), view.in_words());
        for Reload { pid, model } in &reloads {
            n!(
                "model_settings_set",
                "Worker {pid} of '{model}' has other settings: it is loaded again once it is idle"
            );
        }
        Ok(Changed { view, reloads })
    }
}

impl ModelSettingsSet {
    /// The model and the variant whose settings change. The variant may be a new one.
    async fn place(&self, app: &App) -> Result<(String, Option<String>)> {
        let named = app.find_target(self.id.as_str()).await;
        let failure = match named {
            Ok(Target { model, variant, .. }) => return Ok((model.id, variant)),
            Err(failure) => failure,
        };
        let Some((base, variant)) = self.id.as_str().rsplit_once('@') else { return Err(failure) };
        match app.find_target(base).await {
            Ok(Target { model, variant: None, .. }) => Ok((model.id, Some(variant.to_owned()))),
            _ => Err(failure),
        }
    }
}

/// Refuses files that are not named by an absolute path or, where others than this machine's users may call,
/// that are not beneath the model folders: an engine would read them.
fn check_files(app: &App, settings: &Map<String, Value>) -> Result<()> {
    // What cannot be read is refused with its name later.
    let Ok(settings) = serde_json::from_value::<ModelSettings>(Value::Object(settings.clone())) else {
        return Ok(());
    };
    for path in settings.files() {
        let refused = |problem: &str, hint: &str| {
            let message = format!("settings: {} {problem}", path.display());
            Err(Failure::new(Code::InvalidField, message).hint(hint.to_owned()))
        };
        if !path.is_absolute() {
            return refused("is not an absolute path", "write the whole path, from / on");
        }
        if !app.config.is_local() && !app.config.models_dirs.iter().any(|folder| lies_beneath(path, folder)) {
            return refused(
                "is not a file beneath the hive's model folders",
                "where others than this machine's users may call, only files beneath the folders given with \
                 --models-dir may be named; the configuration file may name any",
            );
        }
    }
    Ok(())
}

/// Whether the file is in the folder or beneath it, after all links.
fn lies_beneath(path: &std::path::Path, folder: &std::path::Path) -> bool {
    match (path.canonicalize(), folder.canonicalize()) {
        (Ok(path), Ok(folder)) => path.starts_with(folder),
        _ => false,
    }
}

/// The workers of the model that would be started otherwise now.
fn outdated(app: &App, target: &Target) -> Vec<Reload> {
    let started =
        app.workers.started().into_iter().filter(|(_, request)| request.model_id == target.model.id);
    let outdated = started.filter(|(_, request)| app.settings.is_outdated(request));
    outdated.map(|(pid, request)| Reload { pid, model: request.served_id() }).collect()
}
