//! Which model has which id.
//!
//! An id belongs to a file, and a file is a place: the canonical path of the model's first file, after all
//! links ([`DiskProbe::place`](crate::models::library::probe::DiskProbe::place)). So:
//! - A model keeps its id for as long as its file is there, whatever else comes and wherever that sorts.
//!   The file of the data folder that this module keeps carries the ids across restarts.
//! - A file that is replaced at its place is the same model with other contents. A link to a file, such as
//!   an import, is the same model as the file.
//! - A file that is moved or renamed is another model. Its old id is free for the next file that asks for
//!   it. Until one does, it stays remembered: the models of a disk that was unplugged get their ids back.
//! - A file that cannot be looked at may be there, and keeps its id. One in a place that is listed no more
//!   is not looked at: its disk may be what the user took out of the settings, as it did not answer.
//! - A file that a worker serves keeps its id as long as the worker lives, even if it is deleted. So an id
//!   means one model to catalog and workers alike, and what is asked of a worker's id never reaches a
//!   newcomer.
//!
//! A model without an id gets the one that it prefers ([`preferred_ids`]), or else its stem behind its
//! folder's name where that tells it from the holder of the id, or else a suffix. Among several newcomers
//! [`precedence`] decides, so that ids do not depend on the order in which a scan found them.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::ffi::OsStr;
use std::fmt;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::files;
use crate::files::versioned::{VERSION, Versioned};
use crate::models::id::{self, ModelId};
use crate::models::library::folders::FolderCache;
use crate::models::library::listing::{ListedModel, Locations};
use crate::models::library::location::{HubCacheModel, ModelLocation};
use crate::models::library::probe::is_gone;
use crate::models::library::quantization::quantization_tag;
use crate::paths;

/// Beyond this many, ids of files that are not listed are forgotten.
const MAX_REMEMBERED: usize = 100_000;
/// More bytes than that many ids take.
const MAX_BYTES: u64 = 1 << 30;

/// The ids of the models that workers serve, with the paths of their files.
pub(crate) struct ServedFiles(Box<dyn Fn() -> Vec<(String, PathBuf)> + Send + Sync>);

impl ServedFiles {
    pub(crate) fn new(list: impl Fn() -> Vec<(String, PathBuf)> + Send + Sync + 'static) -> Self {
        Self(Box::new(list))
    }
}

impl fmt::Debug for ServedFiles {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ServedFiles")
    }
}

/// The ids of the files of one hive.
#[derive(Debug)]
pub(crate) struct Ids {
    book: Mutex<Book>,
    served: OnceLock<ServedFiles>,
}

/// What is remembered.
#[derive(Debug)]
struct Book {
    /// By place. No id occurs twice.
    ids: HashMap<PathBuf, String>,
    /// The book's file. `None` where a newer version of the hive wrote it.
    file: Option<PathBuf>,
    /// Whether the file has what is remembered.
    is_saved: bool,
    /// Fields of later versions of the hive.
    unknown: Map<String, Value>,
}

/// The book as its file has it, a file with a version ([`versioned`](crate::files::versioned)).
#[derive(Serialize, Deserialize)]
struct BookFile {
    version: u64,
    ids: BTreeMap<String, Place>,
    #[serde(flatten)]
    unknown: Map<String, Value>,
}

#[derive(Serialize, Deserialize)]
struct Place(#[serde(with = "paths::exact")] PathBuf);

impl Ids {
    /// Reads the ids that `file` has.
    pub(crate) fn open(file: PathBuf) -> Self {
        Self { book: Mutex::new(Book::read(file)), served: OnceLock::new() }
    }

    /// Sets the source of the ids that workers have. Only the first one counts.
    pub(crate) fn set_served(&self, served: ServedFiles) {
        // A second one would be that of the same workers.
        let _ = self.served.set(served);
    }

    /// Holds up every listing until it is dropped.
    #[cfg(test)]
    pub(crate) fn hold(&self) -> impl Drop {
        self.book.lock()
    }

    /// Gives each model its id, and sorts the models by it. Blocks on the disk.
    pub(crate) fn assign(&self, listed: &mut [ListedModel], locations: &Locations, cache: &FolderCache) {
        listed.sort_by(|a, b| precedence(a).cmp(&precedence(b)));
        let mut places = HashSet::new();
        let mut book = self.book.lock();
        for listed in listed.iter_mut() {
            if !places.insert(listed.place.clone()) {
                // Links to a file that is gone: without it, each is a model of its own.
                listed.place.clone_from(&listed.model.path);
            }
            if let Some(id) = book.ids.get(&listed.place) {
                listed.model.id.clone_from(id);
            }
        }
        if listed.iter().any(|listed| listed.model.id.is_empty()) {
            self.name_newcomers(&mut book, listed, locations, cache);
        }
        if !book.is_saved {
            book.save(cache);
        }
        drop(book);
        listed.sort_by(|a, b| a.model.id.cmp(&b.model.id));
    }

    fn name_newcomers(
        &self,
        book: &mut Book,
        listed: &mut [ListedModel],
        locations: &Locations,
        cache: &FolderCache,
    ) {
        let preferred = preferred_ids(listed);
        let served = self.served.get().map(|served| (served.0)()).unwrap_or_default();
        let place_of = |path: PathBuf| {
            cache.look_at(&path);
            path.canonicalize().unwrap_or(path)
        };
        let served = served.into_iter().map(|(id, path)| (id, place_of(path))).collect();
        let mut claims = Claims { holders: holders(book, listed), served, locations, cache };
        for (listed, preferred) in listed.iter_mut().zip(preferred) {
            if listed.model.id.is_empty() {
                let (id, holder) = claims.take(listed, preferred);
                if let Some(gone) = holder {
                    book.ids.remove(&gone);
                    book.is_saved = false;
                }
                if is_remembered(listed) {
                    book.ids.insert(listed.place.clone(), id.clone());
                    book.is_saved = false;
                }
                listed.model.id = id;
            }
        }
        if book.ids.len() > MAX_REMEMBERED {
            let places: HashSet<_> = listed.iter().map(|listed| &listed.place).collect();
            book.ids.retain(|place, _| places.contains(place));
        }
    }
}

/// The ids that are taken while newcomers get theirs.
struct Claims<'a> {
    /// By id: the place of the file that has it, and whether that file is listed.
    holders: HashMap<String, (PathBuf, bool)>,
    /// The ids that workers have, with the places of their files.
    served: Vec<(String, PathBuf)>,
    locations: &'a Locations,
    cache: &'a FolderCache,
}

