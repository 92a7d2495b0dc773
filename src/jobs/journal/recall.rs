//! A job that is read back from its journal, line by line.

use std::path::Path;
use std::sync::Arc;

use serde_json::Value;

use super::lines::Found;
use crate::error::{Code, Failure};
use crate::jobs::event::{Body, Event, Terminal};
use crate::jobs::job::{JobHeader, JournalDamage};
use crate::jobs::log::Log;
use crate::narration::{Level, Progress};
use crate::text;
use crate::time::Instant;

/// A job read back from its journal. Its log ends with a terminal event.
#[derive(Debug)]
pub(in crate::jobs) struct RecalledJob {
    pub(in crate::jobs) header: JobHeader,
    pub(in crate::jobs) started_at: Option<Instant>,
    pub(in crate::jobs) log: Arc<Log>,
    pub(in crate::jobs) journal: JournalState,
}

/// What is to become of a journal that was read back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::jobs) enum JournalState {
    /// Nothing: it has every event.
    Whole,
    /// Its job's end is to be added to it.
    WithoutEnd,
    /// It is damaged: it is to be set aside.
    Damaged,
    /// It has events that this version does not know: it is never changed.
    LeftAlone,
}

/// A job that is being read back.
pub(super) struct Recall {
    log: Log,
    /// The result and the end, held back so that the note of what is lost stands before them.
    tail: Vec<Event>,
    /// Lines that are damaged.
    damaged: u64,
    /// Lines that this version does not know.
    unknown: u64,
    /// Whether such a line follows the last event.
    is_end_lost: bool,
    /// The operation, as the first event that could be read tells it.
    pub(super) operation: Option<String>,
    /// The last progress.
    progress: Option<Progress>,
}

impl Recall {
    pub(super) fn new(log: Log, has_header: bool) -> Self {
        Self {
            log,
            tail: Vec::new(),
            damaged: u64::from(!has_header),
            unknown: 0,
            // A journal gets its name with its whole first line: where that is damaged, more may be lost.
            is_end_lost: !has_header,
            operation: None,
            progress: None,
        }
    }

    /// The event that was found; what is not one is counted.
    pub(super) fn take(&mut self, found: Found) -> Option<Event> {
        self.is_end_lost = true;
        match found {
            Found::Event(event, line) => {
                self.is_end_lost = false;
                self.operation.get_or_insert_with(|| operation_of(&line));
                return Some(event);
            }
            Found::Unknown => self.unknown += 1,
            Found::Damaged => self.damaged += 1,
        }
        None
    }

    pub(super) fn append(&mut self, event: Event) {
        if let Body::Narration { progress, .. } = &event.body {
            self.progress = progress.clone().or_else(|| self.progress.take());
            // A result that something follows was not the last word.
            let earlier = self.tail.drain(..).map(Arc::new);
            self.log.append(earlier.chain([Arc::new(event)]));
        } else {
            self.tail.push(event);
        }
    }

    /// Adds a note of what is lost, and the end where there is none.
    pub(super) fn finish(
        mut self,
        mut header: JobHeader,
        started_at: Option<Instant>,
        kept_as: &Path,
    ) -> RecalledJob {
        let has_end = matches!(self.tail.last(), Some(Event { body: Body::Terminal(_), .. }));
        let journal = match (self.damaged, self.unknown) {
            (0, 0) if has_end => JournalState::Whole,
            (0, 0) => JournalState::WithoutEnd,
            (_, 1..) => JournalState::LeftAlone,
            _ => JournalState::Damaged,
        };
        if !has_end {
            let end = self.missing_end(&header);
            self.tail.push(end);
        }
        if self.damaged > 0 {
            // Of a journal that is left alone, the damaged file is the journal itself.
            let kept_as =
                if journal == JournalState::Damaged { kept_as } else { &kept_as.with_extension("") };
            let kept_as = kept_as.display().to_string();
            self.note(format!(
                "{} line(s) of this job's journal are damaged: what they said is lost. The file is kept as {kept_as}",
                self.damaged
            ));
            header.journal_damage = Some(JournalDamage { lines: self.damaged, kept_as });
        }
        if self.unknown > 0 {
            self.note(format!(
                "{} event(s) of this job are not shown: a newer version of rbee-hive wrote them, or they are damaged",
                self.unknown
            ));
        }
        for event in self.tail {
            let seq = event.seq.max(self.log.last_seq() + 1);
            self.log.append([Arc::new(Event { seq, ..event })]);
        }
        RecalledJob { header, started_at, log: Arc::new(self.log), journal }
    }

    fn note(&mut self, message: String) {
        let at = self.tail.first().map_or_else(Instant::now, |event| event.at);
        let (level, action) = (Level::Warn, "journal_damaged".into());
        let body = Body::Narration { level, action, message, progress: None, step: None };
        self.log.append([Arc::new(Event { seq: self.log.last_seq() + 1, at, body })]);
    }

    /// The end of a job whose journal has none.
    fn missing_end(&self, JobHeader { id, operation, .. }: &JobHeader) -> Event {
        let last_seq = self.log.last_seq();
        // A result is written together with its end, and only before `done`.
        if let Some(result) = self.tail.last() {
            return Event { seq: result.seq + 1, at: result.at, body: Body::Terminal(Terminal::Done) };
        }
        let failure = if self.is_end_lost {
            Failure::new(Code::OutcomeUnknown, format!("how {operation} ended cannot be read in its journal"))
                .hint("look whether what it was to do is done; submit it again if not")
        } else {
            self.interrupted(operation)
        };
        tracing::warn!(job_id = %id, "{failure}");
        let terminal = Terminal::Failed(Arc::new(failure));
        Event { seq: last_seq + 1, at: Instant::now(), body: Body::Terminal(terminal) }
    }

    /// The failure of a job that was under way when the hive ended. Its last progress tells what it kept.
    fn interrupted(&self, operation: &str) -> Failure {
        let message = format!("the hive ended while {operation} was under way");
        let Some(kept) = self.progress.as_ref().and_then(kept) else {
            return Failure::new(Code::Interrupted, message).hint("submit it again");
        };
        Failure::new(Code::Interrupted, format!("{message}: at least {kept} are kept"))
            .hint(format!("submit {operation} again: it goes on from there"))
    }
}

/// How much of a piece of work is kept, if any: `300.0 KiB of 1.9 MiB`.
fn kept(progress: &Progress) -> Option<String> {
    let kept = progress.kept.filter(|&kept| kept > 0)?;
    let in_units = |count| match &*progress.unit {
        "bytes" => text::bytes(count),
        unit => format!("{count} {unit}"),
    };
    Some(match progress.total {
        Some(total) => format!("{} of {}", in_units(kept), in_units(total)),
        None => in_units(kept),
    })
}

/// The operation that an event's line names.
fn operation_of(line: &str) -> String {
    let line: Value = serde_json::from_str(line).unwrap_or_default();
    line["data"]["operation"].as_str().unwrap_or_default().to_owned()
}
