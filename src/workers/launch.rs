//! Starts the process of a worker and the owner of that process.

use std::ffi::OsString;
use std::io;
use std::sync::Arc;

use jiff::Timestamp;
use uuid::Uuid;

use super::causes;
use super::child::ChildGroup;
use super::device::Device;
use super::engines::PortSource;
use super::environment;
use super::folder::WorkerFolder;
use super::handle::{Handle, NewWorker, Origin};
use super::identity::MARKER;
use super::owner::Owner;
use super::plan::StartPlan;
use super::processes::Processes;
use super::registry::removed;
use super::request::StartRequest;
use super::sandbox::{Allowed, Sandbox};
use super::secret::Secret;
use super::shared::Shared;
use super::start_error::StartError;
use super::state::{Control, StopReason};
use crate::config::DeviceKind;
use crate::error::{Code, Failure, Result};
use crate::models::other_parts;
use crate::{n, spawn};

/// More layers than any model has.
const ALL_LAYERS: u32 = 999;

/// Starts the process of a worker and its owner.
pub(super) async fn launch(
    shared: &Arc<Shared>,
    request: &StartRequest,
    plan: &StartPlan,
    crashes: u32,
) -> Result<Arc<Handle>, StartError> {
    let engine = Arc::clone(&plan.engine);
    let worker_id = format!("worker-{}", Uuid::now_v7());
    let live = shared.registry.all().iter().map(|worker| worker.worker_id.clone()).collect();
    let (workers_dir, id) = (shared.workers_dir.clone(), worker_id.clone());
    let (folder, log) = spawn::blocking(move || {
        let folder = WorkerFolder::create(&workers_dir, &id, &live)?;
        let log = folder.open_log()?;
        Ok::<_, Failure>((folder, log))
    })
    .await??;
    let log_again = log.try_clone().map_err(|error| Failure::io("share the log", &folder.log(), &error))?;

    let assigned_port = if engine.port == PortSource::Assigned { Some(free_port()?) } else { None };
    let sandbox = sandbox(shared, request, plan, &folder, assigned_port).await?;
    let values = values(shared, request, plan, &folder, assigned_port);
    let arguments = engine.arguments(&values);
    let words: Vec<_> = arguments.iter().map(|word| word.to_string_lossy()).collect();
    n!("worker_command", "Running {} {}", engine.program.display(), words.join(" "));

    let secret = Secret::random();
    let mut command = spawn::command(&engine.program);
    command.args(&arguments).stdout(log).stderr(log_again);
    let kept_back = environment::keep_secrets(&mut command);
    if !kept_back.is_empty() {
        let names: Vec<_> = kept_back.iter().map(|name| name.to_string_lossy()).collect();
        n!(debug: "worker_environment", "Kept from the worker's environment: {}", names.join(", "));
    }
    // Of all folders for temporary files, this is the one that it can use.
    let temporary = sandbox.as_ref().map(|_| (environment::TEMPORARY, folder.work()));
    command.envs([environment::CUDA_ORDER]).envs(temporary).envs(engine.variables(&values));
    command.env(&engine.secret_variable, secret.expose()).env(MARKER, &worker_id);
    // From here to the owner there is no await, so that every process gets its owner.
    let mut in_force = None;
    let spawned = ChildGroup::spawn_by(&mut command, |command| match sandbox {
        Some(sandbox) => {
            let (restricted, spawned) = sandbox.start(|| command.spawn());
            in_force = Some(restricted);
            spawned
        }
        None if shared.settings().no_new_privileges => {
            spawn::without_new_privileges(|| command.spawn()).flatten()
        }
        None => command.spawn(),
    });
    match &in_force {
        Some(Ok(what)) => n!(debug: "worker_sandbox", "The worker runs with {what}"),
        Some(Err(why)) => {
            n!("worker_sandbox", "The worker's files, TCP and signals are not restricted: {why}");
        }
        // The settings say so, or HiveCheck says why.
        None => {}
    }
    let is_restricted = matches!(in_force, Some(Ok(_)));
    let processes = match spawned {
        Ok(group) => Processes::Own(group),
        Err(error) => {
            folder.discard();
            if engine.build.is_some() && !engine.program.exists() {
                return Err(removed(&engine));
            }
            let failure = Failure::new(
                Code::WorkerFailed,
                format!("{} of engine '{}' could not be run: {error}", engine.program.display(), engine.name),
            )
            .hint(format!(
                "check that the program, and the interpreter that its first line may name, are there and may be \
                 executed; the setting {} names it{}",
                engine.setting,
                causes::or_the_sandbox(is_restricted && error.kind() == io::ErrorKind::PermissionDenied)
            ))
            .stage("start");
            return Err(StartError::temporary(failure));
        }
    };
    let (handle, inbox) = Handle::new(NewWorker {
        worker_id,
        pid: processes.id(),
        request: StartRequest { place: None, ..request.clone() },
        context_length: engine.has_context().then_some(plan.context),
        device: plan.place.device,
        split: plan.place.split.clone(),
        needs: plan.place.needs(),
        engine,
        secret,
        folder,
        started_at: Timestamp::now(),
        origin: Origin::Started { assigned_port, crashes, is_restricted },
    });
    let admitted = shared.registry.insert(&handle);
    Owner::spawn(processes, Arc::clone(&handle), inbox, Arc::clone(shared));
    if let Err(refused) = admitted {
        handle.control(Control::Stop { grace: shared.abandon_grace(), reason: StopReason::FailedStart });
        handle.ended().await;
        return Err(refused);
    }
    n!("worker_spawn", "Worker {} runs; its log is {}", handle.pid, handle.folder.log().display());
    Ok(handle)
}

