//! Logs of workers: narrated, thinned out, bounded, and without secrets.

use std::path::Path;

use super::*;
use crate::narration::Level;

#[tokio::test]
async fn a_secret_in_the_log_reaches_no_reader() {
    let (failure, narrations) = Hive::new().fail_start("tells").await;
    assert_eq!(failure.log_tail[1], "the key is [secret]");
    assert!(has_narration(&narrations, "worker_log", "the key is [secret]"));
}

#[tokio::test]
async fn a_flood_of_log_is_thinned_out() {
    let hive = Hive::new();
    let (worker, narrations) = narrated(hive.start("floods")).await;
    worker.unwrap();
    let lines = narrations.iter().filter(|narration| narration.action == "worker_log").count();
    assert!((50..2000).contains(&lines), "{lines} lines");
    assert!(has_narration(&narrations, "worker_log", "left out"));
    hive.finish().await;
}

#[tokio::test]
async fn logs_are_narrated_at_info() {
    let hive = Hive::new();
    let (worker, narrations) = narrated(hive.start("healthy")).await;
    assert!(narrations.iter().any(|line| line.action == "worker_log" && line.level == Level::Info));
    let log = hive.workers.log(worker.unwrap().pid).unwrap();
    assert!(Path::new(&log).ends_with("worker.log"));
    hive.finish().await;
}

/// 64 MiB of log, or 1 GiB where there is time.
#[tokio::test]
async fn a_huge_log_neither_blocks_its_worker_nor_fills_the_disk() {
    let mib = as_time_allows(64, 1024);
    let hive = Hive::new();
    let worker = hive.start(&format!("gushes:{}", mib << 20)).await.unwrap();
    let folder = hive.config.workers_dir().join(&worker.worker_id);
    let size = || -> u64 {
        let files = std::fs::read_dir(&folder).unwrap();
        files.map(|file| file.unwrap().metadata().unwrap().len()).sum()
    };
    until("the log to be cut", async || size() <= 40 << 20).await;
    assert!(folder.join("worker.log.old").exists());
    hive.workers.stop(worker.pid, LONG).await.unwrap();
    hive.finish().await;
}
