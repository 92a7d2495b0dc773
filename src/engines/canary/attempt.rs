//! The try of one build: what it is of, what it has found so far, and its verdict.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use reqwest::Client;
use tokio_util::sync::CancellationToken;

use crate::config::{Config, DeviceKind};
use crate::engine_store::{EngineId, Measured};
use crate::engines::harmless::harmless;
use crate::error::{Code, Failure, Result};
use crate::models::Catalog;
use crate::n;
use crate::outgoing;
use crate::requests::Ledger;
use crate::workers::engines::Engine;
use crate::workers::{Device, Supervisor, TrialWorker, Tried, TryError, WhyNot};

/// Phrases, in lower case, with which engines and drivers tell of errors after which an answer cannot be trusted.
const ERRORS: &[&str] = &[
    "cuda error",
    "rocm error",
    "hip error",
    "ggml_assert",
    "ggml_abort",
    "device lost",
    "errordevicelost",
    "vk_error_",
    "terminate called",
    "segmentation fault",
    "illegal instruction",
];

/// A build that is to prove itself.
#[derive(Clone, Debug)]
pub(crate) struct Candidate {
    pub(crate) id: EngineId,
    pub(crate) version: String,
    /// Its executable.
    pub(crate) program: PathBuf,
    /// Whether this machine has a device of the kind that it is built for.
    pub(crate) has_device: bool,
}

/// What a build that proved itself has shown.
#[derive(Clone, Debug, Default)]
pub(crate) struct Proof {
    /// What it says of its version.
    pub(crate) reported_version: Option<String>,
    /// The devices that it can use here.
    pub(crate) devices: Vec<String>,
    /// How fast it was with a model of this machine; `None` where none could be measured.
    pub(crate) measured: Option<Measured>,
    /// What was seen and is no failure, and what could not be tried.
    pub(crate) remarks: Vec<String>,
}

/// Why a build has not proved itself.
#[derive(Debug)]
pub(crate) enum Unproven {
    /// It does not work here. `log` is what it printed.
    Failed { failure: Failure, log: Vec<String> },
    /// That is not known: the try was stopped, or the hive could not do its part.
    Undecided(Failure),
}

impl From<Failure> for Unproven {
    fn from(failure: Failure) -> Self {
        Self::Undecided(failure)
    }
}

/// What tries builds.
#[derive(Clone, Debug)]
pub(crate) struct Canary {
    pub(super) workers: Supervisor,
    pub(super) catalog: Catalog,
    pub(super) requests: Ledger,
    pub(super) client: Client,
    /// How long an answer may take.
    pub(super) limit: Duration,
}

/// The try of one build.
pub(super) struct Try<'a> {
    pub(super) canary: &'a Canary,
    pub(super) candidate: &'a Candidate,
    pub(super) stop: &'a CancellationToken,
    pub(super) proof: Proof,
    /// What its workers printed.
    pub(super) log: Vec<String>,
}

impl Canary {
    /// # Errors
    /// The HTTP client cannot be built, which is a defect.
    pub(crate) fn new(
        config: &Config,
        workers: Supervisor,
        catalog: Catalog,
        requests: Ledger,
    ) -> Result<Self> {
        let client = outgoing::for_workers(*config.timers.connect)?;
        Ok(Self { workers, catalog, requests, client, limit: *config.timers.readiness })
    }
}

