//! What `HiveCheck` looks at besides the hive's own parts: the machine around it. Each finding that
//! is not well comes with a next step.

use std::time::{Duration, SystemTime};

use crate::app::App;
use crate::error::{Code, Failure, Result};
use crate::workers::{Status, devices, gpus};
use crate::{spawn, text};

/// With fewer open files than this a hive with many readers and large models runs out of them.
const FEW_OPEN_FILES: u64 = 4096;
/// No hive ran before this, in seconds since the Unix epoch (2025-01-01): a clock that says so is
/// not set.
const EARLIEST: u64 = 1_735_689_600;
/// Files of the hive's own that lie further in the future than this show that the clock went back.
const CLOCK_LEEWAY: Duration = Duration::from_secs(300);

/// Items in a sentence: `a, b`.
fn text_list(items: impl IntoIterator<Item = String>) -> String {
    items.into_iter().collect::<Vec<_>>().join(", ")
}

/// The limit of open files.
///
/// # Errors
/// Where it is low.
pub fn open_files() -> Result<String> {
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile);
    let words = |limit: Option<u64>| limit.map_or_else(|| "unlimited".to_owned(), |limit| limit.to_string());
    let detail = format!("{} open files allowed (at most {})", words(limit.current), words(limit.maximum));
    match limit.current {
        Some(current) if current < FEW_OPEN_FILES && limit.maximum != Some(current) => {
            Err(Failure::new(Code::ConfigInvalid, detail)
                .hint(format!("raise it before the start: ulimit -n {FEW_OPEN_FILES}")))
        }
        Some(current) if current < FEW_OPEN_FILES => Err(Failure::new(Code::ConfigInvalid, detail).hint(
            "raise the limit for this user: LimitNOFILE=65536 in the service's unit, or nofile in limits.conf",
        )),
        _ => Ok(detail),
    }
}

/// The clock, against what no clock can have been and against the hive's own files.
///
/// # Errors
/// Where it is not set or went back.
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
        return wrong(format!("the machine's clock went back: files of this run are from {ahead} ahead"));
    }
    Ok(format!("{}", crate::time::Instant::from(now)))
}

/// Who can reach the hive, and what keeps others out.
///
/// # Errors
/// Where the token's file can be read by others.
pub fn exposure(app: &App) -> Result<String> {
    use std::os::unix::fs::PermissionsExt;

    let bind = app.address.ip();
    let reach = if bind.is_loopback() { "this machine alone" } else { "the network" };
    let Some(file) = &app.config.token_file else {
        return Ok(format!("bound to {bind}, for {reach}; no token is asked for"));
    };
    let metadata = std::fs::metadata(file).map_err(|error| {
        Failure::io("look at the token", file, &error).hint("the running hive still knows it; put it back")
    })?;
    if metadata.permissions().mode() & 0o077 != 0 {
        return Err(Failure::new(
            Code::ConfigInvalid,
            format!("the token in {} can be read by other users", file.display()),
        )
        .hint(format!("chmod 600 {}, then make a new token", file.display())));
    }
    Ok(format!("bound to {bind}, for {reach}; a token is asked for"))
}

/// The engines that are installed, with their versions, what they can do and what they run on.
///
/// # Errors
/// Where one that the settings speak of cannot be used.
pub async fn engines(app: &App) -> Result<String> {
    let found = app.workers.engines().await.iter().map(|engine| {
        let version = engine.version.as_deref().map_or_else(String::new, |version| format!(" {version}"));
        let devices = text_list(engine.usable().iter().map(ToString::to_string));
        let devices = if devices.is_empty() { "no device of this machine".to_owned() } else { devices };
        let can = engine.capabilities.join(" and ");
        format!("{}{version} ({can}; on {devices}; {})", engine.name, engine.program.display())
    });
    let found = found.collect::<Vec<_>>().join("; ");
    let absent = app.workers.unusable_engines().await;
    if absent.is_empty() {
        return Ok(found);
    }
    let absent = text_list(absent.iter().map(|(name, why)| format!("{name} ({why})")));
    Err(Failure::new(Code::EngineUnavailable, format!("{found}; cannot be used: {absent}"))
        .hint("install it, or correct its settings, then restart the hive"))
}

/// The devices, with their drivers and what is free on them.
///
/// # Errors
/// Where looking at them panicked.
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

/// The workers: crashed ones, and what became of those of an earlier run.
///
/// # Errors
/// Where one crashed, or one of an earlier run could not be dealt with.
pub fn workers(app: &App) -> Result<String> {
    let all = app.workers.list();
    let crashed: Vec<_> = all.iter().filter(|worker| worker.status == Status::Crashed).collect();
    let mut detail = format!("{} worker(s) run", all.len() - crashed.len());
    let found = app.workers.adoption().unwrap_or_default();
    for (count, what) in [
        (found.adopted.len(), "worker(s) taken over from an earlier run"),
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
    if found.stuck > 0 {
        let stuck = found.stuck;
        return Err(Failure::new(
            Code::WorkerFailed,
            format!("{detail}; {stuck} process(es) of an earlier run could not be ended"),
        )
        .hint(
            "they hang in the kernel, mostly in a driver: look at dmesg; a restart of the machine frees them",
        ));
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
