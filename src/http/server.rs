//! The connection loop: accepts connections, serves HTTP/1.1, and shuts down in order.
//!
//! Invariants:
//! - Every accepted socket has `TCP_NODELAY`. Otherwise a POST followed by a stream would wait 40 ms for a
//!   delayed ACK.
//! - The connection of a client that does not send its next request's head, or does not read its answer, is
//!   closed. Timers on the transport see to that, which run even while the code of the answer waits.
//! - [`serve`] returns when every connection is closed.

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
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
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_io_timeout::TimeoutStream;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tower::ServiceExt;
use tower_http::normalize_path::NormalizePath;

use super::leftover;
use super::problem::Problem;
use crate::config::Timers;
use crate::error::Failure;
use crate::spawn;

/// Connections that are served at once. Further ones wait in the system's backlog. The number is far above
/// what users need, and keeps a runaway client from taking all the memory.
const MOST_CONNECTIONS: usize = 16_384;
/// Bytes of a request that are buffered before its body is read, and so the largest head.
const BUFFER_BYTES: usize = 64 << 10;
/// The first pause after the system had no descriptor or memory for a connection. It doubles up to 1 s.
const FIRST_PAUSE: Duration = Duration::from_millis(50);

/// The address of the socket that a request arrived at. An extension of every request.
#[derive(Clone, Copy, Debug)]
pub(crate) struct LocalAddr(pub(crate) SocketAddr);

/// Serves until `shutdown`, then waits for requests in flight to finish, for [`Timers::drain`] at most.
pub(crate) async fn serve(listener: TcpListener, app: Router, timers: Timers, shutdown: CancellationToken) {
    let (stopping, closing) = (CancellationToken::new(), CancellationToken::new());
    let connections = TaskTracker::new();
    let permits = Arc::new(Semaphore::new(MOST_CONNECTIONS));
    loop {
        let next = async {
            let permit = admit(&permits).await;
            (accept(&listener).await, permit)
        };
        let ((stream, local), permit) = tokio::select! {
            biased;
            () = shutdown.cancelled() => break,
            next = next => next,
        };
        let connection = Connection {
            local,
            app: app.clone(),
            write_stall: *timers.write_stall,
            request_head: *timers.request_head,
            stopping: stopping.clone(),
        };
        let closing = closing.clone();
        let served = connections.track_future(async move {
            let _permit = permit;
            closing.run_until_cancelled(connection.serve(stream)).await;
        });
        drop(spawn::detached(served));
    }
    drop(listener);
    stopping.cancel();
    connections.close();
    if tokio::time::timeout(*timers.drain, connections.wait()).await.is_err() {
        tracing::info!(open = connections.len(), "closing connections that did not finish in time");
        closing.cancel();
        connections.wait().await;
    }
}

/// Waits for the permit of one more connection.
async fn admit(permits: &Arc<Semaphore>) -> OwnedSemaphorePermit {
    if permits.available_permits() == 0 {
        tracing::warn!(limit = MOST_CONNECTIONS, "too many connections; further ones wait");
    }
    permits.clone().acquire_owned().await.expect("the semaphore is never closed")
}

/// The next connection. Never fails: it skips an error of a single connection, and waits while the system
/// has no descriptor or memory.
async fn accept(listener: &TcpListener) -> (TcpStream, LocalAddr) {
    let mut pause = FIRST_PAUSE;
    loop {
        match listener.accept().await.and_then(|(stream, _)| prepare(stream)) {
            Ok(ready) => return ready,
            Err(error) if concerns_one_connection(&error) => {
                tracing::debug!(%error, "a connection was lost before it was accepted");
            }
            Err(error) => {
                if pause == FIRST_PAUSE {
                    tracing::error!(%error, "cannot accept connections; trying again");
                }
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(Duration::from_secs(1));
            }
        }
    }
}

fn prepare(stream: TcpStream) -> io::Result<(TcpStream, LocalAddr)> {
    stream.set_nodelay(true)?;
    let local = stream.local_addr()?;
    Ok((stream, LocalAddr(local)))
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
    local: LocalAddr,
    app: Router,
    write_stall: Duration,
    request_head: Duration,
    stopping: CancellationToken,
}

impl Connection {
    async fn serve(self, stream: TcpStream) {
        let Self { local, app, write_stall, request_head, stopping } = self;
        let mut transport = TimeoutStream::new(stream);
        transport.set_write_timeout(Some(write_stall));
        let asked = AtomicBool::new(false);
        let service = service_fn(|mut request: hyper::Request<Incoming>| {
            asked.store(true, Ordering::Relaxed);
            request.extensions_mut().insert(local);
            answer(app.clone(), request, request_head)
        });
        let mut connection = pin!(
            http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(request_head)
                .max_buf_size(BUFFER_BYTES)
                .serve_connection(TokioIo::new(Box::pin(transport)), service)
        );
        let ended = tokio::select! {
            ended = connection.as_mut() => ended,
            () = stopping.cancelled() => {
                if !asked.load(Ordering::Relaxed) {
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

/// The router's answer. A handler that panics fails its own request only. A slash too many at either end of
/// the path makes no difference. `body_limit` is the time for a body that no handler reads.
async fn answer(
    app: Router,
    request: hyper::Request<Incoming>,
    body_limit: Duration,
) -> Result<Response, Infallible> {
    let (request, leftover) = leftover::lend(request);
    let app = NormalizePath::trim_trailing_slash(app);
    let answered = AssertUnwindSafe(app.oneshot(request)).catch_unwind().await;
    // The process's panic hook has reported the panic.
    let mut response = answered.unwrap_or_else(|_| {
        let failure = Failure::internal("the hive panicked while it handled the request");
        Ok(Problem::from(failure).into_response())
    })?;
    leftover.settle(&mut response, body_limit).await;
    Ok(response)
}

#[cfg(test)]
mod tests;
