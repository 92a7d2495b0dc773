//! A job's log: everything that it narrated, replayable by any number of readers.
//!
//! Invariants:
//! - Replay and live reading are one path: every reader, early or late, is a [`Cursor`] on the one
//!   list of events.
//! - A cursor subscribes before it looks, and subscribes to a `watch` of the last event's number: a
//!   wake-up can be merged with a later one, but not missed.
//! - Within its bounds the log keeps everything. Beyond them it drops its oldest progress events, then
//!   its oldest debug and info narrations, and reports what it dropped in one [`Elision`]. It never
//!   drops warnings, errors, results and the terminal event.
//! - The lock is held for short, bounded work and never across an await.

use std::sync::Arc;

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use tokio::sync::watch;
use utoipa::ToSchema;

use super::event::{Body, Event, Terminal};
use crate::narration::{Level, Progress};

/// The most events of one batch.
const BATCH_EVENTS: usize = 256;

/// How much a log keeps.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// Events.
    pub events: usize,
    /// Bytes of events.
    pub bytes: usize,
}

/// Which events the log dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[schema(as = JobElisionEvent)]
pub struct Elision {
    /// The number of the first.
    pub from: u64,
    /// The number of the last.
    pub to: u64,
    /// How many, between those two.
    pub count: u64,
}

/// The log of one job.
#[derive(Debug)]
pub struct Log {
    contents: Mutex<Contents>,
    /// The number of the last event; readers wait on it.
    last: watch::Sender<u64>,
    bounds: Bounds,
}

#[derive(Debug, Default)]
struct Contents {
    /// Ascending by number, with gaps where events were dropped.
    events: Vec<Arc<Event>>,
    bytes: usize,
    elision: Option<Elision>,
    terminal: Option<Arc<Event>>,
    /// The number of the last event, kept or dropped.
    last_seq: u64,
}

impl Log {
    /// An empty log.
    #[must_use]
    pub fn new(bounds: Bounds) -> Self {
        Self { contents: Mutex::default(), last: watch::Sender::new(0), bounds }
    }

    /// Publishes events. Their numbers continue those before.
    pub fn append(&self, events: impl IntoIterator<Item = Arc<Event>>) {
        let last = {
            let mut contents = self.contents.lock();
            for event in events {
                debug_assert!(contents.last_seq < event.seq);
                debug_assert!(contents.terminal.is_none(), "nothing follows the terminal event");
                contents.last_seq = event.seq;
                contents.bytes += event.size();
                if matches!(event.body, Body::Terminal(_)) {
                    contents.terminal = Some(Arc::clone(&event));
                }
                contents.events.push(event);
                // After each event, and not after each batch: what is dropped depends on the events alone, so that
                // every hive that keeps this log drops the same.
                if contents.events.len() > self.bounds.events || contents.bytes > self.bounds.bytes {
                    contents.elide(self.bounds);
                }
            }
            contents.last_seq
        };
        self.last.send_replace(last);
    }

    /// The number of the last event; 0 before the first. Once there is a terminal event, its number.
    #[must_use]
    pub fn last_seq(&self) -> u64 {
        // Not from `last`, which is updated a moment later: a caller that had seen the terminal event
        // would take an earlier event for the last.
        self.contents.lock().last_seq
    }

    /// The terminal event, once there is one.
    #[must_use]
    pub fn terminal(&self) -> Option<Arc<Event>> {
        self.contents.lock().terminal.clone()
    }

    /// How the job ended, once it has.
    #[must_use]
    pub fn outcome(&self) -> Option<Terminal> {
        match &self.terminal()?.body {
            Body::Terminal(terminal) => Some(terminal.clone()),
            _ => None,
        }
    }

