//! Files that belong to a model and are none themselves: projectors, draft models, adapters, matrices.
//!
//! On the disk a file's header says what it is ([`headers`](crate::models::library::headers)). Of a file in a
//! repository only the name is known. Which model a projector belongs to is told by names everywhere: the
//! headers of the two have nothing in common that could be compared.

use std::collections::HashSet;

use crate::models::library::quantization::{is_quantization, quantization_tag};
use crate::models::library::split::stem;

/// What the name of a file says that the file is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Role {
    Model,
    /// What turns images or sound into input of a model.
    Projector,
    /// An importance matrix.
    Matrix,
    /// A draft model or an adapter, which is of use beside its model.
    Helper,
}

/// What else a folder has beside a projector.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Surroundings {
    /// Whether all of its models are one, in several quantizations.
    pub(crate) has_one_model: bool,
    /// Whether somebody has put its files together for each other.
    pub(crate) is_repository: bool,
}

/// What a file of that name, or at that path, is.
pub(crate) fn role_of(path: &str) -> Role {
    let name = path.rsplit('/').next().unwrap_or_default().to_ascii_lowercase();
    let is_one_of =
        |known: &[&str]| name.split(|c: char| !c.is_ascii_alphanumeric()).any(|word| known.contains(&word));
    if is_one_of(&["mmproj"]) {
        Role::Projector
    } else if is_one_of(&["imatrix"]) {
        Role::Matrix
    } else if is_one_of(&["draft", "mtp", "eagle", "eagle2", "eagle3", "lora", "adapter"]) {
        Role::Helper
    } else {
        Role::Model
    }
}

/// The words of a name without those that tell the files of one model apart.
fn base(path: &str) -> Vec<String> {
    let name = path.rsplit('/').next().unwrap_or_default();
    let of_all = ["", "ud", "model", "ggml", "gguf"];
    stem(name)
        .split(['-', '.', ' '])
        .filter(|word| !is_quantization(&word.to_ascii_uppercase()))
        .map(|word| word.to_ascii_lowercase().replace("mmproj", "").trim_matches('_').to_owned())
        .filter(|word| !of_all.contains(&word.as_str()))
        .collect()
}

/// Whether these models are one, in several quantizations.
pub(crate) fn are_one_model<'a>(names: impl IntoIterator<Item = &'a str>) -> bool {
    names.into_iter().map(base).collect::<HashSet<_>>().len() <= 1
}

/// Whether a projector of that name belongs to a model of that name.
fn belongs(projector: &str, model: &str, around: Surroundings) -> bool {
    let projector = base(projector);
    // The other way round, a text model `m` would get the projector of `m-vision`.
    let is_named_alike = !projector.is_empty() && base(model).starts_with(&projector);
    is_named_alike || (around.has_one_model && (around.is_repository || projector.is_empty()))
}

/// The best of these projectors for a model; names may be paths.
pub(crate) fn projector_of<'a>(
    model: &str,
    projectors: impl IntoIterator<Item = &'a str>,
    around: Surroundings,
) -> Option<&'a str> {
    let folder = |path: &str| path.rsplit_once('/').map_or("", |(folder, _)| folder).to_owned();
    let place = folder(model);
    let own = projectors.into_iter().filter(|projector| belongs(projector, model, around));
    own.min_by_key(|projector| (folder(projector) != place, reluctance(projector)))
}

/// Whether a projector that was set for no model in particular belongs to the model of that name.
pub(crate) fn is_projector_of(projector: &str, model: &str) -> bool {
    belongs(projector, model, Surroundings { has_one_model: false, is_repository: false })
}

/// Half precision is what projectors are published in; more of it is of little use.
fn reluctance(projector: &str) -> u8 {
    match quantization_tag(projector).as_deref() {
        Some("F16" | "FP16") => 0,
        Some("BF16") => 1,
        Some("Q8_0") | None => 2,
        Some("F32" | "FP32") => 3,
        Some(_) => 4,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_of_a_repository_is_known_by_the_words_of_its_name() {
        for (name, role) in [
            ("m-Q8_0.gguf", Role::Model),
            ("sub/mmproj-F16.gguf", Role::Projector),
            ("m.mmproj-f16.gguf", Role::Projector),
            ("m.imatrix.gguf", Role::Matrix),
            ("m-0.6B-draft-Q4_0.gguf", Role::Helper),
            ("mtp-m.gguf", Role::Helper),
            ("m-lora-F16.gguf", Role::Helper),
            ("Draftsman-Q8_0.gguf", Role::Model),
        ] {
            assert_eq!(role_of(name), role, "{name}");
        }
    }

    #[test]
    fn a_projector_belongs_to_the_models_that_its_name_means() {
        let of = |model: &str, projectors: &[&str], has_one_model, is_repository| {
            let around = Surroundings { has_one_model, is_repository };
            projector_of(model, projectors.iter().copied(), around).map(str::to_owned)
        };
        for (model, projectors, one, repository, expected) in [
            ("Qwen3-VL-Q4_K_M.gguf", &["mmproj-Qwen3-VL.gguf"][..], false, false, Some(0)),
            ("text-Q8_0.gguf", &["mmproj-Qwen3-VL.gguf"], true, false, None),
            ("Qwen3.gguf", &["mmproj-Qwen3-VL.gguf"], false, false, None),
            ("x-UD-Q4_K_XL.gguf", &["mmproj-F32.gguf", "mmproj-F16.gguf"], true, true, Some(1)),
            ("x-Q8_0.gguf", &["mmproj-model-f16.gguf"], true, false, Some(0)),
            ("x-Q8_0.gguf", &["mmproj-model-f16.gguf"], false, false, None),
            ("llama-3-Q4_0.gguf", &["mmproj-ultravox-f16.gguf"], true, true, Some(0)),
            ("X.Q4_K_M.gguf", &["X.mmproj-Q8_0.gguf", "X.mmproj-f16.gguf"], false, false, Some(1)),
            ("a/m-Q8_0.gguf", &["b/mmproj-m-f16.gguf", "a/mmproj-m-Q8_0.gguf"], true, true, Some(1)),
            ("moon-text-model-f16.gguf", &["moon-mmproj-f16.gguf"], true, true, Some(0)),
        ] {
            let expected: Option<usize> = expected;
            let expected = expected.map(|index| projectors[index].to_owned());
            assert_eq!(of(model, projectors, one, repository), expected, "{model} {projectors:?}");
        }
        assert!(are_one_model(["m-Q8_0.gguf", "m-UD-Q4_K_XL-00001-of-00002.gguf"]));
        assert!(!are_one_model(["m-Q8_0.gguf", "n-Q8_0.gguf"]));
    }
}
