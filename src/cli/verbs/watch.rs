//! `rbee-hive watch JOB`: follows a job.

use serde_json::Value;

use super::Verb;
use crate::cli::end::Ended;
use crate::cli::session::{Narrator, Session};
use crate::cli::show::{self, fields};

#[derive(Debug, clap::Args)]
#[group(skip)]
pub(in crate::cli) struct Args {
    /// The id of the job, as `rbee-hive jobs` lists it
    job: String,
}

impl Verb for Args {
    async fn run(self, session: &Session) -> Ended {
        let job = session.hive.job(&self.job).await.map_err(|error| session.explained(error))?;
        if session.json {
            let narrator = Narrator::json(&job.operation);
            return session.follow(&self.job, job.kind, narrator).await.map(drop);
        }
        let result = session.follow(&self.job, job.kind, session.narrator()).await?;
        match &result {
            Value::Null => Ok(()),
            result => show::print(&fields(result)),
        }
    }
}
