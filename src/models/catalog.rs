//! The catalog: which models this machine has, and the one that a caller means.
//!
//! It keeps nothing but what makes looking at the disk again cheap.

pub(crate) mod delete;
pub(crate) mod download;
pub(crate) mod import;
pub(crate) mod resolve;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::Mutex;
use reqwest::Url;

use crate::config::Config;
use crate::error::{Code, Failure, Result};
use crate::models::Model;
use crate::models::library::folders::Folders;
use crate::models::library::headers::Headers;
use crate::models::library::hub_cache;
use crate::models::library::hub_cache::owned::Owned;
use crate::models::library::listing::Remembered;
use crate::models::library::reconcile::Reconciled;
use crate::models::library::store::Store;
use crate::models::sources::Hub;
use crate::models::transfer::context::TransferContext;
use crate::models::transfer::disk::{Disk, RealDisk};
use crate::models::transfer::fetch::FetchConfig;
use crate::models::transfer::transfers::Transfers;
use crate::spawn;
use crate::text::{clip, nearest_ids};
use crate::turns::Turns;

/// The models of this machine. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Catalog(pub(crate) Arc<Inner>);

#[derive(Debug)]
pub(crate) struct Inner {
    pub(crate) store: Store,
    /// The user's own folders.
    pub(crate) folders: Vec<PathBuf>,
    /// The Hugging Face cache, which need not be there.
    pub(crate) hub_cache: PathBuf,
    /// What of it the hive put there.
    pub(crate) hub_notes: Arc<Owned>,
    pub(crate) hub: Hub,
    pub(crate) fetch: FetchConfig,
    /// Ollama's registry.
    pub(crate) ollama: Url,
    pub(crate) headers: Headers,
    pub(crate) known: Folders,
    /// The last listing, while it may hold.
    pub(crate) last: Mutex<Option<Arc<Remembered>>>,
    /// Whether only this machine can reach the hive: then its callers may name any file.
    pub(crate) is_local: bool,
    pub(crate) transfers: Transfers,
    /// What was found, and done about it, when the catalog was opened.
    pub(crate) reconciled: Reconciled,
    /// To write a file: jobs that want the same one wait for each other.
    pub(crate) turns: Arc<Turns<PathBuf>>,
}

impl Catalog {
    /// A catalog of the places that the configuration names. Makes the store's folder, and puts it in
    /// order after a killed hive.
    ///
    /// # Errors
    /// Where the store's folder cannot be made.
    pub fn new(config: &Config) -> Result<Self> {
        Self::on_disk(config, Arc::new(RealDisk))
    }

    /// The same, with downloads written through `disk`.
    pub(crate) fn on_disk(config: &Config, disk: Arc<dyn Disk>) -> Result<Self> {
        let variable = |name: &str| std::env::var_os(name);
        let hub_cache = match &config.hub_cache {
            Some(path) => Some(path.clone()).filter(|path| !path.as_os_str().is_empty()),
            None => hub_cache::default_location(variable),
        };
        let hub_cache = hub_cache.unwrap_or_else(|| config.data_dir.join("hub-cache"));
        let (store, mut reconciled) = Store::open(config.store_dir())?;
        hub_cache::reconcile(&hub_cache, &mut reconciled);
        let ollama = Url::parse(&config.ollama.endpoint).map_err(|error| {
            Failure::new(Code::ConfigInvalid, "[ollama] endpoint is not a URL").cause(&error)
        })?;
        let turns = Arc::<Turns<_>>::default();
        Ok(Self(Arc::new(Inner {
            store,
            reconciled,
            folders: config.models_dirs.clone(),
            hub_cache,
            hub_notes: Arc::new(Owned::open(config.hub_notes_dir())),
            hub: Hub::new(config, variable)?,
            fetch: FetchConfig::of(config),
            ollama,
            headers: Headers::default(),
            known: Folders::default(),
            last: Mutex::default(),
            is_local: config.bind.is_loopback(),
            transfers: Transfers::new(TransferContext::new(config, disk), Arc::clone(&turns)),
            turns,
        })))
    }

    /// Every model of this machine, sorted by id, as the disk has it now.
    ///
    /// # Errors
    /// None that the disk could cause: what cannot be read is narrated or listed as such.
    pub async fn list(&self) -> Result<Vec<Model>> {
        let listed = self.on_pool(Inner::scan).await?;
        Ok(listed.iter().map(|listed| listed.model.clone()).collect())
    }

    /// The model of that id, or else of that name if only one has it.
    ///
    /// # Errors
    /// [`Code::ModelNotFound`] with the ids most like it; [`Code::ModelAmbiguous`] with all that
    /// share the name.
    pub async fn find(&self, wanted: &str) -> Result<Model> {
        let mut models = self.list().await?;
        let index = position(&models, wanted)?;
        Ok(models.swap_remove(index))
    }

    /// The model whose first file is at `path`, as the disk has it now.
    pub(crate) async fn at(&self, path: &Path) -> Result<Model> {
        let models = self.list().await?;
        models.into_iter().find(|model| model.path == path).ok_or_else(|| {
            Failure::new(Code::ModelNotFound, format!("{} is gone from the disk again", path.display()))
                .hint("something else removed it in the meantime: try again")
        })
    }

    /// Runs blocking work on the pool.
    pub(crate) async fn on_pool<R: Send + 'static>(
        &self,
        work: impl FnOnce(&Inner) -> R + Send + 'static,
    ) -> Result<R> {
        let inner = Arc::clone(&self.0);
        spawn::blocking(move || work(&inner))
            .await
            .map_err(|error| Failure::internal("work on the model catalog broke off").detail(error))
    }

    /// What was found, and done about it, when the catalog was opened: one line.
    #[must_use]
    pub fn reconciled(&self) -> String {
        self.0.reconciled.to_string()
    }
}

/// Where in a listing the model of that id, or of that unique name, is.
pub(crate) fn position(models: &[Model], wanted: &str) -> Result<usize> {
    if let Some(index) = models.iter().position(|model| model.id == wanted) {
        return Ok(index);
    }
    let named: Vec<_> = (0..models.len()).filter(|&index| models[index].name == wanted).collect();
    match named[..] {
        [index] => Ok(index),
        [] => Err(not_found(wanted, models)),
        _ => {
            let ids: Vec<_> = named.iter().map(|&index| models[index].id.as_str()).collect();
            Err(Failure::new(
                Code::ModelAmbiguous,
                format!("{} models are called '{wanted}': {}", ids.len(), ids.join(", ")),
            )
            .hint("name one of them by its id"))
        }
    }
}

pub(crate) fn not_found(wanted: &str, models: &[Model]) -> Failure {
    let nearest = nearest_ids(wanted, models.iter().map(|model| (&*model.id, &*model.name)));
    let message = match nearest[..] {
        [] => format!("there is no model '{}'", clip(wanted, 255)),
        _ => format!("there is no model '{}'; the nearest: {}", clip(wanted, 255), nearest.join(", ")),
    };
    let hint = match (models.is_empty(), nearest.is_empty()) {
        (true, _) => {
            "this hive has no models yet: bring one with ModelDownload (file:/path/model.gguf or an https \
             URL), or start the hive with --models-dir"
        }
        (_, false) => "use one of these ids, or bring the model with ModelDownload",
        _ => "ModelList shows the models there are; ModelDownload brings another",
    };
    Failure::new(Code::ModelNotFound, message).hint(hint)
}

#[cfg(test)]
mod properties;
#[cfg(test)]
mod tests;
