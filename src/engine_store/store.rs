//! The store.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use jiff::Timestamp;
use parking_lot::Mutex;
use serde_json::Map;

use super::records::{Contents, Records};
use super::{Build, BuildDraft, EngineId, FailedBuild, Installed, Provenance, folder};
use crate::error::{Code, Failure, Result};
use crate::{disk, files};

/// The name of the file in a failed build that has its log.
const LOG: &str = "install.log";
/// How long what an install has left to go on with is kept for another try.
const KEPT: Duration = Duration::from_secs(7 * 24 * 3600);

/// The engines that the hive installed. Clones share them. Its functions read and write the disk: call them on the
/// blocking pool.
#[derive(Clone, Debug)]
pub struct EngineStore(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    folder: PathBuf,
    /// Locked while the file is written, and never while a folder is.
    records: Mutex<Records>,
    /// Held while a build has its place and not yet its name, and while unnamed folders are removed.
    placing: Mutex<()>,
}

/// Why a build does not get used.
#[derive(Clone, Debug)]
pub struct Trouble {
    /// The version of the build.
    pub version: String,
    /// Where it comes from.
    pub from: Provenance,
    /// Why, for people.
    pub reason: String,
    /// What it printed.
    pub log: Vec<String>,
}

impl EngineStore {
    /// Opens the store in that folder, which need not exist, and removes the drafts that a kill left behind.
    #[must_use]
    pub fn open(folder: PathBuf) -> Self {
        let records = Mutex::new(Records::read(&folder.join("engines.json")));
        let store = Self(Arc::new(Inner { folder, records, placing: Mutex::default() }));
        files::remove_draft(&store.file());
        for draft in folder::entries(&store.drafts()) {
            store.remove_folder(&draft);
        }
        store
    }

    /// Where archives are fetched to.
    #[must_use]
    pub fn downloads(&self) -> PathBuf {
        self.0.folder.join("downloads")
    }

    /// What builds from source keep for the next one.
    #[must_use]
    pub fn sources(&self) -> PathBuf {
        self.0.folder.join("sources")
    }

    /// The folder of the store.
    #[must_use]
    pub fn folder(&self) -> &Path {
        &self.0.folder
    }

    /// The folder of a build.
    #[must_use]
    pub fn folder_of(&self, build: &Build) -> PathBuf {
        let program = build.program.strip_prefix(&self.0.folder).unwrap_or(&build.program);
        self.0.folder.join(program.components().take(2).collect::<PathBuf>())
    }

    /// Every installed engine, in the order of [`EngineId::ALL`].
    #[must_use]
    pub fn installed(&self) -> Vec<Installed> {
        EngineId::ALL.iter().filter_map(|id| self.get(*id)).collect()
    }

    /// The installed engine of that id.
    #[must_use]
    pub fn get(&self, id: EngineId) -> Option<Installed> {
        let records = self.0.records.lock();
        let record = records.contents()?.engines().find(|record| record.id == id)?;
        Some(record.installed(&self.0.folder))
    }

    /// The builds that failed: at most one of each engine.
    #[must_use]
    pub fn failures(&self) -> Vec<FailedBuild> {
        let records = self.0.records.lock();
        let failures = records.contents().into_iter().flat_map(|contents| &contents.failures);
        failures.map(|failed| self.absolute(failed)).collect()
    }

    /// A folder to make a build in.
    ///
    /// # Errors
    /// The file system failed, or the records are not for this version to change.
    pub fn draft(&self, id: EngineId) -> Result<BuildDraft> {
        self.0.records.lock().contents_mut()?;
        let drafts = self.drafts();
        BuildDraft::new(&drafts, &format!("{id}-{}", uuid::Uuid::now_v7()))
            .map_err(|error| Failure::io("make a folder in", &drafts, &error))
    }

