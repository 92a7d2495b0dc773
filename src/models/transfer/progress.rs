//! How fast a transfer is over its last seconds, when it will be done, and whether another connection
//! is of use.

use std::collections::VecDeque;
use std::time::Duration;

use tokio::time::Instant;

use crate::narration::Progress;
use crate::text;

/// The time over which the rate is taken.
const WINDOW: Duration = Duration::from_secs(5);
/// From this rate on no further connection joins, in bytes a second.
const FAST: u64 = 512 << 20;
/// A server that answers within this time is near: distance does not slow its connections down.
const NEAR: Duration = Duration::from_millis(10);
/// From this rate on no further connection to a near server joins, in bytes a second.
const FAST_AND_NEAR: u64 = 64 << 20;

/// Measures one transfer.
#[derive(Debug)]
pub(crate) struct Meter {
    /// Instants within the window, and the bytes done then; at least one.
    samples: VecDeque<(Instant, u64)>,
}

impl Meter {
    /// A transfer that starts `now` with `done` bytes.
    pub(crate) fn starting_at(done: u64, now: Instant) -> Self {
        Self { samples: VecDeque::from([(now, done)]) }
    }

    /// The progress of the transfer, which has `done` bytes of `total` by `now`.
    pub(crate) fn sample(&mut self, done: u64, total: Option<u64>, now: Instant) -> Progress {
        while self.samples.len() > 1 && now - self.samples[1].0 >= WINDOW {
            self.samples.pop_front();
        }
        // Damaged bytes are fetched a second time.
        if self.samples.back().is_some_and(|&(_, before)| before > done) {
            self.samples = VecDeque::from([(now, done)]);
        }
        let (since, before) = self.samples[0];
        self.samples.push_back((now, done));
        let seconds = (now - since).as_secs_f64();
        let rate = if seconds > 0.0 { ((done - before) as f64 / seconds) as u64 } else { 0 };
        let left = total.map(|total| total.saturating_sub(done));
        Progress {
            done,
            total,
            unit: "bytes".to_owned(),
            rate_per_second: Some(rate),
            eta_seconds: left.filter(|_| rate > 0).map(|left| left.div_ceil(rate)),
            ..Progress::default()
        }
    }
}

/// Measures whether another connection is of use: past a rate that a disk and a hash barely keep up
/// with, and sooner where the server is near, it would only put the bytes out of order.
#[derive(Debug)]
pub(crate) struct Joining {
    /// When it was last asked, and the bytes received until then.
    asked: Instant,
    received: u64,
    /// The shortest time in which an answer began.
    pub(crate) fastest_answer: Duration,
}

impl Joining {
    pub(crate) fn new(received: u64) -> Self {
        Self { asked: Instant::now(), received, fastest_answer: Duration::MAX }
    }

    /// Whether the rate since the last call leaves another connection of use.
    pub(crate) fn is_slow(&mut self, received: u64) -> bool {
        let (before, now) = (std::mem::replace(&mut self.received, received), Instant::now());
        let elapsed = now.duration_since(std::mem::replace(&mut self.asked, now));
        let fast = if self.fastest_answer < NEAR { FAST_AND_NEAR } else { FAST };
        (received.saturating_sub(before) as f64) < elapsed.as_secs_f64() * fast as f64
    }
}

/// `1.2 GB of 4.8 GB (25 %), 70.0 MB/s, 51 s left, 8 connections`.
pub(crate) fn sentence(progress: &Progress) -> String {
    let mut text = text::bytes(progress.done);
    if let Some(total) = progress.total {
        let percent = (u128::from(progress.done) * 100).checked_div(u128::from(total)).unwrap_or(100);
        text += &format!(" of {} ({percent} %)", text::bytes(total));
    }
    if let Some(rate) = progress.rate_per_second {
        text += &format!(", {}/s", text::bytes(rate));
    }
    if let Some(seconds) = progress.eta_seconds {
        text += &format!(", {seconds} s left");
    }
    if let Some(count @ 1..) = progress.connections {
        text += &format!(", {count} connection{}", if count == 1 { "" } else { "s" });
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rate_is_of_the_last_seconds_and_falls_to_zero_in_a_stall() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut meter = Meter::starting_at(0, start);
        let total = Some(10_000);
        let progress = meter.sample(4000, total, at(2));
        assert_eq!((progress.rate_per_second, progress.eta_seconds), (Some(2000), Some(3)));
        assert_eq!(sentence(&progress), "3.9 KiB of 9.8 KiB (40 %), 2.0 KiB/s, 3 s left");
        meter.sample(4000, total, at(7));
        let progress = meter.sample(4000, total, at(12));
        assert_eq!((progress.rate_per_second, progress.eta_seconds), (Some(0), None));
        let again = Progress { connections: Some(2), ..meter.sample(1000, total, at(13)) };
        assert_eq!(sentence(&again), "1000 bytes of 9.8 KiB (10 %), 0 bytes/s, 2 connections");
        let unknown = Meter::starting_at(0, start).sample(0, None, start);
        assert_eq!(sentence(&unknown), "0 bytes, 0 bytes/s");
    }
}
