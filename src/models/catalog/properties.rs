//! Compares the catalog with a simple model of it, over random changes to the files by the user and by
//! jobs.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;

use proptest::prelude::*;

use super::*;
use crate::models::Status;
use crate::models::library::file_name::name_of;
use crate::models::library::record::{RecordedFile, StoreRecord};
use crate::models::testing::{age, catalog, gguf_of, put};

/// One change. Names and folders are few, so that changes collide.
#[derive(Clone, Debug)]
enum Step {
    /// The user puts a file into one of his folders, over the file that may be there.
    Put(UserFile, usize),
    /// The user removes a file.
    Remove(UserFile),
    /// A file of the user loses its end.
    Cut(UserFile),
    /// The user moves a file, over the file that may be there.
    Rename(UserFile, UserFile),
    /// The user puts a file into the store, over the file that may be there.
    PutIntoStore(usize, usize),
    /// A file of the store loses its end.
    CutStored(usize),
    /// A job imports a file.
    Import(UserFile, bool),
    /// A job downloads a file whose name is free.
    Fetch(usize, usize),
    /// A job deletes a model.
    Delete(prop::sample::Index, bool),
    /// So much time passes that a listing can be remembered.
    Settle,
    /// The hive restarts.
    Restart,
}

/// A file of the user: indexes of its folder and its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct UserFile(usize, usize);

const STEMS: [&str; 3] = ["a", "b", "c"];
const FOLDERS: [&str; 2] = ["one", "two"];

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Contents {
    size: u64,
    is_sound: bool,
}

/// A file or link in the store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stored {
    Link(UserFile),
    File(Contents),
}

/// The record of a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Recorded {
    Link(UserFile),
    File(u64),
}

/// The simple model: the files and records that exist.
#[derive(Debug, Default)]
struct SimpleModel {
    files: BTreeMap<UserFile, Contents>,
    store: BTreeMap<usize, Stored>,
    records: BTreeMap<usize, Recorded>,
}

impl SimpleModel {
    /// Whether the file with that name is the one that the hive put there.
    fn is_owned(&self, stem: usize) -> bool {
        match (self.store.get(&stem), self.records.get(&stem)) {
            (Some(Stored::Link(user)), Some(Recorded::Link(recorded))) => user == recorded,
            // A file of the same length cannot be told from the recorded one.
            (Some(Stored::File(contents)), Some(Recorded::File(size))) => contents.size == *size,
            _ => false,
        }
    }
}

/// A model as the catalog must list it.
#[derive(Debug, PartialEq, Eq)]
struct Expected {
    path: PathBuf,
    stem: &'static str,
    /// Where its file is, after a link.
    place: PathBuf,
    status: Status,
    size: u64,
    /// The bytes that deleting it frees, without and with force; `None` where it is refused.
    freed: [Option<u64>; 2],
    file: ListedFile,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum ListedFile {
    InStore(usize),
    InUserFolder(UserFile),
}

struct World {
    root: PathBuf,
    simple: SimpleModel,
    /// By place: the ids of the last listing.
    ids: BTreeMap<PathBuf, String>,
    /// The places of all files so far.
    seen: BTreeSet<PathBuf>,
}

fn contents(size: usize) -> (Vec<u8>, Contents) {
    let bytes = gguf_of(256 + 64 * size);
    let size = bytes.len() as u64;
    (bytes, Contents { size, is_sound: true })
}

impl Contents {
    fn cut(self) -> Self {
        Self { size: self.size / 2, is_sound: false }
    }

    fn status(self) -> Status {
        if self.is_sound { Status::Available } else { Status::Incomplete }
    }
}

impl World {
    fn user(&self, UserFile(folder, stem): UserFile) -> PathBuf {
        self.root.join("models").join(FOLDERS[folder]).join(STEMS[stem]).with_extension("gguf")
    }

    fn stored(&self, stem: usize) -> PathBuf {
        self.root.join("data/models").join(STEMS[stem]).with_extension("gguf")
    }

    /// Replaces the file with that name, without following a link.
    fn replace(&self, path: &Path, bytes: &[u8]) {
        let draft = self.root.join("draft");
        put(&draft, bytes);
        fs::rename(draft, path).unwrap();
    }

