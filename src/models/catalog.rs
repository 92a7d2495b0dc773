//! The catalog: the models of this machine. Lists and finds them, downloads, imports and deletes them.
//!
//! It remembers only what makes the next listing cheap.

mod hub_login;
mod download;
mod delete;
pub(crate) mod sharing;
pub(crate) mod registry;
mod copy;
mod find;
pub(crate) mod plan;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use reqwest::Url;
use tokio::sync::Semaphore;
use tokio::time::timeout;

use crate::config::{Config, Sampling};
use crate::error::{Code, Failure, Result};
use crate::models::digests::Digests;
use crate::models::gguf::{Arrays, Header};
use crate::models::library::Library;
use crate::models::library::hub_cache::notes::HubNotes;
use crate::models::library::hub_cache::{self, HubCache};
use crate::models::library::ids::ServedFiles;
use crate::models::library::listing::ListedModel;
use crate::models::library::location::ModelLocation;
use crate::models::model::{Model, Status};
use crate::models::needs::{EngineSupport, Judge, Needs};
use crate::models::shared::MOST_SHARED;
use crate::models::sources::places::Places;
use crate::models::sources::{HubEndpoint, Source};
use crate::models::transfer::context::TransferContext;
use crate::models::transfer::disk::{Disk, RealDisk};
use crate::models::transfer::fetch::FetchConfig;
use crate::models::transfer::transfers::Transfers;
use crate::spawn;
use crate::time::in_words;
use crate::turns::Turns;
use find::Unfound;

/// The models of this machine. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Catalog {
    places: Arc<Places>,
    transfers: Arc<Transfers>,
    /// Held by the job that writes a file of the store; other jobs with the same file wait.
    turns: Arc<Turns<PathBuf>>,
    /// Held by each scan of the disk for as long as its thread runs.
    scans: Arc<Semaphore>,
    /// The hashes of files that nobody told.
    digests: Arc<Digests>,
    /// Each file that is read for others has one.
    shares: Arc<Semaphore>,
    /// How long a disk may take to answer.
    patience: Duration,
}

/// What [`Catalog::inspect`] finds.
#[derive(Debug, Default)]
pub struct Inspection {
    /// How many models there are.
    pub models: usize,
    /// Downloads that were interrupted, which is no fault: they can be resumed.
    pub interrupted: Vec<Model>,
    /// Models that are damaged or lack a part, and those that may not be read.
    pub unusable: Vec<Model>,
}

/// How many scans run at once. If a disk does not answer, their threads wait for it, and no more do.
const MOST_SCANS: usize = 4;

impl Catalog {
    /// A catalog of the folders that the configuration names. Makes the store's folder.
    ///
    /// # Errors
    /// Where the store's folder cannot be made, or an endpoint is not a URL.
    pub fn new(config: &Config) -> Result<Self> {
        Self::on_disk(config, Arc::new(RealDisk))
    }

    /// The same, with downloads written through `disk`.
    pub(crate) fn on_disk(config: &Config, disk: Arc<dyn Disk>) -> Result<Self> {
        let variable = |name: &str| std::env::var_os(name);
        let dir = match &config.hub_cache {
            Some(path) => Some(path.clone()).filter(|path| !path.as_os_str().is_empty()),
            None => hub_cache::default_location(variable),
        };
        let hub_cache = HubCache {
            dir: dir.unwrap_or_else(|| config.data_dir.join("hub-cache")),
            notes: HubNotes::new(config.hub_notes_dir()),
        };
        let judge = Arc::<Judge>::default();
        let library = Library::open(
            config.store_dir(),
            config.model_ids_file(),
            hub_cache,
            config.models_dirs.clone(),
            Arc::clone(&judge),
        )?;
        let ollama = Url::parse(&config.ollama.endpoint).map_err(|error| {
            Failure::new(Code::ConfigInvalid, "[ollama] endpoint is not a URL").cause(&error)
        })?;
        let places = Places {
            library: Arc::new(library),
            fetch: FetchConfig::of(config),
            hub: HubEndpoint::new(&config.hub, variable)?,
            ollama,
            judge: Arc::clone(&judge),
            is_local: config.is_local(),
        };
        let turns = Arc::<Turns<_>>::default();
        let transfers = Transfers::new(TransferContext::new(config, disk, judge), Arc::clone(&turns));
        Ok(Self {
            places: Arc::new(places),
            transfers: Arc::new(transfers),
            turns,
            scans: Arc::new(Semaphore::new(MOST_SCANS)),
            digests: Arc::default(),
            shares: Arc::new(Semaphore::new(MOST_SHARED)),
            patience: *config.timers.disk,
        })
    }

    /// What transfers files to this machine, for the hive's other downloads: they share limits and connections with
    /// those of models.
    pub(crate) fn transfers(&self) -> Arc<Transfers> {
        Arc::clone(&self.transfers)
    }

