//! The journal of an act: one file of JSON lines, written before its events are published, so that
//! their numbers survive the death of the daemon.
//!
//! The first line is the job's [`Header`]; each further line is one event. One `write` a batch and
//! no fsync: what the kernel has taken survives a killed process, and a job's history is not worth
//! a disk flush for every event. A torn last line is cut off when the file is read back.

use std::collections::HashSet;
use std::fs::File;
use std::io::{BufRead, BufReader, ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::event::Event;
use super::job::{Header, JobId};
use super::log::{Bounds, Elision, Log};
use crate::error::{Failure, Result};
use crate::files;
use crate::text::json;
use crate::time::Instant;

const EXTENSION: &str = "jsonl";

/// The action of the narration that says that a job must wait for its turn.
pub(super) const QUEUED: &str = "job_queued";

/// The action of the narration that marks a job's start.
pub(super) const STARTED: &str = "job_started";

/// The folder of journals.
#[derive(Clone, Debug)]
pub(super) struct Journals {
    dir: PathBuf,
    bounds: Bounds,
}

/// An open journal, written to by one job's drain.
#[derive(Debug)]
pub(super) struct Journal {
    path: PathBuf,
    file: File,
    header: Header,
}

#[derive(Serialize, Deserialize)]
struct FirstLine {
    job: Header,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    started_at: Option<Instant>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    elided: Option<ElidedNote>,
}

#[derive(Serialize, Deserialize)]
struct ElidedNote {
    from: u64,
    to: u64,
    count: u64,
}

/// A job as its journal tells it.
pub(super) struct Recalled {
    pub(super) header: Header,
    pub(super) started_at: Option<Instant>,
    pub(super) log: Arc<Log>,
}

impl Journals {
    pub(super) fn open(dir: PathBuf, bounds: Bounds) -> Result<Self> {
        std::fs::create_dir_all(&dir).map_err(|error| Failure::io("create", &dir, &error))?;
        let journals = Self { dir, bounds };
        for id in journals.ids_with(files::DRAFT)? {
            // A hive was killed while it wrote this; the journal itself, where there is one, is whole.
            let _gone = std::fs::remove_file(journals.path_with(&id, files::DRAFT));
        }
        Ok(journals)
    }

    fn path(&self, id: &JobId) -> PathBuf {
        self.path_with(id, EXTENSION)
    }

    fn path_with(&self, id: &JobId, extension: &str) -> PathBuf {
        self.dir.join(format!("{id}.{extension}"))
    }

    /// Starts the journal of a new job.
    pub(super) fn create(&self, header: &Header) -> Result<Journal> {
        let path = self.path(&header.id);
        let first = json(&FirstLine { job: header.clone(), started_at: None, elided: None });
        // Its name comes last: of a job that a kill kept from being answered nothing is recalled.
        let file = files::put(&path, format!("{first}\n").as_bytes())
            .map_err(|error| Failure::io("write the journal", &path, &error))?;
        Ok(Journal { path, file, header: header.clone() })
    }

    /// The ids of all journals, oldest first. Files of other names are left alone.
    pub(super) fn ids(&self) -> Result<Vec<JobId>> {
        self.ids_with(EXTENSION)
    }

    fn ids_with(&self, extension: &str) -> Result<Vec<JobId>> {
        let entries = std::fs::read_dir(&self.dir)
            .map_err(|error| Failure::io("read the folder", &self.dir, &error))?;
        let id = |name: &str| JobId::parse(name.strip_suffix(extension)?.strip_suffix('.')?);
        let mut ids: Vec<_> = entries.filter_map(|entry| id(entry.ok()?.file_name().to_str()?)).collect();
        ids.sort_unstable();
        Ok(ids)
    }

    /// Reads a job back. Reading stops at the first line that is not whole.
    pub(super) fn recall(&self, id: &JobId) -> Result<Recalled> {
        let path = self.path(id);
        let failed = |error: std::io::Error| Failure::io("read the journal", &path, &error);
        let mut lines = BufReader::new(File::open(&path).map_err(failed)?).lines();
        let first = lines.next().transpose().map_err(failed)?.unwrap_or_default();
        let first: FirstLine = serde_json::from_str(&first)
            .map_err(|error| failed(std::io::Error::new(ErrorKind::InvalidData, error)))?;
        let log = Log::new(self.bounds);
        if let Some(ElidedNote { from, to, count }) = first.elided {
            log.restore_elision(Elision { from, to, count });
        }
        let mut started_at = first.started_at;
        let mut last_seq = 0;
        for line in lines {
            let Ok(line) = line else { break };
            let Ok(event) = Event::from_line(&line) else { break };
            if event.seq <= last_seq || log.terminal().is_some() {
                break;
            }
            last_seq = event.seq;
            if let super::event::Body::Narration { action, .. } = &event.body
                && action == STARTED
            {
                started_at.get_or_insert(event.at);
            }
            log.append([Arc::new(event)]);
        }
        Ok(Recalled { header: first.job, started_at, log: Arc::new(log) })
    }

    /// Rewrites the journal of an ended job to what its log holds, all or nothing.
    pub(super) fn rewrite(&self, header: &Header, started_at: Option<Instant>, log: &Log) -> Result<()> {
        let path = self.path(&header.id);
        let (elision, events) = log.snapshot();
        let elided = elision.map(|Elision { from, to, count }| ElidedNote { from, to, count });
        let mut text = json(&FirstLine { job: header.clone(), started_at, elided });
        for event in events {
            text.push('\n');
            text.push_str(&event.to_line(&header.operation));
        }
        text.push('\n');
        files::put(&path, text.as_bytes())
            .map(drop)
            .map_err(|error| Failure::io("rewrite the journal", &path, &error))
    }

    /// Forgets jobs, with the logs of the workers that they tried in vain. The folder is read once,
    /// however many jobs go.
    pub(super) fn remove(&self, jobs: &HashSet<&JobId>) {
        if jobs.is_empty() {
            return;
        }
        let files = match std::fs::read_dir(&self.dir) {
            Ok(files) => files,
            Err(error) => {
                tracing::warn!(dir = %self.dir.display(), %error, "could not look for old journals");
                return;
            }
        };
        for path in files.filter_map(|file| Some(file.ok()?.path())) {
            let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
            let job = name.split_once('.').and_then(|(job, _)| JobId::parse(job));
            if job.is_some_and(|job| jobs.contains(&job))
                && let Err(error) = std::fs::remove_file(&path)
                && error.kind() != ErrorKind::NotFound
            {
                tracing::warn!(path = %path.display(), %error, "could not remove an old journal");
            }
        }
    }
}

impl Journal {
    /// Writes events, in one write.
    pub(super) fn write(&mut self, events: &[Arc<Event>]) -> Result<()> {
        let mut text = String::new();
        for event in events {
            text.push_str(&event.to_line(&self.header.operation));
            text.push('\n');
        }
        self.file
            .write_all(text.as_bytes())
            .map_err(|error| Failure::io("write the journal", Path::new(&self.path), &error))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_killed_rewrite_left_is_removed_and_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        let job = JobId::new();
        let names = [format!("{job}.jsonl"), format!("{job}.tmp"), "notes.tmp".to_owned()];
        for name in &names {
            std::fs::write(dir.path().join(name), "x").unwrap();
        }
        let journals = Journals::open(dir.path().to_owned(), Bounds { events: 1, bytes: 1 }).unwrap();
        assert_eq!(journals.ids().unwrap(), [job]);
        let left = names.map(|name| dir.path().join(name).exists());
        assert_eq!(left, [true, false, true]);
    }

    #[test]
    fn a_forgotten_job_takes_the_logs_of_its_attempts_along() {
        let dir = tempfile::tempdir().unwrap();
        let journals = Journals::open(dir.path().to_owned(), Bounds { events: 1, bytes: 1 }).unwrap();
        let (gone, kept) = (JobId::new(), JobId::new());
        let names =
            [format!("{gone}.jsonl"), format!("{gone}.w1.log"), format!("{kept}.jsonl"), "x.log".into()];
        for name in &names {
            std::fs::write(dir.path().join(name), "x").unwrap();
        }
        journals.remove(&HashSet::from([&gone]));
        assert_eq!(names.map(|name| dir.path().join(name).exists()), [false, false, true, true]);
    }
}
