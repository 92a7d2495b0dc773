//! What the requests about models and the answers to them look like, for the description of the API. Requests are
//! read field by field; these types are never made.

#![expect(dead_code, reason = "the types are read by the derive alone")]

use serde_json::Value;
use utoipa::ToSchema;

use super::card::Details;
use crate::time::Instant;

/// What names a model. `name` is the older name of the field.
#[derive(ToSchema)]
#[schema(as = OllamaName)]
pub(super) struct NameRequest {
    model: Option<String>,
    name: Option<String>,
}

/// A request of `/api/show`.
#[derive(ToSchema)]
#[schema(as = OllamaShowRequest)]
pub(super) struct ShowRequest {
    model: Option<String>,
    /// The older name of `model`.
    name: Option<String>,
    /// Whether `model_info` has arrays.
    verbose: Option<bool>,
}

/// A request of `/api/pull`.
#[derive(ToSchema)]
#[schema(as = OllamaPullRequest)]
pub(super) struct PullRequest {
    model: Option<String>,
    /// The older name of `model`.
    name: Option<String>,
    /// Whether progress comes in lines; it does unless this is false.
    stream: Option<bool>,
}

/// A request of `/api/copy`.
#[derive(ToSchema)]
#[schema(as = OllamaCopyRequest)]
pub(super) struct CopyRequest {
    /// What names the model.
    #[schema(min_length = 1)]
    source: String,
    /// The alias.
    #[schema(min_length = 1)]
    destination: String,
}

/// A line of progress.
#[derive(ToSchema)]
#[schema(as = OllamaPullLine)]
pub(super) struct PullLine {
    status: Option<String>,
    /// Tells the bars of several files apart.
    digest: Option<String>,
    /// In bytes.
    total: Option<u64>,
    /// In bytes.
    completed: Option<u64>,
    /// Why it failed; only in the last line.
    error: Option<String>,
}

/// What one model is.
#[derive(ToSchema)]
#[schema(as = OllamaShown)]
pub(super) struct Shown {
    modelfile: String,
    /// Jinja, as the file has it.
    template: String,
    details: Details,
    /// The metadata of its file.
    #[schema(value_type = Object)]
    model_info: Value,
    capabilities: Vec<String>,
    modified_at: Instant,
    /// What requests get where they do not say, in lines.
    parameters: Option<String>,
    system: Option<String>,
    license: Option<String>,
}
