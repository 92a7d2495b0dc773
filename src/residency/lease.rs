//! A program asks for a lease, and its job narrates what it waits for.

use std::sync::Arc;

use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::leases::LeaseEntry;
use super::ledger::Told;
use super::parts::Parts;
use super::room::{Denied, hear};
use super::snapshot::LeaseKey;

/// A lease that asks. Dropping it before it is given ends it.
#[must_use = "the lease ends when the ticket is dropped"]
pub(super) struct LeaseTicket {
    parts: Arc<Parts>,
    key: LeaseKey,
    is_given: bool,
}

impl LeaseTicket {
    pub(super) const fn new(parts: Arc<Parts>, key: LeaseKey) -> Self {
        Self { parts, key, is_given: false }
    }

    /// Waits until the lease is given. It then lasts until it is released or expires.
    pub(super) async fn given(
        mut self,
        mut told: mpsc::UnboundedReceiver<Told>,
        stop: &CancellationToken,
    ) -> Result<LeaseEntry, Denied> {
        hear(&mut told, stop).await?;
        let lease = self.parts.leases.get(self.key).ok_or(Denied::Stopped)?;
        self.is_given = true;
        Ok(lease)
    }
}

impl Drop for LeaseTicket {
    fn drop(&mut self) {
        if !self.is_given {
            drop(self.parts.leases.end(|lease| lease.key == self.key));
            self.parts.ledger.wake();
        }
    }
}
