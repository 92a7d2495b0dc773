//! `rbee-hive cancel JOB…`: cancels jobs.

use serde_json::json;

use super::{Verb, each};
use crate::cli::end::Ended;
use crate::cli::session::Session;

#[derive(Debug, clap::Args)]
#[group(skip)]
pub(in crate::cli) struct Args {
    /// The ids of the jobs, as `rbee-hive jobs` lists them
    #[arg(required = true, value_name = "JOB")]
    jobs: Vec<String>,
}

impl Verb for Args {
    async fn run(self, session: &Session) -> Ended {
        each(&self.jobs, async |job| {
            session.hive.cancel(job).await.map_err(|error| session.explained(error))?;
            session.show(&json!({ "job_id": job, "status": "cancelled" }), |_| format!("{job}: cancelled\n"))
        })
        .await
    }
}