    async fn step(&mut self, catalog: &mut Catalog, step: Step) {
        match step {
            Step::Put(user, size) => {
                let (bytes, contents) = contents(size);
                put(&self.user(user), &bytes);
                self.simple.files.insert(user, contents);
            }
            Step::Remove(user) => {
                if self.simple.files.remove(&user).is_some() {
                    fs::remove_file(self.user(user)).unwrap();
                }
            }
            Step::Cut(user) => {
                let path = self.user(user);
                if let Some(contents) = self.simple.files.get_mut(&user) {
                    *contents = contents.cut();
                    fs::File::options().write(true).open(path).unwrap().set_len(contents.size).unwrap();
                }
            }
            Step::Rename(from, to) => {
                if let Some(contents) = self.simple.files.remove(&from) {
                    fs::create_dir_all(self.user(to).parent().unwrap()).unwrap();
                    fs::rename(self.user(from), self.user(to)).unwrap();
                    self.simple.files.insert(to, contents);
                }
            }
            Step::PutIntoStore(stem, size) => {
                let (bytes, contents) = contents(size);
                self.replace(&self.stored(stem), &bytes);
                self.simple.store.insert(stem, Stored::File(contents));
            }
            Step::CutStored(stem) => {
                let path = self.stored(stem);
                if let Some(Stored::File(contents)) = self.simple.store.get(&stem).copied() {
                    let contents = contents.cut();
                    fs::File::options().write(true).open(path).unwrap().set_len(contents.size).unwrap();
                    self.simple.store.insert(stem, Stored::File(contents));
                }
            }
            Step::Import(user, force) => self.import(catalog, user, force).await,
            Step::Fetch(stem, size) => self.fetch(catalog, stem, size),
            Step::Delete(which, force) => self.delete(catalog, which, force).await,
            Step::Settle => {
                for entry in walkdir::WalkDir::new(&self.root).into_iter().filter_map(Result::ok) {
                    if !entry.path_is_symlink() {
                        age(entry.path());
                    }
                }
                self.compare(catalog).await;
                let listings = [catalog.scan().await.unwrap(), catalog.scan().await.unwrap()];
                assert!(Arc::ptr_eq(&listings[0], &listings[1]), "the listing is remembered");
            }
            Step::Restart => *catalog = crate::models::testing::catalog(&self.root),
        }
    }

    async fn import(&mut self, catalog: &Catalog, user: UserFile, force: bool) {
        let stem = user.1;
        let expected = match (self.simple.files.get(&user), self.simple.store.get(&stem)) {
            (None, _) => Err(Code::SourceNotFound),
            (Some(contents), _) if !contents.is_sound => Err(Code::ModelIncomplete),
            (Some(_), None) => Ok(()),
            (Some(_), Some(Stored::Link(known))) if *known == user => Ok(()),
            (Some(_), Some(_)) if force && self.simple.is_owned(stem) => Ok(()),
            (Some(_), Some(_)) => Err(Code::ModelExists),
        };
        let imported = catalog.import(&self.user(user), force).await;
        assert_eq!(imported.as_ref().map(drop).map_err(|failure| failure.code), expected);
        if let Ok(model) = imported {
            assert_eq!(model.path, self.stored(stem));
            assert_eq!(fs::read_link(&model.path).unwrap(), self.user(user), "a link and never a copy");
            self.simple.store.insert(stem, Stored::Link(user));
            self.simple.records.insert(stem, Recorded::Link(user));
        }
    }

    /// Does what the last steps of a download do.
    fn fetch(&mut self, catalog: &Catalog, stem: usize, size: usize) {
        if self.simple.store.contains_key(&stem) {
            return;
        }
        let (bytes, contents) = contents(size);
        let path = self.stored(stem);
        let file = RecordedFile::new(name_of(&path), contents.size, None);
        let record = StoreRecord::new("https://host/x.gguf".into(), vec![file]);
        catalog.places.library.store().write_record(&record).unwrap();
        self.replace(&path, &bytes);
        self.simple.store.insert(stem, Stored::File(contents));
        self.simple.records.insert(stem, Recorded::File(contents.size));
    }

    async fn delete(&mut self, catalog: &Catalog, which: prop::sample::Index, force: bool) {
        let models = catalog.list().await.unwrap();
        if models.is_empty() {
            return;
        }
        let model = which.get(&models);
        let expected = self.expected().into_iter().find(|expected| expected.path == model.path).unwrap();
        let deleted = catalog.delete(model, force).await;
        match expected.freed[usize::from(force)] {
            None => assert_eq!(deleted.unwrap_err().code, Code::NotOwned),
            Some(freed) => {
                assert_eq!(deleted.unwrap(), freed, "{expected:?}");
                match expected.file {
                    ListedFile::InStore(stem) => {
                        self.simple.store.remove(&stem);
                        self.simple.records.remove(&stem);
                    }
                    ListedFile::InUserFolder(user) => drop(self.simple.files.remove(&user)),
                }
            }
        }
    }

