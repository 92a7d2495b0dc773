//! The models on this machine's disks: where their files are, what their headers say, and one listing
//! of all. Knows neither where models come from nor who asks.

pub(crate) mod reconcile;
pub(crate) mod ids;
pub(crate) mod blobs;
pub(crate) mod listing;
pub(crate) mod hub_cache;
pub(crate) mod ollama_store;
pub(crate) mod store;
pub(crate) mod record;
pub(crate) mod headers;
pub(crate) mod walk;
pub(crate) mod probe;
pub(crate) mod folders;
pub(crate) mod stamp;
pub(crate) mod location;
pub(crate) mod companions;
pub(crate) mod quantization;
pub(crate) mod split;
pub(crate) mod file_name;
pub(crate) mod removal;

use std::path::PathBuf;
use std::sync::{Arc, OnceLock};

use parking_lot::Mutex;

use crate::error::Result;
use crate::models::needs::Judge;
use crate::models::transfer::transfers::OngoingTransfer;
use folders::FolderCache;
use headers::HeaderCache;
use hub_cache::HubCache;
use ids::Ids;
use listing::{ListedModel, Locations};
use probe::{DiskProbe, DiskSnapshot};
use reconcile::{ReconcileReport, reconcile};
use store::Store;

/// The folders with models, and what is remembered of them to make listings cheap.
#[derive(Debug)]
pub(crate) struct Library {
    pub(crate) locations: Locations,
    pub(crate) folders: FolderCache,
    pub(crate) headers: HeaderCache,
    pub(crate) ids: Ids,
    tidied: OnceLock<ReconcileReport>,
    last: Mutex<Arc<LastListing>>,
}

/// A listing, and what was read of the disk for it.
#[derive(Debug, Default)]
struct LastListing {
    /// `None` where the disk may have changed without a trace.
    snapshot: Option<DiskSnapshot>,
    models: Arc<[ListedModel]>,
}

impl Library {
    /// Opens the store in `store_dir`, and makes it where it is missing. `ids` is the file that remembers the ids of
    /// models.
    ///
    /// # Errors
    /// Where the store's folder cannot be made.
    pub(crate) fn open(
        store_dir: PathBuf,
        ids: PathBuf,
        hub_cache: HubCache,
        user_folders: Vec<PathBuf>,
        judge: Arc<Judge>,
    ) -> Result<Self> {
        Ok(Self {
            locations: Locations { store: Store::open(store_dir)?, hub_cache, user_folders },
            folders: FolderCache::default(),
            headers: HeaderCache::new(judge),
            ids: Ids::open(ids),
            tidied: OnceLock::new(),
            last: Mutex::default(),
        })
    }

    /// Removes what a killed hive left in the store and in the Hugging Face cache, the first time that this is called;
    /// others wait for that. Returns what was found and done. Blocks on the disk.
    pub(crate) fn tidy(&self) -> &ReconcileReport {
        self.tidied.get_or_init(|| reconcile(self.store(), self.hub_cache(), &self.folders))
    }

    /// What [`Self::tidy`] found and did, once that is done.
    pub(crate) fn tidied(&self) -> Option<&ReconcileReport> {
        self.tidied.get()
    }

    pub(crate) fn store(&self) -> &Store {
        &self.locations.store
    }

    pub(crate) fn hub_cache(&self) -> &HubCache {
        &self.locations.hub_cache
    }

    /// A probe that uses what is remembered of the disk.
    pub(crate) fn probe(&self) -> DiskProbe<'_> {
        DiskProbe::new(&self.folders)
    }

    /// Every model, sorted by id: the last listing while the disk is the same, otherwise a new one. The
    /// targets of `ongoing` transfers are listed as such. Blocks on the disk.
    pub(crate) fn list(&self, ongoing: &[OngoingTransfer]) -> Arc<[ListedModel]> {
        self.tidy();
        let last = self.last.lock().clone();
        if let Some(snapshot) = &last.snapshot
            && ongoing.is_empty()
            && snapshot.is_current(&self.folders)
        {
            snapshot.report_omissions();
            return Arc::clone(&last.models);
        }
        let probe = self.probe();
        let mut models = listing::list(&self.locations, ongoing, &self.headers, &probe);
        self.ids.assign(&mut models, &self.locations, &self.folders);
        let models: Arc<[_]> = models.into();
        self.headers.forget_unused();
        self.folders.forget_unused();
        self.store().forget_unused();
        // The snapshot does not cover transfers.
        let snapshot = probe.into_snapshot().filter(|_| ongoing.is_empty());
        *self.last.lock() = Arc::new(LastListing { snapshot, models: Arc::clone(&models) });
        models
    }

    /// The models of the last listing.
    pub(crate) fn last(&self) -> Arc<[ListedModel]> {
        Arc::clone(&self.last.lock().models)
    }
}
