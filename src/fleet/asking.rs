//! Requests of this hive to others.

use std::sync::Arc;
use std::time::Duration;

use async_nats::jetstream::kv::Store;
use async_nats::{RequestErrorKind, Subscriber};
use parking_lot::Mutex;
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::link::{ANSWER, Link, failed};
use super::members::Members;
use super::names::{HiveName, Names};
use super::store::NatsStore;
use super::stream;
use super::wire::{self, encode};
use crate::error::{Code, Failure, Result};
use crate::jobs::log::Bounds;

/// How long every hive may take to say that it has something.
const EVERYONE: Duration = Duration::from_millis(500);

/// The events of a read that is asked for.
pub(super) struct Inbox {
    pub(super) subject: String,
    pub(super) messages: Subscriber,
}

/// What a hive needs to ask others. Cheap to clone.
#[derive(Clone, Debug)]
pub(super) struct Asking {
    pub(super) link: Link,
    pub(super) names: Arc<Names>,
    pub(super) members: Arc<Mutex<Members>>,
    /// How much of a job's log is kept.
    pub(super) bounds: Bounds,
}

impl Asking {
    /// The stream of the events of acts.
    pub(super) fn store(&self) -> NatsStore {
        NatsStore { link: self.link.clone(), names: Arc::clone(&self.names) }
    }

    /// Whether a hive gives signs of life.
    pub(super) fn is_reachable(&self, hive: &HiveName) -> bool {
        self.members.lock().is_reachable(hive)
    }

    /// Asks one hive.
    ///
    /// # Errors
    /// What it answers; [`Code::HiveUnreachable`] if it does not; [`Code::FleetUnreachable`].
    pub(super) async fn one<T: DeserializeOwned>(
        &self,
        hive: &HiveName,
        verb: &str,
        request: &impl Serialize,
    ) -> Result<T> {
        self.one_within(ANSWER, hive, verb, request).await
    }

    /// As [`Self::one`], for what may take longer.
    ///
    /// # Errors
    /// As [`Self::one`].
    pub(super) async fn one_within<T: DeserializeOwned>(
        &self,
        limit: Duration,
        hive: &HiveName,
        verb: &str,
        request: &impl Serialize,
    ) -> Result<T> {
        if let Some(trouble) = self.link.trouble() {
            return Err(self.cut_off(&trouble));
        }
        let request = async_nats::Request::new().payload(encode(request)).timeout(Some(limit));
        match self.link.client.send_request(self.names.request(hive, verb), request).await {
            Ok(message) => wire::answer(hive.as_str(), &message.payload),
            Err(error) => Err(match error.kind() {
                RequestErrorKind::NoResponders => self.silent(hive),
                RequestErrorKind::TimedOut => self.silent(hive).hint(
                    "it may have done it all the same: look at its jobs, or send the request again with the same \
                     Idempotency-Key",
                ),
                _ => failed(&format!("ask hive '{hive}'"), &error),
            }),
        }
    }

    /// Asks everyone; the first answer counts. `None` where nobody has one.
    ///
    /// # Errors
    /// [`Code::FleetUnreachable`]
    pub(super) async fn everyone<T: DeserializeOwned>(
        &self,
        verb: &str,
        request: &impl Serialize,
    ) -> Result<Option<T>> {
        if let Some(trouble) = self.link.trouble() {
            return Err(self.cut_off(&trouble));
        }
        let request = async_nats::Request::new().payload(encode(request)).timeout(Some(EVERYONE));
        match self.link.client.send_request(self.names.question(verb), request).await {
            Ok(message) => wire::answer("of the fleet", &message.payload).map(Some),
            Err(error) => match error.kind() {
                RequestErrorKind::NoResponders | RequestErrorKind::TimedOut => Ok(None),
                _ => Err(failed("ask the fleet", &error)),
            },
        }
    }

    /// A bucket of the fleet, made where it is not there.
    ///
    /// # Errors
    /// [`Code::FleetUnreachable`]
    pub(super) async fn bucket(&self, name: String, description: &str, max_age: Duration) -> Result<Store> {
        if let Some(trouble) = self.link.trouble() {
            return Err(self.cut_off(&trouble));
        }
        match self.link.jetstream.get_key_value(&name).await {
            Ok(bucket) => Ok(bucket),
            Err(_) => {
                let replicas = stream::replicas(&self.link, &self.names).await.unwrap_or(1);
                self.link.bucket(name, description, max_age, replicas).await
            }
        }
    }

    /// A subject of this hive, on which others send it events.
    pub(super) async fn inbox(&self) -> Result<Inbox> {
        let subject = self.link.client.new_inbox();
        let messages = self.link.client.subscribe(subject.clone()).await;
        let messages = messages.map_err(|error| failed("make an inbox", &error))?;
        Ok(Inbox { subject, messages })
    }

    /// The failure of a hive that does not answer.
    pub(super) fn silent(&self, hive: &HiveName) -> Failure {
        Failure::new(Code::HiveUnreachable, format!("hive '{hive}' does not answer"))
            .hint("`rbee-hive fleet status` shows since when; it may be stopped, or cut off from NATS")
    }

    /// The failure of a hive that has no connection itself.
    pub(super) fn cut_off(&self, trouble: &str) -> Failure {
        Failure::new(Code::FleetUnreachable, format!("this hive has no connection to its fleet: {trouble}"))
            .hint(
                "what concerns this hive alone works on; check that the NATS servers run and can be reached",
            )
    }
}
