//! One listing: the models that the disk has at this moment.
//!
//! Three locations are scanned: the store, the Hugging Face cache and the user's folders. A file that
//! is reached by several paths is listed once, in that order of precedence. A folder that cannot be
//! read, or a damaged file, never makes a listing fail.

use std::collections::{HashMap, HashSet};
use std::fs::{self, Metadata};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use crate::models::id;
use crate::models::library::companions::{Surroundings, are_one_model, projector_of};
use crate::models::library::file_name::name_of;
use crate::models::library::folders::FolderCache;
use crate::models::library::headers::{FileKind, FileProblem, HeaderCache, HeaderSummary};
use crate::models::library::hub_cache::HubCache;
use crate::models::library::hub_cache::layout::sha256_of;
use crate::models::library::location::{ModelLocation, OllamaModel, PartialModel, ScannedModel, file_source};
use crate::models::library::ollama_store;
use crate::models::library::probe::{DiskProbe, is_gone};
use crate::models::library::split::{ModelFiles, group_by_model, stem};
use crate::models::library::stamp::Stamp;
use crate::models::library::store::Store;
use crate::models::library::walk::{LinkPolicy, gguf_files};
use crate::models::model::{Model, Status};
use crate::models::needs::{EngineSupport, Needs};
use crate::models::transfer::remote::ModelFile;
use crate::models::transfer::transfers::OngoingTransfer;
use crate::text;
use crate::time::Instant;

/// The locations that a listing scans.
#[derive(Debug)]
pub(crate) struct Locations {
    pub(crate) store: Store,
    pub(crate) hub_cache: HubCache,
    /// The folders that the user named with `--models-dir`.
    pub(crate) user_folders: Vec<PathBuf>,
}

/// A model, and the files that it consists of.
#[derive(Debug)]
pub(crate) struct ListedModel {
    /// Its id is empty until [`Ids`](crate::models::library::ids::Ids) gives it one.
    pub(crate) model: Model,
    pub(crate) scanned: ScannedModel,
    /// Where the first file really is, which tells the model from every other.
    pub(crate) place: PathBuf,
}

/// Every model, without its id. Blocks on the disk.
pub(crate) fn list(
    locations: &Locations,
    ongoing: &[OngoingTransfer],
    headers: &HeaderCache,
    probe: &DiskProbe<'_>,
) -> Vec<ListedModel> {
    // Decided before the scan: a transfer that ends meanwhile is listed in one way or the other.
    let is_new = |transfer: &&OngoingTransfer| fs::symlink_metadata(&transfer.destination.target).is_err();
    let new: Vec<_> = ongoing.iter().filter(is_new).collect();
    let mut identities = HashSet::new();
    let mut listed: Vec<ListedModel> = Vec::new();
    let mut projectors = Vec::new();
    // As the places are.
    let store = probe.canonical(locations.store.dir()).unwrap_or_else(|| locations.store.dir().to_owned());
    for scanned in locations.scan(probe) {
        // The metadata of each file is read once.
        let files: Vec<_> = scanned.files.paths.iter().map(|path| probe.metadata(path)).collect();
        // A broken link has no identity, and is listed.
        let identity = files[0].as_ref().map(|metadata| Stamp::of(metadata).identity());
        let is_new = identity.map_or(true, |identity| identities.insert(identity));
        let description = Description { locations, headers, probe };
        match description.describe(&scanned, &files) {
            Described::Model(model) if is_new => {
                let place = probe.place(scanned.path());
                listed.push(ListedModel { model: *model, scanned, place });
            }
            Described::Projector => {
                let place = probe.place(scanned.path());
                // A projector in the store belongs to the model whose record names it.
                if place.parent() != Some(&*store) {
                    projectors.push(Beside::of(&scanned, &place));
                }
            }
            Described::Model(_) | Described::Other => {}
        }
    }
    give_projectors(&mut listed, &projectors);
    let is_interrupted =
        |model: &PartialModel| !ongoing.iter().any(|transfer| transfer.destination.partial == model.partial);
    let partials = locations.store.partials(probe).into_iter().chain(locations.hub_cache.partials(probe));
    let interrupted = partials.filter(is_interrupted).map(Unfinished::interrupted);
    list_unfinished(&mut listed, interrupted.chain(new.into_iter().map(Unfinished::downloading)), probe);
    listed
}

impl Locations {
    /// Whether a file at that place, a canonical path, would be listed, or may be: a folder that cannot be
    /// looked at may have it. Blocks on the disk.
    pub(crate) fn may_contain(&self, place: &Path, cache: &FolderCache) -> bool {
        let may_have = |folder: &Path| {
            cache.look_at(folder);
            match folder.canonicalize() {
                Ok(folder) => place.starts_with(folder),
                Err(error) => !is_gone(&error),
            }
        };
        let folders = [self.store.dir(), &self.hub_cache.dir].into_iter();
        folders.chain(self.user_folders.iter().map(PathBuf::as_path)).any(may_have)
    }

