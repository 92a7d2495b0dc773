//! What there is for a start: the model, the engines and the memory; and the places that follow.

use std::collections::{HashMap, HashSet};
use std::path::PathBuf;
use std::sync::Arc;

use super::device::Device;
use super::engines::Engine;
use super::engines::choice::{Candidate, candidates};
use super::engines::discover::FoundEngines;
use super::handle::Handle;
use super::learned::{Peak, PeakOf};
use super::memory::{self, DEFAULT_CONTEXT, FreeMemory, ModelFootprint};
use super::place::{Estimate, Place, Share, slowdown_in_words};
use super::request::{StartRequest, Trial};
use super::shared::Shared;
use super::start_error::StartError;
use super::support::Support;
use crate::models::{EngineSupport, Needs, Task};
use crate::spawn;

/// What a request asks for, and what there is for it at one moment.
pub(super) struct Survey<'a> {
    found: Arc<FoundEngines>,
    request: &'a StartRequest,
    /// `None` where its header cannot be read.
    model: Option<ModelFootprint>,
    support: &'a Support,
    /// The bytes of the projectors that engines would give it.
    projectors: HashMap<PathBuf, u64>,
    /// What workers of the model took.
    peaks: Vec<Peak>,
    pub(super) free: FreeMemory,
    pub(super) workers: Vec<Arc<Handle>>,
}

impl<'a> Survey<'a> {
    pub(super) async fn take(shared: &'a Shared, request: &'a StartRequest) -> Result<Self, StartError> {
        let found = match &request.trial {
            Some(Trial(engine)) => Arc::new(FoundEngines::only(engine)),
            None => shared.engines_with(&request.engine_options).await,
        };
        let projectors: HashSet<_> =
            found.installed.iter().filter_map(|engine| projector(engine, request)).collect();
        let (workers, path) = (shared.registry.all(), request.model_path.clone());
        let (settings, learned) = (shared.memory(), Arc::clone(&shared.learned));
        let (support, engines) = (Arc::clone(&shared.support), found.installed.clone());
        let look = move || {
            support.look(&engines);
            let measure = |projector: PathBuf| {
                let bytes = memory::length(&projector);
                (projector, bytes)
            };
            let projectors: HashMap<_, _> = projectors.into_iter().map(measure).collect();
            let free = FreeMemory::beside(&workers, settings);
            (ModelFootprint::read(&path), projectors, learned.of_model(&path), free, workers)
        };
        let (model, projectors, peaks, free, workers) = spawn::blocking(look).await?;
        let is_for_text = |model: &ModelFootprint| model.traits.task == Task::Text;
        let found = match model.as_ref().filter(|model| !is_for_text(model)) {
            Some(model) => {
                let context = model.context(request.context_length);
                Arc::new(found.each(|engine| engine.for_model(model.traits, context)))
            }
            None => found,
        };
        Ok(Self { found, request, model, support: &shared.support, projectors, peaks, free, workers })
    }

    /// The places where the model could go, the best class first. What is free now decides nothing but how many
    /// layers fit [beside](Place::BESIDE_OTHERS) what is there. Places that no device is large enough for are
    /// left out where others remain.
    ///
    /// # Errors
    /// Where no engine or device matches the request.
    pub(super) fn places(&self) -> Result<Vec<Place>, StartError> {
        let obstacle = |engine: &Engine| self.obstacle(engine).is_some();
        let candidates = candidates(&self.found, &self.request.engine, self.request.device, obstacle)?;
        let mut places: Vec<Place> =
            candidates.iter().map(|candidate| self.on_one_device(candidate)).collect();
        for gpus in self.groups(&candidates) {
            places.extend(self.on_several_devices(&gpus));
        }
        let is_possible = |place: &Place| {
            place
                .needs()
                .iter()
                .all(|(device, bytes)| self.free.most(*device).is_none_or(|most| *bytes <= most))
        };
        if places.iter().any(is_possible) {
            places.retain(is_possible);
        }
        places.sort_by_key(|place| place.class);
        Ok(places)
    }

