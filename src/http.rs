//! The hive's HTTP surface: every route on one page.
//!
//! A request passes the connection loop (`server`), the access checks (`security`) and a handler, in this
//! order. Every refusal is an RFC 9457 problem (`problem`).

mod peers;
mod access;
mod api;
mod docs;
mod capabilities;
mod config;
mod compression;
mod events;
mod hive;
mod heartbeats;
mod jobs;
mod markdown;
mod metrics;
mod models;
mod anthropic;
mod ollama;
mod openai;
mod sharing;
mod blobs;
mod gateway;
mod operation;
mod numbers;
mod ignored;
mod security;
mod body;
mod server;
mod closing;
mod leftover;
mod lingering;
mod seats;
mod caller;
mod listener;
mod sockets;
mod guesses;
mod session;
mod stream;
mod sse;
mod token;
mod ui;
mod file;
mod kept;
mod worker_log;
mod path;
mod prefix;
mod dialect;
mod problem;

#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use axum::Router;
use axum::middleware::{from_fn, from_fn_with_state};
use axum::routing::{any, delete, get};

use crate::app::AppState;
use crate::callers::Callers;
use crate::config::Config;
use crate::error::Result;
use crate::usage::Usage;
use body::post;
use security::AccessPolicy;

pub(crate) use closing::Closing;
pub use listener::Listener;
pub(crate) use listener::{SocketFile, is_trusted, listen};
pub(crate) use peers::answer_hives;
pub(crate) use server::serve;
pub use sockets::Sockets;

/// Every route. `security::roles` has the role that each asks for.
///
/// # Errors
/// [`Code::ConfigInvalid`](crate::error::Code::ConfigInvalid) if a setting of access is not valid.
pub(crate) fn router(app: &AppState) -> Result<Router> {
    let policy = Arc::new(AccessPolicy::new(&app.config, app.callers.clone(), app.usage.clone())?);
    Ok(Router::new()
        .route("/", get(hive::index))
        .route("/ui/{*path}", get(ui::file))
        .route("/health", get(hive::health))
        .route("/metrics", get(metrics::get))
        .route("/openapi.json", get(api::document))
        .route("/docs", get(docs::page))
        .route("/docs/{*path}", get(docs::file))
        .route("/v1/jobs", post(jobs::submit).get(jobs::list))
        .route("/v1/jobs/{job_id}", get(jobs::get).delete(jobs::cancel))
        .route("/v1/jobs/{job_id}/stream", get(stream::stream))
        .route("/v1/events", get(events::events))
        .route("/v1/capabilities", get(capabilities::get))
        .route("/capabilities", get(capabilities::get))
        .route("/v1/heartbeats/stream", get(heartbeats::get))
        .route("/v1/workers/{pid}/log", get(worker_log::get))
        .route("/v1/models", get(models::list))
        .route("/v1/models/{*id}", get(models::find))
        .route("/v1/chat/completions", post(openai::chat_completions))
        .route("/v1/completions", post(openai::completions))
        .route("/v1/embeddings", post(openai::embeddings))
        .route("/v1/rerank", post(openai::rerank))
        .route("/v1/messages", post(anthropic::messages))
        .route("/v1/messages/count_tokens", post(anthropic::count_tokens))
        .route("/v1/responses", post(openai::responses::create))
        .route("/v1/responses/{id}", get(openai::responses::get).delete(openai::responses::delete))
        .route("/v1/responses/{id}/input_items", get(openai::responses::input_items))
        .route("/api/version", get(ollama::version))
        .route("/api/tags", get(ollama::tags))
        .route("/api/ps", get(ollama::ps))
        .route("/api/show", post(ollama::show))
        .route("/api/chat", post(ollama::chat))
        .route("/api/generate", post(ollama::generate))
        .route("/api/embed", post(ollama::embed))
        .route("/api/embeddings", post(ollama::embeddings))
        .route("/api/pull", post(ollama::pull))
        .route("/api/copy", post(ollama::copy))
        .route("/api/delete", delete(ollama::delete))
        .route("/api/create", any(ollama::not_offered))
        .route("/api/push", any(ollama::not_offered))
        .route("/api/me", any(ollama::not_offered))
        .route("/api/signout", any(ollama::not_offered))
        .route("/api/blobs/{digest}", any(ollama::not_offered))
        .route("/hub/api/models/{org}/{repo}", get(sharing::hub::repository))
        .route("/hub/api/models/{org}/{repo}/revision/{revision}", get(sharing::hub::repository_at))
        .route("/hub/api/models/{org}/{repo}/tree/{revision}", get(sharing::hub::tree))
        .route("/hub/api/models/{org}/{repo}/tree/{revision}/{*folder}", get(sharing::hub::tree_of_folder))
        .route("/hub/api/models/{org}/{repo}/refs", get(sharing::hub::references))
        .route("/hub/{org}/{repo}/resolve/{revision}/{*path}", get(sharing::hub::file))
        .route("/hub/v2/{org}/{repo}/manifests/{tag}", get(sharing::hub::manifest))
        .route("/v2", get(sharing::registry::version))
        .route("/v2/{namespace}/{name}/manifests/{tag}", get(sharing::registry::manifest))
        .route("/v2/{namespace}/{name}/blobs/{digest}", get(sharing::registry::blob))
        .route("/v1/markdown", post(markdown::render))
        .route("/v1/session", post(session::create).delete(session::end).with_state(policy.sessions()))
        .route("/v1/shutdown", post(hive::shut_down))
        .route("/v1/config", get(config::get))
        .route("/v1/reload", post(hive::reload))
        .fallback(problem::route_not_found)
        .method_not_allowed_fallback(problem::method_not_allowed)
        // Last, so that they wrap everything above, fallbacks included. Each may change the answers of those above.
        .layer(from_fn_with_state(policy, security::check_access))
        .layer(from_fn(dialect::speak))
        .layer(compression::layer())
        .layer(from_fn(access::log))
        .with_state(Arc::clone(app)))
}

/// Checks the settings of access, with the files of tokens.
///
/// # Errors
/// As [`router`], and those of [`Callers::open`].
pub(crate) fn check_access(config: &Config) -> Result<()> {
    AccessPolicy::new(config, Callers::open(config)?, Usage::default()).map(drop)
}
