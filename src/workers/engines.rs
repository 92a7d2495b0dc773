//! Engines: the programs that serve models, as descriptions. How one is started, asked and chosen
//! is read from its [`Engine`]; no other code knows an engine by name.

pub(super) mod discover;
pub(super) mod llama_server;

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::PathBuf;
use std::sync::Arc;

use super::devices::{Device, Kind};
use crate::error::{Code, Failure, Result};
use crate::narration::Level;

/// The name of the engine that the hive brings along.
pub const BUILTIN: &str = "builtin";

/// A description of one engine.
#[derive(Clone, Debug)]
pub struct Engine {
    /// Its name on the wire.
    pub name: String,
    /// What it is, for people.
    pub about: String,
    /// Its version, where it tells.
    pub version: Option<String>,
    /// What it can do: `chat`, `completions`, `embeddings`, `images`.
    pub capabilities: Vec<String>,
    /// The kinds of devices that it computes on, the preferred one first.
    pub devices: Vec<Kind>,
    /// The devices of this machine that it can be put on.
    pub(super) usable: Vec<Device>,
    /// What it calls devices itself, where that differs.
    pub(super) own_names: Vec<(Device, String)>,
    /// Its executable.
    pub program: PathBuf,
    /// Its arguments. `{model}`, `{model_id}`, `{port}`, `{device}` and the others of [`PLACEHOLDERS`]
    /// stand for values; an argument whose value is not set is left out, and with it the flag
    /// before it. Never a shell, never a secret.
    pub arguments: Vec<String>,
    /// Further variables of its environment, with placeholders.
    pub environment: BTreeMap<String, String>,
    /// The variable that its secret goes into.
    pub secret_variable: String,
    /// Answers 200 once it is ready and 503 while it loads.
    pub health_route: String,
    /// Answers chat completions as OpenAI's API does.
    pub chat_route: String,
    /// Answers with what it has counted, in Prometheus's format, where its health route does not.
    pub(super) metrics_route: Option<String>,
    /// How loudly its log is narrated while it starts.
    pub log_level: Level,
    /// Where its port comes from.
    pub(super) port: Port,
    /// How it keeps a model in memory.
    pub(super) keeps: Keeps,
    /// Layers to put on a GPU; unset means all of them.
    pub(super) gpu_layers: Option<u32>,
}

/// The values that arguments and variables may stand for.
pub const PLACEHOLDERS: &[&str] = &[
    "model",
    "model_id",
    "report",
    "port",
    "device",
    "device_index",
    "own_device",
    "gpu_layers",
    "context",
    "context_length",
    "context_of_all_slots",
    "slots",
    "threads",
];

/// Where the port of an engine comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Port {
    /// It takes a free one, and reports which.
    Reported,
    /// It is told one that was free a moment before.
    Probed,
}

/// How an engine keeps a model in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Keeps {
    /// Half precision as F32, and a cache of F32.
    F16AsF32,
    /// As it is in the file, and a cache of elements of so many bits.
    AsStored { cache_bits: u64 },
}

impl Engine {
    /// The engine that the hive brings along.
    #[must_use]
    pub fn builtin(program: PathBuf) -> Self {
        let arguments = [
            "worker",
            "--model={model}",
            "--port=0",
            "--report={report}",
            "--model-id={model_id}",
            "--context-length={context_length}",
            "--slots={slots}",
            "--lifeline",
        ];
        // Threads that wait for one another at every step lose more to a core that is busy with
        // something else than they gain from it.
        let environment = ["RAYON_NUM_THREADS", "CANDLE_NUM_THREADS"];
        Self {
            name: BUILTIN.to_owned(),
            about: "the hive's own inference of GGUF models, on the processor".to_owned(),
            version: Some(env!("CARGO_PKG_VERSION").to_owned()),
            capabilities: vec!["chat".to_owned()],
            devices: vec![Kind::Cpu],
            usable: vec![Device::CPU],
            own_names: Vec::new(),
            program,
            arguments: arguments.map(str::to_owned).into(),
            environment: environment.map(|name| (name.to_owned(), "{threads}".to_owned())).into(),
            secret_variable: "RBEE_WORKER_SECRET".to_owned(),
            health_route: "/health".to_owned(),
            chat_route: "/v1/chat/completions".to_owned(),
            metrics_route: None,
            log_level: Level::Info,
            port: Port::Reported,
            keeps: Keeps::F16AsF32,
            gpu_layers: None,
        }
    }

