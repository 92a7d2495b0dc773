//! The engines that the hive installed, on disk: `DATA_DIR/engines`.
//!
//! An engine has one current version, which is used, and may have the one before it, to go back to.

mod build;
mod id;

pub use build::{Build, Installed, Measured, Provenance};
pub use id::{EngineId, UnknownEngine};
