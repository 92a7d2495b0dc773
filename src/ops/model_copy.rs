//! `ModelCopy`: copies a model from another hive of the fleet to this one.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::field_error::FieldError;
use super::operation::{Context, Deadline, Operation};
use crate::error::{Code, Failure, Result};
use crate::jobs::{JobClass, OperationKind};
use crate::models::{Model, ModelId, Sheet};
use crate::narration::{Progress, waiting_for};
use crate::{n, text};

/// How often the other hive is asked how far it is.
const ASK: Duration = Duration::from_secs(1);

/// Copies a model of another hive.
#[derive(Debug, Deserialize, Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct ModelCopy {
    /// The model there: its id, its name if only one model has it, or an alias.
    model: ModelId,
    /// The hive that has it. Others that have the same files send them too.
    from: String,
}

impl Operation for ModelCopy {
    const NAME: &'static str = "ModelCopy";
    const VERB: &'static str = "copy";
    const KIND: OperationKind = OperationKind::Act;
    const CLASS: JobClass = JobClass::Downloads;
    const DEADLINE: Deadline = Deadline::None;

    type Output = Model;

    async fn run(self, cx: Context) -> Result<Self::Output> {
        let (app, model) = (&cx.app, &self.model);
        n!(
            "model_copy",
            "📥 Copying '{model}' to hive '{}' from hive '{}'",
            cx.hive_id,
            text::excerpt(&self.from)
        );
        let hive = app.fleet.named(&self.from)?;
        if app.fleet.hive().is_some_and(|own| own == hive) {
            let problem = "this is the hive that the copy is for; name another one that has the model";
            return Err(FieldError::of_field("from", problem).into_failure(Self::NAME));
        }
        let sheet = loop {
            let sheet: Sheet = app.fleet.sheet(&hive, model.as_str()).await?;
            let Some(reading) = &sheet.reading else { break sheet };
            let progress = Progress {
                done: reading.done,
                total: Some(reading.total),
                unit: "bytes".to_owned(),
                ..Progress::default()
            };
            let (done, total) = (text::bytes(reading.done), text::bytes(reading.total));
            n!(progress: progress, "model_copy_hash",
                "Hive '{hive}' reads {} for its SHA-256: {done} of {total}", reading.file);
            let _waiting = waiting_for(format!("hive '{hive}' to read {}", reading.file));
            if cx.stop.run_until_cancelled(tokio::time::sleep(ASK)).await.is_none() {
                return Err(Failure::new(Code::Cancelled, "the copy was cancelled"));
            }
        };
        // They say which engines can run it.
        app.workers.engines().await;
        let mut model = app.catalog.copy(sheet, hive.as_str(), &cx.stop).await?;
        app.describe(&mut model);
        app.publish_model_change("added", &model);
        n!("model_copy", "'{}' is in the catalog: {}", model.id, text::bytes(model.size_bytes));
        Ok(model)
    }
}
