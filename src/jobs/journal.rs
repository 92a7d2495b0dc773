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
//! ignored when a journal is read and kept when it is rewritten. A journal of a newer version is left as it
//! is.
//!
//! What can be read of a journal is read. Lines that this version does not know are passed over, and the
//! file stays as it is. A damaged file is set aside as `ID.jsonl.damaged`, and a journal of what could be
//! read takes its place. Both are narrated in the job itself ([`Recall::finish`]).

mod recall;
mod lines;

use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::Serialize;
use serde_json::{Map, Value};

use self::lines::{FORMAT_VERSION, FirstLine, Found, KNOWN_FIELDS, Lines, parse_first_line};
use self::recall::Recall;
use super::event::{Body, Event};
use super::job::{JobHeader, JobId, OperationKind};
use super::log::{Bounds, Elision, Log};
use crate::disk;
use crate::error::{Code, Failure, Result};
use crate::files::{self, DAMAGED, damaged_path};
use crate::narration::JobStep;
use crate::text::json;
use crate::time::Instant;

pub(super) use self::lines::RecallError;
pub(super) use self::recall::{JournalState, RecalledJob};

const EXTENSION: &str = "jsonl";

/// The most damaged journals that are kept; the newest stay.
const MAX_DAMAGED: usize = 100;

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

