//! Models in OpenAI's form.

use serde::Serialize;
use utoipa::ToSchema;

use crate::config::Capabilities;
use crate::fleet::NamedThere;
use crate::models::{Model, Status};
use crate::text::each_member;

/// A model in OpenAI's form, with fields of the hive's own.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = OpenAiModel)]
pub(crate) struct Card {
    pub(crate) id: String,
    object: &'static str,
    /// Seconds since the Unix epoch.
    pub(crate) created: i64,
    owned_by: &'static str,
    pub(crate) name: String,
    /// Whether a worker serves it.
    loaded: bool,
    /// Whether it can be loaded.
    status: Status,
    size_bytes: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) context_length: Option<u64>,
    /// What it can do; absent where that is not known.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Vec<crate::config::Capability>>)]
    capabilities: Option<Capabilities>,
    /// Of an alias or a variant: the id of what it is.
    #[serde(skip_serializing_if = "Option::is_none")]
    base: Option<String>,
    /// In a fleet: the hives that have it.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    hives: Vec<String>,
}

impl Card {
    pub(super) fn of(model: &Model, loaded: bool, capabilities: Option<Capabilities>) -> Self {
        Self {
            id: model.id.clone(),
            object: "model",
            created: model.added_at.parse::<jiff::Timestamp>().map_or(0, jiff::Timestamp::as_second),
            owned_by: "rbee-hive",
            name: model.name.clone(),
            loaded,
            status: model.status,
            size_bytes: model.size_bytes,
            context_length: model.context_length,
            capabilities,
            base: None,
            hives: Vec::new(),
        }
    }

    /// What other hives of the fleet have under a name.
    pub(super) fn there(name: String, there: NamedThere) -> Self {
        let NamedThere { record, served_id, hives, is_loaded } = there;
        let card = Self::of(&record.model, is_loaded, record.model.capabilities.clone());
        let card = if name == served_id { card.served(served_id, None) } else { card.called(name) };
        Self { hives, ..card }
    }

    /// The same, which this hive has and these other ones too.
    pub(super) fn at(self, own: &str, there: Option<NamedThere>) -> Self {
        let mut hives = vec![own.to_owned()];
        let mut loaded = self.loaded;
        if let Some(there) = there {
            hives.extend(there.hives);
            loaded |= there.is_loaded;
        }
        Self { hives, loaded, ..self }
    }

    /// The model or the variant of that id, with the context that the settings give it.
    pub(super) fn served(self, id: String, context_length: Option<u64>) -> Self {
        let trained = self.context_length;
        let context_length = context_length.map(|set| trained.map_or(set, |trained| set.min(trained)));
        let base = Some(self.id).filter(|model| *model != id);
        Self { id, base, context_length: context_length.or(trained), ..self }
    }

    /// The same under another name.
    pub(super) fn called(self, alias: String) -> Self {
        Self { base: Some(self.id), id: alias, ..self }
    }
}

/// The answer of `GET /v1/models`.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = OpenAiModels)]
pub(crate) struct Cards {
    object: &'static str,
    #[serde(serialize_with = "each_member")]
    data: Vec<Card>,
}

impl From<Vec<Card>> for Cards {
    fn from(data: Vec<Card>) -> Self {
        Self { object: "list", data }
    }
}

#[cfg(test)]
impl Card {
    /// That of a model for tests.
    pub(crate) fn sample(id: &str) -> Self {
        let model = serde_json::json!({
            "id": id, "name": id, "size_bytes": 12, "path": "/m.gguf", "source": "file", "format": "gguf",
            "status": "available", "added_at": "1970-01-02T00:00:00.000Z", "loaded": false, "context_length": 2048,
        });
        Self::of(&serde_json::from_value(model).expect("a model"), false, None)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::config::Capability;

    #[test]
    fn a_context_is_never_more_than_the_model_was_trained_for() {
        let served = |set| Card::sample("m").served("m@v".to_owned(), set);
        let contexts = [None, Some(1024), Some(2048), Some(4096)].map(|set| served(set).context_length);
        assert_eq!(contexts, [Some(2048), Some(1024), Some(2048), Some(2048)]);
        let unknown = Card { context_length: None, ..Card::sample("m") };
        assert_eq!(unknown.served("m".to_owned(), Some(4096)).context_length, Some(4096));
        assert_eq!(served(None).base.as_deref(), Some("m"));
    }

    #[test]
    fn cards_have_openais_form() {
        let model = json!({"id": "org/m:Q4", "name": "m", "size_bytes": 12, "path": "/m.gguf", "source": "hf:org/m",
                           "format": "gguf", "status": "available", "added_at": "1970-01-02T00:00:00.000Z",
                           "loaded": false});
        let can = Some([Capability::Images, Capability::Chat].into());
        let card = Card::of(&serde_json::from_value(model).unwrap(), true, can);
        assert_eq!(
            serde_json::to_value(Cards::from(vec![card])).unwrap(),
            json!({"object": "list", "data": [{"id": "org/m:Q4", "object": "model", "created": 86_400,
                   "owned_by": "rbee-hive", "name": "m", "loaded": true, "status": "available", "size_bytes": 12,
                   "capabilities": ["chat", "images"]}]})
        );
    }
}
