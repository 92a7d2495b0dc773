//! The gateway: OpenAI's API, answered by the workers of loaded models.
//!
//! [`completion`] reads and checks a request, [`routes`] finds a worker for its model, and [`relay`] passes
//! the body on unchanged and the answer back as it arrives.
//!
//! Invariants:
//! - None of the client's headers reach the worker, and the worker's secret reaches only the worker.
//! - The guard that counts a request as in flight lives as long as its answer. When the client disconnects,
//!   the answer is dropped, which closes the connection to the worker and so ends the generation.
//! - A worker's answer reaches the client only as JSON or as an event stream. Everything else may contain
//!   what is not meant for clients, and is replaced by a problem.
//! - An answer that is not complete never looks complete: see [`events`] and [`whole`].

mod routes;
mod card;
mod relay;
mod events;
mod whole;
mod exchange;
mod completion;
mod problem;

pub(crate) use routes::{chat_completions, model, models};

#[cfg(test)]
mod tests;
