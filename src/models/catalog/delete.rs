//! Deletes a model, and reports what that really freed.
//!
//! The hive deletes what it put into its store. Anything else takes `force`, and is then deleted only
//! where a scan found it: no path of a request is followed. A link is removed as a link; its target
//! stays.

use std::fs;
use std::path::{Path, PathBuf};

use super::Catalog;
use super::find::not_found;
use crate::error::{Code, Failure, Result};
use crate::models::library::hub_cache::layout::empty_folders;
use crate::models::library::listing::ListedModel;
use crate::models::library::location::{ModelLocation, ModelOwner, ScannedModel};
use crate::models::library::removal::remove_file;
use crate::models::model::{Model, Status};
use crate::models::transfer::partial::{self, Removal};
use crate::models::transfer::transfers::OngoingTransfer;
use crate::n;
use crate::text::bytes;

impl Catalog {
    /// Deletes a model from the disk. Returns the bytes that this frees: 0 for a link, and for a
    /// file that has another name elsewhere.
    ///
    /// # Errors
    /// [`Code::NotOwned`] for a file that the hive did not put there, unless `force`;
    /// [`Code::ModelInUse`] while it is being downloaded; [`Code::ModelNotFound`] where it is gone
    /// already; and those of the file system.
    pub async fn delete(&self, model: &Model, force: bool) -> Result<u64> {
        let (model, listed) = (model.clone(), self.scan().await?);
        self.on_pool(move |catalog| catalog.delete_blocking(&model, &listed, force)).await?
    }

    fn delete_blocking(&self, model: &Model, listed: &[ListedModel], force: bool) -> Result<u64> {
        let id = &model.id;
        // The id may have passed to another file since the caller listed the models.
        let is_meant = |listed: &&ListedModel| listed.model.id == *id && listed.model.path == model.path;
        let Some(ListedModel { model, scanned, place }) = listed.iter().find(is_meant) else {
            return Err(not_found(id, &listed.iter().map(|listed| &listed.model).collect::<Vec<_>>()));
        };
        let probe = self.places.library.probe();
        let is_of_it = |transfer: &OngoingTransfer| {
            transfer.file.companion_of.is_some() && probe.place(&transfer.model_path()) == *place
        };
        if model.status == Status::Downloading || self.transfers.of_models().iter().any(is_of_it) {
            return Err(Failure::new(Code::ModelInUse, format!("'{id}' is being downloaded")).hint(
                "cancel the job that downloads it, then repeat this to delete the part that it has kept",
            ));
        }
        if let ModelLocation::Partial(path) = &scanned.location {
            let freed = delete_partial(id, path)?;
            return Ok(freed + self.places.library.hub_cache().remove_unlinked(place)?);
        }
        if let ModelLocation::OllamaStore(ollama) = &scanned.location {
            let message = format!(
                "'{id}' is in Ollama's own store ({}), where the hive removes nothing",
                model.path.display()
            );
            return Err(Failure::new(Code::NotOwned, message).hint(format!(
                "`ollama rm {}` removes it there; start the hive without that folder to list it no more",
                ollama.name
            )));
        }
        let (owner, path) = (self.owner(scanned), model.path.display());
        match owner {
            ModelOwner::Hive => {}
            _ if force => n!(warn: "model_delete", "Deleting {path}, which is not the hive's own"),
            ModelOwner::Other => {
                let message = format!("{path} was not put there by the hive");
                return Err(Failure::new(Code::NotOwned, message)
                    .hint("to delete the file anyway, repeat this with force"));
            }
            ModelOwner::NewerHive => {
                let message = format!("{path} was put there by a newer version of rbee-hive");
                return Err(Failure::new(Code::NotOwned, message).hint(
                    "delete it with that version, or repeat this with force, which deletes its record too",
                ));
            }
        }
        let target = fs::read_link(&model.path).ok();
        let is_shared =
            |other: &ListedModel| other.model.id != *id && other.model.projector == model.projector;
        let projector = model.projector.as_deref().filter(|_| !listed.iter().any(is_shared));
        let freed = self.remove_unfinished_companions(place)? + self.remove_files(scanned, projector)?;
        match (target, freed) {
            (Some(target), 0) => {
                n!("model_delete", "Removed the link; its target stays: {}", target.display());
            }
            _ => n!("model_delete", "Deleted {}; this freed {}", model.path.display(), bytes(freed)),
        }
        Ok(freed)
    }

    /// Removes what interrupted downloads have left of companions of the model at that place.
    fn remove_unfinished_companions(&self, place: &Path) -> Result<u64> {
        let library = &self.places.library;
        let probe = library.probe();
        let partials =
            library.store().partials(&probe).into_iter().chain(library.hub_cache().partials(&probe));
        let mut freed = 0;
        for partial in partials.filter(|partial| probe.place(&partial.model_path()) == *place) {
            if let Removal::Removed(bytes) =
                partial::remove(&partial.partial, &empty_folders(&partial.partial))?
            {
                freed += bytes;
            }
        }
        Ok(freed)
    }

    /// Who put the model there.
    fn owner(&self, scanned: &ScannedModel) -> ModelOwner {
        let (library, store) = (&self.places.library, self.places.library.store());
        match &scanned.location {
            ModelLocation::HubCache(_) => library.hub_cache().notes.owner(&scanned.files.paths),
            _ if store.record_of(scanned, &library.probe()).is_some() => ModelOwner::Hive,
            ModelLocation::Store if store.has_newer_record(&scanned.file_name()) => ModelOwner::NewerHive,
            _ => ModelOwner::Other,
        }
    }

    /// Removes the files of a model, and the projector that no other model has where the hive put it there.
    fn remove_files(&self, scanned: &ScannedModel, projector: Option<&Path>) -> Result<u64> {
        let library = &self.places.library;
        if let ModelLocation::HubCache(model) = &scanned.location {
            let mut links = scanned.files.paths.clone();
            let own = projector.map(Path::to_owned).into_iter();
            let is_own = |link: &PathBuf| {
                library.hub_cache().notes.owner(std::slice::from_ref(link)) == ModelOwner::Hive
            };
            links.extend(own.filter(is_own));
            return library.hub_cache().remove(model, &links);
        }
        let mut freed = 0;
        for path in &scanned.files.paths {
            freed += remove_file(path)?;
        }
        if scanned.location == ModelLocation::Store {
            let (store, name) = (library.store(), scanned.file_name());
            // What an interrupted download that was to replace the model has left.
            if !self.transfers.is_ongoing(scanned.path())
                && let Removal::Removed(bytes) = partial::remove(&store.partial_path(&name), &[])?
            {
                freed += bytes;
            }
            if let Some(projector) = projector.filter(|path| path.parent() == Some(store.dir())) {
                freed += remove_file(projector)?;
            }
            // Last, so that a deletion that failed half-way can be repeated.
            store.remove_record(&name)?;
            store.sync()?;
        }
        Ok(freed)
    }
}

/// Removes what an interrupted download has left.
fn delete_partial(id: &str, path: &Path) -> Result<u64> {
    match partial::remove(path, &empty_folders(path))? {
        Removal::Removed(freed) => {
            n!("model_delete", "Removed the unfinished download of '{id}'; this freed {}", bytes(freed));
            Ok(freed)
        }
        Removal::NewerFormat => Err(partial::newer_format(path)),
        Removal::InUse => Err(Failure::new(
            Code::ModelInUse,
            format!("another process is downloading '{id}' to {}", path.display()),
        )
        .hint("stop that process first")),
    }
}
