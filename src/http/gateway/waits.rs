//! What the client of a stream hears while it waits: comments, which its library skips.
//!
//! Without `x-rbee-narrate: 1` a comment comes from time to time, so that the connection stays open. With it,
//! one comes at once and with every change: the place in the queue, what the load does, how far it is.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;

use super::attempt::Shown;
use crate::config::Timers;
use crate::narration::Progress;
use crate::residency::{Wait, Watch};
use crate::time;

/// The comments for one client.
pub(super) struct Waits {
    shown: watch::Receiver<Shown>,
    /// Whether the client wants to know what it waits for.
    narrates: bool,
    intervals: Intervals,
    /// The last narration.
    last: Option<String>,
    /// Whether the client has been told which load it waits for.
    has_job: bool,
}

/// When comments come.
#[derive(Clone, Copy, Debug)]
pub(super) struct Intervals {
    /// After how long in the queue.
    pub(super) queued: Duration,
    /// After how long without an answer of the worker.
    pub(super) asked: Duration,
    /// The least time between two narrations.
    pub(super) narrations: Duration,
}

impl From<&Timers> for Intervals {
    fn from(timers: &Timers) -> Self {
        Self { queued: *timers.waiting, asked: *timers.keep_alive, narrations: *timers.progress }
    }
}

impl Waits {
    pub(super) fn new(shown: watch::Receiver<Shown>, narrates: bool, intervals: Intervals) -> Self {
        Self { shown, narrates, intervals, last: None, has_job: false }
    }

    /// The longest silence of a worker that answers.
    pub(super) fn silence(&self) -> Duration {
        self.intervals.asked
    }

    /// The job of the load that the client waits or has waited for; the head names it.
    pub(super) fn job_for_head(&mut self) -> Option<Arc<str>> {
        let job_id = self.job_id();
        self.has_job = job_id.is_some();
        job_id
    }

    fn job_id(&self) -> Option<Arc<str>> {
        let shown = self.shown.borrow().clone();
        let load = shown.queued.and_then(|queued| queued.wait()).and_then(|wait| wait.load);
        load.map(|load| load.job_id).or(shown.job_id)
    }

    /// What the next comment says, as soon as one is due. Nothing is lost where the future is dropped.
    pub(super) async fn comment(&mut self) -> String {
        let since = Instant::now();
        loop {
            let mut queued = self.shown.borrow_and_update().queued.clone();
            let wait = queued.as_mut().and_then(Watch::look);
            let hive = self.shown.borrow().hive.clone();
            let text = wait.as_ref().map(in_words).or(hive.map(|hive| format!("waiting for hive '{hive}'")));
            let text = text.filter(|_| self.narrates);
            let pause = match &text {
                Some(_) if self.last.is_none() => Duration::ZERO,
                Some(_) if self.last != text => self.intervals.narrations,
                _ if wait.is_some() => self.intervals.queued,
                _ => self.intervals.asked,
            };
            tokio::select! {
                biased;
                () = tokio::time::sleep_until(since + pause) => {
                    let comment = self.written(text.as_deref().unwrap_or("waiting"));
                    self.last = text;
                    return comment;
                }
                // The others are told nothing of their place.
                () = place_changed(queued), if self.narrates => {}
                () = stage_changed(&mut self.shown) => {}
            }
        }
    }

    fn written(&mut self, text: &str) -> String {
        let job_id = self.job_id().filter(|_| !self.has_job);
        self.has_job |= job_id.is_some();
        let job = job_id.map(|job_id| format!("; x-rbee-job-id: {job_id}")).unwrap_or_default();
        format!("{text}{job}")
    }
}

/// Waits until the place in the queue or its load has changed.
async fn place_changed(queued: Option<Watch>) {
    match queued {
        Some(mut queued) => queued.changed().await,
        None => std::future::pending().await,
    }
}

/// Waits until the request enters or leaves the queue.
async fn stage_changed(shown: &mut watch::Receiver<Shown>) {
    if shown.changed().await.is_err() {
        // It has its answer, or none, which is about to be passed on.
        std::future::pending::<()>().await;
    }
}

/// `waiting: 3 of 8; loading 'x': 41 %, about 12 s`
fn in_words(wait: &Wait) -> String {
    let place = format!("waiting: {} of {}", wait.place.position, wait.place.of);
    let Some(load) = &wait.load else { return place };
    match load.progress.as_ref().and_then(progress) {
        Some(progress) => format!("{place}; {}: {progress}", load.doing),
        None => format!("{place}; {}", load.doing),
    }
}

/// `41 %, about 12 s`
fn progress(progress: &Progress) -> Option<String> {
    let total = if progress.unit == "percent" { Some(100) } else { progress.total };
    let percent = u128::from(progress.done) * 100 / u128::from(total.filter(|total| *total > 0)?);
    let eta = progress.eta_seconds.map(|seconds| time::in_words(Duration::from_secs(seconds)));
    Some(eta.map_or(format!("{percent} %"), |eta| format!("{percent} %, about {eta}")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::residency::{LoadNews, Place};

    #[tokio::test]
    async fn a_client_is_told_once_which_load_it_waits_for() {
        let at_once = Intervals { queued: Duration::ZERO, asked: Duration::ZERO, narrations: Duration::ZERO };
        let (shown, receiver) = watch::channel(Shown::default());
        let mut waits = Waits::new(receiver.clone(), false, at_once);
        assert_eq!(waits.comment().await, "waiting");
        shown.send_modify(|shown| shown.job_id = Some("job-1".into()));
        assert_eq!(waits.comment().await, "waiting; x-rbee-job-id: job-1");
        assert_eq!(waits.comment().await, "waiting");
        let mut told_in_head = Waits::new(receiver, false, at_once);
        assert_eq!(told_in_head.job_for_head().as_deref(), Some("job-1"));
        assert_eq!(told_in_head.comment().await, "waiting");
    }

    #[test]
    fn a_wait_is_told_with_its_place_and_the_progress_of_the_load() {
        let place = Place { position: 3, of: 8 };
        let words = |load: Option<(&str, Option<Progress>)>| {
            let load = load.map(|(doing, progress)| LoadNews {
                job_id: "job-1".into(),
                doing: doing.to_owned(),
                progress,
            });
            in_words(&Wait { place, load })
        };
        let progress = |done, total, unit: &str, eta_seconds| {
            Some(Progress { done, total, unit: unit.to_owned(), eta_seconds, ..Progress::default() })
        };
        assert_eq!(words(None), "waiting: 3 of 8");
        assert_eq!(words(Some(("loading 'x'", None))), "waiting: 3 of 8; loading 'x'");
        let loading = |progress| words(Some(("loading 'x'", progress)));
        assert_eq!(
            loading(progress(41, Some(100), "bytes", Some(12))),
            "waiting: 3 of 8; loading 'x': 41 %, about 12 s"
        );
        assert_eq!(loading(progress(41, None, "percent", None)), "waiting: 3 of 8; loading 'x': 41 %");
        assert_eq!(loading(progress(41, None, "bytes", None)), "waiting: 3 of 8; loading 'x'");
    }
}
