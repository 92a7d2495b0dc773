//! One listing: what the disk has right now, described.
//!
//! Three places are looked at: the store, the Hugging Face cache and the user's own folders. A file
//! that is reached twice is listed once, in that order of precedence. A place that cannot be read,
//! or a file that is damaged, never makes a listing fail.

use std::collections::{HashMap, HashSet};
use std::ffi::OsStr;
use std::fs::{self, Metadata};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use crate::models::Model;
use crate::models::Status;
use crate::models::catalog::Inner;
use crate::models::id;
use crate::models::library::headers::Summary;
use crate::models::library::hub_cache::{self, HubFile};
use crate::models::library::look::{Look, Seen};
use crate::models::library::scan::{self, Found, Links, Place};
use crate::models::library::split;
use crate::models::transfer::partial::Unfinished;
use crate::models::transfer::transfers::OngoingTransfer;
use crate::models::units;

/// A listing, and what the disk said when it was made.
#[derive(Debug)]
pub(crate) struct Remembered {
    seen: Seen,
    listed: Arc<[Listed]>,
}

/// A model, and the files that it was made of.
#[derive(Debug)]
pub(crate) struct Listed {
    pub(crate) model: Model,
    pub(crate) found: Found,
}

impl Inner {
    /// Every model, as the disk has it now: the last listing where that still holds, and else another.
    /// Blocks on the disk.
    pub(crate) fn scan(&self) -> Arc<[Listed]> {
        let is_idle = || self.transfers.ongoing().is_empty();
        let last = self.last.lock().clone();
        if let Some(last) = last
            && is_idle()
            && last.seen.is_so_still()
        {
            last.seen.tell();
            return Arc::clone(&last.listed);
        }
        let look = Look::new(&self.known);
        let listed: Arc<[_]> = self.look_at_all(&look).into();
        // What is under way shows in a listing, and is not asked of the disk.
        let seen = look.seen().filter(|_| is_idle());
        *self.last.lock() = seen.map(|seen| Arc::new(Remembered { seen, listed: Arc::clone(&listed) }));
        listed
    }