    /// Keeps the ids that workers have: `served` lists them with the paths of their files. No other file
    /// gets such an id, even if that file is gone.
    pub fn keep_served_ids(&self, served: impl Fn() -> Vec<(String, PathBuf)> + Send + Sync + 'static) {
        self.places.library.ids.set_served(ServedFiles::new(served));
    }

    /// Lets the built-in engine tell of each model why it cannot run it, as far as its header tells, and all
    /// engines whether they can run what has such needs.
    pub(crate) fn ask_engines(
        &self,
        obstacle: fn(&Header) -> Option<String>,
        support: impl Fn(&Needs) -> EngineSupport + Send + Sync + 'static,
    ) {
        self.places.judge.set(obstacle, support);
    }

    /// Every model of this machine, sorted by id, as the disk has it now.
    ///
    /// # Errors
    /// [`Code::Timeout`] where a disk does not answer. What cannot be read is narrated or listed as such.
    pub async fn list(&self) -> Result<Vec<Model>> {
        Ok(models_of(&self.scan().await?))
    }

    /// The models of the last listing, which may be outdated. Never waits for the disk.
    #[must_use]
    pub fn known(&self) -> Vec<Model> {
        models_of(&self.places.library.last())
    }

    /// How many models the last listing had.
    pub(crate) fn known_count(&self) -> usize {
        self.places.library.last().len()
    }

    /// Parses the text that names a source, as [`Source::parse`], for the Hub of the settings.
    ///
    /// # Errors
    /// Those of [`Source::parse`].
    pub fn source(&self, text: &str) -> Result<Source> {
        Source::parse_beside(text, Some(&self.places.hub.url))
    }

    /// The model of that id, or of that name where only one model has it. Where none has it as it is
    /// written, in any case of its letters and as names of the Hub are copied.
    ///
    /// # Errors
    /// [`Code::ModelNotFound`] with the most similar ids; [`Code::ModelAmbiguous`] with all that
    /// share the name.
    pub async fn find(&self, wanted: &str) -> Result<Model> {
        self.find_called(wanted, |_| None, None).await.map(|(model, _)| model)
    }

    /// As [`Self::find`], where a name may mean something else too: `called` is asked what one means that no
    /// model has as its id or name, and answers with the id or the name of a model, and a variant of it.
    /// `otherwise` is what is meant by a name that means nothing at all.
    ///
    /// # Errors
    /// Those of [`Self::find`].
    pub async fn find_called(
        &self,
        wanted: &str,
        called: impl Fn(&str) -> Option<(String, Option<String>)>,
        otherwise: Option<(String, Option<String>)>,
    ) -> Result<(Model, Option<String>)> {
        let models = self.list().await?;
        let models: Vec<_> = models.iter().collect();
        let means_nothing = || !find::is_taken(&models, wanted) && called(wanted).is_none();
        let found = find::find(&models, wanted, &called, &self.places.hub.url);
        let found = match (found, otherwise.filter(|_| means_nothing())) {
            (Err(_), Some((id, variant))) => find::position(&models, &id).map(|index| (index, variant)),
            (found, _) => found,
        };
        let (index, variant) = found.map_err(|unfound| unfound.into_failure(&models))?;
        Ok((models[index].clone(), variant))
    }

    /// As [`Self::find_called`], in the last listing, which may be outdated: the id of the model, if there is one. Never
    /// waits for the disk.
    ///
    /// # Errors
    /// [`Code::ModelAmbiguous`]
    pub(crate) fn find_known(
        &self,
        wanted: &str,
        called: impl Fn(&str) -> Option<(String, Option<String>)>,
    ) -> Result<Option<(String, Option<String>)>> {
        let last = self.places.library.last();
        let models: Vec<_> = last.iter().map(|listed| &listed.model).collect();
        match find::find(&models, wanted, &called, &self.places.hub.url) {
            Ok((index, variant)) => Ok(Some((models[index].id.clone(), variant))),
            Err(Unfound::NoModel(_)) => Ok(None),
            Err(Unfound::Ambiguous(failure)) => Err(failure),
        }
    }

    /// The header of a model's file.
    ///
    /// # Errors
    /// [`Code::Timeout`] where the disk does not answer; what is wrong with the file.
    pub(crate) async fn header(&self, model: &Model, arrays: Arrays) -> Result<Header> {
        let path = model.path.clone();
        self.look(move |catalog| {
            catalog.places.library.folders.look_at(&path);
            Header::read(&path, arrays).map_err(|error| error.into_failure(&path))
        })
        .await?
    }

    /// What the file of a model of the last listing recommends to sample with, if anything; `None` where there is
    /// no such model. Never waits for the disk.
    #[must_use]
    pub fn recommended_sampling(&self, id: &str) -> Option<Option<Sampling>> {
        let last = self.places.library.last();
        let at = last.binary_search_by(|listed| listed.model.id.as_str().cmp(id)).ok()?;
        Some(last[at].model.sampling)
    }

