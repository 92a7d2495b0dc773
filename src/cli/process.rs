//! The log and the signals of a process that a command line starts.

use std::io::{self, IsTerminal};
use std::time::Duration;

use futures::FutureExt;
use futures::future::select_all;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::runtime::Builder;
use tokio::signal::unix::{SignalKind, signal};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Layer};

use crate::daemon::Stop;
use crate::spawn;

/// The form of the log.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum LogFormat {
    /// Lines for people.
    #[default]
    Text,
    /// A JSON object for each line.
    Json,
}

/// Sends the log to standard error. `RUST_LOG` is its filter, otherwise `default`. Where `is_traced`, the traces go to
/// the collector that the environment names, if it names one.
pub(super) fn log_to_stderr(default: &str, format: LogFormat, is_traced: bool) {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(default));
    // A terminal that was closed takes no more lines. A report of that would go there too, and panic.
    let log = tracing_subscriber::fmt::layer().log_internal_errors(false).with_writer(io::stderr);
    let log = match format {
        LogFormat::Json => log.json().boxed(),
        LogFormat::Text => log.with_ansi(io::stderr().is_terminal()).boxed(),
    };
    let subscriber = tracing_subscriber::registry();
    #[cfg(feature = "otlp")]
    {
        let (traces, problem) = match is_traced.then(crate::traces::layer).transpose() {
            Ok(layer) => (layer.flatten(), None),
            Err(problem) => (None, Some(problem)),
        };
        subscriber.with(traces).with(log.with_filter(filter)).init();
        if let Some(problem) = problem {
            tracing::warn!("no traces are sent: {problem}");
        }
    }
    #[cfg(not(feature = "otlp"))]
    {
        let _ = is_traced;
        subscriber.with(log.with_filter(filter)).init();
    }
}

/// The limit of open files to ask for: far above what a hive needs, and no burden to the workers, which
/// inherit it.
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

/// Completes when the process receives SIGINT, SIGQUIT or SIGTERM, or SIGUSR1: then another process is to serve next. The handlers are installed by the
/// call, not by the first poll, so that a client that has read the ready line can stop the hive
/// cleanly.
pub(super) fn stop_signal() -> impl Future<Output = Stop> + Send {
    let successor = SignalKind::user_defined1();
    let kinds = [SignalKind::interrupt(), SignalKind::quit(), SignalKind::terminate(), successor];
    let signals = kinds.map(signal).into_iter().collect::<io::Result<Vec<_>>>();
    async move {
        let Ok(mut signals) = signals else {
            tracing::warn!(
                "could not install the handlers of SIGINT, SIGQUIT and SIGTERM; stop with POST /v1/shutdown"
            );
            return std::future::pending().await;
        };
        let (_, which, _) = select_all(signals.iter_mut().map(|signal| signal.recv().boxed())).await;
        if kinds[which] == successor { Stop::ForSuccessor } else { Stop::Ended }
    }
}

/// Calls `act` for each SIGHUP, of which a terminal sends one when it is closed. The handler is installed
/// by the call.
pub(super) fn on_hangup(act: impl Fn() + Send + 'static) {
    match signal(SignalKind::hangup()) {
        Ok(mut hangups) => {
            spawn::detached(async move {
                while hangups.recv().await.is_some() {
                    act();
                }
            });
        }
        Err(error) => tracing::warn!(%error, "could not install the handler of SIGHUP"),
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
