//! `rbee-hive usage`: how much each caller used each model.

use serde_json::{Value, json};

use super::Verb;
use crate::cli::end::Ended;
use crate::cli::session::Session;
use crate::cli::show::{number_of, table, text_of};
use crate::cli::words::with_days;

#[derive(Debug, clap::Args)]
#[group(skip)]
pub(in crate::cli) struct Args {
    /// Of this caller alone: the name of a token, or an address
    #[arg(long)]
    caller: Option<String>,
    /// Of this model alone
    #[arg(long)]
    model: Option<String>,
    /// The first day, such as 2026-11-01, or how long before today, such as 7d [default: 30d]
    #[arg(long, value_name = "DAY")]
    since: Option<String>,
    /// The last day [default: today]
    #[arg(long, value_name = "DAY")]
    until: Option<String>,
}

impl Verb for Args {
    async fn run(self, session: &Session) -> Ended {
        let request = json!({
            "caller": self.caller, "model": self.model, "since": self.since.map(with_days), "until": self.until,
        });
        let report = session.run_silently("UsageReport", request).await?;
        session.show(&report, of_report)
    }
}

fn of_report(report: &Value) -> String {
    let mut rows = report["usage"].as_array().cloned().unwrap_or_default();
    let mut total = report["total"].clone();
    total["caller"] = "total".into();
    rows.push(total);
    table(
        &rows,
        &[
            text_of("CALLER", "caller"),
            text_of("MODEL", "model"),
            number_of("REQUESTS", "requests"),
            number_of("REFUSED", "refused"),
            number_of("FAILED", "failed"),
            number_of("TOKENS READ", "prompt_tokens"),
            number_of("CACHED", "cached_tokens"),
            number_of("TOKENS WRITTEN", "completion_tokens"),
            number_of("TIME", "total_ms"),
        ],
    )
}
