//! The seats of connections, and who gives one up where there are too few.
//!
//! Each connection takes a seat, and there are fewer seats than the process may open files: the hive
//! keeps the rest for its own work. When all are taken, the next connection gets the seat of a
//! newcomer: a connection that has sent no request of a caller who was let in. So connections that say
//! nothing, or know no token, keep nobody out.
//!
//! Invariants:
//! - A connection whose caller was let in is never closed for another one.
//! - It is the peer with the most newcomers that gives one up, its oldest.

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::sync::Arc;

use parking_lot::Mutex;
use rustix::process::{Resource, getrlimit};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;

/// Connections that are served at once. Further ones wait in the system's backlog. The number is far above
/// what users need, and keeps a runaway client from taking all the memory.
const MOST: u64 = 16_384;
/// The most open files that are kept for the hive's own work, and the least.
const RESERVE: std::ops::RangeInclusive<u64> = 32..=1024;
/// Seats where the limit of open files is tiny.
const FEWEST: u64 = 8;

/// All seats.
#[derive(Debug)]
pub(super) struct Seats {
    free: Arc<Semaphore>,
    newcomers: Arc<Newcomers>,
}

/// The connections whose caller was not let in yet, by the order in which they came. The lock is never held
/// across an await.
type Newcomers = Mutex<BTreeMap<u64, Newcomer>>;

#[derive(Debug)]
struct Newcomer {
    peer: Option<IpAddr>,
    closing: CancellationToken,
}

/// A connection's seat, free again when it is dropped.
#[derive(Debug)]
pub(super) struct Seat {
    pub(super) claim: Claim,
    closing: CancellationToken,
    _permit: OwnedSemaphorePermit,
}

/// The seat of the connection that a request came on. An extension of every request.
#[derive(Clone, Debug)]
pub(crate) struct Claim {
    number: u64,
    newcomers: Arc<Newcomers>,
}

impl Claim {
    /// Keeps the seat for as long as the connection lasts: its caller was let in.
    pub(crate) fn keep(&self) {
        self.newcomers.lock().remove(&self.number);
    }
}

impl Seat {
    /// Ready when the connection has to go.
    pub(super) async fn given_up(&self) {
        self.closing.cancelled().await;
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.claim.keep();
    }
}

impl Seats {
    /// As many seats as this process's limit of open files allows.
    pub(super) fn within_limits() -> Self {
        Self::new(seats(getrlimit(Resource::Nofile).current))
    }

    fn new(count: usize) -> Self {
        Self { free: Arc::new(Semaphore::new(count)), newcomers: Arc::default() }
    }

    /// Seats the connection `number`, which counts up. Waits where all seats are taken by callers that were
    /// let in.
    pub(super) async fn take(&self, number: u64, peer: Option<IpAddr>) -> Seat {
        if self.free.available_permits() == 0 && !self.free_one() {
            tracing::warn!(
                "every connection that the limit of open files allows is in use; further ones wait"
            );
        }
        let permit = Arc::clone(&self.free).acquire_owned().await.expect("the semaphore is never closed");
        let closing = CancellationToken::new();
        let newcomer = Newcomer { peer, closing: closing.clone() };
        self.newcomers.lock().insert(number, newcomer);
        Seat { claim: Claim { number, newcomers: Arc::clone(&self.newcomers) }, closing, _permit: permit }
    }

    /// Makes a newcomer give up its seat. Returns whether there was one.
    pub(super) fn free_one(&self) -> bool {
        let mut newcomers = self.newcomers.lock();
        let mut counts = HashMap::<Option<IpAddr>, u32>::new();
        for newcomer in newcomers.values() {
            *counts.entry(newcomer.peer).or_default() += 1;
        }
        let most = counts.into_iter().max_by_key(|(_, count)| *count).map(|(peer, _)| peer);
        let oldest =
            newcomers.iter().find(|(_, newcomer)| Some(newcomer.peer) == most).map(|(number, _)| *number);
        let Some(newcomer) = oldest.and_then(|number| newcomers.remove(&number)) else { return false };
        tracing::debug!(peer = ?newcomer.peer, "closing a connection without a request to make room");
        newcomer.closing.cancel();
        true
    }
}

/// The seats that a limit of open files leaves room for.
fn seats(limit: Option<u64>) -> usize {
    let limit = limit.unwrap_or(u64::MAX);
    let reserve = (limit / 4).clamp(*RESERVE.start(), *RESERVE.end());
    let seats = limit.saturating_sub(reserve).clamp(FEWEST, MOST);
    usize::try_from(seats).unwrap_or(usize::MAX)
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;

    use super::*;

    fn ip(last: u8) -> Option<IpAddr> {
        Some(IpAddr::from([10, 0, 0, last]))
    }

    fn is_given_up(seat: &Seat) -> bool {
        seat.given_up().now_or_never().is_some()
    }

    #[test]
    fn a_quarter_of_the_open_files_is_kept_for_the_hive() {
        assert_eq!(seats(Some(64)), 32);
        assert_eq!(seats(Some(1024)), 768);
        assert_eq!(seats(Some(65_536)), 16_384);
        assert_eq!(seats(None), 16_384);
        assert_eq!(seats(Some(8)), 8);
    }

    #[tokio::test]
    async fn the_oldest_newcomer_of_the_busiest_peer_gives_up_its_seat() {
        let seats = Seats::new(4);
        let other = seats.take(0, ip(1)).await;
        let crowd = [seats.take(1, ip(2)).await, seats.take(2, ip(2)).await, seats.take(3, ip(2)).await];
        crowd[0].claim.keep();
        assert!(seats.take(4, ip(3)).now_or_never().is_none(), "the seat is not free yet");
        assert!(is_given_up(&crowd[1]), "the oldest of the crowd that was not let in");
        assert!(!is_given_up(&other) && !is_given_up(&crowd[0]) && !is_given_up(&crowd[2]));
        drop(crowd);
        let next = seats.take(5, ip(3)).await;
        assert!(!is_given_up(&next));
    }

    #[tokio::test]
    async fn callers_that_were_let_in_keep_their_seats() {
        let seats = Seats::new(1);
        let seat = seats.take(0, None).await;
        seat.claim.keep();
        let mut next = Box::pin(seats.take(1, ip(1)));
        assert!((&mut next).now_or_never().is_none());
        assert!(!is_given_up(&seat));
        drop(seat);
        next.await;
    }
}
