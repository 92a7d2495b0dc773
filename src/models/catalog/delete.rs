//! Deleting a model, and saying truthfully what that freed.
//!
//! What the hive put into its store is its own to delete. Anything else takes `force`, and then
//! goes only where the scan itself found it: no path of a request is ever followed. A link is
//! removed as a link; what it leads to stays.

use std::fs;
use std::path::Path;

use crate::error::{Code, Failure, Result};
use crate::models::Catalog;
use crate::models::Model;
use crate::models::Status;
use crate::models::catalog::{Inner, not_found};
use crate::models::library::hub_cache;
use crate::models::library::listing::Listed;
use crate::models::library::look::Look;
use crate::models::library::scan::Place;
use crate::models::library::store::remove_file;
use crate::models::transfer::partial::{self, Removal};
use crate::models::units;
use crate::n;

impl Catalog {
    /// Deletes a model from the disk. Answers the bytes that came free: 0 for a link, and for a
    /// file that has another name elsewhere.
    ///
    /// # Errors
    /// [`Code::NotOwned`] for a file that the hive did not put there, unless `force`;
    /// [`Code::ModelInUse`] while it is being downloaded; [`Code::ModelNotFound`] where it is gone
    /// already; and whatever the file system says.
    pub async fn delete(&self, model: &Model, force: bool) -> Result<u64> {
        let model = model.clone();
        self.on_pool(move |inner| inner.delete(&model, force)).await?
    }
}

impl Inner {
    fn delete(&self, model: &Model, force: bool) -> Result<u64> {
        let id = &model.id;
        let listed = self.scan();
        // An id may have passed to another file since the caller looked.
        let is_meant = |listed: &Listed| listed.model.id == *id && listed.model.path == model.path;
        let Some(Listed { model, found }) = listed.iter().find(|listed| is_meant(listed)) else {
            let models: Vec<_> = listed.iter().map(|listed| listed.model.clone()).collect();
            return Err(not_found(id, &models));
        };
        if model.status == Status::Downloading {
            return Err(Failure::new(Code::ModelInUse, format!("'{id}' is being downloaded"))
                .hint("cancel the job that downloads it, then delete what that has kept"));
        }
        if let Place::Partial(path) = &found.place {
            return self.delete_partial(id, path);
        }
        let record = self.store.record_of(found, &Look::new(&self.known));
        let is_owned = match &found.place {
            Place::Hub(_) => self.hub_notes.owns(&found.group.files),
            Place::Store | Place::Folder | Place::Partial(_) => record.is_some(),
        };
        if !is_owned && !force {
            return Err(Failure::new(
                Code::NotOwned,
                format!("{} was not put there by the hive", model.path.display()),
            )
            .hint("to delete the file all the same, repeat this with force"));
        }
        if !is_owned {
            n!(warn: "model_delete", "Deleting {}, which is not the hive's own", model.path.display());
        }

        let target = fs::read_link(&model.path).ok();
        let mut freed = match &found.place {
            Place::Hub(file) => hub_cache::remove(file, &found.group.files, &self.hub_notes)?,
            Place::Store | Place::Folder | Place::Partial(_) => {
                let mut freed = 0;
                for path in &found.group.files {
                    freed += remove_file(path)?;
                }
                freed
            }
        };
        if found.place == Place::Store {
            // What a download that was to replace it has left.
            let partial = self.store.partial_path(&found.file_name());
            if !self.transfers.is_ongoing(&model.path)
                && let Removal::Removed(bytes) = partial::remove(&partial, &[])?
            {
                freed += bytes;
            }
            // Last, so that a deletion that failed half-way can be repeated.
            self.store.remove_record(&found.file_name())?;
            self.store.sync()?;
        }
        match (target, freed) {
            (Some(target), 0) => {
                n!("model_delete", "Removed the link; what it led to stays: {}", target.display());
            }
            _ => n!("model_delete", "Deleted {}; {} came free", model.path.display(), units::bytes(freed)),
        }
        Ok(freed)
    }

    /// Removes what a download that ended early has left.
    fn delete_partial(&self, id: &str, path: &Path) -> Result<u64> {
        match partial::remove(path, &hub_cache::empty_folders(path))? {
            Removal::Removed(freed) => {
                n!("model_delete", "Removed what was here of '{id}'; {} came free", units::bytes(freed));
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
}
