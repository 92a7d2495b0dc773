//! The buckets of the models and of the workers: this hive's entries in them, and what the others have.
//!
//! Invariants:
//! - An entry is written by its own hive alone; one hive removes what is left of those that are gone.
//! - What others read lags behind by a moment: nobody relies on it for more than a choice.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use async_nats::jetstream::kv::{Entry, Operation, Store};
use futures::StreamExt;
use parking_lot::{Mutex, RwLock};
use serde::de::DeserializeOwned;
use sha2::{Digest, Sha256};
use tokio::time::{Instant, sleep, sleep_until, timeout};

use super::asking::Asking;
use super::holdings::{Holdings, ModelRecord, Serving};
use super::home::Home;
use super::link::failed;
use super::members::Members;
use super::names::{HiveName, Names};
use crate::error::Result;
use crate::events::{HubReader, Topic};
use crate::text::{hex, json};

/// The least time between two entries of what the workers serve, and what each hive of the fleet adds to that: everybody
/// hears every entry, so all hives together write no more than a hundred a second.
const PAUSE: Duration = Duration::from_millis(500);
const EACH: Duration = Duration::from_millis(10);
/// After how many signs of life the models are looked at where nothing tells of a change: a person may have copied a
/// file.
const LOOK: u32 = 6;

/// The buckets.
#[derive(Clone)]
pub(super) struct Inventory {
    hive: HiveName,
    models: Store,
    workers: Store,
    holdings: Arc<RwLock<Holdings>>,
    members: Arc<Mutex<Members>>,
    look: Duration,
}

impl Inventory {
    /// The buckets, made where they are not there, and kept on that many servers.
    pub(super) async fn open(
        Asking { link, names, members, .. }: &Asking,
        hive: &HiveName,
        replicas: usize,
        heartbeat: Duration,
        holdings: &Arc<RwLock<Holdings>>,
    ) -> Result<Self> {
        let look = heartbeat.saturating_mul(LOOK);
        let models = link.bucket(names.models_bucket(), "The models of the hives", Duration::ZERO, replicas);
        let workers = link.bucket(
            names.workers_bucket(),
            "What the workers of the hives serve",
            Duration::ZERO,
            replicas,
        );
        let (models, workers) = futures::try_join!(models, workers)?;
        Ok(Self {
            hive: hive.clone(),
            models,
            workers,
            holdings: Arc::clone(holdings),
            members: Arc::clone(members),
            look,
        })
    }

    /// Reads what the others have, for as long as it is awaited.
    ///
    /// # Errors
    /// [`Code::FleetUnreachable`](crate::error::Code::FleetUnreachable) if a bucket cannot be watched any more.
    pub(super) async fn read(&self, home: &dyn Home) -> Result<()> {
        let models = watch(&self.models, |entry| {
            if let Some((hive, key)) = Names::model_of(&entry.key) {
                self.holdings.write().model(&hive, key, contents(entry));
            }
        });
        let workers = watch(&self.workers, |entry| {
            if let Some(hive) = Names::hive_of(&entry.key) {
                let serving: Option<Serving> = contents(entry);
                if hive != self.hive {
                    home.tokens_used(&hive, serving.as_ref().map(|serving| &serving.tokens));
                }
                self.holdings.write().serving(&hive, serving);
            }
        });
        futures::try_join!(models, workers).map(drop)
    }

    /// Writes what this hive has, for as long as it is awaited.
    pub(super) async fn tell(&self, home: &dyn Home) -> Result<()> {
        futures::try_join!(self.tell_models(home), self.tell_workers(home)).map(drop)
    }

    async fn tell_workers(&self, home: &dyn Home) -> Result<()> {
        let mut changes = home.events().follow(None);
        let mut told = None;
        loop {
            let serving = home.serving();
            if told.as_ref() != Some(&serving) {
                let put = self.workers.put(Names::key(&self.hive), json(&serving).into()).await;
                put.map_err(|error| failed("tell what is served here", &error))?;
                told = Some(serving);
            }
            // Requests come and go without an event. A worker that is ready is worth telling at once.
            let pause =
                PAUSE.max(EACH * u32::try_from(self.members.lock().all().count()).unwrap_or(u32::MAX));
            let _changed = timeout(pause, of_topics(&mut changes, &[Topic::Worker])).await;
        }
    }

