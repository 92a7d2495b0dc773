//! `rbee-hive ps [PID]`: the workers.

use serde_json::{Value, json};

use super::Verb;
use crate::cli::end::Ended;
use crate::cli::session::Session;
use crate::cli::show::{Column, fields, number, number_of, table, text_of};
use crate::text;

#[derive(Debug, clap::Args)]
#[group(skip)]
pub(in crate::cli) struct Args {
    /// The process id of the one to show
    pid: Option<u32>,
}

impl Verb for Args {
    async fn run(self, session: &Session) -> Ended {
        if let Some(pid) = self.pid {
            let worker = session.run("WorkerProcessGet", json!({ "pid": pid })).await?;
            return session.show(&worker, fields);
        }
        let workers = session.run("WorkerProcessList", json!({})).await?;
        session.show_list(&workers, columns())
    }
}

/// Workers as a table.
pub(super) fn listed(workers: &Value) -> String {
    table(workers.as_array().map_or(&[], Vec::as_slice), &columns())
}

fn columns() -> Vec<Column<'static>> {
    vec![
        number_of("PID", "pid"),
        text_of("MODEL", "model"),
        text_of("STATUS", "status"),
        text_of("DEVICE", "device"),
        text_of("ENGINE", "engine"),
        number("MEMORY", memory),
        number_of("CONTEXT", "context_length"),
        number_of("SLOTS", "slots"),
        number_of("UP", "uptime_seconds"),
    ]
}

/// What it holds of the machine's memory and of the GPUs'.
fn memory(worker: &Value) -> String {
    let of = |name: &str| worker[name].as_u64().unwrap_or(0);
    text::bytes(of("rss_bytes") + of("vram_bytes"))
}