    /// The engine of that name.
    pub(super) fn engine(&self, name: &str) -> Option<&Arc<Engine>> {
        self.found.installed.iter().find(|engine| engine.name == name)
    }

    /// Why an engine cannot run the model, as far as is known.
    pub(super) fn obstacle(&self, engine: &Engine) -> Option<String> {
        self.support.obstacle(engine, self.needs()?)
    }

    /// What the model asks of an engine; `None` where its header cannot be read.
    pub(super) fn needs(&self) -> Option<&Needs> {
        Some(&self.model.as_ref()?.needs)
    }

    /// Which engines of this machine can run the model.
    pub(super) fn support(&self) -> EngineSupport {
        self.needs().map(|needs| self.support.of(&self.found.installed, needs)).unwrap_or_default()
    }

    /// The projector that an engine is given.
    pub(super) fn projector(&self, engine: &Engine) -> Option<PathBuf> {
        projector(engine, self.request)
    }

    /// Whether the model's file has a chat template, or needs none; it counts as having one where it cannot be read.
    pub(super) fn has_template(&self) -> bool {
        let has = |model: &ModelFootprint| model.traits.template.is_some() || model.traits.task != Task::Text;
        self.model.as_ref().is_none_or(has)
    }

    /// Tokens of context of each slot.
    pub(super) fn context(&self) -> u64 {
        self.model.as_ref().map_or(DEFAULT_CONTEXT, |model| model.context(self.request.context_length))
    }

    /// The model with the projector that an engine gives it.
    fn model_for(&self, engine: &Engine) -> Option<ModelFootprint> {
        let projector = self.projector(engine).and_then(|path| self.projectors.get(&path).copied());
        Some(self.model.clone()?.with(projector.unwrap_or(0)))
    }

    /// What a worker of the model took on this engine with these devices.
    fn peak(&self, engine: &Engine, device: Device, split: &[Share]) -> Option<&Peak> {
        // All of them are of the model's file.
        let file = self.peaks.first()?.of.model.clone();
        let wanted = PeakOf::new(file, engine, self.request, (device, split), self.context());
        self.peaks.iter().find(|peak| peak.of == wanted)
    }

    /// The estimate of a formula.
    fn estimate(&self, engine: &Engine, device: Device) -> Option<Estimate> {
        let (context, slots) = (self.request.context_length, self.request.slots);
        Some(self.model_for(engine)?.estimate(engine, device, context, slots))
    }

    /// What the model was seen to take on this device alone; else what the formula says.
    fn measured(&self, candidate: &Candidate, formula: Estimate) -> Estimate {
        let peak = self.peak(&candidate.engine, candidate.device, &[]);
        match peak.and_then(|peak| peak.bytes_on(candidate.device, formula.grows)) {
            Some(bytes) => formula.measured(bytes),
            None => formula,
        }
    }

    /// The place with all of the model on one device, or with as many layers as the settings put there.
    fn on_one_device(&self, candidate: &Candidate) -> Place {
        let Candidate { engine, device, reason } = candidate;
        let estimate = self.estimate(engine, *device);
        let measured = estimate.map(|estimate| self.measured(candidate, estimate));
        let class = match device {
            cpu if cpu.is_cpu() => Place::PROCESSOR,
            gpu if self.free.capacity(*gpu).is_none() => Place::UNKNOWN_GPU,
            _ => Place::ONE_GPU,
        };
        let whole = Place {
            class,
            engine: engine.name.clone(),
            device: *device,
            split: Vec::new(),
            estimate: measured,
            reason: reason.clone(),
        };
        let (Some(count), Some(estimate)) = (engine.gpu_layers, estimate) else { return whole };
        let split =
            self.model_for(engine).filter(|model| !device.is_cpu() && Some(count) < model.layers.count());
        match split.and_then(|model| model.layers.split(&estimate, &[(*device, 0)], Some(count))) {
            Some(split) => self.split_place(candidate, &estimate, split, class.max(Place::WITH_PROCESSOR)),
            None => whole,
        }
    }