    /// Bytes of memory that the events take.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.contents.lock().bytes
    }

    /// Whether the log has dropped events.
    #[must_use]
    pub fn is_elided(&self) -> bool {
        self.contents.lock().elision.is_some()
    }

    /// Restores the elision of an earlier run of the hive.
    pub(crate) fn restore_elision(&self, elision: Elision) {
        self.contents.lock().elision = Some(elision);
    }

    /// A copy of what the log holds.
    pub(crate) fn snapshot(&self) -> (Option<Elision>, Vec<Arc<Event>>) {
        let contents = self.contents.lock();
        (contents.elision, contents.events.clone())
    }

    /// The progress that was narrated last.
    pub(super) fn last_progress(&self) -> Option<Progress> {
        self.contents.lock().events.iter().rev().find_map(|event| match &event.body {
            Body::Narration { progress, .. } => progress.clone(),
            _ => None,
        })
    }

    /// Waits until event number `seq` is published, or the last one.
    pub(crate) async fn reaches(&self, seq: u64) {
        let mut last = self.last.subscribe();
        while self.last_seq() < seq && self.terminal().is_none() {
            // The sender lives in `self`.
            let _changed = last.changed().await;
        }
    }

    /// A reader that starts after event number `after`; 0 starts at the first.
    #[must_use]
    pub fn follow(self: &Arc<Self>, after: u64) -> Cursor {
        Cursor { last: self.last.subscribe(), log: Arc::clone(self), after, elision_told: 0 }
    }
}

impl Contents {
    /// Reduces the log to nine tenths of its bounds, so that this runs seldom.
    fn elide(&mut self, bounds: Bounds) {
        let fits = |events: usize, bytes: usize| {
            events <= bounds.events - bounds.events / 10 && bytes <= bounds.bytes - bounds.bytes / 10
        };
        let expendable: [fn(&Body) -> bool; 3] = [
            |body| matches!(body, Body::Narration { progress: Some(_), level, .. } if *level <= Level::Info),
            |body| matches!(body, Body::Narration { level: Level::Debug, .. }),
            |body| matches!(body, Body::Narration { level: Level::Info, .. }),
        ];
        for expendable in expendable {
            let (mut kept, mut bytes) = (self.events.len(), self.bytes);
            if fits(kept, bytes) {
                break;
            }
            let elision = &mut self.elision;
            self.events.retain(|event| {
                if fits(kept, bytes) || !expendable(&event.body) {
                    return true;
                }
                kept -= 1;
                bytes -= event.size();
                let elision = elision.get_or_insert(Elision { from: event.seq, to: event.seq, count: 0 });
                elision.from = elision.from.min(event.seq);
                elision.to = elision.to.max(event.seq);
                elision.count += 1;
                false
            });
            self.bytes = bytes;
        }
    }
}

/// What a cursor returns at once.
#[derive(Debug, Default)]
pub struct Batch {
    /// Dropped events before these, once for each elision.
    pub elision: Option<Elision>,
    /// The next events, in order.
    pub events: Vec<Arc<Event>>,
}

/// One reader's position in a log.
#[derive(Debug)]
pub struct Cursor {
    log: Arc<Log>,
    last: watch::Receiver<u64>,
    after: u64,
    /// The last event of the elision that this reader was told of.
    elision_told: u64,
}

impl Cursor {
    /// The next events, as soon as there are some; `None` after the terminal event.
    pub async fn next(&mut self) -> Option<Batch> {
        loop {
            // Marked as seen before looking, so that an event in between wakes the wait below.
            self.last.borrow_and_update();
            match self.read() {
                Read::Events(batch) => return Some(batch),
                Read::Ended => return None,
                Read::NothingYet => self.last.changed().await.ok()?,
            }
        }
    }

