//! Finds a complete file of this machine by its SHA-256, without reading its contents: in the store by the records, in
//! the Hugging Face cache and in stores of Ollama's by the names of their blobs.
//!
//! A name or a record is what somebody promised: who needs to be sure hashes what was read.

use std::path::{Path, PathBuf};

use crate::models::library::hub_cache::layout::{blob_in, is_repository};
use crate::models::library::listing::Locations;
use crate::models::library::ollama_store;
use crate::models::library::probe::DiskProbe;
use crate::models::library::store::Store;

/// The path of a file with these contents. `sha256` has 64 lower-case hexadecimal digits. Blocks on the disk.
pub(crate) fn find(locations: &Locations, sha256: &str, probe: &DiskProbe<'_>) -> Option<PathBuf> {
    let is_file = |path: &PathBuf| probe.metadata(path).is_ok_and(|found| found.is_file());
    let in_ollama = || {
        let stores = locations.user_folders.iter().filter(|root| ollama_store::is_store(root, probe));
        stores.map(|root| ollama_store::blob_at(root, sha256)).find(is_file)
    };
    in_hub_cache(&locations.hub_cache.dir, sha256, probe)
        .filter(is_file)
        .or_else(|| in_store(&locations.store, sha256, probe))
        .or_else(in_ollama)
}

fn in_hub_cache(cache: &Path, sha256: &str, probe: &DiskProbe<'_>) -> Option<PathBuf> {
    let folder = probe.folder_if_readable(cache)?;
    let repositories = folder.entries.iter().map(|entry| &entry.path).filter(|path| is_repository(path));
    let blobs = repositories.map(|repository| blob_in(repository, sha256));
    blobs.into_iter().find(|path| probe.metadata(path).is_ok())
}

fn in_store(store: &Store, sha256: &str, probe: &DiskProbe<'_>) -> Option<PathBuf> {
    store.scan(probe).into_iter().find_map(|model| {
        let record = store.record_of(&model, probe)?;
        // The hash of a record is of the only file.
        let is_it = record.sha256.as_deref() == Some(sha256) && model.files.paths.len() == 1;
        is_it.then(|| model.path().to_owned())
    })
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::sync::Arc;

    use super::*;
    use crate::models::library::Library;
    use crate::models::library::hub_cache::HubCache;
    use crate::models::library::hub_cache::notes::HubNotes;
    use crate::models::library::record::{RecordedFile, StoreRecord};
    use crate::models::needs::Judge;

    #[test]
    fn a_file_is_found_by_the_name_of_its_blob_or_by_its_record() {
        let root = tempfile::tempdir().unwrap();
        let at = |path: &str| root.path().join(path);
        for folder in
            ["hub/models--o--r/blobs", "hub/datasets--o--d/blobs", "ollama/blobs", "ollama/manifests"]
        {
            fs::create_dir_all(at(folder)).unwrap();
        }
        let cache = HubCache { dir: at("hub"), notes: HubNotes::new(at("notes")) };
        let folders = vec![at("plain"), at("ollama")];
        let library =
            Library::open(at("store"), at("ids.json"), cache, folders, Arc::<Judge>::default()).unwrap();
        let hash = |digit: &str| digit.repeat(64);
        let found = |digit: &str| find(&library.locations, &hash(digit), &library.probe());

        let blob = at("hub/models--o--r/blobs").join(hash("a"));
        fs::write(&blob, "a").unwrap();
        fs::write(at("hub/models--o--r/blobs").join(format!("{}.incomplete", hash("1"))), "").unwrap();
        fs::write(at("hub/datasets--o--d/blobs").join(hash("2")), "2").unwrap();
        let of_ollama = at("ollama/blobs").join(format!("sha256-{}", hash("b")));
        fs::write(&of_ollama, "b").unwrap();
        let record = StoreRecord {
            sha256: Some(hash("c")),
            ..StoreRecord::new("https://h/m.gguf".into(), vec![RecordedFile::new("m.gguf".into(), 1, None)])
        };
        library.store().write_record(&record).unwrap();
        fs::write(at("store/m.gguf"), "c").unwrap();

        assert_eq!(found("a"), Some(blob));
        assert_eq!(found("b"), Some(of_ollama));
        assert_eq!(found("c"), Some(at("store/m.gguf")));
        assert_eq!((found("1"), found("2"), found("d")), (None, None, None));
        fs::write(at("store/m.gguf"), "another one").unwrap();
        assert_eq!(found("c"), None, "it is not as the record says any more");
    }
}
