//! Models in Anthropic's form.

use axum::extract::Query;
use axum::http::Uri;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::error::{Code, Failure};
use crate::http::openai::Card;

/// A model in Anthropic's form (<https://platform.claude.com/docs/en/api/models/list>).
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = AnthropicModel)]
pub(crate) struct Info {
    r#type: &'static str,
    id: String,
    display_name: String,
    created_at: String,
    lifecycle: &'static str,
    /// The tokens of its context; `null` where that is not known.
    max_input_tokens: Option<u64>,
}

/// A page of the list.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = AnthropicModels)]
pub(crate) struct Page {
    data: Vec<Info>,
    has_more: bool,
    first_id: Option<String>,
    last_id: Option<String>,
}

/// Which page is wanted.
#[derive(Debug, Deserialize)]
struct Wanted {
    #[serde(default = "usual_limit")]
    limit: usize,
    after_id: Option<String>,
    before_id: Option<String>,
}

/// As many as Anthropic's pages have.
const fn usual_limit() -> usize {
    20
}

/// The page of the list that the query wants.
pub(crate) fn page(uri: &Uri, cards: Vec<Card>) -> Result<Page, Failure> {
    let wanted = Query::<Wanted>::try_from_uri(uri).map_err(|error| {
        Failure::new(Code::InvalidRequest, format!("the query cannot be read: {error}"))
            .hint("limit is a number, after_id and before_id are ids of models")
    })?;
    wanted.0.page(cards)
}

impl From<Card> for Info {
    fn from(card: Card) -> Self {
        let created = jiff::Timestamp::from_second(card.created).unwrap_or_default();
        Self {
            r#type: "model",
            id: card.id,
            display_name: card.name,
            created_at: created.to_string(),
            lifecycle: "active",
            max_input_tokens: card.context_length,
        }
    }
}

impl Wanted {
    fn page(&self, mut cards: Vec<Card>) -> Result<Page, Failure> {
        let limit = self.limit.clamp(1, 1000);
        let has_more = match (&self.after_id, &self.before_id) {
            (_, Some(id)) => {
                cards.truncate(place(&cards, "before_id", id)?);
                let more = cards.len().saturating_sub(limit);
                cards.drain(..more);
                more > 0
            }
            (after, None) => {
                if let Some(id) = after {
                    cards.drain(..=place(&cards, "after_id", id)?);
                }
                let more = cards.len() > limit;
                cards.truncate(limit);
                more
            }
        };
        let data: Vec<Info> = cards.into_iter().map(Info::from).collect();
        let id_of = |info: Option<&Info>| info.map(|info| info.id.clone());
        Ok(Page { has_more, first_id: id_of(data.first()), last_id: id_of(data.last()), data })
    }
}

fn place(cards: &[Card], name: &str, id: &str) -> Result<usize, Failure> {
    cards.iter().position(|card| card.id == id).ok_or_else(|| {
        Failure::new(Code::InvalidRequest, format!("'{name}' is not the id of a model: {id}"))
            .hint("take first_id or last_id of a page before; if models have gone since, begin again")
    })
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn page_of(query: &str) -> Value {
        let cards = ["a", "b", "c", "d"].map(Card::sample).into();
        serde_json::to_value(page(&format!("/v1/models?{query}").parse().unwrap(), cards).unwrap()).unwrap()
    }

    #[test]
    fn a_model_has_anthropics_form() {
        let list = page_of("limit=1");
        assert_eq!(
            list,
            json!({"data": [{"type": "model", "id": "a", "display_name": "a", "created_at": "1970-01-02T00:00:00Z",
                   "lifecycle": "active", "max_input_tokens": 2048}],
                   "has_more": true, "first_id": "a", "last_id": "a"})
        );
    }

    #[test]
    fn pages_go_both_ways() {
        for (query, ids, has_more) in [
            ("", "abcd", false),
            ("limit=4", "abcd", false),
            ("limit=3", "abc", true),
            ("limit=0", "a", true),
            ("after_id=b&limit=1", "c", true),
            ("after_id=b", "cd", false),
            ("after_id=d", "", false),
            ("before_id=d&limit=2", "bc", true),
            ("before_id=c", "ab", false),
        ] {
            let page = page_of(query);
            let of_page = page["data"].as_array().unwrap().iter().map(|info| info["id"].as_str().unwrap());
            assert_eq!(
                (of_page.collect::<String>().as_str(), &page["has_more"]),
                (ids, &json!(has_more)),
                "{query}"
            );
        }
    }

    #[test]
    fn a_page_that_is_not_there_is_refused() {
        for (query, named) in
            [("after_id=x", "'after_id'"), ("before_id=x", "'before_id'"), ("limit=x", "query")]
        {
            let uri = format!("/v1/models?{query}").parse().unwrap();
            assert!(page(&uri, vec![Card::sample("a")]).unwrap_err().message.contains(named), "{query}");
        }
    }
}
