//! Stops: grace periods, requests in flight, and the proof that nothing remains.

use super::fake_worker::LEAK_BYTES;
use super::*;
use crate::error::Code;
use crate::spawn;

#[tokio::test]
async fn a_growing_worker_is_measured_and_a_stop_frees_all_of_its_memory() {
    let hive = Hive::new();
    let worker = hive.start("leaks").await.unwrap();
    let mut seen = vec![worker.rss_bytes];
    until("the worker to leak", async || {
        hive.workers.refresh().await;
        seen.push(hive.workers.get(worker.pid).unwrap().rss_bytes);
        seen.last().unwrap() - seen[0] >= 4 * LEAK_BYTES as u64
    })
    .await;
    assert!(seen.is_sorted(), "{seen:?}");
    let stopped = hive.workers.stop(worker.pid, LONG).await.unwrap();
    assert!(stopped.freed_bytes >= *seen.last().unwrap(), "{stopped:?} after {seen:?}");
    hive.finish().await;
}

#[tokio::test]
async fn a_worker_that_ignores_sigterm_is_killed_once_for_all_stops() {
    let hive = Hive::new();
    let worker = hive.start("stubborn").await.unwrap();
    let grace = Duration::from_millis(100);
    let (stops, narrations) = narrated(async {
        tokio::join!(hive.workers.stop(worker.pid, grace), hive.workers.stop(worker.pid, LONG))
    })
    .await;
    let (first, second) = (stops.0.unwrap(), stops.1.unwrap());
    assert_eq!(first.signal.as_deref(), Some("SIGKILL"));
    assert_eq!(first, second);
    assert!(has_narration(&narrations, "worker_stop", "SIGKILL"), "{narrations:#?}");
    hive.finish().await;
}

#[tokio::test]
async fn children_of_a_worker_end_with_it() {
    let hive = Hive::new();
    let worker = hive.start("family").await.unwrap();
    #[cfg(target_os = "linux")]
    assert_eq!(process_group::members(worker.pid).len(), 2);
    hive.workers.stop(worker.pid, Duration::from_secs(5)).await.unwrap();
    assert!(gone(worker.pid));
    hive.finish().await;
}

#[tokio::test]
async fn only_workers_can_be_stopped() {
    let hive = Hive::new();
    for pid in [0, 1, std::process::id(), u32::MAX] {
        let failure = hive.workers.stop(pid, Duration::ZERO).await.unwrap_err();
        assert_eq!(failure.code, Code::WorkerNotFound);
        assert_eq!(failure.message, format!("process {pid} is not a worker of this hive"));
    }
    hive.finish().await;
}

#[tokio::test]
async fn a_stop_waits_for_requests_in_flight_and_accepts_no_more() {
    let hive = Hive::new();
    let first = hive.start("healthy").await.unwrap();
    let second = hive.start("healthy").await.unwrap();
    let one = hive.workers.endpoint("healthy", &Preference::default()).unwrap();
    let other = hive.workers.endpoint("healthy", &Preference::default()).unwrap();
    assert_ne!(one.pid, other.pid, "the one with fewer requests is chosen");
    assert_eq!(hive.workers.get(one.pid).unwrap().status, Status::Busy);
    assert_eq!(one.secret.expose().len(), 64);
    drop(other);
    let spare = if one.pid == first.pid { second.pid } else { first.pid };
    hive.workers.stop(spare, LONG).await.unwrap();

    let (workers, pid) = (hive.workers.clone(), one.pid);
    let job = spawn::task(async move { narrated(workers.stop(pid, LONG)).await });
    hive.worker_with(Status::Stopping).await;
    assert!(hive.workers.endpoint("healthy", &Preference::default()).is_none());
    assert!(!gone(pid) && !job.is_finished());
    drop(one);
    let (stopped, narrations) = job.await.unwrap();
    assert_eq!(stopped.unwrap().signal.as_deref(), Some("SIGTERM"));
    assert!(has_narration(&narrations, "worker_drain", "1 in flight"), "{narrations:#?}");
    hive.finish().await;
}

#[tokio::test]
async fn a_stop_waits_for_an_endless_request_no_longer_than_the_grace_period() {
    let hive = Hive::new();
    let worker = hive.start("healthy").await.unwrap();
    let _endless = hive.workers.endpoint("healthy", &Preference::default()).unwrap();
    hive.workers.stop(worker.pid, Duration::from_millis(50)).await.unwrap();
    hive.finish().await;
}

#[tokio::test]
async fn nothing_starts_after_all_workers_were_stopped() {
    let hive = Hive::new();
    hive.start("healthy").await.unwrap();
    hive.start("stubborn").await.unwrap();
    hive.workers.stop_all(Duration::from_millis(200)).await;
    assert!(hive.workers.list().is_empty());
    assert_eq!(hive.start("healthy").await.unwrap_err().code, Code::ShuttingDown);
    hive.finish().await;
}

#[tokio::test]
async fn a_failed_load_and_a_stop_have_different_causes() {
    let hive = Hive::new();
    let mut changes = hive.workers.changes();
    hive.start("exits").await.unwrap_err();
    let worker = hive.start("healthy").await.unwrap();
    hive.workers.stop(worker.pid, LONG).await.unwrap();
    let mut causes = Vec::new();
    while let Ok(change) = changes.try_recv() {
        causes.extend(change.cause);
    }
    assert_eq!(causes, [Cause::FailedLoad, Cause::UserStop]);
    hive.finish().await;
}

/// 3 stops, or 100 where there is time. Several at once, because most of their time is grace periods.
#[tokio::test]
async fn repeated_stops_never_leave_a_process() {
    use futures::StreamExt;

    let mut hive = Hive::new();
    let grace = Duration::from_millis(200);
    let stops = futures::stream::iter(0..as_time_allows(3_usize, 100)).map(|round| {
        let hive = &hive;
        async move {
            let behaviour = ["healthy", "family", "stubborn"][round % 3];
            let worker = hive.start(behaviour).await.unwrap();
            let asked = Instant::now();
            hive.workers.stop(worker.pid, grace).await.unwrap();
            let took = asked.elapsed();
            assert!(gone(worker.pid), "{behaviour}");
            (worker.pid, took)
        }
    });
    let (pids, mut took): (Vec<u32>, Vec<Duration>) = stops.buffer_unordered(4).unzip().await;
    // At most two grace periods: for requests in flight, of which there are none, and for the process.
    // The median, so that one pause of a busy machine does not fail the test.
    took.sort_unstable();
    assert!(took[took.len() / 2] < grace * 2 + Duration::from_secs(1), "{took:?}");
    // Nor does one remain as a zombie child of this process.
    #[cfg(target_os = "linux")]
    for process in procfs::process::all_processes().unwrap().flatten() {
        if let Ok(stat) = process.stat() {
            let stopped = pids.contains(&stat.pgrp.cast_unsigned());
            assert!(!stopped || stat.ppid.cast_unsigned() != std::process::id(), "{stat:?} remains");
        }
    }
    assert_eq!(pids.len(), as_time_allows(3, 100));
    hive.check_gone();
    hive.finish().await;
}
