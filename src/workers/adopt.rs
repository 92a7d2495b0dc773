//! At the start of the hive: adopts the workers of an earlier run, and ends those that it cannot adopt.
//!
//! A worker is adopted if its record is from this boot of the system, its process is the one in the
//! record, it was ready, its engine is installed, and its own group holds its port. If only some of
//! this is true, the worker is ended. One that had served and is gone is listed as crashed. A process
//! is signalled only if its start time or the marker in its environment shows that it belongs to one of
//! this hive's workers. A worker whose record has a newer version is left alone, together with its
//! record.

use std::collections::{HashMap, HashSet};
use std::io;
use std::path::Path;
use std::sync::Arc;

use serde::Serialize;

use super::adopted::{AdoptedGroup, kill_marked};
use super::engines::Engine;
use super::folder::WorkerFolder;
use super::handle::{Handle, NewWorker, Origin};
use super::identity::{self, Identity};
use super::owner::Owner;
use super::processes::Processes;
use super::record::{self, FORMAT_VERSION, StoredRecord, WorkerRecord};
use super::registry::Cause;
use super::secret::Secret;
use super::shared::Shared;
use super::socket_owner;
use crate::spawn;

/// What became of the workers of an earlier run of the hive.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Adoption {
    /// The process ids of the workers that were adopted.
    pub adopted: Vec<u32>,
    /// The process ids of the workers that were ended, and why.
    pub ended: Vec<(u32, String)>,
    /// Workers that were left alone, because a newer version of the hive wrote their records.
    pub newer: Vec<NewerWorker>,
    /// The process ids of the workers that had served and ended while no hive ran: they are listed as
    /// crashed.
    pub died: Vec<u32>,
    /// How many records of workers that were gone already were removed.
    pub stale: usize,
    /// The records that could not be read. Their workers were ended, and the files are kept.
    pub damaged: Vec<String>,
    /// How many processes without a leader were ended.
    pub orphans: usize,
    /// How many processes were still there 5 s after they were killed.
    pub stuck: usize,
    /// Why no records could be read at all.
    pub refused: Option<String>,
}

/// A worker whose record a newer version of the hive wrote.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct NewerWorker {
    /// The process id, where this hive could find it in the record.
    pub pid: Option<u32>,
    /// The file of the record.
    pub record: String,
    /// The version of the record, as it is written there.
    pub version: String,
}

/// What to do about one record.
enum Verdict {
    Adopt {
        group: AdoptedGroup,
        engine: Arc<Engine>,
        port: u16,
    },
    End(AdoptedGroup, String),
    /// It had served, and ended while no hive ran.
    Died(Arc<Engine>),
    Stale(String),
}

/// Adopts or ends the workers of an earlier run. Reports to `tracing` and to the readers of the
/// registry's changes.
pub(super) async fn adopt(shared: &Arc<Shared>) -> Adoption {
    let mut adoption = Adoption::default();
    let workers = shared.workers_dir.clone();
    let look = move || -> io::Result<_> {
        let folders = WorkerFolder::all(&workers)?;
        folders.iter().for_each(WorkerFolder::remove_drafts);
        Ok(record::read_all(folders))
    };
    let records = match spawn::blocking(look).await {
        Ok(Ok(records)) => records,
        Ok(Err(error)) if error.kind() == io::ErrorKind::NotFound => return adoption,
        Ok(Err(error)) => {
            let folder = shared.workers_dir.display();
            tracing::warn!(%folder, %error, "no worker of an earlier run was adopted");
            adoption.refused = Some(format!("{folder}: {error}"));
            return adoption;
        }
        Err(failure) => {
            tracing::error!(%failure, detail = ?failure.detail, "could not read the records of workers");
            return adoption;
        }
    };
    // The workers whose processes must not be swept up.
    let mut spared = HashSet::new();
    for (folder, record) in records {
        let file = folder.record();
        match record {
            Ok(StoredRecord::Readable(record)) => {
                let worker_id = record.worker_id.clone();
                if settle(shared, folder, *record, &mut adoption).await {
                    spared.insert(worker_id);
                }
            }
            Ok(StoredRecord::Newer { version, pid }) => {
                tracing::warn!(
                    path = %file.display(), version, readable = FORMAT_VERSION, pid,
                    "left a worker alone: a newer version of the hive wrote its record"
                );
                adoption.newer.push(NewerWorker { pid, record: file.display().to_string(), version });
                spared.insert(folder.worker_id());
            }
            Err(error) => {
                tracing::warn!(
                    path = %file.display(), %error,
                    "the record of a worker cannot be read: the worker is ended, and the file is kept"
                );
                let is_damaged = matches!(
                    error.kind(),
                    io::ErrorKind::InvalidData | io::ErrorKind::UnexpectedEof | io::ErrorKind::FileTooLarge
                );
                let kept_as = if is_damaged { folder.set_record_aside() } else { file };
                adoption.damaged.push(kept_as.display().to_string());
            }
        }
    }
    sweep_up(shared, &spared, &mut adoption).await;
    let Adoption { adopted, ended, newer, died, stale, orphans, stuck, .. } = &adoption;
    let (adopted, ended, newer, died) = (adopted.len(), ended.len(), newer.len(), died.len());
    if adopted + ended + newer + died + stale + orphans > 0 {
        tracing::info!(
            adopted,
            ended,
            died,
            newer,
            stale,
            orphans,
            stuck,
            "looked for workers of an earlier run of this hive"
        );
    }
    adoption
}

