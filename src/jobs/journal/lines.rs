//! Reads a journal line by line. A line that is damaged, or that this version does not know, does not hide
//! those that follow.

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::Path;

use serde::Deserialize;
use serde_json::Value;
use serde_json::value::RawValue;

use crate::error::{Code, Failure};
use crate::files;
use crate::jobs::event::{Body, Event, LineError};
use crate::jobs::log::Elision;
use crate::time::Instant;

/// The format that this hive writes, and the newest that it reads.
pub(super) const FORMAT_VERSION: u64 = 2;

/// The first line, `job` as it stands in the file.
#[derive(Deserialize)]
pub(super) struct FirstLine<'a> {
    /// Not there in version 1.
    pub(super) version: Option<u64>,
    #[serde(borrow)]
    pub(super) job: &'a RawValue,
    #[serde(default)]
    pub(super) started_at: Option<Instant>,
    #[serde(default)]
    pub(super) elided: Option<Elision>,
}

/// The fields of [`FirstLine`].
pub(super) const KNOWN_FIELDS: [&str; 4] = ["version", "job", "started_at", "elided"];

/// Why a journal was not read back.
#[derive(Debug)]
pub(in crate::jobs) enum RecallError {
    /// A newer version of the hive wrote it.
    Newer(String),
    /// The system does not let it be read.
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

/// What a line holds.
pub(super) enum Found {
    /// An event, with its line.
    Event(Event, String),
    /// JSON in a form that this version does not know: of a newer version, or damaged.
    Unknown,
    /// Nothing that can be read.
    Damaged,
}

/// The lines of a journal, in their order.
pub(super) struct Lines<'a> {
    path: &'a Path,
    reader: BufReader<File>,
    ahead: Option<Found>,
    last_seq: u64,
    has_ended: bool,
}

impl<'a> Lines<'a> {
    pub(super) fn open(path: &'a Path) -> Result<Self, RecallError> {
        let file = files::open(path).map_err(|error| unreadable(path, &error))?;
        Ok(Self { path, reader: BufReader::new(file), ahead: None, last_seq: 0, has_ended: false })
    }

    /// The first line; empty where it is not text.
    pub(super) fn first(&mut self) -> Result<String, RecallError> {
        let (line, _) = self.read_line()?.unwrap_or_default();
        let text = String::from_utf8(line).unwrap_or_default();
        self.ahead = self.look()?;
        Ok(text)
    }

    /// What the next line holds; nothing after the terminal event. Numbers ascend: an event whose number
    /// does not fit between its neighbours' is damaged. The terminal event counts wherever it stands.
    pub(super) fn next(&mut self) -> Result<Option<Found>, RecallError> {
        if self.has_ended {
            return Ok(None);
        }
        let Some(found) = self.ahead.take() else { return Ok(None) };
        self.ahead = self.look()?;
        let Found::Event(mut event, line) = found else { return Ok(Some(found)) };
        self.has_ended = matches!(event.body, Body::Terminal(_));
        if self.has_ended {
            event.seq = event.seq.max(self.last_seq + 1);
        } else {
            let is_behind_next = match &self.ahead {
                Some(Found::Event(next, _)) => next.seq <= event.seq,
                _ => false,
            };
            if is_behind_next || event.seq <= self.last_seq {
                return Ok(Some(Found::Damaged));
            }
        }
        self.last_seq = event.seq;
        Ok(Some(Found::Event(event, line)))
    }

    /// What the line at the reader's place holds. A last one without its line end may be torn: the hive
    /// was killed while it wrote it.
    fn look(&mut self) -> Result<Option<Found>, RecallError> {
        let Some((line, has_end)) = self.read_line()? else { return Ok(None) };
        Ok(match (Event::from_line(&line), String::from_utf8(line)) {
            (Ok(event), Ok(line)) => Some(Found::Event(event, line)),
            (Err(LineError::Torn), _) if !has_end => None,
            (Err(LineError::Unknown(_)), Ok(_)) => Some(Found::Unknown),
            _ => Some(Found::Damaged),
        })
    }

    /// The next line, and whether it has its line end.
    fn read_line(&mut self) -> Result<Option<(Vec<u8>, bool)>, RecallError> {
        let mut line = Vec::new();
        let read = self.reader.read_until(b'\n', &mut line);
        if read.map_err(|error| unreadable(self.path, &error))? == 0 {
            return Ok(None);
        }
        let has_end = line.pop_if(|byte| *byte == b'\n').is_some();
        Ok(Some((line, has_end)))
    }
}

/// The first line; `None` where it is damaged.
///
/// # Errors
/// [`RecallError::Newer`]
pub(super) fn parse_first_line<'a>(path: &Path, text: &'a str) -> Result<Option<FirstLine<'a>>, RecallError> {
    /// Read by itself: everything else may be different in a newer version.
    #[derive(Deserialize)]
    struct Version {
        version: Option<Value>,
    }

    let Ok(Version { version }) = serde_json::from_str(text) else { return Ok(None) };
    // A version that is not a number is a newer one.
    if let Some(version) = version.filter(|version| version.as_u64().is_none_or(|n| n > FORMAT_VERSION)) {
        return Err(RecallError::Newer(format!(
            "the journal {} was written by a newer version of rbee-hive: it has version {version}, and this \
             hive reads up to {FORMAT_VERSION}",
            path.display()
        )));
    }
    Ok(serde_json::from_str(text).ok())
}

fn unreadable(path: &Path, error: &std::io::Error) -> RecallError {
    RecallError::Unreadable(Failure::io("read the journal", path, error))
}
