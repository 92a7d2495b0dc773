//! `rbee-hive logs [PID|MODEL]`: the log of a worker, as its process wrote it.

use std::io::Write;

use futures::StreamExt;
use serde_json::{Value, json};

use super::{Verb, ps};
use crate::cli::end::{End, Ended};
use crate::cli::session::Session;
use crate::cli::show;
use crate::cli::words::member;
use crate::client::Error;
use crate::error::{Code, Failure};

#[derive(Debug, clap::Args)]
#[group(skip)]
pub(in crate::cli) struct Args {
    /// The process id of the worker, or what names its model [default: the only worker]
    #[arg(value_name = "PID|MODEL")]
    worker: Option<String>,
    /// Follow the log until the worker is gone
    #[arg(long, short)]
    follow: bool,
}

impl Verb for Args {
    const ASKS_ITSELF: bool = true;

    async fn run(self, session: &Session) -> Ended {
        let pid = match self.worker.as_deref().map(str::parse) {
            Some(Ok(pid)) => pid,
            _ => match worker(session, self.worker.as_deref()).await? {
                Some(pid) => pid,
                // The list was shown in its place.
                None => return Ok(()),
            },
        };
        let explained = |error| session.explained(error);
        let mut log = session.hive.worker_log(pid, self.follow).await.map_err(explained)?;
        let mut lines = Lines::default();
        while let Some(bytes) = log.next().await {
            let bytes = bytes.map_err(explained)?;
            if session.json {
                lines.pass(&bytes, |line| show::json(&json!({ "pid": pid, "line": line })))?;
            } else {
                show::bytes(&bytes)?;
            }
        }
        lines.end(|line| show::json(&json!({ "pid": pid, "line": line })))
    }
}

/// The newest worker of a model, one that runs before one that has crashed; without a model the only worker, `None` and
/// the list of all where there are several.
async fn worker(session: &Session, model: Option<&str>) -> Ended<Option<u32>> {
    let workers = session.run_silently("WorkerProcessList", json!({})).await?;
    let workers = workers.as_array().map_or(&[][..], Vec::as_slice);
    let mut found: Vec<&Value> = match model {
        None => workers.iter().collect(),
        Some(name) => match of_model(workers, name) {
            // What names a model need not be its id.
            found if found.is_empty() => {
                let model = session.model(name, false).await?;
                let id = model["base"].as_str().or(model["id"].as_str()).unwrap_or(name);
                of_model(workers, id)
            }
            found => found,
        },
    };
    if found.is_empty() {
        let of = model.map_or_else(|| "this hive".to_owned(), |model| format!("the model '{model}'"));
        let failure = Failure::new(Code::WorkerNotFound, format!("{of} has no worker"));
        let failure = failure.hint("`rbee-hive load MODEL` starts one; `rbee-hive ps` lists the workers");
        return Err(End::Hive(Error::Refused(failure)));
    }
    if model.is_none() && found.len() > 1 {
        // It asks for one of them by its process id.
        session.show(&workers.into(), ps::listed)?;
        return Ok(None);
    }
    found.sort_by_key(|worker| (worker["status"] != "crashed", member(worker, "worker_id")));
    let newest = found.last().and_then(|worker| worker["pid"].as_u64());
    Ok(newest.and_then(|pid| u32::try_from(pid).ok()))
}

fn of_model<'a>(workers: &'a [Value], id: &str) -> Vec<&'a Value> {
    workers.iter().filter(|worker| worker["model"] == id).collect()
}

/// Bytes as they come, as lines.
#[derive(Default)]
struct Lines(Vec<u8>);

impl Lines {
    fn pass(&mut self, bytes: &[u8], mut each: impl FnMut(&str) -> Ended) -> Ended {
        // Writing to memory cannot fail.
        let _ = self.0.write_all(bytes);
        while let Some(end) = self.0.iter().position(|byte| *byte == b'\n') {
            let line: Vec<u8> = self.0.drain(..=end).collect();
            each(String::from_utf8_lossy(&line).trim_end_matches(['\n', '\r']))?;
        }
        Ok(())
    }

    /// What has no end of a line yet.
    fn end(&self, mut each: impl FnMut(&str) -> Ended) -> Ended {
        if self.0.is_empty() { Ok(()) } else { each(&String::from_utf8_lossy(&self.0)) }
    }
}