    fn read(&mut self) -> Read {
        let contents = self.log.contents.lock();
        let start = contents.events.partition_point(|event| event.seq <= self.after);
        let rest = &contents.events[start..];
        if rest.is_empty() {
            return if contents.terminal.is_some() { Read::Ended } else { Read::NothingYet };
        }
        let elision = contents.elision.filter(|elision| elision.to > self.after.max(self.elision_told));
        let events: Vec<_> = rest.iter().take(BATCH_EVENTS).cloned().collect();
        self.elision_told = elision.map_or(self.elision_told, |elision| elision.to);
        self.after = events.last().map_or(self.after, |event| event.seq);
        Read::Events(Batch { elision, events })
    }
}

/// What a cursor finds when it looks.
enum Read {
    Events(Batch),
    /// The terminal event was the last one read.
    Ended,
    NothingYet,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::narration::Progress;
    use crate::time::Instant;

    const BOUNDS: Bounds = Bounds { events: 100, bytes: 1 << 20 };

    fn narration(seq: u64, level: Level, progress: bool) -> Arc<Event> {
        let progress = progress.then(Progress::default);
        let body =
            Body::Narration { level, action: "a".into(), message: seq.to_string(), progress, step: None };
        Arc::new(Event { seq, at: Instant(0), body })
    }

    fn terminal(seq: u64) -> Arc<Event> {
        Arc::new(Event { seq, at: Instant(0), body: Body::Terminal(Terminal::Done) })
    }

    async fn read_all(log: &Arc<Log>, after: u64) -> (Option<Elision>, Vec<u64>) {
        let (mut cursor, mut elision, mut seqs) = (log.follow(after), None, Vec::new());
        while let Some(batch) = cursor.next().await {
            elision = batch.elision.or(elision);
            seqs.extend(batch.events.iter().map(|event| event.seq));
        }
        (elision, seqs)
    }

    #[tokio::test]
    async fn within_its_bounds_a_log_keeps_everything_for_every_cursor() {
        let log = Arc::new(Log::new(BOUNDS));
        log.append((1..100).map(|seq| narration(seq, Level::Info, true)));
        log.append([terminal(100)]);
        for after in 0..=100 {
            assert_eq!(read_all(&log, after).await, (None, (after + 1..=100).collect()));
        }
    }

    #[tokio::test]
    async fn beyond_its_bounds_a_log_drops_progress_first_and_reports_it() {
        let log = Arc::new(Log::new(BOUNDS));
        for seq in 1..=300 {
            let warn = if seq % 10 == 0 { Level::Warn } else { Level::Info };
            log.append([narration(seq, warn, seq % 2 == 0)]);
        }
        log.append([terminal(301)]);
        let (elision, seqs) = read_all(&log, 0).await;
        let elision = elision.unwrap();
        assert!(seqs.len() <= BOUNDS.events);
        assert_eq!(elision.count as usize + seqs.len(), 301);
        assert!((1..=300).filter(|seq| seq % 10 == 0).all(|seq| seqs.contains(&seq)), "no warning is lost");
        assert_eq!(seqs.last(), Some(&301));
        // A reader beyond the elision is not told of it.
        assert_eq!(read_all(&log, elision.to).await.0, None);
    }

    #[test]
    fn the_last_number_stays_when_its_event_is_dropped() {
        let log = Log::new(Bounds { events: 100, bytes: 64 });
        log.append([narration(1, Level::Info, false)]);
        assert!(log.snapshot().1.is_empty(), "the event is larger than the log's bound");
        assert_eq!(log.last_seq(), 1);
    }

    #[tokio::test]
    async fn a_live_cursor_sees_what_a_late_one_sees() {
        let log = Arc::new(Log::new(BOUNDS));
        let readers: Vec<_> = (0..8)
            .map(|_| {
                let log = Arc::clone(&log);
                crate::spawn::task(async move { read_all(&log, 0).await.1 })
            })
            .collect();
        for seq in 1..=50 {
            log.append([narration(seq, Level::Info, false)]);
            tokio::task::yield_now().await;
        }
        log.append([terminal(51)]);
        for reader in readers {
            assert_eq!(reader.await.unwrap(), (1..=51).collect::<Vec<_>>());
        }
    }
}
