//! The gateway's requests: who asked for what, when each thing happened, and what was counted.
//!
//! # Theory of operation
//!
//! The gateway makes one [`Recorder`] for each request that it accepts, and tells it what happens: the model,
//! the wait, the worker, the first byte, each piece of the answer, the end. What the worker counted (`usage` of
//! OpenAI's API, `timings` of llama.cpp's) is read from the answer as it passes. At the end there is one
//! [`Record`], which goes four ways: into the access log, one event `request` on `/v1/events`, the ring of the
//! last requests, and the totals by model, worker and caller, of which those that outlive the hive are
//! `crate::usage`.
//!
//! Invariants:
//! - Every request ends exactly once. A recorder that is dropped without an end is a client that has gone.
//! - The answer is read and never changed: a client gets what the worker sent, byte for byte.
//! - What nobody counted is unknown, not 0; what the hive counted itself is marked as estimated.
//! - Nothing here grows without bounds: neither with requests nor with models, workers or callers.
//! - Locks are held for microseconds, to copy values in or out.

mod recorder;
mod ledger;
mod request;
mod counted;
mod feed;
mod totals;
mod recent;
mod record;

pub(crate) use feed::Feed;
pub(crate) use ledger::Ledger;
pub(crate) use recent::{Averages, Recent};
pub(crate) use record::{Outcome, Record, in_ms};
#[cfg(test)]
pub(crate) use record::{State, Times, Tokens};
pub(crate) use recorder::{Recorded, Recorder};
pub(crate) use request::{ServedBy, new_request_id};
pub(crate) use totals::{Sums, TotalsOf};
