//! `rbee-hive logout`: has the hive forget its token of the Hugging Face Hub.

use serde_json::json;

use super::Verb;
use crate::cli::end::Ended;
use crate::cli::session::Session;
use crate::cli::show::fields;

#[derive(Debug, clap::Args)]
#[group(skip)]
pub(in crate::cli) struct Args {}

impl Verb for Args {
    async fn run(self, session: &Session) -> Ended {
        let result = session.run("HubLogout", json!({})).await?;
        session.show(&result, fields)
    }
}