    fn scan(&self, probe: &DiskProbe<'_>) -> Vec<ScannedModel> {
        let mut models = self.store.scan(probe);
        models.extend(self.hub_cache.scan(probe));
        let in_user_folder = |files| ScannedModel { files, location: ModelLocation::UserFolder };
        for folder in &self.user_folders {
            models.extend(ollama_store::models(folder, probe).unwrap_or_default());
            let files = gguf_files(folder, LinkPolicy::Follow, probe);
            models.extend(group_by_model(files).into_iter().map(in_user_folder));
        }
        models
    }
}

/// Describes the models of one listing.
struct Description<'a> {
    locations: &'a Locations,
    headers: &'a HeaderCache,
    probe: &'a DiskProbe<'a>,
}

/// What the headers of a model's files say.
#[derive(Default)]
struct HeaderFacts {
    size_bytes: u64,
    parameter_count: Option<u64>,
    /// Of the first file whose header could be read.
    summary: Option<Arc<HeaderSummary>>,
    /// Of that file, with the types of tensors of all of them.
    needs: Option<Needs>,
    /// The problem that the model has.
    problem: Option<FileProblem>,
}

impl HeaderFacts {
    /// Notes a problem. The first one counts, but what is only unknown gives way to any other.
    fn note(&mut self, problem: FileProblem) {
        if self.problem.as_ref().is_none_or(|noted| noted.status == Status::Unknown) {
            self.problem = Some(problem);
        }
    }
}

/// What some files are.
enum Described {
    Model(Box<Model>),
    Projector,
    /// Something else that belongs to a model.
    Other,
}

/// A file, and the folder or repository whose files are put together with it.
struct Beside {
    folder: PathBuf,
    is_repository: bool,
    /// The file's name; in a repository its path there.
    name: String,
    path: PathBuf,
}

impl Beside {
    fn of(scanned: &ScannedModel, place: &Path) -> Self {
        let path = scanned.path().to_owned();
        match &scanned.location {
            ModelLocation::HubCache(hub) => {
                let folder = hub.folder.join("snapshots").join(&hub.revision);
                Self { folder, is_repository: true, name: hub.relative.clone(), path }
            }
            _ => {
                let folder = place.parent().unwrap_or(Path::new("/")).to_owned();
                Self { folder, is_repository: false, name: name_of(place), path }
            }
        }
    }
}

/// Gives each model the projector beside it that is its own.
fn give_projectors(listed: &mut [ListedModel], projectors: &[Beside]) {
    let mut by_folder: HashMap<&Path, Vec<&Beside>> = HashMap::new();
    for projector in projectors {
        by_folder.entry(&projector.folder).or_default().push(projector);
    }
    let mut models: HashMap<PathBuf, Vec<(usize, Beside)>> = HashMap::new();
    for (index, listed) in listed.iter().enumerate() {
        let beside = Beside::of(&listed.scanned, &listed.place);
        if by_folder.contains_key(&*beside.folder) {
            models.entry(beside.folder.clone()).or_default().push((index, beside));
        }
    }
    for (folder, models) in &models {
        let (projectors, has_one_model) =
            (&by_folder[&**folder], are_one_model(models.iter().map(|(_, beside)| &*beside.name)));
        for (index, model) in models {
            let around = Surroundings { has_one_model, is_repository: model.is_repository };
            let names = projectors.iter().map(|projector| &*projector.name);
            let own = projector_of(&model.name, names, around);
            let own = own.and_then(|own| projectors.iter().find(|projector| projector.name == own));
            let known = &mut listed[*index].model.projector;
            if let Some(own) = own.filter(|_| known.is_none()) {
                *known = Some(own.path.clone());
            }
        }
    }
}

