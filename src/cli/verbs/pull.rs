//! `rbee-hive pull MODEL`: downloads a model, or shows what that would take.

use serde_json::json;

use super::Verb;
use crate::cli::end::Ended;
use crate::cli::session::Session;
use crate::cli::show::fields;

const SOURCES: &str = "org/repo, org/repo:Q4_K_M, org/repo/path/x.gguf, ollama:name:tag, https://…/x.gguf or \
                       file:/path on the hive's machine";

#[derive(Debug, clap::Args)]
#[group(skip)]
pub(in crate::cli) struct Args {
    #[arg(help = SOURCES)]
    model: String,
    /// The branch, tag or commit of a model of the Hub [default: main]
    #[arg(long)]
    revision: Option<String>,
    /// Download files again that exist; replace a model of the same name that the hive put there
    #[arg(long)]
    force: bool,
    /// Show the plan, and do nothing
    #[arg(long)]
    dry_run: bool,
}

impl Verb for Args {
    async fn run(self, session: &Session) -> Ended {
        let Self { model, revision, force, dry_run } = self;
        let request = json!({ "model": model, "revision": revision, "force": force, "dry_run": dry_run });
        let result = session.run("ModelDownload", request).await?;
        session.show(&result, fields)
    }
}
