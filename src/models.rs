//! Models on this machine: which there are, where they came from, and how they come and go.
//!
//! Four rooms, each of which uses only those below it: [`catalog`] lists, finds, downloads, imports and
//! deletes models; [`sources`] turns a name into files and says where they go; [`library`] is what is on
//! disk; [`transfer`] brings one file from a server to the disk. [`gguf`] reads the header of a file.
//!
//! A model's way here: a [`Source`] parses its name; [`Catalog::download`] resolves that to files, and
//! puts them into the store (a link for `file:`, a verified file for the others) or, for a model of the
//! Hugging Face Hub, into the cache that all tools share; [`Catalog::list`] lists it there, beside the
//! models of the user's own folders; [`Catalog::delete`] removes it.
//!
//! Invariants:
//! - The disk is the truth. There is no database: every listing reads the files themselves, and what
//!   the hive must remember of a file (its source, its hash) is in a record beside it.
//! - An id is a key of the catalog and never part of a path. It belongs to one file, which keeps it
//!   (`library::ids`).
//! - The hive deletes what it put there itself. Anything else takes `force`.
//! - A file gets its final name only when it is complete, verified and on the disk.
//! - The received part of a file is kept until the file is complete, deleted, or of no use.

mod catalog;
mod sources;
mod digests;
mod library;
pub(crate) mod shared;
mod transfer;
mod model;
mod sheet;
mod traits;
mod needs;
pub mod gguf;
mod id;

#[cfg(test)]
mod testing;

pub(crate) use library::split::other_parts;
pub(crate) use transfer::fetch::{FetchConfig, FetchRequest, FetchResponse, Fetcher, retry_after};
pub(crate) use transfer::neighbours::{Found, Holder, Neighbours, WantedFile};
pub(crate) use transfer::purpose::Purpose;
pub(crate) use transfer::remote::{Destination, RemoteFile, Trust, Verdict};
pub(crate) use transfer::transfers::{Fetched, Transfers};

/// Whether a projector that was set for no model in particular belongs to the model at that path.
pub(crate) fn is_projector_of(projector: &std::path::Path, model: &std::path::Path) -> bool {
    let name = library::file_name::name_of;
    library::companions::is_projector_of(&name(projector), &name(model))
}

pub use catalog::plan::{Downloaded, Plan, PlannedFile};
pub(crate) use catalog::registry::{MANIFEST, RegistryModel, of_tag};
pub(crate) use catalog::sharing::SharedRepository;
pub use catalog::{Catalog, Inspection};
pub use id::ModelId;
pub(crate) use library::hub_cache::snapshot::{Missing, Reference, SnapshotFile};
pub use model::{Model, Status};
pub(crate) use needs::Needs;
pub use needs::{EngineAdvice, EngineSupport};
pub(crate) use sheet::Sheet;
pub(crate) use sources::login::{LoggedIn, LoggedOut};
pub use sources::{DownloadRequest, FileSource, HubName, OllamaName, Source, UrlSource};
pub(crate) use traits::is_encoder;
pub use traits::{Task, TemplateTraits, Traits};
