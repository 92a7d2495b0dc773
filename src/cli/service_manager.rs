//! The service manager that started this process: the sockets that it passes, and what it is told.
//!
//! The protocols are systemd's, `sd_listen_fds(3)` and `sd_notify(3)`, which other managers speak too. Without the
//! variables of these protocols in the environment, all this does nothing.
//!
//! Invariants:
//! - The manager hears that the hive is ready once `/health` has answered over the hive's own socket, and that it is
//!   alive only while that answers. So a hive that accepts nothing or whose runtime stands still is started again.
//! - A socket that is not understood is refused by name: it would otherwise take connections that nobody answers.

use std::time::Duration;

use listenfd::ListenFd;
use sd_notify::NotifyState;
use tokio::time::{MissedTickBehavior, interval, sleep};

use crate::app::AppState;
use crate::daemon;
use crate::error::{Code, Failure, Result};
use crate::http::Sockets;

/// How long `/health` may take to answer where the manager sets no limit.
const PATIENCE: Duration = Duration::from_secs(10);
/// The pause between two questions of a hive that does not answer yet.
const PAUSE: Duration = Duration::from_millis(50);
/// How often the manager may get another status.
const STATUS_EVERY: Duration = Duration::from_secs(1);

/// The sockets that the manager passed: a Unix socket, a TCP socket, and a TCP socket named `ollama`
/// (`FileDescriptorName=`). Call it once, before the process has other threads: it clears the variables.
///
/// # Errors
/// [`Code::ConfigInvalid`] for a descriptor that is none of these, or for two that are the same.
pub(super) fn passed_sockets() -> Result<Sockets> {
    let names = std::env::var("LISTEN_FDNAMES").unwrap_or_default();
    let (mut passed, mut sockets) = (ListenFd::from_env(), Sockets::default());
    for (number, name) in (0..passed.len()).zip(names.split(':').chain(std::iter::repeat(""))) {
        let refused = |why: &str| {
            Failure::new(
                Code::ConfigInvalid,
                format!(
                    "the service manager passed the socket '{name}', on which the hive cannot serve: {why}"
                ),
            )
            .hint("pass at most one TCP socket, one more with FileDescriptorName=ollama, and one Unix socket")
        };
        let is_taken = if let Ok(socket) = passed.take_unix_listener(number) {
            put(&mut sockets.unix, socket)
        } else {
            let socket = passed.take_tcp_listener(number).map_err(|error| refused(&error.to_string()))?;
            put(if name == "ollama" { &mut sockets.ollama } else { &mut sockets.http }, socket)
        };
        if is_taken {
            return Err(refused("there is another one for the same purpose"));
        }
    }
    Ok(sockets)
}

/// Puts a socket in its place. Returns whether another one is there.
fn put<T>(place: &mut Option<T>, socket: Option<T>) -> bool {
    let is_taken = place.is_some();
    *place = place.take().or(socket);
    is_taken
}

/// Tells the manager what a hive does, until it stops.
pub(super) async fn attend(app: AppState) {
    if std::env::var_os("NOTIFY_SOCKET").is_none() {
        return;
    }
    tokio::select! {
        () = tell(&app) => {}
        () = app.shutdown.cancelled() => {}
    }
    notify(&[NotifyState::Stopping, NotifyState::Status("Stopping")]);
}

/// Tells it when the hive is ready, and from then on what it serves and that it is alive.
async fn tell(app: &AppState) {
    let watchdog = sd_notify::watchdog_enabled();
    let patience = watchdog.map_or(PATIENCE, |limit| limit / 4);
    while daemon::answers(&app.address, patience).await.is_err() {
        sleep(PAUSE).await;
    }
    let mut status = status(app);
    notify(&[NotifyState::Ready, NotifyState::Status(&status)]);
    let mut changes = interval(STATUS_EVERY);
    let mut beats = interval(watchdog.map_or(Duration::MAX / 2, |limit| limit / 2));
    beats.set_missed_tick_behavior(MissedTickBehavior::Delay);
    changes.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            _ = beats.tick(), if watchdog.is_some() => match daemon::answers(&app.address, patience).await {
                Ok(()) => notify(&[NotifyState::Watchdog]),
                Err(error) => tracing::warn!(%error, "the hive's own /health did not answer in {patience:?}"),
            },
            _ = changes.tick() => {
                let now = self::status(app);
                if now != status {
                    notify(&[NotifyState::Status(&now)]);
                    status = now;
                }
            }
        }
    }
}

/// One line of what the hive serves.
fn status(app: &AppState) -> String {
    let workers = app.workers.list();
    let mut models: Vec<_> =
        workers.iter().filter(|worker| worker.status.serves()).map(|worker| &worker.model).collect();
    models.sort_unstable();
    models.dedup();
    let running = app.jobs.running().len();
    let names = models.iter().map(|model| model.as_str()).collect::<Vec<_>>().join(", ");
    let loaded = if names.is_empty() { "no model loaded".to_owned() } else { format!("loaded: {names}") };
    format!("Serving on {}; {loaded}; {} worker(s), {running} job(s)", app.address.url(), workers.len())
}

/// Does `work`, and tells the manager that the hive is busy with its settings until it is done.
pub(super) fn around_reload(work: impl FnOnce()) {
    match NotifyState::monotonic_usec_now() {
        Ok(now) => notify(&[NotifyState::Reloading, now]),
        Err(error) => tracing::debug!(%error, "no monotonic clock"),
    }
    work();
    notify(&[NotifyState::Ready]);
}

fn notify(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        tracing::warn!(%error, "could not tell the service manager: {states:?}");
    }
}
