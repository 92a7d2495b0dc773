//! Looks up a model by id or name.

use reqwest::Url;

use crate::error::{Code, Failure, Result};
use crate::models::model::Model;
use crate::models::sources::resolution::ModelSource;
use crate::models::sources::{OllamaName, copied};
use crate::text::{clip, nearest_ids};

/// Why no model is found.
#[derive(Debug)]
pub(crate) enum Unfound {
    /// Several have that name.
    Ambiguous(Failure),
    /// None is called so.
    NoModel(String),
}

impl Unfound {
    /// As the failure of a look-up in these models.
    pub(crate) fn into_failure(self, models: &[&Model]) -> Failure {
        match self {
            Self::Ambiguous(failure) => failure,
            Self::NoModel(wanted) => not_found(&wanted, models),
        }
    }
}

/// The position in a listing of what is called so, and the variant of it that is meant. `called` says what a name means
/// that no model has as its id or name; `hub` is the Hub whose pages names are copied from.
pub(crate) fn find(
    models: &[&Model],
    wanted: &str,
    called: &impl Fn(&str) -> Option<(String, Option<String>)>,
    hub: &Url,
) -> Result<(usize, Option<String>), Unfound> {
    let find = |wanted: &str| {
        let called = if is_taken(models, wanted) { None } else { called(wanted) };
        let (wanted, variant) = called.unwrap_or_else(|| (wanted.to_owned(), None));
        let index = position(models, &wanted).or_else(|unfound| {
            let copied = copied::name_of(&wanted, Some(hub));
            position_in_any_case(models, copied.as_deref().unwrap_or(&wanted))
                .or_else(|| position_in_ollamas_library(models, &wanted))
                .ok_or(unfound)
        })?;
        Ok((index, variant))
    };
    // Clients of Ollama's add its default tag to every name that has none.
    find(wanted).or_else(|unfound: Unfound| {
        let untagged = wanted.strip_suffix(":latest").filter(|_| matches!(unfound, Unfound::NoModel(_)));
        untagged.and_then(|wanted| find(wanted).ok()).ok_or(unfound)
    })
}

/// Whether a model has that id or name.
pub(crate) fn is_taken(models: &[&Model], wanted: &str) -> bool {
    models.iter().any(|model| model.id == wanted || model.name == wanted)
}

/// The position in a listing of the model of that id, or of that unique name.
pub(crate) fn position(models: &[&Model], wanted: &str) -> Result<usize, Unfound> {
    if let Some(index) = models.iter().position(|model| model.id == wanted) {
        return Ok(index);
    }
    let named: Vec<_> = (0..models.len()).filter(|&index| models[index].name == wanted).collect();
    match named[..] {
        [index] => Ok(index),
        [] => Err(Unfound::NoModel(wanted.to_owned())),
        _ => {
            let ids: Vec<_> = named.iter().map(|&index| models[index].id.as_str()).collect();
            let message = format!("{} models have the name '{wanted}': {}", ids.len(), ids.join(", "));
            let failure = Failure::new(Code::ModelAmbiguous, message);
            Err(Unfound::Ambiguous(failure.hint("use the id of one of them")))
        }
    }
}

/// The position of the only model whose id or name differs from the wanted one in the case of its letters
/// alone.
fn position_in_any_case(models: &[&Model], wanted: &str) -> Option<usize> {
    let wanted = wanted.trim_start_matches("hf:");
    let is_meant =
        |model: &Model| model.id.eq_ignore_ascii_case(wanted) || model.name.eq_ignore_ascii_case(wanted);
    let mut meant = (0..models.len()).filter(|&index| is_meant(models[index]));
    meant.next().filter(|_| meant.next().is_none())
}

/// The position of the model that was downloaded under that name from Ollama's library.
fn position_in_ollamas_library(models: &[&Model], wanted: &str) -> Option<usize> {
    let wanted = wanted.strip_prefix("ollama:").unwrap_or(wanted);
    let source = OllamaName::parse(&format!("ollama:{wanted}"))?.ok()?.to_string();
    models.iter().position(|model| model.source == source)
}

/// The failure of a look-up.
pub(crate) fn not_found(wanted: &str, models: &[&Model]) -> Failure {
    let nearest = nearest_ids(wanted, models.iter().map(|model| (&*model.id, &*model.name)));
    // Programs that speak Ollama's API tell an unknown model from other errors by the words "not found".
    let mut message = format!("model '{}' not found", clip(wanted, 255));
    if !nearest.is_empty() {
        message += &format!("; the nearest: {}", nearest.join(", "));
    }
    let hint = match (models.is_empty(), nearest.is_empty()) {
        (true, _) => {
            "this hive has no models yet: download or import one with ModelDownload (org/repo:Q4_K_M, an \
             https URL or file:/path/model.gguf), or start the hive with --models-dir"
        }
        (_, false) => "use one of these ids, or download the model with ModelDownload",
        _ => "ModelList lists the models of this hive; ModelDownload adds one",
    };
    Failure::new(Code::ModelNotFound, message).hint(hint)
}
