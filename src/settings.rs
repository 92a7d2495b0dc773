//! The settings of models: the file's, what operations have set, and what both together say.
//!
//! Layers, from the weakest: the defaults, the table of the model in the file, what operations have set for the
//! model, the table of the variant in the file, what operations have set for the variant. The later one counts,
//! field by field ([`layers`]). What operations set is kept in the data folder ([`store`]), never in the
//! person's file.
//!
//! Invariants:
//! - What is refused changes nothing. What is accepted is on the disk before it takes effect.
//! - An alias means one model. The id or the name of a model counts more than an alias: whoever looks a name up
//!   asks the catalog first ([`Settings::called`]).
//! - Settings that cannot be read are kept and told, and those beside them count.

mod defaults;
mod store;
mod table;
mod layers;
mod change;

use std::collections::BTreeMap;
use std::sync::Arc;

use parking_lot::{Mutex, RwLock};
use tokio::sync::watch;

use crate::config::{Config, ModelSettings, Sampling, served_id};
use crate::error::{Code, Failure, Result};
use crate::models::TemplateTraits;
use crate::spawn;
use crate::workers::StartRequest;

pub(crate) use change::Change;
pub(crate) use defaults::Defaults;
pub(crate) use layers::{Source, Told};
use store::Store;
use table::Table;

/// The settings of the models of one hive. Clones share them.
#[derive(Clone, Debug)]
pub(crate) struct Settings(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    /// Held while settings change. Locked only on the blocking pool and at the start.
    layers: Mutex<Layers>,
    /// What is in effect. Locked only to copy it in or out.
    table: RwLock<Arc<Table>>,
    changes: watch::Sender<u64>,
}

/// What the layers say.
#[derive(Debug)]
struct Layers {
    file: BTreeMap<String, ModelSettings>,
    store: Store,
}

impl Settings {
    /// The settings of the configuration, and those that operations of earlier runs have set.
    pub(crate) fn open(config: &Config) -> Self {
        let store = Store::open(config.model_settings_file());
        let table = RwLock::new(Arc::new(Table::of(&config.models, &store.set)));
        let layers = Mutex::new(Layers { file: config.models.clone(), store });
        Self(Arc::new(Inner { layers, table, changes: watch::Sender::new(0) }))
    }

    /// What counts for a model, or for a variant of it.
    pub(crate) fn of(&self, model: &str, variant: Option<&str>) -> Arc<ModelSettings> {
        self.table().of_served(&served_id(model, variant))
    }

    /// What counts for what is served under that id.
    pub(crate) fn of_served(&self, served_id: &str) -> Arc<ModelSettings> {
        self.table().of_served(served_id)
    }

    /// What requests get that are served under that id. `recommended` tells what the file of a model recommends;
    /// `None` where it is not known.
    pub(crate) fn defaults(
        &self,
        served_id: &str,
        recommended: impl FnOnce(&str) -> Option<Option<Sampling>>,
    ) -> Defaults {
        let table = self.table();
        let recommended = recommended(&table.model_of(served_id)).map(Option::unwrap_or_default);
        Defaults { settings: table.of_served(served_id), recommended }
    }

    /// The model of what is served under that id.
    pub(crate) fn model_of(&self, served_id: &str) -> String {
        self.table().model_of(served_id)
    }

    /// What the chat template knows that the settings name for what is served under that id, as its file was
    /// when the settings changed.
    pub(crate) fn template_of(&self, served_id: &str) -> Option<TemplateTraits> {
        self.table().template_of(served_id)
    }

    /// What requests get that name nothing: a model, and a variant of it.
    pub(crate) fn catch_all(&self) -> Option<(String, Option<String>)> {
        self.table().catch_all()
    }

    /// The aliases that are names, with what each means: a model, and a variant of it.
    pub(crate) fn aliases(&self) -> Vec<(String, (String, Option<String>))> {
        self.table().aliases()
    }

    /// What counts for that, and which layer says each field of it. Blocks while a change is written.
    pub(crate) fn told(&self, model: &str, variant: Option<&str>) -> Told {
        let layers = self.0.layers.lock();
        layers::tell(&layers.file, &layers.store.set, model, variant)
    }

    /// The models and variants with settings, by the id under which they are served.
    pub(crate) fn all(&self) -> Vec<(String, Arc<ModelSettings>)> {
        self.table().all()
    }

    /// What a name means that is neither the id nor the name of a model: the model's id or name, and the variant
    /// of it. `None` where it means nothing.
    pub(crate) fn called(&self, name: &str) -> Option<(String, Option<String>)> {
        self.table().called(name)
    }

    /// Refuses a variant that the settings do not have.
    ///
    /// # Errors
    /// [`Code::ModelNotFound`], naming those that they have.
    pub(crate) fn check_variant(&self, model: &str, variant: &str) -> Result<()> {
        let settings = self.of(model, None);
        if settings.variants.contains_key(variant) {
            return Ok(());
        }
        let known: Vec<_> = settings.variants.keys().map(|name| format!("{model}@{name}")).collect();
        let known = if known.is_empty() { "it has none".to_owned() } else { known.join(", ") };
        let message = format!("the model '{model}' has no variant '{variant}'; its variants: {known}");
        Err(Failure::new(Code::ModelNotFound, message)
            .hint(format!("use '{model}', or describe the variant with ModelSettingsSet")))
    }

    /// Whether a worker that was started for the request would be started otherwise now.
    pub(crate) fn is_outdated(&self, request: &StartRequest) -> bool {
        request.is_outdated(&self.of(&request.model_id, request.variant.as_deref()))
    }

    /// How often the settings have changed.
    pub(crate) fn version(&self) -> u64 {
        *self.0.changes.borrow()
    }

    /// Counts the changes, for those that wait for one.
    pub(crate) fn changes(&self) -> watch::Receiver<u64> {
        self.0.changes.subscribe()
    }

    /// Sets and unsets fields, once that is on the disk.
    ///
    /// # Errors
    /// [`Code::InvalidField`] for what the file could not have either; what the file system says. Nothing
    /// changes then.
    pub(crate) async fn change(&self, change: Change) -> Result<()> {
        let this = self.clone();
        spawn::blocking(move || {
            let mut layers = this.0.layers.lock();
            let Layers { file, store } = &mut *layers;
            let set = layers::changed(file, &store.set, &change)?;
            let table = Table::of(file, &set);
            store.write(set)?;
            this.publish(table);
            Ok(())
        })
        .await?
    }

    /// Takes over the settings of the file, which are valid.
    pub(crate) fn reload(&self, file: &BTreeMap<String, ModelSettings>) {
        let mut layers = self.0.layers.lock();
        if layers.file == *file {
            return;
        }
        layers.file.clone_from(file);
        self.publish(Table::of(file, &layers.store.set));
    }

    fn publish(&self, table: Table) {
        *self.0.table.write() = Arc::new(table);
        self.0.changes.send_modify(|count| *count += 1);
    }

    fn table(&self) -> Arc<Table> {
        Arc::clone(&self.0.table.read())
    }
}

#[cfg(test)]
mod tests;
