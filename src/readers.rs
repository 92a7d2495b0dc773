//! Who reads streams now.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// A stream that a client can follow for as long as it likes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stream {
    /// `/v1/jobs/{job_id}/stream`
    Job,
    /// `/v1/events`
    Events,
    /// `/v1/heartbeats/stream`
    Heartbeats,
    /// `/v1/workers/{pid}/log`
    WorkerLog,
}

impl Stream {
    pub(crate) const ALL: [Self; 4] = [Self::Job, Self::Events, Self::Heartbeats, Self::WorkerLog];

    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Job => "job",
            Self::Events => "events",
            Self::Heartbeats => "heartbeats",
            Self::WorkerLog => "worker_log",
        }
    }
}

/// How many readers each kind of stream has now. Clones share the counts.
#[derive(Clone, Debug, Default)]
pub(crate) struct Readers(Arc<[AtomicUsize; Stream::ALL.len()]>);

impl Readers {
    /// Counts a reader of a stream, until it is dropped.
    pub(crate) fn of(&self, stream: Stream) -> Reader {
        self.0[stream as usize].fetch_add(1, Ordering::Relaxed);
        Reader { readers: self.clone(), stream }
    }

    pub(crate) fn count(&self, stream: Stream) -> usize {
        self.0[stream as usize].load(Ordering::Relaxed)
    }
}

/// One reader. Its stream holds it.
#[derive(Debug)]
#[must_use = "it counts until it is dropped"]
pub(crate) struct Reader {
    readers: Readers,
    stream: Stream,
}

impl Drop for Reader {
    fn drop(&mut self) {
        self.readers.0[self.stream as usize].fetch_sub(1, Ordering::Relaxed);
    }
}
