//! `rbee-hive list`: the models.

use serde_json::{Value, json};

use super::Verb;
use crate::cli::end::Ended;
use crate::cli::session::Session;
use crate::cli::show::{column, number, table};
use crate::cli::words::member;

#[derive(Debug, clap::Args)]
#[group(skip)]
pub(in crate::cli) struct Args {}

impl Verb for Args {
    async fn run(self, session: &Session) -> Ended {
        let models = session.run("ModelList", json!({})).await?;
        session.show(&models, |models| {
            table(
                models.as_array().map_or(&[], Vec::as_slice),
                &[
                    column("MODEL", |model| member(model, "id")),
                    number("SIZE", |model| member(model, "size_bytes")),
                    number("PARAMETERS", |model| member(model, "parameter_count")),
                    column("QUANTIZATION", |model| member(model, "quantization")),
                    column("STATUS", status),
                    column("ADDED", |model| member(model, "added_at")),
                ],
            )
        })
    }
}

/// Whether it is in memory, else whether it can be used.
fn status(model: &Value) -> String {
    if model["loaded"] == true { "loaded".to_owned() } else { member(model, "status") }
}
