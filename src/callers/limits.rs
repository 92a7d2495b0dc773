//! The limits of one token.
//!
//! In a fleet they hold for all hives together: each hive tells the others what it has let in ([`TokenUse`]), and counts
//! what they have told. So a limit is exceeded by no more than what the hives let in before they hear of each other.

use std::collections::BTreeMap;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use crate::error::Failure;

/// What was used of the limits of one token.
#[derive(Debug, Default)]
pub(super) struct Used {
    /// Requests that are being answered here.
    running: AtomicU32,
    bucket: Mutex<Bucket>,
    /// What the other hives of the fleet have told last, by their names.
    elsewhere: Mutex<BTreeMap<String, TokenUse>>,
}

/// What one hive has used of the limits of a token. Fields of later versions are ignored.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct TokenUse {
    /// Requests to models that are being answered there.
    running: u32,
    /// Requests that counted against the limit of a minute, since that hive started.
    counted: u64,
}

/// The requests that may come at once: as many as in a minute, and as many again in the course of the next.
#[derive(Debug, Default)]
struct Bucket {
    /// How many were taken out and have not come back, and when that was so.
    taken: f64,
    at: Option<Instant>,
    /// How many this hive has taken out in all.
    counted: u64,
}

impl Bucket {
    /// Puts back what has come back since the last time. Returns how many come back in a second.
    fn refill(&mut self, per_minute: NonZeroU32, now: Instant) -> f64 {
        let per_second = f64::from(per_minute.get()) / 60.0;
        let passed = self.at.map_or(Duration::ZERO, |at| now.saturating_duration_since(at));
        self.taken = (self.taken - passed.as_secs_f64() * per_second).max(0.0);
        self.at = Some(now);
        per_second
    }

    /// Takes one request out.
    ///
    /// # Errors
    /// How long it takes until there is one.
    fn take(&mut self, per_minute: NonZeroU32, now: Instant) -> Result<(), Duration> {
        let per_second = self.refill(per_minute, now);
        let too_many = self.taken + 1.0 - f64::from(per_minute.get());
        if too_many > 0.0 {
            return Err(Duration::from_secs_f64(too_many / per_second));
        }
        self.taken += 1.0;
        self.counted += 1;
        Ok(())
    }
}

/// A request that is being answered; it has ended once this is dropped.
#[derive(Debug)]
pub(crate) struct Permit(Arc<Used>);