    /// Makes what is in a draft the current version of its engine. The version that was current becomes the previous
    /// one, unless its program is gone, and the one before that is not kept. `build` has its program within the draft.
    ///
    /// # Errors
    /// The file system failed; the draft is removed, and the engine is as before.
    pub fn promote(&self, draft: BuildDraft, id: EngineId, mut build: Build) -> Result<Installed> {
        let program = build.program.strip_prefix(draft.path());
        let program = program.map_err(|_| Failure::internal("a build's program is outside its folder"))?;
        let place = self.free_place(&id.to_string(), &build.version);
        build.program = place.join(program);
        build.size_bytes = folder::bytes(draft.path());
        let is_whole = self.get(id).is_some_and(|installed| installed.current.program.exists());
        self.place(draft, &place, |contents| {
            contents.promote(id, build, is_whole);
            contents.failures.retain(|failed| failed.id != id);
            Ok(())
        })?;
        self.get(id).ok_or_else(|| Failure::internal("the engine is gone that was just installed"))
    }

    /// Makes the previous version of an engine the current one, and the other way round.
    ///
    /// # Errors
    /// [`Code::EngineNotFound`]: there is none; or the file system failed.
    pub fn roll_back(&self, id: EngineId) -> Result<Installed> {
        self.change(|contents| {
            let record = contents.engine_mut(id).ok_or_else(|| not_found(id, None))?;
            let previous = record.previous.take().ok_or_else(|| {
                Failure::new(Code::EngineNotFound, format!("there is no version of {id} to go back to"))
                    .hint("WorkerInstall with a version installs that one")
            })?;
            record.previous = Some(std::mem::replace(&mut record.current, previous));
            record.used_ms = 0;
            Ok(record.installed(&self.0.folder))
        })
    }

    /// Keeps a build that failed aside, with its log. What had failed of that engine before goes.
    ///
    /// # Errors
    /// The file system failed; the draft is removed.
    pub fn set_aside(&self, draft: BuildDraft, id: EngineId, trouble: Trouble) -> Result<FailedBuild> {
        let place = self.free_place(&format!("failed/{id}"), &trouble.version);
        let log = draft.path().join(LOG);
        files::put(&log, trouble.log.join("\n").as_bytes())
            .map_err(|error| Failure::io("write", &log, &error))?;
        let failed = FailedBuild {
            id,
            version: trouble.version,
            from: trouble.from,
            failed_at: Timestamp::now(),
            reason: trouble.reason,
            log: place.join(LOG),
            unknown: Map::new(),
        };
        let added = failed.clone();
        let (before, ()) = self.place(draft, &place, |contents| {
            contents.failures.retain(|failed| failed.id != id);
            contents.failures.push(added);
            Ok(())
        })?;
        self.remove_unnamed(before);
        Ok(self.absolute(&failed))
    }

    /// Removes an engine, or one version of it, and what failed of it. Where that was the current version, the
    /// previous one is the current one again. Returns the bytes that this frees.
    ///
    /// # Errors
    /// [`Code::EngineNotFound`]: it is not installed; or the file system failed.
    pub fn remove(&self, id: EngineId, version: Option<&str>) -> Result<u64> {
        let before = self.folders();
        self.change(|contents| {
            let goes = |its: &str| version.is_none_or(|version| version == its);
            let failures = contents.failures.len();
            contents.failures.retain(|failed| failed.id != id || !goes(&failed.version));
            let is_found = contents.failures.len() < failures;
            match contents.engine_mut(id) {
                Some(record) if record.previous.as_ref().is_some_and(|build| goes(&build.version)) => {
                    record.previous = None;
                    if goes(&record.current.version) {
                        contents.forget(id);
                    }
                }
                Some(record) if goes(&record.current.version) => match record.previous.take() {
                    Some(previous) => {
                        record.current = previous;
                        record.used_ms = 0;
                    }
                    None => contents.forget(id),
                },
                _ if is_found => {}
                _ => return Err(not_found(id, version)),
            }
            Ok(())
        })?;
        Ok(self.remove_unnamed(before))
    }