    /// The devices of this machine that it can be put on.
    #[must_use]
    pub fn usable(&self) -> &[Device] {
        &self.usable
    }

    /// The arguments with their values.
    #[must_use]
    pub fn arguments(&self, values: &[(&str, Option<OsString>)]) -> Vec<OsString> {
        let mut words: Vec<OsString> = Vec::new();
        let mut flag_before = false;
        for template in &self.arguments {
            match fill(template, values) {
                Some(word) => words.push(word),
                // `--flag {value}`: the flag goes with its value.
                None if flag_before => drop(words.pop()),
                None => {}
            }
            flag_before = template.starts_with('-') && !template.contains(['=', '{']);
        }
        words
    }

    /// The further variables of its environment with their values.
    pub(super) fn variables<'a>(
        &'a self,
        values: &'a [(&str, Option<OsString>)],
    ) -> impl Iterator<Item = (&'a str, OsString)> {
        self.environment.iter().filter_map(|(name, template)| Some((name.as_str(), fill(template, values)?)))
    }

    /// What it calls a device.
    pub(super) fn own_name(&self, device: Device) -> Option<&str> {
        if device.is_cpu() && !self.own_names.is_empty() {
            return Some("none");
        }
        self.own_names.iter().find(|(known, _)| *known == device).map(|(_, name)| name.as_str())
    }
}

/// Puts its value into a template with at most one `{name}`; `None` where that is not set. A value
/// is never looked into for further names.
fn fill(template: &str, values: &[(&str, Option<OsString>)]) -> Option<OsString> {
    for (name, value) in values {
        let placeholder = format!("{{{name}}}");
        if let Some((before, after)) = template.split_once(&placeholder) {
            let mut filled = OsString::from(before);
            filled.push(value.as_ref()?);
            filled.push(after);
            return Some(filled);
        }
    }
    Some(template.into())
}

/// An engine and a device for a new worker.
#[derive(Clone, Debug)]
pub(super) struct Choice {
    pub(super) engine: Arc<Engine>,
    /// Always exact.
    pub(super) device: Device,
    /// Why these, for people.
    pub(super) why: String,
}

/// Chooses among the engines that are installed: `asked` is `auto`, a kind of device or an
/// engine's name. `room` tells how much memory a device has left over once an engine has the model
/// on it; less than none where it does not fit, and `None` where nobody knows.
pub(super) fn choose(
    engines: &[Arc<Engine>],
    asked: &str,
    device: Device,
    room: impl Fn(&Engine, Device) -> Option<i128>,
) -> Result<Choice> {
    let automatic = asked.is_empty() || asked.eq_ignore_ascii_case("auto");
    let kind = Kind::of(asked);
    let fitting: Vec<&Arc<Engine>> = engines
        .iter()
        .filter(|engine| match kind {
            _ if automatic => true,
            Some(kind) => engine.devices.contains(&kind),
            None => engine.name == asked,
        })
        .collect();
    let first = fitting.first().ok_or_else(|| no_engine(engines, asked, kind))?;
    // Every place that was left open: engines in the order of preference, and their devices.
    let places = || {
        fitting.iter().flat_map(|engine| engine.usable.iter().map(move |device| (*engine, *device))).filter(
            |(_, device)| {
                kind.is_none_or(|kind| matches!(device, Device::Exact { kind: has, .. } if *has == kind))
            },
        )
    };
    let gpu = |(_, device): &(&Arc<Engine>, Device)| !device.is_cpu();
    let picked = match device {
        // A GPU that the model fits on, the one with the most room; else the processor; else the
        // first there is, whose memory is then found to be short.
        Device::Auto => places()
            .filter(gpu)
            .filter_map(|place| Some((room(place.0, place.1).filter(|room| *room >= 0)?, place)))
            // The first of equals: engines come in the order of preference.
            .rev_max()
            .or_else(|| places().find(|(_, device)| device.is_cpu()))
            .or_else(|| places().next()),
        // A bare number means a GPU where no kind was asked for.
        Device::Index(index) if automatic => {
            let mut gpus: Vec<Device> = Vec::new();
            for (_, device) in places().filter(gpu) {
                if !gpus.contains(&device) {
                    gpus.push(device);
                }
            }
            let asked = gpus.get(index as usize).copied();
            places().find(|(_, device)| Some(*device) == asked)
        }
        Device::Index(index) if kind.is_some() => {
            places().find(|(_, device)| matches!(device, Device::Exact { index: has, .. } if *has == index))
        }
        Device::Index(index) => places().nth(index as usize),
        Device::Exact { .. } => places().find(|(_, usable)| *usable == device),
    };
    let (engine, picked) = picked.ok_or_else(|| no_device(engines, first, device, automatic))?;
    let others: Vec<_> = places()
        .filter(|(other, on)| *on == picked && other.name != engine.name)
        .map(|(e, _)| &*e.name)
        .collect();
    let why = match kind {
        None if !automatic => "it was asked for".to_owned(),
        _ if others.is_empty() => format!("it is the engine here for {picked}"),
        _ => format!("it is preferred for {picked} to {}", others.join(", ")),
    };
    let why = match device {
        Device::Auto if !picked.is_cpu() => format!("{why}, which has the most free memory"),
        Device::Auto if places().any(|place| gpu(&place)) => {
            format!("{why}, and no GPU has room for the model")
        }
        _ => why,
    };
    Ok(Choice { engine: Arc::clone(engine), device: picked, why })
}

