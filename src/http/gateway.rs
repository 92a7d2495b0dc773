//! The gateway: requests of every dialect, answered by the workers of the catalog's models.
//!
//! A route reads a request into a [`Call`] and hands it to [`serve`]. [`attempt`] gets it a worker, waiting for one
//! if it must, and asks that worker; [`relay`] passes the answer on as it arrives: untouched, where the client
//! speaks as engines do, or written by its dialect ([`output`]). What a client of a stream hears meanwhile is in
//! [`waits`].
//!
//! Invariants:
//! - None of the client's headers reach the worker, and the worker's secret reaches only the worker.
//! - The guard that counts a request as in flight lives as long as its answer. When the client disconnects,
//!   the answer is dropped, which closes the connection to the worker and so ends the generation; a request
//!   that waits leaves the queue.
//! - A worker's answer reaches the client only as JSON or as an event stream. Everything else may contain
//!   what is not meant for clients, and is replaced by a problem.
//! - An answer that is not complete never looks complete: see [`events`] and [`whole`].
//! - A request is sent to a second worker only while its client has no byte of an answer, and only once.

mod serve;
mod relay;
mod events;
mod output;
mod waits;
mod attempt;
mod elsewhere;
mod context;
mod whole;
mod exchange;
mod forwarded;
mod call;
mod problem;

use crate::error::Code;

pub(crate) use call::{Call, Form, keep_alive, named};
pub(crate) use context::lacking;
pub(crate) use forwarded::{Forwarded, REFUSAL};
pub(crate) use serve::{Head, ask, read, serve, serve_call, serve_questions};

/// The codes of what a request may meet that waits for a worker and asks it.
pub(crate) const ERRORS: &[Code] = &[
    Code::ContextLengthExceeded,
    Code::CapabilityMissing,
    Code::InvalidId,
    Code::NotOffered,
    Code::QueueFull,
    Code::ShuttingDown,
    Code::ModelNotFound,
    Code::ModelAmbiguous,
    Code::ModelNotLoaded,
    Code::ModelCorrupt,
    Code::ModelIncomplete,
    Code::ModelUnsupported,
    Code::EngineUnavailable,
    Code::DeviceUnavailable,
    Code::WorkerFailed,
    Code::WorkerUnreachable,
    Code::WorkerUnresponsive,
    Code::WorkerError,
    Code::OutOfMemory,
    Code::Timeout,
    Code::Cancelled,
];

#[cfg(test)]
mod tests;
