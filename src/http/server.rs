//! The connection loop: accepts connections, serves HTTP/1.1, and shuts down in order.
//!
//! Invariants:
//! - Every accepted TCP socket has `TCP_NODELAY`. Otherwise a POST followed by a stream would wait 40
//!   ms for a delayed ACK.
//! - Connections leave room for the hive's own files (`seats`).
//! - The connection of a client that does not send its next request's head, or does not read its answer, is
//!   closed. Timers on the transport see to that, which run even while the code of the answer waits.
//! - A connection that was accepted before a successor serves is answered once more.
//! - [`serve`] returns when every connection is closed.

use std::convert::Infallible;
use std::io;
use std::panic::AssertUnwindSafe;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use axum::Router;
use axum::response::{IntoResponse, Response};
use futures::FutureExt;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use parking_lot::Mutex;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::timeout;
use tokio_io_timeout::TimeoutStream;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tokio_util::task::task_tracker::TaskTrackerToken;
use tower::ServiceExt;
use tower_http::normalize_path::NormalizePath;

use super::closing::Closing;
use super::leftover;
use super::lingering::Lingering;
use super::listener::{Arrival, Listener, PeerCertificate, Stream};
use super::problem::Problem;
use super::seats::{Claim, Seats};
use crate::config::Timers;
use crate::error::Failure;
use crate::spawn;

/// Bytes of a request that are buffered before its body is read, and so the largest head.
const BUFFER_BYTES: usize = 64 << 10;
/// The first pause after the system had no descriptor or memory for a connection. It doubles up to 1 s.
const FIRST_PAUSE: Duration = Duration::from_millis(50);

/// Serves until it is to end, then waits for requests in flight to finish, for [`Timers::drain`] at most unless another
/// time was set.
pub(crate) async fn serve(
    listener: impl Into<Listener>,
    app: Router,
    timers: Timers,
    end: impl Into<Closing>,
) {
    let (listener, end) = (listener.into(), end.into());
    let (stopping, closing) = (CancellationToken::new(), CancellationToken::new());
    let connections = TaskTracker::new();
    let (seats, tls) = (Seats::within_limits(), listener.tls());
    for number in 0.. {
        let (stream, arrival) = tokio::select! {
            biased;
            () = end.quiet.cancelled() => break,
            () = end.finishing.cancelled() => break,
            accepted = accept(&listener, &seats) => accepted,
        };
        // Not given up for a successor, which does not have this connection.
        let seat = tokio::select! {
            biased;
            () = end.quiet.cancelled() => break,
            seat = seats.take(number, arrival.peer()) => seat,
        };
        let connection = Connection {
            arrival,
            claim: seat.claim.clone(),
            app: app.clone(),
            tls: tls.clone(),
            write_stall: *timers.write_stall,
            request_head: *timers.request_head,
            unasked: Mutex::new(Some(end.unasked.token())),
            finishing: end.finishing.clone(),
            stopping: stopping.clone(),
        };
        let closing = closing.clone();
        let served = connections.track_future(async move {
            tokio::select! {
                () = closing.cancelled() => {}
                () = seat.given_up() => {}
                () = connection.serve(stream) => {}
            }
        });
        drop(spawn::detached(served));
    }
    drop(listener);
    connections.close();
    tokio::select! {
        () = end.quiet.cancelled() => {}
        () = connections.wait() => {}
    }
    stopping.cancel();
    if timeout(end.limit(*timers.drain), connections.wait()).await.is_err() {
        tracing::info!(open = connections.len(), "closing connections that did not finish in time");
        closing.cancel();
        connections.wait().await;
    }
}

/// The next connection. Never fails: it skips an error of a single connection. Where the system has no
/// descriptor or memory, it closes a connection without a request, and waits.
async fn accept(listener: &Listener, seats: &Seats) -> (Stream, Arrival) {
    let mut pause = FIRST_PAUSE;
    loop {
        match listener.accept().await {
            Ok(accepted) => return accepted,
            Err(error) if concerns_one_connection(&error) => {
                tracing::debug!(%error, "a connection was lost before it was accepted");
            }
            Err(error) => {
                if pause == FIRST_PAUSE {
                    tracing::error!(%error, "cannot accept connections; trying again");
                }
                seats.free_one();
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(Duration::from_secs(1));
            }
        }
    }
}

