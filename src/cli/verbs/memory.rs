//! `rbee-hive memory`: what is in memory and why, and who waits.

use serde_json::{Value, json};

use super::Verb;
use crate::cli::end::Ended;
use crate::cli::session::Session;
use crate::cli::show::{column, number_of, table, text_of};
use crate::cli::words::of_field;

#[derive(Debug, clap::Args)]
#[group(skip)]
pub(in crate::cli) struct Args {}

impl Verb for Args {
    async fn run(self, session: &Session) -> Ended {
        let view = session.run("ResidencyGet", json!({})).await?;
        session.show(&view, of_view)
    }
}

fn of_view(view: &Value) -> String {
    let list = |name: &str| view[name].as_array().map_or(&[][..], Vec::as_slice);
    let mut parts = vec![
        table(
            list("memory"),
            &[
                text_of("DEVICE", "device"),
                number_of("FREE", "free_bytes"),
                number_of("IN ALL", "capacity_bytes"),
                number_of("RESERVED", "reserve_bytes"),
                number_of("LEASED", "leased_bytes"),
            ],
        ),
        table(
            list("residents"),
            &[
                number_of("PID", "pid"),
                text_of("MODEL", "model"),
                text_of("DEVICE", "device"),
                number_of("MEMORY", "held_bytes"),
                text_of("USED", "last_used_at"),
                column("GOES", goes),
                text_of("WHY", "why"),
            ],
        ),
    ];
    if !list("loads").is_empty() {
        parts.push(table(
            list("loads"),
            &[
                text_of("LOADING", "model"),
                text_of("STATE", "state"),
                text_of("SINCE", "since"),
                text_of("WAITS FOR", "waits_for"),
                text_of("BECAUSE", "because"),
                text_of("JOB", "job_id"),
            ],
        ));
    }
    if !list("queue").is_empty() {
        parts.push(table(
            list("queue"),
            &[
                text_of("QUEUE OF", "model"),
                number_of("WAITING", "waiting"),
                text_of("SINCE", "oldest_since"),
                text_of("JOB", "job_id"),
            ],
        ));
    }
    if !list("leases").is_empty() {
        parts.push(table(
            list("leases"),
            &[
                text_of("LEASE", "lease_id"),
                text_of("DEVICE", "device"),
                number_of("SIZE", "bytes"),
                text_of("STATE", "state"),
                text_of("HOLDER", "holder"),
                text_of("EXPIRES", "expires_at"),
            ],
        ));
    }
    parts.join("\n")
}

/// When a worker goes.
fn goes(resident: &Value) -> String {
    if let Some(why) = of_field("draining", &resident["draining"]) {
        return format!("now, for {why}");
    }
    match resident["keep"].as_str() {
        Some("idle") => {
            of_field("unload_at", &resident["unload_at"]).unwrap_or_else(|| "once idle".to_owned())
        }
        Some("pinned") => "never".to_owned(),
        _ => "when room is needed".to_owned(),
    }
}
