//! `ModelDiagnose`: why a model or a request is slow.

use std::sync::Arc;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::operation::{Context, Deadline, Operation};
use crate::app::App;
use crate::config::served_id;
use crate::diagnosis::{Diagnosis, Evidence, diagnose};
use crate::error::{Code, Failure, Result};
use crate::jobs::{JobClass, OperationKind};
use crate::models::ModelId;
use crate::n;
use crate::requests::{Record, TotalsOf};
use crate::workers::{Conditions, Worker};

/// The most requests that are looked at.
const LOOKED_AT: usize = 100;
/// The most requests that are shown.
const SHOWN: usize = 20;

/// Asks why a model or a request is slow, or why all are.
#[derive(Debug, Deserialize, Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct ModelDiagnose {
    /// The model's id, or its name if only one model has it.
    #[serde(default)]
    id: Option<ModelId>,
    /// The id of a request, from its header `x-rbee-request-id`.
    #[serde(default)]
    request_id: Option<String>,
}

/// The result.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = ModelDiagnoseResult)]
pub(super) struct Diagnosed {
    /// The model that it is about; unset where it is about all.
    model: Option<String>,
    #[serde(flatten)]
    diagnosis: Diagnosis,
    /// The newest of the requests that were looked at.
    #[schema(value_type = Vec<Record>)]
    last_requests: Vec<Arc<Record>>,
    totals: Totals,
}

/// The sums of all requests since the hive started.
#[derive(Debug, Serialize, ToSchema)]
struct Totals {
    models: Vec<TotalsOf>,
    workers: Vec<TotalsOf>,
    callers: Vec<TotalsOf>,
}

impl Operation for ModelDiagnose {
    const NAME: &'static str = "ModelDiagnose";
    const VERB: &'static str = "diagnose";
    const KIND: OperationKind = OperationKind::Read;
    const CLASS: JobClass = JobClass::Reads;
    const DEADLINE: Deadline = Deadline::Read;

    type Output = Diagnosed;

    async fn run(self, cx: Context) -> Result<Self::Output> {
        let (model, records) = self.records(&cx).await?;
        let only =
            if self.request_id.is_some() { records.first().and_then(|record| record.worker) } else { None };
        let workers = workers(&cx.app, model.as_deref(), only).await;
        let machine = cx.app.telemetry.sample().await.system;
        let evidence = Evidence {
            is_of_one_model: model.is_some(),
            workers,
            load_average: sysinfo::System::load_average().one,
            processors: machine.cpu_count,
            records,
        };
        let diagnosis = diagnose(&evidence);
        n!("model_diagnose", "Looked at {} request(s)", diagnosis.requests);
        for finding in &diagnosis.findings {
            n!("model_diagnose", "🐢 {}. What to do: {}", finding.message, finding.advice);
        }
        for unknown in &diagnosis.unknown {
            n!("model_diagnose", "Not known: {unknown}");
        }
        let [models, workers, callers] = cx.app.requests.totals();
        let mut last_requests = evidence.records;
        last_requests.truncate(SHOWN);
        Ok(Diagnosed { model, diagnosis, last_requests, totals: Totals { models, workers, callers } })
    }
}

impl ModelDiagnose {
    /// The model that it is about, and its requests.
    async fn records(&self, cx: &Context) -> Result<(Option<String>, Vec<Arc<Record>>)> {
        if let Some(id) = &self.request_id {
            n!("model_diagnose", "🩺 Diagnosing request '{id}' on hive '{}'", cx.hive_id);
            let record = cx.app.requests.find(id).ok_or_else(|| {
                Failure::new(Code::RequestNotFound, format!("no request '{id}' is among the last ones"))
                    .hint("the header x-rbee-request-id of an answer has its id; the last 1000 are kept")
            })?;
            return Ok((record.model.as_deref().map(str::to_owned), vec![record]));
        }
        let Some(id) = &self.id else {
            n!("model_diagnose", "🩺 Diagnosing every model of hive '{}'", cx.hive_id);
            return Ok((None, cx.app.requests.of_model(None, LOOKED_AT)));
        };
        n!("model_diagnose", "🩺 Diagnosing model '{id}' on hive '{}'", cx.hive_id);
        let target = cx.app.find_target(id.as_str()).await?;
        let model = target.served_id();
        // A model is asked about with its variants.
        let variants = target.settings.variants.keys().map(|name| served_id(&model, Some(name)));
        let ids: Vec<String> = std::iter::once(model.clone()).chain(variants).collect();
        Ok((Some(model), cx.app.requests.of_model(Some(&ids), LOOKED_AT)))
    }
}

/// The workers that the requests went to, or would go to, with what slows them down.
async fn workers(app: &App, model: Option<&str>, only: Option<u32>) -> Vec<(Worker, Conditions)> {
    app.workers.refresh().await;
    let mut workers = model.map_or_else(|| app.workers.list(), |model| app.workers.of_model(model));
    workers.retain(|worker| worker.status.lives());
    if workers.iter().any(|worker| Some(worker.pid) == only) {
        workers.retain(|worker| Some(worker.pid) == only);
    }
    let mut examined = Vec::new();
    for worker in workers {
        // It is left out if it is gone by now.
        if let Ok(conditions) = app.workers.conditions(worker.pid).await {
            examined.push((worker, conditions));
        }
    }
    examined
}
