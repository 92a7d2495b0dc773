//! Finds the engines of this machine: the built-in one, llama.cpp's server where the settings name it, those builds of
//! it that the hive installed, the one on `PATH`, and those that the settings describe.

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use super::{Engine, ModelStorage, PortSource, llama_server};
use crate::config::{Config, DeviceKind, EngineSettings, LlamaServer};
use crate::engine_store::{EngineStore, Installed};
use crate::error::Result;
use crate::narration::Level;
use crate::paths::{is_executable, on_path};
use crate::spawn;
use crate::time::in_words;
use crate::workers::device::Device;
use crate::workers::environment;
use crate::workers::exit::Exit;
use crate::workers::gpus::{self, Gpu};
use crate::workers::route::Route;
use crate::workers::sandbox::{Allowed, Sandbox};

/// What the system means by a file that is not there, where the program is.
const LACKS_LINKER: &str = "its dynamic linker, or the interpreter that its first line names, is not here";
/// How long an engine may take to describe itself: the first use of a GPU's driver takes seconds.
pub(in crate::workers) const ANSWER_LIMIT: Duration = Duration::from_secs(15);

/// The engines that the settings name or describe.
#[derive(Clone, Debug)]
pub(in crate::workers) struct EngineSearch {
    builtin: PathBuf,
    llama_server: LlamaServer,
    described: BTreeMap<String, EngineSettings>,
    /// Whether workers are to be restricted.
    restricts: bool,
    store: EngineStore,
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
    /// This engine alone.
    pub(in crate::workers) fn only(engine: &Arc<Engine>) -> Self {
        Self { installed: vec![Arc::clone(engine)], unusable: Vec::new() }
    }

    /// The same, each engine changed.
    pub(in crate::workers) fn each(&self, change: impl Fn(&Engine) -> Engine) -> Self {
        let installed = self.installed.iter().map(|engine| Arc::new(change(engine))).collect();
        Self { installed, unusable: self.unusable.clone() }
    }
}

impl EngineSearch {
    /// # Errors
    /// Where the path of the built-in worker's program is unknown.
    pub(in crate::workers) fn new(config: &Config, store: EngineStore) -> Result<Self> {
        Ok(Self {
            builtin: config.worker_program()?,
            llama_server: config.llama_server.clone(),
            described: config.engines.clone(),
            restricts: config.workers.restricts(),
            store,
        })
    }

    /// Finds every installed engine. llama.cpp's server comes first, because it runs more models than the built-in
    /// engine, on GPUs too, and who installs it wants it used: the one that the settings name, then the
    /// [builds](in_order) that the hive installed, then the one on `PATH`.
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
        let is_named = self.llama_server.program.is_some();
        if is_named {
            add(llama_server::NAME, self.llama_server().await);
        }
        let store = self.store.clone();
        for installed in in_order(spawn::blocking(move || store.installed()).await.unwrap_or_default()) {
            let name = installed.id.to_string();
            add(&name, self.build(installed).await.map(Some));
        }
        if !is_named {
            add(llama_server::NAME, self.llama_server().await);
        }
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
        let shown = program.display().to_string();
        let described = self.describe(llama_server::NAME, program, ANSWER_LIMIT).await;
        let Described { engine, .. } = described
            .map_err(|why| format!("{shown} does not run: {why} (setting: {})", llama_server::SETTING))?;
        Ok(Some(engine))
    }

    /// A build that the hive installed. `[llama_server] enabled` does not concern it: somebody asked for it.
    async fn build(&self, installed: Installed) -> Result<Engine, String> {
        let (name, program) = (installed.id.to_string(), installed.current.program.clone());
        let described = self.describe(&name, program.clone(), ANSWER_LIMIT).await;
        let Described { engine, .. } = described.map_err(|why| {
            let shown = program.display();
            format!("{shown} does not run: {why} (WorkerInstall installs another version, WorkerRemove removes it)")
        })?;
        let about = format!("llama.cpp's server {}, installed by the hive", installed.current.version);
        Ok(Engine { about, build: Some(Box::new(installed)), ..engine })
    }

    /// Describes the llama.cpp server at `program` as an engine of that name, by what it says of itself.
    ///
    /// # Errors
    /// Where it does not tell its version within the limit.
    pub(in crate::workers) async fn describe(
        &self,
        name: &str,
        program: PathBuf,
        limit: Duration,
    ) -> Result<Described, NoAnswer> {
        let version = ask(&program, "--version", limit, None).await?;
        let devices = ask(&program, "--list-devices", limit, None).await;
        // A version that cannot list its devices is too old to choose among GPUs.
        let list = devices.as_deref().unwrap_or_default();
        let engine = llama_server::describe(program, &self.llama_server, &version, list);
        let unrestricted = self.trouble_within_the_sandbox(&engine, devices.is_ok(), limit).await;
        if let Some(why) = &unrestricted {
            tracing::warn!(engine = name, why, "the workers of an engine are not restricted");
        }
        Ok(Described { engine: Engine { name: name.to_owned(), unrestricted, ..engine }, devices })
    }

    /// Why an engine does not run restricted as it runs without that. Its libraries may be where no list has them, a
    /// script may run a program elsewhere, and a driver may need what others do not: the engine serves all the same,
    /// without the restriction.
    async fn trouble_within_the_sandbox(
        &self,
        engine: &Engine,
        lists_devices: bool,
        limit: Duration,
    ) -> Option<String> {
        if !self.restricts {
            return None;
        }
        let gpus = engine.devices.first().copied().filter(|kind| *kind != DeviceKind::Cpu);
        let allowed = Allowed { program: engine.program.clone(), gpus, ..Allowed::default() };
        let flag = if lists_devices { "--list-devices" } else { "--version" };
        let shown = engine.program.display();
        match ask(&engine.program, flag, limit, Some(allowed)).await {
            Err(none) => {
                let last = none.exit.and(none.lines.last());
                let said = last.map_or_else(String::new, |line| format!(": {line}"));
                Some(format!("within it {shown} does not run: {none}{said}"))
            }
            Ok(list) if lists_devices && llama_server::gpus(&list) != engine.own_names => {
                Some(format!("within it {shown} does not find the same GPUs"))
            }
            Ok(_) => None,
        }
    }
}

