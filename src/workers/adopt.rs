//! At the start of the hive: taking over the workers that an earlier run of it left behind, and
//! ending those that it cannot take over.
//!
//! A worker is taken over where everything fits: its record is from this run of the system, its
//! process is the very one that was written down, it was ready, its engine is known here, and the
//! port is held by its group. What fits only in part is ended, and what is no worker (any more) is
//! left alone: a process is signalled only where its start time or the mark in its environment
//! says that it is one of this hive's.

use std::collections::{HashMap, HashSet};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use parking_lot::Mutex;
use serde::Serialize;
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

use super::adopted::{Adopted, sweep};
use super::folder::Folder;
use super::handle::{Handle, Measures, Secret, Stage, State, Traffic};
use super::health::Counters;
use super::identity::{self, Identity};
use super::owner::Owner;
use super::process::{Processes, oom_kills};
use super::record::{self, Record};
use super::registry::Cause;
use super::socket_owner;
use super::supervisor::Shared;
use crate::spawn;

/// What was found of an earlier run of the hive.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Adoption {
    /// The process ids of the workers that were taken over.
    pub adopted: Vec<u32>,
    /// The process ids of those that were ended, and why.
    pub ended: Vec<(u32, String)>,
    /// Records of workers that were gone already.
    pub stale: usize,
    /// Processes of those, without a leader, that were ended.
    pub orphans: usize,
    /// Processes that are still there 5 s after they were killed.
    pub stuck: usize,
    /// Why nothing could be taken over at all.
    pub refused: Option<String>,
}

/// What to do about one record.
enum Verdict {
    Adopt(Adopted, u16),
    End(Adopted, String),
    Stale(String),
}

/// Takes over what there is. Told to `tracing` and to the readers of workers' news.
pub(super) async fn adopt(shared: &Arc<Shared>) -> Adoption {
    let mut report = Adoption::default();
    let workers = shared.workers_dir.clone();
    let records = match spawn::blocking(move || record::read_all(&workers)).await {
        Ok(Ok(records)) => records,
        Ok(Err(error)) if error.kind() == std::io::ErrorKind::NotFound => return report,
        Ok(Err(error)) => {
            let folder = shared.workers_dir.display();
            tracing::warn!(%folder, %error, "no worker of an earlier run was taken over");
            report.refused = Some(format!("{folder}: {error}"));
            return report;
        }
        Err(error) => {
            tracing::error!(%error, "reading the records of workers panicked");
            return report;
        }
    };
    let mut taken = HashSet::new();
    for (path, record) in records {
        let folder = Folder::of_earlier(path);
        match record {
            Ok(record) => {
                let id = record.worker_id.clone();
                if one(shared, folder, record, &mut report).await {
                    taken.insert(id);
                }
            }
            Err(error) => {
                tracing::warn!(path = %folder.record().display(), %error, "a worker's record is not one");
                report.stale += 1;
                folder.forget();
            }
        }
    }
    sweep_up(shared, &taken, &mut report).await;
    if report.adopted.len() + report.ended.len() + report.stale + report.orphans > 0 {
        let Adoption { adopted, ended, stale, orphans, stuck, .. } = &report;
        let (adopted, ended) = (adopted.len(), ended.len());
        tracing::info!(
            adopted,
            ended,
            stale,
            orphans,
            stuck,
            "looked for workers of an earlier run of this hive"
        );
    }
    report
}

/// Deals with one record; tells whether its worker was taken over.
async fn one(shared: &Arc<Shared>, folder: Folder, record: Record, report: &mut Adoption) -> bool {
    let pid = record.process.pid;
    match judge(shared, &record).await {
        Verdict::Adopt(processes, port) => {
            install(shared, folder, record, processes, port);
            report.adopted.push(pid);
            true
        }
        Verdict::End(processes, why) => {
            tracing::warn!(pid, model = record.request.model_id, why, "ending a worker of an earlier run");
            let end = processes.end().await;
            report.stuck += usize::from(!end.processes_gone());
            report.ended.push((pid, why));
            if end.processes_gone() {
                folder.forget();
            }
            false
        }
        Verdict::Stale(why) => {
            tracing::debug!(pid, model = record.request.model_id, why, "a worker of an earlier run is gone");
            report.stale += 1;
            folder.forget();
            false
        }
    }
}

