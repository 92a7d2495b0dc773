//! `rbee-hive check`: whether the hive works.

use serde_json::{Value, json};

use super::Verb;
use crate::cli::end::{End, Ended};
use crate::cli::session::Session;
use crate::cli::show::{column, table, text_of};
use crate::cli::words::member;

#[derive(Debug, clap::Args)]
#[group(skip)]
pub(in crate::cli) struct Args {}

impl Verb for Args {
    async fn run(self, session: &Session) -> Ended {
        // The report has each of its narrations.
        let report = session.run_silently("HiveCheck", json!({})).await?;
        session.show(&report, |report| {
            table(
                report["checks"].as_array().map_or(&[], Vec::as_slice),
                &[
                    text_of("CHECK", "name"),
                    column("", |check| if check["ok"] == true { "ok" } else { "FAILED" }.to_owned()),
                    column("FOUND", found),
                ],
            )
        })?;
        if report["ok"] == true { Ok(()) } else { Err(End::FAILED) }
    }
}

/// What a check found, and what to do about it.
fn found(check: &Value) -> String {
    let detail = member(check, "detail");
    match check["hint"].as_str() {
        Some(hint) => format!("{detail}\n→ {hint}"),
        None => detail,
    }
}
