//! A model in Ollama's form.

use serde::Serialize;
use sha2::{Digest, Sha256};
use utoipa::ToSchema;

use crate::app::App;
use crate::config::{Capabilities, Capability};
use crate::models::Model;
use crate::text::{count, hex};

/// What is the same in every list of Ollama's.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = OllamaModel)]
pub(super) struct Card {
    /// The name that requests give: a model's, as [`name_of`] has it, a variant or an alias.
    pub(super) name: String,
    /// The same.
    pub(super) model: String,
    /// In bytes.
    pub(super) size: u64,
    pub(super) digest: String,
    pub(super) details: Details,
}

/// What the file says of the model.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = OllamaDetails)]
pub(super) struct Details {
    /// Of a variant or an alias: the id of what it is.
    parent_model: String,
    format: String,
    family: String,
    families: Vec<String>,
    parameter_size: String,
    quantization_level: String,
}

impl Card {
    pub(super) fn of(name: String, model: &Model) -> Self {
        Self {
            details: Details::of(&name, model),
            model: name.clone(),
            name,
            size: model.size_bytes,
            digest: digest(model),
        }
    }
}

impl Details {
    /// Of the model that is called `name`.
    pub(super) fn of(name: &str, model: &Model) -> Self {
        let family = model.architecture.clone().unwrap_or_default();
        Self {
            parent_model: if [&model.id, name_of(model)].contains(&name) {
                String::new()
            } else {
                model.id.clone()
            },
            format: model.format.clone(),
            families: Some(family.clone()).filter(|family| !family.is_empty()).into_iter().collect(),
            family,
            parameter_size: model.parameter_count.map(count).unwrap_or_default(),
            quantization_level: model.quantization.clone().unwrap_or_default(),
        }
    }
}

/// What Ollama's clients call a model. One of Ollama's library has its name there, by which they look whether they
/// have pulled it.
pub(super) fn name_of(model: &Model) -> &str {
    model.source.strip_prefix("ollama:").unwrap_or(&model.id)
}

/// What a model, or the variant of it that is served under that id, can do, in Ollama's words. What is not known is
/// not claimed.
pub(super) fn capabilities(app: &App, model: &Model, served_id: &str) -> Vec<&'static str> {
    in_ollamas_words(app.abilities(model, served_id).list())
}

/// The same, of what is known of a model.
pub(super) fn in_ollamas_words(known: Option<Capabilities>) -> Vec<&'static str> {
    let Some(known) = known else { return vec!["completion"] };
    let word = |capability| match capability {
        Capability::Chat => Some("completion"),
        Capability::Embeddings => Some("embedding"),
        Capability::Images => Some("vision"),
        Capability::Tools => Some("tools"),
        Capability::Reasoning => Some("thinking"),
        Capability::Completions | Capability::Rerank | Capability::JsonOutput => None,
    };
    known.into_iter().filter_map(word).collect()
}

/// The hash of the model's contents, where it is known without reading the file. Ollama's clients need digits to
/// tell models apart, so another model gets those of where and what its file is.
fn digest(model: &Model) -> String {
    model.sha256.clone().unwrap_or_else(|| {
        let file = format!("{}\n{}\n{}", model.path.display(), model.size_bytes, model.added_at);
        hex(&Sha256::digest(file))
    })
}