    /// The GPUs over which an engine may split the model: those of a kind together if the caller leaves the
    /// choice to the hive, else each by itself.
    fn groups<'b>(&self, candidates: &'b [Candidate]) -> Vec<Vec<&'b Candidate>> {
        let mut groups: Vec<Vec<&Candidate>> = Vec::new();
        let splits = |candidate: &&Candidate| {
            let engine = &candidate.engine;
            !candidate.device.is_cpu() && engine.takes("gpu_layers") && engine.gpu_layers.is_none()
        };
        for candidate in candidates.iter().filter(splits) {
            let joins = |group: &&mut Vec<&Candidate>| {
                self.request.device == Device::Auto
                    && candidate.engine.takes("tensor_split")
                    && group[0].engine.name == candidate.engine.name
                    && group[0].device.kind() == candidate.device.kind()
            };
            match groups.iter_mut().find(joins) {
                Some(group) => group.push(candidate),
                None => groups.push(vec![candidate]),
            }
        }
        groups
    }

    /// The places with the layers of the model on several devices.
    fn on_several_devices(&self, gpus: &[&Candidate]) -> Vec<Place> {
        let split = |class: u8, room: &dyn Fn(Device) -> Option<u64>| {
            let rooms = gpus.iter().map(|gpu| Some((gpu.device, room(gpu.device)?)));
            let rooms: Vec<_> = rooms.collect::<Option<_>>()?;
            let (model, estimate) =
                (self.model_for(&gpus[0].engine)?, self.estimate(&gpus[0].engine, gpus[0].device)?);
            // What it was seen to take wholly on a GPU, it takes of each.
            let estimate = self.measured(gpus[0], estimate);
            let split = model.layers.split(&estimate, &rooms, None)?;
            // All of it on one GPU is a place without a split.
            let is_whole = split.len() == 1;
            let class =
                if split.iter().any(|share| share.device.is_cpu()) { class } else { Place::SEVERAL_GPUS };
            (!is_whole).then(|| self.split_place(gpus[0], &estimate, split, class))
        };
        let with_room_made = split(Place::WITH_PROCESSOR, &|device| self.free.without_workers(device));
        let beside_others = split(Place::BESIDE_OTHERS, &|device| self.free.on(device))
            .filter(|place| with_room_made.as_ref().is_none_or(|better| better.split != place.split));
        with_room_made.into_iter().chain(beside_others).collect()
    }

    fn split_place(&self, first: &Candidate, whole: &Estimate, mut split: Vec<Share>, class: u8) -> Place {
        // What it was measured to take wholly on a GPU is no measurement of this split.
        let mut whole = Estimate { formula: None, ..*whole };
        let device = split.first().map_or(first.device, |share| share.device);
        if let Some(peak) = self.peak(&first.engine, device, &split) {
            let formula = split.iter().fold(0_u64, |sum, share| sum.saturating_add(share.bytes));
            for share in split.iter_mut().filter(|share| !share.device.is_cpu()) {
                // Resident memory has the pages of the file too, also those of layers that are on GPUs.
                share.bytes = peak.bytes_on(share.device, 0).unwrap_or(share.bytes);
            }
            whole.formula = Some(formula);
        }
        let total = split.iter().fold(0_u64, |sum, share| sum.saturating_add(share.bytes));
        let mut place = Place {
            class,
            engine: first.engine.name.clone(),
            device,
            split,
            estimate: Some(whole.with_total(total)),
            reason: String::new(),
        };
        let layers: u32 = place.split.iter().map(|share| share.layers).sum();
        let shares: Vec<_> =
            place.split.iter().map(|share| format!("{} on {}", share.layers, share.device)).collect();
        place.reason = format!("{}; of {layers} layers, {}", first.reason, shares.join(", "));
        if let Some(factor) = place.slowdown().filter(|factor| *factor > 1.0) {
            place.reason = format!("{}: {}", place.reason, slowdown_in_words(factor));
        }
        place
    }
}

