//! Telemetry: what the machine and its workers use, sampled only while there are readers.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use serde::Serialize;
use tokio::sync::watch;
use tokio::time::{MissedTickBehavior, interval};
use utoipa::ToSchema;

use super::handle::Handle;
use super::supervisor::Supervisor;
pub use super::usage::MachineUsage;
use crate::config::Config;
use crate::spawn;

/// Bytes of a megabyte, the unit of rates in heartbeats.
const MEGABYTE: f64 = 1e6;
/// Bytes of a mebibyte, the unit of memory in heartbeats.
const MEBIBYTE: u64 = 1 << 20;

/// One sample of the machine and its workers.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Sample {
    /// When it was taken: RFC 3339, UTC, milliseconds.
    pub timestamp: String,
    /// The machine.
    pub system: MachineUsage,
    /// Every live worker that listens.
    pub workers: Vec<HeartbeatWorker>,
}

/// A worker in a heartbeat for the queen, who drops one that lacks any of these keys.
#[derive(Clone, Debug, PartialEq, Serialize, ToSchema)]
pub struct HeartbeatWorker {
    /// The process id.
    pub pid: u32,
    /// Always `llm`.
    pub group: &'static str,
    /// The port, as text.
    pub instance: String,
    /// Percent of one core.
    pub cpu_pct: f64,
    /// Resident memory in MiB.
    pub rss_mb: u64,
    /// Read from disk, in MB a second.
    pub io_r_mb_s: f64,
    /// Written to disk, in MB a second.
    pub io_w_mb_s: f64,
    /// Seconds since its start.
    pub uptime_s: u64,
    /// Use of its GPU in percent.
    pub gpu_util_pct: f64,
    /// Memory on its GPU in MiB.
    pub vram_mb: u64,
    /// The whole memory of its GPU, in MiB.
    pub total_vram_mb: u64,
    /// The id of its model.
    pub model: Option<String>,
}

/// The telemetry of one hive. Clones share it.
#[derive(Clone, Debug)]
pub struct Telemetry(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    workers: Supervisor,
    store: PathBuf,
    interval: Duration,
    samples: watch::Sender<Arc<Sample>>,
    /// Whether the sampling task runs. Locked while the task decides to end and while a reader
    /// subscribes, so that no reader is left without samples.
    running: Mutex<bool>,
}

impl Telemetry {
    /// Telemetry without readers.
    #[must_use]
    pub fn new(config: &Config, workers: Supervisor) -> Self {
        Self(Arc::new(Inner {
            workers,
            store: config.store_dir(),
            interval: *config.timers.telemetry,
            samples: watch::Sender::new(Arc::default()),
            running: Mutex::new(false),
        }))
    }

    /// A sample every `timers.telemetry` from now on, until the receiver is dropped. The receiver's
    /// first value is old: wait for a change first.
    #[must_use]
    pub fn subscribe(&self) -> watch::Receiver<Arc<Sample>> {
        let mut running = self.0.running.lock();
        let samples = self.0.samples.subscribe();
        if !*running {
            *running = true;
            // The task serves all readers, so it belongs to no job.
            spawn::detached(self.clone().run());
        }
        samples
    }

    /// A sample of this moment, without a subscription.
    pub async fn sample(&self) -> Sample {
        let (sampler, store) = (self.0.workers.sampler(), self.0.store.clone());
        let machine = spawn::blocking(move || sampler.lock().machine(&store));
        let (machine, ()) = tokio::join!(machine, self.0.workers.refresh());
        Sample {
            timestamp: crate::time::Instant::now().to_string(),
            system: machine.unwrap_or_default(),
            workers: self.0.workers.handles().iter().filter_map(|worker| heartbeat(worker)).collect(),
        }
    }

    /// Whether samples are being taken.
    #[must_use]
    pub fn is_running(&self) -> bool {
        *self.0.running.lock()
    }

    async fn run(self) {
        let mut ticks = interval(self.0.interval.max(Duration::from_millis(1)));
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                _ = ticks.tick() => {
                    let sample = self.sample().await;
                    self.0.samples.send_replace(Arc::new(sample));
                }
                () = self.0.samples.closed() => {
                    let mut running = self.0.running.lock();
                    if self.0.samples.is_closed() {
                        *running = false;
                        return;
                    }
                }
            }
        }
    }
}

fn heartbeat(worker: &Handle) -> Option<HeartbeatWorker> {
    if !worker.status().lives() {
        return None;
    }
    let port = worker.state.borrow().port?;
    let usage = worker.measurements.lock().usage.clone();
    let rate = |bytes: f64| (bytes / MEGABYTE * 1000.0).round() / 1000.0;
    Some(HeartbeatWorker {
        pid: worker.pid,
        group: "llm",
        instance: port.to_string(),
        cpu_pct: (f64::from(usage.cpu_percent) * 10.0).round() / 10.0,
        rss_mb: usage.rss_bytes / MEBIBYTE,
        io_r_mb_s: rate(usage.read_bytes_per_second),
        io_w_mb_s: rate(usage.written_bytes_per_second),
        uptime_s: worker.uptime().as_secs(),
        gpu_util_pct: usage.gpu_percent.into(),
        vram_mb: usage.vram_bytes().unwrap_or(0) / MEBIBYTE,
        total_vram_mb: usage.gpu_total_bytes / MEBIBYTE,
        model: Some(worker.model_id().to_owned()),
    })
}
