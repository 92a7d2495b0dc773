//! Jobs: everything that the hive is asked to do.
//!
//! The road of one job: [`Registry::submit`] claims a place in its class, makes the mpsc channel
//! of its narrations and starts two tasks. One runs `ops::route_operation`, which sets the
//! narration context and, in it, conducts the operation to its end ([`run`]). The other drains the
//! channel into the job's [`log`], through its [`journal`] first if it is an act. Readers are
//! cursors on that log; the work does not know of them.
//!
//! Invariants:
//! - A job has exactly one terminal event, its last: it travels apart from the narrations, in a
//!   `oneshot` that can be used once, and a drain whose sender vanished writes a failure.
//! - The result stands directly before a `done` event and nowhere else.
//! - An act's events are in its journal before any reader sees them.

mod drain;
pub mod event;
pub mod job;
mod journal;
mod limits;
pub mod log;
mod registry;
pub(crate) mod run;

pub use job::{Class, Job, JobId, Kind, State};
pub use registry::{Filter, Page, Registry, Submitted};
