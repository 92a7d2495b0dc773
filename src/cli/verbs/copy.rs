//! `rbee-hive copy MODEL --from HIVE`: copies a model from another hive of the fleet.

use serde_json::json;

use super::Verb;
use crate::cli::end::Ended;
use crate::cli::session::Session;
use crate::cli::show::fields;

#[derive(Debug, clap::Args)]
#[group(skip)]
pub(in crate::cli) struct Args {
    /// The model's id or name there
    model: String,
    /// The hive that has it
    #[arg(long, value_name = "HIVE")]
    from: String,
}

impl Verb for Args {
    async fn run(self, session: &Session) -> Ended {
        let result = session.run("ModelCopy", json!({ "model": self.model, "from": self.from })).await?;
        session.show(&result, fields)
    }
}
