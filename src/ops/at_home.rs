//! This hive, as its fleet needs it.

use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;
use std::sync::Arc;

use futures::FutureExt;
use futures::future::BoxFuture;
use serde::Deserialize;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::asker::{Asker, By};
use super::parse::Submission;
use super::submit::submit;
use crate::app::{AppState, Named};
use crate::callers::TokenUse;
use crate::error::{Code, Result};
use crate::events::Hub;
use crate::fleet::{
    Called, DeviceRecord, HasModel, HiveListener, HiveName, HiveRecord, Home, ModelRecord, Offer, Serving,
    Submit,
};
use crate::jobs::job::JobHeader;
use crate::jobs::{Registry, Submitted};
use crate::models::{Model, Sheet};
use crate::narration::by_itself;

/// This hive, as its fleet needs it.
pub(crate) struct AtHome {
    pub(super) app: AppState,
    /// Understands a body as an operation of the table.
    pub(super) parse: fn(&[u8]) -> Result<Submission>,
    /// Answers other hives over HTTP.
    pub(super) answer_hives: AnswerHives,
}

/// Answers other hives over HTTP, until it is cancelled. Returns at once.
pub(crate) type AnswerHives = fn(AppState, HiveListener, CancellationToken);

impl Home for AtHome {
    fn jobs(&self) -> &Registry {
        &self.app.jobs
    }

    fn events(&self) -> &Arc<Hub> {
        &self.app.events
    }

    fn record(&self) -> BoxFuture<'_, HiveRecord> {
        async {
            let app = &self.app;
            let memory = app.workers.measure_memory().await;
            let devices = memory.iter().map(|memory| DeviceRecord {
                device: memory.device.to_string(),
                capacity_bytes: memory.capacity,
                free_bytes: memory.free,
            });
            HiveRecord {
                version: env!("CARGO_PKG_VERSION").to_owned(),
                hostname: app.hostname.clone(),
                pid: std::process::id(),
                url: app.config.public_url.clone().unwrap_or_else(|| app.address.url()),
                started_at: app.started_at,
                platform: format!("{}-{}", std::env::consts::OS, std::env::consts::ARCH),
                lets_in: app.fleet_setup.lets_in(),
                devices: devices.collect(),
                disk_free_bytes: app.catalog.free_bytes_soon().await,
                models: app.catalog.known_count(),
                workers: app.workers.list().len(),
                jobs: app.jobs.running().len(),
                ..HiveRecord::default()
            }
        }
        .boxed()
    }

    fn models(&self) -> BoxFuture<'_, Result<Vec<ModelRecord>>> {
        async {
            let models = self.app.list_models().await?;
            let mut called: HashMap<String, Vec<Called>> = HashMap::new();
            for Named { alias, served_id, model } in self.app.names(&models) {
                let name = alias.unwrap_or_else(|| served_id.clone());
                if name != model.id {
                    called.entry(model.id.clone()).or_default().push(Called { name, served_id });
                }
            }
            let record = |model: Model| {
                let called = called.remove(&model.id).unwrap_or_default();
                // Where its file is concerns nobody else, and whether it is loaded changes too often.
                ModelRecord { called, model: Model { path: PathBuf::new(), loaded: false, ..model } }
            };
            Ok(models.into_iter().map(record).collect())
        }
        .boxed()
    }

    fn settings(&self) -> watch::Receiver<u64> {
        self.app.settings.changes()
    }

    fn serving(&self) -> Serving {
        Serving { tokens: self.app.callers.used(), ..self.app.serving() }
    }

    fn tokens_used(&self, hive: &HiveName, used: Option<&BTreeMap<String, TokenUse>>) {
        self.app.callers.hear(hive.as_str(), used);
    }

    fn answer_hives(&self, listener: HiveListener, stop: CancellationToken) {
        (self.answer_hives)(Arc::clone(&self.app), listener, stop);
    }

    fn has_blob<'a>(&'a self, sha256: &'a str) -> BoxFuture<'a, Result<bool>> {
        by_itself("fleet_blob", self.app.catalog.has_blob(sha256)).boxed()
    }

    fn sheet<'a>(&'a self, model: &'a str) -> BoxFuture<'a, Result<Sheet>> {
        let sheet = async move {
            let target = self.app.find_target(model).await?;
            self.app.catalog.sheet(&target.model.id).await
        };
        by_itself("model_copy", sheet).boxed()
    }

    fn has_model<'a>(&'a self, model: &'a str) -> BoxFuture<'a, Result<HasModel>> {
        let find = async move {
            let found = match self.app.catalog.find(model).await {
                Ok(found) => Some(found).filter(|found| found.check_loadable().is_ok()),
                Err(failure) if failure.code == Code::ModelNotFound => None,
                Err(failure) => return Err(failure),
            };
            let running = self.app.jobs.running();
            let copying = running.iter().map(|job| job.header()).find(|header| copies(header, model));
            Ok(HasModel {
                is_here: found.is_some(),
                size_bytes: found.map_or(0, |found| found.size_bytes),
                copying: copying.map(|header| header.id.clone()),
            })
        };
        by_itself("model_place", find).boxed()
    }

    fn submit(&self, asked: Submit) -> Result<Submitted> {
        let Submit { request, idempotency_key, from, caller, placed, .. } = asked;
        let submission = Submission { placed, ..(self.parse)(request.get().as_bytes())? };
        let caller =
            if caller.is_empty() { format!("hive {from}") } else { format!("{caller} by hive {from}") };
        submit(&self.app, submission, &Asker { caller: caller.into(), by: By::Fleet }, idempotency_key)
    }

    fn offer(&self, submit: Submit) -> BoxFuture<'_, Result<Offer>> {
        async move {
            let submission = (self.parse)(submit.request.get().as_bytes())?;
            submission.operation.offer(&self.app).await
        }
        .boxed()
    }
}

/// Whether a job copies that model to this hive.
fn copies(header: &JobHeader, model: &str) -> bool {
    #[derive(Deserialize)]
    struct Request<'a> {
        #[serde(borrow)]
        model: Cow<'a, str>,
    }
    header.operation == "model_copy"
        && serde_json::from_str::<Request<'_>>(header.request.get()).is_ok_and(|asked| asked.model == model)
}