    async fn tell_models(&self, home: &dyn Home) -> Result<()> {
        let (mut changes, mut settings) = (home.events().follow(None), home.settings());
        let mut told: Option<BTreeMap<String, ModelRecord>> = None;
        loop {
            let next = Instant::now() + PAUSE;
            match home.models().await {
                Ok(models) => {
                    let models = models.into_iter().map(|model| (key(&model.model.id), model)).collect();
                    self.write_models(told.as_ref(), &models).await?;
                    told = Some(models);
                }
                Err(failure) => tracing::warn!(%failure, "the fleet is not told of this hive's models now"),
            }
            tokio::select! {
                () = of_topics(&mut changes, &[Topic::Model]) => {}
                // Aliases and variants are settings.
                _ = settings.changed() => {}
                () = sleep(self.look) => {}
            }
            sleep_until(next).await;
        }
    }

    /// Writes what differs from what was told; without that, from what the bucket has.
    async fn write_models(
        &self,
        told: Option<&BTreeMap<String, ModelRecord>>,
        models: &BTreeMap<String, ModelRecord>,
    ) -> Result<()> {
        let earlier: BTreeMap<String, ModelRecord> = match told {
            Some(told) => told.clone(),
            None => self.own_entries().await?,
        };
        let at = |key: &str| Names::model_key(&self.hive, key);
        for (key, model) in models.iter().filter(|(key, model)| earlier.get(*key) != Some(model)) {
            let put = self.models.put(at(key), json(model).into()).await;
            put.map_err(|error| failed("tell of a model", &error))?;
        }
        for key in earlier.keys().filter(|key| !models.contains_key(*key)) {
            let deleted = self.models.delete(at(key)).await;
            deleted.map_err(|error| failed("tell that a model is gone", &error))?;
        }
        Ok(())
    }

    /// What the bucket has of this hive from an earlier run.
    async fn own_entries(&self) -> Result<BTreeMap<String, ModelRecord>> {
        let look =
            |error: &(dyn std::error::Error + 'static)| failed("look at the models of the fleet", error);
        let status = self.models.status().await.map_err(|error| look(&error))?;
        // Its entries are read by the watch, which begins with all that are there.
        let all = async {
            while self.holdings.read().models().count() < usize::try_from(status.values()).unwrap_or(0) {
                sleep(PAUSE / 10).await;
            }
        };
        // Entries that are gone count too, so it may never be all of them.
        let _all = timeout(PAUSE, all).await;
        let holdings = self.holdings.read();
        let own = holdings.models_of(&self.hive);
        Ok(own.map(|(key, record)| (key.clone(), ModelRecord::clone(record))).collect())
    }

    /// Removes what is left of hives that are gone.
    pub(super) async fn tidy(&self) -> Result<()> {
        let gone: Vec<_> = {
            let (holdings, members) = (self.holdings.read(), self.members.lock());
            holdings.hives().filter(|hive| members.get(hive).is_none()).cloned().collect()
        };
        let tidied =
            |error: &(dyn std::error::Error + 'static)| failed("tidy the models of the fleet", error);
        for hive in gone {
            let keys: Vec<_> =
                self.holdings.read().models_of(&hive).map(|(key, _)| Names::model_key(&hive, key)).collect();
            for key in keys {
                self.models.purge(key).await.map_err(|error| tidied(&error))?;
            }
            self.workers.purge(Names::key(&hive)).await.map_err(|error| tidied(&error))?;
        }
        Ok(())
    }
}

/// Waits for a change of one of these topics.
async fn of_topics(changes: &mut HubReader, topics: &[Topic]) {
    loop {
        let events = changes.next().await;
        if events.is_empty() {
            // It has missed some, which may have been of these.
            let _from_now_on = changes.take_snapshot_id();
            return;
        }
        if events.iter().any(|event| topics.contains(&event.topic)) {
            return;
        }
    }
}

/// Hands every entry of a bucket, and each change of one, to `take`.
async fn watch(bucket: &Store, take: impl Fn(&Entry)) -> Result<()> {
    let broken = |error: &(dyn std::error::Error + 'static)| failed("watch what the hives have", error);
    let mut entries = bucket.watch_with_history(">").await.map_err(|error| broken(&error))?;
    while let Some(entry) = entries.next().await {
        take(&entry.map_err(|error| broken(&error))?);
    }
    Ok(())
}

fn contents<T: DeserializeOwned>(entry: &Entry) -> Option<T> {
    match entry.operation {
        Operation::Put => serde_json::from_slice(&entry.value)
            .inspect_err(|error| {
                tracing::warn!(key = entry.key, %error, "what a hive of the fleet has is not understood");
            })
            .ok(),
        Operation::Delete | Operation::Purge => None,
    }
}

/// The key of a model, below that of its hive: an id may have characters that a key cannot.
fn key(id: &str) -> String {
    hex(&Sha256::digest(id)[..16])
}
