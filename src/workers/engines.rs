//! Engines: the programs that serve models, as descriptions. How one is started, asked and chosen
//! is read from its [`Engine`]; no other code knows an engine by name.

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
    /// The kinds of devices that it computes on, the preferred one first.
    pub devices: Vec<Kind>,
    /// Its executable.
    pub program: PathBuf,
    /// Its arguments. `{model}`, `{model_id}`, `{report}`, `{context_length}` and `{slots}` stand
    /// for values; an argument whose value is not set is left out. Never a shell, never a secret.
    pub arguments: Vec<String>,
    /// Further variables of its environment.
    pub environment: BTreeMap<String, String>,
    /// The variable that its secret goes into.
    pub secret_variable: String,
    /// Answers 200 once it is ready and 503 while it loads.
    pub health_route: String,
    /// Answers chat completions as OpenAI's API does.
    pub chat_route: String,
    /// How loudly its log is narrated while it starts.
    pub log_level: Level,
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
        Self {
            name: BUILTIN.to_owned(),
            about: "the hive's own inference of GGUF models, on the processor".to_owned(),
            devices: vec![Kind::Cpu],
            program,
            arguments: arguments.map(str::to_owned).into(),
            environment: BTreeMap::new(),
            secret_variable: "RBEE_WORKER_SECRET".to_owned(),
            health_route: "/health".to_owned(),
            chat_route: "/v1/chat/completions".to_owned(),
            log_level: Level::Info,
        }
    }

    /// The arguments with their values.
    #[must_use]
    pub fn arguments(&self, values: &[(&str, Option<OsString>)]) -> Vec<OsString> {
        self.arguments.iter().filter_map(|template| fill(template, values)).collect()
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
/// engine's name.
pub(super) fn choose(engines: &[Arc<Engine>], asked: &str, device: Device) -> Result<Choice> {
    let automatic = asked.is_empty() || asked.eq_ignore_ascii_case("auto");
    let kind = Kind::of(asked);
    let runs = |engine: &&Arc<Engine>, kind: Kind| engine.devices.contains(&kind);
    let found = if automatic {
        // A bare number means a GPU here, and a device that does not exist rules out no engine:
        // what is wrong then is the device.
        engines
            .iter()
            .find(|engine| matches!(device, Device::Exact { kind, .. } if runs(engine, kind)))
            .or_else(|| engines.first())
    } else if let Some(kind) = kind {
        engines.iter().find(|engine| runs(engine, kind))
    } else {
        engines.iter().find(|engine| engine.name == asked)
    };
    let engine = found.ok_or_else(|| no_engine(engines, asked, kind))?;

    let kinds: Vec<Kind> = kind.map_or_else(|| engine.devices.clone(), |kind| vec![kind]);
    let here = |kinds: &[Kind]| -> Vec<Device> {
        let of_kind = |device: &&Device| matches!(device, Device::Exact { kind, .. } if kinds.contains(kind));
        Device::here().iter().filter(of_kind).copied().collect()
    };
    let usable = here(&kinds);
    let picked = match device {
        Device::Auto => usable.first().copied(),
        Device::Index(index) if automatic => {
            let gpus: Vec<Kind> = kinds.iter().copied().filter(|kind| *kind != Kind::Cpu).collect();
            here(&gpus).get(index as usize).copied()
        }
        Device::Index(index) => usable.get(index as usize).copied(),
        Device::Exact { .. } => usable.iter().copied().find(|usable| *usable == device),
    };
    let device = picked.ok_or_else(|| no_device(engine, device, automatic))?;
    let why = match kind {
        _ if automatic => format!("it is the engine here for {device}"),
        Some(kind) => format!("it is the engine here for workers of kind '{kind}'"),
        None => "it was asked for".to_owned(),
    };
    Ok(Choice { engine: Arc::clone(engine), device, why })
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
        .hint("ask for worker 'cpu', which runs the built-in engine on the processor")
        .stage("preflight")
}

fn no_device(engine: &Engine, asked: Device, automatic: bool) -> Failure {
    let here: Vec<_> = Device::here().iter().map(Device::to_string).collect();
    let here = here.join(", ");
    let message = match asked {
        Device::Index(index) if automatic => format!("there is no GPU {index} here that an engine could use"),
        Device::Exact { .. } if Device::here().contains(&asked) => {
            format!("engine '{}' does not run on device '{asked}'", engine.name)
        }
        _ => format!("there is no device '{asked}' here for engine '{}'", engine.name),
    };
    Failure::new(Code::DeviceUnavailable, format!("{message}; this hive has: {here}"))
        .hint("ask for device 'auto', or for one that this hive has")
        .stage("preflight")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn engines() -> Vec<Arc<Engine>> {
        vec![Arc::new(Engine::builtin("rbee-hive".into()))]
    }

    fn chosen(asked: &str, device: &str) -> Result<Device, Code> {
        choose(&engines(), asked, device.parse().unwrap())
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
        let failure = choose(&engines(), "metal", Device::Auto).unwrap_err();
        assert_eq!(failure.message, "no engine for 'metal' is installed here; installed: builtin (cpu)");
        let failure = choose(&engines(), "auto", Device::Index(0)).unwrap_err();
        assert_eq!(failure.message, "there is no GPU 0 here that an engine could use; this hive has: cpu");
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