impl Description<'_> {
    /// The model of these files, without its id, or what else they are.
    fn describe(&self, scanned: &ScannedModel, files: &[io::Result<Metadata>]) -> Described {
        let facts = match self.read_headers(scanned, files) {
            Ok(facts) => facts,
            Err(FileKind::Projector) => return Described::Projector,
            Err(_) => return Described::Other,
        };
        let (status, status_detail) = match missing_parts(&scanned.files).or(facts.problem) {
            None => (Status::Available, None),
            Some(FileProblem { status, detail }) => (status, Some(detail)),
        };
        let record = self.locations.store.record_of(scanned, self.probe);
        let link = self.probe.link(scanned.path());
        let (source, revision) = match (&scanned.location, &record) {
            (_, Some(record)) => (record.source.clone(), record.revision.clone()),
            (ModelLocation::HubCache(hub), _) => (format!("hf:{}", hub.repo), Some(hub.revision.clone())),
            (ModelLocation::OllamaStore(ollama), _) if !ollama.is_elsewhere() => {
                (format!("ollama:{}", ollama.name), None)
            }
            _ => (file_source(scanned.path()), None),
        };
        let projector = record.as_ref().and_then(|record| record.projector.as_ref());
        let projector = projector.map(|file| (file, self.locations.store.path(&file.name)));
        // Another file in its place is not the model's, and is not deleted with it.
        let projector = projector
            .filter(|(file, path)| self.probe.metadata(path).is_ok() && file.matches(path, self.probe))
            .map(|(_, path)| path);
        let left_out = record.as_ref().map(|record| record.left_out.clone()).unwrap_or_default();
        let in_ollama = match &scanned.location {
            ModelLocation::OllamaStore(ollama) => Some(ollama),
            _ => None,
        };
        let of_ollama = in_ollama.and_then(|ollama| ollama.projector.clone());
        let projector = projector.or(of_ollama.filter(|path| self.probe.metadata(path).is_ok()));
        let left_out = in_ollama.map_or(left_out, |ollama| ollama.left_out.clone());
        let file_name = in_ollama.map_or_else(|| scanned.file_name(), OllamaModel::file_name);
        let sha256 = match (&scanned.location, record) {
            (_, Some(record)) => record.sha256,
            (ModelLocation::OllamaStore(ollama), None) => ollama.sha256.clone(),
            (ModelLocation::HubCache(_), None) if scanned.files.paths.len() == 1 => {
                link.as_ref().and_then(sha256_of)
            }
            _ => None,
        };
        let changed = match (&link, &files[0]) {
            (Some(link), _) => Some(link.modified),
            (None, Ok(metadata)) => metadata.modified().ok(),
            (None, Err(_)) => None,
        };
        let summary = facts.summary.as_deref();
        Described::Model(Box::new(Model {
            id: String::new(),
            name: id::sanitize(stem(&file_name)),
            size_bytes: facts.size_bytes,
            path: scanned.path().to_owned(),
            source,
            revision,
            format: "gguf".to_owned(),
            architecture: summary.and_then(|summary| summary.architecture.clone()),
            quantization: summary.and_then(|summary| summary.quantization.clone()),
            parameter_count: facts.parameter_count,
            context_length: summary.and_then(|summary| summary.context_length),
            sampling: summary.and_then(|summary| summary.sampling),
            traits: summary.map(|summary| summary.traits),
            needs: facts.needs,
            support: EngineSupport::default(),
            capabilities: None,
            loaded: false,
            status,
            added_at: Instant::from(changed.unwrap_or(UNIX_EPOCH)).to_string(),
            sha256,
            projector,
            left_out,
            status_detail,
        }))
    }

    /// What the headers say, or what the files are where they are not a model.
    fn read_headers(
        &self,
        scanned: &ScannedModel,
        files: &[io::Result<Metadata>],
    ) -> Result<HeaderFacts, FileKind> {
        let mut facts = HeaderFacts::default();
        for (path, metadata) in scanned.files.paths.iter().zip(files) {
            let problem = match metadata {
                Err(error) => Some(inaccessible(path, error)),
                Ok(metadata) => {
                    facts.size_bytes += metadata.len();
                    match self.headers.summary(path, metadata, self.probe) {
                        Ok(summary) if summary.kind != FileKind::Model => return Err(summary.kind),
                        Ok(summary) => {
                            *facts.parameter_count.get_or_insert(0) += summary.parameter_count;
                            let unknown = summary.unknown.clone();
                            let needs = facts.needs.get_or_insert_with(|| summary.needs.clone());
                            summary.needs.tensor_types.iter().for_each(|kind| needs.add_type(*kind));
                            facts.summary.get_or_insert(summary);
                            unknown.map(|detail| FileProblem { status: Status::Unknown, detail })
                        }
                        Err(problem) => Some(FileProblem::clone(&problem)),
                    }
                }
            };
            if let Some(mut problem) = problem {
                if files.len() > 1 {
                    problem.detail = format!("{}: {}", name_of(path), problem.detail);
                }
                facts.note(problem);
            }
        }
        Ok(facts)
    }
}

fn missing_parts(files: &ModelFiles) -> Option<FileProblem> {
    let (name, count) = files.missing.as_ref()?;
    let detail = match count {
        1 => format!("its part {name} is missing"),
        _ => format!("{count} of its parts are missing, the first is {name}"),
    };
    Some(FileProblem { status: Status::Incomplete, detail })
}

