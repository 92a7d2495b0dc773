//! The worker process: one model behind OpenAI's API, on loopback.
//!
//! Theory of operation. [`run`] listens first and then says where ([`WorkerOptions::report`]), so
//! that whoever started it can watch the load at `/health` from its first byte. One thread loads
//! the model and becomes the engine's (`generation`); the rest is tasks that parse requests, hand
//! them to it and write what it sends back. The process ends when `shutdown` is cancelled, when the
//! load fails (with the failure in the report), when the engine ends by itself, or when the other
//! end of its standard input is gone ([`WorkerOptions::lifeline`]).
//!
//! Invariant: the secret comes from the environment and goes nowhere else: not to an argument, a
//! log, the report or an answer.

mod chat;
mod lifeline;
mod openai;
mod report;
mod routes;
mod state;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use axum::serve::ListenerExt as _;
use tokio::net::TcpListener;
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;

use crate::error::{Code, Failure, Result};
use crate::spawn;
use report::Report;
use state::WorkerState;

/// The environment variable with the secret that `/v1/*` asks for.
pub const SECRET_VARIABLE: &str = "RBEE_WORKER_SECRET";

/// How long open answers may take to end once the worker stops.
const GRACE: Duration = Duration::from_secs(10);

/// What a worker is to serve, and how.
#[derive(Clone, Debug)]
pub struct WorkerOptions {
    /// The GGUF file.
    pub model: PathBuf,
    /// The name to report; the file's stem where absent.
    pub model_id: Option<String>,
    /// TCP port on 127.0.0.1; 0 takes a free one.
    pub port: u16,
    /// A file that says where the worker listens, or why it failed.
    pub report: Option<PathBuf>,
    /// Context of each slot in tokens. What the model was trained for is the most; without it, 8192
    /// at most.
    pub context_length: Option<usize>,
    /// How many sequences run at the same time; at least one does.
    pub slots: usize,
    /// End when standard input ends: whoever holds its other end is gone.
    pub lifeline: bool,
}

/// Serves until `shutdown` is cancelled.
///
/// # Errors
/// `port_in_use`, `io` for the report, whatever the load fails with, and `internal` where the engine
/// ends by itself.
pub async fn run(options: WorkerOptions, shutdown: CancellationToken) -> Result<()> {
    let secret = std::env::var(SECRET_VARIABLE).ok().filter(|secret| !secret.is_empty());
    let listener = TcpListener::bind(("127.0.0.1", options.port)).await.map_err(|error| {
        let code = match error.kind() {
            std::io::ErrorKind::AddrInUse => Code::PortInUse,
            _ => Code::Io,
        };
        Failure::new(code, format!("could not listen on 127.0.0.1:{}: {error}", options.port))
            .hint("choose another port, or 0 for a free one")
            .stage("start")
    })?;
    serve(listener, options, secret, shutdown).await
}

async fn serve(
    listener: TcpListener,
    options: WorkerOptions,
    secret: Option<String>,
    shutdown: CancellationToken,
) -> Result<()> {
    let address = listener
        .local_addr()
        .map_err(|error| Failure::internal(format!("the listener has no address: {error}")))?;
    let report = Report::new(options.report.clone());
    report.listening(address.port()).await?;
    tracing::info!(%address, model = %options.model.display(), "worker is listening");
    if options.lifeline {
        lifeline::hold(shutdown.clone())?;
    }

    let state = Arc::new(WorkerState::new(secret));
    let stop = shutdown.child_token();
    let server = axum::serve(
        listener.tap_io(|stream| {
            if let Err(error) = stream.set_nodelay(true) {
                tracing::debug!(%error, "TCP_NODELAY was refused");
            }
        }),
        routes::router(Arc::clone(&state)),
    )
    .with_graceful_shutdown(stop.clone().cancelled_owned());
    let mut server = spawn::task(server.into_future());

    let (ended_sender, mut ended) = oneshot::channel();
    spawn::thread("engine", {
        let (state, stop) = (Arc::clone(&state), stop.clone());
        move || {
            // Nobody waits for it any more once the worker stops.
            ended_sender.send(state.load_and_run(&options, &stop)).ok();
        }
    })
    .map_err(|error| Failure::internal(format!("could not start the engine's thread: {error}")))?;

    let outcome = tokio::select! {
        () = shutdown.cancelled() => Ok(()),
        result = &mut ended => match result {
            Ok(Err(failure)) => Err(failure),
            Ok(Ok(())) | Err(_) => Err(Failure::internal("the engine's thread ended by itself")),
        },
    };
    if let Err(failure) = &outcome {
        tracing::error!(code = %failure.code, causes = ?failure.causes, detail = ?failure.detail, "{failure}");
        report.failed(failure).await?;
    }
    // In this order: a load that ends now sees the token, or has published what is stopped here.
    stop.cancel();
    state.stop();
    if tokio::time::timeout(GRACE, &mut server).await.is_err() {
        server.abort();
        tracing::warn!("some connections did not end in time");
    }
    outcome
}

#[cfg(test)]
mod tests;