/// As [`Claims::holders`], before a newcomer has an id.
fn holders(book: &Book, listed: &[ListedModel]) -> HashMap<String, (PathBuf, bool)> {
    let mut holders: HashMap<_, _> =
        book.ids.iter().map(|(place, id)| (id.clone(), (place.clone(), false))).collect();
    for listed in listed.iter().filter(|listed| !listed.model.id.is_empty()) {
        holders.insert(listed.model.id.clone(), (listed.place.clone(), true));
    }
    holders
}

impl Claims<'_> {
    /// The id that a newcomer gets, and the place of the file, gone now, that had it.
    fn take(&mut self, newcomer: &ListedModel, preferred: String) -> (String, Option<PathBuf>) {
        let place = &newcomer.place;
        let served = self.served.iter().find(|(_, served)| served == place).map(|(id, _)| id.clone());
        let mut candidates = served
            .into_iter()
            .chain([preferred.clone()])
            .chain(self.in_folder(newcomer, &preferred))
            .chain(id::with_suffix(&preferred, place));
        let id = candidates.find(|id| self.is_free(id, place)).unwrap_or_default();
        let holder = self.holders.insert(id.clone(), (place.clone(), true)).map(|(holder, _)| holder);
        (id, holder)
    }

    /// `folder/stem`, where the folder tells the newcomer from the file that has the preferred id. Names of
    /// the Hub and of its cache say where a file is from already.
    fn in_folder(&self, newcomer: &ListedModel, preferred: &str) -> Option<String> {
        let folder_of = |place: &Path| Some(place.parent()?.file_name()?.to_string_lossy().into_owned());
        let is_named_by_stem = *preferred == newcomer.model.name;
        let folder = folder_of(&newcomer.place).filter(|_| is_named_by_stem)?;
        let holder = self.holders.get(preferred).and_then(|(place, _)| folder_of(place));
        let id = id::sanitize(&format!("{folder}/{preferred}"));
        (holder.as_ref() != Some(&folder)).then_some(id)
    }

    /// Whether the file at `place` may have that id.
    fn is_free(&self, id: &str, place: &Path) -> bool {
        if self.served.iter().any(|(served_id, served)| served_id == id && served != place) {
            return false;
        }
        match self.holders.get(id) {
            None => true,
            Some((_, true)) => false,
            Some((holder, false)) if !self.locations.may_contain(holder, self.cache) => true,
            Some((holder, false)) => {
                self.cache.look_at(holder);
                // A link there is another file's, or the file has come since the scan.
                fs::symlink_metadata(holder).map_or_else(|error| is_gone(&error), |it| it.is_symlink())
            }
        }
    }
}

