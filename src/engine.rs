//! The built-in engine: it generates text with models of a few architectures on the CPU, for
//! machines that have no other engine. A worker process runs it (`rbee-hive worker`).
//!
//! The files from top to bottom; each uses only files below it. Of the rest of the crate, the engine
//! uses only the GGUF reader, `fields`, `spawn`, `files` and `error`.
//!
//! - [`serve`]: the worker process, which offers OpenAI's API over HTTP. Its own files: `routes`,
//!   `embeddings`, `completions`, `tokens`, `chat`, `openai`, `answering`, `choices`, `body`, `state`, `lifeline`, `report`, `options`.
//! - [`answer`]: takes what a model writes apart: reasoning, calls of tools, text.
//! - [`template`]: renders chat messages to the tokens of a prompt.
//! - [`generation`]: the thread that owns the model and advances the running sequences. Its own
//!   files: `slot`, `stop`, `handle`, `request`, `counters`.
//! - [`sample_model`]: makes complete small models where there is none to download. Its own files:
//!   `weights`, `vocabulary`, `settings`.
//! - [`load`]: reads a GGUF file into a [`forward::Transformer`].
//! - [`forward`]: the forward pass, from tokens to logits.
//! - [`sampling`]: chooses the next token from the logits.
//! - [`constraint`]: grammars that an answer holds, such as that of a JSON Schema.
//! - [`tokenizer`]: text to tokens and back. Its own files: `shield`, `special`, `decode`, `bpe`,
//!   `sentencepiece`, `vocabulary`.
//! - [`pooling`]: one vector for a text, for embeddings.
//! - `rope`: rotary position embeddings.
//! - [`kv_cache`]: the keys and values of the tokens that a sequence has so far.
//! - `weights`: reads the tensors' bytes.
//! - [`hyperparameters`]: the model's shape, read from the metadata and checked.
//! - `overlap`: the end of a text that may go on as a mark.
//! - `model_error`: the failures of a file that cannot be loaded.
//!
//! The innermost loops (products with weights, attention, what is between them) are those of the package
//! `rbee-kernels`.
//!
//! Invariant: no model file makes the engine panic. A file that the engine cannot run is refused
//! while it loads, with a failure that names the tensor or the metadata key.

pub mod sample_model;
pub mod serve;
pub mod answer;
pub mod generation;
pub mod load;
pub mod forward;
pub mod kv_cache;
#[cfg(test)]
mod reference;
mod rope;
pub mod hyperparameters;
pub mod pooling;
pub mod sampling;
pub mod constraint;
pub mod template;
pub mod tokenizer;
mod weights;
mod overlap;
mod model_error;
