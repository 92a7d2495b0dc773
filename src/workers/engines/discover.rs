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
    pub(in crate::workers) async fn find(&self) -> Found {
        let gpus = spawn::blocking(gpus::sample).await.unwrap_or_default();
        let (mut engines, mut absent) = (Vec::new(), Vec::new());
        let mut take = |name: &str, found: Result<Option<Engine>, String>| match found {
            Ok(found) => engines.extend(found),
            Err(why) => {
                tracing::warn!(engine = name, why, "an engine cannot be used");
                absent.push((name.to_owned(), why));
            }
        };
        take(llama_server::NAME, self.llama_server().await);
        for (name, settings) in &self.config.engines {
            take(name, configured(name, settings, &gpus).map(Some));
        }
        engines.push(Engine::builtin(self.builtin.clone()));
        for engine in &engines {
            let devices: Vec<_> = engine.usable.iter().map(ToString::to_string).collect();
            tracing::info!(
                engine = engine.name, version = engine.version, ?devices, program = %engine.program.display(),
                "found an engine"
            );
        }
        Found { engines: engines.into_iter().map(Arc::new).collect(), absent }
    }

    /// llama.cpp's server; none where it is neither asked for nor on `PATH`.
    async fn llama_server(&self) -> Result<Option<Engine>, String> {
        let settings = &self.config.llama_server;
        if !settings.enabled {
            return Ok(None);
        }
        let program = match &settings.program {
            Some(program) => find_program(program)?,
            None => match on_path(llama_server::NAME) {
                Some(program) => program,
                None => return Ok(None),
            },
        };
        let version = ask(&program, "--version").await;
        let version = version.map_err(|why| format!("{} does not run: {why}", program.display()))?;
        // One that cannot list its devices is too old for GPUs to be told apart.
        let devices = ask(&program, "--list-devices").await.unwrap_or_default();
        Ok(Some(llama_server::describe(program, settings, &version, &devices)))
    }
}

/// What was found.
#[derive(Debug)]
pub(in crate::workers) struct Found {
    /// The engines that are installed, the preferred one first.
    pub(in crate::workers) engines: Vec<Arc<Engine>>,
    /// The names of those that the settings speak of and that cannot be used, and why.
    pub(in crate::workers) absent: Vec<(String, String)>,
}

/// The program at a path, or of a name on `PATH`.
fn find_program(program: &Path) -> Result<PathBuf, String> {
    let is_path = program.components().count() > 1;
    let found = if is_path { is_executable(program).then(|| program.to_owned()) } else { on_path(program) };
    found.ok_or_else(|| {
        let place = if is_path { "is not there, or may not be executed" } else { "is not on PATH" };
        format!("{} {place}", program.display())
    })
}

/// An engine that the settings describe.
fn configured(name: &str, settings: &EngineSettings, gpus: &[Gpu]) -> Result<Engine, String> {
    let (program, arguments) = settings.command.split_first().ok_or("its command is empty")?;
    let program = find_program(Path::new(program))?;
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
    Ok(Engine {
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
        metrics_route: settings.metrics_route.clone(),
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
fn on_path(name: impl AsRef<Path>) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path).map(|folder| folder.join(&name)).find(|program| is_executable(program))
}

fn is_executable(program: &Path) -> bool {
    use std::os::unix::fs::PermissionsExt;

    std::fs::metadata(program).is_ok_and(|file| file.is_file() && file.permissions().mode() & 0o111 != 0)
}
