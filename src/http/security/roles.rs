//! Which role each route asks for, where the hive asks for a token.
//!
//! What is not in the table needs the role `manage`: a route that somebody forgets here opens nothing, and a test
//! fails.

use axum::http::Method;

use crate::config::Role;

use Role::{Manage, Read, Use};

/// The routes, in the order of the router, with their methods. `GET` stands for `HEAD` too.
const TABLE: &[(&str, &[(&str, Role)])] = &[
    // Open to everybody, but for the methods that they lack.
    ("/", &[("GET", Read)]),
    ("/ui/{*path}", &[("GET", Read)]),
    ("/health", &[("GET", Read)]),
    ("/metrics", &[("GET", Read)]),
    ("/openapi.json", &[("GET", Read)]),
    ("/docs", &[("GET", Read)]),
    ("/docs/{*path}", &[("GET", Read)]),
    // The operation decides on: see `jobs`.
    ("/v1/jobs", &[("GET", Read), ("POST", Read)]),
    ("/v1/jobs/{job_id}", &[("GET", Read), ("DELETE", Read)]),
    ("/v1/jobs/{job_id}/stream", &[("GET", Read)]),
    ("/v1/events", &[("GET", Read)]),
    ("/v1/capabilities", &[("GET", Read)]),
    ("/capabilities", &[("GET", Read)]),
    ("/v1/heartbeats/stream", &[("GET", Read)]),
    ("/v1/workers/{pid}/log", &[("GET", Read)]),
    ("/v1/models", &[("GET", Read)]),
    ("/v1/models/{*id}", &[("GET", Read)]),
    ("/v1/chat/completions", &[("POST", Use)]),
    ("/v1/completions", &[("POST", Use)]),
    ("/v1/embeddings", &[("POST", Use)]),
    ("/v1/rerank", &[("POST", Use)]),
    ("/v1/messages", &[("POST", Use)]),
    ("/v1/messages/count_tokens", &[("POST", Use)]),
    ("/v1/responses", &[("POST", Use)]),
    ("/v1/responses/{id}", &[("GET", Use), ("DELETE", Use)]),
    ("/v1/responses/{id}/input_items", &[("GET", Use)]),
    ("/api/version", &[("GET", Read)]),
    ("/api/tags", &[("GET", Read)]),
    ("/api/ps", &[("GET", Read)]),
    ("/api/show", &[("POST", Read)]),
    ("/api/chat", &[("POST", Use)]),
    ("/api/generate", &[("POST", Use)]),
    ("/api/embed", &[("POST", Use)]),
    ("/api/embeddings", &[("POST", Use)]),
    ("/api/pull", &[("POST", Manage)]),
    ("/api/copy", &[("POST", Manage)]),
    ("/api/delete", &[("DELETE", Manage)]),
    ("/api/create", ANY),
    ("/api/push", ANY),
    ("/api/me", ANY),
    ("/api/signout", ANY),
    ("/api/blobs/{digest}", ANY),
    ("/hub/api/models/{org}/{repo}", &[("GET", Read)]),
    ("/hub/api/models/{org}/{repo}/revision/{revision}", &[("GET", Read)]),
    ("/hub/api/models/{org}/{repo}/tree/{revision}", &[("GET", Read)]),
    ("/hub/api/models/{org}/{repo}/tree/{revision}/{*folder}", &[("GET", Read)]),
    ("/hub/api/models/{org}/{repo}/refs", &[("GET", Read)]),
    ("/hub/{org}/{repo}/resolve/{revision}/{*path}", &[("GET", Read)]),
    ("/hub/v2/{org}/{repo}/manifests/{tag}", &[("GET", Read)]),
    ("/v2", &[("GET", Read)]),
    ("/v2/{namespace}/{name}/manifests/{tag}", &[("GET", Read)]),
    ("/v2/{namespace}/{name}/blobs/{digest}", &[("GET", Read)]),
    ("/v1/markdown", &[("POST", Use)]),
    ("/v1/session", &[("POST", Read), ("DELETE", Read)]),
    ("/v1/shutdown", &[("POST", Manage)]),
    ("/v1/config", &[("GET", Manage)]),
    ("/v1/reload", &[("POST", Manage)]),
];

/// Routes that refuse every method alike: the hive does not offer them.
const ANY: &[(&str, Role)] =
    &[("GET", Read), ("POST", Read), ("PUT", Read), ("PATCH", Read), ("DELETE", Read), ("OPTIONS", Read)];

/// The role that a method of a route asks for. `None` as route stands for a path without one, whose answer tells
/// nothing.
pub(super) fn needed(method: &Method, route: Option<&str>) -> Role {
    let Some(route) = route else { return Read };
    let method = if *method == Method::HEAD { &Method::GET } else { method };
    let row = TABLE.iter().find(|(path, _)| *path == route);
    let role = row.and_then(|(_, methods)| methods.iter().find(|(name, _)| *name == method.as_str()));
    role.map_or(Manage, |(_, role)| *role)
}

/// The routes of the table, with their methods.
#[cfg(test)]
pub(crate) fn table() -> impl Iterator<Item = (&'static str, &'static [(&'static str, Role)])> {
    TABLE.iter().copied()
}
