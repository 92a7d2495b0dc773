//! `rbee-hive jobs`: the jobs, newest first.

use serde_json::{Value, json};

use super::Verb;
use crate::cli::end::Ended;
use crate::cli::session::Session;
use crate::cli::show::{column, table, text_of};
use crate::cli::words::{member, subject};
use crate::client::JobQuery;
use crate::error::Failure;
use crate::jobs::JobState;
use crate::time::Instant;

#[derive(Debug, clap::Args)]
#[group(skip)]
pub(in crate::cli) struct Args {
    /// Only those in this state
    #[arg(long, value_parser = state, value_name = "queued|running|succeeded|failed|cancelled")]
    state: Option<JobState>,
    #[arg(long, help = "Only those of this operation, such as model_load")]
    operation: Option<String>,
    /// At most so many
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u16).range(1..=1000))]
    limit: u16,
}

fn state(text: &str) -> Result<JobState, String> {
    serde_json::from_value(text.into())
        .map_err(|_| "the states are queued, running, succeeded, failed and cancelled".to_owned())
}

impl Verb for Args {
    async fn run(self, session: &Session) -> Ended {
        let query = JobQuery {
            state: self.state,
            operation: self.operation,
            hive: session.of_fleet.clone(),
            limit: Some(usize::from(self.limit)),
            cursor: None,
        };
        let page = session.hive.jobs(&query).await.map_err(|error| session.explained(error))?;
        let jobs = serde_json::to_value(&page.jobs)
            .map_err(|error| Failure::internal("the jobs did not serialise").detail(error))?;
        session.show(&jobs, |jobs| {
            let jobs = jobs.as_array().map_or(&[][..], Vec::as_slice);
            let mut columns = vec![
                text_of("JOB", "job_id"),
                text_of("OPERATION", "operation"),
                column("OF", |job| subject(&job["request"]).unwrap_or_else(|| "-".to_owned())),
                text_of("STATE", "state"),
                text_of("CREATED", "created_at"),
                column("TOOK", took),
            ];
            if session.of_fleet.is_some() && jobs.iter().any(|job| job.get("hive").is_some()) {
                columns.insert(1, text_of("HIVE", "hive"));
            }
            table(jobs, &columns)
        })
    }
}

fn took(job: &Value) -> String {
    let at = |name: &str| serde_json::from_value::<Instant>(job[name].clone()).ok();
    let Some(started) = at("started_at") else { return "-".to_owned() };
    let ended = at("ended_at").unwrap_or_else(Instant::now);
    member(&json!({ "took_ms": ended.since_ms(started) }), "took_ms")
}
