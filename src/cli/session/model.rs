//! Finding the model that a verb is to talk to.

use serde_json::{Value, json};

use super::Session;
use crate::cli::end::{End, Ended};
use crate::client::Error;
use crate::error::{Code, Failure};
use crate::models::Source;

impl Session {
    /// The model, the variant or the alias of that name, as the gateway tells it; its `id` is what requests name. One
    /// that is missing is downloaded first where `pulls` says so, otherwise the failure says how to get it.
    pub(in crate::cli) async fn model(&self, name: &str, pulls: bool) -> Ended<Value> {
        let failure = match self.hive.model(name).await {
            Ok(model) => return Ok(model),
            Err(Error::Refused(failure)) if failure.code == Code::ModelNotFound => failure,
            Err(error) => return Err(self.explained(error)),
        };
        let source = source(name);
        if let Some(source) = source.as_ref().filter(|_| pulls) {
            return self.run("ModelDownload", json!({ "model": source })).await;
        }
        let hint = match &source {
            Some(source) => {
                format!("`rbee-hive pull {source}` downloads it; `rbee-hive list` lists the models")
            }
            None => "`rbee-hive list` lists the models; `rbee-hive pull` downloads one".to_owned(),
        };
        Err(End::Hive(Error::Refused(Failure { hint: Some(hint), ..failure })))
    }
}

/// Where a model of that name could be downloaded from. A bare name, as it is in Ollama's library, is of that.
fn source(name: &str) -> Option<String> {
    let of_ollama = format!("ollama:{name}");
    [name, &of_ollama].into_iter().find(|text| Source::parse(text).is_ok()).map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_tells_where_the_model_could_be_had() {
        for (name, found) in [
            ("org/repo:Q4_K_M", Some("org/repo:Q4_K_M")),
            ("ollama:smollm2:135m", Some("ollama:smollm2:135m")),
            ("https://example.org/x.gguf", Some("https://example.org/x.gguf")),
            ("smollm2:135m", Some("ollama:smollm2:135m")),
            ("no such model", None),
        ] {
            assert_eq!(source(name).as_deref(), found, "{name}");
        }
    }
}
