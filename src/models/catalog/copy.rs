//! Copies models between hives: tells another hive what a model is, and makes the same model of what another hive tells.

use std::path::Path;
use std::sync::Arc;

use tokio_util::sync::CancellationToken;

use super::Catalog;
use super::plan::Downloaded;
use crate::error::{Code, Failure, Result};
use crate::models::digests::Hashed;
use crate::models::library::file_name::name_of;
use crate::models::library::folders::Link;
use crate::models::library::hub_cache::layout::{blob_of, sha256_of};
use crate::models::library::listing::ListedModel;
use crate::models::library::location::ModelLocation;
use crate::models::model::Model;
use crate::models::sheet::{HubPlace, Reading, Sheet, SheetFile};
use crate::models::sources::{DownloadRequest, copy};
use crate::n;
use crate::text::{bytes, is_sha256};

impl Catalog {
    /// What another hive needs to know of a model to copy it. Where a hash is not known, the file is being read for it
    /// from then on.
    ///
    /// # Errors
    /// Those of [`Self::find`] and [`Model::check_loadable`]; that a file cannot be read.
    pub(crate) async fn sheet(&self, wanted: &str) -> Result<Sheet> {
        let model = self.find(wanted).await?;
        model.check_loadable()?;
        let scanned = self.scan().await?;
        self.look(move |catalog| {
            let listed = scanned.iter().find(|listed| listed.model.id == model.id);
            let listed = listed.ok_or_else(|| {
                Failure::new(Code::ModelNotFound, format!("{} was removed from the disk meanwhile", model.id))
                    .hint("another program removed it: try again")
            })?;
            catalog.sheet_of(listed)
        })
        .await?
    }

    /// Blocks on the disk.
    fn sheet_of(&self, listed: &ListedModel) -> Result<Sheet> {
        let ListedModel { model, scanned, .. } = listed;
        let library = &*self.places.library;
        let paths = &scanned.files.paths;
        let record = library.store().record_of(scanned, &library.probe());
        let (hub, first_name) = match &scanned.location {
            ModelLocation::HubCache(hub) => {
                let place =
                    HubPlace { repo: hub.repo.clone(), commit: hub.revision.clone(), is_main: hub.is_main };
                (Some((place, hub.folder.join("snapshots").join(&hub.revision))), None)
            }
            ModelLocation::OllamaStore(ollama) => (None, Some(ollama.file_name())),
            _ => (None, None),
        };
        let mut reading = None;
        let mut file = |path: &Path, told: Option<String>, name: Option<String>| -> Result<SheetFile> {
            let size_bytes = path.metadata().map_err(|error| Failure::io("read", path, &error))?.len();
            let in_snapshot = hub.as_ref().and_then(|(_, snapshot)| path.strip_prefix(snapshot).ok());
            let in_snapshot = in_snapshot.and_then(Path::to_str).map(str::to_owned);
            let name = name.or(in_snapshot).unwrap_or_else(|| name_of(path));
            let of_link = hub.as_ref().and_then(|_| sha256_of(&Link::read(path)?));
            let etag = hub.as_ref().and_then(|_| Some(name_of(&blob_of(path)?)));
            let told = told.or(of_link).filter(|sha256| is_sha256(sha256));
            let sha256 = match told {
                Some(sha256) => Some(sha256),
                // One is read after another.
                None if reading.is_some() => None,
                None => match self.digests.of(path)? {
                    Hashed::As(sha256) => Some(sha256),
                    Hashed::Reading(done) => {
                        reading = Some(Reading { file: name.clone(), done, total: size_bytes });
                        None
                    }
                },
            };
            Ok(SheetFile { name, size_bytes, sha256, etag })
        };
        let told = model.sha256.clone().filter(|_| paths.len() == 1);
        let mut files = Vec::new();
        for path in paths {
            let name = first_name.clone().filter(|_| files.is_empty());
            files.push(file(path, told.clone(), name)?);
        }
        let projector = model.projector.as_ref().map(|path| file(path, None, None)).transpose()?;
        Ok(Sheet {
            id: model.id.clone(),
            source: model.source.clone(),
            revision: model.revision.clone(),
            hub: hub.map(|(place, _)| place),
            url_sha256: record.and_then(|record| record.url_sha256),
            left_out: model.left_out.clone(),
            files,
            projector,
            reading,
        })
    }

    /// Makes the model that a sheet of hive `hive` describes, of the files that it and others have.
    ///
    /// # Errors
    /// Those of [`Self::download`].
    pub(crate) async fn copy(&self, sheet: Sheet, hive: &str, stop: &CancellationToken) -> Result<Model> {
        let models = self.list().await?;
        if let Some(model) = models.into_iter().find(|model| is_same(model, &sheet)) {
            n!("model_copy_present", "{} is here already ({})", model.id, bytes(model.size_bytes));
            return Ok(model);
        }
        self.tidy().await?;
        let digests = Arc::clone(&self.digests);
        let resolved = copy::resolve(sheet, hive, &self.places, digests).await?;
        match self.fetch(resolved, &DownloadRequest::default(), stop).await? {
            Downloaded::Model(model) => Ok(*model),
            Downloaded::Plan(_) => Err(Failure::internal("a copy was only planned")),
        }
    }

    /// What is on the disks, for tests of what is put there.
    #[cfg(test)]
    pub(crate) fn library(&self) -> Arc<crate::models::library::Library> {
        Arc::clone(&self.places.library)
    }
}

/// Whether a model of this machine is the one of the sheet, as far as both tell.
fn is_same(model: &Model, sheet: &Sheet) -> bool {
    let told = sheet.files[0].sha256.as_ref().filter(|_| sheet.files.len() == 1);
    let is_other = matches!((&model.sha256, told), (Some(one), Some(other)) if one != other);
    let size: u64 = sheet.files.iter().map(|file| file.size_bytes).sum();
    model.id == sheet.id && model.check_loadable().is_ok() && model.size_bytes == size && !is_other
}
