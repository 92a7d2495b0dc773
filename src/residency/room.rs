//! A load asks for room, and its job narrates what it waits for.

use std::sync::Arc;

use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::ledger::{Ledger, Told};
use super::snapshot::{LoadKey, Placement, Refusal, WorkerKey};
use crate::n;
use crate::narration::waiting_for;

/// The place of a load in the books of the owner, from the start of its job to its end. Dropping it gives back
/// whatever the load was granted and has not taken.
#[derive(Debug)]
#[must_use = "the load counts as ended when the ticket is dropped"]
pub(crate) struct Ticket {
    ledger: Arc<Ledger>,
    key: LoadKey,
}

/// Why a load got no room.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Denied {
    /// Its job was told to stop.
    Stopped,
    Refused(Refusal),
}

impl Ticket {
    pub(super) const fn new(ledger: Arc<Ledger>, key: LoadKey) -> Self {
        Self { ledger, key }
    }

    /// The number of the load.
    pub(crate) const fn load(&self) -> LoadKey {
        self.key
    }

    /// Waits until there is room at one of these placements, and returns which. It is set aside for the load
    /// until the ticket is dropped or asks again. A worker that the load replaces ends first.
    pub(crate) async fn room(
        &self,
        placements: Vec<Placement>,
        replaces: Option<WorkerKey>,
        stop: &CancellationToken,
    ) -> Result<usize, Denied> {
        let mut told = self.ledger.ask(self.key, placements, replaces);
        let heard = hear(&mut told, stop).await;
        if heard == Err(Denied::Stopped) {
            self.ledger.withdraw(self.key);
        }
        heard
    }
}

/// Narrates what those are told who ask for memory, until it is granted, refused, or no longer asked for.
pub(super) async fn hear(
    told: &mut mpsc::UnboundedReceiver<Told>,
    stop: &CancellationToken,
) -> Result<usize, Denied> {
    let mut waiting = None;
    loop {
        let next = tokio::select! {
            biased;
            () = stop.cancelled() => None,
            next = told.recv() => next,
        };
        match next {
            Some(Told::News(news)) => n!("room", "{news}"),
            Some(Told::Waits(what)) => {
                n!("room", "Waiting for {what}");
                drop(waiting.replace(waiting_for(what)));
            }
            Some(Told::Granted(placement)) => return Ok(placement),
            Some(Told::Refused(why)) => return Err(Denied::Refused(why)),
            None => return Err(Denied::Stopped),
        }
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        self.ledger.close(self.key);
    }
}
