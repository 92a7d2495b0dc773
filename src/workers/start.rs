//! Starting a worker: from a request to a process that answers, or to nothing left behind.

use std::ffi::OsString;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use jiff::Timestamp;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::devices::Device;
use super::engines::{Choice, Port};
use super::folder::Folder;
use super::handle::{Control, Handle, Measures, Reason, Secret, Stage, State, Traffic};
use super::identity::MARKER;
use super::owner::Owner;
use super::plan::Plan;
use super::process::{Group, Processes, oom_kills};
use super::readiness::{ABANDON_GRACE, Starting};
use super::supervisor::Shared;
use super::worker::Worker;
use crate::error::{Code, Failure, Result};
use crate::{n, spawn, time};

/// Variables of the daemon's that are no business of a worker's.
const KEPT_FROM_WORKERS: &[&str] = &["HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "RBEE_HIVE_TOKEN_FILE"];

/// How often another port is tried where a probed one was taken in the meantime.
const PORT_RETRIES: u32 = 3;
/// More layers than any model has.
const ALL_LAYERS: u32 = 999;

/// What a new worker is to be.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct StartRequest {
    /// The id of the model.
    pub model_id: String,
    /// Its file.
    pub model_path: PathBuf,
    /// `auto`, a kind of device (`cpu`, `cuda`, ...) or an engine's name.
    pub engine: String,
    /// The device.
    pub device: Device,
    /// Tokens of context; unset means what the engine takes for the model.
    pub context_length: Option<u64>,
    /// Requests that it answers at once; unset means what the engine takes.
    pub slots: Option<u32>,
    /// Start it even where it does not seem to fit into memory.
    #[serde(default)]
    pub force: bool,
}

/// Starts a worker and returns it once it is ready. `crashes` counts those of the workers in whose
/// place it is. Where somebody else stops such a worker before it is ready, `stop` is cancelled: nobody
/// waits for it but its restart, which is then not wanted.
pub(super) async fn start(
    shared: &Arc<Shared>,
    request: StartRequest,
    crashes: u32,
    stop: &CancellationToken,
) -> Result<Worker> {
    shared.registry.check_open()?;
    let plan = Plan::of(shared, &request).await?;
    plan.check(&request)?;
    n!(
        "worker_choose",
        "Starting engine '{}' on {} for model '{}': {}",
        plan.choice.engine.name,
        plan.choice.device,
        request.model_id,
        plan.choice.why
    );
    let mut attempt = 1;
    let handle = loop {
        let handle = launch(shared, &request, &plan, crashes).await?;
        let mut starting = Starting::new(Arc::clone(shared), handle);
        let ready = tokio::select! {
            biased;
            () = stop.cancelled() => Err(starting.cancelled()),
            ready = starting.until_ready() => ready,
        };
        let Err(failure) = ready else { break starting.release() };
        if crashes > 0 && starting.was_stopped() {
            stop.cancel();
        }
        let failure = starting.abandon(failure).await;
        if failure.code != Code::PortInUse || attempt > PORT_RETRIES {
            return Err(failure);
        }
        n!(warn: "worker_retry", "{failure}; trying another port ({attempt} of {PORT_RETRIES})");
        attempt += 1;
    };
    n!(
        "worker_ready",
        "Worker {} is ready on {} after {}",
        handle.pid,
        handle.url().unwrap_or_default(),
        time::in_words(handle.uptime())
    );
    Ok(handle.worker())
}

/// The values that the templates of an engine stand for.
fn values(
    shared: &Shared,
    request: &StartRequest,
    plan: &Plan,
    folder: &Folder,
    port: Option<u16>,
) -> Vec<(&'static str, Option<OsString>)> {
    let number = |value: Option<u64>| value.map(|value| OsString::from(value.to_string()));
    let Choice { engine, device, .. } = &plan.choice;
    let slots = request.slots.map(u64::from);
    let index = match device {
        Device::Exact { index, .. } => Some(u64::from(*index)),
        _ => None,
    };
    let gpu_layers = if device.is_cpu() { 0 } else { engine.gpu_layers.unwrap_or(ALL_LAYERS) };
    // A worker on a GPU computes little on the processor.
    let threads = device.is_cpu().then(|| shared.settings.threads() as u64);
    vec![
        ("model_id", Some(request.model_id.clone().into())),
        ("model", Some(request.model_path.clone().into())),
        ("report", Some(folder.report().into())),
        ("port", number(port.map(u64::from))),
        ("device", Some(device.to_string().into())),
        ("device_index", number(index)),
        ("own_device", engine.own_name(*device).map(OsString::from)),
        ("gpu_layers", number(Some(u64::from(gpu_layers)))),
        ("context", number(Some(plan.context))),
        ("context_length", number(request.context_length)),
        ("context_of_all_slots", number(Some(plan.context.saturating_mul(slots.unwrap_or(1))))),
        ("slots", number(Some(slots.unwrap_or(1)))),
        ("threads", number(threads)),
    ]
}

