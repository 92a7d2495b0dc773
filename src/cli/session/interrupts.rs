//! What tells a verb to leave while it follows a job.

use std::future::pending;

use tokio::signal::unix::{Signal, SignalKind, signal};

/// What tells a verb to leave.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::cli) enum Interrupt {
    /// Ctrl-C.
    Key,
    /// SIGTERM: no second one follows.
    Ended,
}

/// The signals of this process. While this exists, they no longer end it by themselves.
pub(in crate::cli) struct Interrupts {
    key: Option<Signal>,
    ended: Option<Signal>,
}

impl Interrupts {
    /// Listens from now on. Where the system has no room for a handler, the signal ends the process as ever.
    pub(in crate::cli) fn listen() -> Self {
        let listen = |kind| signal(kind).ok();
        Self { key: listen(SignalKind::interrupt()), ended: listen(SignalKind::terminate()) }
    }

    /// The next one.
    pub(in crate::cli) async fn next(&mut self) -> Interrupt {
        tokio::select! {
            () = received(&mut self.key) => Interrupt::Key,
            () = received(&mut self.ended) => Interrupt::Ended,
        }
    }
}

async fn received(signal: &mut Option<Signal>) {
    if let Some(signal) = signal
        && signal.recv().await.is_some()
    {
        return;
    }
    pending::<()>().await;
}
