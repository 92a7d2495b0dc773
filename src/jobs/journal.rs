//! The journal of an act: one file of JSON lines. An event is written there before it is published, so
//! that its number survives the death of the daemon.
//!
//! The first line has the format's version and the job's [`JobHeader`]; each further line is one event.
//! A batch is one `write` without fsync: what the kernel has taken survives a killed process, and a
//! job's history is not worth a disk flush for every event. When a file is read back, an incomplete
//! last line is ignored.
//!
//! A journal without a version is of version 1; its job steps are known by the actions of their narrations.
//! Version 2 has the version and `step`. A format may gain fields without a new version: unknown fields are
//! ignored when a journal is read and kept when it is rewritten. A journal of a newer version, or with an
//! event or an error code that this hive does not know, is left as it is.

use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::io::{BufRead, BufReader, ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use serde_json::{Map, Value};

use super::event::{Body, Event, LineError};
use super::job::{JobHeader, JobId};
use super::log::{Bounds, Elision, Log};
use crate::error::{Code, Failure, Result};
use crate::files;
use crate::narration::JobStep;
use crate::text::json;
use crate::time::Instant;

/// The format that this hive writes, and the newest that it reads.
const FORMAT_VERSION: u64 = 2;

const EXTENSION: &str = "jsonl";

/// The folder of journals.
#[derive(Clone, Debug)]
pub(super) struct Journals {
    dir: PathBuf,
    bounds: Bounds,
}

/// An open journal. One job's drain writes to it.
#[derive(Debug)]
pub(super) struct Journal {
    path: PathBuf,
    file: File,
    operation: String,
}

/// The first line, `job` as it stands in the file.
#[derive(Deserialize)]
struct FirstLine<'a> {
    /// Not there in version 1.
    version: Option<u64>,
    #[serde(borrow)]
    job: &'a RawValue,
    #[serde(default)]
    started_at: Option<Instant>,
    #[serde(default)]
    elided: Option<Elision>,
}

#[derive(Serialize)]
struct WrittenFirstLine<'a, J: Serialize> {
    #[serde(skip_serializing_if = "Option::is_none")]
    version: Option<u64>,
    job: &'a J,
    #[serde(skip_serializing_if = "Option::is_none")]
    started_at: Option<Instant>,
    #[serde(skip_serializing_if = "Option::is_none")]
    elided: Option<Elision>,
    /// Fields that this version does not know.
    #[serde(flatten)]
    unknown: Map<String, Value>,
}

/// The fields of [`FirstLine`].
const KNOWN_FIELDS: [&str; 4] = ["version", "job", "started_at", "elided"];

/// A job read back from its journal.
#[derive(Debug)]
pub(super) struct RecalledJob {
    pub(super) header: JobHeader,
    pub(super) started_at: Option<Instant>,
    pub(super) log: Arc<Log>,
}

/// Why a journal was not read back.
#[derive(Debug)]
pub(super) enum RecallError {
    /// A newer version of the hive wrote it.
    Newer(String),
    /// It cannot be read, or its first line is damaged.
    Unreadable(Failure),
}

impl From<RecallError> for Failure {
    fn from(error: RecallError) -> Self {
        match error {
            RecallError::Newer(what) => Self::new(Code::Io, what).hint("update rbee-hive to see this job"),
            RecallError::Unreadable(failure) => failure,
        }
    }
}

