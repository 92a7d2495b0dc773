//! What the owner of a worker and the others exchange: the controls that it gets, and the state that it
//! publishes.

use std::time::{Duration, Instant};

use super::end::GroupEnd;

/// A message to the owner of a worker.
#[derive(Debug)]
pub(super) enum Control {
    /// The worker listens on this port, and its own group holds the socket.
    Listening(u16),
    /// The worker answered that it is ready.
    Ready,
    /// How long a ready worker stays without a request has changed.
    KeepAlive,
    /// It gave no sign of life for so long.
    Unresponsive {
        /// How long it was silent.
        silent_for: Duration,
    },
    /// An unresponsive worker gives signs of life again.
    Responds,
    /// End the worker, which is unresponsive: it counts as crashed.
    EndUnresponsive,
    /// End the worker. Of several such messages, the shortest grace period counts.
    Stop {
        /// How long the worker may take before it is killed.
        grace: Duration,
        /// Why it is ended.
        reason: StopReason,
    },
    /// Leave the worker running: a later daemon adopts it.
    Release,
    /// The same, for another daemon that adopts it now. This one still sends the last requests that it took, so it
    /// keeps the worker in its list.
    HandOver,
}

/// Why a worker is ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum StopReason {
    /// A user asked for it.
    User,
    /// Its start failed or was given up.
    FailedStart,
    /// The hive stops.
    Shutdown,
}

/// The stages of a worker's life, in their order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum LifeStage {
    /// Its process runs and does not listen yet.
    Starting,
    /// It listens and loads its model.
    Loading,
    /// It answers requests.
    Ready,
    /// It has been ready, and gives no sign of life.
    Unresponsive,
    /// It accepts no more requests and finishes those in flight.
    Draining,
    /// It was sent SIGTERM.
    Terminating,
    /// It was sent SIGKILL.
    Killing,
    /// Its processes are gone, and a driver still counts memory of its GPU as held.
    Reclaiming,
    /// It ended without being asked to.
    Crashed,
    /// It ended because it was asked to.
    Stopped,
}

/// What the owner of a worker publishes.
#[derive(Clone, Copy, Debug)]
pub(super) struct WorkerState {
    pub(super) stage: LifeStage,
    pub(super) port: Option<u16>,
    /// Whether it was unresponsive last.
    pub(super) hangs: bool,
    /// How it ended, once it has.
    pub(super) end: Option<GroupEnd>,
    /// When it ended.
    pub(super) ended_at: Option<Instant>,
}

impl WorkerState {
    /// The state of a worker that lives.
    pub(super) const fn new(stage: LifeStage, port: Option<u16>) -> Self {
        Self { stage, port, hangs: false, end: None, ended_at: None }
    }
}
