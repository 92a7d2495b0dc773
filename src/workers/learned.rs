//! What workers really took of memory, for the plans of later loads: `DATA_DIR/memory.json`.
//!
//! A peak belongs to a model's file (its path, size and time of change), an engine with its version and command
//! line, the devices with their layers, the context and the slots. Resident memory is the kernel's own peak
//! (`VmHWM`) of each process where it tells one; memory on GPUs is what their drivers list. A peak is looked up
//! while a worker serves (by its pulse, after requests) and before it is stopped; the file is written where one
//! has grown.
//!
//! A worker that never got a long prompt has not shown what it can take if its engine takes the memory of its KV
//! cache as the cache fills, as the built-in one does. So the peak before the first request is kept too, and a
//! plan takes the larger of the peak and of that with [what grows](super::place::Estimate::grows) added.
//!
//! A file of a newer version is left alone, and nothing is learned then. A damaged one is set aside.

use std::io;
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::device::Device;
use super::engines::Engine;
use super::handle::Handle;
use super::place::Share;
use super::request::StartRequest;
use super::state::LifeStage;
use super::usage;
use crate::files::versioned::{self, VERSION, first_version};
use crate::{files, paths};

/// The most peaks that are kept; the one that was seen longest ago goes first.
const MOST_PEAKS: usize = 256;
/// A longer file, in bytes, is not one of these.
const MAX_BYTES: u64 = 4 << 20;
/// A peak has grown if it is larger by more than one part in this many.
const GROWTH: u64 = 100;

/// A model's file at one moment.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct ModelFile {
    #[serde(with = "paths::exact")]
    path: PathBuf,
    bytes: u64,
    /// Milliseconds since the Unix epoch.
    modified: u64,
}

/// What a peak belongs to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct PeakOf {
    pub(super) model: ModelFile,
    #[serde(default, skip_serializing_if = "Option::is_none", with = "paths::exact_option")]
    pub(super) projector: Option<PathBuf>,
    pub(super) engine: String,
    pub(super) engine_version: Option<String>,
    /// Its program and the arguments of its description.
    pub(super) command: String,
    /// Each device, with its layers where the model is split.
    pub(super) devices: Vec<(Device, Option<u32>)>,
    /// Tokens of context of each slot, where the hive plans it.
    pub(super) context: Option<u64>,
    pub(super) slots: u32,
}

/// The most memory that a worker took.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Peak {
    pub(super) of: PeakOf,
    pub(super) resident_bytes: u64,
    /// The same before its first request; unset where that was not seen.
    pub(super) idle_bytes: Option<u64>,
    /// Its memory on each GPU.
    pub(super) gpus: Vec<(Device, u64)>,
    /// When it was last seen.
    pub(super) seen_at: Timestamp,
    #[serde(flatten)]
    unknown: Map<String, Value>,
}

#[derive(Debug, Serialize, Deserialize)]
struct Contents {
    #[serde(default = "first_version")]
    version: u64,
    peaks: Vec<Peak>,
    #[serde(flatten)]
    unknown: Map<String, Value>,
}

impl Default for Contents {
    fn default() -> Self {
        Self { version: VERSION, peaks: Vec::new(), unknown: Map::new() }
    }
}

/// The peaks of one hive.
#[derive(Debug)]
pub(super) struct Learned {
    path: PathBuf,
    /// Read at the first use. Locked only on the blocking pool, also while the file is written.
    state: Mutex<State>,
}

#[derive(Debug, Default)]
enum State {
    #[default]
    Unread,
    Read(Contents),
    /// The file is not for this version to change.
    Closed,
}

impl ModelFile {
    /// The file as it is now. Blocks.
    pub(super) fn now(path: &Path) -> Option<Self> {
        let metadata = std::fs::metadata(path).ok()?;
        Some(Self { path: path.to_owned(), bytes: metadata.len(), modified: files::modified_ms(&metadata)? })
    }

    fn is_older_than(&self, moment: Timestamp) -> bool {
        i64::try_from(self.modified).is_ok_and(|modified| modified < moment.as_millisecond())
    }
}

impl PeakOf {
    /// What the peak of a worker belongs to that this engine runs for this request.
    pub(super) fn new(
        model: ModelFile,
        engine: &Engine,
        request: &StartRequest,
        (device, split): (Device, &[Share]),
        context: u64,
    ) -> Self {
        let devices = match split.is_empty() {
            true => vec![(device, None)],
            false => split.iter().map(|share| (share.device, Some(share.layers))).collect(),
        };
        Self {
            model,
            projector: engine.projector_for(&request.model_path, request.projector.as_ref()),
            engine: engine.name.clone(),
            engine_version: engine.version.clone(),
            command: format!("{} {}", engine.program.display(), engine.arguments.join(" ")),
            devices,
            context: engine.has_context().then_some(context),
            slots: request.slots.unwrap_or(1),
        }
    }

