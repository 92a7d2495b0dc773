//! What to build, and from what.

use std::path::PathBuf;

use crate::config::DeviceKind;
use crate::engines::machine::Tools;

/// What to build.
#[derive(Clone, Debug)]
pub struct BuildRequest {
    /// The kind of device.
    pub kind: DeviceKind,
    /// CUDA's compute capabilities of the GPUs that it is for, such as `8.9`; empty leaves the choice to cmake.
    pub compute_capabilities: Vec<String>,
    /// Where the sources come from.
    pub sources: Sources,
    /// The programs of this machine.
    pub tools: Tools,
    /// The Python whose pip fetches a source distribution.
    pub python: PathBuf,
    /// Further options for cmake, which count most.
    pub cmake_options: Vec<String>,
    /// The folder of the cache.
    pub cache: PathBuf,
}

/// Where sources come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Sources {
    /// A folder that has them.
    Folder {
        /// Its path.
        path: PathBuf,
        /// Their version.
        version: String,
    },
    /// A `.tar.gz` that has them at its root, or in `vendor/llama.cpp`.
    Archive {
        /// Its path.
        path: PathBuf,
        /// Their version.
        version: String,
    },
    /// A source distribution as pip takes it: `name` or `name==version`.
    Package(String),
}
