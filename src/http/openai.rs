//! The gateway: OpenAI's API, answered by the workers of loaded models.
//!
//! A request is read once ([`completion`]), its model is found, and [`relay`] passes the body
//! on byte for byte and the answer back as it arrives. Invariants:
//! - Nothing of the client's head travels to the worker, and the worker's secret travels nowhere
//!   else.
//! - Whatever holds the request in flight (the guard) lives in the answer's body: when the client
//!   goes away the body is dropped, which closes the connection to the worker and so ends the
//!   generation.
//! - A worker's answer reaches the client only as JSON or as an event stream. Anything else may hold
//!   what was never meant for a client, and is replaced by a problem.

mod routes;
mod card;
mod relay;
mod completion;
mod problem;

pub(crate) use routes::{chat_completions, model, models};

#[cfg(test)]
mod tests;
