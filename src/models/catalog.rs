//! The catalog: which models this machine has.
//!
//! Three places are looked at: the store, the Hugging Face cache and the user's own folders. A file
//! that is reached twice is listed once, in that order of precedence. A place that cannot be read,
//! or a file that is damaged, never makes a listing fail.

use std::collections::{HashMap, HashSet};
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Weak};

use parking_lot::Mutex;

use super::headers::{Headers, Summary};
use super::hub_cache::{self, HubFile};
use super::scan::{self, Found, Links, Place};
use super::store::{Partial, Store};
use super::{Model, Status, id, split, units};
use crate::config::{Config, Downloads, Timers};
use crate::error::{Code, Failure, Result};
use crate::spawn;

/// How many similar ids a failed look-up names.
const NEAREST: usize = 3;
/// How similar (Jaro-Winkler, 0 to 1) an id must be to be named.
const SIMILAR: f64 = 0.65;

/// The models of this machine. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Catalog(pub(super) Arc<Inner>);

#[derive(Debug)]
pub(super) struct Inner {
    pub(super) store: Store,
    /// The user's own folders.
    pub(super) folders: Vec<PathBuf>,
    hub_cache: Option<PathBuf>,
    headers: Headers,
    /// Whether only this machine can reach the hive: then its callers may name any file.
    pub(super) is_local: bool,
    pub(super) downloads: Downloads,
    pub(super) timers: Timers,
    turns: Turns,
}

/// A model, and the files that it was made of.
#[derive(Debug)]
pub(super) struct Listed {
    pub(super) model: Model,
    pub(super) found: Found,
}

impl Catalog {
    /// A catalog of the places that the configuration names. Makes the store's folder, and removes
    /// what downloads of a killed hive left in it.
    ///
    /// # Errors
    /// Where the store's folder cannot be made.
    pub fn new(config: &Config) -> Result<Self> {
        let hub_cache = match &config.hub_cache {
            Some(path) => Some(path.clone()).filter(|path| !path.as_os_str().is_empty()),
            None => hub_cache::default_location(|name| std::env::var_os(name)),
        };
        Ok(Self(Arc::new(Inner {
            store: Store::open(config.store_dir())?,
            folders: config.models_dirs.clone(),
            hub_cache,
            headers: Headers::default(),
            is_local: config.bind.is_loopback(),
            downloads: config.downloads.clone(),
            timers: config.timers.clone(),
            turns: Turns::default(),
        })))
    }

    /// Every model of this machine, sorted by id, as the disk has it now.
    ///
    /// # Errors
    /// None that the disk could cause: what cannot be read is narrated or listed as such.
    pub async fn list(&self) -> Result<Vec<Model>> {
        let listed = self.on_pool(Inner::scan).await?;
        Ok(listed.into_iter().map(|listed| listed.model).collect())
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

    /// Up to three ids that are most like `wanted`, the likeliest first.
    #[must_use]
    pub fn nearest<'a>(wanted: &str, models: &'a [Model]) -> Vec<&'a str> {
        let wanted = wanted.to_lowercase();
        let likeness = |text: &str| strsim::jaro_winkler(&wanted, &text.to_lowercase());
        let mut scored: Vec<_> = models
            .iter()
            .map(|model| (likeness(&model.id).max(likeness(&model.name)), model.id.as_str()))
            .filter(|&(score, _)| score >= SIMILAR)
            .collect();
        scored.sort_by(|a, b| b.0.total_cmp(&a.0).then_with(|| a.1.cmp(b.1)));
        scored.into_iter().take(NEAREST).map(|(_, id)| id).collect()
    }

    /// The model whose first file is at `path`, as the disk has it now.
    pub(super) async fn at(&self, path: &Path) -> Result<Model> {
        let models = self.list().await?;
        models.into_iter().find(|model| model.path == path).ok_or_else(|| {
            Failure::new(Code::ModelNotFound, format!("{} is gone from the disk again", path.display()))
                .hint("something else removed it in the meantime: try again")
        })
    }

    /// Runs blocking work on the pool.
    pub(super) async fn on_pool<R: Send + 'static>(
        &self,
        work: impl FnOnce(&Inner) -> R + Send + 'static,
    ) -> Result<R> {
        let inner = Arc::clone(&self.0);
        spawn::blocking(move || work(&inner))
            .await
            .map_err(|error| Failure::internal("work on the model catalog broke off").detail(error))
    }

    /// The turn to write that file of the store: one job at a time has it.
    pub(super) fn turn(&self, file_name: &str) -> Arc<tokio::sync::Mutex<()>> {
        self.0.turns.of(file_name)
    }
}

