//! `rbee-hive rm MODEL…`: deletes models.

use serde_json::json;

use super::{Verb, each};
use crate::cli::end::Ended;
use crate::cli::session::Session;
use crate::cli::words::member;

#[derive(Debug, clap::Args)]
#[group(skip)]
pub(in crate::cli) struct Args {
    /// The ids of the models, or what else names them
    #[arg(required = true, value_name = "MODEL")]
    models: Vec<String>,
    /// First stop the workers that serve it; also delete a model that the hive did not put there
    #[arg(long, short)]
    force: bool,
}

impl Verb for Args {
    async fn run(self, session: &Session) -> Ended {
        each(&self.models, async |model| {
            let result = session.run("ModelDelete", json!({ "id": model, "force": self.force })).await?;
            session.show(&result, |deleted| {
                format!("{}: {} freed\n", member(deleted, "id"), member(deleted, "freed_bytes"))
            })
        })
        .await
    }
}
