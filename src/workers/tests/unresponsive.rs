//! Workers that give no sign of life, and some that only seem not to.

use rustix::process::Signal;

use super::*;
use crate::config::RestartPolicy;

/// Settings that notice a silent worker within a fraction of a second.
fn watchful(config: &mut Config) {
    config.timers.probe = Duration::from_millis(50).into();
    config.timers.unresponsive = Duration::from_millis(500).into();
}

#[tokio::test]
async fn a_suspended_worker_is_unresponsive_until_it_goes_on() {
    let mut hive = Hive::with(watchful);
    let worker = hive.start("healthy").await.unwrap();
    let request = hive.workers.endpoint("healthy", &Preference::default()).unwrap().guard;
    signal(worker.pid, Signal::STOP);
    let hung = hive.worker_with(Status::Unresponsive).await;
    assert_eq!((hung.pid, hung.last_exit), (worker.pid, None));
    // The request under way is told, and no other is sent.
    tokio::time::timeout(LONG, request.unresponsive()).await.unwrap();
    assert!(
        hive.workers.endpoint("healthy", &Preference::default()).is_none() && !hive.workers.serves("healthy")
    );
    assert_eq!(hive.workers.unresponsive("healthy", &Device::Auto).len(), 1);
    let told = change(&mut hive.changes, |change| change.cause == Some(Cause::Unresponsive)).await;
    assert!(told.message.unwrap().contains("does not respond"));

    signal(worker.pid, Signal::CONT);
    change(&mut hive.changes, |change| change.cause == Some(Cause::Responds)).await;
    drop(request);
    assert_eq!(hive.worker_with(Status::Ready).await.pid, worker.pid);
    assert_eq!(hive.workers.endpoint("healthy", &Preference::default()).unwrap().pid, worker.pid);
    hive.finish().await;
}

/// It would not answer a probe for many times the limit.
#[tokio::test]
async fn a_worker_that_computes_and_does_not_answer_is_no_hang() {
    let mut hive = Hive::with(watchful);
    let thought = hive.folder.path().join("thought");
    let worker = hive.start(&format!("thinks:{}", thought.display())).await.unwrap();
    let limit = *hive.config.timers.unresponsive;
    let before = usage::processor_time(worker.pid);
    until("the worker to compute", async || usage::processor_time(worker.pid) - before > 2 * limit).await;
    std::fs::write(&thought, "").unwrap();
    while let Ok(change) = hive.changes.try_recv() {
        assert_ne!(change.cause, Some(Cause::Unresponsive));
    }
    hive.finish().await;
}

#[tokio::test]
async fn an_unresponsive_worker_is_replaced_where_crashed_ones_are() {
    let mut hive = Hive::with(|config| {
        watchful(config);
        config.workers.restart = RestartPolicy::OnFailure;
        config.workers.restart_first = Duration::from_millis(10).into();
    });
    let worker = hive.start("family").await.unwrap();
    signal(worker.pid, Signal::STOP);
    let crashed = change(&mut hive.changes, |change| change.cause == Some(Cause::Crash)).await;
    assert_eq!(crashed.worker.last_exit.unwrap(), "killed by SIGKILL; it had stopped responding");
    assert!(gone(worker.pid), "its children end too");
    let again =
        |change: &WorkerChange| change.worker.status == Status::Ready && change.worker.pid != worker.pid;
    let next = change(&mut hive.changes, again).await.worker;
    until("the hung worker to leave the list", async || hive.pids() == [next.pid]).await;
    hive.finish().await;
}

/// Whatever its state when the hive starts: a probe tells.
#[tokio::test]
async fn an_adopted_worker_is_watched_too() {
    let hive = Hive::with(|config| {
        watchful(config);
        adoption::leave_workers(config);
    });
    let worker = hive.start("healthy").await.unwrap();
    let hive = adoption::restart_hive(hive, || signal(worker.pid, Signal::STOP)).await;
    assert_eq!(hive.worker_with(Status::Unresponsive).await.pid, worker.pid);
    signal(worker.pid, Signal::CONT);
    assert_eq!(hive.worker_with(Status::Ready).await.pid, worker.pid);
    signal(worker.pid, Signal::STOP);
    hive.worker_with(Status::Unresponsive).await;
    hive.workers.stop(worker.pid, Duration::ZERO).await.unwrap();
    assert!(gone(worker.pid) && hive.workers.list().is_empty());
    hive.finish().await;
}
