//! `rbee-hive unload MODEL…`: ends the workers of models.

use serde_json::{Value, json};

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
}

impl Verb for Args {
    async fn run(self, session: &Session) -> Ended {
        each(&self.models, async |model| unload(session, model).await).await
    }
}

/// Ends the workers of a model.
pub(super) async fn unload(session: &Session, model: &str) -> Ended {
    let result = session.run("ModelUnload", json!({ "id": model })).await?;
    session.show(&result, told)
}

fn told(unloaded: &Value) -> String {
    let (id, freed) = (member(unloaded, "id"), member(unloaded, "freed_bytes"));
    format!("{id}: worker {} ended, {freed} freed\n", member(unloaded, "workers"))
}
