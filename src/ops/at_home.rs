//! This hive, as its fleet needs it.

use std::sync::Arc;

use futures::FutureExt;
use futures::future::BoxFuture;
use tokio_util::sync::CancellationToken;

use super::asker::{Asker, By};
use super::parse::Submission;
use super::submit::submit;
use crate::app::AppState;
use crate::error::Result;
use crate::events::Hub;
use crate::fleet::{DeviceRecord, HiveListener, HiveRecord, Home, Offer, Submit};
use crate::jobs::{Registry, Submitted};
use crate::models::Sheet;
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
                devices: devices.collect(),
                models: app.catalog.known_count(),
                workers: app.workers.list().len(),
                jobs: app.jobs.running().len(),
                ..HiveRecord::default()
            }
        }
        .boxed()
    }

    fn answer_hives(&self, listener: HiveListener, stop: CancellationToken) {
        (self.answer_hives)(Arc::clone(&self.app), listener, stop);
    }

    fn has_blob<'a>(&'a self, sha256: &'a str) -> BoxFuture<'a, Result<bool>> {
        by_itself("fleet_blob", self.app.catalog.has_blob(sha256)).boxed()
    }

    fn sheet<'a>(&'a self, model: &'a str) -> BoxFuture<'a, Result<Sheet>> {
        by_itself("model_copy", self.app.catalog.sheet(model)).boxed()
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
