//! The settings in effect, ready to be looked up.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use serde_json::{Map, Value};

use super::layers;
use crate::config::{CATCH_ALL, ModelSettings, served_id};
use crate::files;
use crate::models::TemplateTraits;

/// What counts, by the id under which a model or a variant is served.
#[derive(Debug, Default)]
pub(super) struct Table {
    settings: BTreeMap<String, Arc<ModelSettings>>,
    /// What the chat templates know that settings name.
    templates: HashMap<String, TemplateTraits>,
    /// The ids of the models of variants, by the id under which these are served.
    models: HashMap<String, String>,
    /// The model and the variant that an alias means.
    aliases: HashMap<String, (String, Option<String>)>,
    /// Of every model and variant without settings.
    none: Arc<ModelSettings>,
}

impl Table {
    pub(super) fn of(file: &BTreeMap<String, ModelSettings>, set: &Map<String, Value>) -> Self {
        let mut table = Self::default();
        for id in layers::models(file, set) {
            let settings = layers::effective(file, set, id, None);
            for variant in settings.variants.keys() {
                let of_variant = layers::effective(file, set, id, Some(variant));
                let served_id = served_id(id, Some(variant));
                table.models.insert(served_id.clone(), id.to_owned());
                table.put(served_id, of_variant);
            }
            for (alias, variant) in settings.all_aliases() {
                let meant = (id.to_owned(), variant.map(str::to_owned));
                if let Some((other, _)) = table.aliases.get(alias) {
                    tracing::warn!(
                        alias,
                        model = other,
                        not = id,
                        "two models have the same alias: the first counts"
                    );
                } else {
                    table.aliases.insert(alias.to_owned(), meant);
                }
            }
            table.put(id.to_owned(), settings);
        }
        table
    }

    fn put(&mut self, served_id: String, settings: ModelSettings) {
        let template = settings.chat_template.as_ref().and_then(|file| files::read_text(file).ok());
        if let Some(template) = template {
            self.templates.insert(served_id.clone(), TemplateTraits::of(&template));
        }
        self.settings.insert(served_id, Arc::new(settings));
    }

    pub(super) fn template_of(&self, served_id: &str) -> Option<TemplateTraits> {
        self.templates.get(served_id).copied()
    }

    pub(super) fn of_served(&self, served_id: &str) -> Arc<ModelSettings> {
        Arc::clone(self.settings.get(served_id).unwrap_or(&self.none))
    }

    pub(super) fn model_of(&self, served_id: &str) -> String {
        self.models.get(served_id).map_or(served_id, String::as_str).to_owned()
    }

    pub(super) fn aliases(&self) -> Vec<(String, (String, Option<String>))> {
        let named = self.aliases.iter().filter(|(alias, _)| *alias != CATCH_ALL);
        let mut aliases: Vec<_> = named.map(|(alias, meant)| (alias.clone(), meant.clone())).collect();
        aliases.sort();
        aliases
    }

    pub(super) fn catch_all(&self) -> Option<(String, Option<String>)> {
        self.aliases.get(CATCH_ALL).cloned()
    }

    pub(super) fn all(&self) -> Vec<(String, Arc<ModelSettings>)> {
        self.settings.iter().map(|(id, settings)| (id.clone(), Arc::clone(settings))).collect()
    }

    /// See [`Settings::called`](super::Settings::called). A model is known to have a variant only once it is
    /// found: `base@variant` is taken apart wherever some model has a variant of that name.
    pub(super) fn called(&self, name: &str) -> Option<(String, Option<String>)> {
        if let Some(meant) = self.aliases.get(name) {
            return Some(meant.clone());
        }
        let (base, variant) = name.rsplit_once('@').filter(|(base, _)| !base.is_empty())?;
        let base = match self.aliases.get(base) {
            Some((id, None)) => id,
            Some((_, Some(_))) => return None,
            None => base,
        };
        let is_known = self.settings.values().any(|settings| settings.variants.contains_key(variant));
        is_known.then(|| (base.to_owned(), Some(variant.to_owned())))
    }
}
