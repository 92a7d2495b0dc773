//! `rbee-hive load MODEL`: gets a ready worker for a model, or shows what that would take.

use serde_json::json;

use super::Verb;
use crate::cli::end::Ended;
use crate::cli::session::Session;
use crate::cli::show::fields;

#[derive(Debug, clap::Args)]
#[group(skip)]
pub(in crate::cli) struct Args {
    /// The id of the model, or what else names it
    model: String,
    /// cpu, cuda:0, or a number, which counts GPUs [default: what the settings of the model say, else the hive]
    #[arg(long)]
    device: Option<String>,
    /// Tokens of context, at least [default: the engine's choice]
    #[arg(long, value_name = "TOKENS")]
    context_length: Option<u64>,
    /// Requests that the worker answers at the same time, at least [default: the engine's choice]
    #[arg(long, value_name = "COUNT")]
    slots: Option<u32>,
    /// How long it stays without a request: 10m, a number of seconds, 0 for not at all, -1 until its room is needed
    /// [default: -1]
    #[arg(long, alias = "keepalive", value_name = "DURATION", allow_hyphen_values = true)]
    keep_alive: Option<String>,
    /// Load it even if it does not seem to fit into memory
    #[arg(long)]
    force: bool,
    /// Why it is loaded, for people
    #[arg(long)]
    reason: Option<String>,
    /// Show the plan, and do nothing
    #[arg(long)]
    dry_run: bool,
}

impl Verb for Args {
    async fn run(self, session: &Session) -> Ended {
        let request = json!({
            "id": self.model, "device": self.device, "context_length": self.context_length, "slots": self.slots,
            "keep_alive": self.keep_alive, "force": self.force, "reason": self.reason, "dry_run": self.dry_run,
        });
        let result = session.run("ModelLoad", request).await?;
        session.show(&result, fields)
    }
}
