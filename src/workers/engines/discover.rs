//! Finding the engines: the hive's own, llama.cpp's server on `PATH` or where the settings say, and
//! those that the settings describe.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use super::{Engine, Keeps, Port, llama_server};
use crate::config::{Config, EngineSettings};
use crate::error::Result;
use crate::narration::Level;
use crate::spawn;
use crate::workers::devices::{Device, Kind};
use crate::workers::gpus::{self, Gpu};

/// How long an engine may take to say what it is: the first touch of a GPU's driver takes seconds.
const ANSWER_LIMIT: Duration = Duration::from_secs(15);

/// What the settings say of engines.
#[derive(Clone, Debug)]
pub(in crate::workers) struct Sought {
    builtin: PathBuf,
    config: Config,
}

impl Sought {
    pub(in crate::workers) fn new(config: &Config) -> Result<Self> {
        Ok(Self { builtin: config.worker_program()?, config: config.clone() })
    }

    /// Every engine that is installed, the preferred one first: llama.cpp's server is faster than
    /// the hive's own engine wherever it runs.
    pub(in crate::workers) async fn find(&self) -> Vec<Arc<Engine>> {
        let gpus = spawn::blocking(gpus::sample).await.unwrap_or_default();
        let mut engines = Vec::new();
        engines.extend(self.llama_server().await);
        for (name, settings) in &self.config.engines {
            engines.extend(configured(name, settings, &gpus));
        }
        engines.push(Engine::builtin(self.builtin.clone()));
        for engine in &engines {
            let devices: Vec<_> = engine.usable.iter().map(ToString::to_string).collect();
            tracing::info!(
                engine = engine.name, version = engine.version, ?devices, program = %engine.program.display(),
                "found an engine"
            );
        }
        engines.into_iter().map(Arc::new).collect()
    }

    async fn llama_server(&self) -> Option<Engine> {
        let settings = &self.config.llama_server;
        if !settings.enabled {
            return None;
        }
        let program = match &settings.program {
            Some(program) => Some(program.clone()),
            None => on_path(llama_server::NAME),
        }?;
        let version = match ask(&program, "--version").await {
            Ok(said) => said,
            Err(why) => {
                tracing::warn!(program = %program.display(), why, "llama-server is there and does not run");
                return None;
            }
        };
        // One that cannot list its devices is too old for GPUs to be told apart.
        let devices = ask(&program, "--list-devices").await.unwrap_or_default();
        Some(llama_server::describe(program, settings, &version, &devices))
    }
}

/// An engine that the settings describe; `None` where its program is not there.
fn configured(name: &str, settings: &EngineSettings, gpus: &[Gpu]) -> Option<Engine> {
    let (program, arguments) = settings.command.split_first()?;
    let found = if program.contains('/') {
        Some(PathBuf::from(program)).filter(|program| is_executable(program))
    } else {
        on_path(program)
    };
    let Some(program) = found else {
        tracing::warn!(engine = name, program, "the program of an engine is not there");
        return None;
    };
    let mut usable = Vec::new();
    for kind in &settings.devices {
        match kind {
            Kind::Cpu => usable.push(Device::CPU),
            // Vulkan reaches every maker's.
            Kind::Vulkan => usable
                .extend((0_u32..).zip(gpus).map(|(index, _)| Device::Exact { kind: Kind::Vulkan, index })),
            kind => usable.extend(
                gpus.iter()
                    .map(|gpu| gpu.device)
                    .filter(|device| matches!(device, Device::Exact { kind: has, .. } if has == kind)),
            ),
        }
    }
    Some(Engine {
        name: name.to_owned(),
        about: settings.about.clone(),
        version: None,
        capabilities: vec!["chat".to_owned()],
        devices: settings.devices.clone(),
        usable,
        own_names: Vec::new(),
        program,
        arguments: arguments.to_vec(),
        environment: settings.env.clone(),
        secret_variable: settings.secret_env.clone(),
        health_route: settings.health_route.clone(),
        chat_route: settings.chat_route.clone(),
        log_level: Level::Debug,
        port: Port::Probed,
        keeps: Keeps::AsStored { cache_bits: 16 },
        gpu_layers: None,
    })
}

/// Both outputs of a program that is asked about itself.
async fn ask(program: &Path, question: &str) -> Result<String, String> {
    let mut command = spawn::command(program);
    command.arg(question).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    let answer = tokio::time::timeout(ANSWER_LIMIT, command.output()).await;
    let output =
        answer.map_err(|_| "it did not answer in time".to_owned())?.map_err(|error| error.to_string())?;
    if !output.status.success() {
        return Err(format!("{question} ended with {}", output.status));
    }
    Ok([output.stdout, output.stderr].map(|said| String::from_utf8_lossy(&said).into_owned()).concat())
}

/// The program of that name on `PATH`.
fn on_path(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path).map(|folder| folder.join(name)).find(|program| is_executable(program))
}

fn is_executable(program: &Path) -> bool {
    use std::os::unix::fs::PermissionsExt;

    std::fs::metadata(program).is_ok_and(|file| file.is_file() && file.permissions().mode() & 0o111 != 0)
}