/// A port on loopback that is free at this moment.
fn free_port() -> Result<u16> {
    std::net::TcpListener::bind(("127.0.0.1", 0)).and_then(|free| free.local_addr()).map_or_else(
        |error| {
            Err(Failure::new(Code::Io, format!("no port on loopback is free: {error}"))
                .hint("too many sockets are open: look at `ss -s`")
                .stage("start"))
        },
        |address| Ok(address.port()),
    )
}

/// Starts the process and its owner.
async fn launch(
    shared: &Arc<Shared>,
    request: &StartRequest,
    plan: &Plan,
    crashes: u32,
) -> Result<Arc<Handle>> {
    let Choice { engine, device, .. } = plan.choice.clone();
    let worker_id = format!("worker-{}", Uuid::now_v7());
    let live = shared.registry.all().iter().map(|worker| worker.worker_id.clone()).collect();
    let (workers_dir, id) = (shared.workers_dir.clone(), worker_id.clone());
    let folder = on_disk(move || Folder::create(&workers_dir, &id, &live)).await?;
    let of_log = folder.clone();
    let log = on_disk(move || of_log.open_log()).await?;
    let log_again = log.try_clone().map_err(|error| Failure::io("share the log", &folder.log(), &error))?;

    let probed = if engine.port == Port::Probed { Some(free_port()?) } else { None };
    let values = values(shared, request, plan, &folder, probed);
    let arguments = engine.arguments(&values);
    let words: Vec<_> = arguments.iter().map(|word| word.to_string_lossy()).collect();
    n!("worker_command", "Running {} {}", engine.program.display(), words.join(" "));

    let secret = Secret::random();
    let mut command = spawn::command(&engine.program);
    command.args(&arguments).stdout(log).stderr(log_again);
    // Settings of the daemon's environment would get past the list of those that are allowed.
    for (variable, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("LLAMA_"))
    {
        command.env_remove(variable);
    }
    command.envs(engine.variables(&values));
    for variable in KEPT_FROM_WORKERS {
        command.env_remove(variable);
    }
    command.env(&engine.secret_variable, secret.expose()).env(MARKER, &worker_id);
    // From here to the owner there is no await: a process always gets its owner.
    let processes = match Group::spawn(&mut command) {
        Ok(group) => Processes::Own(group),
        Err(error) => {
            folder.discard();
            return Err(Failure::new(
                Code::WorkerFailed,
                format!("{} of engine '{}' could not be run: {error}", engine.program.display(), engine.name),
            )
            .hint("check that the program is there and may be executed")
            .stage("start"));
        }
    };
    let (controls, inbox) = mpsc::unbounded_channel();
    let handle = Arc::new(Handle {
        worker_id,
        pid: processes.id(),
        model_id: request.model_id.clone(),
        request: request.clone(),
        device,
        engine,
        probed,
        needs_bytes: plan.needs_bytes(),
        oom_kills_before: oom_kills(),
        adopted: false,
        crashes,
        given_up: CancellationToken::new(),
        secret,
        folder,
        started_at: Timestamp::now(),
        started: Instant::now(),
        controls,
        state: watch::Sender::new(State { stage: Stage::Starting, port: None, end: None, ended: None }),
        traffic: watch::Sender::new(Traffic::default()),
        measures: Mutex::new(Measures::default()),
    });
    let admitted = shared.registry.insert(&handle);
    let owner = Owner { processes, handle: Arc::clone(&handle), controls: inbox, shared: Arc::clone(shared) };
    spawn::detached(owner.run());
    if let Err(closed) = admitted {
        handle.control(Control::Stop { grace: ABANDON_GRACE, reason: Reason::Load });
        handle.ended().await;
        return Err(closed);
    }
    n!("worker_spawn", "Worker {} runs; its log is {}", handle.pid, handle.folder.log().display());
    Ok(handle)
}

/// Runs work on the disk off the runtime's threads.
async fn on_disk<R: Send + 'static>(work: impl FnOnce() -> Result<R> + Send + 'static) -> Result<R> {
    spawn::blocking(work)
        .await
        .unwrap_or_else(|error| Err(Failure::internal("could not prepare a worker").detail(error)))
}
