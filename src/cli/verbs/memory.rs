//! `rbee-hive memory`: what is in memory and why, and who waits.

use serde_json::{Value, json};

use super::Verb;
use crate::cli::end::Ended;
use crate::cli::session::Session;
use crate::cli::show::{column, number, table};
use crate::cli::words::{member, of_field};

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
                column("DEVICE", |memory| member(memory, "device")),
                number("FREE", |memory| member(memory, "free_bytes")),
                number("IN ALL", |memory| member(memory, "capacity_bytes")),
                number("RESERVED", |memory| member(memory, "reserve_bytes")),
                number("LEASED", |memory| member(memory, "leased_bytes")),
            ],
        ),
        table(
            list("residents"),
            &[
                number("PID", |resident| member(resident, "pid")),
                column("MODEL", |resident| member(resident, "model")),
                column("DEVICE", |resident| member(resident, "device")),
                number("MEMORY", |resident| member(resident, "held_bytes")),
                column("USED", |resident| member(resident, "last_used_at")),
                column("GOES", goes),
                column("WHY", |resident| member(resident, "why")),
            ],
        ),
    ];
    if !list("loads").is_empty() {
        parts.push(table(
            list("loads"),
            &[
                column("LOADING", |load| member(load, "model")),
                column("STATE", |load| member(load, "state")),
                column("SINCE", |load| member(load, "since")),
                column("WAITS FOR", |load| member(load, "waits_for")),
                column("BECAUSE", |load| member(load, "because")),
                column("JOB", |load| member(load, "job_id")),
            ],
        ));
    }
    if !list("queue").is_empty() {
        parts.push(table(
            list("queue"),
            &[
                column("QUEUE OF", |queue| member(queue, "model")),
                number("WAITING", |queue| member(queue, "waiting")),
                column("SINCE", |queue| member(queue, "oldest_since")),
                column("JOB", |queue| member(queue, "job_id")),
            ],
        ));
    }
    if !list("leases").is_empty() {
        parts.push(table(
            list("leases"),
            &[
                column("LEASE", |lease| member(lease, "lease_id")),
                column("DEVICE", |lease| member(lease, "device")),
                number("SIZE", |lease| member(lease, "bytes")),
                column("STATE", |lease| member(lease, "state")),
                column("HOLDER", |lease| member(lease, "holder")),
                column("EXPIRES", |lease| member(lease, "expires_at")),
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
