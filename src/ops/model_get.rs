//! `ModelGet`: one model of the catalog.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::operation::{Context, Deadline, Operation};
use crate::error::Result;
use crate::jobs::{JobClass, OperationKind};
use crate::models::{Model, ModelId};
use crate::n;
use crate::text;

/// Asks for one model.
#[derive(Debug, Deserialize, Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct ModelGet {
    /// The model's id, its name if only one model has it, or an alias.
    id: ModelId,
}

impl Operation for ModelGet {
    const NAME: &'static str = "ModelGet";
    const VERB: &'static str = "show";
    const KIND: OperationKind = OperationKind::Read;
    const CLASS: JobClass = JobClass::Reads;
    const DEADLINE: Deadline = Deadline::Read;

    type Output = Model;

    async fn run(self, cx: Context) -> Result<Self::Output> {
        n!("model_get", "🔎 Looking up model '{}' on hive '{}'", self.id, cx.hive_id);
        let model = cx.app.find_target(self.id.as_str()).await?.model;
        let state = if model.loaded { "loaded" } else { "not loaded" };
        n!("model_get", "Found '{}': {}, {state}", model.id, text::bytes(model.size_bytes));
        Ok(model)
    }
}