    /// Counts that the current version of an engine was used for so long.
    ///
    /// # Errors
    /// The file system failed.
    pub fn note_use(&self, id: EngineId, time: Duration) -> Result<()> {
        self.change(|contents| {
            if let Some(record) = contents.engine_mut(id) {
                let time = u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
                record.used_ms = record.used_ms.saturating_add(time);
            }
            Ok(())
        })
    }

    /// Forgets the previous version of each engine whose current one has been used for so long. Returns those; the
    /// next [`sweep`](Self::sweep) removes them.
    ///
    /// # Errors
    /// The file system failed.
    pub fn retire(&self, after: Duration) -> Result<Vec<(EngineId, Build)>> {
        let is_due = |installed: &Installed| installed.previous.is_some() && installed.used >= after;
        let due: Vec<EngineId> = self.installed().iter().filter(|it| is_due(it)).map(|it| it.id).collect();
        if due.is_empty() {
            return Ok(Vec::new());
        }
        self.change(|contents| {
            let mut retire = |id| Some((id, contents.engine_mut(id)?.previous.take()?));
            Ok(due.into_iter().filter_map(&mut retire).collect())
        })
    }

    /// Removes the folders that are not named any more and from which no worker runs, which `is_used` tells of a
    /// folder. Where it is not known what is named, nothing is removed. Returns the bytes that this frees.
    pub fn sweep(&self, is_used: impl Fn(&Path) -> bool) -> u64 {
        let is_certain = match self.0.records.lock().contents() {
            Some(contents) => contents.is_all_known() && !files::damaged_path(&self.file()).exists(),
            None => false,
        };
        if !is_certain {
            return 0;
        }
        let above =
            |id: &EngineId| [self.0.folder.join(id.to_string()), self.0.folder.join(format!("failed/{id}"))];
        let folders = EngineId::ALL.iter().flat_map(above).flat_map(|above| folder::entries(&above));
        let unused = folders.filter(|folder| !is_used(folder)).collect();
        self.remove_unnamed(unused)
    }

    /// Removes what installs that ended early have left to go on with, where nobody did for long: parts of archives,
    /// and builds from source. Call it while nothing is installed.
    pub fn drop_leftovers(&self, now: SystemTime) {
        let is_old = |path: &PathBuf| {
            let age = folder::last_change(path).and_then(|at| now.duration_since(at).ok());
            age.is_some_and(|age| age > KEPT)
        };
        let left = [self.downloads(), self.sources()].into_iter().flat_map(|above| folder::entries(&above));
        for path in left.filter(is_old) {
            tracing::info!(path = %path.display(), "removing what an install has left");
            self.remove_folder(&path);
        }
    }

    /// Gives a draft its place, relative to the folder of the store, and names it by a change of the records. Returns
    /// the folders that were named before.
    fn place<T>(
        &self,
        draft: BuildDraft,
        place: &Path,
        change: impl FnOnce(&mut Contents) -> Result<T>,
    ) -> Result<(Vec<PathBuf>, T)> {
        let _placing = self.0.placing.lock();
        let (before, place) = (self.folders(), self.0.folder.join(place));
        draft.place(&place).map_err(|error| Failure::io("make", &place, &error))?;
        match self.change(change) {
            Ok(changed) => Ok((before, changed)),
            Err(failure) => {
                self.remove_folder(&place);
                Err(failure)
            }
        }
    }

    /// A place for a build where nothing is: `ABOVE/VERSION`, relative to the folder of the store.
    fn free_place(&self, above: &str, version: &str) -> PathBuf {
        let name = folder::name(version);
        let numbered = (2..).map(|number| format!("{name}-{number}"));
        let mut places =
            std::iter::once(name.clone()).chain(numbered).map(|name| Path::new(above).join(name));
        places.find(|place| !self.0.folder.join(place).exists()).unwrap_or_default()
    }

