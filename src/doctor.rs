//! The checks of `HiveCheck` that look at the machine rather than at the hive's own parts. Each failure
//! has a next step.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use crate::app::App;
use crate::config::Bind;
use crate::engine_store::{Installed, Provenance};
use crate::error::{Code, Failure, Result};
use crate::models::Model;
use crate::workers::engines::Engine;
use crate::workers::{Status, devices, gpus, sandbox as worker_sandbox};
use crate::{outgoing, spawn, text};

/// The least limit of open files. With fewer, a hive with many readers and large models runs out of them.
const LEAST_OPEN_FILES: u64 = 4096;
/// 2025-01-01, in seconds since the Unix epoch. No hive ran before, so a clock with an earlier time is
/// not set.
const EARLIEST: u64 = 1_735_689_600;
/// A file of the hive this far in the future shows that the clock was set back.
const CLOCK_LEEWAY: Duration = Duration::from_secs(300);

/// Items in a sentence: `a, b`.
fn text_list(items: impl IntoIterator<Item = String>) -> String {
    items.into_iter().collect::<Vec<_>>().join(", ")
}

/// The limit of open files.
///
/// # Errors
/// If it is low.
pub fn open_files() -> Result<String> {
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile);
    let words = |limit: Option<u64>| limit.map_or_else(|| "unlimited".to_owned(), |limit| limit.to_string());
    let detail = format!("{} open files allowed (at most {})", words(limit.current), words(limit.maximum));
    match limit.current {
        Some(current) if current < LEAST_OPEN_FILES && limit.maximum != Some(current) => {
            Err(Failure::new(Code::ConfigInvalid, detail)
                .hint(format!("raise it before the start: ulimit -n {LEAST_OPEN_FILES}")))
        }
        Some(current) if current < LEAST_OPEN_FILES => Err(Failure::new(Code::ConfigInvalid, detail).hint(
            "raise the limit for this user: LimitNOFILE=65536 in the service's unit, or nofile in limits.conf",
        )),
        _ => Ok(detail),
    }
}

/// The models: whether each can be used. A download that was interrupted is told, and is no fault.
///
/// # Errors
/// If one cannot, or a disk does not answer.
pub async fn catalog(app: &App) -> Result<String> {
    let found = app.catalog.inspect().await?;
    let mut detail = format!("{} model(s)", found.models);
    if !found.unusable.is_empty() {
        let list = text_list(found.unusable.into_iter().map(|model| model.id));
        let detail = format!("{detail}, not usable: {list}");
        return Err(Failure::new(Code::ModelCorrupt, detail).hint(
            "ModelGet says what is wrong with each: bring what is missing, let the hive read it, download it again, \
             or delete it with ModelDelete",
        ));
    }
    detail += ", all sound";
    if !found.interrupted.is_empty() {
        let shown = |model: Model| format!("{} (of {})", model.id, text::excerpt(&model.source));
        let list = text_list(found.interrupted.into_iter().map(shown));
        detail += &format!(
            "; interrupted download(s), which ModelDownload resumes and ModelDelete removes: {list}"
        );
    }
    Ok(format!("{detail}; tidied: {}", app.catalog.tidy().await?))
}

/// The history of jobs: whether the journals could be read.
///
/// # Errors
/// If one is damaged, or could not be read.
pub fn history(app: &App) -> Result<String> {
    let (damaged, not_understood) = app.jobs.damage()?;
    let newer = match not_understood {
        [] => String::new(),
        list => format!("; left as it is: {}", list.join("; ")),
    };
    if damaged.is_empty() {
        return Ok(format!("every journal that this version knows could be read{newer}"));
    }
    let list = text_list(damaged.iter().map(|path| path.display().to_string()));
    Err(Failure::new(Code::Io, format!("damaged journal(s) were set aside: {list}{newer}"))
        .hint("check the disk and the memory; remove these files once you need them no longer"))
}

/// The clock: whether it is set, and not behind the hive's own files.
///
/// # Errors
/// If it is not set or was set back.
pub fn clock(app: &App) -> Result<String> {
    let now = SystemTime::now();
    let wrong = |what: String| {
        Err(Failure::new(Code::ConfigInvalid, what)
            .hint("set the machine's clock, best by NTP (timedatectl set-ntp true)"))
    };
    if now < SystemTime::UNIX_EPOCH + Duration::from_secs(EARLIEST) {
        return wrong("the machine's clock is not set".to_owned());
    }
    let ours = app.config.data_dir.join("hive.json");
    let written = std::fs::metadata(ours).and_then(|metadata| metadata.modified());
    if let Ok(ahead) = written.map(|written| written.duration_since(now).unwrap_or_default())
        && ahead > CLOCK_LEEWAY
    {
        let ahead = crate::time::in_words(ahead);
        return wrong(format!("the machine's clock was set back: a file of this run is from {ahead} ahead"));
    }
    Ok(format!("{}", crate::time::Instant::from(now)))
}

