//! The bucket of the hives: this hive's entry in it, and those of the others.
//!
//! Invariants:
//! - A name belongs to who wrote its entry last: every write says which revision it replaces, so that of two hives one
//!   loses, and knows.
//! - An entry that nobody renews goes by the age of the bucket; so does the claim to the name.

use std::time::Duration;

use async_nats::jetstream::kv::{CreateErrorKind, Operation, Store, UpdateErrorKind};
use futures::StreamExt;
use parking_lot::Mutex;

use super::link::{Link, failed};
use super::members::{HiveChange, Members};
use super::names::{HiveName, Names};
use super::record::{HiveRecord, Told};
use crate::error::{Code, Failure, Result};
use crate::text::json;
use crate::time::monotonic;

/// The hives' entries.
#[derive(Clone)]
pub(super) struct Registry {
    bucket: Store,
}

/// Why an entry was not renewed.
pub(super) enum NotRenewed {
    /// Another hive, or another run of this one, has it.
    Lost,
    /// The servers did not answer.
    Unknown(Failure),
}

impl Registry {
    /// The bucket, made where it is not there, and kept on that many servers.
    pub(super) async fn open(
        link: &Link,
        names: &Names,
        gone_after: Duration,
        num_replicas: usize,
    ) -> Result<Self> {
        let bucket = link.bucket(names.hives_bucket(), "The hives of the fleet", gone_after, num_replicas);
        Ok(Self { bucket: bucket.await? })
    }

    /// Takes the name, and gives the revision of its entry.
    ///
    /// # Errors
    /// [`Code::HiveNameTaken`], saying who has it: only the same data folder may take it over.
    pub(super) async fn claim(&self, hive: &HiveName, told: &Told) -> Result<u64> {
        let (key, value) = (Names::key(hive), json(told));
        loop {
            match self.bucket.create(&key, value.clone().into()).await {
                Ok(revision) => return Ok(revision),
                Err(error) if error.kind() == CreateErrorKind::AlreadyExists => {}
                Err(error) => return Err(failed("take the name of this hive", &error)),
            }
            let entry = self.bucket.entry(&key).await;
            let Some(entry) = entry.map_err(|error| failed("look up the name of this hive", &error))? else {
                continue;
            };
            let holder: HiveRecord = serde_json::from_slice(&entry.value).unwrap_or_default();
            if holder.folder != told.record.folder {
                return Err(taken(hive, &holder));
            }
            match self.bucket.update(&key, value.clone().into(), entry.revision).await {
                Ok(revision) => return Ok(revision),
                Err(error) if error.kind() == UpdateErrorKind::WrongLastRevision => {}
                Err(error) => return Err(failed("take the name of this hive over", &error)),
            }
        }
    }

    /// Renews the entry of that revision. Where it has another one by now, that may be of a renewal whose answer was lost.
    pub(super) async fn renew(&self, hive: &HiveName, told: &Told, revision: u64) -> Result<u64, NotRenewed> {
        match self.update(hive, told, revision).await {
            Err(NotRenewed::Lost) => match self.revision_of(hive, &told.record.run).await? {
                Some(own) => self.update(hive, told, own).await,
                None => Err(NotRenewed::Lost),
            },
            renewed => renewed,
        }
    }

    /// The revision of the hive's entry, if that run of it wrote it.
    async fn revision_of(&self, hive: &HiveName, run: &str) -> Result<Option<u64>, NotRenewed> {
        let entry = self.bucket.entry(Names::key(hive)).await;
        let entry = entry
            .map_err(|error| NotRenewed::Unknown(failed("look up the name of this hive", &error)))?
            .filter(|entry| entry.operation == Operation::Put);
        Ok(entry.and_then(|entry| {
            let holder: HiveRecord = serde_json::from_slice(&entry.value).unwrap_or_default();
            (holder.run == run).then_some(entry.revision)
        }))
    }

    async fn update(&self, hive: &HiveName, told: &Told, revision: u64) -> Result<u64, NotRenewed> {
        let renewed = self.bucket.update(Names::key(hive), json(told).into(), revision).await;
        renewed.map_err(|error| match error.kind() {
            UpdateErrorKind::WrongLastRevision => NotRenewed::Lost,
            _ => NotRenewed::Unknown(failed("give a sign of life", &error)),
        })
    }

    /// Gives the name back.
    pub(super) async fn leave(&self, hive: &HiveName, revision: u64) {
        if let Err(error) = self.bucket.delete_expect_revision(Names::key(hive), Some(revision)).await {
            tracing::debug!(%error, "the name of this hive is free once its entry is old");
        }
    }

    /// Hears the hives, and gives each change to `tell`.
    ///
    /// # Errors
    /// [`Code::FleetUnreachable`] if the bucket cannot be watched any more.
    pub(super) async fn watch(&self, members: &Mutex<Members>, tell: impl Fn(HiveChange)) -> Result<()> {
        let watch = |error: &(dyn std::error::Error + 'static)| failed("watch the hives", error);
        let mut entries = self.bucket.watch_with_history(">").await.map_err(|error| watch(&error))?;
        while let Some(entry) = entries.next().await {
            let entry = entry.map_err(|error| watch(&error))?;
            let Some(hive) = Names::hive_of(&entry.key) else { continue };
            let change = match entry.operation {
                Operation::Put => match serde_json::from_slice::<Told>(&entry.value) {
                    Ok(told) => members.lock().hear(&hive, told, monotonic()),
                    Err(error) => {
                        tracing::warn!(%hive, %error, "what a hive of the fleet tells is not understood");
                        None
                    }
                },
                Operation::Delete | Operation::Purge => members.lock().leaves(&hive),
            };
            change.into_iter().for_each(&tell);
        }
        Ok(())
    }
}

fn taken(hive: &HiveName, holder: &HiveRecord) -> Failure {
    let HiveRecord { hostname, pid, url, .. } = holder;
    Failure::new(
        Code::HiveNameTaken,
        format!("the name '{hive}' belongs to the hive on '{hostname}' (process {pid}, {url})"),
    )
    .hint("give this hive another name with --hive-id, or stop the other one; it comes in once the name is free")
}
