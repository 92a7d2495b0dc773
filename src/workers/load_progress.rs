//! Narrates how far a worker has loaded its model.

use std::time::{Duration, Instant};

use crate::n;
use crate::narration::Progress;
use crate::text;

/// The progress of one load.
#[derive(Debug, Default)]
pub(super) struct LoadProgress {
    began: Option<Instant>,
    done: Option<u64>,
    narrated: Option<Instant>,
}

impl LoadProgress {
    /// Narrates the progress that worker `pid` reports, at most once per `interval`. Returns whether it
    /// differs from the last one.
    pub(super) fn report(&mut self, pid: u32, mut progress: Progress, interval: Duration) -> bool {
        let now = Instant::now();
        let began = *self.began.get_or_insert(now);
        let advanced = self.done.replace(progress.done) != Some(progress.done);
        if self.narrated.is_some_and(|at| now.duration_since(at) < interval) {
            return advanced;
        }
        self.narrated = Some(now);
        let seconds = now.duration_since(began).as_secs_f64();
        if seconds > 0.0 && progress.done > 0 {
            let rate = (progress.done as f64 / seconds) as u64;
            progress.rate_per_second = Some(rate);
            let left = progress.total.map(|total| total.saturating_sub(progress.done));
            progress.eta_seconds = left.and_then(|left| left.checked_div(rate));
        }
        let message = message(pid, &progress);
        n!(progress: progress, "worker_load", "{message}");
        advanced
    }

    /// Narrates how many bytes of memory worker `pid` holds, for engines that report no progress.
    /// `expected` is an estimate in bytes, and 0 where there is none.
    pub(super) fn report_memory(&self, pid: u32, held: u64, expected: u64) {
        let total = Some(expected).filter(|expected| *expected >= held);
        let progress = Progress { done: held, total, unit: "bytes".to_owned(), ..Progress::default() };
        let held = text::bytes(held);
        match total {
            Some(total) => {
                let total = text::bytes(total);
                n!(progress: progress, "worker_load", "Worker {pid} has taken {held} of about {total} of memory");
            }
            None => n!(progress: progress, "worker_load", "Worker {pid} has taken {held} of memory"),
        }
    }
}

fn message(pid: u32, progress: &Progress) -> String {
    if progress.unit == "percent" {
        return format!("Worker {pid} has loaded {} %", progress.done);
    }
    let amount = |count| match progress.unit.as_str() {
        "bytes" => text::bytes(count),
        unit => format!("{count} {unit}"),
    };
    let done = amount(progress.done);
    match progress.total.filter(|total| *total > 0) {
        Some(total) => {
            let percent = u128::from(progress.done) * 100 / u128::from(total);
            format!("Worker {pid} has loaded {percent} % ({done} of {})", amount(total))
        }
        None => format!("Worker {pid} has loaded {done}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn progress(done: u64, total: Option<u64>, unit: &str) -> Progress {
        Progress { done, total, unit: unit.to_owned(), ..Progress::default() }
    }

    #[test]
    fn a_message_has_the_percentage_and_the_amounts() {
        let message = |done, total, unit| message(7, &progress(done, total, unit));
        assert_eq!(message(1 << 20, Some(4 << 20), "bytes"), "Worker 7 has loaded 25 % (1.0 MiB of 4.0 MiB)");
        assert_eq!(message(42, Some(100), "percent"), "Worker 7 has loaded 42 %");
        assert_eq!(message(3, Some(0), "layers"), "Worker 7 has loaded 3 layers");
        assert_eq!(
            message(u64::MAX, Some(u64::MAX), "bytes").split(" (").next(),
            Some("Worker 7 has loaded 100 %")
        );
    }

    #[test]
    fn only_a_change_counts_as_progress() {
        let mut load = LoadProgress::default();
        let mut report = |done| load.report(7, progress(done, None, "bytes"), Duration::MAX);
        assert_eq!([report(0), report(0), report(5), report(5)], [true, false, true, false]);
    }
}
