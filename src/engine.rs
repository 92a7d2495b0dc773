//! The built-in worker's engine: text generation with models of the llama architecture, on the
//! CPU, for machines that have no other engine.
//!
//! The road of a model: [`load`] reads a file's weights, after `config` has checked everything that
//! its metadata claims; `weights` is the one that touches tensors' bytes. The road of a token:
//! [`forward`] takes it through the layers, with `rope` for positions, `ops` for what is not a
//! matrix product, and [`cache`] for the keys and values of the tokens before it.
//! [`sample_model`] makes complete models where there is none to download.
//!
//! Matrix products over quantised weights are candle's; everything else is here, in plain Rust.
//! Invariant: a file never makes the engine panic. What it cannot do is refused at loading, with a
//! failure that names the tensor or the key.

pub mod cache;
mod config;
pub mod forward;
pub mod generation;
pub mod load;
mod ops;
#[cfg(test)]
mod reference;
mod rope;
pub mod sample_model;
pub mod sampling;
pub mod serve;
pub mod template;
pub mod tokenizer;
mod weights;
