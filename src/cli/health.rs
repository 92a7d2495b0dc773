//! `rbee-hive health`: whether the hive of a data folder answers, for the health checks of containers and managers.

use std::path::PathBuf;
use std::time::Duration;

use super::end::{End, Ended};
use crate::client::Error;
use crate::config::Config;
use crate::daemon::{self, HiveFile};
use crate::error::{Code, Failure};

/// Ask the hive that uses the data folder for /health. Needs no token, prints nothing, and exits with 0 if it answers.
#[derive(Debug, clap::Args)]
#[group(skip)]
pub(super) struct Args {
    /// The folder that the hive uses [default: rbee-hive under the XDG data folder]
    #[arg(long, env = "RBEE_HIVE_DATA_DIR", value_name = "DIR")]
    data_dir: Option<PathBuf>,
    /// How many seconds it may take to answer
    #[arg(long, value_name = "SECONDS", default_value_t = 5)]
    timeout: u16,
}

impl Args {
    /// # Errors
    /// [`Error::Unreachable`] if no hive is there, or it does not answer.
    pub(super) async fn run(self) -> Ended {
        let data_dir = self.data_dir.unwrap_or_else(|| Config::default().data_dir);
        let unreachable = |message: String| -> End {
            let failure = Failure::new(Code::ServerUnreachable, message);
            Error::Unreachable(failure.hint("start it with `rbee-hive serve`, or pass its --data-dir")).into()
        };
        let Some(hive) = HiveFile::of(&data_dir) else {
            let message = format!("no hive runs with the data folder {}", data_dir.display());
            return Err(unreachable(message));
        };
        let patience = Duration::from_secs(self.timeout.into());
        daemon::answers(&hive.address(), patience).await.map_err(|error| {
            let HiveFile { pid, url, .. } = &hive;
            unreachable(format!("the hive at {url} (process {pid}) does not answer: {error}"))
        })
    }
}
