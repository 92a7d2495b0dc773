//! `rbee-hive diagnose [MODEL]`: why a model or a request is slow.

use serde_json::{Value, json};

use super::Verb;
use crate::cli::end::Ended;
use crate::cli::session::Session;
use crate::cli::show::{column, fields, number, table};
use crate::cli::words::{member, of_field};

#[derive(Debug, clap::Args)]
#[group(skip)]
pub(in crate::cli) struct Args {
    /// The id of the model, or what else names it [default: every model]
    model: Option<String>,
    /// One request, by the id in the header x-rbee-request-id of its answer
    #[arg(long, value_name = "ID")]
    request: Option<String>,
}

impl Verb for Args {
    async fn run(self, session: &Session) -> Ended {
        let request = json!({ "id": self.model, "request_id": self.request });
        // The findings are its narrations.
        let found = session.run_silently("ModelDiagnose", request).await?;
        session.show(&found, of_diagnosis)
    }
}

fn of_diagnosis(found: &Value) -> String {
    let share = |finding: &Value| match finding["share"].as_f64() {
        Some(share) => format!("{:.0} %", share * 100.0),
        None => "-".to_owned(),
    };
    let mut text = table(
        found["findings"].as_array().map_or(&[], Vec::as_slice),
        &[
            number("OF THE TIME", share),
            column("FOUND", |finding| match of_field("advice", &finding["advice"]) {
                Some(advice) => format!("{}\n→ {advice}", member(finding, "message")),
                None => member(finding, "message"),
            }),
        ],
    );
    if let times @ Value::Object(_) = &found["times"] {
        text +=
            &format!("\nOne request takes, on average of {}:\n{}", member(found, "requests"), fields(times));
    }
    if let Some(unknown) = of_field("unknown", &found["unknown"]) {
        text += &format!("\nNot known: {unknown}\n");
    }
    text
}
