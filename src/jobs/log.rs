//! A job's log: everything that it narrated, replayable by any number of readers.
//!
//! Invariants:
//! - Replay is live: every reader, early or late, is a [`Cursor`] on the one list of events.
//! - A cursor looks only after it has subscribed, and the subscription is a `watch` on the last
//!   event's number: a wake-up cannot be missed, only merged with a later one.
//! - Within its bounds the log keeps everything. Beyond them it gives up its oldest progress
//!   events, then its oldest debug and info narrations, and says so in one [`Elision`]; warnings,
//!   errors, results and the terminal event are never given up.
//! - The lock is held for short, bounded work and never across an await.

use std::sync::Arc;

use parking_lot::Mutex;
use serde::Serialize;
use tokio::sync::watch;

use super::event::{Body, Event, Terminal};
use crate::narration::Level;

/// A cursor is given at most so many events at once.
const BATCH_EVENTS: usize = 256;

/// How much a log keeps.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// Events.
    pub events: usize,
    /// Bytes of events.
    pub bytes: usize,
}

/// Which events the log gave up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
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
    state: Mutex<State>,
    /// The number of the last event; readers wait on it.
    last: watch::Sender<u64>,
    bounds: Bounds,
}

#[derive(Debug, Default)]
struct State {
    /// Ascending by number, with gaps where events were given up.
    events: Vec<Arc<Event>>,
    bytes: usize,
    elision: Option<Elision>,
    terminal: Option<Arc<Event>>,
    /// The number of the last event, kept or given up.
    last_seq: u64,
}

impl Log {
    /// An empty log.
    #[must_use]
    pub fn new(bounds: Bounds) -> Self {
        Self { state: Mutex::default(), last: watch::Sender::new(0), bounds }
    }

    /// Publishes events, whose numbers follow on those before.
    pub fn append(&self, events: impl IntoIterator<Item = Arc<Event>>) {
        let last = {
            let mut state = self.state.lock();
            for event in events {
                debug_assert!(state.last_seq < event.seq);
                debug_assert!(state.terminal.is_none(), "nothing follows the terminal event");
                state.last_seq = event.seq;
                state.bytes += event.size();
                if matches!(event.body, Body::Terminal(_)) {
                    state.terminal = Some(Arc::clone(&event));
                }
                state.events.push(event);
            }
            if state.events.len() > self.bounds.events || state.bytes > self.bounds.bytes {
                state.elide(self.bounds);
            }
            state.last_seq
        };
        self.last.send_replace(last);
    }

    /// The number of the last event; 0 before the first. Once there is a terminal event, it is that
    /// one's.
    #[must_use]
    pub fn last_seq(&self) -> u64 {
        // Not what `last` says: it follows a moment later, and whoever saw the terminal event in
        // that moment would take an earlier event for the last.
        self.state.lock().last_seq
    }

    /// The terminal event, once there is one.
    #[must_use]
    pub fn terminal(&self) -> Option<Arc<Event>> {
        self.state.lock().terminal.clone()
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
        self.state.lock().bytes
    }

    /// Whether the log has given up events.
    #[must_use]
    pub fn is_elided(&self) -> bool {
        self.state.lock().elision.is_some()
    }

    /// Restores the note of an elision that happened in an earlier run of the hive.
    pub(crate) fn restore_elision(&self, elision: Elision) {
        self.state.lock().elision = Some(elision);
    }

    /// A copy of what the log holds.
    pub(crate) fn snapshot(&self) -> (Option<Elision>, Vec<Arc<Event>>) {
        let state = self.state.lock();
        (state.elision, state.events.clone())
    }

    /// A reader that starts after event `after`; 0 starts at the first.
    #[must_use]
    pub fn follow(self: &Arc<Self>, after: u64) -> Cursor {
        Cursor { last: self.last.subscribe(), log: Arc::clone(self), after, told: 0 }
    }
}

impl State {
    /// Brings the log to nine tenths of its bounds, so that this seldom runs.
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

/// What a cursor is given at once.
#[derive(Debug, Default)]
pub struct Batch {
    /// Events before these that the cursor can no longer have.
    pub elision: Option<Elision>,
    /// The next events, in order.
    pub events: Vec<Arc<Event>>,
}

/// One reader's place in a log.
#[derive(Debug)]
pub struct Cursor {
    log: Arc<Log>,
    last: watch::Receiver<u64>,
    after: u64,
    /// The end of the elision that this reader was told of.
    told: u64,
}

impl Cursor {
    /// The next events, as soon as there are some; `None` after the terminal event.
    pub async fn next(&mut self) -> Option<Batch> {
        loop {
            // Marked as seen before looking: what comes in between wakes the wait below.
            self.last.borrow_and_update();
            match self.read() {
                Ok(Some(batch)) => return Some(batch),
                Ok(None) => return None,
                Err(Dry) => self.last.changed().await.ok()?,
            }
        }
    }

    /// What is there now: events, `None` at the end, [`Dry`] where the job goes on.
    fn read(&mut self) -> Result<Option<Batch>, Dry> {
        let state = self.log.state.lock();
        let start = state.events.partition_point(|event| event.seq <= self.after);
        let rest = &state.events[start..];
        if rest.is_empty() {
            return if state.terminal.is_some() { Ok(None) } else { Err(Dry) };
        }
        let elision = state.elision.filter(|elision| elision.to > self.after.max(self.told));
        let events: Vec<_> = rest.iter().take(BATCH_EVENTS).cloned().collect();
        self.told = elision.map_or(self.told, |elision| elision.to);
        self.after = events.last().map_or(self.after, |event| event.seq);
        Ok(Some(Batch { elision, events }))
    }
}

/// Nothing to read now.
struct Dry;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::narration::Progress;
    use crate::time::Instant;

    const BOUNDS: Bounds = Bounds { events: 100, bytes: 1 << 20 };

    fn narration(seq: u64, level: Level, progress: bool) -> Arc<Event> {
        let progress = progress.then(Progress::default);
        let body = Body::Narration { level, action: "a".into(), message: seq.to_string(), progress };
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
    async fn beyond_them_it_gives_up_progress_first_and_says_so() {
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
        // A reader that is past the elision is not bothered with it.
        assert_eq!(read_all(&log, elision.to).await.0, None);
    }

    #[test]
    fn the_last_number_stays_where_the_event_itself_was_given_up() {
        let log = Log::new(Bounds { events: 100, bytes: 64 });
        log.append([narration(1, Level::Info, false)]);
        assert!(log.snapshot().1.is_empty(), "it is larger than all that is kept");
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
