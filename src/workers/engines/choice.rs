//! The engines and devices that can serve a model.

use std::sync::Arc;

use super::Engine;
use super::discover::FoundEngines;
use crate::config::DeviceKind;
use crate::error::{Code, Failure};
use crate::workers::device::Device;
use crate::workers::start_error::StartError;

/// An engine and a device that it can use.
#[derive(Clone, Debug)]
pub(in crate::workers) struct Candidate {
    pub(in crate::workers) engine: Arc<Engine>,
    /// Always exact.
    pub(in crate::workers) device: Device,
    /// Why this engine is the one for the device, for people.
    pub(in crate::workers) reason: String,
}

/// What a caller asked an engine to be.
#[derive(Clone, Copy, Debug)]
enum Wanted<'a> {
    Any,
    OnKind(DeviceKind),
    Named(&'a str),
}

/// The devices that a request allows, each with the preferred engine for it. `wanted` is `auto`, a kind of
/// device or the name of an engine. An engine that cannot run the model is left out where another one may.
///
/// # Errors
/// [`Code::EngineUnavailable`], permanent; [`Code::DeviceUnavailable`], temporary, because devices can
/// come back.
pub(in crate::workers) fn candidates(
    found: &FoundEngines,
    wanted: &str,
    device: Device,
    has_obstacle: impl Fn(&Engine) -> bool,
) -> Result<Vec<Candidate>, StartError> {
    let wanted = match DeviceKind::from_name(wanted) {
        _ if wanted.is_empty() || wanted.eq_ignore_ascii_case("auto") => Wanted::Any,
        Some(kind) => Wanted::OnKind(kind),
        None => Wanted::Named(wanted),
    };
    let matching: Vec<&Arc<Engine>> = found
        .installed
        .iter()
        .filter(|engine| match wanted {
            Wanted::Any => true,
            Wanted::OnKind(kind) => engine.devices.contains(&kind),
            Wanted::Named(name) => engine.is_called(name),
        })
        .collect();
    let first = matching.first().ok_or_else(|| no_engine(found, wanted))?;
    let pairs: Vec<(&Arc<Engine>, Device)> = matching
        .iter()
        .flat_map(|engine| engine.usable.iter().map(move |device| (*engine, *device)))
        .filter(|(_, device)| match wanted {
            Wanted::OnKind(kind) => matches!(device, Device::Exact { kind: own, .. } if *own == kind),
            Wanted::Any | Wanted::Named(_) => true,
        })
        .collect();
    let mut allowed = allowed(&pairs, wanted, device);
    if allowed.is_empty() {
        return Err(StartError::temporary(no_device(&found.installed, first, device, wanted)));
    }
    if allowed.iter().any(|(engine, _)| !has_obstacle(engine)) {
        allowed.retain(|(engine, _)| !has_obstacle(engine));
    }
    let mut candidates: Vec<Candidate> = Vec::new();
    for (engine, device) in &allowed {
        if candidates.iter().all(|known| known.device != *device) {
            let reason = reason(&allowed, wanted, (engine, *device));
            candidates.push(Candidate { engine: Arc::clone(engine), device: *device, reason });
        }
    }
    Ok(candidates)
}

