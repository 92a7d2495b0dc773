//! Fetches one file to its target: in parallel ranges, each written in place, checksummed and
//! journalled as it arrives, and hashed in order meanwhile.
//!
//! Who owns what, in one attempt (`messages.rs` has all messages between them):
//! - The coordinator (`coordinator.rs`), a task, owns the chunk table (`chunks.rs`), what is known of the
//!   file (`answer.rs`) and the retry budget (`budget.rs`). It hands out spans of chunks, judges answers
//!   and failures, and decides when the work ends.
//! - A connection (`connection.rs`), a task, owns its request and its body.
//! - The writer (`writer.rs`), a thread, owns the writing of the file and its journal (`journal.rs`).
//! - The hasher (`hasher.rs`), a thread, owns the hash, and vets the file's beginning (`vetting.rs`).
//!
//! They share no lock, only the count of received bytes (`context.rs`). All send events to the
//! coordinator through one channel. The channel to the writer is bounded, so that a slow disk slows the
//! connections down; neither the writer nor the hasher ever waits for the coordinator.
//!
//! Around the attempts, this file holds the partial file (`partial.rs`) and starts over where the server
//! has another version of the file; `finish.rs` gives the complete file its name, or keeps what can be
//! resumed. `transfers.rs` lets jobs share a transfer.
//!
//! Invariants:
//! - A byte counts as downloaded once it is written and journalled with its checksum, in this order.
//! - The hash is of the bytes in the file, and each chunk of them has the checksum of the bytes that
//!   were received. The whole file is hashed before it is promoted.
//! - Bytes of two versions of a file are never combined: every request but the first carries `If-Range`,
//!   and where the server names no version, and the source promises no hash, one answer has to bring the
//!   whole file.
//! - What other hives send is checked as what the source sends: against the hash that the source promises. Only a file
//!   of which that is known is asked for there.
//! - A transfer that ends early keeps what can be resumed, and says how much that is.

pub(crate) mod transfers;
pub(crate) mod finish;
pub(crate) mod coordinator;
pub(crate) mod connection;
pub(crate) mod holders;
pub(crate) mod writer;
pub(crate) mod hasher;
pub(crate) mod vetting;
pub(crate) mod messages;
pub(crate) mod partial;
pub(crate) mod answer;
pub(crate) mod chunks;
pub(crate) mod budget;
pub(crate) mod progress;
pub(crate) mod context;
pub(crate) mod limiter;
pub(crate) mod neighbours;
pub(crate) mod fetch;
pub(crate) mod guard;
pub(crate) mod shelf;
pub(crate) mod journal;
pub(crate) mod remote;
pub(crate) mod purpose;
pub(crate) mod disk;
pub(crate) mod trouble;

use std::sync::Arc;
use std::sync::atomic::Ordering;

use crate::error::Result;
use crate::models::transfer::answer::empty_file;
use crate::models::transfer::budget::Budget;
use crate::models::transfer::context::Transfer;
use crate::models::transfer::coordinator::{Coordinator, Manner, Whole};
use crate::models::transfer::journal::Head;
use crate::models::transfer::partial::Partial;
use crate::models::transfer::purpose::Step;
use crate::models::transfer::remote::StoredFile;
use crate::models::transfer::trouble::{FetchResult, Trouble, TroubleKind};
use crate::narration::Level;

/// How often a file may turn out to have changed.
const MAX_CHANGES: u32 = 2;

/// Fetches the file to its target.
///
/// # Errors
/// [`Code::Cancelled`](crate::error::Code::Cancelled) once the transfer is stopped; `DownloadFailed`,
/// `SourceNotFound`, `SourceRefused`, `DiskFull`; `NotOwned` where a newer version of the hive began the
/// download; and what [`remote::Destination::accept`] says.
pub(crate) async fn run(transfer: &Arc<Transfer>) -> Result<StoredFile> {
    let destination = &transfer.destination;
    let partial = Arc::new(Partial::hold(transfer).await?);
    if !destination.replace
        && let Ok(metadata) = std::fs::metadata(&destination.target)
    {
        // Another job, or another process, has stored it meanwhile.
        partial.on_disk(Partial::discard).await?;
        return Ok(StoredFile { size: metadata.len(), sha256: None, is_verified: false });
    }
    let (downloads, timers) = (transfer.context.downloads(), &transfer.context.fetch.timers);
    let mut budget = Budget::new(downloads.retries, *timers.retry, *timers.retry_after);
    let (mut changes, mut manner) = (0, Manner { is_whole_only: false, asks_hives: true });
    loop {
        let trouble = match attempt(transfer, &partial, &mut budget, manner).await {
            Ok(whole) => match finish::unlike_promised(transfer, &whole.sha256) {
                Some(failure) => Trouble::new(TroubleKind::Unusable, failure),
                None => {
                    let Whole { sha256, size, lead } = whole;
                    let stored = finish::promote(transfer, &partial, sha256, size).await;
                    drop(lead);
                    return stored;
                }
            },
            Err(Trouble { failure, kind: TroubleKind::Unusable }) => {
                Trouble::new(TroubleKind::Unusable, finish::unusable(transfer, failure))
            }
            Err(trouble) => trouble,
        };
        let is_from_hives = transfer.from_neighbours.swap(0, Ordering::Relaxed) > 0;
        match trouble.kind {
            TroubleKind::Changed if changes < MAX_CHANGES => {
                changes += 1;
                let message = format!("{}: starting over", trouble.failure.message);
                transfer.say(Level::Warn, Step::Restarted, message);
            }
            TroubleKind::Restart => manner.is_whole_only = true,
            // The source may have what another hive spoiled.
            TroubleKind::Unusable if is_from_hives && !transfer.file.is_of_hives_alone() => {
                manner.asks_hives = false;
                let message = format!("{}: starting over without other hives", trouble.failure.message);
                transfer.say(Level::Warn, Step::Restarted, message);
            }
            TroubleKind::Unusable => {
                return Err(finish::discard(transfer, &partial, trouble.failure).await);
            }
            _ => return Err(finish::keep(transfer, &partial, trouble.failure).await),
        }
        partial.on_disk(Partial::clear).await?;
    }
}

/// Fetches what the partial file lacks. Returns the file's SHA-256 and its size.
async fn attempt(
    transfer: &Arc<Transfer>,
    partial: &Arc<Partial>,
    budget: &mut Budget,
    manner: Manner,
) -> FetchResult<Whole> {
    let (name, context) = (&transfer.file.name, &transfer.context);
    let head = Head::of(&transfer.file, u64::from(context.downloads().chunk_bytes));
    let disk = Arc::clone(&context.disk);
    let begun = partial.on_disk(move |partial| partial.begin(head, disk)).await.map_err(Trouble::fatal)?;
    if begun.is_other_version {
        let message = format!("The partial file of {name} is of another version: starting over");
        transfer.say(Level::Info, Step::Resume, message);
    }
    if begun.was_damaged {
        let message = format!("The journal of the partial file of {name} is damaged: starting over");
        transfer.say(Level::Warn, Step::Resume, message);
    }
    if begun.head.size == Some(0) {
        return Err(empty_file(transfer.file.url.host_str().unwrap_or_default()));
    }
    Coordinator::fetch(transfer, partial, begun, budget, manner).await
}

#[cfg(test)]
mod tests;
