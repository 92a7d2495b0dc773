//! The reasons of the decision in words, as people read them in narrations and views.

use std::fmt;
use std::time::Duration;

use super::snapshot::{LoadReason, Refusal, StopReason, Waiting, WorkerKey};
use crate::text::bytes;
use crate::time::in_words;

/// Continues "'b' is loaded: …".
impl fmt::Display for LoadReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Requests(1) => f.write_str("a request waits for it"),
            Self::Requests(count) => write!(f, "{count} requests wait for it"),
            Self::SettingsChanged => f.write_str("its settings have changed, and its worker is idle"),
        }
    }
}

/// Continues "worker 41 of 'a' goes: …".
impl fmt::Display for StopReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let idle = |idle: Option<Duration>| match idle {
            Some(idle) => format!("idle for {}, and ", in_words(idle)),
            None => "it had its time, and ".to_owned(),
        };
        match self {
            Self::RoomForModel { model, idle: since } => {
                write!(f, "{}'{model}' needs its room", idle(*since))
            }
            Self::RoomForLease { idle: since } => write!(f, "{}another program needs its room", idle(*since)),
            Self::Replaced => f.write_str("another worker of its model replaces it"),
            Self::Idle { idle } => write!(f, "idle for {}, which is as long as it may be", in_words(*idle)),
        }
    }
}

/// Continues "'b' is not loaded: …".
impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::DoesNotFit { device, missing } => write!(
                f,
                "{} of memory are missing on {device}, even if every worker goes that may go",
                bytes(*missing)
            ),
            Self::StillBusy { workers: busy, waited } => {
                write!(f, "{} did not finish answering within {}", workers(busy), in_words(*waited))
            }
        }
    }
}

/// Continues "'b' waits for …".
impl fmt::Display for Waiting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Workers(going) => write!(f, "{} to finish answering and to end", workers(going)),
            Self::Stay { worker, .. } => {
                write!(f, "worker {worker}, which is new and stays until it is idle or had its time")
            }
            Self::Load(model) => write!(f, "the load of '{model}', which came first"),
            Self::Lease(_) => f.write_str("another program, which asked for memory first"),
            Self::Memory { device, missing } => {
                write!(f, "{} on {device} that ended workers still hold", bytes(*missing))
            }
        }
    }
}

/// `worker 41`, `workers 41 and 42`, `workers 41, 42 and 43`.
fn workers(keys: &[WorkerKey]) -> String {
    let names: Vec<_> = keys.iter().map(ToString::to_string).collect();
    match names.split_last() {
        None => "no worker".to_owned(),
        Some((only, [])) => format!("worker {only}"),
        Some((last, others)) => format!("workers {} and {last}", others.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::workers::Device;

    #[test]
    fn reasons_are_sentences_for_people() {
        let idle = Some(Duration::from_secs(180));
        assert_eq!(LoadReason::Requests(1).to_string(), "a request waits for it");
        assert_eq!(LoadReason::Requests(3).to_string(), "3 requests wait for it");
        assert_eq!(
            StopReason::RoomForModel { model: "b".into(), idle }.to_string(),
            "idle for 3 min 0 s, and 'b' needs its room"
        );
        assert_eq!(
            StopReason::RoomForLease { idle: None }.to_string(),
            "it had its time, and another program needs its room"
        );
        assert_eq!(
            Refusal::DoesNotFit { device: Device::CPU, missing: 3 << 30 }.to_string(),
            "3.0 GiB of memory are missing on cpu, even if every worker goes that may go"
        );
        let busy = Refusal::StillBusy { workers: vec![41, 42], waited: Duration::from_secs(120) };
        assert_eq!(busy.to_string(), "workers 41 and 42 did not finish answering within 2 min 0 s");
        assert_eq!(
            Waiting::Workers(vec![41, 42, 43]).to_string(),
            "workers 41, 42 and 43 to finish answering and to end"
        );
        assert_eq!(Waiting::Load("b".into()).to_string(), "the load of 'b', which came first");
    }
}
