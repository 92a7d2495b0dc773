//! The bucket of leads: of the hives that are about to do one thing in the same moment, the one that does it for all. It
//! downloads a file that no hive has, or loads a model that is loaded nowhere.
//!
//! Invariants:
//! - A lead belongs to who wrote its entry last: every write says which revision it replaces, so that one of two wins. An
//!   entry has an id of its lead, so that a hive knows its own where the answer to a write was lost.
//! - A lead is renewed for as long as it is held, given back then, and goes by its age where the hive that holds it dies.
//! - A lead spares work, and nothing depends on it: a hive that gets nothing from the leader takes the lead over, and the
//!   worst that happens is that two of them do it.

use std::time::Duration;

use async_nats::jetstream::kv::{CreateErrorKind, Operation, Store, UpdateErrorKind};
use tokio::time::timeout;
use tokio_util::sync::{CancellationToken, DropGuard};

use super::asking::Asking;
use super::link::failed;
use super::names::HiveName;
use crate::error::Result;
use crate::spawn;

/// How old an entry may become.
pub(super) const LEASE: Duration = Duration::from_secs(30);
/// How often it is renewed.
const RENEW: Duration = Duration::from_secs(10);
/// How often a lead that changes meanwhile is looked at again.
const TRIES: usize = 5;
/// How long a request to a model waits to learn who loads it.
const LOAD: Duration = Duration::from_secs(2);

/// Who does it for all.
#[derive(Debug)]
pub(crate) enum Lead {
    /// The hive that was wanted, until this is dropped.
    Ours(DropGuard),
    /// Another request has chosen that hive.
    Theirs(HiveName),
}

/// What a bucket has under a key.
#[derive(Clone, Debug)]
pub(super) struct Entry {
    pub(super) value: String,
    pub(super) revision: u64,
}

/// What leads need of their bucket, whose entries go by their age: the seam at which `simulation` puts another one in its
/// place. After an error a change may have been made all the same.
pub(super) trait Bucket: Clone + Send + Sync + 'static {
    /// Makes an entry; `None` where there is one.
    fn create(&self, key: &str, value: &str) -> impl Future<Output = Result<Option<u64>>> + Send;

    /// The entry, if there is one.
    fn entry(&self, key: &str) -> impl Future<Output = Result<Option<Entry>>> + Send;

    /// Replaces the entry of that revision; `None` where it has another.
    fn update(
        &self,
        key: &str,
        value: &str,
        revision: u64,
    ) -> impl Future<Output = Result<Option<u64>>> + Send;

    /// Removes the entry of that revision; `false` where it has another.
    fn remove(&self, key: &str, revision: u64) -> impl Future<Output = Result<bool>> + Send;

    /// Waits.
    fn pause(&self, pause: Duration) -> impl Future<Output = ()> + Send {
        tokio::time::sleep(pause)
    }
}

/// Takes the lead of the download of a file for this hive, unless another one has it that can be reached and is none of
/// `without`.
///
/// # Errors
/// [`Code::FleetUnreachable`](crate::error::Code::FleetUnreachable)
pub(super) async fn of_download(
    asking: &Asking,
    own: &HiveName,
    sha256: &str,
    without: &[String],
) -> Result<Option<Lead>> {
    let stands = |leader: &HiveName| {
        leader != own
            && asking.is_reachable(leader)
            && !without.iter().any(|left_out| left_out == leader.as_str())
    };
    take(open(asking).await?, sha256, own, stands).await
}

/// Takes the lead of the load of a model whose file has so many bytes for `hive`, unless one has it that `may` load it.
/// `None` where that is not known soon.
pub(super) async fn of_load(
    asking: &Asking,
    bytes: u64,
    hive: &HiveName,
    may: impl Fn(&HiveName) -> bool,
) -> Option<Lead> {
    // Ids, names and hashes differ by hive, or are not known to all. Another model as long is loaded there too, at worst.
    let key = format!("load.{bytes}");
    let taken = async { take(open(asking).await?, &key, hive, may).await };
    match timeout(LOAD, taken).await {
        Ok(Ok(lead)) => lead,
        Ok(Err(failure)) => {
            tracing::debug!(error = %failure, "a model is loaded without asking who does");
            None
        }
        Err(_) => None,
    }
}

async fn open(asking: &Asking) -> Result<Store> {
    asking.bucket(asking.names.leads_bucket(), "The hives that do one thing for all", LEASE).await
}