/// Where in a listing the model of that id, or of that unique name, is.
pub(super) fn position(models: &[Model], wanted: &str) -> Result<usize> {
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

fn not_found(wanted: &str, models: &[Model]) -> Failure {
    let nearest = Catalog::nearest(wanted, models);
    let message = match nearest[..] {
        [] => format!("there is no model '{wanted}'"),
        _ => format!("there is no model '{wanted}'; the nearest: {}", nearest.join(", ")),
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

impl Inner {
    /// Looks at every place. Blocks on the disk.
    pub(super) fn scan(&self) -> Vec<Listed> {
        let mut found = self.store.scan();
        found.extend(self.hub_cache.iter().flat_map(|cache| hub_cache::scan(cache)));
        for folder in &self.folders {
            let groups = split::group(scan::gguf_files(folder, Links::Follow));
            found.extend(groups.into_iter().map(|group| Found { group, place: Place::Folder }));
        }

        let mut met = HashSet::new();
        let mut looked_at = HashSet::new();
        let mut listed: Vec<Listed> = Vec::new();
        for found in found {
            // One file under two paths has one identity; a link that leads nowhere has none.
            let is_new = fs::metadata(found.path()).map_or(true, |file| met.insert((file.dev(), file.ino())));
            looked_at.extend(found.group.files.iter().cloned());
            if is_new && let Some(model) = self.describe(&found) {
                listed.push(Listed { model, found });
            }
        }
        self.headers.retain(|path| looked_at.contains(path));
        listed.extend(self.store.partials().into_iter().map(downloading));

        listed.sort_by(|a, b| precedence(a).cmp(&precedence(b)));
        let wishes = wishes(&listed);
        let paths: Vec<_> = listed.iter().map(|listed| listed.model.path.clone()).collect();
        let ids = id::assign(wishes.into_iter().zip(paths.iter().map(PathBuf::as_path)));
        for (listed, id) in listed.iter_mut().zip(ids) {
            listed.model.id = id;
        }
        listed.sort_by(|a, b| a.model.id.cmp(&b.model.id));
        listed
    }

    /// What a listing says of these files, but for the id. `None` where they are no model.
    fn describe(&self, found: &Found) -> Option<Model> {
        let mut status = match &found.group.missing {
            None => (Status::Available, None),
            Some((name, 1)) => (Status::Incomplete, Some(format!("its part {name} is missing"))),
            Some((name, count)) => {
                (Status::Incomplete, Some(format!("{count} of its parts are missing, the first is {name}")))
            }
        };
        let mut size_bytes = 0;
        let mut parameters = None;
        let mut first: Option<Arc<Summary>> = None;
        for path in &found.group.files {
            let problem = match fs::metadata(path) {
                Err(_) => (Status::Incomplete, missing_target(path)),
                Ok(metadata) => {
                    size_bytes += metadata.len();
                    match self.headers.summary(path, &metadata) {
                        Ok(summary) if summary.is_accessory => return None,
                        Ok(summary) => {
                            *parameters.get_or_insert(0) += summary.parameter_count;
                            first.get_or_insert(summary);
                            continue;
                        }
                        Err(problem) if found.group.files.len() > 1 => {
                            (Status::Corrupt, format!("{}: {problem}", split::name_of(path)))
                        }
                        Err(problem) => (Status::Corrupt, problem.to_string()),
                    }
                }
            };
            if status.1.is_none() {
                status = (problem.0, Some(problem.1));
            }
        }
        let record = self.store.record_of(found);
        let (source, revision) = match (&found.place, &record) {
            (_, Some(record)) => (record.source.clone(), record.revision.clone()),
            (Place::Hub(hub), _) => (format!("hf:{}", hub.repo), Some(hub.revision.clone())),
            _ => (format!("file:{}", found.path().display()), None),
        };
        let sha256 = match (&found.place, record) {
            (_, Some(record)) => record.sha256,
            (Place::Hub(_), None) if found.group.files.len() == 1 => hub_cache::sha256(found.path()),
            _ => None,
        };
        let changed = fs::symlink_metadata(found.path()).and_then(|metadata| metadata.modified());
        Some(Model {
            id: String::new(),
            name: id::sanitize(split::stem(&found.file_name())),
            size_bytes,
            path: found.path().to_owned(),
            source,
            revision,
            format: "gguf".to_owned(),
            architecture: first.as_ref().and_then(|summary| summary.architecture.clone()),
            quantization: first.as_ref().and_then(|summary| summary.quantization.clone()),
            parameter_count: parameters,
            context_length: first.as_ref().and_then(|summary| summary.context_length),
            loaded: false,
            status: status.0,
            added_at: units::instant(changed.unwrap_or(std::time::UNIX_EPOCH)),
            sha256,
            status_detail: status.1,
        })
    }
}

fn missing_target(path: &Path) -> String {
    match fs::read_link(path) {
        Ok(target) => format!("the file that it links to is gone: {}", target.display()),
        Err(_) => "its file is gone".to_owned(),
    }
}

/// A model that a job is fetching right now.
fn downloading(partial: Partial) -> Listed {
    let name = id::sanitize(split::stem(&split::name_of(&partial.target)));
    let model = Model {
        id: String::new(),
        name,
        size_bytes: partial.bytes,
        path: partial.target.clone(),
        source: partial.source,
        revision: None,
        format: "gguf".to_owned(),
        architecture: None,
        quantization: None,
        parameter_count: None,
        context_length: None,
        loaded: false,
        status: Status::Downloading,
        added_at: units::instant(partial.changed),
        sha256: None,
        status_detail: Some(format!("{} are here so far", units::bytes(partial.bytes))),
    };
    let group = split::Group { files: vec![partial.target], missing: None };
    Listed { model, found: Found { group, place: Place::Store } }
}

/// Who keeps an id that several would like: the store's own files, whatever else turns up, then the
/// Hub's current revisions, then the first path.
fn precedence(listed: &Listed) -> (u8, &Path) {
    let rank = match &listed.found.place {
        Place::Store => 0,
        Place::Hub(hub) if hub.is_main => 1,
        Place::Hub(_) | Place::Folder => 2,
    };
    (rank, &listed.model.path)
}

/// The id that each model would like to have.
fn wishes(listed: &[Listed]) -> Vec<String> {
    // Within a repository a tag stands for one file only: where two have it, neither uses it.
    let mut files_of_tag: HashMap<(&str, String), HashSet<&str>> = HashMap::new();
    let tag = |listed: &Listed, hub: &HubFile| {
        hub_cache::quantization_tag(&hub.relative).or_else(|| listed.model.quantization.clone())
    };
    for listed in listed {
        if let Place::Hub(hub) = &listed.found.place
            && let Some(tag) = tag(listed, hub)
        {
            files_of_tag.entry((&hub.repo, tag)).or_default().insert(&hub.relative);
        }
    }
    let wish = |listed: &Listed| match &listed.found.place {
        Place::Store | Place::Folder => listed.model.name.clone(),
        Place::Hub(hub) => match tag(listed, hub) {
            Some(tag) if files_of_tag[&(hub.repo.as_str(), tag.clone())].len() == 1 => {
                id::sanitize(&format!("{}:{tag}", hub.repo))
            }
            _ => id::sanitize(&format!("{}/{}", hub.repo, hub.relative)),
        },
    };
    listed.iter().map(wish).collect()
}

/// Who may write which file of the store: jobs that want the same one wait for each other.
#[derive(Debug, Default)]
struct Turns(Mutex<HashMap<String, Weak<tokio::sync::Mutex<()>>>>);

impl Turns {
    fn of(&self, file_name: &str) -> Arc<tokio::sync::Mutex<()>> {
        let mut turns = self.0.lock();
        if let Some(turn) = turns.get(file_name).and_then(Weak::upgrade) {
            return turn;
        }
        turns.retain(|_, turn| turn.strong_count() > 0);
        let turn = Arc::new(tokio::sync::Mutex::new(()));
        turns.insert(file_name.to_owned(), Arc::downgrade(&turn));
        turn
    }
}

#[cfg(test)]
mod tests;