    /// The model of that id, as the last listing has it. Never waits for the disk.
    #[must_use]
    pub fn last_known(&self, id: &str) -> Option<Model> {
        let last = self.places.library.last();
        let at = last.binary_search_by(|listed| listed.model.id.as_str().cmp(id)).ok()?;
        Some(last[at].model.clone())
    }

    /// Whether a model of the last listing has that id or name. Never waits for the disk.
    #[must_use]
    pub fn knows(&self, name: &str) -> bool {
        self.places.library.last().iter().any(|listed| listed.model.id == name || listed.model.name == name)
    }

    /// Looks at every model, and tells those that cannot be used.
    ///
    /// # Errors
    /// Those of [`Self::list`].
    pub async fn inspect(&self) -> Result<Inspection> {
        let listed = self.scan().await?;
        let mut found = Inspection { models: listed.len(), ..Inspection::default() };
        for ListedModel { model, scanned, .. } in listed.iter() {
            match (model.status, &scanned.location) {
                (Status::Available | Status::Unknown | Status::Downloading, _) => {}
                (Status::Incomplete, ModelLocation::Partial(_)) => found.interrupted.push(model.clone()),
                (Status::Incomplete | Status::Unreadable | Status::Corrupt, _) => {
                    found.unusable.push(model.clone());
                }
            }
        }
        Ok(found)
    }

    /// Removes what a killed hive left on the disk, unless that was done already: what lists, downloads or deletes
    /// models waits for it. Returns one line with what was found and done.
    ///
    /// # Errors
    /// [`Code::Timeout`] where a disk does not answer.
    pub async fn tidy(&self) -> Result<String> {
        let Places { library, .. } = &*self.places;
        if let Some(report) = library.tidied() {
            return Ok(report.to_string());
        }
        let library = Arc::clone(library);
        self.look(move |_| library.tidy().to_string()).await
    }

    /// The model whose first file is at `path`.
    async fn at(&self, path: &Path) -> Result<Model> {
        let models = self.list().await?;
        models.into_iter().find(|model| model.path == path).ok_or_else(|| {
            Failure::new(
                Code::ModelNotFound,
                format!("{} was removed from the disk meanwhile", path.display()),
            )
            .hint("another program removed it: try again")
        })
    }

    /// The folders of the settings that are not there.
    ///
    /// # Errors
    /// [`Code::Timeout`] where a disk does not answer.
    pub async fn missing_folders(&self) -> Result<Vec<PathBuf>> {
        self.look(|catalog| {
            let Library { locations, folders, .. } = &*catalog.places.library;
            let is_missing = |dir: &&PathBuf| {
                folders.look_at(dir);
                !std::fs::metadata(dir).is_ok_and(|found| found.is_dir())
            };
            locations.user_folders.iter().filter(is_missing).cloned().collect()
        })
        .await
    }

    /// Every model, with its files.
    async fn scan(&self) -> Result<Arc<[ListedModel]>> {
        self.look(|catalog| catalog.places.library.list(&catalog.transfers.of_models())).await
    }

    /// Looks at the folders of models, which may not answer.
    async fn look<R: Send + 'static>(&self, look: impl FnOnce(&Self) -> R + Send + 'static) -> Result<R> {
        self.while_disk_answers(async {
            let permit = Arc::clone(&self.scans).acquire_owned().await.ok();
            let look = |catalog: &Self| {
                let _permit = permit;
                look(catalog)
            };
            self.on_pool(look).await
        })
        .await
    }

    /// Does the work unless no path at all is looked at for too long: a network mount whose server is gone
    /// holds a thread for ever.
    async fn while_disk_answers<R>(&self, work: impl Future<Output = Result<R>>) -> Result<R> {
        let mut work = std::pin::pin!(work);
        let folders = &self.places.library.folders;
        let mut looks = folders.looks();
        loop {
            match timeout(self.patience, &mut work).await {
                Ok(done) => return done,
                Err(_) if folders.looks() != looks => looks = folders.looks(),
                Err(_) => return Err(disk_is_silent(&folders.looked_at(), self.patience)),
            }
        }
    }

    /// Runs blocking work on the pool.
    async fn on_pool<R: Send + 'static>(&self, work: impl FnOnce(&Self) -> R + Send + 'static) -> Result<R> {
        let catalog = self.clone();
        spawn::blocking(move || work(&catalog)).await
    }
}

fn models_of(listed: &[ListedModel]) -> Vec<Model> {
    listed.iter().map(|listed| listed.model.clone()).collect()
}

fn disk_is_silent(path: &Path, patience: Duration) -> Failure {
    let message = format!("the disk has not answered for {}: {}", in_words(patience), path.display());
    Failure::new(Code::Timeout, message)
        .hint("check the disk or the network mount of that path, or start the hive without that folder")
}

#[cfg(test)]
mod properties;
#[cfg(test)]
mod tests;
