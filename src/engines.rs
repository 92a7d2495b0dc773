//! Engines that the hive installs: which could be had here, and how one is fetched or built, proven and used.
//!
//! The way of an install: [`machine`] says what this machine has; a release or sources for it are chosen and fetched;
//! what was unpacked or built proves itself; then the [store](crate::engine_store) makes it the current version.

mod install;
mod offers;
mod plan;
mod parts;
mod shown;
pub mod source;
pub mod unpack;
pub mod fetch;
pub mod choose;
pub mod release;
pub mod archive_name;
mod canary;
pub mod machine;
mod harmless;

pub(crate) use install::{InstallRequest, Installation};
pub(crate) use offers::Offer;
pub use parts::Engines;
pub(crate) use plan::Wanted;
pub(crate) use shown::{FailedEngine, InstalledEngine};
