//! What this hive answers to the other hives of its fleet, directly over HTTP, at an address of its own.
//!
//! Invariants:
//! - Only members of the fleet are let in ([`Access`]). What they may do is what the fleet lets every hive do.
//! - A request of another hive goes to no third one.

use axum::Router;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::HeaderValue;
use axum::http::header::{CONTENT_LENGTH, CONTENT_TYPE};
use axum::middleware::{Next, from_fn, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use tokio_util::sync::CancellationToken;

use super::caller::{Admitted, Sender};
use super::closing::Closing;
use super::gateway::{Forwarded, Head, REFUSAL, read, serve_call};
use super::listener::{Listener, PeerCertificate};
use super::problem::{self, Problem, Refusal};
use super::seats::Claim;
use super::{access, blobs, ollama, server, token};
use crate::app::AppState;
use crate::error::Result;
use crate::fleet::{Access, HIVE_HEADER, HiveListener, HiveName};
use crate::spawn;
use crate::text::json;

/// Answers other hives until `stop` is cancelled. Returns at once.
pub(crate) fn answer_hives(app: AppState, listener: HiveListener, stop: CancellationToken) {
    let HiveListener { tcp, tls, access } = listener;
    let (timers, visits) = (app.config.timers.clone(), app.visits.clone());
    let closing = Closing::within(stop, visits.limit());
    let serving = server::serve(Listener::from(tcp).with_tls(tls), router(app, access), timers, closing);
    spawn::detached(visits.track(serving));
}

fn router(app: AppState, access: Access) -> Router {
    Router::new()
        .route("/ask", post(ask))
        .route(ollama::SHOW, post(ollama::show_to_hive))
        .route("/blobs/{sha256}", get(blobs::get))
        .fallback(problem::route_not_found)
        .method_not_allowed_fallback(problem::method_not_allowed)
        .layer(from_fn_with_state(access, let_in))
        .layer(from_fn(refuse))
        .layer(from_fn(access::log))
        .with_state(app)
}

/// Lets the hives of the fleet in.
async fn let_in(State(access): State<Access>, mut request: Request, next: Next) -> Response {
    let says = request.headers().get(HIVE_HEADER).and_then(|name| name.to_str().ok());
    let secret = token::given(request.headers()).and_then(|secret| std::str::from_utf8(secret).ok());
    let certificate = request.extensions().get::<PeerCertificate>();
    match access.check(says, secret, certificate.map(|certificate| &certificate.0)) {
        Ok(hive) => {
            if let Some(claim) = request.extensions().get::<Claim>() {
                claim.keep();
            }
            let admitted = Admitted(format!("hive {hive}").into());
            request.extensions_mut().insert(hive);
            let mut answer = next.run(request).await;
            answer.extensions_mut().insert(admitted);
            answer
        }
        Err(failure) => Problem::from(failure).into_response(),
    }
}

/// Writes refusals as hives tell each other failures: whole.
async fn refuse(request: Request, next: Next) -> Response {
    let mut response = next.run(request).await;
    if let Some(refusal) = response.extensions_mut().remove::<Refusal>() {
        response.headers_mut().remove(CONTENT_LENGTH);
        response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(REFUSAL));
        *response.body_mut() = Body::from(json(refusal.failure()));
    }
    response
}

/// Answers a call of another hive's gateway, as the engine answers it.
async fn ask(State(app): State<AppState>, request: Request) -> Result<Response, Problem> {
    let forwarded = Forwarded::of(request.headers())?;
    let hive = request.extensions().get::<HiveName>().map(HiveName::to_string).unwrap_or_default();
    let sender = Sender { name: format!("{} by hive {hive}", forwarded.caller).into(), holder: None };
    let body = read(&app, request).await?;
    Ok(serve_call(&app, Head::of_hive(sender), forwarded.into_call(body)).await)
}
