//! Reading the file of the settings.

use std::path::Path;

use super::file::ConfigFile;
use super::settings::Config;
use super::unknown;
use crate::error::{Code, Failure, Result};
use crate::files;

impl Config {
    /// Reads the settings of a TOML file over the defaults.
    ///
    /// # Errors
    /// [`Code::ConfigInvalid`], naming the file, the line and the setting.
    pub fn from_file(path: &Path) -> Result<Self> {
        let text = files::read_text(path).map_err(|error| {
            let code = Code::ConfigInvalid;
            Failure { code, ..Failure::io("read the configuration", path, &error) }
                .hint("check the path given with --config")
        })?;
        let invalid = |error: toml::de::Error| {
            let problem = unknown::problem(&text).unwrap_or_else(|| error.to_string().trim().to_owned());
            Failure::new(
                Code::ConfigInvalid,
                format!("the configuration {} is not valid: {problem}", path.display()),
            )
            .hint("`rbee-hive config --all` shows every setting with its default; docs/CONFIGURATION.md explains them")
        };
        let config: Self = toml::from_str(&text).map_err(invalid)?;
        let file = ConfigFile::new(path, &text).map_err(invalid)?;
        Ok(Self { file: Some(file), ..config })
    }
}