/// The place with the most room, the first of those with the same.
trait MostRoom<'a> {
    fn rev_max(self) -> Option<(&'a Arc<Engine>, Device)>;
}

impl<'a, I: Iterator<Item = (i128, (&'a Arc<Engine>, Device))>> MostRoom<'a> for I {
    fn rev_max(self) -> Option<(&'a Arc<Engine>, Device)> {
        self.reduce(|best, next| if next.0 > best.0 { next } else { best }).map(|(_, place)| place)
    }
}

fn no_engine(engines: &[Arc<Engine>], asked: &str, kind: Option<Kind>) -> Failure {
    let installed: Vec<_> = engines
        .iter()
        .map(|engine| {
            let kinds: Vec<_> = engine.devices.iter().map(|kind| kind.name()).collect();
            format!("{} ({})", engine.name, kinds.join(", "))
        })
        .collect();
    let message = match kind {
        Some(kind) => format!("no engine for '{kind}' is installed here"),
        None => format!("'{asked}' is neither an engine that is installed here nor a kind of device"),
    };
    Failure::new(Code::EngineUnavailable, format!("{message}; installed: {}", installed.join(", ")))
        .hint(match kind.filter(|kind| *kind != Kind::Cpu) {
            Some(kind) => format!(
                "put a llama-server that is built for {kind} on PATH, or describe another engine in [engines.NAME], and \
                 restart the hive; or ask for worker 'cpu', which runs the built-in engine on the processor"
            ),
            None => "ask for worker 'auto', or for an engine that is installed".to_owned(),
        })
        .stage("preflight")
}