async fn judge(shared: &Arc<Shared>, record: &Record) -> Verdict {
    if record.is_from_an_earlier_boot() {
        return Verdict::Stale("the machine was started anew since".to_owned());
    }
    let processes = match Adopted::take(record.process, &record.worker_id) {
        Ok(Some(processes)) => processes,
        Ok(None) => return Verdict::Stale("its process has ended".to_owned()),
        Err(error) => return Verdict::Stale(format!("it could not be taken hold of: {error}")),
    };
    if !record.ready {
        return Verdict::End(processes, "it was not ready when its hive ended".to_owned());
    }
    let Some(port) = record.port else {
        return Verdict::End(processes, "nobody knows where it listens".to_owned());
    };
    if !shared.engines().await.iter().any(|engine| engine.name == record.engine) {
        return Verdict::End(processes, format!("its engine '{}' is not known here any more", record.engine));
    }
    let group = processes.id();
    match spawn::blocking(move || socket_owner::verify(group, port)).await {
        Ok(Ok(())) => Verdict::Adopt(processes, port),
        Ok(Err(what)) => Verdict::End(processes, format!("its port {port} {what}")),
        Err(error) => Verdict::End(processes, error.to_string()),
    }
}

/// Gives the worker a handle and an owner.
fn install(shared: &Arc<Shared>, folder: Folder, record: Record, processes: Adopted, port: u16) {
    let Some(engine) = shared.known_engine(&record.engine) else { return };
    let (controls, inbox) = mpsc::unbounded_channel();
    let lived = Timestamp::now().duration_since(record.started_at);
    let lived = Duration::try_from(lived).unwrap_or_default();
    // Until it is asked, and for engines that do not tell.
    let counters = Counters { slots: record.request.slots.unwrap_or(1), ..Counters::default() };
    let handle = Arc::new(Handle {
        worker_id: record.worker_id,
        pid: record.process.pid,
        model_id: record.request.model_id.clone(),
        request: record.request,
        device: record.device,
        engine,
        probed: None,
        needs_bytes: 0,
        oom_kills_before: oom_kills(),
        adopted: true,
        crashes: 0,
        given_up: CancellationToken::new(),
        secret: Secret::recalled(&record.secret),
        folder,
        started_at: record.started_at,
        started: Instant::now().checked_sub(lived).unwrap_or_else(Instant::now),
        controls,
        state: watch::Sender::new(State { stage: Stage::Ready, port: Some(port), end: None, ended: None }),
        traffic: watch::Sender::new(Traffic { open: true, ..Traffic::default() }),
        measures: Mutex::new(Measures { counters, ..Measures::default() }),
    });
    if shared.registry.insert(&handle).is_err() {
        // The hive stops already: the worker is the next one's.
        return;
    }
    let message = format!(
        "worker {} of '{}' was taken over from an earlier run of the hive; it serves on port {port}",
        handle.pid, handle.model_id
    );
    tracing::info!(pid = handle.pid, model = handle.model_id, port, "took over a worker of an earlier run");
    shared.registry.updated_because(&handle, Cause::Adopted, message);
    let processes = Processes::Adopted(processes);
    spawn::detached(Owner { processes, handle, controls: inbox, shared: Arc::clone(shared) }.run());
}

/// Looks for processes that a worker left behind so often at most.
const SWEEPS: usize = 3;

/// Ends processes that bear the mark of a worker of this hive which was not taken over: those that
/// a worker left behind, and a worker whose hive was killed before it could write it down. One that
/// is just becoming another program shows no environment, so after a find there is another look.
async fn sweep_up(shared: &Arc<Shared>, taken: &HashSet<String>, report: &mut Adoption) {
    for _ in 0..SWEEPS {
        let (workers, taken) = (shared.workers_dir.clone(), taken.clone());
        let found = spawn::blocking(move || left_behind(&workers, &taken)).await.unwrap_or_default();
        if found.is_empty() {
            return;
        }
        for (worker_id, processes) in found {
            let pids: Vec<u32> = processes.iter().map(|process| process.pid).collect();
            tracing::warn!(worker_id, ?pids, "ending processes that a worker of an earlier run left behind");
            report.orphans += processes.len();
            report.stuck += sweep(&processes, &worker_id).await;
        }
        if report.stuck > 0 {
            return;
        }
    }
}

/// The processes of this hive's workers, but for those that were taken over. Blocks.
fn left_behind(workers: &Path, taken: &HashSet<String>) -> HashMap<String, Vec<Identity>> {
    let mut found: HashMap<String, Vec<Identity>> = HashMap::new();
    let folders: HashSet<String> = std::fs::read_dir(workers)
        .map(|entries| entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok()).collect())
        .unwrap_or_default();
    if folders.iter().all(|name| taken.contains(name)) {
        return found;
    }
    for (identity, worker_id) in identity::marked() {
        if folders.contains(&worker_id) && !taken.contains(&worker_id) {
            found.entry(worker_id).or_default().push(identity);
        }
    }
    found
}