impl Drop for Permit {
    fn drop(&mut self) {
        self.0.running.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A request that is over a limit.
#[derive(Debug)]
pub(crate) struct Limited {
    pub(crate) failure: Failure,
    /// After how many seconds it may succeed.
    pub(crate) retry_after: u64,
}

impl Used {
    /// Counts a request against the limit of a minute.
    ///
    /// # Errors
    /// How long it takes until one may come again.
    pub(super) fn count(&self, per_minute: Option<NonZeroU32>, now: Instant) -> Result<(), Duration> {
        per_minute.map_or(Ok(()), |per_minute| self.bucket.lock().take(per_minute, now))
    }

    /// Begins a request, unless as many are being answered as may be.
    pub(super) fn begin(self: &Arc<Self>, most: Option<NonZeroU32>) -> Option<Permit> {
        let most = most.map_or(u32::MAX, NonZeroU32::get).saturating_sub(self.running_elsewhere());
        let added = |running: u32| (running < most).then_some(running + 1);
        self.running.fetch_update(Ordering::Relaxed, Ordering::Relaxed, added).ok()?;
        Some(Permit(Arc::clone(self)))
    }

    fn running_elsewhere(&self) -> u32 {
        self.elsewhere.lock().values().fold(0, |sum, used| sum.saturating_add(used.running))
    }

    /// What this hive has used, for the others.
    pub(super) fn told(&self) -> TokenUse {
        TokenUse { running: self.running.load(Ordering::Relaxed), counted: self.bucket.lock().counted }
    }

    /// Counts what another hive has used since it told of that last.
    pub(super) fn hear(&self, hive: &str, used: TokenUse, per_minute: Option<NonZeroU32>, now: Instant) {
        let Some(before) = self.elsewhere.lock().insert(hive.to_owned(), used) else { return };
        // A hive that has started anew counts from 0.
        let more = used.counted.checked_sub(before.counted).unwrap_or(used.counted);
        if let Some(per_minute) = per_minute {
            let mut bucket = self.bucket.lock();
            bucket.refill(per_minute, now);
            // No float loses a count of requests.
            #[expect(clippy::cast_precision_loss, reason = "a hive answers fewer than 2^52 requests")]
            let more = more as f64;
            bucket.taken += more;
        }
    }

    /// Counts nothing any more as being answered by a hive that cannot be heard.
    pub(super) fn silent(&self, hive: &str) {
        if let Some(used) = self.elsewhere.lock().get_mut(hive) {
            used.running = 0;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_minute_has_as_many_requests_as_it_may() {
        let (used, start) = (Used::default(), crate::time::monotonic());
        let at = |seconds| start + Duration::from_secs(seconds);
        let six = NonZeroU32::new(6);
        let taken = |now| (0..100).take_while(|_| used.count(six, now).is_ok()).count();
        assert_eq!(taken(start), 6);
        assert_eq!(used.count(six, at(0)), Err(Duration::from_secs(10)));
        assert_eq!(used.count(six, at(4)), Err(Duration::from_secs(6)), "what is refused takes nothing");
        assert_eq!(taken(at(31)), 3);
        assert_eq!(taken(at(3600)), 6, "a long pause saves none up");
        assert_eq!(used.count(None, at(3600)), Ok(()));
    }

    #[test]
    fn as_many_are_answered_at_once_as_may_be() {
        let used = Arc::new(Used::default());
        let two = NonZeroU32::new(2);
        let (first, _second) = (used.begin(two).unwrap(), used.begin(two).unwrap());
        assert!(used.begin(two).is_none());
        drop(first);
        let _third = used.begin(two).unwrap();
        assert!(used.begin(two).is_none());
    }

    #[test]
    fn what_other_hives_let_in_counts_once() {
        let (used, start) = (Used::default(), crate::time::monotonic());
        let at = |seconds| start + Duration::from_secs(seconds);
        let six = NonZeroU32::new(6);
        let taken = |now| (0..100).take_while(|_| used.count(six, now).is_ok()).count();
        let hear = |hive, counted, now| used.hear(hive, TokenUse { running: 0, counted }, six, now);
        hear("a", 1000, at(0));
        hear("b", 0, at(0));
        for _ in 0..3 {
            hear("a", 1002, at(0));
            hear("b", 1, at(0));
        }
        assert_eq!((taken(at(0)), used.told().counted), (3, 3), "what a hive let in before is not known");
        assert_eq!(taken(at(20)), 2, "what others let in comes back as what was let in here");
        // It has started anew.
        hear("a", 1, at(40));
        assert_eq!(taken(at(40)), 1);
        hear("a", 100, at(40));
        assert_eq!(used.count(six, at(40)), Err(Duration::from_secs(1000)));
    }

    #[test]
    fn what_other_hives_answer_counts_for_as_long_as_they_are_heard() {
        let used = Arc::new(Used::default());
        let three = NonZeroU32::new(3);
        let hear = |hive, running| {
            used.hear(hive, TokenUse { running, counted: 0 }, None, crate::time::monotonic());
        };
        hear("a", 1);
        hear("b", 1);
        let permit = used.begin(three).unwrap();
        assert!(used.begin(three).is_none());
        used.silent("a");
        let _second = used.begin(three).unwrap();
        hear("a", 9);
        drop(permit);
        assert!(used.begin(three).is_none());
        assert!(used.begin(None).is_some());
    }
}
