//! Finds the engines of this machine: the built-in one, llama.cpp's server on `PATH` or where the
//! settings name it, and those that the settings describe.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use super::{Engine, ModelStorage, PortSource, llama_server};
use crate::config::{Config, DeviceKind, EngineSettings, LlamaServer};
use crate::error::Result;
use crate::narration::Level;
use crate::paths::{is_executable, on_path};
use crate::spawn;
use crate::workers::device::Device;
use crate::workers::environment;
use crate::workers::gpus::{self, Gpu};
use crate::workers::route::Route;

/// How long an engine may take to describe itself: the first use of a GPU's driver takes seconds.
const ANSWER_LIMIT: Duration = Duration::from_secs(15);

/// The engines that the settings name or describe.
#[derive(Clone, Debug)]
pub(in crate::workers) struct EngineSearch {
    builtin: PathBuf,
    llama_server: LlamaServer,
    described: BTreeMap<String, EngineSettings>,
}

/// The engines of this machine.
#[derive(Clone, Debug)]
pub(in crate::workers) struct FoundEngines {
    /// The installed engines, the preferred one first.
    pub(in crate::workers) installed: Vec<Arc<Engine>>,
    /// The names of the engines in the settings that cannot be used, and why.
    pub(in crate::workers) unusable: Vec<(String, String)>,
}

impl FoundEngines {
    /// The same, each engine changed.
    pub(in crate::workers) fn each(&self, change: impl Fn(&Engine) -> Engine) -> Self {
        let installed = self.installed.iter().map(|engine| Arc::new(change(engine))).collect();
        Self { installed, unusable: self.unusable.clone() }
    }
}

impl EngineSearch {
    /// # Errors
    /// Where the path of the built-in worker's program is unknown.
    pub(in crate::workers) fn new(config: &Config) -> Result<Self> {
        Ok(Self {
            builtin: config.worker_program()?,
            llama_server: config.llama_server.clone(),
            described: config.engines.clone(),
        })
    }

    /// Finds every installed engine. llama.cpp's server comes first, because it is faster than the
    /// built-in engine wherever it runs.
    pub(in crate::workers) async fn run(&self) -> FoundEngines {
        let gpus = spawn::blocking(gpus::sample).await.unwrap_or_default();
        let (mut engines, mut unusable) = (Vec::new(), Vec::new());
        let mut add = |name: &str, found: Result<Option<Engine>, String>| match found {
            Ok(found) => engines.extend(found),
            Err(reason) => {
                tracing::warn!(engine = name, reason, "an engine cannot be used");
                unusable.push((name.to_owned(), reason));
            }
        };
        add(llama_server::NAME, self.llama_server().await);
        for (name, settings) in &self.described {
            add(name, described(name, settings, &gpus).map(Some));
        }
        engines.push(Engine::builtin(self.builtin.clone()));
        for engine in &engines {
            let devices: Vec<_> = engine.usable.iter().map(ToString::to_string).collect();
            tracing::info!(
                engine = engine.name, version = engine.version, ?devices, program = %engine.program.display(),
                "found an engine"
            );
        }
        FoundEngines { installed: engines.into_iter().map(Arc::new).collect(), unusable }
    }

    /// llama.cpp's server; `None` where it is neither in the settings nor on `PATH`.
    async fn llama_server(&self) -> Result<Option<Engine>, String> {
        let settings = &self.llama_server;
        if !settings.enabled {
            return Ok(None);
        }
        if settings.embeddings.is_some() {
            tracing::warn!(
                "[llama_server] embeddings has no effect any more: models for embeddings and for reranking are \
                 served as such; remove the setting"
            );
        }
        let program = match &settings.program {
            Some(program) => find_program(program, llama_server::SETTING)?,
            None => match on_path(llama_server::NAME) {
                Some(program) => program,
                None => return Ok(None),
            },
        };
        let version = ask(&program, "--version").await;
        let version = version.map_err(|reason| {
            format!("{} does not run: {reason} (setting: {})", program.display(), llama_server::SETTING)
        })?;
        // A version that cannot list its devices is too old to choose among GPUs.
        let devices = ask(&program, "--list-devices").await.unwrap_or_default();
        Ok(Some(llama_server::describe(program, settings, &version, &devices)))
    }
}

/// The program with that path, or with that name on `PATH`, which `setting` names.
fn find_program(program: &Path, setting: &str) -> Result<PathBuf, String> {
    let is_path = program.components().count() > 1;
    let found = if is_path { is_executable(program).then(|| program.to_owned()) } else { on_path(program) };
    found.ok_or_else(|| {
        let problem = if is_path { "is not there, or may not be executed" } else { "is not on PATH" };
        format!("{} {problem} (setting: {setting})", program.display())
    })
}

/// An engine that the settings describe.
fn described(name: &str, settings: &EngineSettings, gpus: &[Gpu]) -> Result<Engine, String> {
    let (program, arguments) = settings.command.split_first().ok_or("its command is empty")?;
    let setting = format!("[engines.{name}] command");
    let program = find_program(Path::new(program), &setting)?;
    let mut usable = Vec::new();
    for kind in &settings.devices {
        match kind {
            DeviceKind::Cpu => usable.push(Device::CPU),
            // Vulkan works with the GPUs of every maker.
            DeviceKind::Vulkan => usable.extend(
                (0_u32..).zip(gpus).map(|(index, _)| Device::Exact { kind: DeviceKind::Vulkan, index }),
            ),
            kind => usable.extend(
                gpus.iter()
                    .map(|gpu| gpu.device)
                    .filter(|device| matches!(device, Device::Exact { kind: own, .. } if own == kind)),
            ),
        }
    }
    Ok(Engine {
        name: name.to_owned(),
        about: settings.about.clone(),
        version: None,
        capabilities: settings.capabilities.clone().unwrap_or_else(|| EngineSettings::USUAL.into()),
        has_means_of_its_own: settings.capabilities.is_some(),
        describes_tools: false,
        devices: settings.devices.clone(),
        usable,
        own_names: Vec::new(),
        program,
        setting,
        arguments: arguments.to_vec(),
        environment: settings.env.clone(),
        secret_variable: settings.secret_env.clone(),
        health_route: settings.health_route.clone(),
        paths: [
            (Route::Chat, settings.chat_route.clone()),
            (Route::Completions, settings.completions_route()),
            (Route::Embeddings, settings.embeddings_route()),
            (Route::Rerank, settings.rerank_route()),
        ]
        .into(),
        metrics_route: settings.metrics_route.clone(),
        log_level: Level::Debug,
        port: PortSource::Assigned,
        storage: ModelStorage::AsInFile { cache_bits: 16 },
        gpu_layers: None,
        takes_options: false,
        has_llama_cpp_fields: false,
        threads: None,
        projector: None,
        falls_back_to_chatml: false,
    })
}

/// What a program prints to both outputs when it is run with this flag.
async fn ask(program: &Path, flag: &str) -> Result<String, String> {
    let mut command = spawn::command(program);
    command
        .arg(flag)
        .envs([environment::CUDA_ORDER])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true);
    let answer = tokio::time::timeout(ANSWER_LIMIT, command.output()).await;
    let output =
        answer.map_err(|_| "it did not answer in time".to_owned())?.map_err(|error| error.to_string())?;
    if !output.status.success() {
        return Err(format!("{flag} ended with {}", output.status));
    }
    Ok([output.stdout, output.stderr].map(|output| String::from_utf8_lossy(&output).into_owned()).concat())
}
