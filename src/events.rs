//! The hub of `GET /v1/events`: the changes of the whole hive.
//!
//! Events are numbered within an epoch, which is one run of the daemon, and a ring keeps the last ones. A
//! reader resumes by `epoch-n`. A reader starts with a snapshot if it is new, comes from another epoch,
//! or missed events that the ring has dropped.
//!
//! Telemetry is not in the ring: old samples are of no use, and one a second would push out everything
//! else.

use std::collections::VecDeque;
use std::sync::Arc;

use parking_lot::Mutex;
use serde::Serialize;
use tokio::sync::watch;

use crate::text::json;

/// What an event is about: its `event:` name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Topic {
    /// An act starts, makes progress or ends.
    Job,
    /// A model is added, changed or removed.
    Model,
    /// A worker is added, changed or removed.
    Worker,
    /// What is in memory, or waits for it, has changed.
    Residency,
    /// The settings were reloaded.
    Config,
    /// A hive of the fleet came, went or told something new about itself.
    Hive,
}

impl Topic {
    /// The name on the wire.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Job => "job",
            Self::Model => "model",
            Self::Worker => "worker",
            Self::Residency => "residency",
            Self::Config => "config",
            Self::Hive => "hive",
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

    /// Publishes an event to every reader.
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

    /// A reader that resumes after `last_event_id` if the ring has every event since. Otherwise it starts
    /// with the next event and needs a snapshot first.
    #[must_use]
    pub fn follow(self: &Arc<Self>, last_event_id: Option<&str>) -> HubReader {
        let last = self.last.subscribe();
        let resumed = last_event_id
            .and_then(|id| id.strip_prefix(&self.epoch)?.strip_prefix('-')?.parse::<u64>().ok())
            .filter(|after| self.reaches(&self.ring.lock(), *after));
        let after = resumed.unwrap_or_else(|| self.last());
        HubReader { hub: Arc::clone(self), last, after, needs_snapshot: resumed.is_none() }
    }

    /// Whether the ring has every event after number `after`.
    fn reaches(&self, ring: &VecDeque<Arc<HubEvent>>, after: u64) -> bool {
        let oldest = ring.front().map_or(1, |event| event.number);
        after <= self.last() && after + 1 >= oldest
    }
}

/// One reader's position.
#[derive(Debug)]
pub struct HubReader {
    hub: Arc<Hub>,
    last: watch::Receiver<u64>,
    after: u64,
    needs_snapshot: bool,
}

impl HubReader {
    /// The id of the snapshot that the reader needs before its next events, if it needs one. Asking clears
    /// the need: the reader's next events are those after that id.
    pub fn take_snapshot_id(&mut self) -> Option<String> {
        std::mem::take(&mut self.needs_snapshot).then(|| {
            self.after = self.hub.last();
            self.hub.id(self.after)
        })
    }

    /// The next events, as soon as there are some. Empty if the reader missed events: then it needs a
    /// snapshot.
    pub async fn next(&mut self) -> Vec<Arc<HubEvent>> {
        // The hub lives in `self`, so the channel stays open.
        let _open = self.last.wait_for(|last| *last > self.after).await.is_ok();
        // Under one lock: between two, the ring could drop events that this reader has not seen.
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

    /// The id of an event.
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
            live.take_snapshot_id().unwrap();
            // As many events as the ring holds are all there, for a live reader too.
            publish(&hub, 1..=capacity);
            assert_eq!(next(&mut live).await, (1..=capacity).collect::<Vec<_>>());
            publish(&hub, capacity + 1..=2 * capacity);
            assert_eq!(next(&mut live).await, (capacity + 1..=2 * capacity).collect::<Vec<_>>());

            // The ring holds the last `capacity` of them: whoever saw the one before misses none.
            let mut resumed = hub.follow(Some(&hub.id(capacity)));
            assert_eq!(resumed.take_snapshot_id(), None, "of {capacity}");
            assert_eq!(next(&mut resumed).await, (capacity + 1..=2 * capacity).collect::<Vec<_>>());
            let mut late = hub.follow(Some(&hub.id(capacity - 1)));
            assert_eq!(late.take_snapshot_id(), Some(hub.id(2 * capacity)), "event {capacity} is gone");

            // One more event than the ring holds, and a live reader has missed one.
            publish(&hub, 2 * capacity + 1..=3 * capacity + 1);
            assert!(live.next().await.is_empty());
            assert_eq!(live.take_snapshot_id(), Some(hub.id(3 * capacity + 1)));
        }
    }

    #[tokio::test]
    async fn a_reader_that_missed_events_starts_with_a_snapshot() {
        let hub = Arc::new(Hub::new(3));
        let mut live = hub.follow(None);
        assert_eq!(live.take_snapshot_id(), Some(hub.id(0)));
        for i in 1..=2 {
            hub.publish(Topic::Model, &i);
        }
        assert_eq!(live.next().await.iter().map(|e| e.number).collect::<Vec<_>>(), [1, 2]);

        let mut resumed = hub.follow(Some(&hub.id(1)));
        assert_eq!(resumed.take_snapshot_id(), None);
        assert_eq!(resumed.next().await[0].number, 2);

        for i in 3..=9 {
            hub.publish(Topic::Model, &i);
        }
        assert!(live.next().await.is_empty(), "it missed events");
        assert_eq!(live.take_snapshot_id(), Some(hub.id(9)));
        for stale in [&hub.id(2), &hub.id(10), "0000-1", "nonsense"] {
            assert!(hub.follow(Some(stale)).take_snapshot_id().is_some(), "{stale}");
        }
    }
}