    /// What the peak of a worker belongs to; `None` where its model's file has changed since its start. Blocks.
    fn of(worker: &Handle) -> Option<Self> {
        let model = ModelFile::now(&worker.request.model_path)?;
        let context = worker.planned_context().unwrap_or(0);
        let place = (worker.device, worker.split.as_slice());
        model
            .is_older_than(worker.started_at())
            .then(|| Self::new(model, &worker.engine, &worker.request, place, context))
    }
}

impl Peak {
    /// The bytes that such a worker takes on a device, of which `grows` come only with long prompts; `None` where
    /// nobody told.
    pub(super) fn bytes_on(&self, device: Device, grows: u64) -> Option<u64> {
        if !device.is_cpu() {
            return self.gpus.iter().find(|(on, _)| *on == device).map(|(_, bytes)| *bytes);
        }
        let filled = match self.idle_bytes {
            Some(idle) => idle.saturating_add(grows),
            None if grows == 0 => 0,
            // Nobody knows how much of the peak had grown already.
            None => return None,
        };
        Some(self.resident_bytes.max(filled))
    }
}

impl Learned {
    pub(super) fn new(path: PathBuf) -> Self {
        Self { path, state: Mutex::default() }
    }

    /// The peaks of workers of a model's file. Blocks.
    pub(super) fn of_model(&self, model: &Path) -> Vec<Peak> {
        let Some(model) = ModelFile::now(model) else { return Vec::new() };
        match self.read(&mut self.state.lock()) {
            Some(contents) => contents.peaks.iter().filter(|peak| peak.of.model == model).cloned().collect(),
            None => Vec::new(),
        }
    }

    /// Looks at the memory of a worker that serves, and keeps its peak. Blocks.
    pub(super) fn remember(&self, worker: &Handle) {
        if worker.is_trial() || !matches!(worker.stage(), LifeStage::Ready | LifeStage::Unresponsive) {
            return;
        }
        let is_fresh = || worker.traffic.borrow().sent == 0;
        let was_fresh = is_fresh();
        let (resident_bytes, gpus) = usage::peak_of(worker.pid);
        let Some(of) = PeakOf::of(worker).filter(|_| resident_bytes > 0) else { return };
        let idle_bytes = (was_fresh && is_fresh() && !worker.is_adopted()).then_some(resident_bytes);
        let peak =
            Peak { of, resident_bytes, idle_bytes, gpus, seen_at: Timestamp::now(), unknown: Map::new() };
        if let Err(error) = self.keep(peak) {
            tracing::warn!(path = %self.path.display(), %error, "could not keep how much memory a worker took");
        }
    }

    fn keep(&self, peak: Peak) -> io::Result<()> {
        let mut state = self.state.lock();
        let Some(contents) = self.read(&mut state) else { return Ok(()) };
        if !add(&mut contents.peaks, peak) {
            return Ok(());
        }
        files::put(&self.path, &serde_json::to_vec(contents)?).map(drop)
    }

    /// The contents of the file; `None` where they are not for this version.
    fn read<'a>(&self, state: &'a mut State) -> Option<&'a mut Contents> {
        if matches!(state, State::Unread) {
            let contents = versioned::load(&self.path, MAX_BYTES, "nothing is learned of memory");
            *state = contents.map_or(State::Closed, State::Read);
        }
        match state {
            State::Read(contents) => Some(contents),
            State::Unread | State::Closed => None,
        }
    }
}

/// Adds what was seen of a peak. Returns whether something has changed that is worth writing.
fn add(peaks: &mut Vec<Peak>, seen: Peak) -> bool {
    let Some(known) = peaks.iter_mut().find(|peak| peak.of == seen.of) else {
        if peaks.len() >= MOST_PEAKS
            && let Some(oldest) = (0..peaks.len()).min_by_key(|index| peaks[*index].seen_at)
        {
            peaks.swap_remove(oldest);
        }
        peaks.push(seen);
        return true;
    };
    let mut changed = grow(&mut known.resident_bytes, seen.resident_bytes);
    if let Some(bytes) = seen.idle_bytes {
        changed |= grow(known.idle_bytes.get_or_insert(0), bytes);
    }
    for (device, bytes) in seen.gpus {
        match known.gpus.iter_mut().find(|(on, _)| *on == device) {
            Some((_, peak)) => changed |= grow(peak, bytes),
            None => {
                known.gpus.push((device, bytes));
                changed = true;
            }
        }
    }
    known.seen_at = seen.seen_at;
    changed
}

