//! The worker process: it serves one model through OpenAI's API, on loopback.
//!
//! Theory of operation. [`run`] listens first and then reports its port ([`WorkerOptions::report`]),
//! so that the process that started it can follow the load at `/health` from the first byte. One
//! thread loads the model and then becomes the generation thread ([`generation`](super::generation)).
//! Tasks parse requests, submit them to that thread and write its events to the clients. The process
//! ends when `shutdown` is cancelled, when the load fails (with the failure in the report), when the
//! generation thread ends by itself, or when standard input ends ([`WorkerOptions::lifeline`]).
//!
//! Invariant: the secret is read from the environment and is never written to an argument, a log,
//! the report or an answer.

mod lifeline;
mod report;
mod routes;
mod embeddings;
mod completions;
mod tokens;
mod chat;
mod openai;
mod answering;
mod choices;
mod body;
mod state;
mod error;
mod options;

use std::sync::Arc;
use std::time::Duration;

use axum::serve::ListenerExt as _;
use tokio::net::TcpListener;
use tokio::runtime::Handle;
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;

use super::template::sandbox::Sandbox;
use crate::error::{Code, Failure, Result};
use crate::spawn;
pub use options::WorkerOptions;
use report::ReportFile;
use state::WorkerState;

/// The environment variable with the secret that `/v1/*` requires.
pub const SECRET_VARIABLE: &str = "RBEE_WORKER_SECRET";

/// How long open connections may take to end once the worker stops.
const GRACE_PERIOD: Duration = Duration::from_secs(10);

/// Serves until `shutdown` is cancelled.
///
/// # Errors
/// `port_in_use`, `io` for the report, any failure of the load, and `internal` if the generation
/// thread ends by itself.
pub async fn run(options: WorkerOptions, shutdown: CancellationToken) -> Result<()> {
    run_with(options, Sandbox::of_this_program()?, shutdown).await
}

/// Does the work of [`run`]. Chat templates are rendered in the sandbox.
async fn run_with(options: WorkerOptions, sandbox: Sandbox, shutdown: CancellationToken) -> Result<()> {
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
    serve(listener, options, sandbox, secret, shutdown).await
}

async fn serve(
    listener: TcpListener,
    options: WorkerOptions,
    sandbox: Sandbox,
    secret: Option<String>,
    shutdown: CancellationToken,
) -> Result<()> {
    let address = listener
        .local_addr()
        .map_err(|error| Failure::internal(format!("the listener has no address: {error}")))?;
    let report = ReportFile::new(options.report.clone());
    report.listening(address.port()).await?;
    tracing::info!(%address, model = %options.model.display(), "the worker is listening");
    if options.lifeline {
        lifeline::watch(shutdown.clone(), GRACE_PERIOD * 2)?;
    }

    let state = Arc::new(WorkerState::new(secret));
    let stop = shutdown.child_token();
    let server = axum::serve(
        listener.tap_io(|stream| {
            if let Err(error) = stream.set_nodelay(true) {
                tracing::debug!(%error, "could not set TCP_NODELAY");
            }
        }),
        routes::router(Arc::clone(&state)),
    )
    .with_graceful_shutdown(stop.clone().cancelled_owned());
    let mut server = spawn::task(server.into_future());

    let (ended_sender, mut ended) = oneshot::channel();
    spawn::thread("engine", {
        let (state, stop, runtime) = (Arc::clone(&state), stop.clone(), Handle::current());
        move || {
            // The send fails only if the worker is stopping already.
            ended_sender.send(state.load_and_run(&options, sandbox, &runtime, &stop)).ok();
        }
    })
    .map_err(|error| Failure::internal(format!("could not start the generation thread: {error}")))?;

    let outcome = tokio::select! {
        () = shutdown.cancelled() => Ok(()),
        result = &mut ended => match result {
            Ok(Err(failure)) => Err(failure),
            Ok(Ok(())) | Err(_) => Err(Failure::internal("the generation thread ended by itself")),
        },
    };
    if let Err(failure) = &outcome {
        tracing::error!(code = %failure.code, causes = ?failure.causes, detail = ?failure.detail, "{failure}");
        report.failed(failure).await?;
    }
    // In this order: a load that ends now either sees the token, or has published the model, whose
    // generation thread is then stopped here.
    stop.cancel();
    state.stop();
    if tokio::time::timeout(GRACE_PERIOD, &mut server).await.is_err() {
        server.abort();
        tracing::warn!("some connections did not end within the grace period");
    }
    outcome
}

#[cfg(test)]
mod tests;
