//! Wrong tokens: told in the log, and answered late.
//!
//! Invariants:
//! - Only the answer to a wrong token is late. A right one never waits, so whoever guesses, even through the
//!   same proxy, locks nobody out.
//! - Neither the log nor the memory grows with the number of guesses: it tells the first within a minute, the
//!   second, the fourth, and so on.

use std::collections::HashMap;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

/// For how long wrong tokens are counted together.
const WINDOW: Duration = Duration::from_secs(60);
/// Wrong tokens within the window that are answered at once: a user's typing errors.
const AT_ONCE: u32 = 5;
/// The most peers that are counted one by one.
const MOST_PEERS: usize = 1024;

/// The wrong tokens of late.
#[derive(Debug)]
pub(super) struct Guesses {
    delay: Duration,
    /// The lock is never held across an await.
    peers: Mutex<HashMap<Option<IpAddr>, Count>>,
}

#[derive(Debug)]
struct Count {
    since: Instant,
    wrong: u32,
}

impl Guesses {
    /// None so far. `delay` is how long an answer waits.
    pub(super) fn new(delay: Duration) -> Self {
        Self { delay, peers: Mutex::default() }
    }

    /// Counts a wrong token, and waits until it may be answered.
    pub(super) async fn wrong(&self, peer: Option<IpAddr>) {
        let count = self.count(peer, Instant::now());
        if count.is_power_of_two() {
            let peer = peer.map_or_else(|| "several addresses".to_owned(), |peer| peer.to_string());
            tracing::warn!(%peer, "{count} wrong token(s) within a minute");
        }
        if count > AT_ONCE {
            tokio::time::sleep(self.delay).await;
        }
    }

    /// How many wrong tokens the peer has sent of late, with this one.
    fn count(&self, peer: Option<IpAddr>, now: Instant) -> u32 {
        let mut peers = self.peers.lock();
        if peers.len() >= MOST_PEERS {
            peers.retain(|_, count| now.duration_since(count.since) < WINDOW);
        }
        // Where there are too many peers, the others are one.
        let is_counted = peers.len() < MOST_PEERS || peers.contains_key(&peer);
        let count = peers.entry(peer.filter(|_| is_counted)).or_insert(Count { since: now, wrong: 0 });
        if now.duration_since(count.since) >= WINDOW {
            *count = Count { since: now, wrong: 0 };
        }
        count.wrong = count.wrong.saturating_add(1);
        count.wrong
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;

    use super::*;

    #[tokio::test]
    async fn only_a_peer_that_guesses_on_waits_for_its_answer() {
        let guesses = Guesses::new(Duration::from_secs(3600));
        let peer = |last: u8| Some(IpAddr::from([10, 0, 0, last]));
        for _ in 0..AT_ONCE {
            assert!(guesses.wrong(peer(1)).now_or_never().is_some());
        }
        assert!(guesses.wrong(peer(1)).now_or_never().is_none());
        assert!(guesses.wrong(peer(2)).now_or_never().is_some());
    }

    #[test]
    fn counts_end_with_their_window_and_are_bounded() {
        let (guesses, now) = (Guesses::new(Duration::ZERO), Instant::now());
        let peer = |n: u32| Some(IpAddr::from(n.to_be_bytes()));
        assert_eq!((guesses.count(peer(1), now), guesses.count(peer(1), now)), (1, 2));
        assert_eq!(guesses.count(peer(1), now + WINDOW), 1);
        for n in 0..10_000 {
            guesses.count(peer(n), now + WINDOW);
        }
        assert!(guesses.peers.lock().len() <= MOST_PEERS + 1);
        assert_eq!(guesses.count(peer(1), now + WINDOW), 3, "a peer that is counted stays so");
    }
}
