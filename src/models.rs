//! Models on this machine: which there are, where they came from, and how they come and go.
//!
//! The road of a model through this room: a [`Source`] names it; [`Catalog::download`] resolves it to
//! files, and transfers those into the store (a link for `file:`, a verified file for the others) or, for a model of the Hugging Face
//! Hub, into the cache that all tools share; [`Catalog::list`] finds it there,
//! beside those of the user's own folders and of the Hugging Face cache; [`Catalog::delete`] takes
//! it away again.
//!
//! Invariants:
//! - The disk is the truth. There is no database: every listing looks at the files themselves, and
//!   what the hive must remember of a file (its source, its hash) lies in a record beside it.
//! - An id is a key of the catalog and never part of a path.
//! - The hive deletes what it put there itself. Anything else takes `force`.
//! - A file has its final name only once it is whole, verified and on the disk.
//! - What has arrived of a file is kept until it is whole, deleted, or of no use.

mod catalog;
pub mod gguf;
mod id;
mod library;
mod model;
mod plan;
mod sources;
mod transfer;
mod units;

#[cfg(test)]
mod testing;

pub(crate) use library::split::other_parts;

pub use catalog::Catalog;
pub use id::ModelId;
pub use model::{Model, Status};
pub use plan::{Downloaded, Plan, PlannedFile, Request};
pub use sources::{HubName, OllamaName, Source, UrlSource};
