//! The only file that may start tasks, threads and processes. It carries the narration context into
//! them, so that everything that a job starts narrates into that job's stream.
//!
//! `clippy.toml` bans every other way to start them. Work that must outlive the job that starts it (the
//! owner of a worker, the daemon's own loops) uses [`detached`], and narrates outside any job.

#![expect(clippy::disallowed_methods, reason = "the bans of clippy.toml hold everywhere but in this file")]

use std::ffi::OsStr;
use std::future::Future;
use std::io;

use futures::FutureExt;
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::process::Command;
use tokio::task::JoinHandle;
use tracing::Instrument;

use crate::error::{Failure, Result};
use crate::narration::{self, Level, LineNarrator, LineSplitter};

/// Starts a task in the narration context of the caller.
pub fn task<F>(future: F) -> JoinHandle<F::Output>
where
    F: Future + Send + 'static,
    F::Output: Send + 'static,
{
    match narration::current() {
        Some(context) => tokio::spawn(narration::with_narration_context(context, future).in_current_span()),
        None => tokio::spawn(future.in_current_span()),
    }
}

/// Starts a task without a narration context: it belongs to the daemon, not to the job that starts it.
pub fn detached<F>(future: F) -> JoinHandle<F::Output>
where
    F: Future + Send + 'static,
    F::Output: Send + 'static,
{
    tokio::spawn(future)
}

/// Starts blocking work on the runtime's thread pool, in the narration context of the caller. The work
/// starts at once, whether or not the returned future is awaited.
///
/// # Errors
/// [`Code::Internal`](crate::error::Code::Internal) if the work panicked; the panic is the private
/// detail.
pub fn blocking<F, R>(work: F) -> impl Future<Output = Result<R>> + Send + Unpin + use<F, R>
where
    F: FnOnce() -> R + Send + 'static,
    R: Send + 'static,
{
    let started = tokio::task::spawn_blocking(carry(work));
    started.map(|joined| {
        joined.map_err(|error| Failure::internal("work on the blocking thread pool panicked").detail(error))
    })
}

/// Starts a thread in the narration context of the caller.
///
/// # Errors
/// The system cannot start another thread.
pub fn thread<F, R>(name: &str, work: F) -> io::Result<std::thread::JoinHandle<R>>
where
    F: FnOnce() -> R + Send + 'static,
    R: Send + 'static,
{
    std::thread::Builder::new().name(name.to_owned()).spawn(carry(work))
}

/// Runs `work` on a thread of its own that cannot gain privileges, and waits for it. The processes that
/// the work starts inherit this (`PR_SET_NO_NEW_PRIVS`, `prctl(2)`): no set-user-id program lifts them
/// above their user. The attribute cannot be taken back, which is why the thread ends with the work. The same holds
/// for what the work forbids itself further; it must start no thread, which would inherit all that.
///
/// # Errors
/// The system cannot start another thread, or does not know the attribute.
pub fn without_new_privileges<R: Send>(work: impl FnOnce() -> R + Send) -> io::Result<R> {
    // A child is reaped by the runtime of the caller.
    let runtime = tokio::runtime::Handle::current();
    let work = carry(work);
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().name("launch".to_owned()).spawn_scoped(scope, || {
            let _within = runtime.enter();
            #[cfg(target_os = "linux")]
            rustix::thread::set_no_new_privs(true)?;
            Ok(work())
        })?;
        thread.join().unwrap_or_else(|_| Err(io::Error::other("the thread that starts a process panicked")))
    })
}

/// A command for a child process whose standard input is empty. Narrate its output with
/// [`narrate_lines`], or redirect it to a file.
pub fn command(program: impl AsRef<OsStr>) -> Command {
    let mut command = Command::new(program);
    command.stdin(std::process::Stdio::null());
    command
}

/// Narrates each line that a child writes, in the narration context of the caller, until the child
/// closes its end. Lines above the limit of [`LineNarrator`] are counted instead. All output is read, so
/// that the child never blocks on a full pipe.
pub fn narrate_lines(
    mut output: impl AsyncRead + Send + Unpin + 'static,
    level: Level,
    action: &'static str,
    prefix: impl Into<String>,
) -> JoinHandle<()> {
    let mut narrator = LineNarrator::new(level, action, prefix);
    task(async move {
        let mut splitter = LineSplitter::default();
        let mut buffer = vec![0; 8192];
        while let Ok(read @ 1..) = output.read(&mut buffer).await {
            splitter.push(&buffer[..read], |line| narrator.line(line));
        }
        splitter.finish(|line| narrator.line(line));
    })
}

/// Wraps work so that it runs in the caller's context and span, on any thread.
fn carry<R>(work: impl FnOnce() -> R) -> impl FnOnce() -> R {
    let (context, span) = (narration::current(), tracing::Span::current());
    move || {
        span.in_scope(|| match context {
            Some(context) => context.enter(work),
            None => work(),
        })
    }
}

#[cfg(test)]
mod tests {
    use tokio::sync::mpsc;

    use super::*;
    use crate::n;
    use crate::narration::{Entry, NarrationContext, with_narration_context};

    #[tokio::test]
    async fn nested_tasks_threads_and_children_keep_the_context() {
        let (sender, mut entries) = mpsc::unbounded_channel();
        with_narration_context(NarrationContext::new("job-1".into(), "test", sender), async {
            task(async {
                blocking(|| {
                    thread("deep", || n!("thread", "from a thread in a pool in a task"))
                        .unwrap()
                        .join()
                        .unwrap();
                })
                .await
                .unwrap();
            })
            .await
            .unwrap();
            let mut child =
                command("echo").arg("from a child").stdout(std::process::Stdio::piped()).spawn().unwrap();
            let reader = narrate_lines(child.stdout.take().unwrap(), Level::Info, "child", "");
            child.wait().await.unwrap();
            reader.await.unwrap();
        })
        .await;
        let mut messages = Vec::new();
        while let Some(Entry::Narration(narration)) = entries.recv().await {
            messages.push(narration.message);
        }
        assert_eq!(messages, ["from a thread in a pool in a task", "from a child"]);
    }
}
