//! The innermost loops of rbee-hive's own engine: products with the weights of language models, attention, and the
//! operations between them, on the processor.
//!
//! It is a package of its own for two reasons: unsafe code is allowed here, in the three files that use the
//! processor's instructions, and nowhere else; and a debug build of the hive optimises it, so that its tests can run
//! real models. Without these instructions, as on ARM, it computes in plain Rust.
//!
//! From top to bottom; each file uses only those below it:
//!
//! - [`Matrix`]: a matrix of weights, and its products with rows of activations ([`Input`]).
//! - [`attention`]: the keys and values of a sequence, and attention to them.
//! - [`math`]: norms, activations, softmax.
//! - [`encode`]: weights in the file's types, for models that are made here.
//! - [`Processor`]: which instructions this processor has, and the products that use them.
//! - `avx512`, `avx2`, `scalar`: the products. Their results differ by rounding alone.
//! - `activations`: rows of activations in 8 bits.
//! - `packed`: the form in which weights are in memory.
//! - `block`: the blocks of the file's types.
//!
//! # How a product is made
//!
//! Weights of few bits are multiplied as they are: a block of 32 weights is small codes with a scale, a block of
//! activations is rounded to 8 bits with a scale, and the sum of the products of both codes is an integer. Weights
//! in floating point are multiplied with the activations in F32. In memory 16 rows lie side by side, so that a
//! register holds the results of 16 rows, and no sum across a register is needed. Weights are in memory once, in
//! about as many bytes as in the file ([`Type::bytes`]).

mod matrix;
pub mod attention;
pub mod math;
pub mod encode;
mod processor;
#[cfg(target_arch = "x86_64")]
mod avx512;
#[cfg(target_arch = "x86_64")]
mod avx2;
mod scalar;
mod activations;
mod packed;
mod block;

pub use block::Type;
pub use matrix::{Builder, Input, Matrix};
pub use processor::Processor;