    /// Removes those of the folders that are not named any more. Returns the bytes that this frees.
    fn remove_unnamed(&self, folders: Vec<PathBuf>) -> u64 {
        let _placing = self.0.placing.lock();
        let named = self.folders();
        let unnamed = folders.into_iter().filter(|folder| !named.contains(folder));
        unnamed.map(|folder| self.remove_folder(&folder)).sum()
    }

    /// The folders that are named.
    fn folders(&self) -> Vec<PathBuf> {
        let records = self.0.records.lock();
        let folders = records.contents().map(Contents::folders).unwrap_or_default();
        folders.iter().map(|folder| self.0.folder.join(folder)).collect()
    }

    fn remove_folder(&self, path: &Path) -> u64 {
        folder::remove(path).unwrap_or_else(|error| {
            tracing::warn!(path = %path.display(), %error, "could not remove a folder that is not used any more");
            0
        })
    }

    fn change<T>(&self, change: impl FnOnce(&mut Contents) -> Result<T>) -> Result<T> {
        let mut records = self.0.records.lock();
        disk::create_private_dir(&self.0.folder)
            .map_err(|error| Failure::io("make", &self.0.folder, &error))?;
        records.change(&self.file(), change)
    }

    fn absolute(&self, failed: &FailedBuild) -> FailedBuild {
        FailedBuild { log: self.0.folder.join(&failed.log), ..failed.clone() }
    }

    fn file(&self) -> PathBuf {
        self.0.folder.join("engines.json")
    }

    fn drafts(&self) -> PathBuf {
        self.0.folder.join("drafts")
    }
}

/// There is no such engine, or no such version of it.
fn not_found(id: EngineId, version: Option<&str>) -> Failure {
    let what = version.map_or_else(|| id.to_string(), |version| format!("version '{version}' of {id}"));
    Failure::new(Code::EngineNotFound, format!("{what} is not installed"))
        .hint("WorkerListInstalled lists what is installed, WorkerCatalogList what can be")
}

#[cfg(test)]
mod tests {
    use std::fs;

    use serde_json::{Value, json};

    use super::*;
    use crate::config::DeviceKind;

    const CPU: EngineId = EngineId { kind: DeviceKind::Cpu };
    const CUDA: EngineId = EngineId { kind: DeviceKind::Cuda };

    struct Place {
        folder: tempfile::TempDir,
    }

    impl Place {
        fn new() -> Self {
            Self { folder: tempfile::tempdir().unwrap() }
        }

        /// The store as a hive finds it that starts now.
        fn open(&self) -> EngineStore {
            EngineStore::open(self.folder.path().join("engines"))
        }

        fn file(&self) -> PathBuf {
            self.folder.path().join("engines/engines.json")
        }

        /// Every path in the store, sorted.
        fn paths(&self) -> Vec<String> {
            let root = self.folder.path().join("engines");
            let entries = walkdir::WalkDir::new(&root).sort_by_file_name().into_iter().map(Result::unwrap);
            let files = entries.filter(|entry| entry.file_type().is_file());
            files.map(|file| file.path().strip_prefix(&root).unwrap().display().to_string()).collect()
        }
    }

    /// A draft with a program, and the build that it is.
    fn made(store: &EngineStore, id: EngineId, version: &str) -> (BuildDraft, Build) {
        let draft = store.draft(id).unwrap();
        fs::create_dir(draft.path().join("bin")).unwrap();
        let program = draft.path().join("bin/llama-server");
        fs::write(&program, version).unwrap();
        let build = Build {
            version: version.to_owned(),
            reported_version: None,
            program,
            size_bytes: 0,
            added_at: Timestamp::UNIX_EPOCH,
            from: Provenance::Release,
            archive_sha256: None,
            measured: None,
            unknown: Map::new(),
        };
        (draft, build)
    }

    fn install(store: &EngineStore, id: EngineId, version: &str) -> Installed {
        let (draft, build) = made(store, id, version);
        store.promote(draft, id, build).unwrap()
    }

