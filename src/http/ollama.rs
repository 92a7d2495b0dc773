//! Ollama's API (<https://docs.ollama.com/api>), for its own clients and for every tool that speaks nothing else.
//!
//! What changes something is an ordinary job of the hive: it is journalled, it is on `/v1/events`, and it goes on
//! where its caller leaves.
//!
//! Invariants:
//! - A name that an answer shows is one that every request takes: the hive's own id, a variant or an alias.
//! - What the hive does not offer is refused by its name. A field without effect is told, in the header
//!   `x-rbee-ignored-fields`.

pub(crate) mod chats;
pub(crate) mod pull;
pub(crate) mod acts;
pub(crate) mod show;
pub(crate) mod lists;
mod shape;
mod card;
mod asked;

use axum::http::Extensions;

pub(crate) use acts::{NOT_OFFERED, copy, delete, not_offered};
pub(crate) use chats::{chat, embed, embeddings, generate};
pub(crate) use lists::{ps, tags, version};
pub(crate) use pull::pull;
pub(crate) use show::{SHOW, show, show_to_hive};

use crate::http::listener::Arrival;

/// What Ollama answers at `/`, by which clients know that it is there.
pub(crate) const RUNNING: &str = "Ollama is running";

/// Whether the request came to the listener that stands in Ollama's place.
pub(crate) fn is_addressed(extensions: &Extensions) -> bool {
    matches!(extensions.get::<Arrival>(), Some(Arrival::Tcp { is_for_ollama: true, .. }))
}