fn concerns_one_connection(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted
            | io::ErrorKind::ConnectionRefused
            | io::ErrorKind::ConnectionReset
            | io::ErrorKind::NotConnected
            // From `setsockopt`, on a connection that its client has reset.
            | io::ErrorKind::InvalidInput
    )
}

struct Connection {
    arrival: Arrival,
    claim: Claim,
    app: Router,
    tls: Option<TlsAcceptor>,
    write_stall: Duration,
    request_head: Duration,
    /// Held until its first request.
    unasked: Mutex<Option<TaskTrackerToken>>,
    finishing: CancellationToken,
    stopping: CancellationToken,
}

impl Connection {
    async fn serve(self, stream: Stream) {
        let Some(tls) = &self.tls else { return self.serve_on(stream, None).await };
        match timeout(self.request_head, tls.accept(stream)).await {
            Ok(Ok(stream)) => {
                let certificates = stream.get_ref().1.peer_certificates();
                let own = certificates.and_then(|chain| chain.first()).cloned();
                self.serve_on(stream, own.map(PeerCertificate)).await;
            }
            Ok(Err(error)) => tracing::debug!(%error, "a connection did not become TLS"),
            Err(_) => tracing::debug!("a connection took too long to become TLS"),
        }
    }

    async fn serve_on<T>(self, stream: T, certificate: Option<PeerCertificate>)
    where
        T: AsyncRead + AsyncWrite + Send + 'static,
    {
        let Self { arrival, claim, app, write_stall, request_head, unasked, finishing, stopping, .. } = self;
        let mut transport = TimeoutStream::new(stream);
        transport.set_write_timeout(Some(write_stall));
        let (asked, is_unread) = (CancellationToken::new(), Arc::new(AtomicBool::new(false)));
        let transport = Lingering::new(Box::pin(transport), Arc::clone(&is_unread), request_head);
        let service = service_fn(|mut request: hyper::Request<Incoming>| {
            asked.cancel();
            drop(unasked.lock().take());
            request.extensions_mut().insert(arrival);
            request.extensions_mut().insert(claim.clone());
            if let Some(certificate) = &certificate {
                request.extensions_mut().insert(certificate.clone());
            }
            let (app, is_unread) = (app.clone(), Arc::clone(&is_unread));
            async move {
                let (response, is_read) = answer(app, request, request_head).await;
                is_unread.fetch_or(!is_read, Ordering::Relaxed);
                Ok::<_, Infallible>(response)
            }
        });
        let mut connection = pin!(
            http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(request_head)
                .max_buf_size(BUFFER_BYTES)
                .serve_connection(TokioIo::new(transport), service)
        );
        let last_request = async {
            finishing.cancelled().await;
            asked.cancelled().await;
        };
        let ended = tokio::select! {
            ended = connection.as_mut() => ended,
            () = last_request => {
                connection.as_mut().graceful_shutdown();
                connection.await
            }
            () = stopping.cancelled() => {
                if !asked.is_cancelled() {
                    // It never sent a request, so there is nothing to finish.
                    return;
                }
                connection.as_mut().graceful_shutdown();
                connection.await
            }
        };
        if let Err(error) = ended {
            tracing::debug!(%error, "a connection broke");
        }
    }
}

/// The router's answer, and whether the request was read to its end. A handler that panics fails its
/// own request only. A slash too many at either end of the path makes no difference. `body_limit` is
/// the time for a body that no handler reads.
async fn answer(app: Router, request: hyper::Request<Incoming>, body_limit: Duration) -> (Response, bool) {
    let (request, leftover) = leftover::lend(request);
    let app = NormalizePath::trim_trailing_slash(app);
    let answered = AssertUnwindSafe(app.oneshot(request)).catch_unwind().await;
    let mut response = match answered {
        Ok(Ok(response)) => response,
        // The process's panic hook has reported the panic.
        Err(_) => {
            let failure = Failure::internal("the hive panicked while it handled the request");
            Problem::from(failure).into_response()
        }
    };
    let is_read = leftover.settle(&mut response, body_limit).await;
    (response, is_read)
}

#[cfg(test)]
mod tests;
