//! The folder of one worker: its log, its readiness report and its record. Only the user who runs the
//! hive can read it.

use std::collections::HashSet;
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use crate::disk;
use crate::error::{Failure, Result};
use crate::files;

/// How many folders of ended workers are kept: the newest.
const KEEP_ENDED: usize = 20;
/// A log that grows beyond this many bytes is cut.
const MAX_LOG_BYTES: u64 = 32 << 20;
/// When a log is cut, `worker.log.old` keeps this many bytes of its end.
const KEEP_LOG_BYTES: u64 = 1 << 20;

/// The name of a worker's record.
const RECORD: &str = "record.json";
/// The name of the folder for what the worker itself writes.
const WORK: &str = "work";

/// The folder of one worker. It is named after the worker's id; ids sort by the time of their start.
#[derive(Clone, Debug)]
pub(super) struct WorkerFolder(PathBuf);

impl WorkerFolder {
    /// Creates the folder of a new worker, and removes the oldest folders of ended ones.
    pub(super) fn create(workers: &Path, worker_id: &str, live: &HashSet<String>) -> Result<Self> {
        let path = workers.join(worker_id);
        disk::create_private_dir(&path.join(WORK))
            .map_err(|error| Failure::io("make the folder", &path, &error).stage("start"))?;
        if let Err(error) = prune(workers, worker_id, live) {
            tracing::warn!(path = %workers.display(), %error, "could not remove the folders of ended workers");
        }
        Ok(Self(path))
    }

    /// The file with everything that the worker prints.
    pub(super) fn log(&self) -> PathBuf {
        self.0.join("worker.log")
    }

    /// The folder for what the worker itself writes. What the hive keeps of it is not there: the worker's record
    /// decides which processes a later hive signals.
    pub(super) fn work(&self) -> PathBuf {
        self.0.join(WORK)
    }

    /// The file of the worker's readiness report.
    pub(super) fn report(&self) -> PathBuf {
        self.work().join("report.json")
    }

    /// The file of the worker's record.
    pub(super) fn record(&self) -> PathBuf {
        self.0.join(RECORD)
    }

    /// The folders of the workers that earlier daemons started, in the order of their starts.
    ///
    /// # Errors
    /// Where the folder of the workers cannot be read, or where other users could have written to it: a
    /// record decides which processes are signalled and which ports are sent requests.
    pub(super) fn all(workers: &Path) -> io::Result<Vec<Self>> {
        let metadata = std::fs::metadata(workers)?;
        if metadata.uid() != rustix::process::geteuid().as_raw() || metadata.mode() & 0o077 != 0 {
            return Err(io::Error::new(
                io::ErrorKind::PermissionDenied,
                "other users may enter it, so its records of workers are not trusted",
            ));
        }
        let entries = std::fs::read_dir(workers)?.map(|entry| Ok(entry?.path()));
        let mut paths = entries.collect::<io::Result<Vec<_>>>()?;
        // The ids of workers sort by time.
        paths.sort_unstable();
        Ok(paths.into_iter().map(Self).collect())
    }

    /// The id of its worker.
    pub(super) fn worker_id(&self) -> String {
        self.0.file_name().unwrap_or_default().to_string_lossy().into_owned()
    }

    /// Removes the record of a worker that is gone; its log stays.
    pub(super) fn remove_record(&self) {
        remove(&self.record(), "the record of a worker");
    }

    /// Removes the drafts of files that a killed process was writing.
    pub(super) fn remove_drafts(&self) {
        for path in [self.record(), self.report()] {
            files::remove_draft(&path);
        }
    }

    /// Keeps a record that cannot be read under another name, as long as the worker's log. Gives the path
    /// of the file.
    pub(super) fn set_record_aside(&self) -> PathBuf {
        let record = self.record();
        match files::set_aside(&record) {
            Ok(kept_as) => {
                self.remove_record();
                kept_as
            }
            Err(error) => {
                tracing::warn!(path = %record.display(), %error, "could not set aside the record of a worker");
                record
            }
        }
    }

    /// Opens the log for the worker, in append mode: every writer then writes at the end, also after
    /// the log was cut.
    pub(super) fn open_log(&self) -> Result<File> {
        let path = self.log();
        disk::open(private().append(true), &path)
            .map_err(|error| Failure::io("create the log", &path, &error))
    }

    /// Cuts the log if it has grown too large: a worker could fill the disk with it.
    pub(super) fn bound_log(&self) -> io::Result<()> {
        let path = self.log();
        let length = std::fs::metadata(&path)?.len();
        if length <= MAX_LOG_BYTES {
            return Ok(());
        }
        let mut log = OpenOptions::new().read(true).write(true).open(&path)?;
        log.seek(SeekFrom::Start(length - KEEP_LOG_BYTES))?;
        let mut old = disk::open(private().write(true).truncate(true), &self.0.join("worker.log.old"))?;
        io::copy(&mut Read::by_ref(&mut log).take(KEEP_LOG_BYTES), &mut old)?;
        disk::set_len(&log, 0)?;
        // The worker writes to the log at the same time, so it is only appended to.
        let mut log = OpenOptions::new().append(true).open(&path)?;
        disk::write_all(&mut log, format!("… the log was cut at {length} bytes\n").as_bytes())
    }

