//! `rbee-hive completions SHELL`: prints what a shell needs to complete the command line.

use clap_complete::{Shell, generate};

use super::end::Ended;
use super::show;

/// Print the completions of a shell. Put them where the shell looks for such, for example
/// `rbee-hive completions bash > ~/.local/share/bash-completion/completions/rbee-hive`.
#[derive(Debug, clap::Args)]
#[group(skip)]
pub(super) struct Args {
    /// The shell
    shell: Shell,
}

impl Args {
    pub(super) fn run(self, mut command: clap::Command) -> Ended {
        let mut script = Vec::new();
        generate(self.shell, &mut command, "rbee-hive", &mut script);
        show::print(&String::from_utf8_lossy(&script))
    }
}
