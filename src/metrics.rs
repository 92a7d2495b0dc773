//! Metrics: what the hive knows of itself as numbers, for Prometheus and all who read its formats.
//!
//! Nothing is collected for a scrape that nobody makes: each one reads what the parts of the hive count
//! anyway, and forgets it. [`table`] describes every metric.
//!
//! Invariants:
//! - Labels are bounded: operations and outcomes are of tables, and of more than 200 models or callers those
//!   used longest ago are `(others)` together.
//! - Counts never fall while the hive runs, except those of a model or caller that moves to the others and
//!   comes back.
//! - No label has text of a request in it but ids of models that the hive knows.

mod process;
mod sheet;
mod table;

use std::sync::Arc;

use crate::app::AppState;
use crate::files::disk_space;
use crate::jobs::{Ended, JobCounts, JobState};
use crate::narration::{self, Level};
use crate::ops;
use crate::readers::Stream;
use crate::requests::Sums;
use crate::residency::ResidencyView;
use crate::spawn;
use crate::time::Instant;
use crate::usage;
use crate::workers::Status;
pub(crate) use sheet::Format;
use sheet::Sheet;
use table::Metric;

/// All metrics at this moment, as text.
pub(crate) async fn scrape(app: &AppState, format: Format) -> String {
    // What workers use is measured for those who look, and only then.
    let (view, ()) = tokio::join!(app.residency.view(), app.workers.refresh());
    let app = Arc::clone(app);
    let written = spawn::blocking(move || {
        let mut sheet = Sheet::default();
        sheet.info(Metric::Build, env!("CARGO_PKG_VERSION"));
        jobs(&mut sheet, &app);
        requests(&mut sheet, &app);
        residency(&mut sheet, &app, &view);
        workers(&mut sheet, &app);
        downloads(&mut sheet, &app);
        process::look(&mut sheet);
        sheet.written(format)
    });
    written.await.unwrap_or_default()
}

fn jobs(sheet: &mut Sheet, app: &AppState) {
    let JobCounts { mut ended, narrations } = app.jobs.counts();
    // All of them from the start, so that the first failure is a rise.
    for row in ops::TABLE {
        ended.entry(row.wire_name.to_owned()).or_default();
    }
    for (operation, Ended { succeeded, failed, cancelled, took }) in &ended {
        for (outcome, count) in [("succeeded", succeeded), ("failed", failed), ("cancelled", cancelled)] {
            sheet.count(Metric::Jobs, &[operation, outcome], *count);
        }
        if took.count() > 0 {
            sheet.times(Metric::JobDuration, &[operation], took);
        }
    }
    let under_way = app.jobs.running();
    for (state, name) in [(JobState::Queued, "queued"), (JobState::Running, "running")] {
        let count = under_way.iter().filter(|job| job.state() == state).count();
        sheet.count(Metric::JobsUnderWay, &[name], count);
    }
    for stream in Stream::ALL {
        sheet.count(Metric::StreamReaders, &[stream.name()], app.readers.count(stream));
    }
    let levels =
        [(Level::Debug, "debug"), (Level::Info, "info"), (Level::Warn, "warn"), (Level::Error, "error")];
    for (level, name) in levels {
        sheet.count(Metric::Narrations, &[name], narrations.get(&level).copied().unwrap_or_default());
    }
    sheet.count(Metric::NarrationsOutsideJobs, &[], narration::outside_jobs());
    sheet.count(Metric::NarrationsLate, &[], narration::late());
}

