//! `rbee-hive list`: the models.

use serde_json::{Value, json};

use super::Verb;
use crate::cli::end::Ended;
use crate::cli::session::Session;
use crate::cli::show::{column, number_of, text_of};
use crate::cli::words::member;

#[derive(Debug, clap::Args)]
#[group(skip)]
pub(in crate::cli) struct Args {}

impl Verb for Args {
    async fn run(self, session: &Session) -> Ended {
        let models = session.run("ModelList", json!({})).await?;
        let columns = vec![
            text_of("MODEL", "id"),
            number_of("SIZE", "size_bytes"),
            number_of("PARAMETERS", "parameter_count"),
            text_of("QUANTIZATION", "quantization"),
            column("STATUS", status),
            text_of("ADDED", "added_at"),
        ];
        session.show_list(&models, columns)
    }
}

/// Whether it is in memory, else whether it can be used.
fn status(model: &Value) -> String {
    if model["loaded"] == true { "loaded".to_owned() } else { member(model, "status") }
}
