//! The log and the stop signal of a process that a command line starts.

use std::io::IsTerminal;

use tokio::signal::unix::{SignalKind, signal};
use tracing_subscriber::EnvFilter;

/// Sends the log to standard error. `RUST_LOG` is its filter, otherwise `default`.
pub(super) fn log_to_stderr(default: &str) {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(default));
    let subscriber = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    if std::env::var_os("RBEE_HIVE_LOG_JSON").is_some() {
        subscriber.json().init();
    } else {
        subscriber.with_ansi(std::io::stderr().is_terminal()).init();
    }
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
