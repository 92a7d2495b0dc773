//! Breaks the rule on purpose: work that is not started through `crate::spawn` loses its job.
//!
//! Each `expect` fails the build under clippy where `clippy.toml` does not refuse the call beneath
//! it, so the bans cannot rot; the tests show what an escape costs, and that it is counted.

use std::process::Command;

use tokio::sync::mpsc;
use tokio_util::task::TaskTracker;

use super::{NarrationContext, strays, with_narration_context};
use crate::n;

macro_rules! refused {
    ($escape:expr) => {{
        #[expect(clippy::disallowed_methods, reason = "clippy must refuse this; the test is that it does")]
        let escape = $escape;
        escape
    }};
}

/// Runs `escape` in a job and proves that what it narrates misses the job, and is counted.
async fn assert_escapes(escape: impl AsyncFnOnce()) {
    let (sender, mut entries) = mpsc::unbounded_channel();
    let before = strays();
    with_narration_context(NarrationContext::new("job-1".into(), "test", sender), escape()).await;
    assert!(entries.recv().await.is_none(), "the job's stream stays empty");
    assert!(strays() > before, "and the counter says so");
}

fn narrate() {
    n!("escaped", "lost to its job");
}

#[tokio::test]
async fn raw_tasks_escape() {
    assert_escapes(async || refused!(tokio::spawn(async { narrate() })).await.unwrap()).await;
    assert_escapes(async || refused!(tokio::task::spawn(async { narrate() })).await.unwrap()).await;
    let runtime = tokio::runtime::Handle::current();
    assert_escapes(async || refused!(runtime.spawn(async { narrate() })).await.unwrap()).await;
    assert_escapes(async || {
        let mut set = tokio::task::JoinSet::new();
        refused!(set.spawn(async { narrate() }));
        set.join_next().await.unwrap().unwrap();
    })
    .await;
    assert_escapes(async || refused!(TaskTracker::new().spawn(async { narrate() })).await.unwrap()).await;
}

#[tokio::test]
async fn raw_threads_escape() {
    assert_escapes(async || refused!(tokio::task::spawn_blocking(narrate)).await.unwrap()).await;
    let runtime = tokio::runtime::Handle::current();
    assert_escapes(async || refused!(runtime.spawn_blocking(narrate)).await.unwrap()).await;
    assert_escapes(async || refused!(std::thread::spawn(narrate)).join().unwrap()).await;
    assert_escapes(async || {
        refused!(std::thread::Builder::new().spawn(narrate)).unwrap().join().unwrap();
    })
    .await;
    assert_escapes(async || {
        let (done, ended) = tokio::sync::oneshot::channel();
        refused!(rayon::spawn(move || {
            narrate();
            done.send(()).unwrap();
        }));
        ended.await.unwrap();
    })
    .await;
}

/// Children have no context to lose, but only `crate::spawn` reads their output into one.
#[test]
fn raw_children_are_refused_too() {
    let mut child = refused!(Command::new("true"));
    assert!(child.status().unwrap().success());
    drop(refused!(tokio::process::Command::new("true")));
}
