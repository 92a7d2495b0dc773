//! Jobs: each runs one submitted operation and keeps what it narrates.
//!
//! How one job goes: [`Registry::submit`] claims a permit of the job's class, makes the channel for its
//! narrations and starts two tasks. The first calls the closure that came with the [`NewJob`]: `ops`
//! sets the narration context there and runs the operation through [`JobRun::run`]. The second is the
//! [`drain`]: it moves entries from the channel to the job's [`log`]; those of an act go to its
//! [`journal`] first. Readers are cursors on the log; the running operation does not know of them.
//!
//! This module knows neither the hive's parts nor its operations.
//!
//! Invariants:
//! - A job has exactly one terminal event, its last. It travels in a `oneshot`, apart from the
//!   narrations; if the sender vanishes, the drain writes a failure.
//! - The result stands directly before a `done` event and nowhere else.
//! - An act's events are in its journal before any reader sees them.
//! - A job that is stopped before it has its permit never starts.

mod registry;
pub(crate) mod mirror;
pub(crate) mod chunk;
pub(crate) mod drain;
mod index;
mod journal;
mod run;
mod limits;
mod counts;
pub mod job;
pub mod log;
pub mod event;

pub(crate) use chunk::Chunk;
pub(crate) use counts::{Ended, JobCounts};
pub use index::{JobFilter, JobPage};
pub use job::{Job, JobClass, JobId, JobState, OperationKind};
pub(crate) use mirror::Mirror;
pub use registry::{Registry, Submitted};
pub use run::{JobHandle, JobRun, NewJob, RunJob};
