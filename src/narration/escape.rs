//! Tests of the bans in `clippy.toml`: work that is not started through `crate::spawn` loses its job.
//!
//! Each `expect` fails the build under clippy if `clippy.toml` does not ban the call below it, so that no
//! ban can disappear unnoticed. The tests show that such work misses its job, and that it is counted.

use std::process::Command;

use tokio::sync::mpsc;
use tokio_util::task::TaskTracker;

use super::{NarrationContext, outside_jobs, with_narration_context};
use crate::n;

macro_rules! banned {
    ($escape:expr) => {{
        #[expect(clippy::disallowed_methods, reason = "the test is that clippy bans this call")]
        let escape = $escape;
        escape
    }};
}

/// Runs `escape` in a job and asserts that its narration misses the job, and is counted.
async fn assert_escapes(escape: impl AsyncFnOnce()) {
    let (sender, mut entries) = mpsc::unbounded_channel();
    let before = outside_jobs();
    with_narration_context(NarrationContext::new("job-1".into(), "test", sender), escape()).await;
    assert!(entries.recv().await.is_none(), "the job's stream is empty");
    assert!(outside_jobs() > before, "the narration is counted");
}

fn narrate() {
    n!("escaped", "outside any job");
}

#[tokio::test]
async fn tasks_started_elsewhere_lose_their_job() {
    assert_escapes(async || banned!(tokio::spawn(async { narrate() })).await.unwrap()).await;
    assert_escapes(async || banned!(tokio::task::spawn(async { narrate() })).await.unwrap()).await;
    let runtime = tokio::runtime::Handle::current();
    assert_escapes(async || banned!(runtime.spawn(async { narrate() })).await.unwrap()).await;
    assert_escapes(async || {
        let mut set = tokio::task::JoinSet::new();
        banned!(set.spawn(async { narrate() }));
        set.join_next().await.unwrap().unwrap();
    })
    .await;
    assert_escapes(async || banned!(TaskTracker::new().spawn(async { narrate() })).await.unwrap()).await;
}

#[tokio::test]
async fn threads_started_elsewhere_lose_their_job() {
    assert_escapes(async || banned!(tokio::task::spawn_blocking(narrate)).await.unwrap()).await;
    let runtime = tokio::runtime::Handle::current();
    assert_escapes(async || banned!(runtime.spawn_blocking(narrate)).await.unwrap()).await;
    assert_escapes(async || banned!(std::thread::spawn(narrate)).join().unwrap()).await;
    assert_escapes(async || {
        banned!(std::thread::Builder::new().spawn(narrate)).unwrap().join().unwrap();
    })
    .await;
    assert_escapes(async || {
        let (done, ended) = tokio::sync::oneshot::channel();
        banned!(rayon::spawn(move || {
            narrate();
            done.send(()).unwrap();
        }));
        ended.await.unwrap();
    })
    .await;
}

/// A child process has no context, but only `crate::spawn` narrates its output.
#[test]
fn commands_made_elsewhere_are_banned() {
    let mut child = banned!(Command::new("true"));
    assert!(child.status().unwrap().success());
    drop(banned!(tokio::process::Command::new("true")));
}
