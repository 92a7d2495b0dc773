//! The speed limit that all transfers of a hive share.

use std::num::NonZeroU64;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::{Instant, sleep_until};

/// Lets bytes pass at a limited rate, if there is a limit.
#[derive(Debug)]
pub(crate) struct Limiter {
    /// Bytes a second.
    rate: Option<NonZeroU64>,
    /// When the bytes that were accounted for have passed at that rate.
    paid: Mutex<Instant>,
}

impl Limiter {
    /// A limit of `rate` bytes a second; 0 is none.
    pub(crate) fn new(rate: u64) -> Self {
        Self { rate: NonZeroU64::new(rate), paid: Mutex::new(Instant::now()) }
    }

    /// Accounts for received bytes, and waits until more may come.
    pub(crate) async fn pass(&self, bytes: u64) {
        let Some(rate) = self.rate else { return };
        let until = {
            let mut paid = self.paid.lock();
            let begin = (*paid).max(Instant::now());
            *paid = begin + Duration::from_secs_f64(bytes as f64 / rate.get() as f64);
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
}