    fn fail(store: &EngineStore, id: EngineId, version: &str) -> FailedBuild {
        let trouble = Trouble {
            version: version.to_owned(),
            from: Provenance::Source,
            reason: "it crashed".to_owned(),
            log: vec!["one".to_owned(), "two".to_owned()],
        };
        store.set_aside(made(store, id, version).0, id, trouble).unwrap()
    }

    /// The current and the previous version of each engine.
    fn versions(store: &EngineStore) -> Vec<String> {
        let shown = |it: &Installed| {
            let previous = it.previous.as_ref().map_or("none", |build| &build.version);
            let program = fs::read_to_string(&it.current.program).unwrap();
            assert_eq!(program, it.current.version, "the program is where the record says");
            format!("{} {} after {previous}", it.id, it.current.version)
        };
        store.installed().iter().map(shown).collect()
    }

    #[test]
    fn a_build_is_used_until_the_next_and_can_be_gone_back_to() {
        let place = Place::new();
        let store = place.open();
        assert!(store.installed().is_empty());
        let first = install(&store, CPU, "b1");
        assert_eq!((first.current.size_bytes, first.previous), (2, None));
        install(&store, CUDA, "b1");
        install(&store, CPU, "b2");
        store.note_use(CPU, Duration::from_secs(7)).unwrap();
        assert_eq!(store.get(CPU).unwrap().used, Duration::from_secs(7));
        for store in [&store, &place.open()] {
            assert_eq!(versions(store), ["llama-server-cpu b2 after b1", "llama-server-cuda b1 after none"]);
        }
        store.roll_back(CPU).unwrap();
        assert_eq!(versions(&store)[0], "llama-server-cpu b1 after b2");
        assert_eq!(store.get(CPU).unwrap().used, Duration::ZERO);
        assert_eq!(store.roll_back(CUDA).unwrap_err().code, Code::EngineNotFound);
        // The same version anew has a place of its own: a worker may run the other one.
        let again = install(&store, CPU, "b1");
        assert!(again.current.program.ends_with("llama-server-cpu/b1-2/bin/llama-server"), "{again:?}");
    }

    #[test]
    fn a_previous_version_goes_after_enough_use_and_not_while_a_worker_runs_it() {
        let place = Place::new();
        let store = place.open();
        install(&store, CPU, "b1");
        install(&store, CPU, "b2");
        let day = Duration::from_secs(24 * 3600);
        store.note_use(CPU, day / 2).unwrap();
        assert!(store.retire(day).unwrap().is_empty());
        store.note_use(CPU, day / 2).unwrap();
        let retired = store.retire(day).unwrap();
        assert_eq!(retired[0].1.version, "b1");
        assert_eq!(versions(&place.open()), ["llama-server-cpu b2 after none"]);
        assert_eq!(store.sweep(|folder| folder.ends_with("b1")), 0);
        assert_eq!(store.sweep(|_| false), 2);
        assert_eq!(place.paths(), ["engines.json", "llama-server-cpu/b2/bin/llama-server"]);
    }

    #[test]
    fn a_version_whose_program_is_gone_is_nothing_to_go_back_to() {
        let place = Place::new();
        let store = place.open();
        install(&store, CPU, "b1");
        let broken = install(&store, CPU, "b2");
        fs::remove_file(broken.current.program).unwrap();
        install(&store, CPU, "b2");
        assert_eq!(versions(&store), ["llama-server-cpu b2 after b1"]);
    }

