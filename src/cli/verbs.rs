//! The verbs of a client: one file each, or one for a noun with verbs of its own.
//!
//! A new verb is a file here with its [`clap::Args`] and its [`Verb`], and a row in [`Verbs`] and in [`Verbs::run`].
//! Its file turns the arguments into an operation for [`Session::run`], or calls [`Session::hive`], and shows the result
//! with [`Session::show`]. An operation's `const VERB` names it. `docs/CLI.md` describes it, and a test in
//! `tests/it/cli` runs it.

mod cancel;
mod check;
mod copy;
mod diagnose;
mod embed;
mod engines;
mod events;
mod fleet;
mod import;
mod jobs;
mod lease;
mod list;
mod load;
mod login;
mod logout;
mod logs;
mod memory;
mod ps;
mod pull;
mod reload;
mod rm;
mod run;
mod settings;
mod show;
mod spawn;
mod stop;
mod token;
mod unload;
mod usage;
mod watch;

use clap::Subcommand;

use super::end::{self, End, Ended};
use super::session::{Options, Session};

/// A verb, once its hive is known.
pub(super) trait Verb: clap::Args {
    /// Whether it asks the hive at its own address, so that it cannot be for another hive of its fleet.
    const ASKS_ITSELF: bool = false;

    /// Does it, and shows what came of it.
    async fn run(self, session: &Session) -> Ended;
}

// A verb with what every verb takes. Documentation here would be what `--help` says of each verb.
#[derive(Debug, clap::Args)]
#[group(skip)]
#[command(after_help = end::HELP)]
pub(super) struct OnHive<V: Verb> {
    #[command(flatten)]
    verb: V,
    #[command(flatten)]
    options: Options,
}

impl<V: Verb> OnHive<V> {
    pub(super) async fn run(self) -> Ended {
        if V::ASKS_ITSELF {
            self.options.check_asks_itself()?;
        }
        let session = self.options.open().await?;
        self.verb.run(&session).await
    }
}

/// Does the same for each of several names. What fails is told, and the others are done all the same; the first failure
/// gives the exit status.
async fn each(names: &[String], act: impl AsyncFn(&str) -> Ended) -> Ended {
    let mut first = None;
    for name in names {
        let Err(end) = act(name).await else { continue };
        // There is nothing more to do where the user, or a reader of the results, is gone.
        if names.len() == 1 || matches!(end, End::Said(_)) {
            return Err(end);
        }
        end.report();
        first.get_or_insert(end.status());
    }
    first.map_or(Ok(()), |status| Err(End::Said(status)))
}

#[derive(Debug, Subcommand)]
#[command(defer = true)]
pub(super) enum Verbs {
    /// Download a model from the Hugging Face Hub, Ollama's library or the web
    Pull(OnHive<pull::Args>),
    /// Copy a model from another hive of the fleet
    Copy(OnHive<copy::Args>),
    /// Add a GGUF file of this machine to the models; nothing is copied
    Import(OnHive<import::Args>),
    /// List the models
    #[command(visible_alias = "ls")]
    List(OnHive<list::Args>),
    /// Show one model
    Show(OnHive<show::Args>),
    /// Delete models
    #[command(visible_alias = "delete")]
    Rm(OnHive<rm::Args>),
    /// Load a model: get a ready worker for it
    Load(OnHive<load::Args>),
    /// Unload models: end their workers
    Unload(OnHive<unload::Args>),
    /// Chat with a model: one question, or a conversation in the terminal
    Run(Box<OnHive<run::Args>>),
    /// Turn texts into vectors by a model for embeddings
    Embed(OnHive<embed::Args>),
    /// Start another worker for a model
    Spawn(OnHive<spawn::Args>),
    /// List the workers, or show one
    Ps(OnHive<ps::Args>),
    /// Print the log of a worker
    Logs(OnHive<logs::Args>),
    /// Stop a worker by its process id, or all workers of a model
    Stop(OnHive<stop::Args>),
    /// Show what is in memory and why, and who waits
    Memory(OnHive<memory::Args>),
    /// Make room in memory for another program, for a while
    Lease(OnHive<lease::Args>),
    /// Show the settings of a model, or change them
    Settings(OnHive<settings::Args>),
    /// List, install and remove engines
    Engines(OnHive<engines::Args>),
    /// Make, list and revoke tokens, one for each caller
    #[command(visible_alias = "tokens")]
    Token(OnHive<token::Args>),
    /// Show how much each caller used each model
    Usage(OnHive<usage::Args>),
    /// Make one fleet of several machines, and show it
    Fleet(OnHive<fleet::Args>),
    /// List the jobs, the newest first
    Jobs(OnHive<jobs::Args>),
    /// Follow a job from its beginning to its end
    Watch(OnHive<watch::Args>),
    /// Cancel jobs
    Cancel(OnHive<cancel::Args>),
    /// Have the hive read the file of its settings again
    Reload(OnHive<reload::Args>),
    /// Follow what changes in the hive: jobs, models, workers, memory
    Events(OnHive<events::Args>),
    /// Keep a token of the Hugging Face Hub, for models that need one
    Login(OnHive<login::Args>),
    /// Forget the token of the Hugging Face Hub
    Logout(OnHive<logout::Args>),
    /// Check whether the hive works, and what to do about what does not
    Check(OnHive<check::Args>),
    /// Tell why a model or a request is slow, and what to do about it
    Diagnose(OnHive<diagnose::Args>),
}

impl Verbs {
    /// Runs the verb.
    pub(super) async fn run(self) -> Ended {
        match self {
            Self::Pull(verb) => verb.run().await,
            Self::Copy(verb) => verb.run().await,
            Self::Import(verb) => verb.run().await,
            Self::List(verb) => verb.run().await,
            Self::Show(verb) => verb.run().await,
            Self::Rm(verb) => verb.run().await,
            Self::Load(verb) => verb.run().await,
            Self::Unload(verb) => verb.run().await,
            Self::Run(verb) => verb.run().await,
            Self::Embed(verb) => verb.run().await,
            Self::Spawn(verb) => verb.run().await,
            Self::Ps(verb) => verb.run().await,
            Self::Logs(verb) => verb.run().await,
            Self::Stop(verb) => verb.run().await,
            Self::Memory(verb) => verb.run().await,
            Self::Lease(verb) => verb.run().await,
            Self::Settings(verb) => verb.run().await,
            Self::Engines(verb) => verb.run().await,
            Self::Token(verb) => verb.run().await,
            Self::Usage(verb) => verb.run().await,
            Self::Fleet(verb) => verb.run().await,
            Self::Jobs(verb) => verb.run().await,
            Self::Watch(verb) => verb.run().await,
            Self::Cancel(verb) => verb.run().await,
            Self::Reload(verb) => verb.run().await,
            Self::Events(verb) => verb.run().await,
            Self::Login(verb) => verb.run().await,
            Self::Logout(verb) => verb.run().await,
            Self::Check(verb) => verb.run().await,
            Self::Diagnose(verb) => verb.run().await,
        }
    }
}
