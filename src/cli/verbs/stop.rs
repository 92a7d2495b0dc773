//! `rbee-hive stop PID|MODEL…`: ends a worker, or all workers of a model.

use serde_json::{Value, json};

use super::{Verb, each, unload};
use crate::cli::end::Ended;
use crate::cli::session::Session;
use crate::cli::words::{member, of_field};

#[derive(Debug, clap::Args)]
#[group(skip)]
pub(in crate::cli) struct Args {
    /// The process id of a worker, or what names a model
    #[arg(required = true, value_name = "PID|MODEL")]
    stopped: Vec<String>,
    /// How long a worker's requests, and then its process, may take to end before it is killed [default: 10]
    #[arg(long, value_name = "SECONDS")]
    grace: Option<u64>,
    /// Why it is stopped, for people
    #[arg(long)]
    reason: Option<String>,
}

impl Verb for Args {
    async fn run(self, session: &Session) -> Ended {
        each(&self.stopped, async |name| {
            let Ok(pid) = name.parse::<u32>() else { return unload::unload(session, name).await };
            let request = json!({ "pid": pid, "grace_seconds": self.grace, "reason": self.reason });
            let result = session.run("WorkerProcessDelete", request).await?;
            session.show(&result, told)
        })
        .await
    }
}

fn told(stopped: &Value) -> String {
    let how = match (of_field("signal", &stopped["signal"]), of_field("exit_code", &stopped["exit_code"])) {
        (Some(signal), _) => format!("by {signal}"),
        (None, Some(code)) => format!("with exit code {code}"),
        (None, None) => "in a way that nobody saw".to_owned(),
    };
    format!("worker {}: ended {how}, {} freed\n", member(stopped, "pid"), member(stopped, "freed_bytes"))
}