fn projector(engine: &Engine, request: &StartRequest) -> Option<PathBuf> {
    engine.projector_for(&request.model_path, request.projector.as_ref())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{DeviceKind, LlamaServer};
    use crate::engine::sample_model::SampleModel;
    use crate::workers::engines::llama_server;
    use crate::workers::gpus::Gpu;
    use crate::workers::learned::ModelFile;

    const GPU: fn(u32) -> Device = |index| Device::Exact { kind: DeviceKind::Cuda, index };
    const MIB: u64 = 1 << 20;

    /// The engines of a machine with two GPUs.
    fn engines(settings: &LlamaServer) -> FoundEngines {
        let list = "Available devices:\n  CUDA0: NVIDIA (1 MiB)\n  CUDA1: NVIDIA (1 MiB)\n";
        let server = llama_server::describe("llama-server".into(), settings, "version: 1 (a)\n", list);
        let installed = [server, Engine::builtin("p".into())].map(Arc::new).into();
        FoundEngines { installed, unusable: Vec::new() }
    }

    /// The places for the sample model, which needs about 625 MiB of a GPU, on GPUs with so much memory, of
    /// which so much is free, in MiB: class, engine and devices.
    fn places(found: &FoundEngines, request: &StartRequest, gpus: [(u64, u64); 2]) -> Vec<Place> {
        places_after(found, request, gpus, Vec::new())
    }

    /// The same, after workers with these peaks.
    fn places_after(
        found: &FoundEngines,
        request: &StartRequest,
        gpus: [(u64, u64); 2],
        peaks: Vec<Peak>,
    ) -> Vec<Place> {
        let gpu = |(index, (total, free)): (u32, (u64, u64))| Gpu {
            device: GPU(index),
            memory_total_bytes: total * MIB,
            memory_used_bytes: (total - free) * MIB,
            ..Gpu::default()
        };
        let free = FreeMemory::of(1 << 30, (0..).zip(gpus).map(gpu).collect());
        let model = ModelFootprint::read(&request.model_path);
        let found = Arc::new(found.clone());
        let support = &Support::open("/no/such/file".into());
        let (projectors, workers) = (HashMap::new(), Vec::new());
        let survey = Survey { found, request, model, support, projectors, peaks, free, workers };
        survey.places().unwrap()
    }

    fn shown(places: &[Place]) -> Vec<String> {
        let layers =
            |place: &Place| place.split.iter().map(|share| format!(" {}", share.layers)).collect::<String>();
        let show =
            |place: &Place| format!("{} {} {}{}", place.class, place.engine, place.device, layers(place));
        places.iter().map(show).collect()
    }

    fn request(folder: &std::path::Path, engine: &str, device: &str) -> StartRequest {
        let model_path = folder.join("m.gguf");
        SampleModel::default().write(&model_path).unwrap();
        StartRequest {
            model_id: "m".to_owned(),
            model_path,
            engine: engine.to_owned(),
            device: device.parse().unwrap(),
            context_length: Some(512),
            ..StartRequest::default()
        }
    }

    #[test]
    fn places_are_those_where_the_model_could_go_the_best_first() {
        let folder = tempfile::tempdir().unwrap();
        let found = engines(&LlamaServer::default());
        let auto = request(folder.path(), "auto", "auto");
        // What is free does not change the order.
        for free in [2000, 0] {
            let all = places(&found, &auto, [(2000, free), (2000, free)]);
            let shown = shown(&all);
            let one = ["0 llama-server cuda:0", "0 llama-server cuda:1"];
            assert_eq!(shown[..2], one, "{shown:?}");
            assert_eq!(shown.last().unwrap(), "4 llama-server cpu", "{shown:?}");
        }
        let cpu = places(&found, &request(folder.path(), "auto", "cpu"), [(2000, 2000), (2000, 2000)]);
        assert_eq!(shown(&cpu), ["4 llama-server cpu"]);
        let named = places(&found, &request(folder.path(), "builtin", "auto"), [(2000, 2000), (2000, 2000)]);
        assert_eq!(shown(&named), ["4 builtin cpu"]);
    }

    #[test]
    fn layers_go_where_they_have_room_and_the_processor_has_the_rest() {
        let folder = tempfile::tempdir().unwrap();
        let found = engines(&LlamaServer::default());
        let one_gpu = request(folder.path(), "auto", "cuda:1");
        let whole = places(&found, &one_gpu, [(2000, 2000), (2000, 2000)])[0].estimate.unwrap().total();
        // The GPU is too small by a byte for the whole model.
        let total = (whole - 1) / MIB;
        let split = places(&found, &one_gpu, [(2000, 2000), (total, total)]);
        assert_eq!(split[0].class, Place::WITH_PROCESSOR, "{split:?}");
        assert_eq!(split[0].device, GPU(1));
        assert_eq!(
            split[0].split.iter().map(|share| share.layers).sum::<u32>(),
            3,
            "two blocks and the output"
        );
        assert!(split[0].slowdown() > Some(1.0));
        assert!(split[0].reason.contains("times slower than wholly on a GPU"), "{}", split[0].reason);
        assert_eq!(
            split[0].needs().iter().map(|(_, bytes)| bytes).sum::<u64>(),
            split[0].estimate.unwrap().total()
        );
        // Another program holds most of a GPU that is large enough.
        let beside = places(&found, &one_gpu, [(2000, 2000), (2000, total)]);
        assert_eq!(beside[0].class, Place::ONE_GPU);
        assert!(beside[1..].iter().any(|place| place.class == Place::WITH_PROCESSOR), "{beside:?}");
    }

    #[test]
    fn a_model_that_took_more_than_the_formula_says_is_split_where_that_does_not_fit() {
        let folder = tempfile::tempdir().unwrap();
        let found = engines(&LlamaServer::default());
        let one_gpu = request(folder.path(), "auto", "cuda:1");
        let file = ModelFile::now(&one_gpu.model_path).unwrap();
        let formula = places(&found, &one_gpu, [(2000, 2000); 2])[0].estimate.unwrap().total();
        let taken = formula + 100 * MIB;
        let of = PeakOf::new(file, &found.installed[0], &one_gpu, (GPU(1), &[]), 512);
        let peak = serde_json::json!({
            "of": of, "resident_bytes": 1, "idle_bytes": null, "gpus": [["cuda:1", taken]],
            "seen_at": "2026-01-01T00:00:00Z"
        });
        let peaks = vec![serde_json::from_value(peak).unwrap()];
        let total = (taken - 1) / MIB;
        assert!(total * MIB > formula, "the formula says that all of it fits");
        let split = places_after(&found, &one_gpu, [(2000, 2000), (total, total)], peaks);
        assert_eq!(split[0].class, Place::WITH_PROCESSOR, "{split:?}");
        let needs = split[0].needs();
        assert!(needs.iter().all(|(device, bytes)| *device != GPU(1) || *bytes <= total * MIB), "{needs:?}");
        assert_eq!(split[0].estimate.unwrap().source(), "formula", "this split was never measured");
    }

    #[test]
    fn the_layers_of_the_settings_are_kept() {
        let folder = tempfile::tempdir().unwrap();
        let settings = LlamaServer { gpu_layers: Some(1), ..LlamaServer::default() };
        let found = engines(&settings);
        let auto = request(folder.path(), "auto", "auto");
        let fixed = places(&found, &auto, [(2000, 2000), (2000, 2000)]);
        let expected = ["2 llama-server cuda:0 1 2", "2 llama-server cuda:1 1 2", "4 llama-server cpu"];
        assert_eq!(shown(&fixed), expected);
        let all = engines(&LlamaServer { gpu_layers: Some(3), ..settings });
        assert_eq!(shown(&places(&all, &auto, [(2000, 2000), (2000, 2000)]))[0], "0 llama-server cuda:0");
    }
}