/// The problem of a file whose metadata could not be read.
fn inaccessible(path: &Path, error: &io::Error) -> FileProblem {
    if error.kind() != io::ErrorKind::NotFound {
        let detail = format!("the file could not be read: {error}");
        return FileProblem { status: Status::Unreadable, detail };
    }
    let detail = match fs::read_link(path) {
        Ok(target) => format!("the file that it links to is gone: {}", target.display()),
        Err(_) => "its file is gone".to_owned(),
    };
    FileProblem { status: Status::Incomplete, detail }
}

/// Lists partly downloaded models. What is only here of a companion stands for its model, or is told there
/// where that is listed already.
fn list_unfinished(
    listed: &mut Vec<ListedModel>,
    unfinished: impl Iterator<Item = Unfinished>,
    probe: &DiskProbe<'_>,
) {
    let (companions, models): (Vec<_>, Vec<_>) = unfinished.partition(|one| one.companion_of.is_some());
    let paths: HashSet<_> = listed.iter().map(|listed| listed.model.path.clone()).collect();
    let is_unlisted = |one: &Unfinished| !paths.contains(&one.target);
    listed.extend(models.into_iter().filter(is_unlisted).map(|one| one.listed(probe)));
    for companion in companions {
        let file = name_of(Path::new(&companion.file));
        let model = companion.listed(probe);
        match listed.iter_mut().find(|listed| listed.place == model.place) {
            Some(listed) => listed.model.left_out.push(format!("{file}, until its download has ended")),
            None => listed.push(model),
        }
    }
}

/// A partly downloaded model, or companion of a model.
struct Unfinished {
    status: Status,
    /// The file's name; for a file of the Hub, its path in the repository.
    file: String,
    companion_of: Option<ModelFile>,
    source: String,
    partial: PathBuf,
    target: PathBuf,
    /// Bytes of the file that are here.
    done: u64,
    /// Its size in bytes.
    size: Option<u64>,
    changed: SystemTime,
}

impl Unfinished {
    /// What a job is downloading.
    fn downloading(transfer: &OngoingTransfer) -> Self {
        let OngoingTransfer { file, destination, done, since } = transfer;
        Self {
            status: Status::Downloading,
            file: file.name.clone(),
            companion_of: file.companion_of.clone(),
            source: file.source.clone(),
            partial: destination.partial.clone(),
            target: destination.target.clone(),
            done: *done,
            size: file.size,
            changed: *since,
        }
    }

    /// What an interrupted download has left.
    fn interrupted(model: PartialModel) -> Self {
        let PartialModel { partial, target, unfinished } = model;
        let (head, done, changed) = (unfinished.head, unfinished.done, unfinished.changed);
        Self {
            status: Status::Incomplete,
            file: head.name,
            companion_of: head.companion_of,
            source: head.source,
            partial,
            target,
            done,
            size: head.size,
            changed,
        }
    }

    fn detail(&self) -> String {
        let done = text::bytes(self.done);
        let of = self.companion_of.as_ref().map(|_| format!(" of {}", name_of(Path::new(&self.file))));
        let of = of.unwrap_or_default();
        match (self.status, self.size) {
            (Status::Downloading, Some(size)) => format!("{done} of {}{of} are here", text::bytes(size)),
            (Status::Downloading, None) => format!("{done}{of} are here"),
            (_, size) => {
                let size = size.map_or_else(|| "an unknown size".to_owned(), text::bytes);
                format!(
                    "its download was interrupted with {done} of {size}{of} here: ModelDownload resumes it"
                )
            }
        }
    }

    fn listed(self, probe: &DiskProbe<'_>) -> ListedModel {
        let detail = self.detail();
        let Self { status, file, companion_of, source, partial, target, done, changed, .. } = self;
        let (file, target, size_bytes) = match companion_of {
            None => (file, target, done),
            Some(model) => {
                let target = model.beside(&target);
                let size = probe.metadata(&target).map_or(0, |metadata| metadata.len());
                (model.name, target, size)
            }
        };
        let model = Model {
            id: String::new(),
            name: id::sanitize(stem(&name_of(Path::new(&file)))),
            size_bytes,
            path: target.clone(),
            // The text with which ModelDownload resumes it: a repository may have many files.
            source: if source.starts_with("hf:") { format!("{source}/{file}") } else { source },
            revision: None,
            format: "gguf".to_owned(),
            architecture: None,
            quantization: None,
            parameter_count: None,
            context_length: None,
            sampling: None,
            traits: None,
            needs: None,
            support: EngineSupport::default(),
            capabilities: None,
            loaded: false,
            status,
            added_at: Instant::from(changed).to_string(),
            sha256: None,
            projector: None,
            left_out: Vec::new(),
            status_detail: Some(detail),
        };
        let place = probe.place(&target);
        let files = ModelFiles { paths: vec![target], missing: None };
        ListedModel {
            model,
            scanned: ScannedModel { files, location: ModelLocation::Partial(partial) },
            place,
        }
    }
}
