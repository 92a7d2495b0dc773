//! The command line: `rbee-hive` is `rbee-hive serve`.

mod quickstart;
mod serve;
mod worker;

use clap::{Parser, Subcommand};

use crate::error::Result;

/// Manages the language models of a machine and the worker processes that serve them, and narrates
/// every step.
#[derive(Debug, Parser)]
#[command(
    name = "rbee-hive",
    version,
    args_conflicts_with_subcommands = true,
    subcommand_negates_reqs = true
)]
pub struct Cli {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    serve: serve::Args,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Serve the hive's API (what `rbee-hive` does by itself).
    Serve(serve::Args),
    /// Watch a hive list, load, chat with and unload a model, on this machine, now.
    Quickstart(quickstart::Args),
    /// The built-in engine: serve one GGUF model. The hive starts these by itself.
    Worker(worker::Args),
}

impl Cli {
    /// Does what the command line asks for.
    ///
    /// # Errors
    /// Whatever stopped it; the failure's code is the exit status.
    pub async fn run(self) -> Result<()> {
        match self.command {
            None => self.serve.run().await,
            Some(Command::Serve(args)) => args.run().await,
            Some(Command::Quickstart(args)) => args.run().await,
            Some(Command::Worker(args)) => args.run().await,
        }
    }
}

/// Sends the log to standard error: `RUST_LOG`, else `default`, says what of it.
fn log_to_stderr(default: &str) {
    use tracing_subscriber::EnvFilter;

    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(default));
    let subscriber = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    if std::env::var_os("RBEE_HIVE_LOG_JSON").is_some() {
        subscriber.json().init();
    } else {
        use std::io::IsTerminal;
        subscriber.with_ansi(std::io::stderr().is_terminal()).init();
    }
}

/// Ready when the process is asked to stop: SIGINT or SIGTERM. They are caught from the call on, not
/// from the first poll: whoever has read the ready line may stop the hive cleanly.
fn stop_signal() -> impl Future<Output = ()> + Send {
    use tokio::signal::unix::{SignalKind, signal};

    let signals = (signal(SignalKind::interrupt()), signal(SignalKind::terminate()));
    async move {
        let (Ok(mut interrupt), Ok(mut terminate)) = signals else {
            tracing::warn!("signals cannot be caught here; stop with POST /v1/shutdown");
            return std::future::pending().await;
        };
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
    }
}
