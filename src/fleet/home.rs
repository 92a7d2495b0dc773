//! What a member of a fleet needs of the hive around it.

use std::collections::BTreeMap;
use std::sync::Arc;

use futures::future::BoxFuture;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::door::HiveListener;
use super::holdings::{ModelRecord, Serving};
use super::names::HiveName;
use super::offer::Offer;
use super::record::HiveRecord;
use super::wire::{HasModel, Submit};
use crate::callers::TokenUse;
use crate::error::Result;
use crate::events::Hub;
use crate::jobs::{Registry, Submitted};
use crate::models::Sheet;

/// The hive around a member of a fleet.
pub(crate) trait Home: Send + Sync + 'static {
    /// Its jobs.
    fn jobs(&self) -> &Registry;

    /// Its `/v1/events`.
    fn events(&self) -> &Arc<Hub>;

    /// What it tells about itself. The fields `hive`, `folder` and `run` are filled in by the member.
    fn record(&self) -> BoxFuture<'_, HiveRecord>;

    /// Its models, as requests may name them.
    fn models(&self) -> BoxFuture<'_, Result<Vec<ModelRecord>>>;

    /// Changes with the settings of its models.
    fn settings(&self) -> watch::Receiver<u64>;

    /// What its workers serve now.
    fn serving(&self) -> Serving;

    /// Counts what another hive has used of the limits of tokens; `None` where it cannot be heard any more.
    fn tokens_used(&self, hive: &HiveName, used: Option<&BTreeMap<String, TokenUse>>);

    /// Answers the other hives that ask it directly, until `stop` is cancelled. Returns at once.
    fn answer_hives(&self, listener: HiveListener, stop: CancellationToken);

    /// Whether it has a complete file with that SHA-256.
    ///
    /// # Errors
    /// [`Code::Timeout`](crate::error::Code::Timeout) where a disk does not answer.
    fn has_blob<'a>(&'a self, sha256: &'a str) -> BoxFuture<'a, Result<bool>>;

    /// What another hive needs to know of a model to copy it.
    ///
    /// # Errors
    /// Why it cannot be copied.
    fn sheet<'a>(&'a self, model: &'a str) -> BoxFuture<'a, Result<Sheet>>;

    /// Whether it has a model, or copies it.
    ///
    /// # Errors
    /// Those of a look at the catalog.
    fn has_model<'a>(&'a self, model: &'a str) -> BoxFuture<'a, Result<HasModel>>;

    /// Makes a job of an operation that another hive sent.
    ///
    /// # Errors
    /// As for an operation of a caller of this hive.
    fn submit(&self, submit: Submit) -> Result<Submitted>;

    /// What it offers for an operation that may run on any hive.
    ///
    /// # Errors
    /// Why it cannot do it.
    fn offer(&self, submit: Submit) -> BoxFuture<'_, Result<Offer>>;
}
