//! The hub of `GET /v1/events`: what changes in the hive, for readers that watch all of it.
//!
//! Events are numbered within an epoch, one run of the daemon, and the last ones are kept in a
//! ring; a reader resumes by `epoch-n`. A reader that is new, comes from another epoch or was away
//! for longer than the ring lasts starts with a snapshot.
//!
//! Telemetry is not in the ring: it is the present or nothing, and once a second it would push out
//! everything else.

use std::collections::VecDeque;
use std::sync::Arc;

use parking_lot::Mutex;
use serde::Serialize;
use tokio::sync::watch;

use crate::text::json;

/// What an event is about: its `event:` name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Topic {
    /// An act starts, gets on or ends.
    Job,
    /// A model appears, changes or goes.
    Model,
    /// A worker appears, changes or goes.
    Worker,
}

impl Topic {
    /// The name on the wire.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Job => "job",
            Self::Model => "model",
            Self::Worker => "worker",
        }
    }
}

/// One event of the ring.
#[derive(Debug)]
pub struct HubEvent {
    /// Its number within the epoch, from 1.
    pub number: u64,
    /// What it is about.
    pub topic: Topic,
    /// Its data, as JSON.
    pub data: String,
}

/// The hub.
#[derive(Debug)]
pub struct Hub {
    epoch: String,
    ring: Mutex<VecDeque<Arc<HubEvent>>>,
    last: watch::Sender<u64>,
    capacity: usize,
}

impl Hub {
    /// A hub that keeps the last `capacity` events, under an epoch of its own.
    #[must_use]
    pub fn new(capacity: usize) -> Self {
        let epoch = uuid::Uuid::new_v4().simple().to_string()[..12].to_owned();
        Self { epoch, ring: Mutex::default(), last: watch::Sender::new(0), capacity: capacity.max(1) }
    }

    /// Tells every reader.
    pub fn publish(&self, topic: Topic, data: &impl Serialize) {
        let data = json(data);
        let mut ring = self.ring.lock();
        let number = *self.last.borrow() + 1;
        if ring.len() == self.capacity {
            ring.pop_front();
        }
        ring.push_back(Arc::new(HubEvent { number, topic, data }));
        self.last.send_replace(number);
    }

    /// The id under which a reader resumes after event `number`.
    #[must_use]
    pub fn id(&self, number: u64) -> String {
        format!("{}-{number}", self.epoch)
    }

    /// The number of the last event; 0 before the first.
    #[must_use]
    pub fn last(&self) -> u64 {
        *self.last.borrow()
    }

    /// A reader that resumes after `last_event_id`, if the ring reaches back to it, or one that
    /// starts now and must be given a snapshot first.
    #[must_use]
    pub fn follow(self: &Arc<Self>, last_event_id: Option<&str>) -> HubReader {
        let last = self.last.subscribe();
        let resumed = last_event_id
            .and_then(|id| id.strip_prefix(&self.epoch)?.strip_prefix('-')?.parse::<u64>().ok())
            .filter(|after| self.reaches(&self.ring.lock(), *after));
        let after = resumed.unwrap_or_else(|| self.last());
        HubReader { hub: Arc::clone(self), last, after, needs_snapshot: resumed.is_none() }
    }

    /// Whether everything after event `after` is still there.
    fn reaches(&self, ring: &VecDeque<Arc<HubEvent>>, after: u64) -> bool {
        let oldest = ring.front().map_or(1, |event| event.number);
        after <= self.last() && after + 1 >= oldest
    }
}

/// One reader's place.
#[derive(Debug)]
pub struct HubReader {
    hub: Arc<Hub>,
    last: watch::Receiver<u64>,
    after: u64,
    needs_snapshot: bool,
}

impl HubReader {
    /// Whether the reader must be given a snapshot before the next events, and the id to give it
    /// under. Asking clears it: events after that id are the reader's next.
    pub fn take_snapshot_due(&mut self) -> Option<String> {
        std::mem::take(&mut self.needs_snapshot).then(|| {
            self.after = self.hub.last();
            self.hub.id(self.after)
        })
    }