/// Acts on one record. Returns whether its worker was adopted.
async fn settle(
    shared: &Arc<Shared>,
    folder: WorkerFolder,
    record: WorkerRecord,
    adoption: &mut Adoption,
) -> bool {
    let pid = record.process.pid;
    match judge(shared, &record).await {
        Verdict::Adopt { group, engine, port } => {
            take_over(shared, folder, record, group, engine, port);
            adoption.adopted.push(pid);
            true
        }
        Verdict::End(group, reason) => {
            tracing::warn!(pid, model = record.request.model_id, reason, "ending a worker of an earlier run");
            let end = group.end().await;
            adoption.stuck += usize::from(!end.processes_gone());
            adoption.ended.push((pid, reason));
            if end.processes_gone() {
                folder.remove_record();
            }
            false
        }
        Verdict::Died(engine) => {
            folder.remove_record();
            list_dead(shared, folder, record, engine);
            adoption.died.push(pid);
            false
        }
        Verdict::Stale(reason) => {
            tracing::debug!(
                pid,
                model = record.request.model_id,
                reason,
                "a worker of an earlier run is gone"
            );
            adoption.stale += 1;
            folder.remove_record();
            false
        }
    }
}

async fn judge(shared: &Arc<Shared>, record: &WorkerRecord) -> Verdict {
    if record.is_from_an_earlier_boot() {
        return Verdict::Stale("the machine was rebooted since".to_owned());
    }
    let group = match AdoptedGroup::hold(record.process, &record.worker_id) {
        Ok(Some(group)) => group,
        // With a lifeline it ended with its hive, as the settings ask for.
        Ok(None) if record.ready && !record.trial && !shared.settings().lifeline => {
            return engine_of(shared, record).await.map_or_else(
                || {
                    Verdict::Stale(format!(
                        "it ended, and its engine '{}' is not installed any more",
                        record.engine
                    ))
                },
                Verdict::Died,
            );
        }
        Ok(None) => return Verdict::Stale("its process has ended".to_owned()),
        Err(error) => return Verdict::Stale(format!("its process could not be held: {error}")),
    };
    if record.trial {
        return Verdict::End(group, "it tried an engine for a hive that has ended".to_owned());
    }
    if !record.ready {
        return Verdict::End(group, "it was not ready when its hive ended".to_owned());
    }
    let Some(port) = record.port else {
        return Verdict::End(group, "its record has no port".to_owned());
    };
    let Some(engine) = engine_of(shared, record).await else {
        return Verdict::End(group, format!("its engine '{}' is not installed any more", record.engine));
    };
    let id = group.id();
    match spawn::blocking(move || socket_owner::verify(id, port)).await {
        Ok(Ok(())) => Verdict::Adopt { group, engine, port },
        Ok(Err(problem)) => Verdict::End(group, format!("its port {port} {problem}")),
        Err(failure) => Verdict::End(group, failure.message),
    }
}

/// The engine that a worker runs: the one of that name, with the program that the worker was started with. A build that
/// was installed meanwhile changes nothing for it.
async fn engine_of(shared: &Shared, record: &WorkerRecord) -> Option<Arc<Engine>> {
    let found = shared.found_engines().await;
    let engine = found.installed.iter().find(|engine| engine.name == record.engine)?;
    Some(match &record.program {
        Some(program) if *program != engine.program => Arc::new(engine.of_another_build(program)),
        _ => Arc::clone(engine),
    })
}