impl Book {
    fn read(file: PathBuf) -> Self {
        let mut book = Self { ids: HashMap::new(), file: Some(file), is_saved: true, unknown: Map::new() };
        let Some(file) = book.file.clone() else { return book };
        let json = match files::read(&file, MAX_BYTES) {
            Ok(json) => json,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return book,
            Err(error) => {
                tracing::warn!(file = %file.display(), %error, "cannot read which model has which id");
                book.file = None;
                return book;
            }
        };
        match Versioned::<BookFile>::parse(&json) {
            Versioned::Known(BookFile { ids, unknown, .. }) => {
                let is_id = |(id, _): &(String, Place)| id.parse::<ModelId>().is_ok();
                book.ids = ids.into_iter().filter(is_id).map(|(id, Place(place))| (place, id)).collect();
                book.unknown = unknown;
            }
            Versioned::Newer => {
                tracing::warn!(
                    file = %file.display(),
                    "a newer version of rbee-hive wrote it: it is left alone, and new ids are not remembered"
                );
                book.file = None;
            }
            Versioned::Invalid => match files::set_aside(&file) {
                Ok(kept_as) => tracing::warn!(
                    file = %file.display(), kept_as = %kept_as.display(),
                    "it is damaged and was set aside: models may get other ids"
                ),
                Err(error) => {
                    tracing::warn!(file = %file.display(), %error, "it is damaged and is left alone");
                    book.file = None;
                }
            },
        }
        book
    }

    /// Writes the book. On failure the ids hold for this run, and the next listing tries again.
    fn save(&mut self, cache: &FolderCache) {
        let Some(file) = &self.file else { return };
        cache.look_at(file);
        let ids = self.ids.iter().map(|(place, id)| (id.clone(), Place(place.clone()))).collect();
        let contents = BookFile { version: VERSION, ids, unknown: self.unknown.clone() };
        let saved = serde_json::to_vec_pretty(&contents)
            .map_err(io::Error::from)
            .and_then(|json| files::put_durable(file, &json));
        match saved {
            Ok(()) => self.is_saved = true,
            Err(error) => {
                tracing::warn!(file = %file.display(), %error, "could not write which model has which id");
            }
        }
    }
}

/// Whether the model will be listed at this place for as long as its file is there. An unfinished download
/// into the cache is listed at its blob, and at a link to it when it is finished.
fn is_remembered(listed: &ListedModel) -> bool {
    !(matches!(listed.scanned.location, ModelLocation::Partial(_)) && listed.model.source.starts_with("hf:"))
}

/// Which of several newcomers gets an id that they prefer: those of the store before all others, then those
/// of the Hub's current revisions, then the one with the first path, then unfinished downloads.
fn precedence(listed: &ListedModel) -> (u8, &OsStr) {
    let rank = match &listed.scanned.location {
        ModelLocation::Store => 0,
        ModelLocation::HubCache(hub) if hub.is_main => 1,
        ModelLocation::HubCache(_) | ModelLocation::UserFolder | ModelLocation::OllamaStore(_) => 2,
        ModelLocation::Partial(_) => 3,
    };
    (rank, listed.model.path.as_os_str())
}

/// The id that each model would have if ids need not be unique.
fn preferred_ids(listed: &[ListedModel]) -> Vec<String> {
    // Where two files of a repository have the same tag, neither is named by it.
    let mut files_of_tag: HashMap<(&str, String), HashSet<&str>> = HashMap::new();
    let tag = |listed: &ListedModel, hub: &HubCacheModel| {
        quantization_tag(&hub.relative).or_else(|| listed.model.quantization.clone())
    };
    for listed in listed {
        if let ModelLocation::HubCache(hub) = &listed.scanned.location
            && let Some(tag) = tag(listed, hub)
        {
            files_of_tag.entry((&hub.repo, tag)).or_default().insert(&hub.relative);
        }
    }
    let preferred_id = |listed: &ListedModel| match &listed.scanned.location {
        ModelLocation::Store | ModelLocation::UserFolder => listed.model.name.clone(),
        ModelLocation::OllamaStore(ollama) => id::sanitize(&ollama.name),
        ModelLocation::Partial(_) => match listed.model.source.strip_prefix("hf:") {
            Some(file) => id::sanitize(file),
            None => listed.model.name.clone(),
        },
        ModelLocation::HubCache(hub) => match tag(listed, hub) {
            Some(tag) if files_of_tag[&(hub.repo.as_str(), tag.clone())].len() == 1 => {
                id::sanitize(&format!("{}:{tag}", hub.repo))
            }
            _ => id::sanitize(&format!("{}/{}", hub.repo, hub.relative)),
        },
    };
    listed.iter().map(preferred_id).collect()
}

#[cfg(test)]
mod tests {
    use std::os::unix::ffi::OsStringExt;

    use super::*;

    #[test]
    fn the_ids_of_every_version_are_read() {
        let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/records/model-ids");
        let book = Book::read(fixtures.join("version-1/model-ids.json"));
        let odd = std::ffi::OsString::from_vec(b"/m/mod\xe8le.gguf".to_vec());
        for (place, id) in [
            ("/models/bartowski/model.gguf".into(), "bartowski/model"),
            ("/models/lmstudio-community/model.gguf".into(), "model"),
            ("/models/模型.gguf".into(), "模型"),
            (PathBuf::from(odd), "mod-le"),
        ] {
            assert_eq!(book.ids.get(&place).map(String::as_str), Some(id), "{}", place.display());
        }
        assert_eq!(book.ids.len(), 4);
    }
}
