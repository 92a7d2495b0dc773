//! `rbee-hive man DIR`: writes the manual pages. Packages call it; a test writes them all.

use std::path::PathBuf;

use clap::Command;
use clap_mangen::Man;

use super::end::Ended;
use crate::disk;
use crate::error::Failure;

/// Write the manual pages of this program into a folder.
#[derive(Debug, clap::Args)]
#[group(skip)]
pub(super) struct Args {
    /// The folder, which is made where it does not exist
    dir: PathBuf,
}

impl Args {
    /// Writes the pages of `program` and of each of its verbs.
    pub(super) fn run(self, program: Command) -> Ended {
        disk::create_dir_all(&self.dir).map_err(|error| Failure::io("make", &self.dir, &error))?;
        for (name, page) in pages(program) {
            let path = self.dir.join(name);
            disk::write(&path, page).map_err(|error| Failure::io("write", &path, &error))?;
        }
        Ok(())
    }
}

/// The pages of a command and of its verbs that are shown, with their file names.
fn pages(program: Command) -> Vec<(String, Vec<u8>)> {
    let mut program = program.disable_help_subcommand(true);
    // Gives each verb its name as a page: `rbee-hive-serve`.
    program.build();
    let mut commands = vec![program];
    let mut pages = Vec::new();
    while let Some(command) = commands.pop() {
        commands.extend(command.get_subcommands().filter(|verb| !verb.is_hide_set()).cloned());
        let man = Man::new(command);
        let mut page = Vec::new();
        // Memory takes everything.
        let _written = man.render(&mut page);
        pages.push((man.get_filename(), page));
    }
    pages
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::super::Cli;
    use super::*;

    #[test]
    fn each_verb_has_a_page() {
        let dir = tempfile::tempdir().unwrap();
        Args { dir: dir.path().join("man") }.run(Cli::command()).unwrap();
        let read = |name: &str| std::fs::read_to_string(dir.path().join("man").join(name)).unwrap();
        let program = read("rbee-hive.1");
        assert!(program.starts_with(".ie ") && program.contains(".TH rbee-hive 1"), "{program}");
        assert!(program.contains(r"rbee\-hive\-quickstart(1)"), "{program}");
        assert!(read("rbee-hive-serve.1").contains("take\\-over"));
        let verbs = Cli::command().get_subcommands().filter(|verb| !verb.is_hide_set()).count();
        let files = std::fs::read_dir(dir.path().join("man")).unwrap().count();
        assert!(files > verbs, "{files} pages for {verbs} verbs and the program");
    }
}