    #[test]
    fn removing_frees_what_is_not_used_any_more() {
        let place = Place::new();
        let store = place.open();
        for version in ["b1", "b2"] {
            install(&store, CPU, version);
        }
        let failed = fail(&store, CPU, "b3");
        assert_eq!(fs::read_to_string(&failed.log).unwrap(), "one\ntwo");
        assert_eq!(store.remove(CPU, Some("b9")).unwrap_err().code, Code::EngineNotFound);
        assert_eq!(store.remove(CUDA, None).unwrap_err().code, Code::EngineNotFound);
        assert_eq!(store.remove(CPU, Some("b2")).unwrap(), 2);
        assert_eq!(versions(&store), ["llama-server-cpu b1 after none"]);
        assert_eq!(store.remove(CPU, Some("b3")).unwrap(), 9);
        assert_eq!(store.remove(CPU, None).unwrap(), 2);
        assert_eq!(place.paths(), ["engines.json"]);
    }

    #[test]
    fn what_failed_is_kept_aside_until_something_better_comes() {
        let place = Place::new();
        let store = place.open();
        fail(&store, CPU, "b1");
        fail(&store, CPU, "b2");
        assert!(store.installed().is_empty());
        let failures = place.open().failures();
        assert_eq!(failures.iter().map(|failed| &*failed.version).collect::<Vec<_>>(), ["b2"]);
        let kept = ["failed/llama-server-cpu/b2/bin/llama-server", "failed/llama-server-cpu/b2/install.log"];
        assert_eq!(place.paths()[1..], kept);
        install(&store, CPU, "b3");
        store.sweep(|_| false);
        assert_eq!((store.failures(), place.paths().len()), (vec![], 2));
    }

    #[test]
    fn nothing_half_done_stays_after_a_kill() {
        let place = Place::new();
        let store = place.open();
        install(&store, CPU, "b1");
        // Killed while a draft was made, and after it got its place but before it was named.
        std::mem::forget(made(&store, CPU, "b2").0);
        let folder = store.folder().join("llama-server-cpu/b3");
        fs::create_dir_all(&folder).unwrap();
        fs::write(folder.join("llama-server"), "b3").unwrap();
        fs::write(place.file().with_extension("tmp"), "half").unwrap();
        let next = place.open();
        next.sweep(|_| false);
        assert_eq!(versions(&next), ["llama-server-cpu b1 after none"]);
        assert_eq!(place.paths(), ["engines.json", "llama-server-cpu/b1/bin/llama-server"]);
    }

    #[test]
    fn a_build_that_has_its_place_and_not_yet_its_name_is_not_swept_away() {
        let place = Place::new();
        let store = place.open();
        install(&store, CPU, "b1");
        // As in the middle of an install, while another one ends.
        let placing = store.0.placing.lock();
        let folder = store.folder().join("llama-server-cuda/b1");
        fs::create_dir_all(&folder).unwrap();
        fs::write(folder.join("llama-server"), "b1").unwrap();
        let (seen, sees) = std::sync::mpsc::channel();
        std::thread::scope(|scope| {
            let sweep = scope.spawn(|| {
                store.sweep(|swept| {
                    seen.send(swept.to_owned()).unwrap();
                    false
                })
            });
            while sees.recv().unwrap() != folder {}
            let build =
                Build::new("b1".to_owned(), "llama-server-cuda/b1/llama-server".into(), Provenance::Release);
            store
                .change(|contents| {
                    contents.promote(CUDA, build, true);
                    Ok(())
                })
                .unwrap();
            drop(placing);
            assert_eq!(sweep.join().unwrap(), 0);
        });
        assert!(folder.join("llama-server").exists());
    }

    #[test]
    fn what_ended_early_goes_after_a_while() {
        let place = Place::new();
        let store = place.open();
        let build = store.sources().join("b1-cpu-0a/out");
        fs::create_dir_all(&build).unwrap();
        fs::create_dir(store.downloads()).unwrap();
        for name in ["b1.tar.gz.partial", "b1.tar.gz.partial.journal"] {
            fs::write(store.downloads().join(name), "x").unwrap();
        }
        fs::write(build.join("a.o"), "x").unwrap();
        store.drop_leftovers(SystemTime::now() + KEPT / 2);
        assert_eq!(place.paths().len(), 3);
        store.drop_leftovers(SystemTime::now() + KEPT * 2);
        assert!(place.paths().is_empty() && !build.exists());
    }

