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
        created_at: Instant::now(),
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