/// Those for the device that a caller asked for.
fn allowed<'a>(
    pairs: &[(&'a Arc<Engine>, Device)],
    wanted: Wanted<'_>,
    device: Device,
) -> Vec<(&'a Arc<Engine>, Device)> {
    let only = |asked: Device| pairs.iter().copied().filter(|(_, usable)| *usable == asked).collect();
    match (device, wanted) {
        (Device::Auto, _) => pairs.to_vec(),
        (Device::Exact { .. }, _) => only(device),
        // Without a kind of device, a number counts GPUs.
        (Device::Index(index), Wanted::Any) => {
            let mut gpus: Vec<Device> = Vec::new();
            for (_, device) in pairs.iter().filter(|(_, device)| !device.is_cpu()) {
                if !gpus.contains(device) {
                    gpus.push(*device);
                }
            }
            gpus.get(index as usize).map(|gpu| only(*gpu)).unwrap_or_default()
        }
        (Device::Index(index), Wanted::OnKind(kind)) => only(Device::Exact { kind, index }),
        (Device::Index(index), Wanted::Named(_)) => pairs.get(index as usize).copied().into_iter().collect(),
    }
}

/// Why an engine is the one for a device, for people.
fn reason(
    allowed: &[(&Arc<Engine>, Device)],
    wanted: Wanted<'_>,
    (engine, device): (&Engine, Device),
) -> String {
    let others: Vec<_> = allowed
        .iter()
        .filter(|(other, on)| *on == device && other.name != engine.name)
        .map(|(other, _)| &*other.name)
        .collect();
    let chosen = match wanted {
        Wanted::Named(name) if engine.name == name => "it was asked for".to_owned(),
        Wanted::Named(name) => format!("it is the first {name} for {device}"),
        _ if others.is_empty() => format!("it is the engine here for {device}"),
        _ => format!("it is preferred for {device} to {}", others.join(", ")),
    };
    match engine.measured() {
        Some(measured) => {
            format!(
                "{chosen}; it wrote {:.0} tokens a second here with '{}'",
                measured.tokens_per_second, measured.model
            )
        }
        None => chosen,
    }
}

fn no_engine(found: &FoundEngines, wanted: Wanted<'_>) -> Failure {
    if let Wanted::Named(wanted) = wanted
        && let Some((name, why)) = found.unusable.iter().find(|(name, _)| name == wanted)
    {
        return Failure::new(Code::EngineUnavailable, format!("engine '{name}' cannot be used: {why}"))
            .hint("install it, or correct that setting, then restart the hive; or ask for worker 'auto'")
            .stage("preflight");
    }
    let installed: Vec<_> = found
        .installed
        .iter()
        .map(|engine| {
            let kinds: Vec<_> = engine.devices.iter().map(|kind| kind.name()).collect();
            format!("{} ({})", engine.name, kinds.join(", "))
        })
        .collect();
    let message = match wanted {
        Wanted::Any => "no engine is installed here".to_owned(),
        Wanted::OnKind(kind) => format!("no engine for '{kind}' is installed here"),
        Wanted::Named(name) => {
            format!("'{name}' is neither an engine that is installed here nor a kind of device")
        }
    };
    let mut message = format!("{message}; installed: {}", installed.join(", "));
    for (name, why) in &found.unusable {
        message = format!("{message}; engine '{name}' cannot be used: {why}");
    }
    Failure::new(Code::EngineUnavailable, message)
        .hint(match wanted {
            Wanted::OnKind(kind) if kind != DeviceKind::Cpu => format!(
                "put a llama-server that is built for {kind} on PATH, or describe another engine in [engines.NAME], and \
                 restart the hive; or ask for worker 'cpu', which runs the built-in engine on the processor"
            ),
            _ => "ask for worker 'auto', or for an engine that is installed".to_owned(),
        })
        .stage("preflight")
}

fn no_device(engines: &[Arc<Engine>], engine: &Engine, asked: Device, wanted: Wanted<'_>) -> Failure {
    let mut here: Vec<String> = Vec::new();
    for device in engines.iter().flat_map(|engine| &engine.usable).map(ToString::to_string) {
        if !here.contains(&device) {
            here.push(device);
        }
    }
    let message = match asked {
        Device::Index(index) if matches!(wanted, Wanted::Any) => {
            format!("there is no GPU {index} here that an engine could use")
        }
        Device::Exact { .. } if here.contains(&asked.to_string()) => {
            format!("engine '{}' does not run on device '{asked}'", engine.name)
        }
        _ => format!("there is no device '{asked}' here for engine '{}'", engine.name),
    };
    Failure::new(Code::DeviceUnavailable, format!("{message}; this hive has: {}", here.join(", ")))
        .hint(match asked {
            Device::Exact { kind, .. } if kind != DeviceKind::Cpu => {
                "ask for device 'auto', or for one that this hive has; HiveCheck lists the drivers that were found and \
                 the devices of each engine"
            }
            _ => "ask for device 'auto', or for one that this hive has",
        })
        .stage("preflight")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::workers::start_error::StartErrorKind;

    fn engines() -> FoundEngines {
        let unusable = vec![("vllm".to_owned(), "/no/such is not there ([engines.vllm] command)".to_owned())];
        FoundEngines { installed: vec![Arc::new(Engine::builtin("rbee-hive".into()))], unusable }
    }

    /// The devices of the candidates.
    fn chosen(wanted: &str, device: &str) -> Result<Vec<Device>, Code> {
        candidates(&engines(), wanted, device.parse().unwrap(), |_| false)
            .map(|candidates| candidates.iter().map(|candidate| candidate.device).collect())
            .map_err(|error| error.failure.code)
    }

    #[test]
    fn an_installed_engine_on_its_device_is_a_candidate() {
        for (wanted, device) in [
            ("auto", "auto"),
            ("auto", "cpu"),
            ("cpu", "0"),
            ("cpu", "cpu"),
            ("builtin", "auto"),
            ("", "auto"),
        ] {
            assert_eq!(chosen(wanted, device), Ok(vec![Device::CPU]), "{wanted} {device}");
        }
    }

    #[test]
    fn missing_engines_and_devices_are_refused_with_a_list_of_those_here() {
        assert_eq!(chosen("cuda", "0"), Err(Code::EngineUnavailable));
        assert_eq!(chosen("vllm", "0"), Err(Code::EngineUnavailable));
        assert_eq!(chosen("auto", "0"), Err(Code::DeviceUnavailable));
        assert_eq!(chosen("auto", "cuda:0"), Err(Code::DeviceUnavailable));
        assert_eq!(chosen("cpu", "1"), Err(Code::DeviceUnavailable));
        let refused = |wanted, device| candidates(&engines(), wanted, device, |_| false).unwrap_err();
        let StartError { kind, failure } = refused("metal", Device::Auto);
        assert_eq!(kind, StartErrorKind::Permanent);
        let absent = "engine 'vllm' cannot be used: /no/such is not there ([engines.vllm] command)";
        let none = "no engine for 'metal' is installed here; installed: builtin (cpu)";
        assert_eq!(failure.message, format!("{none}; {absent}"));
        assert_eq!(refused("vllm", Device::Auto).failure.message, absent);
        let StartError { kind, failure } = refused("auto", Device::Index(0));
        assert_eq!(kind, StartErrorKind::Temporary, "a GPU may come back");
        assert_eq!(failure.message, "there is no GPU 0 here that an engine could use; this hive has: cpu");
    }

    #[test]
    fn each_device_has_its_preferred_engine_that_can_run_the_model() {
        let gpu = |index| Device::Exact { kind: DeviceKind::Cuda, index };
        let other = Engine {
            name: "fast".to_owned(),
            devices: vec![DeviceKind::Cuda, DeviceKind::Cpu],
            usable: vec![gpu(0), gpu(1), Device::CPU],
            ..Engine::builtin("p".into())
        };
        let mut engines = engines();
        engines.installed.insert(0, Arc::new(other));
        let list = |wanted: &str, device: &str, obstacle: &str| {
            let candidates =
                candidates(&engines, wanted, device.parse().unwrap(), |engine| engine.name == obstacle)
                    .unwrap();
            let names =
                candidates.iter().map(|candidate| format!("{} {}", candidate.engine.name, candidate.device));
            names.collect::<Vec<_>>().join(", ")
        };
        for (wanted, device, obstacle, candidates) in [
            ("auto", "auto", "", "fast cuda:0, fast cuda:1, fast cpu"),
            ("auto", "auto", "builtin", "fast cuda:0, fast cuda:1, fast cpu"),
            ("auto", "auto", "fast", "builtin cpu"),
            ("auto", "1", "", "fast cuda:1"),
            ("auto", "1", "fast", "fast cuda:1"),
            ("cpu", "0", "", "fast cpu"),
            ("cpu", "0", "fast", "builtin cpu"),
            ("cuda", "auto", "", "fast cuda:0, fast cuda:1"),
            ("fast", "1", "", "fast cuda:1"),
            ("builtin", "auto", "builtin", "builtin cpu"),
        ] {
            assert_eq!(list(wanted, device, obstacle), candidates, "{wanted} {device} {obstacle}");
        }
        let of_cpu = candidates(&engines, "auto", Device::CPU, |_| false).unwrap();
        assert_eq!(of_cpu[0].reason, "it is preferred for cpu to builtin");
    }
}
