//! The log and the stop signal of a process that a command line starts.

use std::io::{self, IsTerminal};
use std::time::Duration;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::runtime::Builder;
use tokio::signal::unix::{SignalKind, signal};
use tracing_subscriber::EnvFilter;

/// Sends the log to standard error. `RUST_LOG` is its filter, otherwise `default`.
pub(super) fn log_to_stderr(default: &str) {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(default));
    let subscriber = tracing_subscriber::fmt().with_env_filter(filter).with_writer(io::stderr);
    if std::env::var_os("RBEE_HIVE_LOG_JSON").is_some() {
        subscriber.json().init();
    } else {
        subscriber.with_ansi(io::stderr().is_terminal()).init();
    }
}

/// The limit of open files to ask for: far above what a hive needs, and no burden to the workers, which inherit
/// it.
const OPEN_FILES: u64 = 65_536;

/// Raises this process's limit of open files as far as the system lets it: the usual one is for programs that
/// wait for their files with `select`.
pub(super) fn allow_open_files() {
    let limit = getrlimit(Resource::Nofile);
    let wanted = limit.maximum.map_or(OPEN_FILES, |most| most.min(OPEN_FILES));
    if limit.current.is_some_and(|current| current < wanted)
        && let Err(error) = setrlimit(Resource::Nofile, Rlimit { current: Some(wanted), ..limit })
    {
        tracing::warn!(%error, "could not raise the limit of open files to {wanted}");
    }
}

/// How long the end of the process waits for threads that are in the middle of something.
const END_GRACE: Duration = Duration::from_secs(2);

/// Runs `future` on a runtime of that kind, and then waits for no thread that hangs, such as one that reads
/// a network mount whose server is gone.
///
/// # Errors
/// The system cannot start the runtime's threads.
pub fn run_to_end<F: Future>(runtime: &mut Builder, future: F) -> io::Result<F::Output> {
    run_with_grace(runtime, future, END_GRACE)
}

fn run_with_grace<F: Future>(runtime: &mut Builder, future: F, grace: Duration) -> io::Result<F::Output> {
    let runtime = runtime.enable_all().build()?;
    let output = runtime.block_on(future);
    runtime.shutdown_timeout(grace);
    Ok(output)
}

/// Completes when the process receives SIGINT or SIGTERM. The handlers are installed by the call, not
/// by the first poll, so that a client that has read the ready line can stop the hive cleanly.
pub(super) fn stop_signal() -> impl Future<Output = ()> + Send {
    let signals = (signal(SignalKind::interrupt()), signal(SignalKind::terminate()));
    async move {
        let (Ok(mut interrupt), Ok(mut terminate)) = signals else {
            tracing::warn!(
                "could not install the handlers of SIGINT and SIGTERM; stop with POST /v1/shutdown"
            );
            return std::future::pending().await;
        };
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spawn;

    #[test]
    fn the_end_waits_for_no_thread_that_hangs() {
        let (release, released) = std::sync::mpsc::channel::<()>();
        let output = run_with_grace(
            &mut Builder::new_multi_thread(),
            async {
                let (started, is_started) = tokio::sync::oneshot::channel();
                drop(spawn::blocking(move || {
                    started.send(()).unwrap();
                    // Until the test ends.
                    let _ = released.recv();
                }));
                is_started.await
            },
            Duration::ZERO,
        );
        output.unwrap().unwrap();
        drop(release);
    }
}
