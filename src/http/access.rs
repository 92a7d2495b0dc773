//! The access log: one line for each request, once the last byte of its answer is sent or its client has
//! gone.
//!
//! A line names the route, never the path: paths have ids in them, and queries whatever a client puts there.
//! Of a request to a model it also has what was recorded of it (`requests`). What clients ask again and again
//! without a person who does it is at level debug, so that a hive with nothing to do writes nothing.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Instant;

use axum::body::{Body, Bytes, HttpBody};
use axum::extract::{MatchedPath, Request};
use axum::http::{Method, StatusCode};
use axum::middleware::Next;
use axum::response::Response;
use http_body::{Frame, SizeHint};
use tracing::field::Empty;
use tracing::{Instrument, Span};

use super::caller::{self, Admitted};
use crate::requests::{Outcome, Record, Recorded, in_ms};
use crate::time::monotonic;
use crate::traces::{self, TARGET};

/// Routes that are asked for again and again: by who watches the hive, and by an open page.
const ROUTINE: [&str; 5] = ["/", "/ui/{*path}", "/health", "/metrics", "/v1/markdown"];

/// The middleware.
pub(super) async fn log(request: Request, next: Next) -> Response {
    let (method, route) = (request.method().clone(), request.extensions().get::<MatchedPath>().cloned());
    let span = span(&method, route.as_ref());
    traces::continue_from(&span, request.headers());
    let mut line = Line {
        method,
        route,
        caller: caller::of(request.extensions()),
        came: monotonic(),
        status: StatusCode::OK,
        recorded: None,
        bytes: 0,
        is_whole: false,
    };
    let mut response = next.run(request).instrument(span.clone()).await;
    line.status = response.status();
    line.recorded = response.extensions_mut().remove();
    if let Some(Admitted(caller)) = response.extensions_mut().remove() {
        line.caller = caller;
    }
    span.record("http.response.status_code", line.status.as_u16());
    span.record("caller", &*line.caller);
    response.map(|body| Body::new(Logged { body: Some(body), line, span }))
}

/// The span of a request, in the words of OpenTelemetry's conventions for HTTP.
fn span(method: &Method, route: Option<&MatchedPath>) -> Span {
    let route = route.map_or("none", MatchedPath::as_str);
    tracing::debug_span!(
        target: TARGET,
        "request",
        otel.name = format_args!("{method} {route}"),
        otel.kind = "server",
        http.request.method = method.as_str(),
        http.route = route,
        http.response.status_code = Empty,
        caller = Empty,
    )
}

/// What a line says.
struct Line {
    method: Method,
    /// `None` where there is no such route.
    route: Option<MatchedPath>,
    caller: Arc<str>,
    came: Instant,
    status: StatusCode,
    recorded: Option<Recorded>,
    /// Bytes of the body, as they are sent.
    bytes: u64,
    /// Whether the whole body was taken.
    is_whole: bool,
}

impl Line {
    fn write(&self) {
        let route = self.route.as_ref().map_or("none", MatchedPath::as_str);
        let is_routine = ROUTINE.contains(&route) && self.status.as_u16() < 400;
        let record = self.recorded.as_ref().map(Recorded::record);
        let record = record.as_ref();
        let times = record.map(|record| &record.times);
        let tokens = record.map(|record| &record.tokens);
        macro_rules! write {
            ($level:ident) => {
                tracing::event!(
                    target: "access",
                    tracing::Level::$level,
                    method = self.method.as_str(),
                    route,
                    status = self.status.as_u16(),
                    caller = &*self.caller,
                    duration_ms = in_ms(monotonic().saturating_duration_since(self.came)),
                    bytes = self.bytes,
                    cut_off = (!self.is_whole).then_some(true),
                    request_id = record.map(|record| &*record.request_id),
                    model = record.and_then(|record| record.model.as_deref()),
                    worker = record.and_then(|record| record.worker),
                    job_id = record.and_then(|record| record.job_id.as_deref()),
                    outcome = record.map(outcome),
                    code = record.and_then(|record| record.code.as_deref()),
                    queue_ms = times.and_then(|times| times.queue).map(in_ms),
                    load_ms = times.and_then(|times| times.load).map(in_ms),
                    time_to_first_token_ms = times.and_then(|times| times.first_token).map(in_ms),
                    prompt_ms = times.and_then(|times| times.prompt).map(in_ms),
                    generation_ms = times.and_then(|times| times.generation).map(in_ms),
                    prompt_tokens = tokens.and_then(|tokens| tokens.prompt),
                    cached_tokens = tokens.and_then(|tokens| tokens.cached),
                    completion_tokens = tokens.and_then(|tokens| tokens.completion),
                    tokens_are_estimated = tokens.map(|tokens| tokens.are_estimated),
                    tokens_per_second = tokens.and_then(|tokens| tokens.per_second).map(f64::round),
                    retries = record.map(|record| record.retries),
                    "request",
                )
            };
        }
        if is_routine { write!(DEBUG) } else { write!(INFO) }
    }
}

/// One that has not ended by now has no client any more.
fn outcome(record: &Record) -> &'static str {
    record.outcome.unwrap_or(Outcome::ClientGone).name()
}

/// The body of an answer, whose end writes the line.
struct Logged {
    /// `None` only while it is dropped.
    body: Option<Body>,
    line: Line,
    span: Span,
}

impl HttpBody for Logged {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let this = &mut *self;
        let Some(body) = &mut this.body else { return Poll::Ready(None) };
        let _within = this.span.enter();
        let polled = Pin::new(body).poll_frame(cx);
        match &polled {
            Poll::Ready(None) => this.line.is_whole = true,
            Poll::Ready(Some(Ok(frame))) => {
                this.line.bytes += frame.data_ref().map_or(0, |data| data.len() as u64);
            }
            _ => {}
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.body.as_ref().is_none_or(HttpBody::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.body.as_ref().map(HttpBody::size_hint).unwrap_or_default()
    }
}

impl Drop for Logged {
    fn drop(&mut self) {
        // Nobody asks a body for more that says that it has ended.
        self.line.is_whole |= self.is_end_stream() || self.line.method == Method::HEAD;
        // A stream that its client has left ends with its body, and then its record says so.
        let _within = self.span.clone().entered();
        self.body = None;
        self.line.write();
    }
}