fn requests(sheet: &mut Sheet, app: &AppState) {
    let [models, callers] = app.requests.sums();
    sheet.count(Metric::RequestsUnderWay, &[], app.requests.under_way());
    for (model, sums) in &models {
        outcomes(sheet, Metric::Requests, model, sums);
        sheet.count(Metric::RequestRetries, &[model], sums.retries);
        sheet.times(Metric::RequestDuration, &[model], &sums.total);
        sheet.times(Metric::RequestQueue, &[model], &sums.queue);
        sheet.times(Metric::TimeToFirstToken, &[model], &sums.first_token);
        sheet.count(Metric::PromptTokens, &[model], sums.counts.prompt_tokens);
        sheet.count(Metric::CachedTokens, &[model], sums.counts.cached_tokens);
        sheet.count(Metric::CompletionTokens, &[model], sums.counts.completion_tokens);
    }
    for (caller, sums) in &callers {
        outcomes(sheet, Metric::CallerRequests, caller, sums);
        sheet.count(Metric::CallerPromptTokens, &[caller], sums.counts.prompt_tokens);
        sheet.count(Metric::CallerCompletionTokens, &[caller], sums.counts.completion_tokens);
    }
}

fn outcomes(sheet: &mut Sheet, metric: Metric, name: &str, sums: &Sums) {
    let usage::Sums { completed, failed, refused, client_gone, .. } = sums.counts;
    for (outcome, count) in
        [("completed", completed), ("failed", failed), ("refused", refused), ("client_gone", client_gone)]
    {
        sheet.count(metric, &[name, outcome], count);
    }
}

fn residency(sheet: &mut Sheet, app: &AppState, view: &ResidencyView) {
    let now = Instant::now();
    for line in &view.queue {
        let model: &str = &line.model;
        sheet.count(Metric::QueueRequests, &[model], line.waiting);
        #[expect(clippy::cast_precision_loss, reason = "waits are far below 2^53 ms")]
        sheet.amount(Metric::QueueOldest, &[model], now.since_ms(line.oldest_since) as f64 / 1000.0);
    }
    sheet.count(Metric::QueueLimit, &[], view.queue_limit);
    for state in ["submitted", "waiting", "loading"] {
        let count = view.loads.iter().filter(|load| load.state == state).count();
        sheet.count(Metric::Loads, &[state], count);
    }
    let evictions = app.residency.evictions();
    for (reason, count) in [
        ("model", evictions.model),
        ("lease", evictions.lease),
        ("replaced", evictions.replaced),
        ("idle", evictions.idle),
    ] {
        sheet.count(Metric::Evictions, &[reason], count);
    }
    for memory in &view.memory {
        let device = memory.device.to_string();
        for (metric, bytes) in [
            (Metric::DeviceMemory, memory.capacity_bytes),
            (Metric::DeviceMemoryFree, memory.free_bytes),
            (Metric::DeviceMemoryReserve, Some(memory.reserve_bytes)),
            (Metric::DeviceMemoryLeased, Some(memory.leased_bytes)),
        ] {
            bytes.into_iter().for_each(|bytes| sheet.count(metric, &[&device], bytes));
        }
    }
}

fn workers(sheet: &mut Sheet, app: &AppState) {
    let list = app.workers.list();
    for (status, name) in Status::ALL {
        let count = list.iter().filter(|worker| worker.status == status).count();
        sheet.count(Metric::Workers, &[name], count);
    }
    for (cause, count) in app.workers.causes() {
        sheet.count(Metric::WorkerEvents, &[cause.name()], count);
    }
    for worker in app.workers.residents() {
        let (pid, model) = (worker.pid.to_string(), &*worker.model);
        sheet.count(Metric::WorkerRequests, &[&pid, model], worker.in_flight);
        sheet.count(Metric::WorkerSlots, &[&pid, model], worker.slots);
        for (metric, memory) in
            [(Metric::WorkerMemoryExpected, &worker.expected), (Metric::WorkerMemory, &worker.holds)]
        {
            for (device, bytes) in memory {
                sheet.count(metric, &[&pid, model, &device.to_string()], *bytes);
            }
        }
    }
}

fn downloads(sheet: &mut Sheet, app: &AppState) {
    let transfers = app.catalog.transfers();
    sheet.count(Metric::Downloads, &[], transfers.ongoing());
    sheet.count(Metric::Downloaded, &[], transfers.received());
    if let Ok(disk) = disk_space(&app.config.data_dir) {
        sheet.count(Metric::Disk, &[], disk.total);
        sheet.count(Metric::DiskFree, &[], disk.free);
    }
}
