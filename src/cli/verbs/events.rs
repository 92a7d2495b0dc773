//! `rbee-hive events`: what changes in the hive, a line for each change.

use clap::ValueEnum;
use serde_json::{Value, json};

use super::Verb;
use crate::cli::end::Ended;
use crate::cli::session::Session;
use crate::cli::words::{counted, member, of_field, yellow};
use crate::cli::{show, words};
use crate::client::HiveEvent;
use crate::text;

#[derive(Debug, clap::Args)]
#[group(skip)]
pub(in crate::cli) struct Args {
    /// Only the changes of these, parted by commas [default: all but request and telemetry]
    #[arg(long, value_delimiter = ',')]
    topic: Vec<Topic>,
    /// Requests to models too
    #[arg(long)]
    requests: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Topic {
    Job,
    Model,
    Worker,
    Residency,
    Request,
    Telemetry,
}

impl Args {
    fn wants(&self, event: &str) -> bool {
        let Ok(topic) = Topic::from_str(event, false) else { return event == "snapshot" };
        match topic {
            Topic::Request if self.requests => true,
            Topic::Request | Topic::Telemetry => self.topic.contains(&topic),
            _ => self.topic.is_empty() || self.topic.contains(&topic),
        }
    }
}

impl Verb for Args {
    const ASKS_ITSELF: bool = true;