impl Journals {
    pub(super) fn open(dir: PathBuf, bounds: Bounds) -> Result<Self> {
        disk::create_dir_all(&dir).map_err(|error| Failure::io("create", &dir, &error))?;
        let journals = Self { dir, bounds };
        for id in journals.ids_with(files::DRAFT)? {
            // A hive was killed while it wrote this; the journal itself, if there is one, is complete.
            let _removed = disk::remove_file(journals.path_with(&id, files::DRAFT));
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

    /// Reads a job back. Where its journal has no end that can be read, the job gets one.
    pub(super) fn recall(&self, id: &JobId) -> Result<RecalledJob, RecallError> {
        let path = self.path(id);
        let mut lines = Lines::open(&path)?;
        let text = lines.first()?;
        let first = parse_first_line(&path, &text)?;
        let header = first.as_ref().and_then(|first| serde_json::from_str(first.job.get()).ok());
        let header = header.filter(|header: &JobHeader| header.id == *id);
        let log = Log::new(self.bounds);
        if let Some(elision) = first.as_ref().and_then(|first| first.elided) {
            log.restore_elision(elision);
        }
        let mut recall = Recall::new(log, header.is_some());
        let mut started_at = first.as_ref().and_then(|first| first.started_at);
        while let Some(found) = lines.next()? {
            if let Some(mut event) = recall.take(found) {
                if first.as_ref().is_none_or(|first| first.version.is_none()) {
                    mark_step_of_version_1(&mut event);
                }
                if event.step() == Some(JobStep::Started) {
                    started_at.get_or_insert(event.at);
                }
                recall.append(event);
            }
        }
        let header = header.unwrap_or_else(|| header_of(id, recall.operation.take()));
        Ok(recall.finish(header, started_at, &damaged_path(&path)))
    }

    /// Rewrites the journal of an ended job to the events that its log holds, all or nothing. A line
    /// that the file has already stays as it is, with the fields that this version does not know.
    pub(super) fn rewrite(&self, id: &JobId, started_at: Option<Instant>, log: &Log) -> Result<()> {
        let path = self.path(id);
        let mut lines = Lines::open(&path)?;
        let first = lines.first()?;
        let damaged = || Failure::new(Code::Io, format!("the journal {} is damaged", path.display()));
        let FirstLine { version, job, .. } = parse_first_line(&path, &first)?.ok_or_else(damaged)?;
        let header: JobHeader = serde_json::from_str(job.get()).map_err(|_| damaged())?;
        let mut unknown: Map<String, Value> = serde_json::from_str(&first).map_err(|_| damaged())?;
        unknown.retain(|field, _| !KNOWN_FIELDS.contains(&field.as_str()));

        let (elided, events) = log.snapshot();
        let kept: HashSet<u64> = events.iter().map(|event| event.seq).collect();
        let mut present = HashMap::new();
        while let Some(found) = lines.next()? {
            if let Found::Event(event, line) = found
                && kept.contains(&event.seq)
            {
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
        self.put(&path, &text)
    }

    /// Sets a damaged journal aside, and puts the journal of what could be read in its place.
    pub(super) fn replace_damaged(&self, job: &RecalledJob) -> Result<()> {
        let path = self.path(&job.header.id);
        files::set_aside(&path).map_err(|error| Failure::io("set aside the journal", &path, &error))?;
        let mut damaged = self.ids_with(&format!("{EXTENSION}{DAMAGED}"))?;
        damaged.truncate(damaged.len().saturating_sub(MAX_DAMAGED));
        for oldest in damaged {
            let _removed = disk::remove_file(damaged_path(&self.path(&oldest)));
        }
        self.write_anew(&job.header, job.started_at, &job.log)
    }

    /// Writes the whole journal of a job, all or nothing.
    pub(super) fn write_anew(
        &self,
        header: &JobHeader,
        started_at: Option<Instant>,
        log: &Log,
    ) -> Result<()> {
        let (elided, events) = log.snapshot();
        let first = WrittenFirstLine {
            version: Some(FORMAT_VERSION),
            job: header,
            started_at,
            elided,
            unknown: Map::new(),
        };
        let mut text = json(&first);
        for event in events {
            text.push('\n');
            text.push_str(&event.to_line(&header.operation));
        }
        text.push('\n');
        self.put(&self.path(&header.id), &text)
    }

    fn put(&self, path: &Path, text: &str) -> Result<()> {
        let written = files::put(path, text.as_bytes()).map(drop);
        written.map_err(|error| Failure::io("rewrite the journal", path, &error))
    }

    /// The damaged journals that are kept, oldest first.
    pub(super) fn damaged(&self) -> Result<Vec<PathBuf>> {
        let ids = self.ids_with(&format!("{EXTENSION}{DAMAGED}"))?;
        Ok(ids.iter().map(|id| damaged_path(&self.path(id))).collect())
    }

    /// Removes the journal of a job.
    pub(super) fn remove_one(&self, id: &JobId) {
        remove_file(&self.path(id));
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
            if !name.ends_with(DAMAGED) && job.is_some_and(|job| jobs.contains(&job)) {
                remove_file(&path);
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
        disk::write_all(&mut self.file, text.as_bytes())
            .map_err(|error| Failure::io("write the journal", Path::new(&self.path), &error))
    }

    /// A journal that writes to `file`, such as a pipe.
    #[cfg(test)]
    pub(super) fn to_file(file: File, operation: &str) -> Self {
        Self { path: PathBuf::new(), file, operation: operation.to_owned() }
    }
}

fn remove_file(path: &Path) {
    if let Err(error) = disk::remove_file(path)
        && error.kind() != ErrorKind::NotFound
    {
        tracing::warn!(path = %path.display(), %error, "could not remove a file of a job");
    }
}

/// What is known of a job whose journal's first line is damaged.
fn header_of(id: &JobId, operation: Option<String>) -> JobHeader {
    let operation = operation.unwrap_or_else(|| "unknown".to_owned());
    let request = serde_json::value::to_raw_value(&serde_json::json!({ "operation": operation }));
    JobHeader {
        id: id.clone(),
        request: request.unwrap_or_default(),
        operation,
        kind: OperationKind::Act,
        created_at: id.made_at(),
        idempotency_key: None,
        journal_damage: None,
    }
}

/// In version 1 a narration's action tells the step that it reports.
fn mark_step_of_version_1(event: &mut Event) {
    if let Body::Narration { action, step, .. } = &mut event.body {
        *step = step.or(match &**action {
            "job_queued" => Some(JobStep::Queued),
            "job_started" => Some(JobStep::Started),
            _ => None,
        });
    }
}

#[cfg(test)]
mod tests;
