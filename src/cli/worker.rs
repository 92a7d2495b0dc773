//! `rbee-hive worker`: the built-in engine, one process a model.

use std::path::PathBuf;

use tokio_util::sync::CancellationToken;

use crate::engine::serve::{self, WorkerOptions};
use crate::error::Result;
use crate::spawn;

/// Serves one GGUF model over HTTP on loopback. The secret that callers must send, if any, comes
/// in `RBEE_WORKER_SECRET`, never on the command line.
#[derive(Debug, clap::Args)]
#[group(skip)]
pub(super) struct Args {
    /// The GGUF file to serve
    #[arg(long, value_name = "FILE")]
    model: PathBuf,
    /// The port to serve on; 0 takes a free one
    #[arg(long, default_value_t = 0)]
    port: u16,
    /// The name under which the model answers [default: the file's stem]
    #[arg(long, value_name = "ID")]
    model_id: Option<String>,
    /// Tokens of context [default: the model's own maximum, within reason]
    #[arg(long, value_name = "TOKENS")]
    context_length: Option<usize>,
    /// Requests that are served at once
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u8).range(1..=64))]
    slots: u8,
    /// Where to say on which port it listens, or why it could not load
    #[arg(long, value_name = "FILE")]
    report: Option<PathBuf>,
    /// End when standard input closes, so that it does not outlive whoever started it
    #[arg(long)]
    lifeline: bool,
}

impl Args {
    pub(super) async fn run(self) -> Result<()> {
        super::log_to_stderr("info");
        let shutdown = CancellationToken::new();
        let stop = shutdown.clone();
        spawn::detached(async move {
            super::stop_signal().await;
            stop.cancel();
        });
        let options = WorkerOptions {
            model: self.model,
            model_id: self.model_id,
            port: self.port,
            report: self.report,
            context_length: self.context_length,
            slots: usize::from(self.slots),
            lifeline: self.lifeline,
        };
        serve::run(options, shutdown).await
    }
}
