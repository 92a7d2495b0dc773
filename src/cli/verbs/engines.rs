//! `rbee-hive engines …`: the engines that the hive installs.

use serde_json::{Value, json};

use super::Verb;
use crate::cli::end::{End, Ended};
use crate::cli::session::Session;
use crate::cli::show::{column, fields, number_of, table, text_of};
use crate::cli::words::{member, of_field};
use crate::client::Error;
use crate::error::Code;

#[derive(Debug, clap::Args)]
#[group(skip)]
pub(in crate::cli) struct Args {
    #[command(subcommand)]
    verb: Option<EngineVerb>,
}

#[derive(Debug, clap::Subcommand)]
enum EngineVerb {
    /// List the engines that could be had for this machine, the recommended one first (the default)
    #[command(visible_alias = "ls")]
    List {
        /// Ask the releases even if they were asked a moment ago
        #[arg(long)]
        refresh: bool,
    },
    /// List the engines that the hive installed, and which did not prove themselves
    Installed,
    /// Show one engine: what could be had, and what is installed
    Show {
        /// The id, such as llama-server-cpu
        id: String,
    },
    /// Install an engine, update it, or go back to the version before
    Install {
        /// The id, such as llama-server-cpu
        id: String,
        /// The release; the version before, to go back to it [default: latest]
        #[arg(long)]
        version: Option<String>,
        /// Where it comes from [default: auto]
        #[arg(long, value_parser = ["auto", "release", "source"])]
        from: Option<String>,
        /// Show the plan, and do nothing
        #[arg(long)]
        dry_run: bool,
    },
    /// Remove an engine that no worker runs
    #[command(visible_alias = "delete")]
    Rm {
        /// The id, such as llama-server-cpu
        id: String,
        /// That version alone
        #[arg(long)]
        version: Option<String>,
    },
}

impl Verb for Args {
    async fn run(self, session: &Session) -> Ended {
        match self.verb.unwrap_or(EngineVerb::List { refresh: false }) {
            EngineVerb::List { refresh } => {
                let offers = session.run("WorkerCatalogList", json!({ "refresh": refresh })).await?;
                session.show(&offers, of_offers)
            }
            EngineVerb::Installed => {
                let installed = session.run("WorkerListInstalled", json!({})).await?;
                session.show(&installed, of_installed)
            }
            EngineVerb::Show { id } => show(session, &id).await,
            EngineVerb::Install { id, version, from, dry_run } => {
                let request =
                    json!({ "worker_id": id, "version": version, "from": from, "dry_run": dry_run });
                let result = session.run("WorkerInstall", request).await?;
                session.show(&result, fields)
            }
            EngineVerb::Rm { id, version } => {
                let request = json!({ "worker_id": id, "version": version });
                let result = session.run("WorkerRemove", request).await?;
                session.show(&result, |removed| {
                    format!("{}: {} freed\n", member(removed, "id"), member(removed, "freed_bytes"))
                })
            }
        }
    }
}

/// Shows what could be had of an engine, and what is installed of it.
async fn show(session: &Session, id: &str) -> Ended {
    let offered = session.run("WorkerCatalogGet", json!({ "worker_id": id })).await;
    let installed = match session.run("WorkerInstalledGet", json!({ "worker_id": id })).await {
        Ok(installed) => installed,
        // One that could not be had here for want of a device may still be installed, and the other way round.
        Err(End::Hive(Error::Failed(failure))) if failure.code == Code::EngineNotFound => Value::Null,
        Err(end) => return Err(end),
    };
    let offered = match offered {
        Err(_) if !installed.is_null() => Value::Null,
        offered => offered?,
    };
    let both = json!({ "offered": offered, "installed": installed });
    session.show(&both, |both| {
        let parts = ["offered", "installed"].map(|part| (part, &both[part]));
        let shown = parts.iter().filter(|(_, engine)| !engine.is_null());
        let shown: Vec<_> = shown.map(|(part, engine)| format!("{part}:\n{}", fields(engine))).collect();
        shown.join("\n")
    })
}

fn of_offers(offers: &Value) -> String {
    table(
        offers["workers"].as_array().map_or(&[], Vec::as_slice),
        &[
            text_of("ENGINE", "id"),
            text_of("VERSION", "version"),
            number_of("SIZE", "size"),
            text_of("FROM", "from"),
            text_of("INSTALLED", "installed"),
            column("", |offer| {
                let recommended = if offer["recommended"] == true { "recommended: " } else { "" };
                let why =
                    of_field("problem", &offer["problem"]).or_else(|| of_field("reason", &offer["reason"]));
                format!("{recommended}{}", why.unwrap_or_default())
            }),
        ],
    )
}

fn of_installed(installed: &Value) -> String {
    let mut text = table(
        installed["workers"].as_array().map_or(&[], Vec::as_slice),
        &[
            text_of("ENGINE", "id"),
            text_of("VERSION", "version"),
            column("BEFORE", |engine| member(&engine["previous"], "version")),
            number_of("SIZE", "size"),
            text_of("FROM", "from"),
            text_of("ADDED", "added_at"),
            text_of("WORKERS", "workers"),
        ],
    );
    let failed = installed["failed"].as_array().map_or(&[][..], Vec::as_slice);
    if !failed.is_empty() {
        text += "\nThese did not prove themselves:\n";
        text += &table(
            failed,
            &[
                text_of("ENGINE", "id"),
                text_of("VERSION", "version"),
                text_of("FAILED", "failed_at"),
                text_of("REASON", "reason"),
            ],
        );
    }
    text
}