    #[test]
    fn a_draft_that_is_dropped_or_whose_record_cannot_be_written_leaves_nothing() {
        let place = Place::new();
        let store = place.open();
        drop(made(&store, CPU, "b1"));
        assert!(place.paths().is_empty());
        fs::create_dir(place.file()).unwrap();
        let (draft, build) = made(&store, CPU, "b1");
        store.promote(draft, CPU, build).unwrap_err();
        assert!(place.paths().is_empty() && store.installed().is_empty());
    }

    #[test]
    fn a_newer_version_is_left_alone_and_what_is_damaged_set_aside() {
        let place = Place::new();
        install(&place.open(), CPU, "b1");
        let known = fs::read_to_string(place.file()).unwrap();
        let newer = r#"{"version":2,"engines":"other"}"#;
        fs::write(place.file(), newer).unwrap();
        let store = place.open();
        assert!(store.installed().is_empty());
        assert!(store.draft(CPU).unwrap_err().message.contains("a newer version of rbee-hive"));
        assert_eq!(store.sweep(|_| false), 0);
        assert_eq!(fs::read_to_string(place.file()).unwrap(), newer);

        let outside = known.replace("llama-server-cpu/b1/bin/llama-server", "../../../bin/sh");
        for damaged in ["nonsense", &outside] {
            fs::write(place.file(), damaged).unwrap();
            let store = place.open();
            assert!(store.installed().is_empty());
            assert_eq!(store.sweep(|_| false), 0, "its records may name it");
            assert_eq!(fs::read_to_string(files::damaged_path(&place.file())).unwrap(), damaged);
            fs::remove_file(files::damaged_path(&place.file())).unwrap();
        }
    }

    #[test]
    fn what_a_later_version_wrote_besides_is_kept() {
        let place = Place::new();
        install(&place.open(), CPU, "b1");
        let mut json: Value = serde_json::from_slice(&fs::read(place.file()).unwrap()).unwrap();
        json["note"] = json!("kept");
        json["engines"][0]["mood"] = json!("kept");
        json["engines"][0]["current"]["tone"] = json!("kept");
        let other = json!({"id": "llama-server-npu", "current": 5});
        json["engines"].as_array_mut().unwrap().push(other);
        fs::write(place.file(), json.to_string()).unwrap();
        let store = place.open();
        store.note_use(CPU, Duration::from_secs(1)).unwrap();
        let read: Value = serde_json::from_slice(&fs::read(place.file()).unwrap()).unwrap();
        json["engines"][0]["used_ms"] = json!(1000);
        assert_eq!(read, json);
        let unnamed = store.folder().join("llama-server-cpu/b0");
        fs::create_dir(&unnamed).unwrap();
        assert_eq!((store.sweep(|_| false), unnamed.exists()), (0, true), "another engine may be there");
    }

    #[test]
    fn the_records_of_every_version_are_read() {
        let fixture =
            concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/records/engines/version-1/engines.json");
        let place = Place::new();
        fs::create_dir(place.file().parent().unwrap()).unwrap();
        fs::copy(fixture, place.file()).unwrap();
        let store = place.open();
        let installed = store.installed();
        let [cpu, cuda] = &installed[..] else { panic!("{installed:?}") };
        assert_eq!(cpu.current.program, store.folder().join("llama-server-cpu/b6790/build/bin/llama-server"));
        assert_eq!(cpu.current.measured.as_ref().unwrap().model, "SmolLM2-135M-Instruct.Q4_1");
        assert_eq!(cpu.previous.as_ref().unwrap().version, "b6789");
        assert_eq!((cpu.used, cuda.used), (Duration::from_millis(86_399_500), Duration::ZERO));
        assert_eq!(cuda.current.from, Provenance::Source);
        assert_eq!(store.failures()[0].reason, "it does not answer as expected");
    }
}
