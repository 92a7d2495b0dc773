//! `ModelPlace`: keeps a model on several hives of the fleet.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::operation::{Context, Deadline, Operation};
use crate::error::Result;
use crate::fleet::{Place, Placement};
use crate::jobs::{JobClass, OperationKind};
use crate::models::ModelId;
use crate::n;

/// Keeps a model on so many hives.
#[derive(Debug, Deserialize, Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct ModelPlace {
    /// The model's id, which is the same on all hives, or its name.
    model: ModelId,
    /// How many hives are to have it. 0 ends the keeping, and deletes nothing.
    copies: usize,
}

impl Operation for ModelPlace {
    const NAME: &'static str = "ModelPlace";
    const VERB: &'static str = "fleet place";
    const KIND: OperationKind = OperationKind::Act;
    const CLASS: JobClass = JobClass::Acts;
    const DEADLINE: Deadline = Deadline::Act;

    type Output = Placement;

    async fn run(self, cx: Context) -> Result<Self::Output> {
        let Self { model, copies } = self;
        n!("model_place", "📌 Keeping '{model}' on {copies} hive(s) of the fleet of hive '{}'", cx.hive_id);
        let place = Place { model: model.to_string(), copies };
        let placement = cx.app.fleet.place(place).await?;
        if copies == 0 {
            n!("model_place", "'{model}' stays where it is, and is not kept on several hives any more");
            return Ok(placement);
        }
        let have = placement.hives.len();
        n!("model_place", "{have} hive(s) have '{model}': {}", placement.hives.join(", "));
        for copying in &placement.copying {
            n!("model_place", "Hive '{}' copies it: {}", copying.hive, copying.job_id);
        }
        if let Some(lacking) = &placement.lacking {
            n!(warn: "model_place", "There are fewer than {copies} for now: {lacking}");
        }
        Ok(placement)
    }
}