/// What a record tells of a worker.
fn of_record(record: WorkerRecord, folder: WorkerFolder, engine: Arc<Engine>, origin: Origin) -> NewWorker {
    NewWorker {
        worker_id: record.worker_id,
        pid: record.process.pid,
        request: record.request,
        context_length: record.context_length,
        device: record.device,
        split: record.split,
        needs: Vec::new(),
        engine,
        secret: Secret::from_record(&record.secret),
        folder,
        started_at: record.started_at,
        origin,
    }
}

/// Makes the handle and the owner of an adopted worker.
fn take_over(
    shared: &Arc<Shared>,
    folder: WorkerFolder,
    record: WorkerRecord,
    group: AdoptedGroup,
    engine: Arc<Engine>,
    port: u16,
) {
    let (handle, inbox) = Handle::new(of_record(record, folder, engine, Origin::Adopted { port }));
    if shared.registry.insert(&handle).is_err() {
        // The hive is stopping already: its next run adopts the worker.
        return;
    }
    let message = format!(
        "worker {} of '{}' was adopted from an earlier run of the hive; it serves on port {port}",
        handle.pid,
        handle.model_id()
    );
    tracing::info!(pid = handle.pid, model = handle.model_id(), port, "adopted a worker of an earlier run");
    shared.registry.updated_because(&handle, Cause::Adopted, message);
    Owner::spawn(Processes::Adopted(group), handle, inbox, Arc::clone(shared));
}

/// Lists a worker that ended while no hive ran as a crashed one, and does with it what is done with those.
fn list_dead(shared: &Arc<Shared>, folder: WorkerFolder, record: WorkerRecord, engine: Arc<Engine>) {
    let (pid, model) = (record.process.pid, record.request.model_id.clone());
    let message = format!("worker {pid} of '{model}' ended while no hive ran; its log may show why");
    tracing::warn!(pid, model, log = %folder.log().display(), "{message}");
    // The owner's side of the controls: nobody owns a worker that is gone.
    let (handle, _no_owner) = Handle::new(of_record(record, folder, engine, Origin::Ended));
    if shared.registry.insert(&handle).is_err() {
        // The hive is stopping already.
        return;
    }
    shared.registry.updated_because(&handle, Cause::Crash, message);
    shared.registry.bound_crashed();
    (shared.after_crash)(Arc::clone(shared), handle);
}

/// The most searches for processes that a worker left behind.
const MAX_SWEEPS: usize = 3;

/// Ends processes with the marker of a worker of this hive that is not spared: processes that a worker
/// left behind, and a worker whose hive was killed before it wrote the record. A process shows no
/// environment while it executes another program, so a search that finds some is repeated.
async fn sweep_up(shared: &Arc<Shared>, spared: &HashSet<String>, adoption: &mut Adoption) {
    for _ in 0..MAX_SWEEPS {
        let (workers, spared) = (shared.workers_dir.clone(), spared.clone());
        let found = spawn::blocking(move || left_behind(&workers, &spared)).await.unwrap_or_default();
        if found.is_empty() {
            return;
        }
        for (worker_id, processes) in found {
            let pids: Vec<u32> = processes.iter().map(|process| process.pid).collect();
            tracing::warn!(worker_id, ?pids, "ending processes that a worker of an earlier run left behind");
            adoption.orphans += processes.len();
            adoption.stuck += kill_marked(&processes, &worker_id).await;
        }
        if adoption.stuck > 0 {
            return;
        }
    }
}

/// The processes of this hive's workers that are not spared, by the worker's id. Blocks.
fn left_behind(workers: &Path, spared: &HashSet<String>) -> HashMap<String, Vec<Identity>> {
    let mut found: HashMap<String, Vec<Identity>> = HashMap::new();
    let ids: HashSet<String> = std::fs::read_dir(workers)
        .map(|entries| entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok()).collect())
        .unwrap_or_default();
    if ids.iter().all(|id| spared.contains(id)) {
        return found;
    }
    for (identity, worker_id) in identity::marked() {
        if ids.contains(&worker_id) && !spared.contains(&worker_id) {
            found.entry(worker_id).or_default().push(identity);
        }
    }
    found
}
