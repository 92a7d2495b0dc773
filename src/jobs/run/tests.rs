use std::sync::atomic::{AtomicBool, Ordering};

use super::*;
use crate::config::Jobs;
use crate::jobs::job::JobHeader;
use crate::jobs::limits::Limits;
use crate::jobs::log::{Bounds, Log};

fn job() -> Arc<Job> {
    let header = JobHeader {
        id: JobId::new(),
        operation: "test".into(),
        kind: OperationKind::Act,
        request: RawValue::from_string("{}".into()).unwrap(),
        created_at: crate::time::Instant::now(),
        idempotency_key: None,
        journal_damage: None,
    };
    Arc::new(Job::queued(header, Arc::new(Log::new(Bounds { events: 100, bytes: 1 << 20 }))))
}

/// Runs a job whose operation notes that it started.
async fn run(job: &Arc<Job>, claim: Claim, started: &Arc<AtomicBool>) -> Terminal {
    let limits = RunLimits::new(&Timers::default());
    let started = Arc::clone(started);
    let operation = |_| async move {
        started.store(true, Ordering::SeqCst);
        Ok(())
    };
    JobRun::new(Arc::clone(job), claim, limits).run(None, operation).await
}

#[tokio::test]
async fn a_job_that_is_stopped_as_it_gets_its_permit_never_starts() {
    let limits = Limits::new(&Jobs { concurrent_acts: 1, ..Jobs::default() });
    let started = Arc::new(AtomicBool::new(false));
    // Of two branches that are ready a `select!` takes either: this many times it takes both.
    for _ in 0..64 {
        let Ok(Claim::Permit(permit)) = limits.claim(JobClass::Acts) else { panic!("no permit is taken") };
        let job = job();
        let mut running = Box::pin(run(&job, limits.claim(JobClass::Acts).unwrap(), &started));
        assert!(futures::poll!(&mut running).is_pending(), "it waits for the permit");
        drop(permit);
        job.stop(StopReason::Cancel);
        assert!(matches!(running.await, Terminal::Cancelled));
        assert!(!started.load(Ordering::SeqCst), "it started");
    }
}

#[tokio::test]
async fn a_job_that_is_stopped_before_it_runs_never_starts() {
    let limits = Limits::new(&Jobs { concurrent_acts: 1, ..Jobs::default() });
    let started = Arc::new(AtomicBool::new(false));
    let (job, claim) = (job(), limits.claim(JobClass::Acts).unwrap());
    job.stop(StopReason::Shutdown);
    let terminal = run(&job, claim, &started).await;
    assert!(matches!(terminal, Terminal::Failed(failure) if failure.code == Code::Interrupted));
    assert!(!started.load(Ordering::SeqCst), "it started");
    assert!(matches!(limits.claim(JobClass::Acts), Ok(Claim::Permit(_))), "its permit is free again");
}

#[tokio::test]
async fn what_stands_behind_a_failure_is_narrated_before_its_terminal() {
    use crate::narration::{Entry, with_narration_context};

    let limits = Limits::new(&Jobs::default());
    let run = JobRun::new(job(), limits.claim(JobClass::Acts).unwrap(), RunLimits::new(&Timers::default()));
    let (sender, mut entries) = tokio::sync::mpsc::unbounded_channel();
    let failing = run.run(None, |_| async {
        let mut failure = Failure::new(Code::WorkerFailed, "it failed: the outer cause");
        failure.causes = vec!["the outer cause".to_owned(), "the inner cause".to_owned()];
        failure.log_tail = vec!["one".to_owned(), "two".to_owned()];
        Err(failure)
    });
    let context = NarrationContext::new("job-1".to_owned(), "test", sender);
    assert!(matches!(with_narration_context(context, failing).await, Terminal::Failed(_)));
    let mut told = Vec::new();
    while let Ok(Entry::Narration(narration) | Entry::Step { narration, .. }) = entries.try_recv() {
        if narration.level == Level::Warn {
            told.push(narration.message);
        }
    }
    assert_eq!(told, ["Cause: the inner cause", "The end of its log:\n  one\n  two"]);
}

/// Runs a job that waits until it has narrated twice that it still runs.
#[tokio::test]
async fn setting_the_clock_back_silences_no_job() {
    use crate::narration::{Entry, with_narration_context};
    use crate::time::turn_wall;

    const DAY_MS: i64 = 24 * 3600 * 1000;
    let limits = Limits::new(&Jobs::default());
    let job = job();
    let timers = Timers { silence: Duration::from_millis(20).into(), ..Timers::default() };
    let run = JobRun::new(Arc::clone(&job), limits.claim(JobClass::Acts).unwrap(), RunLimits::new(&timers));
    let (sender, mut entries) = tokio::sync::mpsc::unbounded_channel();
    let context = NarrationContext::new("job-1".to_owned(), "test", sender);
    let running = with_narration_context(
        context,
        run.run(None, |handle| async move {
            handle.stop.cancelled().await;
            Ok(())
        }),
    );
    let listening = async {
        for turned in [-DAY_MS, DAY_MS] {
            turn_wall(turned);
            while !matches!(entries.recv().await,
                Some(Entry::Narration(narration)) if narration.action == "still_working")
            {}
        }
        job.stop(StopReason::Cancel);
    };
    tokio::join!(running, listening);
    turn_wall(0);
}
