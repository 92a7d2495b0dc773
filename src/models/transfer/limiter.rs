//! The speed limit that all transfers of a hive share.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::{Instant, sleep_until};

/// Lets bytes pass at a limited rate, if there is a limit.
#[derive(Debug)]
pub(crate) struct Limiter {
    /// Bytes a second; 0 is no limit.
    rate: AtomicU64,
    /// When the bytes that were accounted for have passed at that rate.
    paid: Mutex<Instant>,
}

impl Limiter {
    /// A limit of `rate` bytes a second; 0 is none.
    pub(crate) fn new(rate: u64) -> Self {
        Self { rate: AtomicU64::new(rate), paid: Mutex::new(Instant::now()) }
    }

    /// Changes the rate, for the bytes that come from now on.
    pub(crate) fn set_rate(&self, rate: u64) {
        self.rate.store(rate, Ordering::Relaxed);
    }

    /// Accounts for received bytes, and waits until more may come.
    pub(crate) async fn pass(&self, bytes: u64) {
        let rate = self.rate.load(Ordering::Relaxed);
        if rate == 0 {
            return;
        }
        let until = {
            let mut paid = self.paid.lock();
            let begin = (*paid).max(Instant::now());
            *paid = begin + Duration::from_secs_f64(bytes as f64 / rate as f64);
            *paid
        };
        sleep_until(until).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn two_transfers_share_the_limit() {
        let limiter = Limiter::new(10_000);
        let begin = Instant::now();
        tokio::join!(limiter.pass(500), limiter.pass(500));
        assert!(begin.elapsed() >= Duration::from_millis(100));
    }

    #[tokio::test]
    async fn a_limit_can_be_changed_and_lifted() {
        let limiter = Limiter::new(1);
        limiter.set_rate(100_000);
        let begin = Instant::now();
        limiter.pass(2000).await;
        assert!(begin.elapsed() >= Duration::from_millis(20));
        limiter.set_rate(0);
        // At any rate this would take forever.
        limiter.pass(u64::MAX).await;
    }
}
