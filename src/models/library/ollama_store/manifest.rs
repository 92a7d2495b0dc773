//! A manifest of Ollama's: the layers of one model, as its registry and its store have them.

use std::fmt;

use serde::Deserialize;

use crate::text::{excerpt, is_sha256};

/// What the media types of layers begin with.
const LAYER: &str = "application/vnd.ollama.image.";

/// A manifest, as it is written.
#[derive(Debug, Deserialize)]
pub(crate) struct Manifest {
    config: Option<Descriptor>,
    #[serde(default)]
    layers: Vec<Descriptor>,
}

/// A layer.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Descriptor {
    media_type: String,
    /// `sha256:` and 64 digits, if it is sound.
    pub(crate) digest: String,
    /// In bytes.
    pub(crate) size: u64,
}

impl Descriptor {
    /// The digits of its digest; `None` where it is none.
    pub(crate) fn sha256(&self) -> Option<&str> {
        self.digest.strip_prefix("sha256:").filter(|digits| is_sha256(digits))
    }
}

/// The layers of one model that is one GGUF file.
#[derive(Debug)]
pub(crate) struct Layers {
    pub(crate) model: Descriptor,
    pub(crate) projector: Option<Descriptor>,
    /// The kinds of the other layers that say something of the model.
    pub(crate) left_out: Vec<String>,
}

/// Why the layers are not one model that this hive can use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NotOneModel {
    Adapter,
    NoFile,
    Projectors,
}

impl fmt::Display for NotOneModel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Adapter => "is a model with an adapter, which this hive cannot apply",
            Self::NoFile => "is not one GGUF file: it runs in a cloud, or has another format",
            Self::Projectors => "has several projectors, of which this hive can use one",
        })
    }
}

impl Manifest {
    /// Whether it names the file with that SHA-256.
    pub(crate) fn names(&self, sha256: &str) -> bool {
        self.config.iter().chain(&self.layers).any(|named| named.sha256() == Some(sha256))
    }

    /// The layers by what they are for.
    pub(crate) fn layers(self) -> Result<Layers, NotOneModel> {
        let (mut models, mut projectors, mut left_out) = (Vec::new(), Vec::new(), Vec::new());
        for layer in self.layers {
            match layer.media_type.strip_prefix(LAYER) {
                Some("model") => models.push(layer),
                Some("projector") => projectors.push(layer),
                Some("adapter") => return Err(NotOneModel::Adapter),
                Some("license") => {}
                Some("system") => left_out.push("system prompt".to_owned()),
                Some("params") => left_out.push("parameters".to_owned()),
                Some(kind @ ("template" | "messages")) => left_out.push(kind.to_owned()),
                _ => left_out.push(format!("layer '{}'", excerpt(&layer.media_type))),
            }
        }
        let (Some(model), true) = (models.pop(), models.is_empty()) else { return Err(NotOneModel::NoFile) };
        if projectors.len() > 1 {
            return Err(NotOneModel::Projectors);
        }
        Ok(Layers { model, projector: projectors.pop(), left_out })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layers_that_are_not_one_model_are_told_apart() {
        let layers = |kinds: &[&str]| {
            let layer = |kind: &&str| serde_json::json!({"mediaType": format!("{LAYER}{kind}"), "digest": "", "size": 1});
            let layers: Vec<_> = kinds.iter().map(layer).collect();
            serde_json::from_value::<Manifest>(serde_json::json!({ "layers": layers })).unwrap().layers()
        };
        for (kinds, why) in [
            (&["license"][..], NotOneModel::NoFile),
            (&["model", "model"], NotOneModel::NoFile),
            (&["model", "projector", "projector"], NotOneModel::Projectors),
            (&["model", "adapter"], NotOneModel::Adapter),
        ] {
            assert_eq!(layers(kinds).unwrap_err(), why, "{kinds:?}");
        }
        let told = layers(&["model", "license", "system", "params", "messages", "new"]).unwrap().left_out;
        assert_eq!(told[..3], ["system prompt", "parameters", "messages"]);
        assert!(told.len() == 4 && told[3].contains("new"), "{told:?}");
    }
}