    /// The next events, as soon as there are some. Empty where the reader fell behind the ring:
    /// then it is due a snapshot.
    pub async fn next(&mut self) -> Vec<Arc<HubEvent>> {
        // The hub lives in `self`: the channel cannot close under this.
        let _open = self.last.wait_for(|last| *last > self.after).await.is_ok();
        // Under one lock: between two, the ring could give up what this reader has not seen.
        let ring = self.hub.ring.lock();
        if !self.hub.reaches(&ring, self.after) {
            self.needs_snapshot = true;
            return Vec::new();
        }
        let start = ring.partition_point(|event| event.number <= self.after);
        let events: Vec<_> = ring.iter().skip(start).take(256).cloned().collect();
        self.after = events.last().map_or(self.after, |event| event.number);
        events
    }

    /// The id of the event last given out.
    #[must_use]
    pub fn id(&self, event: &HubEvent) -> String {
        self.hub.id(event.number)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Publishes these numbers as the data of events.
    fn publish(hub: &Hub, numbers: std::ops::RangeInclusive<u64>) {
        numbers.for_each(|number| hub.publish(Topic::Model, &number));
    }

    async fn next(reader: &mut HubReader) -> Vec<u64> {
        reader.next().await.iter().map(|event| event.number).collect()
    }

    #[tokio::test]
    async fn a_reader_resumes_exactly_as_far_back_as_the_ring_reaches() {
        for capacity in 1..=4 {
            let hub = Arc::new(Hub::new(usize::try_from(capacity).unwrap()));
            let mut live = hub.follow(None);
            live.take_snapshot_due().unwrap();
            // As many events as the ring holds are all there, for a live reader too.
            publish(&hub, 1..=capacity);
            assert_eq!(next(&mut live).await, (1..=capacity).collect::<Vec<_>>());
            publish(&hub, capacity + 1..=2 * capacity);
            assert_eq!(next(&mut live).await, (capacity + 1..=2 * capacity).collect::<Vec<_>>());

            // The ring holds the last `capacity` of them: whoever saw the one before misses none.
            let mut resumed = hub.follow(Some(&hub.id(capacity)));
            assert_eq!(resumed.take_snapshot_due(), None, "of {capacity}");
            assert_eq!(next(&mut resumed).await, (capacity + 1..=2 * capacity).collect::<Vec<_>>());
            let mut late = hub.follow(Some(&hub.id(capacity - 1)));
            assert_eq!(late.take_snapshot_due(), Some(hub.id(2 * capacity)), "event {capacity} is gone");

            // One more event than the ring holds, and a live reader has missed one.
            publish(&hub, 2 * capacity + 1..=3 * capacity + 1);
            assert!(live.next().await.is_empty());
            assert_eq!(live.take_snapshot_due(), Some(hub.id(3 * capacity + 1)));
        }
    }

    #[tokio::test]
    async fn a_reader_resumes_within_the_ring_and_starts_over_beyond_it() {
        let hub = Arc::new(Hub::new(3));
        let mut live = hub.follow(None);
        assert_eq!(live.take_snapshot_due(), Some(hub.id(0)));
        for i in 1..=2 {
            hub.publish(Topic::Model, &i);
        }
        assert_eq!(live.next().await.iter().map(|e| e.number).collect::<Vec<_>>(), [1, 2]);

        let mut resumed = hub.follow(Some(&hub.id(1)));
        assert_eq!(resumed.take_snapshot_due(), None);
        assert_eq!(resumed.next().await[0].number, 2);

        for i in 3..=9 {
            hub.publish(Topic::Model, &i);
        }
        assert!(live.next().await.is_empty(), "it fell behind");
        assert_eq!(live.take_snapshot_due(), Some(hub.id(9)));
        for stale in [&hub.id(2), &hub.id(10), "0000-1", "nonsense"] {
            assert!(hub.follow(Some(stale)).take_snapshot_due().is_some(), "{stale}");
        }
    }
}
