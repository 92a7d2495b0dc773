//! The files of this machine's models for other programs of the house, read-only, in the forms in which these know to
//! ask: the Hugging Face Hub's (`hub`) and that of Ollama's registry (`registry`).
//!
//! Invariants:
//! - What is not on this machine is not there: the hive asks nobody else for it.
//! - A token that is for some models alone gets the files of no others.

pub(super) mod hub;
pub(super) mod registry;

use axum::http::{HeaderName, HeaderValue};
use axum::response::Response;

/// The answer with these headers too. What no header can have is left out.
fn telling<const N: usize>(mut response: Response, about: [(HeaderName, String); N]) -> Response {
    for (name, value) in about {
        if let Ok(value) = HeaderValue::try_from(value) {
            response.headers_mut().insert(name, value);
        }
    }
    response
}
