//! When another connection joins a transfer: while it can be of use. Past a rate that a disk and a hash
//! barely keep up with, and sooner where the server is near, it would only put the bytes out of order.

use std::time::Duration;

use tokio::time::Instant;

/// From this rate on no further connection joins, in bytes a second.
const FAST: u64 = 512 << 20;
/// A server that answers within this time is near: distance does not slow its connections down.
const NEAR: Duration = Duration::from_millis(10);
/// From this rate on no further connection to a near server joins, in bytes a second.
const FAST_AND_NEAR: u64 = 64 << 20;

/// Measures whether another connection is of use.
#[derive(Debug)]
pub(crate) struct Joining {
    /// When it was last asked, and the bytes received until then.
    asked: Instant,
    received: u64,
    /// The shortest time in which an answer began.
    fastest_answer: Duration,
}

impl Joining {
    pub(crate) fn new(received: u64) -> Self {
        Self { asked: Instant::now(), received, fastest_answer: Duration::MAX }
    }

    pub(crate) fn note_answer(&mut self, took: Duration) {
        self.fastest_answer = self.fastest_answer.min(took);
    }

    /// Whether the rate since the last call leaves another connection of use.
    pub(crate) fn is_slow(&mut self, received: u64) -> bool {
        let (before, now) = (std::mem::replace(&mut self.received, received), Instant::now());
        let elapsed = now.duration_since(std::mem::replace(&mut self.asked, now));
        let fast = if self.fastest_answer < NEAR { FAST_AND_NEAR } else { FAST };
        (received.saturating_sub(before) as f64) < elapsed.as_secs_f64() * fast as f64
    }
}