/// The user's folders of models.
///
/// # Errors
/// If one is not there, or a disk does not answer.
pub async fn folders(app: &App) -> Result<String> {
    let missing = app.catalog.missing_folders().await?;
    if missing.is_empty() {
        return Ok(format!("{} folder(s) of --models-dir, all there", app.config.models_dirs.len()));
    }
    let list = text_list(missing.iter().map(|dir| dir.display().to_string()));
    Err(Failure::new(Code::ConfigInvalid, format!("no such folder of --models-dir: {list}"))
        .hint("its models are listed once it is there: mount or make it, or correct --models-dir"))
}

/// Who can reach the hive, and whether a token is asked for.
///
/// # Errors
/// If others can read the token's file.
pub fn exposure(app: &App) -> Result<String> {
    use std::os::unix::fs::PermissionsExt;

    let config = &app.config;
    let reach = match (config.bind, config.is_local()) {
        (Bind::None, true) => "this user alone",
        (_, true) => "this machine alone",
        (bind, _) if bind.is_loopback() => "whoever a proxy on this machine lets in",
        _ => "the network",
    };
    let socket = config.unix_socket.as_ref().filter(|_| config.bind != Bind::None);
    let socket = socket.map_or_else(String::new, |path| format!(" and {}", path.display()));
    let bound = format!("bound to {}{socket}, for {reach}", app.address);
    let Some(file) = &config.token_file else {
        let asks =
            if app.callers.ask_for_a_token() { "a token is asked for" } else { "no token is asked for" };
        return Ok(format!("{bound}; {asks}"));
    };
    let metadata = std::fs::metadata(file).map_err(|error| {
        Failure::io("look at the token", file, &error)
            .hint("the running hive still has the token; put the file back")
    })?;
    if metadata.permissions().mode() & 0o077 != 0 {
        return Err(Failure::new(
            Code::ConfigInvalid,
            format!("the token in {} can be read by other users", file.display()),
        )
        .hint(format!("chmod 600 {}, then make a new token", file.display())));
    }
    Ok(format!("{bound}; a token is asked for"))
}

/// The proxies that the environment names.
///
/// # Errors
/// If the hive cannot use one.
pub fn proxy() -> Result<String> {
    outgoing::proxies_in_words().map_err(|problem| {
        Failure::new(Code::ConfigInvalid, problem).hint(
            "set HTTPS_PROXY and HTTP_PROXY to http://HOST:PORT in the hive's environment, then restart it; NO_PROXY \
             names hosts to be asked directly",
        )
    })
}

/// The build of an engine that the hive installed.
fn build_in_words(installed: &Installed) -> String {
    let from = match installed.current.from {
        Provenance::Release => "a release",
        Provenance::Source => "source",
        Provenance::Archive => "the archive of the settings",
    };
    let previous = installed.previous.as_ref().map(|build| format!(", before it {}", build.version));
    format!("build {} from {from}{}; ", installed.current.version, previous.unwrap_or_default())
}

/// The installed engines: versions, builds, abilities and devices.
///
/// # Errors
/// If an engine of the settings cannot be used.
pub async fn engines(app: &App) -> Result<String> {
    let engines = app.workers.engines().await;
    let found = engines.iter().map(|engine| {
        let version = engine.version.as_deref().map_or_else(String::new, |version| format!(" {version}"));
        let build = engine.build.as_deref().map_or_else(String::new, build_in_words);
        let devices = text_list(engine.usable().iter().map(ToString::to_string));
        let devices = if devices.is_empty() { "no device of this machine".to_owned() } else { devices };
        let can = text_list(engine.capabilities.iter().map(ToString::to_string));
        format!("{}{version} ({can}; on {devices}; {build}{})", engine.name, engine.program.display())
    });
    let found = found.collect::<Vec<_>>().join("; ");
    let troubles = app.workers.engine_troubles().await;
    if !troubles.is_empty() {
        return Err(Failure::new(Code::WorkerFailed, format!("{found}; {}", text_list(troubles))).hint(
            "go back to the version before, as it says; the logs of these workers say why they failed",
        ));
    }
    let absent = app.workers.unusable_engines().await;
    if absent.is_empty() {
        return Ok(found);
    }
    let absent = text_list(absent.iter().map(|(name, why)| format!("{name} ({why})")));
    Err(Failure::new(Code::EngineUnavailable, format!("{found}; cannot be used: {absent}"))
        .hint("install it, or correct its settings, then restart the hive"))
}

