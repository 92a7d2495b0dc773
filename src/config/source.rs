//! Where the value of a setting comes from.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// Where the value of a setting comes from. A later one overrides an earlier one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(tag = "from", rename_all = "snake_case")]
pub enum Source {
    /// Nobody set it.
    Default,
    /// The file of the settings.
    File {
        /// The file.
        #[schema(value_type = String)]
        file: PathBuf,
        /// The line, from 1.
        line: usize,
    },
    /// A variable of the environment.
    Environment {
        /// Its name.
        variable: String,
    },
    /// A flag of the command line.
    Flag {
        /// The flag.
        flag: String,
    },
    /// The program that started the hive, as `quickstart` does.
    Program,
}

/// The settings that flags and the environment gave, by their dotted names.
pub type Given = BTreeMap<String, Source>;

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("default"),
            Self::File { file, line } => write!(f, "file {}, line {line}", file.display()),
            Self::Environment { variable } => write!(f, "environment {variable}"),
            Self::Flag { flag } => write!(f, "flag {flag}"),
            Self::Program => f.write_str("the program that started the hive"),
        }
    }
}
