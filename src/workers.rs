//! The workers: the processes that serve models, and what keeps them in hand.
//!
//! # Theory of operation
//!
//! A worker is a child process in a process group of its own, bound to loopback, with its output
//! in a file. One [`owner`] task holds the unreaped child; it alone may signal the group, and it
//! outlives the job that started the worker. Everyone else holds a [`handle`]: through it they
//! send controls (`listening`, `ready`, `stop`), watch the state that the owner publishes, and
//! count requests in flight.
//!
//! ```text
//! start() ──spawn──▶ owner ─▶ starting ─▶ loading ─▶ ready ⇄ busy
//!    │                           │           │         │ ├─ exits ──▶ crashed (kept, with its end)
//!    │ report, socket, /health   └───────────┴─ stop ──┴─▶ stopping ─▶ gone
//!    └ fails, is cancelled or dropped: stop
//! ```
//!
//! What to start is a plan: an [`engines`] description and a device, chosen by what is installed and
//! by how much [`memory`] is free for the model.
//!
//! [`start`] launches a worker and [`readiness`] sees it through: it waits for the worker's [`report`], checks that
//! the socket is held by the worker's own group ([`socket_owner`]), and polls `/health`. Until then
//! it follows the worker's log ([`log_follow`]) into the job's narration.
//!
//! Invariants:
//! - A child is signalled only by the owner that has not reaped it yet, so a process id that was
//!   given to another process can never be hit, and no process but the hive's own workers can.
//! - The leader is reaped last: while it is unreaped its id, which is the group's, stays taken, and
//!   the rest of the group is killed under it. A stop succeeds after the group was seen empty.
//! - A start that fails, is cancelled or whose future is dropped leaves no process behind.
//! - A worker that is not ready dies with its daemon: its standard input is a pipe that only the
//!   daemon holds, and its end is the worker's. A ready one is written down ([`record`]) and then told
//!   that it may stay: it outlives a daemon that is killed, and the next one takes it over
//!   ([`adopt`]), or ends it.
//! - A process that is not the daemon's child is signalled only through a descriptor of the process
//!   itself ([`adopted`]).
//! - The secret travels by environment, and to no socket whose owner was not verified.
//! - A worker's log is a bounded file, never a pipe to the daemon.
//! - No lock of this module is held across an await.
//!
//! - A crash, a failed load and a stop that was asked for stay distinct ([`Cause`]). A crashed worker
//!   is started again ([`restart`]) only where the settings say so.

mod adopt;
mod adopted;
mod causes;
pub mod devices;
pub mod engines;
mod exit;
mod folder;
pub mod gpus;
mod handle;
mod health;
mod identity;
mod load_progress;
pub mod log_follow;
mod log_progress;
mod memory;
mod owner;
mod plan;
mod process;
mod readiness;
mod record;
mod registry;
mod report;
mod restart;
mod socket_owner;
mod start;
mod supervisor;
pub mod telemetry;
mod usage;
mod worker;

#[cfg(test)]
mod tests;

/// Things in a sentence: `a, b`.
pub(crate) fn text_list(things: impl IntoIterator<Item = String>) -> String {
    things.into_iter().collect::<Vec<_>>().join(", ")
}

pub use adopt::Adoption;
pub use devices::Device;
pub use handle::{Endpoint, InFlight, Secret};
pub use memory::{ForeignProcess, Part, StoppableWorker};
pub use plan::LoadPlan;
pub use registry::{Cause, Change, ChangeKind};
pub use socket_owner::port_holder;
pub use start::StartRequest;
pub use supervisor::{Stopped, Supervisor};
pub use worker::{Status, Worker};
