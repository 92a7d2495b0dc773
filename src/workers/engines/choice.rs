//! Chooses an engine and a device for a new worker.

use std::sync::Arc;

use super::Engine;
use super::discover::FoundEngines;
use crate::config::DeviceKind;
use crate::error::{Code, Failure};
use crate::workers::device::Device;
use crate::workers::start_error::StartError;

/// An engine and a device for a new worker.
#[derive(Clone, Debug)]
pub(in crate::workers) struct EngineChoice {
    pub(in crate::workers) engine: Arc<Engine>,
    /// Always exact.
    pub(in crate::workers) device: Device,
    /// Why these were chosen, for people.
    pub(in crate::workers) reason: String,
}

/// What a caller asked an engine to be.
#[derive(Clone, Copy, Debug)]
enum Wanted<'a> {
    Any,
    OnKind(DeviceKind),
    Named(&'a str),
}

/// An engine and a device that it can use.
type Candidate<'a> = (&'a Arc<Engine>, Device);

/// Chooses among the installed engines, which come in the order of preference. `wanted` is `auto`, a
/// kind of device or the name of an engine. `room` tells how many bytes a device has left once an
/// engine has the model on it: a negative number where the model does not fit, and `None` where that
/// is unknown.
///
/// # Errors
/// [`Code::EngineUnavailable`], permanent; [`Code::DeviceUnavailable`], temporary, because devices can
/// come back.
pub(in crate::workers) fn choose(
    found: &FoundEngines,
    wanted: &str,
    device: Device,
    room: impl Fn(&Engine, Device) -> Option<i128>,
) -> Result<EngineChoice, StartError> {
    let engines = &found.installed;
    let wanted = match DeviceKind::from_name(wanted) {
        _ if wanted.is_empty() || wanted.eq_ignore_ascii_case("auto") => Wanted::Any,
        Some(kind) => Wanted::OnKind(kind),
        None => Wanted::Named(wanted),
    };
    let matching: Vec<&Arc<Engine>> = engines
        .iter()
        .filter(|engine| match wanted {
            Wanted::Any => true,
            Wanted::OnKind(kind) => engine.devices.contains(&kind),
            Wanted::Named(name) => engine.name == name,
        })
        .collect();
    let first = matching.first().ok_or_else(|| no_engine(found, wanted))?;
    let candidates: Vec<Candidate<'_>> = matching
        .iter()
        .flat_map(|engine| engine.usable.iter().map(move |device| (*engine, *device)))
        .filter(|(_, device)| match wanted {
            Wanted::OnKind(kind) => matches!(device, Device::Exact { kind: own, .. } if *own == kind),
            Wanted::Any | Wanted::Named(_) => true,
        })
        .collect();
    let (engine, chosen) = pick(&candidates, wanted, device, room)
        .ok_or_else(|| StartError::temporary(no_device(engines, first, device, wanted)))?;
    let reason = reason(&candidates, wanted, device, (engine, chosen));
    Ok(EngineChoice { engine: Arc::clone(engine), device: chosen, reason })
}

/// The candidate for the device that a caller asked for.
fn pick<'a>(
    candidates: &[Candidate<'a>],
    wanted: Wanted<'_>,
    device: Device,
    room: impl Fn(&Engine, Device) -> Option<i128>,
) -> Option<Candidate<'a>> {
    let mut candidates = candidates.iter().copied();
    match device {
        // The GPU with the most room, if the model fits on it; else the processor; else the first
        // device, whose memory is then found too small. Of equal GPUs, the preferred engine's.
        Device::Auto => candidates
            .clone()
            .filter(is_on_gpu)
            .filter_map(|candidate| {
                Some((room(candidate.0, candidate.1).filter(|room| *room >= 0)?, candidate))
            })
            .reduce(|best, next| if next.0 > best.0 { next } else { best })
            .map(|(_, candidate)| candidate)
            .or_else(|| candidates.clone().find(|candidate| !is_on_gpu(candidate)))
            .or_else(|| candidates.next()),
        // Without a kind of device, a number counts GPUs.
        Device::Index(index) => match wanted {
            Wanted::Any => {
                let mut gpus: Vec<Device> = Vec::new();
                for (_, device) in candidates.clone().filter(is_on_gpu) {
                    if !gpus.contains(&device) {
                        gpus.push(device);
                    }
                }
                let gpu = *gpus.get(index as usize)?;
                candidates.find(|(_, device)| *device == gpu)
            }
            Wanted::OnKind(_) => candidates
                .find(|(_, device)| matches!(device, Device::Exact { index: own, .. } if *own == index)),
            Wanted::Named(_) => candidates.nth(index as usize),
        },
        Device::Exact { .. } => candidates.find(|(_, usable)| *usable == device),
    }
}

