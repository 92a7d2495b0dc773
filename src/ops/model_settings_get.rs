//! `ModelSettingsGet`: what counts for a model or a variant of it, and who says so.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::model_settings::SettingsView;
use super::operation::{Context, Deadline, Operation};
use crate::error::Result;
use crate::jobs::{JobClass, OperationKind};
use crate::models::ModelId;
use crate::n;

/// Asks for the settings of a model.
#[derive(Debug, Deserialize, Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct ModelSettingsGet {
    /// The model's id, its name if only one model has it, an alias, or one of these with `@VARIANT`.
    id: ModelId,
}

impl Operation for ModelSettingsGet {
    const NAME: &'static str = "ModelSettingsGet";
    const VERB: &'static str = "settings";
    const KIND: OperationKind = OperationKind::Read;
    const CLASS: JobClass = JobClass::Reads;
    const DEADLINE: Deadline = Deadline::Read;

    type Output = SettingsView;

    async fn run(self, cx: Context) -> Result<Self::Output> {
        n!("model_settings_get", "🔧 Looking up the settings of '{}' on hive '{}'", self.id, cx.hive_id);
        let target = cx.app.find_target(self.id.as_str()).await?;
        let view = SettingsView::of(&cx.app, &target).await?;
        n!("model_settings_get", "Settings of '{}': {}", target.served_id(), view.in_words());
        Ok(view)
    }
}
