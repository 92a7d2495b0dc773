//! The end of a transfer: a complete file is verified and gets its final name; of an incomplete one,
//! what can be resumed is kept.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use crate::error::{Code, Failure, Result};
use crate::models::transfer::context::Transfer;
use crate::models::transfer::journal::Contents;
use crate::models::transfer::partial::Partial;
use crate::models::transfer::purpose::Step;
use crate::models::transfer::remote::{Refusal, StoredFile};
use crate::narration::Level;
use crate::spawn;
use crate::text;

/// The failure of a complete file that is not the one that its source promises, if it is not.
pub(crate) fn unlike_promised(transfer: &Transfer, sha256: &str) -> Option<Failure> {
    let promised = transfer.file.sha256.as_ref().filter(|promised| *promised != sha256)?;
    let (who, name) = (sender(transfer), &transfer.file.name);
    let message = format!("what {who} sent as {name} has the SHA-256 {sha256}, not {promised}");
    let hint = "the file was changed or damaged: check the hash, or where it comes from";
    Some(Failure::new(Code::DownloadFailed, message).hint(hint))
}

/// Who sent the file.
fn sender(transfer: &Transfer) -> &str {
    match transfer.from_neighbours.load(Ordering::Relaxed) {
        0 => transfer.file.url.host_str().unwrap_or_default(),
        _ => "the fleet",
    }
}

/// Gives a complete file of the right hash its final name.
///
/// # Errors
/// What [`crate::models::transfer::remote::Destination::accept`] says, and failures of the disk.
pub(crate) async fn promote(
    transfer: &Transfer,
    partial: &Arc<Partial>,
    sha256: String,
    size: u64,
) -> Result<StoredFile> {
    let name = &transfer.file.name;
    let is_verified = transfer.file.sha256.is_some();
    let verdict = if is_verified {
        format!("{name} has the SHA-256 that its source promises: {sha256}")
    } else {
        format!("{name} could not be verified: its source promises no hash. Its SHA-256 is {sha256}")
    };
    transfer.say(Level::Info, Step::Verify, verdict);
    let stored = StoredFile { size, sha256: Some(sha256), is_verified };

    match place(transfer, partial, &stored).await {
        Ok(()) => Ok(stored),
        Err(Refusal::Unusable(failure)) => Err(discard(transfer, partial, unusable(transfer, failure)).await),
        Err(Refusal::Unfinished(failure)) => Err(keep(transfer, partial, failure).await),
    }
}

async fn place(transfer: &Transfer, partial: &Arc<Partial>, stored: &StoredFile) -> Result<(), Refusal> {
    let (disk, begin) = (Arc::clone(&transfer.context.disk), Instant::now());
    let synced = partial.on_disk(move |partial| disk.sync(partial.file())).await;
    let (name, took) = (&transfer.file.name, begin.elapsed().as_millis());
    let message = format!("The disk took {took} ms to have all of {name}");
    transfer.say(Level::Debug, Step::Sync, message);
    synced.map_err(Refusal::Unfinished)?;
    let accept = Arc::clone(&transfer.destination.accept);
    let (held, stored) = (Arc::clone(partial), stored.clone());
    spawn::blocking(move || accept(held.path(), &stored)).await.map_err(Refusal::Unfinished)??;
    let disk = Arc::clone(&transfer.context.disk);
    let placed = partial.on_disk(move |partial| partial.promote(&*disk)).await;
    placed.map_err(Refusal::Unfinished)
}

/// The failure of a download whose file is of no use, as far as it was looked at.
pub(crate) fn unusable(transfer: &Transfer, failure: Failure) -> Failure {
    let host = sender(transfer);
    let noun = transfer.file.purpose.noun();
    let message = format!("the file that {host} sent is not a usable {noun}: {}", failure.message);
    Failure { message, ..failure }.hint("choose another file of the source, or ask whoever publishes it")
}

/// Removes a file that is of no use, and says so.
pub(crate) async fn discard(transfer: &Transfer, partial: &Arc<Partial>, failure: Failure) -> Failure {
    if let Err(failure) = partial.on_disk(Partial::discard).await {
        return failure;
    }
    let message = format!("Removed {}: it is of no use", transfer.file.name);
    transfer.say(Level::Warn, Step::Removed, message);
    failure.stage("verify")
}

/// Keeps what can be resumed, removes the rest, and says so.
pub(crate) async fn keep(transfer: &Transfer, partial: &Arc<Partial>, mut failure: Failure) -> Failure {
    let kept = partial
        .on_disk(|partial| {
            let contents = Contents::read(&partial.journal_path())
                .filter(|contents| contents.head.is_resumable() && contents.done() > 0);
            match contents {
                Some(contents) => Ok(Some((contents.done(), contents.head.size))),
                None => partial.discard().map(|()| None),
            }
        })
        .await;
    let (name, received) = (&transfer.file.name, transfer.received());
    let (bytes, size) = match &kept {
        Ok(Some(kept)) => *kept,
        _ => (received, transfer.file.size),
    };
    let mut part = text::bytes(bytes);
    if let Some(size) = size {
        part += &format!(" of {}", text::bytes(size));
    }
    if bytes > 0 {
        // How far it came says whether to try again.
        failure.message += &format!(", after {part}");
    }
    if matches!(kept, Ok(Some(_))) && failure.code == Code::Cancelled {
        let operation = transfer.file.purpose.operation();
        failure = failure.hint(format!("what is stored is kept: {operation} goes on from there"));
    }
    let received = text::bytes(received);
    let (level, step, message) = match kept {
        Ok(Some(_)) => {
            (Level::Info, Step::Kept, format!("Kept {part} of {name}: downloading it again resumes it"))
        }
        Ok(None) => {
            let message = format!("Removed the partial file of {name} ({received}): it cannot be resumed");
            (Level::Info, Step::Removed, message)
        }
        Err(stays) => (Level::Warn, Step::Kept, format!("The partial file of {name} stays: {stays}")),
    };
    transfer.say(level, step, message);
    failure.stage("transfer")
}