/// Takes the lead for `hive`, unless another one has it that `stands`. `None` where it changes all the time.
///
/// # Errors
/// [`Code::FleetUnreachable`](crate::error::Code::FleetUnreachable)
pub(super) async fn take<B: Bucket>(
    bucket: B,
    key: &str,
    hive: &HiveName,
    stands: impl Fn(&HiveName) -> bool,
) -> Result<Option<Lead>> {
    let value = format!("{hive} {}", uuid::Uuid::new_v4().simple());
    let lease = Lease { bucket, key: key.to_owned(), value };
    for _ in 0..TRIES {
        if let Some(revision) = lease.bucket.create(key, &lease.value).await? {
            return Ok(Some(Lead::Ours(lease.hold(revision))));
        }
        let Some(entry) = lease.bucket.entry(key).await? else { continue };
        if let Some(leader) = leader(&entry).filter(|leader| entry.value != lease.value && stands(leader)) {
            return Ok(Some(Lead::Theirs(leader)));
        }
        // Where it has changed since, another one was faster.
        if let Some(revision) = lease.bucket.update(key, &lease.value, entry.revision).await? {
            return Ok(Some(Lead::Ours(lease.hold(revision))));
        }
    }
    Ok(None)
}

/// The hive that an entry names.
pub(super) fn leader(entry: &Entry) -> Option<HiveName> {
    HiveName::new(entry.value.split(' ').next()?).ok()
}

/// A lead that is held.
struct Lease<B> {
    bucket: B,
    key: String,
    /// The hive that leads, and an id.
    value: String,
}

impl<B: Bucket> Lease<B> {
    /// Renews the entry until the guard is dropped, and removes it then.
    fn hold(self, mut revision: u64) -> DropGuard {
        let held = CancellationToken::new();
        let ended = held.clone();
        spawn::detached(async move {
            while ended.run_until_cancelled(self.bucket.pause(RENEW)).await.is_some() {
                match self.renew(revision).await {
                    Ok(Some(renewed)) => revision = renewed,
                    // Another hive could not reach this one, and leads too.
                    Ok(None) => return,
                    Err(failure) => tracing::debug!(error = %failure, "a lead is renewed later"),
                }
            }
            if let Err(failure) = self.give_back(revision).await {
                tracing::debug!(error = %failure, "a lead goes by its age");
            }
        });
        held.drop_guard()
    }

    /// The new revision; `None` where another one has the lead.
    async fn renew(&self, revision: u64) -> Result<Option<u64>> {
        let Self { bucket, key, value } = self;
        if let Some(renewed) = bucket.update(key, value, revision).await? {
            return Ok(Some(renewed));
        }
        match bucket.entry(key).await? {
            // The answer to an earlier change was lost.
            Some(entry) if entry.value == *value => bucket.update(key, value, entry.revision).await,
            Some(_) => Ok(None),
            // It went by its age while nothing could be changed.
            None => bucket.create(key, value).await,
        }
    }

    async fn give_back(&self, revision: u64) -> Result<()> {
        let Self { bucket, key, value } = self;
        if !bucket.remove(key, revision).await?
            && let Some(entry) = bucket.entry(key).await?
            && entry.value == *value
        {
            bucket.remove(key, entry.revision).await?;
        }
        Ok(())
    }
}

impl Bucket for Store {
    async fn create(&self, key: &str, value: &str) -> Result<Option<u64>> {
        match Self::create(self, key, value.to_owned().into()).await {
            Ok(revision) => Ok(Some(revision)),
            Err(error) if error.kind() == CreateErrorKind::AlreadyExists => Ok(None),
            Err(error) => Err(failed("take a lead", &error)),
        }
    }

    async fn entry(&self, key: &str) -> Result<Option<Entry>> {
        let entry = Self::entry(self, key).await.map_err(|error| failed("look up who leads", &error))?;
        let entry = entry.filter(|entry| entry.operation == Operation::Put);
        Ok(entry.map(|entry| Entry {
            value: String::from_utf8_lossy(&entry.value).into_owned(),
            revision: entry.revision,
        }))
    }

    async fn update(&self, key: &str, value: &str, revision: u64) -> Result<Option<u64>> {
        match Self::update(self, key, value.to_owned().into(), revision).await {
            Ok(revision) => Ok(Some(revision)),
            Err(error) if error.kind() == UpdateErrorKind::WrongLastRevision => Ok(None),
            Err(error) => Err(failed("keep a lead or take one over", &error)),
        }
    }

    async fn remove(&self, key: &str, revision: u64) -> Result<bool> {
        match self.delete_expect_revision(key, Some(revision)).await {
            Ok(()) => Ok(true),
            Err(error) if error.kind() == UpdateErrorKind::WrongLastRevision => Ok(false),
            Err(error) => Err(failed("give a lead back", &error)),
        }
    }
}
