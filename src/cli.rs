//! The command line: `rbee-hive` is `rbee-hive serve`; most other verbs are a client of a hive that runs.
//!
//! A verb of a client costs one file in `cli/verbs` and one row in `cli/verbs.rs`, which has the recipe. Each
//! operation of the hive's table names the verb that submits it ([`Row::verb`](crate::ops::Row::verb)).

mod config;
mod verbs;
mod quickstart;
mod completions;
mod serve;
mod worker;
mod man;
mod health;
mod session;
mod show;
mod end;
mod terminal;
mod words;
mod service_manager;
mod process;

use std::process::ExitCode;

use clap::{CommandFactory, Parser, Subcommand};

use crate::engine::template::sandbox;
use crate::error::{Code, Failure, Result};
use crate::http::Sockets;

pub use process::run_to_end;

/// Manages a machine's language models and the worker processes that serve them, and narrates every
/// step.
#[derive(Debug, Parser)]
#[command(
    name = "rbee-hive",
    version,
    args_conflicts_with_subcommands = true,
    subcommand_negates_reqs = true,
    after_help = end::HELP
)]
pub struct Cli {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    serve: serve::Args,
}

// The arguments of a verb are defined once it is asked for: a hive would hold the definitions of all for nothing. Where
// the type of the arguments has documentation, it is what `--help` says of the verb.
#[derive(Debug, Subcommand)]
#[command(defer = true)]
enum Command {
    /// Serve the hive's API (the default)
    Serve(serve::Args),
    /// Start a hive and watch it list, load, chat with and unload a model
    Quickstart(quickstart::Args),
    #[command(flatten)]
    OfClient(verbs::Verbs),
    /// Print the completions of a shell
    Completions(completions::Args),
    /// Show the settings that are in effect, and where each comes from
    Config(Box<config::Args>),
    /// Ask whether the hive of a data folder answers, for health checks
    Health(health::Args),
    /// Write the manual pages into a folder, for packages
    #[command(hide = true)]
    Man(man::Args),
    /// Serve one GGUF model with the built-in engine; the hive starts these processes itself
    Worker(worker::Args),
    /// Render one chat template; workers of the built-in engine start these processes themselves
    #[command(name = sandbox::COMMAND, hide = true)]
    RenderTemplate,
}

impl Cli {
    /// Whether the command is one thread's work: it needs none for each processor.
    #[must_use]
    pub fn is_plain(&self) -> bool {
        matches!(
            self.command,
            Some(
                Command::RenderTemplate
                    | Command::OfClient(_)
                    | Command::Completions(_)
                    | Command::Health(_)
                    | Command::Man(_)
                    | Command::Config(_)
            )
        )
    }

    /// Runs the command, and says what failed. Gives the exit status. Call it before the process has other threads.
    pub fn run(self) -> impl Future<Output = ExitCode> {
        // Now: it changes the environment, which other threads may read.
        let passed = service_manager::passed_sockets();
        self.run_with(passed)
    }

    async fn run_with(self, passed: Result<Sockets>) -> ExitCode {
        let serve = async |args: serve::Args| args.run(passed?).await;
        let ended = match self.command {
            None => serve(self.serve).await,
            Some(Command::Serve(args)) => serve(args).await,
            Some(Command::Quickstart(args)) => args.run().await,
            Some(Command::Worker(args)) => args.run().await,
            Some(Command::RenderTemplate) => sandbox::process().map_err(|error| {
                Failure::new(Code::Io, format!("could not render a template: {error}"))
                    .hint("a worker starts this command; it is of no use to people")
            }),
            Some(Command::Config(args)) => return args.run().await,
            Some(Command::OfClient(verb)) => return end::of_verb(verb.run().await),
            Some(Command::Completions(args)) => return end::of_verb(args.run(Self::command())),
            Some(Command::Health(args)) => return end::of_verb(args.run().await),
            Some(Command::Man(args)) => return end::of_verb(args.run(Self::command())),
        };
        end::of_daemon(ended)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::TABLE;

    #[test]
    fn every_operation_has_a_verb() {
        let mut all = Cli::command();
        all.build();
        for row in TABLE {
            let mut found = &all;
            for word in row.verb.split(' ') {
                found = found
                    .find_subcommand(word)
                    .unwrap_or_else(|| panic!("{}: no verb `rbee-hive {}`", row.name, row.verb));
            }
            let is_of_client = found.get_arguments().any(|argument| argument.get_id() == "host");
            let is_within = row.verb.contains(' ');
            assert!(is_of_client || is_within, "`rbee-hive {}` is no verb of a client", row.verb);
        }
    }
}