    /// Looks at every place.
    fn look_at_all(&self, look: &Look<'_>) -> Vec<Listed> {
        let mut found = self.store.scan(look);
        found.extend(hub_cache::scan(&self.hub_cache, look));
        for folder in &self.folders {
            let groups = split::group(scan::gguf_files(folder, Links::Follow, look));
            found.extend(groups.into_iter().map(|group| Found { group, place: Place::Folder }));
        }

        let mut met = HashSet::new();
        let mut listed: Vec<Listed> = Vec::new();
        for found in found {
            // Each file is looked at once.
            let files: Vec<_> = found.group.files.iter().map(|path| look.metadata(path)).collect();
            // One file under two paths has one identity; a link that leads nowhere has none.
            let is_new = files[0].as_ref().map_or(true, |file| met.insert((file.dev(), file.ino())));
            if is_new && let Some(model) = self.describe(&found, &files, look) {
                listed.push(Listed { model, found });
            }
        }
        self.headers.forget_others();
        let under_way = self.transfers.ongoing();
        let is_left = |partial: &Path| !under_way.iter().any(|way| way.destination.partial == partial);
        let left = self.store.partials(look).into_iter().chain(hub_cache::partials(&self.hub_cache, look));
        let left = left.filter(|(partial, ..)| is_left(partial));
        listed.extend(left.map(|(partial, target, left)| interrupted(partial, target, left)));
        let is_new = |way: &OngoingTransfer| fs::symlink_metadata(&way.destination.target).is_err();
        listed.extend(under_way.into_iter().filter(is_new).map(downloading));

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
    fn describe(&self, found: &Found, files: &[io::Result<Metadata>], look: &Look<'_>) -> Option<Model> {
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
        for (path, metadata) in found.group.files.iter().zip(files) {
            let problem = match metadata {
                Err(_) => (Status::Incomplete, missing_target(path)),
                Ok(metadata) => {
                    size_bytes += metadata.len();
                    match self.headers.summary(path, metadata, look) {
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
        let record = self.store.record_of(found, look);
        let link = look.link(found.path());
        let (source, revision) = match (&found.place, &record) {
            (_, Some(record)) => (record.source.clone(), record.revision.clone()),
            (Place::Hub(hub), _) => (format!("hf:{}", hub.repo), Some(hub.revision.clone())),
            _ => (format!("file:{}", found.path().display()), None),
        };
        let sha256 = match (&found.place, record) {
            (_, Some(record)) => record.sha256,
            (Place::Hub(_), None) if found.group.files.len() == 1 => {
                link.as_ref().and_then(hub_cache::sha256_of)
            }
            _ => None,
        };
        let changed = match (&link, &files[0]) {
            (Some(link), _) => Some(link.modified),
            (None, Ok(file)) => file.modified().ok(),
            (None, Err(_)) => None,
        };
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
fn downloading(way: OngoingTransfer) -> Listed {
    let OngoingTransfer { file, destination, done, since } = way;
    let come = match file.size {
        Some(size) => format!("{} of {} are here so far", units::bytes(done), units::bytes(size)),
        None => format!("{} are here so far", units::bytes(done)),
    };
    let model = partly(&file.name, &destination.target, &file.source, done, since, Status::Downloading, come);
    Listed { model, found: found(destination.partial, destination.target) }
}

/// A model whose download ended early.
fn interrupted(partial: PathBuf, target: PathBuf, left: Unfinished) -> Listed {
    let size = left.size.map_or_else(|| "an unknown size".to_owned(), units::bytes);
    let why = format!(
        "its download ended early, with {} of {size} here: ModelDownload goes on with it",
        units::bytes(left.done)
    );
    let model = partly(&left.name, &target, &left.source, left.done, left.changed, Status::Incomplete, why);
    Listed { model, found: found(partial, target) }
}

fn found(partial: PathBuf, target: PathBuf) -> Found {
    Found { group: split::Group { files: vec![target], missing: None }, place: Place::Partial(partial) }
}

/// A model of which only a part is here; `file` is the file's name, with its path in a repository.
fn partly(
    file: &str,
    target: &Path,
    source: &str,
    size_bytes: u64,
    changed: SystemTime,
    status: Status,
    detail: String,
) -> Model {
    Model {
        id: String::new(),
        name: id::sanitize(split::stem(&split::name_of(Path::new(file)))),
        size_bytes,
        path: target.to_owned(),
        // What ModelDownload goes on with: a repository may have many files.
        source: if source.starts_with("hf:") { format!("{source}/{file}") } else { source.to_owned() },
        revision: None,
        format: "gguf".to_owned(),
        architecture: None,
        quantization: None,
        parameter_count: None,
        context_length: None,
        loaded: false,
        status,
        added_at: units::instant(changed),
        sha256: None,
        status_detail: Some(detail),
    }
}

/// Who keeps an id that several would like: the store's own files, whatever else turns up, then the
/// Hub's current revisions, then the first path.
fn precedence(listed: &Listed) -> (u8, &OsStr) {
    let rank = match &listed.found.place {
        Place::Store | Place::Partial(_) => 0,
        Place::Hub(hub) if hub.is_main => 1,
        Place::Hub(_) | Place::Folder => 2,
    };
    (rank, listed.model.path.as_os_str())
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
        Place::Partial(_) => match listed.model.source.strip_prefix("hf:") {
            Some(file) => id::sanitize(file),
            None => listed.model.name.clone(),
        },
        Place::Hub(hub) => match tag(listed, hub) {
            Some(tag) if files_of_tag[&(hub.repo.as_str(), tag.clone())].len() == 1 => {
                id::sanitize(&format!("{}:{tag}", hub.repo))
            }
            _ => id::sanitize(&format!("{}/{}", hub.repo, hub.relative)),
        },
    };
    listed.iter().map(wish).collect()
}