impl Try<'_> {
    /// It tells its version and lists its devices.
    pub(super) async fn describe(&mut self) -> Result<Arc<Engine>, Unproven> {
        let Candidate { id, program, .. } = self.candidate;
        let name = id.to_string();
        let described = self.canary.workers.describe(&name, program);
        let engine = tokio::select! {
            () = self.stop.cancelled() => return Err(stopped().into()),
            described = described => described.map_err(|error| self.not_tried("start", error))?,
        };
        self.proof.reported_version.clone_from(&engine.version);
        self.proof.devices = engine.usable().iter().map(ToString::to_string).collect();
        let says = engine.version.as_deref().unwrap_or("no version");
        let devices = self.proof.devices.join(", ");
        n!("worker_install_try", "It runs, says that it is version {says}, and can use {devices}");
        if id.kind != DeviceKind::Cpu && gpu_of(&engine, id.kind).is_none() {
            if self.candidate.has_device {
                let listed = engine.devices_in_words();
                let message =
                    format!("it is built for {} and does not find the GPU: it listed {listed}", id.kind);
                let failure = Failure::new(Code::WorkerFailed, message).hint(hint_for_missing(id.kind));
                return Err(self.failed("devices", failure));
            }
            self.remark(format!(
                "it is built for {}, which this machine does not have: only the processor was tried",
                id.kind
            ));
        }
        Ok(engine)
    }

    /// What a worker is to try on that device.
    pub(super) fn tried(&self, engine: &Arc<Engine>, model: &Path, device: Device, context: u64) -> Tried {
        Tried {
            engine: Arc::clone(engine),
            shown_as: format!("(a try of {})", engine.name),
            model: model.to_owned(),
            device,
            context,
        }
    }

    /// Ends a worker, and keeps what it printed.
    pub(super) async fn end(&mut self, worker: TrialWorker, title: &str) -> Result<(), Unproven> {
        let lines = worker.log().await;
        let error = error_in(&lines).map(str::to_owned);
        self.keep_log(title, lines);
        let remains = worker.end(self.stop.is_cancelled()).await;
        if self.stop.is_cancelled() {
            return Err(stopped().into());
        }
        if let Some(remains) = remains {
            let hint = "end what is left, or restart the machine if a driver holds the memory; then try another version";
            return Err(self.failed("unload", Failure::new(Code::WorkerFailed, remains).hint(hint)));
        }
        match error {
            Some(line) => {
                let message = format!("its log tells of an error {title}: {line}");
                let hint = "the log says more; another version, or one for another kind of device, may do";
                Err(self.failed("answer", Failure::new(Code::WorkerFailed, message).hint(hint)))
            }
            None => Ok(()),
        }
    }

    fn keep_log(&mut self, title: &str, lines: Vec<String>) {
        self.log.push(format!("== {title} =="));
        self.log.extend(lines);
    }

    /// Notes and tells what is no failure.
    pub(super) fn remark(&mut self, remark: String) {
        n!("worker_install_try", "Note: {}", harmless(&remark));
        self.proof.remarks.push(remark);
    }

    /// The verdict that the build does not work.
    pub(super) fn failed(&mut self, stage: &str, why: Failure) -> Unproven {
        let Candidate { id, version, .. } = self.candidate;
        let message = format!("{id} {version} did not prove itself ({stage}): {}", why.message);
        if self.log.is_empty() {
            self.log.clone_from(&why.log_tail);
        }
        let failure = Failure { code: Code::EngineUnproven, message, stage: Some(stage.to_owned()), ..why };
        let mut log = vec![failure.message.clone()];
        log.extend(failure.hint.clone());
        log.append(&mut self.log);
        Unproven::Failed { failure, log }
    }

    /// The verdict where a worker did not start.
    pub(super) fn not_tried(&mut self, stage: &str, TryError { why, mut failure }: TryError) -> Unproven {
        match why {
            WhyNot::Engine => {
                if failure.code == Code::Timeout {
                    failure.message = format!("it hangs: {}", failure.message);
                }
                let at =
                    failure.stage.take().filter(|at| at == "devices").unwrap_or_else(|| stage.to_owned());
                self.failed(&at, failure)
            }
            WhyNot::Stopped if self.stop.is_cancelled() => stopped().into(),
            WhyNot::NoRoom | WhyNot::Stopped | WhyNot::Hive => failure.into(),
        }
    }
}

/// The first line of a log that tells of an error after which an answer cannot be trusted.
fn error_in(log: &[String]) -> Option<&str> {
    let tells = |line: &&String| {
        let line = line.to_lowercase();
        ERRORS.iter().any(|error| line.contains(error))
    };
    log.iter().find(tells).map(String::as_str)
}

/// The GPU of that kind that an engine uses first.
pub(super) fn gpu_of(engine: &Engine, kind: DeviceKind) -> Option<Device> {
    let is_of_kind = |device: &&Device| {
        matches!(device, Device::Exact { kind: own, .. } if *own == kind) && !device.is_cpu()
    };
    engine.usable().iter().find(is_of_kind).copied()
}

pub(super) fn stopped() -> Failure {
    Failure::new(Code::Cancelled, "stopped while a new build of an engine was tried")
}

/// What may be wrong where an engine does not find the GPU that it is for.
const fn hint_for_missing(kind: DeviceKind) -> &'static str {
    match kind {
        DeviceKind::Cuda => {
            "the GPU's driver may be older than the CUDA that the engine was built with: update the driver, install \
             an older version, or install llama-server-vulkan"
        }
        DeviceKind::Rocm => {
            "ROCm may be missing, of another version than the engine was built with, or closed to this user (the \
             groups render and video): correct that, or install llama-server-vulkan"
        }
        DeviceKind::Vulkan => {
            "a Vulkan driver for the GPU may be missing (mesa-vulkan-drivers, or the maker's own): install it, then \
             try again"
        }
        DeviceKind::Cpu | DeviceKind::Metal => "install another version",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_of_drivers_are_found_in_a_log_and_harmless_words_are_not() {
        let log = |lines: &[&str]| lines.iter().map(|line| (*line).to_owned()).collect::<Vec<_>>();
        let bad = log(&["loading model", "CUDA error: an illegal memory access was encountered", "ready"]);
        assert_eq!(error_in(&bad), Some("CUDA error: an illegal memory access was encountered"));
        let good =
            log(&["llama.attention.layer_norm_rms_epsilon f32", "warming up", "no errors", "error margin"]);
        assert_eq!(error_in(&good), None);
    }
}
