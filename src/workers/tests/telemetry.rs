//! Telemetry of live workers.

use super::super::telemetry::Telemetry;
use super::*;

#[tokio::test]
async fn telemetry_is_sampled_only_while_there_are_readers() {
    let hive = Hive::with(|config| config.timers.telemetry = Duration::from_millis(20).into());
    let worker = hive.start("healthy").await.unwrap();
    let telemetry = Telemetry::new(&hive.config, hive.workers.clone());
    assert!(!telemetry.is_running());
    let (mut one, mut other) = (telemetry.subscribe(), telemetry.subscribe());
    one.changed().await.unwrap();
    other.changed().await.unwrap();
    let sample = one.borrow_and_update().clone();
    let json = serde_json::to_value(&sample.workers).unwrap();
    let keys: Vec<_> = json[0].as_object().unwrap().keys().map(String::as_str).collect();
    let contract = "pid group instance cpu_pct rss_mb io_r_mb_s io_w_mb_s uptime_s gpu_util_pct vram_mb \
                    total_vram_mb model";
    assert_eq!(keys, contract.split_whitespace().collect::<Vec<_>>());
    assert_eq!((sample.workers[0].pid, sample.workers[0].rss_mb > 0), (worker.pid, true));
    assert!(sample.system.ram_total_bytes > 0);
    drop(one);
    other.changed().await.unwrap();
    drop(other);
    until("the sampling to end with its last reader", async || !telemetry.is_running()).await;
    let mut again = telemetry.subscribe();
    again.changed().await.unwrap();
    hive.finish().await;
}
