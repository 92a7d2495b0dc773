//! The command line: `rbee-hive` is `rbee-hive serve`.

mod quickstart;
mod serve;
mod worker;
mod process;

use clap::{Parser, Subcommand};

use crate::engine::template::sandbox;
use crate::error::{Code, Failure, Result};

pub use process::run_to_end;

/// Manages a machine's language models and the worker processes that serve them, and narrates every
/// step.
#[derive(Debug, Parser)]
#[command(
    name = "rbee-hive",
    version,
    args_conflicts_with_subcommands = true,
    subcommand_negates_reqs = true
)]
pub struct Cli {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    serve: serve::Args,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Serve the hive's API (the default)
    Serve(serve::Args),
    /// Start a hive and watch it list, load, chat with and unload a model
    Quickstart(quickstart::Args),
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
        matches!(self.command, Some(Command::RenderTemplate))
    }

    /// Runs the command.
    ///
    /// # Errors
    /// The failure that stopped it; its code gives the exit status.
    pub async fn run(self) -> Result<()> {
        match self.command {
            None => self.serve.run().await,
            Some(Command::Serve(args)) => args.run().await,
            Some(Command::Quickstart(args)) => args.run().await,
            Some(Command::Worker(args)) => args.run().await,
            Some(Command::RenderTemplate) => sandbox::process().map_err(|error| {
                Failure::new(Code::Io, format!("could not render a template: {error}"))
                    .hint("a worker starts this command; it is of no use to people")
            }),
        }
    }
}
