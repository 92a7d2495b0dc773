//! Workers that one supervisor leaves running and the next one adopts, ends or leaves alone.

use std::net::TcpListener;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::Path;

use rustix::process::Signal;

use super::super::folder::WorkerFolder;
use super::super::identity::Identity;
use super::*;
use crate::spawn;

/// Settings that leave ready workers running for the next supervisor.
pub(super) fn leave_workers(config: &mut Config) {
    config.workers.lifeline = false;
    config.workers.keep_on_shutdown = true;
}

/// Ends a supervisor as a stop of the hive does, then starts another on the same folder. `between` runs
/// between the two.
pub(super) async fn restart_hive(hive: Hive, between: impl FnOnce()) -> Hive {
    let Hive { workers, mut config, folder, .. } = hive;
    workers.stop_all(LONG).await;
    drop(workers);
    config.workers.keep_on_shutdown = false;
    between();
    let store = EngineStore::open(config.engines_dir());
    let workers = Supervisor::new(&config, store.clone()).unwrap();
    let changes = workers.changes();
    workers.adopt().await;
    Hive { workers, store, config, changes, folder }
}

#[tokio::test]
async fn workers_left_running_are_adopted_and_proven_gone_when_stopped() {
    let hive = Hive::with(leave_workers);
    let (one, other) = (hive.start("healthy").await.unwrap(), hive.start("family").await.unwrap());
    let secret = hive.workers.secret(one.pid).unwrap().expose().to_owned();
    let mut hive = restart_hive(hive, || {}).await;
    let listed: Vec<_> = hive.workers.list().iter().map(|worker| (worker.pid, worker.port)).collect();
    assert_eq!(listed, [(one.pid, one.port), (other.pid, other.port)]);
    assert_eq!(hive.workers.adoption().unwrap().adopted, [one.pid, other.pid]);
    let again = hive.workers.get(one.pid).unwrap();
    assert_eq!((again.worker_id, again.started_at), (one.worker_id.clone(), one.started_at.clone()));
    assert_eq!(again.status, Status::Ready);
    assert_eq!(hive.workers.endpoint("healthy", &Preference::default()).unwrap().secret.expose(), secret);
    let adopted = change(&mut hive.changes, |change| change.cause == Some(Cause::Adopted)).await;
    assert_eq!(adopted.worker.pid, one.pid);
    hive.workers.refresh().await;
    assert_eq!(hive.workers.get(one.pid).unwrap().tokens_generated, 99);

    let (stopped, narrations) = narrated(hive.workers.stop(other.pid, LONG)).await;
    let stopped = stopped.unwrap();
    assert_eq!((stopped.exit_code, stopped.signal), (None, None), "only a parent learns how a process ended");
    assert!(has_narration(&narrations, "worker_gone", "unknown"), "{narrations:#?}");
    assert!(gone(other.pid), "its children end too");

    // A crash of an adopted worker is noticed; how it ended is unknown.
    signal(one.pid, Signal::KILL);
    let crashed = hive.worker_with(Status::Crashed).await;
    assert!(crashed.last_exit.unwrap().starts_with("unknown"));
    let records = record::read_all(WorkerFolder::all(&hive.config.workers_dir()).unwrap());
    assert!(records.is_empty(), "{records:?}");
    hive.finish().await;
}

#[tokio::test]
async fn workers_whose_records_do_not_match_are_ended() {
    let hive = Hive::with(leave_workers);
    let (moved, unready) = (hive.start("healthy").await.unwrap(), hive.start("family").await.unwrap());
    let folder = hive.config.workers_dir();
    let record = |worker: &Worker| folder.join(&worker.worker_id).join("record.json");
    // Its record names the port of another process, which must get no request.
    let other = TcpListener::bind("127.0.0.1:0").unwrap();
    alter(&record(&moved), |record| record["port"] = other.local_addr().unwrap().port().into());
    alter(&record(&unready), |record| record["ready"] = false.into());
    let hive = restart_hive(hive, || {}).await;
    assert!(hive.workers.list().is_empty());
    let found = hive.workers.adoption().unwrap();
    let reasons: Vec<_> = found.ended.iter().map(|(pid, reason)| (*pid, &reason[..8])).collect();
    assert_eq!(reasons, [(moved.pid, "its port"), (unready.pid, "it was n")]);
    assert_eq!((found.stuck, found.adopted.len()), (0, 0));
    assert!(gone(moved.pid) && gone(unready.pid));
    hive.finish().await;
}

