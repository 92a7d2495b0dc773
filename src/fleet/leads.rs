//! The bucket of leads: of the hives that want one file that no hive has, the one that downloads it for all.
//!
//! Invariants:
//! - A lead belongs to who wrote its entry last: every write says which revision it replaces, so that one of two wins.
//! - A lead is renewed for as long as its hive downloads, given back then, and goes by its age where the hive dies.
//! - A lead spares downloads, and nothing depends on it: a hive that gets nothing from the leader takes the lead over, and
//!   the worst that happens is that two of them download.

use std::time::Duration;

use async_nats::jetstream::kv::{CreateErrorKind, Operation, Store, UpdateErrorKind};
use tokio_util::sync::{CancellationToken, DropGuard};

use super::asking::Asking;
use super::link::failed;
use super::names::HiveName;
use crate::error::Result;
use crate::spawn;

/// How old an entry may become.
const LEASE: Duration = Duration::from_secs(30);
/// How often it is renewed.
const RENEW: Duration = Duration::from_secs(10);
/// How often a lead that changes meanwhile is looked at again.
const TRIES: usize = 5;

/// Who downloads a file for all.
#[derive(Debug)]
pub(super) enum Lead {
    /// This hive, until this is dropped.
    Ours(DropGuard),
    Theirs(HiveName),
}

/// Takes the lead for a file, unless another hive has it that can be reached and is none of `without`.
///
/// # Errors
/// [`Code::FleetUnreachable`](crate::error::Code::FleetUnreachable)
pub(super) async fn take(
    asking: &Asking,
    hive: &HiveName,
    sha256: &str,
    without: &[String],
) -> Result<Option<Lead>> {
    let name = asking.names.leads_bucket();
    let bucket = asking.bucket(name, "The hives that download a file for all", LEASE).await?;
    let own = || hive.as_str().to_owned().into();
    for _ in 0..TRIES {
        match bucket.create(sha256, own()).await {
            Ok(revision) => return Ok(Some(Lead::Ours(keep(bucket, sha256, hive, revision)))),
            Err(error) if error.kind() == CreateErrorKind::AlreadyExists => {}
            Err(error) => return Err(failed("take the lead of a download", &error)),
        }
        let entry = bucket.entry(sha256).await.map_err(|error| failed("look up who downloads", &error))?;
        let Some(entry) = entry.filter(|entry| entry.operation == Operation::Put) else { continue };
        let leader = std::str::from_utf8(&entry.value).ok().and_then(|name| HiveName::new(name).ok());
        let leader = leader.filter(|leader| {
            leader != hive
                && asking.is_reachable(leader)
                && !without.iter().any(|left_out| left_out == leader.as_str())
        });
        if let Some(leader) = leader {
            return Ok(Some(Lead::Theirs(leader)));
        }
        match bucket.update(sha256, own(), entry.revision).await {
            Ok(revision) => return Ok(Some(Lead::Ours(keep(bucket, sha256, hive, revision)))),
            // Another one was faster.
            Err(error) if error.kind() == UpdateErrorKind::WrongLastRevision => {}
            Err(error) => return Err(failed("take the lead of a download over", &error)),
        }
    }
    Ok(None)
}

/// Renews the entry until the guard is dropped, and removes it then.
fn keep(bucket: Store, sha256: &str, hive: &HiveName, mut revision: u64) -> DropGuard {
    let (held, value) = (CancellationToken::new(), hive.as_str().to_owned());
    let (ended, sha256) = (held.clone(), sha256.to_owned());
    spawn::detached(async move {
        while ended.run_until_cancelled(tokio::time::sleep(RENEW)).await.is_some() {
            match bucket.update(&sha256, value.clone().into(), revision).await {
                Ok(renewed) => revision = renewed,
                // Another hive could not reach this one, and downloads too.
                Err(error) if error.kind() == UpdateErrorKind::WrongLastRevision => return,
                Err(error) => tracing::debug!(%error, "the lead of a download is renewed later"),
            }
        }
        if let Err(error) = bucket.delete_expect_revision(&sha256, Some(revision)).await {
            tracing::debug!(%error, "the lead of a download goes by its age");
        }
    });
    held.drop_guard()
}
