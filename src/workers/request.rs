//! What a caller asks of a new worker.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::device::Device;
use super::place::Place;
use super::worker::Worker;
use crate::config::KeepAlive;
use crate::n;
use crate::paths;

/// The request for a new worker. The worker's record holds it, so that a restart can repeat it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct StartRequest {
    /// The id of the model.
    pub model_id: String,
    /// The file of the model.
    #[serde(with = "paths::exact")]
    pub model_path: PathBuf,
    /// The file of its projector.
    #[serde(default, skip_serializing_if = "Option::is_none", with = "paths::exact_option")]
    pub projector: Option<PathBuf>,
    /// `auto`, a kind of device (`cpu`, `cuda`, ...) or the name of an engine.
    pub engine: String,
    /// The device.
    pub device: Device,
    /// Tokens of context of each slot. Unset leaves the choice to the engine.
    pub context_length: Option<u64>,
    /// Slots: requests that it answers at once. Unset leaves the choice to the engine.
    pub slots: Option<u32>,
    /// Whether to start it although its memory does not seem to suffice.
    #[serde(default)]
    pub force: bool,
    /// How long it stays without a request.
    #[serde(default)]
    pub keep_alive: KeepAlive,
    /// The number of the load that it is started for; a later daemon has other numbers.
    #[serde(skip)]
    pub load: Option<u64>,
    /// The place where it must go, one of [`Supervisor::placements`](super::Supervisor::placements); unset
    /// leaves the choice to the start. A restart chooses anew.
    #[serde(skip)]
    pub place: Option<Place>,
}

impl StartRequest {
    /// The same request, to be started at exactly this place.
    #[must_use]
    pub fn at(self, place: &Place) -> Self {
        Self { place: Some(place.clone()), ..self }
    }

    /// Limits the context to the one that the model was trained for, and narrates it.
    #[must_use]
    pub fn within(mut self, trained: Option<u64>) -> Self {
        if let (Some(asked), Some(trained)) = (self.context_length, trained)
            && asked > trained
        {
            n!(
                warn: "worker_context",
                "'{}' was trained for {trained} tokens of context: it gets {trained}, not the {asked} that were asked for",
                self.model_id
            );
            self.context_length = Some(trained);
        }
        self
    }

    /// Whether a worker has at least the context and the slots that are asked for.
    #[must_use]
    pub(super) fn is_met_by(&self, worker: &Worker) -> bool {
        let enough =
            |has: Option<u64>, asked: Option<u64>| has.zip(asked).is_none_or(|(has, asked)| has >= asked);
        enough(worker.context_length, self.context_length)
            && enough(Some(worker.slots.into()), self.slots.map(u64::from))
    }

    /// The request for what this one asks for and what the worker has, whichever is more.
    pub(crate) fn or_more(self, worker: &Worker) -> Self {
        Self {
            context_length: self.context_length.max(worker.context_length),
            slots: self.slots.max(Some(worker.slots)),
            ..self
        }
    }
}