#[tokio::test]
async fn a_worker_that_ended_while_no_hive_ran_is_listed_as_crashed() {
    let hive = Hive::with(leave_workers);
    let (one, other) = (hive.start("healthy").await.unwrap(), hive.start("family").await.unwrap());
    let mut hive = restart_hive(hive, || {
        signal(one.pid, Signal::KILL);
        while !gone(one.pid) {
            std::thread::sleep(POLL);
        }
    })
    .await;
    let found = hive.workers.adoption().unwrap();
    assert_eq!((&found.died[..], &found.adopted[..]), (&[one.pid][..], &[other.pid][..]));
    let crashed = hive.workers.get(one.pid).unwrap();
    assert_eq!((&crashed.worker_id, crashed.status), (&one.worker_id, Status::Crashed));
    assert_eq!(crashed.last_exit.as_deref(), Some("unknown: it ended while no hive ran"));
    let told = change(&mut hive.changes, |change| change.cause == Some(Cause::Crash)).await;
    assert!(told.message.unwrap().contains("ended while no hive ran"));
    assert!(hive.workers.log(one.pid).unwrap().exists(), "its log can be read");
    hive.workers.stop(one.pid, LONG).await.unwrap();
    assert_eq!(hive.pids(), [other.pid]);
    hive.finish().await;
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn a_worker_without_a_record_is_ended_by_its_marker() {
    let hive = Hive::with(leave_workers);
    let worker = hive.start("family").await.unwrap();
    let folder = hive.config.workers_dir().join(&worker.worker_id);
    let hive = restart_hive(hive, || std::fs::remove_file(folder.join("record.json")).unwrap()).await;
    let found = hive.workers.adoption().unwrap();
    assert_eq!((found.orphans, found.stuck), (2, 0), "{found:?}");
    assert!(gone(worker.pid));
    hive.finish().await;
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn a_worker_whose_record_is_damaged_is_ended_and_the_record_kept() {
    for damaged in ["{\"version\":1,".to_owned(), " ".repeat(1 << 20)] {
        let hive = Hive::with(leave_workers);
        let worker = hive.start("family").await.unwrap();
        let record = hive.config.workers_dir().join(&worker.worker_id).join("record.json");
        let hive = restart_hive(hive, || std::fs::write(&record, &damaged).unwrap()).await;
        let found = hive.workers.adoption().unwrap();
        let kept_as = record.with_extension("json.damaged");
        assert_eq!(found.damaged, [kept_as.to_str().unwrap()]);
        assert_eq!((found.orphans, found.stuck), (2, 0), "{found:?}");
        assert!(gone(worker.pid) && !record.exists());
        assert_eq!(std::fs::read_to_string(kept_as).unwrap(), damaged);
        hive.finish().await;
    }
}

#[tokio::test]
async fn a_record_without_a_version_is_adopted() {
    let hive = Hive::with(leave_workers);
    let worker = hive.start("healthy").await.unwrap();
    let path = hive.config.workers_dir().join(&worker.worker_id).join("record.json");
    let remove_version = || {
        alter(&path, |record| {
            let version = record.as_object_mut().unwrap().remove("version");
            assert_eq!(version, Some(record::FORMAT_VERSION.into()));
        });
    };
    let hive = restart_hive(hive, remove_version).await;
    assert_eq!(hive.workers.adoption().unwrap().adopted, [worker.pid]);
    hive.finish().await;
}

#[tokio::test]
async fn a_worker_with_a_newer_record_is_neither_adopted_nor_signalled() {
    let hive = Hive::with(leave_workers);
    let worker = hive.start("family").await.unwrap();
    let path = hive.config.workers_dir().join(&worker.worker_id).join("record.json");
    let newer = record::FORMAT_VERSION + 1;
    alter(&path, |record| record["version"] = newer.into());
    let text = std::fs::read(&path).unwrap();
    let hive = restart_hive(hive, || {}).await;
    let adoption = hive.workers.adoption().unwrap();
    let [left] = &adoption.newer[..] else { panic!("{adoption:?}") };
    assert_eq!((left.pid, left.version.as_str()), (Some(worker.pid), &*newer.to_string()));
    assert_eq!(left.record, path.to_str().unwrap());
    assert_eq!(
        (adoption.adopted.len(), adoption.ended.len(), adoption.stale, adoption.orphans),
        (0, 0, 0, 0)
    );
    assert!(hive.workers.list().is_empty() && !gone(worker.pid));
    #[cfg(target_os = "linux")]
    assert_eq!(process_group::members(worker.pid).len(), 2, "neither it nor its child");
    // Starts and stops of other workers leave it alone too.
    hive.start("healthy").await.unwrap();
    hive.workers.stop_all(LONG).await;
    assert!(!gone(worker.pid));
    assert_eq!(std::fs::read(&path).unwrap(), text);

    // The hive that wrote it can adopt it.
    alter(&path, |record| record["version"] = record::FORMAT_VERSION.into());
    let hive = restart_hive(hive, || {}).await;
    assert_eq!(hive.workers.adoption().unwrap().adopted, [worker.pid]);
    hive.finish().await;
}

/// Alters the JSON of a record.
fn alter(path: &Path, alter: impl FnOnce(&mut serde_json::Value)) {
    let mut record = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
    alter(&mut record);
    std::fs::write(path, record.to_string()).unwrap();
}

#[tokio::test]
async fn records_in_a_folder_that_other_users_can_enter_are_not_trusted() {
    let hive = Hive::new();
    let folder = hive.config.workers_dir();
    std::fs::create_dir_all(&folder).unwrap();
    std::fs::set_permissions(&folder, std::fs::Permissions::from_mode(0o770)).unwrap();
    hive.workers.adopt().await;
    assert!(hive.workers.adoption().unwrap().refused.unwrap().contains("other users"));
    hive.finish().await;
}

/// The records name the ids of processes that are not the workers: their start times or boots differ.
/// Each of the processes writes every signal that it gets to a file.
#[cfg(target_os = "linux")]
#[tokio::test]
async fn a_thousand_stale_records_of_live_processes_lead_to_no_signal() {
    let hive = Hive::new();
    let signals = hive.folder.path().join("signals");
    let script = "for s in HUP INT QUIT TERM USR1 USR2 CONT; do trap \"echo $s >>$0\" $s; done; \
                  echo up >>$0.up; while :; do sleep 0.05; done";
    let mut others = Vec::new();
    for _ in 0..4 {
        let mut command = spawn::command("sh");
        command.arg("-c").arg(script).arg(&signals).process_group(0).kill_on_drop(true);
        others.push(command.spawn().unwrap());
    }
    let up = signals.with_extension("up");
    until("the processes to handle signals", async || {
        std::fs::read_to_string(&up).unwrap_or_default().lines().count() == others.len()
    })
    .await;
    let mut named: Vec<u32> = others.iter().map(|child| child.id().unwrap()).collect();
    named.extend([1, std::process::id()]);

    std::fs::DirBuilder::new().mode(0o700).create(hive.config.workers_dir()).unwrap();
    for n in 0..1000_usize {
        let pid = named[n % named.len()];
        let identity = Identity::of(pid).unwrap();
        let (boot_id, start_time) = match n % 2 {
            0 => (identity::boot_id(), identity.start_time - 1),
            _ => (uuid::Uuid::new_v4().to_string(), identity.start_time),
        };
        let worker_id = format!("worker-{n:04}");
        let folder = hive.config.workers_dir().join(&worker_id);
        std::fs::create_dir(&folder).unwrap();
        let record = record::WorkerRecord {
            worker_id,
            boot_id,
            process: Identity { pid, start_time },
            started_at: jiff::Timestamp::now(),
            engine: "builtin".to_owned(),
            program: None,
            device: Device::CPU,
            split: Vec::new(),
            context_length: None,
            request: request("healthy"),
            secret: "s".to_owned(),
            port: Some(1),
            ready: n % 3 == 0,
            trial: false,
        };
        record.write(&folder.join("record.json")).unwrap();
    }
    std::fs::write(hive.config.workers_dir().join("worker-0000").join("record.json"), "nonsense").unwrap();
    hive.workers.adopt().await;
    let found = hive.workers.adoption().unwrap();
    assert_eq!((found.stale, found.adopted.len(), found.ended.len(), found.orphans), (999, 0, 0, 0));
    assert_eq!(found.damaged.len(), 1);
    assert!(hive.workers.list().is_empty());
    assert!(!signals.exists(), "signals were sent: {:?}", std::fs::read_to_string(&signals));
    for other in &mut others {
        assert!(other.try_wait().unwrap().is_none(), "a process ended");
        other.kill().await.unwrap();
    }
    hive.finish().await;
}