    /// The models that must be listed.
    fn expected(&self) -> Vec<Expected> {
        let mut expected = Vec::new();
        for (&stem, stored) in &self.simple.store {
            let (contents, freed, place) = match stored {
                Stored::Link(user) => (self.simple.files.get(user).copied(), 0, self.user(*user)),
                Stored::File(contents) => (Some(*contents), contents.size, self.stored(stem)),
            };
            expected.push(Expected {
                path: self.stored(stem),
                stem: STEMS[stem],
                place,
                status: contents.map_or(Status::Incomplete, Contents::status),
                size: contents.map_or(0, |contents| contents.size),
                freed: [Some(freed).filter(|_| self.simple.is_owned(stem)), Some(freed)],
                file: ListedFile::InStore(stem),
            });
        }
        for (&user, contents) in &self.simple.files {
            if self.simple.store.values().any(|stored| *stored == Stored::Link(user)) {
                continue;
            }
            let stem = STEMS[user.1];
            expected.push(Expected {
                path: self.user(user),
                stem,
                place: self.user(user),
                status: contents.status(),
                size: contents.size,
                freed: [None, Some(contents.size)],
                file: ListedFile::InUserFolder(user),
            });
        }
        expected
    }

    async fn compare(&mut self, catalog: &Catalog) {
        let models = catalog.list().await.unwrap();
        let expected = self.expected();
        assert_eq!(models.len(), expected.len(), "{models:#?}\n{expected:#?}");
        let known = std::mem::take(&mut self.ids);
        for expected in expected {
            let model = models.iter().find(|model| model.path == expected.path).expect("a model");
            assert_eq!((model.status, model.size_bytes), (expected.status, expected.size), "{model:?}");
            assert_eq!(model.name, expected.stem);
            let digits = model.id.strip_prefix(expected.stem).and_then(|id| id.strip_prefix('~'));
            let in_folder = format!("{}/{}", name_of(expected.place.parent().unwrap()), expected.stem);
            assert!(
                model.id == expected.stem || model.id == in_folder || digits.is_some_and(|it| it.len() == 8),
                "{}",
                model.id
            );
            if let Some(id) = known.get(&expected.place) {
                assert_eq!(model.id, *id, "a model keeps its id");
            } else if self.seen.insert(expected.place.clone()) {
                let is_taken = models.iter().any(|model| model.id == expected.stem);
                assert!(is_taken, "a newcomer gets the plain id unless another has it: {models:#?}");
            }
            self.ids.insert(expected.place, model.id.clone());
            assert_eq!(catalog.find(&model.id).await.unwrap().path, model.path);
        }
        let mut ids: Vec<_> = models.iter().map(|model| &model.id).collect();
        ids.dedup();
        assert_eq!(ids.len(), models.len(), "ids are unique, and sorted");
        // Every file of the store is a model or the record of one.
        for entry in fs::read_dir(self.root.join("data/models")).unwrap() {
            let name = entry.unwrap().file_name().into_string().unwrap();
            let stem = name.strip_suffix(".gguf.json").or_else(|| name.strip_suffix(".gguf"));
            let known = stem.and_then(|stem| STEMS.iter().position(|known| *known == stem));
            assert!(known.is_some_and(|stem| self.simple.store.contains_key(&stem)), "{name} is an orphan");
        }
    }
}

fn users() -> impl Strategy<Value = UserFile> {
    (0..FOLDERS.len(), 0..STEMS.len()).prop_map(|(folder, stem)| UserFile(folder, stem))
}

fn steps() -> impl Strategy<Value = Step> {
    let (stem, size) = (0..STEMS.len(), 0..3usize);
    prop_oneof![
        4 => (users(), size.clone()).prop_map(|(user, size)| Step::Put(user, size)),
        1 => users().prop_map(Step::Remove),
        1 => users().prop_map(Step::Cut),
        2 => (users(), users()).prop_map(|(from, to)| Step::Rename(from, to)),
        1 => (stem.clone(), size.clone()).prop_map(|(stem, size)| Step::PutIntoStore(stem, size)),
        1 => stem.clone().prop_map(Step::CutStored),
        4 => (users(), any::<bool>()).prop_map(|(user, force)| Step::Import(user, force)),
        2 => (stem, size).prop_map(|(stem, size)| Step::Fetch(stem, size)),
        3 => (any::<prop::sample::Index>(), any::<bool>()).prop_map(|(which, force)| Step::Delete(which, force)),
        4 => Just(Step::Settle),
        1 => Just(Step::Restart),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn the_catalog_agrees_with_the_simple_model_after_every_change(
        steps in prop::collection::vec(steps(), 1..40),
    ) {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().canonicalize().unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let mut catalog = catalog(&root);
            let mut world = World {
                root,
                simple: SimpleModel::default(),
                ids: BTreeMap::new(),
                seen: BTreeSet::new(),
            };
            for step in steps {
                world.step(&mut catalog, step).await;
                world.compare(&catalog).await;
            }
        });
    }
}
