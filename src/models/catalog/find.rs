//! Looks up a model by id or name.

use crate::error::{Code, Failure, Result};
use crate::models::model::Model;
use crate::models::sources::OllamaName;
use crate::models::sources::resolution::ModelSource;
use crate::text::{clip, nearest_ids};

/// The position in a listing of the model of that id, or of that unique name.
pub(crate) fn position(models: &[Model], wanted: &str) -> Result<usize> {
    if let Some(index) = models.iter().position(|model| model.id == wanted) {
        return Ok(index);
    }
    let named: Vec<_> = (0..models.len()).filter(|&index| models[index].name == wanted).collect();
    match named[..] {
        [index] => Ok(index),
        [] => Err(not_found(wanted, models)),
        _ => {
            let ids: Vec<_> = named.iter().map(|&index| models[index].id.as_str()).collect();
            Err(Failure::new(
                Code::ModelAmbiguous,
                format!("{} models have the name '{wanted}': {}", ids.len(), ids.join(", ")),
            )
            .hint("use the id of one of them"))
        }
    }
}

/// The position of the only model whose id or name differs from the wanted one in the case of its letters
/// alone.
pub(crate) fn position_in_any_case(models: &[Model], wanted: &str) -> Option<usize> {
    let wanted = wanted.trim_start_matches("hf:");
    let is_meant =
        |model: &Model| model.id.eq_ignore_ascii_case(wanted) || model.name.eq_ignore_ascii_case(wanted);
    let mut meant = (0..models.len()).filter(|&index| is_meant(&models[index]));
    meant.next().filter(|_| meant.next().is_none())
}

/// The position of the model that was downloaded under that name from Ollama's library.
pub(crate) fn position_in_ollamas_library(models: &[Model], wanted: &str) -> Option<usize> {
    let wanted = wanted.strip_prefix("ollama:").unwrap_or(wanted);
    let source = OllamaName::parse(&format!("ollama:{wanted}"))?.ok()?.to_string();
    models.iter().position(|model| model.source == source)
}

/// The failure of a look-up.
pub(crate) fn not_found(wanted: &str, models: &[Model]) -> Failure {
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
