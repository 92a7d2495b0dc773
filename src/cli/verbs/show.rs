//! `rbee-hive show MODEL`: one model.

use serde_json::json;

use super::Verb;
use crate::cli::end::Ended;
use crate::cli::session::Session;
use crate::cli::show::fields;

#[derive(Debug, clap::Args)]
#[group(skip)]
pub(in crate::cli) struct Args {
    /// The id of the model, or what else names it
    model: String,
}

impl Verb for Args {
    async fn run(self, session: &Session) -> Ended {
        let model = session.run("ModelGet", json!({ "id": self.model })).await?;
        session.show(&model, fields)
    }
}
