//! `rbee-hive worker`: the built-in engine, one process for each model.

use std::path::PathBuf;

use tokio_util::sync::CancellationToken;

use super::process::{self, LogFormat};
use crate::engine::serve::{self, WorkerOptions};
use crate::error::Result;
use crate::spawn;

/// Serve one GGUF model over HTTP on loopback. If `RBEE_WORKER_SECRET` is set, callers must send it;
/// it is never on the command line.
#[derive(Debug, clap::Args)]
#[group(skip)]
pub(super) struct Args {
    /// The GGUF file to serve
    #[arg(long, value_name = "FILE")]
    model: PathBuf,
    /// The port to serve on; 0 takes a free one
    #[arg(long, default_value_t = 0)]
    port: u16,
    /// The name of the model in requests and responses [default: the file's stem]
    #[arg(long, value_name = "ID")]
    model_id: Option<String>,
    /// The file of a chat template to use instead of the model's own
    #[arg(long, value_name = "FILE")]
    chat_template: Option<PathBuf>,
    /// Tokens of context [default: the model's own maximum, 8192 at most]
    #[arg(long, value_name = "TOKENS")]
    context_length: Option<usize>,
    /// Requests served at the same time
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u8).range(1..=64))]
    slots: u8,
    /// The file to which it writes its port once it listens, or why it could not load the model
    #[arg(long, value_name = "FILE")]
    report: Option<PathBuf>,
    /// End when standard input closes, so that it does not outlive the process that started it
    #[arg(long)]
    lifeline: bool,
}

impl Args {
    pub(super) async fn run(self) -> Result<()> {
        process::log_to_stderr("info", LogFormat::Text, false);
        let shutdown = CancellationToken::new();
        let stop = shutdown.clone();
        spawn::detached(async move {
            process::stop_signal().await;
            stop.cancel();
        });
        let options = WorkerOptions {
            model: self.model,
            model_id: self.model_id,
            chat_template: self.chat_template,
            port: self.port,
            report: self.report,
            context_length: self.context_length,
            slots: usize::from(self.slots),
            lifeline: self.lifeline,
        };
        serve::run(options, shutdown).await
    }
}