/// The builds in the order in which they are preferred: those for GPUs first, and of two that were measured here with
/// the same model the faster one.
fn in_order(builds: Vec<Installed>) -> Vec<Installed> {
    let mut ordered: Vec<Installed> = Vec::new();
    for build in builds {
        let at = ordered.iter().position(|other| precedes(&build, other)).unwrap_or(ordered.len());
        ordered.insert(at, build);
    }
    ordered
}

/// Whether a build is preferred to one that comes before it in the usual order.
fn precedes(build: &Installed, other: &Installed) -> bool {
    let is_for_gpus = |build: &Installed| build.id.kind != DeviceKind::Cpu;
    if is_for_gpus(build) != is_for_gpus(other) {
        return is_for_gpus(build);
    }
    match (&build.current.measured, &other.current.measured) {
        (Some(own), Some(others)) => {
            own.model == others.model && own.tokens_per_second > others.tokens_per_second
        }
        _ => false,
    }
}

/// A llama.cpp server, as it describes itself.
#[derive(Debug)]
pub(in crate::workers) struct Described {
    pub(in crate::workers) engine: Engine,
    /// Its list of devices.
    pub(in crate::workers) devices: Result<String, NoAnswer>,
}

/// Why a program did not describe itself.
#[derive(Debug)]
pub(in crate::workers) struct NoAnswer {
    /// How it ended; `None` where it did not start, or not end in time.
    pub(in crate::workers) exit: Option<Exit>,
    /// Why there is no answer, to follow a colon.
    why: String,
    /// The lines that it printed.
    pub(in crate::workers) lines: Vec<String>,
}

impl fmt::Display for NoAnswer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.why)
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
        build: None,
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
        unrestricted: (!settings.sandbox).then(|| format!("[engines.{name}] sandbox is not set")),
        falls_back_to_chatml: false,
    })
}

/// What a program prints to both outputs when it is run with this flag, restricted to what is allowed.
async fn ask(
    program: &Path,
    flag: &str,
    limit: Duration,
    allowed: Option<Allowed>,
) -> Result<String, NoAnswer> {
    let mut command = spawn::command(program);
    environment::keep_secrets(&mut command);
    command
        .arg(flag)
        .envs([environment::CUDA_ORDER])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true);
    let none = |why: String| NoAnswer { exit: None, why, lines: Vec::new() };
    let unread = |error: io::Error| {
        let lacks_linker = error.kind() == io::ErrorKind::NotFound && program.exists();
        let why = if lacks_linker { LACKS_LINKER.to_owned() } else { error.to_string() };
        NoAnswer { lines: vec![why.clone()], ..none(why) }
    };
    let child = match allowed {
        None => command.spawn(),
        Some(allowed) => {
            let sandbox = Sandbox::prepare(allowed).await.map_err(|failure| none(failure.message))?;
            sandbox.start(|| command.spawn()).1
        }
    };
    let answer = tokio::time::timeout(limit, child.map_err(unread)?.wait_with_output()).await;
    let answer = answer.map_err(|_| none(format!("{flag} did not answer within {}", in_words(limit))))?;
    let output = answer.map_err(unread)?;
    let printed =
        [output.stdout, output.stderr].map(|output| String::from_utf8_lossy(&output).into_owned()).concat();
    if output.status.success() {
        return Ok(printed);
    }
    let exit = Exit::from(output.status);
    let lines = printed.lines().map(str::to_owned).collect();
    Err(NoAnswer { exit: Some(exit), why: format!("{flag} ended with {exit}"), lines })
}
