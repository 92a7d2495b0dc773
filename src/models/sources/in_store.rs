//! The places in the store of the files of one model.

use std::path::Path;
use std::sync::Arc;

use crate::error::Result;
use crate::models::library::Library;
use crate::models::library::headers::check_model;
use crate::models::library::record::{RecordedFile, StoreRecord};
use crate::models::library::store::{NameStatus, name_taken};
use crate::models::transfer::remote::{Destination, Refusal, StoredFile};
use crate::n;

/// Checks a complete file.
type Check = fn(&Path) -> Result<(), Refusal>;

/// The place of a further file of a model: another part, or its projector. Its name is checked with the first. Blocks on
/// the disk.
pub(super) fn further(library: &Arc<Library>, file: &RecordedFile, check: Check, force: bool) -> Destination {
    let store = library.store();
    let target = store.path(&file.name);
    let is_other = target.symlink_metadata().is_ok()
        && !target.metadata().is_ok_and(|metadata| metadata.len() == file.size_bytes);
    Destination {
        partial: store.partial_path(&file.name),
        target,
        lock: None,
        replace: force || is_other,
        empty_folders: Vec::new(),
        accept: Arc::new(move |path: &Path, _: &StoredFile| check(path)),
    }
}

/// The place of the first file of a model, whose record is written with it. Blocks on the disk.
pub(super) fn first(library: &Arc<Library>, record: StoreRecord, force: bool) -> Result<Destination> {
    let (store, name) = (library.store(), record.name().to_owned());
    let target = store.path(&name);
    let probe = library.probe();
    let replace = match store.name_status(&record, &probe)? {
        NameStatus::Free => force,
        NameStatus::OtherModel { is_owned } if !(is_owned && force) => {
            return Err(name_taken(&name, is_owned));
        }
        NameStatus::OtherModel { .. } => true,
        NameStatus::SameModel => {
            let existing = store.record(&name).and_then(|existing| existing.sha256);
            let is_damaged = matches!(check_model(&target), Err(Refusal::Unusable(_)));
            let is_current = existing == record.sha256 && !is_damaged;
            if !is_current {
                n!("model_download_present", "The {name} that is here is another version, or damaged");
            }
            force || !is_current
        }
    };
    store.check_further_names(&record, &probe)?;
    let partial = store.partial_path(&name);
    let library = Arc::clone(library);
    Ok(Destination {
        partial,
        target,
        lock: None,
        replace,
        empty_folders: Vec::new(),
        accept: Arc::new(move |path: &Path, _: &StoredFile| {
            check_model(path)?;
            library.store().write_record(&record).map_err(Refusal::Unfinished)
        }),
    })
}