impl Journals {
    pub(super) fn open(dir: PathBuf, bounds: Bounds) -> Result<Self> {
        std::fs::create_dir_all(&dir).map_err(|error| Failure::io("create", &dir, &error))?;
        let journals = Self { dir, bounds };
        for id in journals.ids_with(files::DRAFT)? {
            // A hive was killed while it wrote this; the journal itself, if there is one, is complete.
            let _removed = std::fs::remove_file(journals.path_with(&id, files::DRAFT));
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
    pub(super) fn create(&self, header: &JobHeader) -> Result<Journal> {
        let path = self.path(&header.id);
        let first = json(&WrittenFirstLine {
            version: Some(FORMAT_VERSION),
            job: header,
            started_at: None,
            elided: None,
            unknown: Map::new(),
        });
        // The file gets its name last: a job whose submission a kill left unanswered leaves no journal.
        let file = files::put(&path, format!("{first}\n").as_bytes())
            .map_err(|error| Failure::io("write the journal", &path, &error))?;
        Ok(Journal { path, file, operation: header.operation.clone() })
    }

    /// The ids of all journals, oldest first. Files with other names are ignored.
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

    /// Reads a job back, up to the first line that is incomplete or damaged.
    pub(super) fn recall(&self, id: &JobId) -> Result<RecalledJob, RecallError> {
        let path = self.path(id);
        let mut lines = Lines::open(&path)?;
        let text = lines.first()?;
        let first = parse_first_line(&path, &text)?;
        let header: JobHeader =
            serde_json::from_str(first.job.get()).map_err(|error| unreadable(&path, error.into()))?;
        let log = Log::new(self.bounds);
        if let Some(elision) = first.elided {
            log.restore_elision(elision);
        }
        let mut started_at = first.started_at;
        while let Some((_, mut event)) = lines.next_event()? {
            if first.version.is_none() {
                mark_step_of_version_1(&mut event);
            }
            if event.step() == Some(JobStep::Started) {
                started_at.get_or_insert(event.at);
            }
            log.append([Arc::new(event)]);
        }
        Ok(RecalledJob { header, started_at, log: Arc::new(log) })
    }

    /// Rewrites the journal of an ended job to the events that its log holds, all or nothing. A line
    /// that the file has already stays as it is, with the fields that this version does not know.
    pub(super) fn rewrite(&self, id: &JobId, started_at: Option<Instant>, log: &Log) -> Result<()> {
        let path = self.path(id);
        let mut lines = Lines::open(&path)?;
        let first = lines.first()?;
        let FirstLine { version, job, .. } = parse_first_line(&path, &first)?;
        let header: JobHeader =
            serde_json::from_str(job.get()).map_err(|error| unreadable(&path, error.into()))?;
        let mut unknown: Map<String, Value> =
            serde_json::from_str(&first).map_err(|error| unreadable(&path, error.into()))?;
        unknown.retain(|field, _| !KNOWN_FIELDS.contains(&field.as_str()));

        let (elided, events) = log.snapshot();
        let kept: HashSet<u64> = events.iter().map(|event| event.seq).collect();
        let mut present = HashMap::new();
        while let Some((line, event)) = lines.next_event()? {
            if kept.contains(&event.seq) {
                present.insert(event.seq, line);
            }
        }
        let mut text = json(&WrittenFirstLine { version, job: &job, started_at, elided, unknown });
        for event in events {
            text.push('\n');
            match present.get(&event.seq) {
                Some(line) => text.push_str(line),
                None => text.push_str(&event.to_line(&header.operation)),
            }
        }
        text.push('\n');
        files::put(&path, text.as_bytes())
            .map(drop)
            .map_err(|error| Failure::io("rewrite the journal", &path, &error))
    }

    /// Removes the journals of jobs, and the logs of workers that those jobs failed to start. Reads the
    /// folder once, however many jobs are removed.
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
            text.push_str(&event.to_line(&self.operation));
            text.push('\n');
        }
        self.file
            .write_all(text.as_bytes())
            .map_err(|error| Failure::io("write the journal", Path::new(&self.path), &error))
    }

    /// A journal that writes to `file`, such as a pipe.
    #[cfg(test)]
    pub(super) fn to_file(file: File, operation: &str) -> Self {
        Self { path: PathBuf::new(), file, operation: operation.to_owned() }
    }
}

/// The lines of a journal, up to the first one that is incomplete or damaged, or to its end.
struct Lines<'a> {
    path: &'a Path,
    lines: std::io::Lines<BufReader<File>>,
    last_seq: u64,
    ended: bool,
}

impl<'a> Lines<'a> {
    fn open(path: &'a Path) -> Result<Self, RecallError> {
        let file = File::open(path).map_err(|error| unreadable(path, error))?;
        Ok(Self { path, lines: BufReader::new(file).lines(), last_seq: 0, ended: false })
    }

    fn first(&mut self) -> Result<String, RecallError> {
        let first = self.lines.next().transpose().map_err(|error| unreadable(self.path, error))?;
        Ok(first.unwrap_or_default())
    }

    /// The next event with its line; nothing after the terminal event, or where the rest is damaged.
    fn next_event(&mut self) -> Result<Option<(String, Event)>, RecallError> {
        if self.ended {
            return Ok(None);
        }
        let Some(Ok(line)) = self.lines.next() else { return Ok(None) };
        let event = match Event::from_line(&line) {
            Ok(event) => event,
            Err(LineError::Torn) => return Ok(None),
            Err(LineError::Unknown(error)) => {
                return Err(newer(
                    self.path,
                    &format!("has an event that this version does not know: {error}"),
                ));
            }
        };
        if event.seq <= self.last_seq {
            return Ok(None);
        }
        self.last_seq = event.seq;
        self.ended = matches!(event.body, Body::Terminal(_));
        Ok(Some((line, event)))
    }
}

fn parse_first_line<'a>(path: &Path, text: &'a str) -> Result<FirstLine<'a>, RecallError> {
    /// Read by itself: everything else may be different in a newer version.
    #[derive(Deserialize)]
    struct Version {
        version: Option<Value>,
    }

    let Version { version } = serde_json::from_str(text).map_err(|error| unreadable(path, error.into()))?;
    // A version that is not a number is a newer one.
    if let Some(version) = version.filter(|version| version.as_u64().is_none_or(|n| n > FORMAT_VERSION)) {
        return Err(newer(
            path,
            &format!("has version {version}, and this hive reads up to {FORMAT_VERSION}"),
        ));
    }
    serde_json::from_str(text).map_err(|error| unreadable(path, error.into()))
}

/// In version 1 a narration's action tells the step that it reports.
fn mark_step_of_version_1(event: &mut Event) {
    if let Body::Narration { action, step, .. } = &mut event.body {
        *step = match &**action {
            "job_queued" => Some(JobStep::Queued),
            "job_started" => Some(JobStep::Started),
            _ => None,
        };
    }
}

fn unreadable(path: &Path, error: std::io::Error) -> RecallError {
    RecallError::Unreadable(Failure::io("read the journal", path, &error))
}

fn newer(path: &Path, why: &str) -> RecallError {
    let path = path.display();
    RecallError::Newer(format!("the journal {path} was written by a newer version of rbee-hive: it {why}"))
}

#[cfg(test)]
mod tests;
