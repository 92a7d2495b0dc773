//! Crashes and restarts.

use rustix::process::Signal;

use super::*;
use crate::config::RestartPolicy;

#[tokio::test]
async fn a_crashed_worker_stays_listed_until_it_is_deleted() {
    let hive = Hive::new();
    let worker = hive.start("healthy").await.unwrap();
    signal(worker.pid, Signal::ABORT);
    let crashed = hive.worker_with(Status::Crashed).await;
    assert_eq!((crashed.pid, crashed.last_exit.as_deref()), (worker.pid, Some("killed by SIGABRT")));
    assert!(
        hive.workers.endpoint("healthy", &Preference::default()).is_none() && !hive.workers.serves("healthy")
    );
    assert_eq!(hive.workers.list().len(), 1);
    let stopped = hive.workers.stop(worker.pid, LONG).await.unwrap();
    assert_eq!(stopped.signal.as_deref(), Some("SIGABRT"));
    assert!(hive.workers.list().is_empty());
    hive.finish().await;
}

#[tokio::test]
async fn a_ready_worker_replaces_a_crashed_one() {
    let hive = Hive::new();
    let worker = hive.start("healthy").await.unwrap();
    signal(worker.pid, Signal::KILL);
    hive.worker_with(Status::Crashed).await;
    let next = hive.start("healthy").await.unwrap();
    assert_eq!(hive.pids(), [next.pid]);
    hive.finish().await;
}

/// Settings that restart crashed workers within milliseconds.
fn quick_restarts(config: &mut Config) {
    config.workers.restart = RestartPolicy::OnFailure;
    config.workers.restart_first = Duration::from_millis(10).into();
    config.workers.restart_longest = Duration::from_millis(40).into();
}

#[tokio::test]
async fn a_crashed_worker_is_restarted_each_time_if_the_settings_say_so() {
    let mut hive = Hive::with(quick_restarts);
    let mut pid = hive.start("healthy").await.unwrap().pid;
    for _ in 0..3 {
        let (causes, next) = crash_until_ready_again(&hive, pid).await;
        assert_eq!(causes, [Cause::Crash, Cause::Restart]);
        pid = next;
        until("the crashed worker to be replaced", async || hive.pids() == [pid]).await;
    }
    hive.workers.stop(pid, LONG).await.unwrap();
    hive.check_gone();
    assert!(hive.workers.list().is_empty(), "a stopped worker is not restarted");
    hive.finish().await;
}

#[tokio::test]
async fn a_crashed_worker_that_is_deleted_is_not_restarted() {
    let hive = Hive::with(|config| {
        quick_restarts(config);
        config.workers.restart_first = LONG.into();
        config.workers.restart_longest = LONG.into();
    });
    let pid = hive.start("healthy").await.unwrap().pid;
    signal(pid, Signal::KILL);
    hive.worker_with(Status::Crashed).await;
    assert_eq!(hive.workers.give_up("healthy"), [pid]);
    assert!(hive.workers.list().is_empty() && hive.workers.give_up("healthy").is_empty());
    hive.finish().await;
}

#[tokio::test]
async fn a_restart_that_is_stopped_is_not_repeated() {
    let hive = Hive::with(quick_restarts);
    // Ready at its first start only.
    let behaviour = format!("once:{}", hive.folder.path().join("once").display());
    let pid = hive.start(&behaviour).await.unwrap().pid;
    let mut changes = hive.workers.changes();
    signal(pid, Signal::KILL);
    let again = hive.worker_with(Status::Loading).await;
    hive.workers.stop(again.pid, LONG).await.unwrap();
    let removed = |change: &WorkerChange| change.change == ChangeKind::Removed && change.worker.pid == pid;
    assert_eq!(change(&mut changes, removed).await.cause, Some(Cause::UserStop));
    assert!(hive.workers.list().is_empty());
    hive.finish().await;
}

#[tokio::test]
async fn a_restart_that_fails_temporarily_is_repeated() {
    let hive = Hive::with(quick_restarts);
    // Ends before it is ready at its second start only.
    let behaviour = format!("stumbles:{}", hive.folder.path().join("starts").display());
    let pid = hive.start(&behaviour).await.unwrap().pid;
    let (causes, next) = crash_until_ready_again(&hive, pid).await;
    assert_eq!(causes, [Cause::Crash, Cause::Restart, Cause::FailedLoad, Cause::Restart]);
    until("the crashed worker to be replaced", async || hive.pids() == [next]).await;
    hive.finish().await;
}

#[tokio::test]
async fn a_restart_that_fails_permanently_is_given_up() {
    let hive = Hive::with(quick_restarts);
    // Reports a damaged model from its second start on.
    let behaviour = format!("spoils:{}", hive.folder.path().join("started").display());
    let pid = hive.start(&behaviour).await.unwrap().pid;
    let mut changes = hive.workers.changes();
    signal(pid, Signal::KILL);
    let given_up = change(&mut changes, |change| change.cause == Some(Cause::GivenUp)).await;
    assert_eq!((given_up.worker.pid, given_up.worker.status), (pid, Status::Crashed));
    let message = given_up.message.unwrap();
    assert!(message.ends_with("is not restarted: the file is damaged"), "{message}");
    assert_eq!(hive.pids(), [pid], "it stays listed with its reason");
    hive.finish().await;
}

/// Kills a worker and waits until another is ready. Returns the causes of all changes in between, and
/// the process id of the other.
async fn crash_until_ready_again(hive: &Hive, pid: u32) -> (Vec<Cause>, u32) {
    let mut changes = hive.workers.changes();
    signal(pid, Signal::KILL);
    let mut causes = Vec::new();
    let ready = change(&mut changes, |change| {
        causes.extend(change.cause);
        change.worker.status == Status::Ready && change.worker.pid != pid
    });
    let pid = ready.await.worker.pid;
    (causes, pid)
}
