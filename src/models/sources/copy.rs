//! A model of another hive of the fleet, copied: its files come from the hives that have them, and become the same model
//! here.

use std::sync::Arc;

use reqwest::Url;

use crate::error::{Failure, Result};
use crate::models::digests::Digests;
use crate::models::library::Library;
use crate::models::library::headers::{check_model, check_projector, vet_model, vet_projector};
use crate::models::library::record::{RecordedFile, StoreRecord};
use crate::models::library::store::{file_name, projector_name};
use crate::models::sheet::{Sheet, SheetFile, unusable};
use crate::models::sources::hub;
use crate::models::sources::in_store::{first, further};
use crate::models::sources::places::Places;
use crate::models::sources::resolution::ResolvedModel;
use crate::models::transfer::purpose::Purpose;
use crate::models::transfer::remote::{
    Destination, GGUF_MAGIC, HIVE, ModelFile, RemoteFile, StoredFile, Trust,
};
use crate::spawn;

/// The files of a model of hive `hive`, and where they go here. `digests` remembers their hashes.
///
/// # Errors
/// [`Code::ModelExists`](crate::error::Code::ModelExists) where another model has its name;
/// [`Code::DownloadFailed`](crate::error::Code::DownloadFailed) where what the hive tells makes no model.
pub(crate) async fn resolve(
    sheet: Sheet,
    hive: &str,
    places: &Places,
    digests: Arc<Digests>,
) -> Result<ResolvedModel> {
    if sheet.files.is_empty() {
        return Err(unusable("has no file"));
    }
    let library = Arc::clone(&places.library);
    let placed = sheet.clone();
    let (destinations, commit) = spawn::blocking(move || match &placed.hub {
        Some(_) => hub::placed(&library, &placed).map(|placed| (placed.destinations, placed.commit)),
        None => in_store(&library, &placed, &digests),
    })
    .await??;
    let all = sheet.files.iter().chain(&sheet.projector);
    let model = ModelFile {
        name: sheet.files[0].name.clone(),
        target: destinations[0].target.file_name().unwrap_or_default().to_string_lossy().into_owned(),
    };
    let mut files = Vec::new();
    for (file, destination) in all.zip(destinations) {
        let is_projector = sheet.projector.as_ref() == Some(file);
        let sha256 = file.sha256.clone().ok_or_else(|| unusable("has no hash of a file"))?;
        let url = Url::parse(&format!("{HIVE}://{hive}/blobs/{sha256}")).map_err(|error| {
            Failure::internal("the URL of a file of a hive could not be made").detail(error)
        })?;
        let file = RemoteFile {
            purpose: Purpose::Model,
            name: file.name.clone(),
            source: sheet.source.clone(),
            url,
            credentials: None,
            size: Some(file.size_bytes),
            sha256: Some(sha256.clone()),
            version: Some(file.etag.clone().unwrap_or(sha256)),
            companion_of: is_projector.then(|| model.clone()),
            magic: GGUF_MAGIC,
            vet: if is_projector { vet_projector } else { vet_model },
            trust: Trust::Named,
        };
        files.push((file, destination));
    }
    Ok(ResolvedModel {
        model: sheet.id,
        source: format!("hive '{hive}'"),
        revision: sheet.revision,
        gated: None,
        architecture: None,
        remarks: Vec::new(),
        files,
        commit,
    })
}

/// The places in the store. Blocks on the disk.
fn in_store(
    library: &Arc<Library>,
    sheet: &Sheet,
    digests: &Arc<Digests>,
) -> Result<(Vec<Destination>, super::resolution::Commit)> {
    let (head, parts) = (&sheet.files[0], &sheet.files[1..]);
    let recorded = |name: String, file: &SheetFile| RecordedFile::new(name, file.size_bytes, None);
    let files: Vec<_> = sheet.files.iter().map(|file| recorded(file_name(&file.name), file)).collect();
    let name = files[0].name.clone();
    let projector = sheet.projector.as_ref().map(|file| recorded(projector_name(&name), file));
    let record = StoreRecord {
        url_sha256: sheet.url_sha256.clone(),
        revision: sheet.revision.clone(),
        // The hash of a record is of the only file.
        sha256: head.sha256.clone().filter(|_| parts.is_empty()),
        projector,
        left_out: sheet.left_out.clone(),
        ..StoreRecord::new(sheet.source.clone(), files)
    };
    let mut destinations = vec![first(library, record.clone(), false)?];
    for file in &record.files[1..] {
        destinations.push(further(library, file, |path| check_model(path).map(drop), false));
    }
    destinations.extend(record.projector.as_ref().map(|file| further(library, file, check_projector, false)));
    let targets: Vec<_> = destinations.iter().map(|destination| destination.target.clone()).collect();
    let (path, digests) = (targets[0].clone(), Arc::clone(digests));
    let commit = move |stored: &[StoredFile]| {
        // Other hives may want them from here.
        for (target, sha256) in targets.iter().zip(stored.iter().map(|stored| stored.sha256.as_ref())) {
            if let Some(sha256) = sha256 {
                digests.learn(target, sha256);
            }
        }
        Ok(path)
    };
    Ok((destinations, Box::new(commit)))
}