fn no_device(engines: &[Arc<Engine>], engine: &Engine, asked: Device, automatic: bool) -> Failure {
    let mut here: Vec<String> = Vec::new();
    for device in engines.iter().flat_map(|engine| &engine.usable).map(ToString::to_string) {
        if !here.contains(&device) {
            here.push(device);
        }
    }
    let message = match asked {
        Device::Index(index) if automatic => format!("there is no GPU {index} here that an engine could use"),
        Device::Exact { .. } if here.contains(&asked.to_string()) => {
            format!("engine '{}' does not run on device '{asked}'", engine.name)
        }
        _ => format!("there is no device '{asked}' here for engine '{}'", engine.name),
    };
    Failure::new(Code::DeviceUnavailable, format!("{message}; this hive has: {}", here.join(", ")))
        .hint(match asked {
            Device::Exact { kind, .. } if kind != Kind::Cpu => {
                "ask for device 'auto', or for one that this hive has; HiveCheck says which drivers were found, and what \
                 each engine can be put on"
            }
            _ => "ask for device 'auto', or for one that this hive has",
        })
        .stage("preflight")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn engines() -> Vec<Arc<Engine>> {
        vec![Arc::new(Engine::builtin("rbee-hive".into()))]
    }

    fn chosen(asked: &str, device: &str) -> Result<Device, Code> {
        choose(&engines(), asked, device.parse().unwrap(), |_, _| None)
            .map(|choice| choice.device)
            .map_err(|failure| failure.code)
    }

    #[test]
    fn what_is_here_is_chosen() {
        for (asked, device) in [
            ("auto", "auto"),
            ("auto", "cpu"),
            ("cpu", "0"),
            ("cpu", "cpu"),
            ("builtin", "auto"),
            ("", "auto"),
        ] {
            assert_eq!(chosen(asked, device), Ok(Device::CPU), "{asked} {device}");
        }
    }

    #[test]
    fn what_is_not_here_is_refused_with_what_is() {
        assert_eq!(chosen("cuda", "0"), Err(Code::EngineUnavailable));
        assert_eq!(chosen("vllm", "0"), Err(Code::EngineUnavailable));
        assert_eq!(chosen("auto", "0"), Err(Code::DeviceUnavailable));
        assert_eq!(chosen("auto", "cuda:0"), Err(Code::DeviceUnavailable));
        assert_eq!(chosen("cpu", "1"), Err(Code::DeviceUnavailable));
        let failure = choose(&engines(), "metal", Device::Auto, |_, _| None).unwrap_err();
        assert_eq!(failure.message, "no engine for 'metal' is installed here; installed: builtin (cpu)");
        let failure = choose(&engines(), "auto", Device::Index(0), |_, _| None).unwrap_err();
        assert_eq!(failure.message, "there is no GPU 0 here that an engine could use; this hive has: cpu");
    }

    #[test]
    fn the_preferred_engine_and_the_gpu_with_the_most_room_are_chosen() {
        let gpu = |index| Device::Exact { kind: Kind::Cuda, index };
        let other = Engine {
            name: "fast".to_owned(),
            devices: vec![Kind::Cuda, Kind::Cpu],
            usable: vec![gpu(0), gpu(1), Device::CPU],
            ..Engine::builtin("p".into())
        };
        let engines = [Arc::new(other), Arc::new(Engine::builtin("rbee-hive".into()))];
        let pick = |asked: &str, device: &str, rooms: [i128; 2]| {
            let room = |_: &Engine, device: Device| match device {
                Device::Exact { kind: Kind::Cuda, index } => Some(rooms[index as usize]),
                _ => None,
            };
            let choice = choose(&engines, asked, device.parse().unwrap(), room).unwrap();
            (choice.engine.name.clone(), choice.device.to_string(), choice.why)
        };
        for (asked, device, rooms, engine, on) in [
            ("auto", "auto", [5, 9], "fast", "cuda:1"),
            ("auto", "auto", [-5, -9], "fast", "cpu"),
            ("auto", "1", [5, 9], "fast", "cuda:1"),
            ("cpu", "0", [5, 9], "fast", "cpu"),
            ("cuda", "auto", [9, 5], "fast", "cuda:0"),
            ("cuda", "auto", [-9, -5], "fast", "cuda:0"),
            ("builtin", "auto", [9, 5], "builtin", "cpu"),
        ] {
            let (chosen, chosen_on, why) = pick(asked, device, rooms);
            assert_eq!((chosen.as_str(), chosen_on.as_str()), (engine, on), "{asked} {device}: {why}");
        }
        assert_eq!(pick("cpu", "auto", [0, 0]).2, "it is preferred for cpu to builtin");
        assert!(pick("auto", "auto", [-5, -9]).2.ends_with("no GPU has room for the model"));
        assert!(pick("auto", "auto", [5, 9]).2.ends_with("which has the most free memory"));
    }

    #[test]
    fn templates_are_filled_once_and_unset_values_left_out() {
        let values =
            [("model", Some("/m/{slots}.gguf".into())), ("model_id", Some("-x".into())), ("slots", None)];
        let arguments = Engine::builtin("p".into()).arguments(&values);
        assert!(arguments.contains(&"--model=/m/{slots}.gguf".into()));
        assert!(arguments.contains(&"--model-id=-x".into()));
        assert!(!arguments.iter().any(|argument| argument.to_string_lossy().starts_with("--slots")));
    }
}
