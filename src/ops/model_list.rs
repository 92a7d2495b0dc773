//! `ModelList`: every model of the catalog.

use serde::{Deserialize, Serialize};

use super::{Cx, Operation};
use crate::error::Result;
use crate::models::Model;
use crate::n;

/// Asks for every model of the catalog.
#[derive(Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ModelList {}

impl Operation for ModelList {
    type Output = Vec<Model>;

    async fn run(self, cx: Cx) -> Result<Self::Output> {
        n!("model_list", "📋 Listing models on hive '{}'", cx.hive_id);
        let models = cx.app.list_models().await?;
        n!("model_list", "Found {} model(s)", models.len());
        Ok(models)
    }
}
