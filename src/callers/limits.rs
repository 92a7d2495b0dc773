//! The limits of one token.

use std::num::NonZeroU32;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use crate::error::Failure;

/// What was used of the limits of one token.
#[derive(Debug, Default)]
pub(super) struct Used {
    /// Requests that are being answered.
    running: AtomicU32,
    bucket: Mutex<Bucket>,
}

/// The requests that may come at once: as many as in a minute, and as many again in the course of the next.
#[derive(Debug, Default)]
struct Bucket {
    /// How many were taken out and have not come back, and when that was so.
    taken: f64,
    at: Option<Instant>,
}

impl Bucket {
    /// Takes one request out.
    ///
    /// # Errors
    /// How long it takes until there is one.
    fn take(&mut self, per_minute: NonZeroU32, now: Instant) -> Result<(), Duration> {
        let per_second = f64::from(per_minute.get()) / 60.0;
        let passed = self.at.map_or(Duration::ZERO, |at| now.saturating_duration_since(at));
        let taken = (self.taken - passed.as_secs_f64() * per_second).max(0.0);
        (self.taken, self.at) = (taken, Some(now));
        let too_many = taken + 1.0 - f64::from(per_minute.get());
        if too_many > 0.0 {
            return Err(Duration::from_secs_f64(too_many / per_second));
        }
        self.taken += 1.0;
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
        let most = most.map_or(u32::MAX, NonZeroU32::get);
        let added = |running: u32| (running < most).then_some(running + 1);
        self.running.fetch_update(Ordering::Relaxed, Ordering::Relaxed, added).ok()?;
        Some(Permit(Arc::clone(self)))
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
}
