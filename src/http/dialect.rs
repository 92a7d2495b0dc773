//! Which API's form the errors of a route have.

/// Whether a path is of OpenAI's API, whose clients expect OpenAI's `error` object.
pub(super) fn is_openai(path: &str) -> bool {
    matches!(path, "/v1/models" | "/v1/chat/completions" | "/v1/completions" | "/v1/embeddings")
        || path.starts_with("/v1/models/")
}
