//! The settings of a model as the operations about them answer.

use std::collections::BTreeMap;

use serde::Serialize;
use serde_json::{Map, Value};
use utoipa::ToSchema;

use crate::app::{App, Target};
use crate::config::{ModelSettings, Sampling};
use crate::error::Result;
use crate::settings::{Source, Told};
use crate::spawn;
use crate::workers::Device;

/// What counts for a model or a variant, and who says so.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct SettingsView {
    /// The id under which requests name it.
    id: String,
    model: String,
    variant: Option<String>,
    /// What counts. Fields that nobody has set are left out, but for those whose default is known.
    settings: ModelSettings,
    /// Who says each field of `settings`, by its dotted name.
    sources: BTreeMap<String, Source>,
    /// What operations have set, as they wrote it.
    #[schema(value_type = Object)]
    set: Map<String, Value>,
    /// The ids of its variants.
    variants: Vec<String>,
    /// Those of its aliases that are the id or the name of a model, and so mean that.
    shadowed_aliases: Vec<String>,
}

impl SettingsView {
    pub(super) async fn of(app: &App, target: &Target) -> Result<Self> {
        let id = &target.model.id;
        let models = app.catalog.list().await?;
        let (all, model, of) = (app.settings.clone(), id.clone(), target.variant.clone());
        let told = spawn::blocking(move || all.told(&model, of.as_deref()));
        let Told { settings, sources, set } = told.await?;
        let is_taken =
            |alias: &&String| models.iter().any(|model| model.id == **alias || model.name == **alias);
        let mut view = Self {
            id: target.served_id(),
            model: id.clone(),
            variant: target.variant.clone(),
            variants: settings.variants.keys().map(|name| format!("{id}@{name}")).collect(),
            shadowed_aliases: settings.aliases.iter().filter(is_taken).cloned().collect(),
            settings,
            sources,
            set,
        };
        view.fill(target);
        Ok(view)
    }

    /// Fills in what the model's file and the hive say where nobody else does.
    fn fill(&mut self, target: &Target) {
        let Self { settings, sources, .. } = self;
        let mut fill = |name: &str, source| sources.entry(name.to_owned()).or_insert(source) == &source;
        if fill("engine", Source::Default) {
            settings.engine = Some("auto".to_owned());
        }
        if fill("device", Source::Default) {
            settings.device = Some(Device::Auto);
        }
        for (name, flag) in [("pinned", &mut settings.pinned), ("preload", &mut settings.preload)] {
            if fill(name, Source::Default) {
                *flag = Some(false);
            }
        }
        if target.model.projector.is_some() && fill("projector", Source::Model) {
            settings.projector.clone_from(&target.model.projector);
        }
        let of_model = target.model.sampling.unwrap_or_default();
        for (defaults, source) in [(of_model, Source::Model), (Sampling::LLAMA_CPP, Source::Default)] {
            for name in defaults.names() {
                fill(&format!("sampling.{name}"), source);
            }
            settings.sampling = settings.sampling.or(defaults);
        }
    }

    /// The settings that somebody has set, in words.
    pub(super) fn in_words(&self) -> String {
        let set = |source: Source| {
            let names = self.sources.iter().filter(move |(_, from)| **from == source);
            names.map(|(name, _)| name.as_str()).collect::<Vec<_>>().join(", ")
        };
        match (set(Source::Operation), set(Source::File)) {
            (operation, file) if operation.is_empty() && file.is_empty() => "nobody has set any".to_owned(),
            (operation, file) if operation.is_empty() => format!("the file sets {file}"),
            (operation, file) if file.is_empty() => format!("operations have set {operation}"),
            (operation, file) => format!("operations have set {operation}; the file sets {file}"),
        }
    }
}