fn is_on_gpu((_, device): &Candidate<'_>) -> bool {
    !device.is_cpu()
}

/// Why a candidate was chosen, for people.
fn reason(candidates: &[Candidate<'_>], wanted: Wanted<'_>, asked: Device, chosen: Candidate<'_>) -> String {
    let (engine, device) = chosen;
    let others: Vec<_> = candidates
        .iter()
        .filter(|(other, on)| *on == device && other.name != engine.name)
        .map(|(other, _)| &*other.name)
        .collect();
    let reason = match wanted {
        Wanted::Named(_) => "it was asked for".to_owned(),
        _ if others.is_empty() => format!("it is the engine here for {device}"),
        _ => format!("it is preferred for {device} to {}", others.join(", ")),
    };
    match asked {
        Device::Auto if !device.is_cpu() => format!("{reason}, which has the most free memory"),
        Device::Auto if candidates.iter().any(is_on_gpu) => {
            format!("{reason}, and no GPU has room for the model")
        }
        _ => reason,
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

    fn chosen(wanted: &str, device: &str) -> Result<Device, Code> {
        choose(&engines(), wanted, device.parse().unwrap(), |_, _| None)
            .map(|choice| choice.device)
            .map_err(|error| error.failure.code)
    }

    #[test]
    fn an_installed_engine_on_its_device_is_chosen() {
        for (wanted, device) in [
            ("auto", "auto"),
            ("auto", "cpu"),
            ("cpu", "0"),
            ("cpu", "cpu"),
            ("builtin", "auto"),
            ("", "auto"),
        ] {
            assert_eq!(chosen(wanted, device), Ok(Device::CPU), "{wanted} {device}");
        }
    }

    #[test]
    fn missing_engines_and_devices_are_refused_with_a_list_of_those_here() {
        assert_eq!(chosen("cuda", "0"), Err(Code::EngineUnavailable));
        assert_eq!(chosen("vllm", "0"), Err(Code::EngineUnavailable));
        assert_eq!(chosen("auto", "0"), Err(Code::DeviceUnavailable));
        assert_eq!(chosen("auto", "cuda:0"), Err(Code::DeviceUnavailable));
        assert_eq!(chosen("cpu", "1"), Err(Code::DeviceUnavailable));
        let refused = |wanted, device| choose(&engines(), wanted, device, |_, _| None).unwrap_err();
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
    fn the_preferred_engine_and_the_gpu_with_the_most_room_are_chosen() {
        let gpu = |index| Device::Exact { kind: DeviceKind::Cuda, index };
        let other = Engine {
            name: "fast".to_owned(),
            devices: vec![DeviceKind::Cuda, DeviceKind::Cpu],
            usable: vec![gpu(0), gpu(1), Device::CPU],
            ..Engine::builtin("p".into())
        };
        let mut engines = engines();
        engines.installed.insert(0, Arc::new(other));
        let pick = |wanted: &str, device: &str, rooms: [i128; 2]| {
            let room = |_: &Engine, device: Device| match device {
                Device::Exact { kind: DeviceKind::Cuda, index } => Some(rooms[index as usize]),
                _ => None,
            };
            let choice = choose(&engines, wanted, device.parse().unwrap(), room).unwrap();
            (choice.engine.name.clone(), choice.device.to_string(), choice.reason)
        };
        for (wanted, device, rooms, engine, on) in [
            ("auto", "auto", [5, 9], "fast", "cuda:1"),
            ("auto", "auto", [-5, -9], "fast", "cpu"),
            ("auto", "1", [5, 9], "fast", "cuda:1"),
            ("cpu", "0", [5, 9], "fast", "cpu"),
            ("cuda", "auto", [9, 5], "fast", "cuda:0"),
            ("cuda", "auto", [-9, -5], "fast", "cuda:0"),
            ("builtin", "auto", [9, 5], "builtin", "cpu"),
        ] {
            let (chosen, chosen_on, reason) = pick(wanted, device, rooms);
            assert_eq!((chosen.as_str(), chosen_on.as_str()), (engine, on), "{wanted} {device}: {reason}");
        }
        assert_eq!(pick("cpu", "auto", [0, 0]).2, "it is preferred for cpu to builtin");
        assert!(pick("auto", "auto", [-5, -9]).2.ends_with("no GPU has room for the model"));
        assert!(pick("auto", "auto", [5, 9]).2.ends_with("which has the most free memory"));
    }
}