/// The devices: drivers and free memory.
///
/// # Errors
/// If looking at them panicked.
pub async fn devices() -> Result<String> {
    let look = || {
        let gpus: Vec<_> = gpus::sample()
            .iter()
            .map(|gpu| format!("{} {}, {} free", gpu.id, gpu.name, text::bytes(gpu.memory_free_bytes())))
            .collect();
        let cpu = devices::detect().last().map(|cpu| format!("cpu {} {}", cpu.name, cpu.features.join(" ")));
        text_list(cpu.into_iter().chain(gpus).chain(gpus::drivers()))
    };
    spawn::blocking(look).await
}

/// What the kernel holds workers to, and those of which engines it does not. That it holds them to nothing is no fault.
///
/// # Errors
/// If looking at it panicked.
pub async fn sandbox(app: &App) -> Result<String> {
    let (settings, engines) = (app.config.workers.clone(), app.workers.engines().await);
    let why_not = |engine: &Arc<Engine>| Some((engine.name.clone(), engine.unrestricted()?.to_owned()));
    let unrestricted: Vec<_> = engines.iter().filter_map(why_not).collect();
    spawn::blocking(move || worker_sandbox::in_force(&settings, &unrestricted)).await
}

/// The workers: crashed and unresponsive ones, and those of an earlier run.
///
/// # Errors
/// If one crashed or does not respond, or one of an earlier run could not be ended.
pub fn workers(app: &App) -> Result<String> {
    let all = app.workers.list();
    let crashed: Vec<_> = all.iter().filter(|worker| worker.status == Status::Crashed).collect();
    let mut detail = format!("{} worker(s) run", all.len() - crashed.len());
    let found = app.workers.adoption().unwrap_or_default();
    for (count, what) in [
        (found.adopted.len(), "worker(s) taken over from an earlier run"),
        (found.died.len(), "had ended while no hive ran"),
        (found.ended.len(), "of an earlier run ended"),
        (found.orphans, "process(es) left behind by an earlier run ended"),
    ] {
        if count > 0 {
            detail = format!("{detail}, {count} {what}");
        }
    }
    if let Some(refused) = found.refused {
        return Err(Failure::new(
            Code::Io,
            format!("workers of an earlier run were not looked for: {refused}"),
        )
        .hint("make the folder private (chmod 700), then restart the hive"));
    }
    if !found.newer.is_empty() {
        let list = text_list(found.newer.iter().map(|worker| {
            let pid = worker.pid.map_or_else(String::new, |pid| format!("process {pid}, "));
            format!("{pid}version {} in {}", worker.version, worker.record)
        }));
        return Err(Failure::new(
            Code::WorkerFailed,
            format!(
                "{detail}; left {} worker(s) alone whose record has a newer version: {list}",
                found.newer.len()
            ),
        )
        .hint("start the newer hive to adopt them, or end each process and remove its record"));
    }
    if !found.damaged.is_empty() {
        let list = text_list(found.damaged);
        return Err(Failure::new(
            Code::Io,
            format!("{detail}; ended worker(s) of an earlier run whose records could not be read: {list}"),
        )
        .hint("check the disk and the memory; load their models again"));
    }
    if found.stuck > 0 {
        let stuck = found.stuck;
        return Err(Failure::new(
            Code::WorkerFailed,
            format!("{detail}; {stuck} process(es) of an earlier run could not be ended"),
        )
        .hint(
            "they hang in the kernel, usually in a driver: look at dmesg; a restart of the machine ends them",
        ));
    }
    let unresponsive: Vec<_> = all.iter().filter(|worker| worker.status == Status::Unresponsive).collect();
    if !unresponsive.is_empty() {
        let list =
            text_list(unresponsive.iter().map(|worker| format!("{} of '{}'", worker.pid, worker.model)));
        return Err(Failure::new(
            Code::WorkerUnresponsive,
            format!("{detail}; neither answering nor computing: {list}"),
        )
        .hint("GET /v1/workers/PID/log may show why; ModelLoad replaces it, [workers] restart does so by itself"));
    }
    if !crashed.is_empty() {
        let list = text_list(crashed.iter().map(|worker| {
            format!("{} of '{}' ({})", worker.pid, worker.model, worker.last_exit.as_deref().unwrap_or("?"))
        }));
        return Err(Failure::new(Code::WorkerFailed, format!("{detail}; crashed: {list}")).hint(
            "GET /v1/workers/PID/log shows why; ModelLoad starts another, [workers] restart does so by itself",
        ));
    }
    Ok(detail)
}
