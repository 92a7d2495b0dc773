//! `rbee-hive import FILE`: adds a file of this machine to the catalog.

use std::path::PathBuf;

use serde_json::json;

use super::Verb;
use crate::cli::end::{End, Ended};
use crate::cli::session::Session;
use crate::cli::show::fields;
use crate::error::{Code, Failure};

#[derive(Debug, clap::Args)]
#[group(skip)]
pub(in crate::cli) struct Args {
    /// A GGUF file, or a folder with one model; the hive must run on this machine
    file: PathBuf,
    /// Replace a model of the same name that the hive put there
    #[arg(long)]
    force: bool,
    /// Show the plan, and do nothing
    #[arg(long)]
    dry_run: bool,
}

impl Verb for Args {
    async fn run(self, session: &Session) -> Ended {
        let file = std::path::absolute(&self.file).map_err(|error| {
            let message = format!("the path '{}' is not valid: {error}", self.file.display());
            End::Usage(Failure::new(Code::InvalidField, message).hint("name a file or a folder"))
        })?;
        let request = json!({
            "model": format!("file:{}", file.display()), "force": self.force, "dry_run": self.dry_run,
        });
        let result = session.run("ModelDownload", request).await?;
        session.show(&result, fields)
    }
}
