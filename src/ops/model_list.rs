//! `ModelList`: every model of the catalog.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::operation::{Context, Deadline, Operation};
use crate::error::Result;
use crate::jobs::{JobClass, OperationKind};
use crate::models::Model;
use crate::n;
use crate::text::each_member;

/// Asks for every model of the catalog.
#[derive(Debug, Deserialize, Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct ModelList {}

/// The result.
#[derive(Debug, Serialize, ToSchema)]
#[serde(transparent)]
#[schema(as = ModelListResult)]
pub(super) struct Models(#[serde(serialize_with = "each_member")] Vec<Model>);

impl Operation for ModelList {
    const NAME: &'static str = "ModelList";
    const VERB: &'static str = "list";
    const KIND: OperationKind = OperationKind::Read;
    const CLASS: JobClass = JobClass::Reads;
    const DEADLINE: Deadline = Deadline::Read;

    type Output = Models;

    async fn run(self, cx: Context) -> Result<Self::Output> {
        n!("model_list", "📋 Listing models on hive '{}'", cx.hive_id);
        let models = cx.app.list_models().await?;
        n!("model_list", "Found {} model(s)", models.len());
        Ok(Models(models))
    }
}
