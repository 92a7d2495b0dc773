//! The engines that the hive installed, on disk: `DATA_DIR/engines`.
//!
//! | path | what is there |
//! |---|---|
//! | `engines.json` | the records: which builds are used, and which failed |
//! | `ID/VERSION/` | a build |
//! | `failed/ID/VERSION/` | a build that did not prove itself, with its log; the newest of each engine |
//! | `drafts/` | builds that are being made |
//! | `downloads/`, `sources/` | archives that are being fetched, and what builds from source keep for the next one |
//!
//! An engine has one current version, which is used, and may have the one before it, to go back to.
//!
//! - A folder counts once `engines.json` names it, and `engines.json` is replaced in one step. A folder that it does
//!   not name is what a kill left behind, or what a later version has replaced: the next
//!   [sweep](EngineStore::sweep) removes it, unless a worker still runs from it.
//! - A build never changes once it has its place, and no two builds have the same one. So a worker keeps running what
//!   it was started with.
//! - Records of a newer version are left alone, and nothing is installed then. Damaged ones are set aside; what they
//!   may name is not removed while they lie there.

pub mod llama_cpp;
mod store;
mod draft;
mod records;
mod folder;
mod build;
mod id;

pub use build::{Build, FailedBuild, Installed, Measured, Provenance};
pub use draft::BuildDraft;
pub(crate) use folder::remove as remove_folder;
pub use id::{EngineId, UnknownEngine};
pub use store::{EngineStore, Trouble};