/// Raises a peak. Returns whether it has grown by much.
fn grow(peak: &mut u64, seen: u64) -> bool {
    let has_grown = seen > peak.saturating_add(*peak / GROWTH);
    *peak = seen.max(*peak);
    has_grown
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peak(context: u64, resident_bytes: u64) -> Peak {
        let model = ModelFile { path: "/m.gguf".into(), bytes: 1, modified: 2 };
        let of = PeakOf {
            model,
            projector: None,
            engine: "e".to_owned(),
            engine_version: None,
            command: "e --model".to_owned(),
            devices: vec![(Device::CPU, None)],
            context: Some(context),
            slots: 1,
        };
        let seen_at = Timestamp::UNIX_EPOCH;
        Peak { of, resident_bytes, idle_bytes: None, gpus: Vec::new(), seen_at, unknown: Map::new() }
    }

    #[test]
    fn a_peak_only_grows_and_is_written_only_then() {
        let mut peaks = Vec::new();
        assert!(add(&mut peaks, peak(1, 1000)));
        assert!(!add(&mut peaks, peak(1, 900)), "less");
        assert!(!add(&mut peaks, peak(1, 1005)), "hardly more");
        assert!(add(&mut peaks, peak(1, 1200)));
        assert!(add(&mut peaks, Peak { idle_bytes: Some(700), ..peak(1, 0) }));
        assert!(add(&mut peaks, Peak { gpus: vec![(Device::CPU, 5)], ..peak(1, 0) }));
        assert!(add(&mut peaks, peak(2, 10)), "another context");
        let shown: Vec<_> = peaks.iter().map(|peak| (peak.resident_bytes, peak.idle_bytes)).collect();
        assert_eq!(shown, [(1200, Some(700)), (10, None)]);
    }

    #[test]
    fn what_grows_with_prompts_is_added_to_the_peak_before_the_first_request() {
        let gpu = "cuda:0".parse().unwrap();
        let seen = Peak { idle_bytes: Some(700), gpus: vec![(gpu, 50)], ..peak(1, 1000) };
        assert_eq!(seen.bytes_on(Device::CPU, 0), Some(1000));
        assert_eq!(seen.bytes_on(Device::CPU, 100), Some(1000), "as large as what was seen");
        assert_eq!(seen.bytes_on(Device::CPU, 500), Some(1200), "more than what was seen");
        assert_eq!((seen.bytes_on(gpu, 0), peak(1, 1000).bytes_on(gpu, 0)), (Some(50), None));
        assert_eq!(peak(1, 1000).bytes_on(Device::CPU, 500), None);
    }

    #[test]
    fn peaks_are_bounded_and_the_one_seen_longest_ago_goes() {
        let mut peaks = Vec::new();
        for context in 0..=MOST_PEAKS as u64 {
            let seen_at = Timestamp::from_second(if context == 3 { 0 } else { 1000 }).unwrap();
            add(&mut peaks, Peak { seen_at, ..peak(context, 1) });
        }
        assert_eq!(peaks.len(), MOST_PEAKS);
        assert!(peaks.iter().all(|peak| peak.of.context != Some(3)));
    }

    #[test]
    fn the_file_keeps_what_it_does_not_know_and_is_left_alone_or_set_aside() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("memory.json");
        Learned::new(path.clone()).keep(peak(1, 1000)).unwrap();
        let mut json: Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
        assert_eq!(json["version"], 1);
        json["note"] = "kept".into();
        json["peaks"][0]["mood"] = "kept too".into();
        std::fs::write(&path, json.to_string()).unwrap();
        Learned::new(path.clone()).keep(peak(1, 2000)).unwrap();
        let read: Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
        assert_eq!((&read["note"], &read["peaks"][0]["mood"]), (&"kept".into(), &"kept too".into()));
        assert_eq!(read["peaks"][0]["resident_bytes"], 2000);

        std::fs::write(&path, r#"{"version":2,"peaks":"other"}"#).unwrap();
        Learned::new(path.clone()).keep(peak(1, 3000)).unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), r#"{"version":2,"peaks":"other"}"#);

        std::fs::write(&path, "nonsense").unwrap();
        Learned::new(path.clone()).keep(peak(1, 3000)).unwrap();
        assert_eq!(std::fs::read_to_string(files::damaged_path(&path)).unwrap(), "nonsense");
        assert!(std::fs::read_to_string(&path).unwrap().contains("3000"));
    }
}