/// Prepares the restriction of a worker; `None` where it gets none.
async fn sandbox(
    shared: &Shared,
    request: &StartRequest,
    plan: &StartPlan,
    folder: &WorkerFolder,
    port: Option<u16>,
) -> Result<Option<Sandbox>> {
    let engine = &plan.engine;
    if !shared.settings().restricts() || engine.unrestricted().is_some() {
        return Ok(None);
    }
    let further = [&plan.projector, &request.chat_template].into_iter().flatten();
    let mut reads: Vec<_> = further.chain([&request.model_path]).cloned().collect();
    reads.extend(other_parts(&request.model_path));
    let allowed = Allowed {
        program: engine.program.clone(),
        reads,
        words: engine.arguments.iter().chain(engine.environment.values()).cloned().collect(),
        writes: vec![folder.work(), folder.log()],
        port,
        gpus: plan.place.device.kind().filter(|kind| *kind != DeviceKind::Cpu),
    };
    Sandbox::prepare(allowed).await.map(Some)
}

/// The values for the placeholders of an engine.
fn values(
    shared: &Shared,
    request: &StartRequest,
    plan: &StartPlan,
    folder: &WorkerFolder,
    port: Option<u16>,
) -> Vec<(&'static str, Option<OsString>)> {
    let number = |value: Option<u64>| value.map(|value| OsString::from(value.to_string()));
    let (engine, place, device) = (&plan.engine, &plan.place, plan.place.device);
    let slots = request.slots.map(u64::from);
    let index = match device {
        Device::Exact { index, .. } => Some(u64::from(index)),
        _ => None,
    };
    let gpu_layers = match place.split.is_empty() {
        true if device.is_cpu() => 0,
        true => engine.gpu_layers.unwrap_or(ALL_LAYERS),
        false => place.layers_on_gpus().map(|share| share.layers).sum(),
    };
    let gpus: Vec<_> = place.layers_on_gpus().collect();
    let tensor_split = gpus.iter().map(|share| share.layers.to_string()).collect::<Vec<_>>().join(",");
    let own_device = if gpus.len() > 1 {
        let names = gpus.iter().map(|share| engine.own_name(share.device));
        names.collect::<Option<Vec<_>>>().map(|names| names.join(","))
    } else {
        engine.own_name(device).map(str::to_owned)
    };
    // A worker on a GPU computes little on the processor, so the engine chooses.
    let threads =
        engine.threads.map(u64::from).or(device.is_cpu().then(|| shared.settings().threads() as u64));
    vec![
        ("model_id", Some(request.served_id().into())),
        ("model", Some(request.model_path.clone().into())),
        ("projector", plan.projector.clone().map(OsString::from)),
        ("report", Some(folder.report().into())),
        ("port", number(port.map(u64::from))),
        ("device", Some(device.to_string().into())),
        ("device_index", number(index)),
        ("own_device", own_device.map(OsString::from)),
        ("gpu_layers", number(Some(u64::from(gpu_layers)))),
        ("tensor_split", (gpus.len() > 1).then(|| tensor_split.into())),
        ("context", number(Some(plan.context))),
        ("context_length", number(request.context_length)),
        ("context_of_all_slots", number(Some(plan.context.saturating_mul(slots.unwrap_or(1))))),
        ("slots", number(Some(slots.unwrap_or(1)))),
        ("threads", number(threads)),
        ("chat_template", request.chat_template.clone().map(OsString::from)),
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
