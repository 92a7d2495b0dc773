//! The part of the coordinator that gets the file from other hives of the fleet, as long as any of them has it.

use std::sync::Arc;

use futures::FutureExt;

use super::{Coordinator, Leased};
use crate::error::Failure;
use crate::models::transfer::answer::FileAnswer;
use crate::models::transfer::messages::{Event, Lease};
use crate::models::transfer::neighbours::{Found, Holder, WantedFile};
use crate::models::transfer::purpose::Step;
use crate::models::transfer::trouble::{FetchResult, Trouble, download_failed};
use crate::narration::Level;
use crate::spawn;

impl Coordinator<'_> {
    /// Asks which hives have the file. Until that is known, nobody is asked for it.
    pub(super) fn find_holders(&mut self) {
        let file = &self.transfer.file;
        let is_wanted = self.chunks.size().is_none_or(|size| size > self.chunks.stored_bytes());
        let Some((neighbours, sha256)) = self.transfer.neighbours().filter(|_| self.asks_hives && is_wanted)
        else {
            return;
        };
        self.is_finding = true;
        let can_lead = !file.is_of_hives_alone();
        let find = neighbours.find(WantedFile { sha256, without: self.holders.left_out(), can_lead });
        let (events, stop) = (self.events.clone(), self.stop.clone());
        let finding = spawn::detached(async move {
            if let Some(found) = stop.run_until_cancelled(find).await {
                events.tell(Event::Found(found));
            }
        });
        let panicked = |error| Failure::internal("asking the hives of the fleet panicked").detail(error);
        self.tasks.push(finding.map(move |ended| ended.map_err(panicked)).boxed());
    }

    pub(super) fn found(&mut self, found: Found) {
        let Found { holders, lead } = found;
        self.is_finding = false;
        self.lead = lead.or(self.lead.take());
        self.holders.add(holders);
        let name = &self.transfer.file.name;
        if self.holders.is_empty() {
            if self.transfer.file.is_of_hives_alone() {
                let failure =
                    download_failed(format!("no hive of the fleet that can be reached gives {name}"))
                        .hint("`rbee-hive fleet status` shows which can be reached; then try again");
                self.end(Err(Trouble::fatal(failure)));
            } else if self.lead.is_some() {
                let message = format!("No hive of the fleet has {name}: downloading it for all of them");
                self.transfer.say(Level::Info, Step::Neighbours, message);
            }
        } else {
            let (who, complete) = (self.holders.in_words(), self.holders.are_complete());
            let message = match (complete, self.holders.len()) {
                (true, 1) => format!("{who} has {name}: copying it from there"),
                (true, _) => format!("{who} have {name}: copying it from them"),
                (false, _) => {
                    format!("{who} is downloading {name} already: copying what it has, as it comes")
                }
            };
            self.transfer.say(Level::Info, Step::Neighbours, message);
            let most = self.transfer.context.downloads().connections;
            self.wanted = self.wanted.max(self.holders.len().min(most));
            self.connect();
        }
        self.lease();
    }

    /// A lease of bytes of the file from another hive. `None` where all of them do enough, or where there is nothing
    /// to fetch: then the connection waits on.
    pub(super) fn lease_from_hive(&mut self, connection: usize) -> Option<Lease> {
        let holder = self.holders.choose()?;
        let Some(range) = self.chunks.claim(connection) else {
            self.holders.release(&holder);
            return None;
        };
        self.leases[connection] = Some(Leased::FromHive(Arc::clone(&holder)));
        Some(Lease { range: Some(range), validator: None, redirected: None, holder: Some(holder) })
    }

    /// A connection to another hive has ended. One that fails costs what it was asked for, and is left out.
    pub(super) fn left_hive(&mut self, holder: &Arc<Holder>, ended: FetchResult<()>) {
        self.holders.release(holder);
        let Err(trouble) = ended else { return };
        if self.outcome.is_none() && self.holders.leave_out(holder) {
            let name = &self.transfer.file.name;
            let message = format!("{}: going on with {name} without {holder}", trouble.failure.message);
            self.transfer.say(Level::Warn, Step::Neighbours, message);
            if self.holders.is_empty() {
                self.find_holders();
            }
        }
    }

    /// The hive that a connection gets its bytes from.
    pub(super) fn hive_of(&self, connection: usize) -> Option<Arc<Holder>> {
        match &self.leases[connection] {
            Some(Leased::FromHive(holder)) => Some(Arc::clone(holder)),
            _ => None,
        }
    }

    /// Says what came from which hive.
    pub(super) fn thank(&self) {
        if let Some(received) = self.holders.received() {
            let message = format!("Of {}, {received} came from the fleet", self.transfer.file.name);
            self.transfer.say(Level::Info, Step::Neighbours, message);
        }
    }
}

/// What is used of the answer of another hive: bytes that were asked for. Its name of the version means nothing to the
/// file's source: what it serves is told by its hash.
pub(super) fn checked(holder: &Holder, answer: &FileAnswer) -> FetchResult<FileAnswer> {
    if answer.range.is_none() || answer.size.is_none() {
        return Err(Trouble::passing(download_failed(format!(
            "{holder} did not send what it was asked for"
        ))));
    }
    Ok(FileAnswer { validator: None, ..answer.clone() })
}
