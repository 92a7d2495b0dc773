//! What happens to requests, for readers of `/v1/events`.
//!
//! These events are not in the ring of the hub: a thousand requests a second would push out everything else.
//! A reader that comes later misses them, and one that reads too slowly is told how many.

use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use serde_json::json;
use tokio::sync::broadcast;

use super::record::Record;
use crate::text;
use crate::time::monotonic;

/// The most events in a second; of the rest there is a count.
const EVENTS_PER_SECOND: u32 = 50;
/// How many events a reader may fall behind.
const BUFFERED: usize = 256;

/// The events of requests.
#[derive(Debug)]
pub(crate) struct Feed {
    events: broadcast::Sender<Arc<str>>,
    window: Mutex<Window>,
}

/// The second that runs.
#[derive(Debug)]
struct Window {
    since: Instant,
    events: u32,
    /// How many events were left out since the last one.
    left_out: u64,
}

impl Default for Feed {
    fn default() -> Self {
        let window = Window { since: monotonic(), events: 0, left_out: 0 };
        Self { events: broadcast::Sender::new(BUFFERED), window: Mutex::new(window) }
    }
}

impl Feed {
    pub(super) fn announce(&self, record: &Record) {
        if self.events.receiver_count() == 0 {
            return;
        }
        let Some(left_out) = self.window.lock().admit(monotonic()) else { return };
        if left_out > 0 {
            self.send(Self::left_out(left_out));
        }
        self.send(text::json(record));
    }

    fn send(&self, data: String) {
        // An error means that the last reader has gone.
        let _no_readers = self.events.send(data.into());
    }

    pub(super) fn follow(&self) -> broadcast::Receiver<Arc<str>> {
        self.events.subscribe()
    }

    /// The event in the place of so many others.
    pub(crate) fn left_out(count: u64) -> String {
        json!({"state": "left_out", "count": count}).to_string()
    }
}

impl Window {
    /// How many events were left out before this one; `None` if it is left out too.
    fn admit(&mut self, now: Instant) -> Option<u64> {
        if now.saturating_duration_since(self.since) >= Duration::from_secs(1) {
            (self.since, self.events) = (now, 0);
        }
        if self.events == EVENTS_PER_SECOND {
            self.left_out += 1;
            return None;
        }
        self.events += 1;
        Some(std::mem::take(&mut self.left_out))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn more_events_than_fit_into_a_second_are_counted() {
        let start = monotonic();
        let mut window = Window { since: start, events: 0, left_out: 0 };
        let admitted = (0..60).filter(|_| window.admit(start) == Some(0)).count();
        assert_eq!(admitted, 50);
        let later = start + Duration::from_secs(1);
        assert_eq!((window.admit(later), window.admit(later)), (Some(10), Some(0)));
    }
}
