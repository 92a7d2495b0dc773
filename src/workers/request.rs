//! What a caller asks of a new worker.

use std::path::PathBuf;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::device::Device;
use super::engines::Engine;
use super::place::Place;
use super::worker::Worker;
use crate::config::{self, EngineOptions, KeepAlive, ModelSettings};
use crate::models::Model;
use crate::n;
use crate::paths;

/// What a caller names of a start. The settings of the model fill in the rest.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Asked {
    /// `auto`, a kind of device or the name of an engine.
    pub engine: Option<String>,
    /// The device.
    pub device: Option<Device>,
    /// Tokens of context of each slot.
    pub context_length: Option<u64>,
    /// Requests that it answers at once.
    pub slots: Option<u32>,
}

/// The request for a new worker. The worker's record holds it, so that a restart can repeat it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct StartRequest {
    /// The id of the model.
    pub model_id: String,
    /// The variant of it that the settings describe.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub variant: Option<String>,
    /// The file of the model.
    #[serde(with = "paths::exact")]
    pub model_path: PathBuf,
    /// The file of its projector.
    #[serde(default, skip_serializing_if = "Option::is_none", with = "paths::exact_option")]
    pub projector: Option<PathBuf>,
    /// The file of the chat template to use instead of the model's own.
    #[serde(default, skip_serializing_if = "Option::is_none", with = "paths::exact_option")]
    pub chat_template: Option<PathBuf>,
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
    /// Options of llama.cpp's server.
    #[serde(default, skip_serializing_if = "is_default")]
    pub engine_options: EngineOptions,
    /// What the caller named; the rest is from the settings.
    #[serde(default, skip_serializing_if = "is_default")]
    pub asked: Asked,
    /// The settings at the time of the request; `None` where they are unknown.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub settings: Option<StartSettings>,
    /// The engine that the worker tries, which need not be installed. It has no other to choose from.
    #[serde(skip)]
    pub trial: Option<Trial>,
}

/// An engine that a worker tries.
#[derive(Clone, Debug)]
pub struct Trial(pub(super) Arc<Engine>);

impl PartialEq for Trial {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

pub(super) fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

/// The settings of a model that matter for the start of a worker.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct StartSettings {
    engine: Option<String>,
    device: Option<Device>,
    context_length: Option<u64>,
    slots: Option<u32>,
    #[serde(with = "paths::exact_option")]
    chat_template: Option<PathBuf>,
    #[serde(with = "paths::exact_option")]
    projector: Option<PathBuf>,
    engine_options: EngineOptions,
}

impl StartSettings {
    fn of(settings: &ModelSettings) -> Self {
        Self {
            engine: settings.engine.clone(),
            device: settings.device,
            context_length: settings.context_length,
            slots: settings.slots,
            chat_template: settings.chat_template.clone(),
            projector: settings.projector.clone(),
            engine_options: settings.engine_options,
        }
    }

    /// Those that a caller left to them.
    fn beside(&self, asked: &Asked) -> Self {
        Self {
            engine: self.engine.clone().filter(|_| asked.engine.is_none()),
            device: self.device.filter(|_| asked.device.is_none()),
            context_length: self.context_length.filter(|_| asked.context_length.is_none()),
            slots: self.slots.filter(|_| asked.slots.is_none()),
            ..self.clone()
        }
    }
}

impl StartRequest {
    /// The request for what a caller asks for, filled in from the settings of the model.
    #[must_use]
    pub fn new(model: &Model, variant: Option<&str>, settings: &ModelSettings, asked: Asked) -> Self {
        let start = StartSettings::of(settings);
        let StartSettings { engine, device, context_length, slots, .. } = start.beside(&asked);
        Self {
            model_id: model.id.clone(),
            variant: variant.map(str::to_owned),
            model_path: model.path.clone(),
            projector: settings.projector.clone().or_else(|| model.projector.clone()),
            chat_template: settings.chat_template.clone(),
            engine: asked.engine.clone().or(engine).unwrap_or_else(|| "auto".to_owned()),
            device: asked.device.or(device).unwrap_or_default(),
            context_length: asked.context_length.or(context_length),
            slots: asked.slots.or(slots),
            force: false,
            keep_alive: KeepAlive::Forever,
            load: None,
            place: None,
            engine_options: settings.engine_options,
            asked,
            settings: Some(start),
            trial: None,
        }
        .within(model.context_length)
    }

    /// The same request, to be started at exactly this place.
    #[must_use]
    pub fn at(self, place: &Place) -> Self {
        Self { place: Some(place.clone()), ..self }
    }

    /// The id under which requests name what it serves: the model's, or that of a variant.
    #[must_use]
    pub fn served_id(&self) -> String {
        config::served_id(&self.model_id, self.variant.as_deref())
    }

    /// Whether a worker that was started for it would be started otherwise with these settings. One whose
    /// settings are unknown would not.
    #[must_use]
    pub fn is_outdated(&self, settings: &ModelSettings) -> bool {
        self.differs(&StartSettings::of(settings))
    }

    /// The same, with the settings of a later request.
    pub(crate) fn is_outdated_by(&self, later: &Self) -> bool {
        later.settings.as_ref().is_some_and(|settings| self.differs(settings))
    }

    fn differs(&self, now: &StartSettings) -> bool {
        self.settings.as_ref().is_some_and(|then| then.beside(&self.asked) != now.beside(&self.asked))
    }

    /// Limits the context to the one that the model was trained for, and narrates it.
    #[must_use]
    fn within(mut self, trained: Option<u64>) -> Self {
        if let (Some(asked), Some(trained)) = (self.context_length, trained)
            && asked > trained
        {
            n!(
                warn: "worker_context",
                "'{}' was trained for {trained} tokens of context: it gets {trained}, not the {asked} that were asked for",
                self.served_id()
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

    /// The request for what is to replace the worker, which was started for `was`: what this one asks for or what
    /// the worker has, whichever is more; what this one asks for where the settings have changed since.
    pub(crate) fn in_place_of(self, worker: &Worker, was: &Self) -> Self {
        if was.is_outdated_by(&self) {
            return self;
        }
        Self {
            context_length: self.context_length.max(worker.context_length),
            slots: self.slots.max(Some(worker.slots)),
            ..self
        }
    }
}