    async fn run(self, session: &Session) -> Ended {
        let mut events = session.hive.events();
        let mut is_lost = false;
        loop {
            match events.next().await.map_err(|error| session.explained(error))? {
                HiveEvent::Lost(failure) => {
                    is_lost = true;
                    session.say(&yellow(&format!("{failure}; connecting again")));
                }
                HiveEvent::Event { name, data } => {
                    if std::mem::take(&mut is_lost) {
                        session.say("Connected again");
                    }
                    if !self.wants(&name) {
                        continue;
                    }
                    if session.json {
                        show::json(&json!({ "event": name, "data": data }))?;
                    } else if let Some(line) = told(&name, &data) {
                        show::line(&line)?;
                    }
                }
            }
        }
    }
}

/// An event in words; `None` for one of a later version of the hive.
fn told(name: &str, data: &Value) -> Option<String> {
    let words = match name {
        "snapshot" => snapshot(data),
        "job" => job(data),
        "model" => format!("{} {}", member(&data["model"], "id"), member(data, "change")),
        "worker" => worker(data),
        "residency" => residency(data),
        "request" => request(data),
        "telemetry" => telemetry(data),
        _ => return None,
    };
    Some(format!("{name:<9}  {words}"))
}

fn length(list: &Value) -> usize {
    list.as_array().map_or(0, Vec::len)
}

fn snapshot(data: &Value) -> String {
    let running = data["jobs"].as_array().into_iter().flatten();
    let running = running.filter(|job| job["state"] == "running" || job["state"] == "queued").count();
    [
        format!("hive '{}', version {}", member(data, "hive_id"), member(data, "version")),
        counted(length(&data["models"]), "model", ""),
        counted(length(&data["workers"]), "worker", ""),
        counted(running, "job", " under way"),
    ]
    .join(", ")
}

fn job(data: &Value) -> String {
    let job = &data["job"];
    let about = words::subject(&job["request"]).map_or_else(String::new, |about| format!(" '{about}'"));
    let happened = match data["change"].as_str() {
        Some("queued") => "waits for its turn".to_owned(),
        Some("start") => "starts".to_owned(),
        Some("progress") => member(data, "message"),
        Some("end") => {
            let why = of_field("message", &job["failure"]["message"]);
            format!("{}{}", member(job, "state"), why.map_or_else(String::new, |why| format!(": {why}")))
        }
        _ => member(data, "change"),
    };
    format!("{} {}{about}: {happened}", member(job, "job_id"), member(job, "operation"))
}

fn worker(data: &Value) -> String {
    let worker = &data["worker"];
    let state = if data["change"] == "removed" { "removed".to_owned() } else { member(worker, "status") };
    let why = of_field("message", &data["message"]).or_else(|| of_field("cause", &data["cause"]));
    let why = why.map_or_else(String::new, |why| format!(": {why}"));
    format!("{} of '{}' {state}{why}", member(worker, "pid"), member(worker, "model"))
}

fn residency(data: &Value) -> String {
    let waiting: u64 =
        data["queue"].as_array().into_iter().flatten().filter_map(|of| of["waiting"].as_u64()).sum();
    let held: u64 = data["residents"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|held| held["held_bytes"].as_u64())
        .sum();
    [
        counted(length(&data["residents"]), "worker", &format!(" in memory ({})", text::bytes(held))),
        counted(length(&data["loads"]), "load", " under way"),
        counted(usize::try_from(waiting).unwrap_or(usize::MAX), "request", " waiting"),
    ]
    .join(", ")
}

fn request(data: &Value) -> String {
    if data["state"] == "left_out" {
        return counted(data["count"].as_u64().map_or(0, |count| count as usize), "change", " left out");
    }
    let mut parts = vec![match data["outcome"].as_str() {
        Some(outcome) => outcome.replace('_', " "),
        None => member(data, "state"),
    }];
    parts.extend(of_field("code", &data["code"]));
    if data["state"] == "ended" {
        parts.extend(of_field("total_ms", &data["total_ms"]));
        parts.extend(data["completion_tokens"].as_u64().map(|tokens| format!("{tokens} tokens")));
        let speed = of_field("tokens_per_second", &data["tokens_per_second"]);
        parts.extend(speed.map(|speed| format!("{speed} tokens/s")));
    }
    format!("{} to '{}': {}", member(data, "request_id"), member(data, "model"), parts.join(", "))
}

fn telemetry(data: &Value) -> String {
    let state = |worker: &Value| format!("{} {}", member(worker, "pid"), member(worker, "status"));
    let states: Vec<_> = data["worker_states"].as_array().into_iter().flatten().map(state).collect();
    counted(
        states.len(),
        "worker",
        &if states.is_empty() { String::new() } else { format!(": {}", states.join(", ")) },
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_event_is_a_line() {
        for (name, data, line) in [
            (
                "job",
                json!({"change": "end", "job": {"job_id": "job-1", "operation": "model_load", "state": "failed",
                       "request": {"id": "tiny"}, "failure": {"message": "it is gone"}}}),
                "job        job-1 model_load 'tiny': failed: it is gone",
            ),
            ("model", json!({"change": "added", "model": {"id": "tiny"}}), "model      tiny added"),
            (
                "worker",
                json!({"change": "updated", "cause": "crash", "worker": {"pid": 7, "model": "tiny", "status": "crashed"}}),
                "worker     7 of 'tiny' crashed: crash",
            ),
            (
                "residency",
                json!({"residents": [{"held_bytes": 1024}], "loads": [], "queue": [{"waiting": 2}]}),
                "residency  1 worker in memory (1.0 KiB), 0 loads under way, 2 requests waiting",
            ),
            (
                "request",
                json!({"request_id": "req-1", "state": "ended", "outcome": "client_gone", "model": null, "total_ms": 5}),
                "request    req-1 to '-': client gone, 5 ms",
            ),
            ("request", json!({"state": "left_out", "count": 3}), "request    3 changes left out"),
        ] {
            assert_eq!(told(name, &data).as_deref(), Some(line));
        }
        assert_eq!(told("of a later version", &json!({})), None);
    }

    #[test]
    fn topics_choose_what_is_told() {
        let wants = |topic: &[Topic], requests| {
            let args = Args { topic: topic.to_vec(), requests };
            ["job", "residency", "request", "telemetry"].map(|event| args.wants(event))
        };
        assert_eq!(wants(&[], false), [true, true, false, false]);
        assert_eq!(wants(&[], true), [true, true, true, false]);
        assert_eq!(wants(&[Topic::Job], false), [true, false, false, false]);
        assert_eq!(wants(&[Topic::Job, Topic::Telemetry], true), [true, false, true, true]);
    }
}
