//! `rbee-hive spawn MODEL`: starts another worker for a model.

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
    /// A kind of device (cpu, cuda, metal, rocm, vulkan), an engine's name, or auto
    #[arg(long, default_value = "auto", value_name = "KIND|ENGINE")]
    worker: String,
    /// Which of the devices of that kind [default: the first; with auto, the hive's choice]
    #[arg(long)]
    device: Option<String>,
    /// Tokens of context [default: the engine's choice]
    #[arg(long, value_name = "TOKENS")]
    context_length: Option<u64>,
    /// Requests that the worker answers at the same time [default: the engine's choice]
    #[arg(long, value_name = "COUNT")]
    slots: Option<u32>,
    /// Start it even if it does not seem to fit into memory
    #[arg(long)]
    force: bool,
}

impl Verb for Args {
    async fn run(self, session: &Session) -> Ended {
        let device = self.device.or_else(|| (self.worker == "auto").then(|| "auto".to_owned()));
        let request = json!({
            "model": self.model, "worker": self.worker, "device": device, "context_length": self.context_length,
            "slots": self.slots, "force": self.force,
        });
        let result = session.run("WorkerSpawn", request).await?;
        session.show(&result, fields)
    }
}
