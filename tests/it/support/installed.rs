//! What tests of other programs need and `.ci/clients` installs beneath the target folder.

use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::sync::OnceCell;

use super::{command, executable, skipped};

/// Something to install. Where a machine cannot, the tests that need it are skipped with a message, or fail if the
/// variable is set.
pub(crate) struct Installed {
    name: &'static str,
    require: &'static str,
    folder: OnceCell<Option<PathBuf>>,
}

/// A virtual environment with client libraries.
pub(crate) static PYTHON: Installed = Installed::new("python", "RBEE_HIVE_REQUIRE_CLIENTS");
/// A folder with `node_modules`.
pub(crate) static NODE: Installed = Installed::new("node", "RBEE_HIVE_REQUIRE_CLIENTS");
/// A virtual environment with MLX's server.
pub(crate) static MLX: Installed = Installed::new("mlx", "RBEE_HIVE_REQUIRE_CLIENTS");
/// A folder with [`TRAINED_MODEL`] and Gemma 3 270M.
pub(crate) static WEIGHTS: Installed = Installed::new("weights", "RBEE_HIVE_REQUIRE_WEIGHTS");

/// The file of a small model that knows a little.
pub(crate) const TRAINED_MODEL: &str = "SmolLM2-135M-Instruct.Q4_1.gguf";

impl Installed {
    const fn new(name: &'static str, require: &'static str) -> Self {
        Self { name, require, folder: OnceCell::const_new() }
    }

    /// Its folder. The first test that asks installs it.
    pub(crate) async fn folder(&self) -> Option<&Path> {
        let install = async || match install(self.name).await {
            Ok(folder) => Some(folder),
            Err(why) => {
                let (name, require) = (self.name, self.require);
                assert!(
                    std::env::var_os(require).is_none(),
                    "{require} is set, and .ci/clients {name} failed: {why}"
                );
                skipped(&format!(".ci/clients {name} failed: {why}"));
                None
            }
        };
        self.folder.get_or_init(install).await.as_deref()
    }
}

async fn install(name: &str) -> Result<PathBuf, String> {
    let target = executable().ancestors().nth(2).ok_or("no target folder")?.to_owned();
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join(".ci/clients");
    let mut command = command(script);
    command.arg(name).env("CARGO_TARGET_DIR", target);
    let limit = Duration::from_secs(400);
    let output = tokio::time::timeout(limit, command.output())
        .await
        .map_err(|_| format!("it did not end within {limit:?}"))?
        .map_err(|error| format!("it does not start: {error}"))?;
    let said = String::from_utf8_lossy(&output.stdout);
    match output.status.success() {
        true => Ok(PathBuf::from(said.trim())),
        false => Err(String::from_utf8_lossy(&output.stderr).trim().to_owned()),
    }
}