    /// Copies the end of the log to `target`, where the job that started the worker keeps it.
    pub(super) fn keep_log(&self, target: &Path) -> io::Result<()> {
        let mut log = files::open(&self.log())?;
        let length = log.metadata()?.len();
        log.seek(SeekFrom::Start(length.saturating_sub(KEEP_LOG_BYTES)))?;
        let mut kept = disk::open(private().write(true).truncate(true), target)?;
        io::copy(&mut log.take(KEEP_LOG_BYTES), &mut kept).map(drop)
    }

    /// Removes the folder of a worker whose process could not be started.
    pub(super) fn discard(self) {
        if let Err(error) = disk::remove_dir_all(&self.0) {
            tracing::warn!(path = %self.0.display(), %error, "could not remove the folder of a worker");
        }
    }
}

/// Removes a file, if it is there.
fn remove(path: &Path, what: &str) {
    if let Err(error) = disk::remove_file(path)
        && !matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory)
    {
        tracing::warn!(path = %path.display(), %error, "could not remove {what}");
    }
}

/// Options for a file that only its owner can read and write.
fn private() -> OpenOptions {
    let mut options = OpenOptions::new();
    options.create(true).mode(0o600);
    options
}

fn prune(workers: &Path, newest: &str, live: &HashSet<String>) -> io::Result<()> {
    let mut ended: Vec<String> = std::fs::read_dir(workers)?
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
        .filter(|name| name.starts_with("worker-") && name != newest && !live.contains(name))
        // A folder with a record is of a worker whose end was not proven: the next daemon looks for it.
        .filter(|name| !workers.join(name).join(RECORD).exists())
        .collect();
    ended.sort_unstable();
    let surplus = ended.len().saturating_sub(KEEP_ENDED);
    ended[..surplus].iter().try_for_each(|name| disk::remove_dir_all(workers.join(name)))
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn the_drafts_of_a_killed_process_are_removed() {
        let workers = tempfile::tempdir().unwrap();
        let folder = WorkerFolder::create(workers.path(), "worker-1", &HashSet::new()).unwrap();
        for name in ["record.tmp", "work/report.tmp", "work/report.json"] {
            std::fs::write(folder.0.join(name), "{").unwrap();
        }
        folder.remove_drafts();
        let left = |path: &Path| -> Vec<_> {
            std::fs::read_dir(path).unwrap().map(|entry| entry.unwrap().file_name()).collect()
        };
        assert_eq!(
            (left(&folder.0), left(&folder.work())),
            (vec!["work".into()], vec!["report.json".into()])
        );
    }

    #[test]
    fn folders_are_private_and_the_oldest_are_removed() {
        let workers = tempfile::tempdir().unwrap();
        let live = HashSet::from(["worker-000".to_owned()]);
        let mut last = None;
        for n in 0..KEEP_ENDED + 5 {
            last = Some(WorkerFolder::create(workers.path(), &format!("worker-{n:03}"), &live).unwrap());
        }
        let count = || std::fs::read_dir(workers.path()).unwrap().count();
        let stuck = WorkerFolder::create(workers.path(), "worker-0000-stuck", &live).unwrap();
        std::fs::write(stuck.record(), "{}").unwrap();
        WorkerFolder::create(workers.path(), "worker-999", &live).unwrap();
        assert!(stuck.record().exists(), "it may still run");
        stuck.discard();
        assert_eq!(count(), KEEP_ENDED + 2, "the live one, the newest one and the ended ones kept");
        assert!(workers.path().join("worker-000").exists());
        let folder = last.unwrap();
        drop(folder.open_log().unwrap());
        let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!((mode(&folder.0), mode(&folder.log())), (0o700, 0o600));
        folder.discard();
        assert_eq!(count(), KEEP_ENDED + 1);
    }

    #[test]
    fn a_log_that_grows_too_large_is_cut_and_its_end_kept() {
        let workers = tempfile::tempdir().unwrap();
        let folder = WorkerFolder::create(workers.path(), "worker-1", &HashSet::new()).unwrap();
        let mut log = folder.open_log().unwrap();
        log.write_all(b"short\n").unwrap();
        folder.bound_log().unwrap();
        assert_eq!(std::fs::read(folder.log()).unwrap(), b"short\n");
        log.set_len(MAX_LOG_BYTES).unwrap();
        log.write_all(b"the end\n").unwrap();
        folder.bound_log().unwrap();
        log.write_all(b"and on\n").unwrap();
        let text = std::fs::read_to_string(folder.log()).unwrap();
        assert!(
            text.starts_with("… the log was cut at 33554440 bytes\n") && text.ends_with("and on\n"),
            "{text}"
        );
        let old = std::fs::read(folder.0.join("worker.log.old")).unwrap();
        assert_eq!(old.len() as u64, KEEP_LOG_BYTES);
        assert!(old.ends_with(b"the end\n"));
    }
}
