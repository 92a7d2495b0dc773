//! How far a build is, by the beginnings of the lines of ninja and make.

use std::time::Instant;

use crate::n;
use crate::narration::Progress;
use crate::time::monotonic;

/// The progress of a build. It is narrated once for each hundredth.
#[derive(Debug)]
pub(super) struct BuildProgress {
    started: Instant,
    first: Option<Step>,
    percent: Option<u64>,
}

/// A step of a build: so many of so many are done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Step {
    done: u64,
    total: u64,
    unit: &'static str,
}

impl BuildProgress {
    pub(super) fn new() -> Self {
        Self { started: monotonic(), first: None, percent: None }
    }

    /// Narrates the progress that a line tells. Returns whether it tells any.
    pub(super) fn line(&mut self, line: &str) -> bool {
        let Some(step) = Step::of(line) else { return false };
        let percent = step.done.saturating_mul(100) / step.total;
        if self.percent.replace(percent) == Some(percent) {
            return true;
        }
        let first = *self.first.get_or_insert(step);
        let progress = Progress {
            done: step.done,
            total: Some(step.total),
            unit: step.unit.to_owned(),
            eta_seconds: step.seconds_left(first, self.started.elapsed().as_secs()),
            ..Progress::default()
        };
        let Step { done, total, .. } = step;
        let told =
            if step.unit == "percent" { format!("{done} %") } else { format!("step {done} of {total}") };
        n!(progress: progress, "worker_install_build", "Building llama-server: {told}");
        true
    }
}

impl Step {
    /// Of ninja's `[12/300] …` or make's `[ 42%] …`.
    fn of(line: &str) -> Option<Self> {
        let (inner, _) = line.strip_prefix('[')?.split_once(']')?;
        let number = |text: &str| text.trim().parse().ok();
        let step = match inner.split_once('/') {
            Some((done, total)) => Self { done: number(done)?, total: number(total)?, unit: "steps" },
            None => Self { done: number(inner.strip_suffix('%')?)?, total: 100, unit: "percent" },
        };
        (step.total > 0 && step.done <= step.total).then_some(step)
    }

    /// The seconds until the end, if the rest goes as what was done since `first`.
    fn seconds_left(self, first: Self, seconds: u64) -> Option<u64> {
        let done = self.done.checked_sub(first.done).filter(|done| *done > 0)?;
        Some(seconds.saturating_mul(self.total - self.done) / done)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_ninja_and_make_tell_the_progress() {
        for (line, told) in [
            ("[12/300] Building CXX object a.o", Some((12, 300, "steps"))),
            ("[ 42%] Building CXX object a.o", Some((42, 100, "percent"))),
            ("[100%] Built target llama-server", Some((100, 100, "percent"))),
            ("-- Found Threads: TRUE", None),
            ("[x] no", None),
            ("[3/0] none", None),
            ("[3/2] more than all", None),
            ("[", None),
        ] {
            let step = Step::of(line).map(|step| (step.done, step.total, step.unit));
            assert_eq!(step, told, "{line}");
        }
    }

    #[test]
    fn the_time_left_follows_from_what_was_done() {
        let step = |done| Step { done, total: 100, unit: "percent" };
        assert_eq!(step(40).seconds_left(step(20), 10), Some(30));
        assert_eq!(step(20).seconds_left(step(20), 10), None);
    }
}
