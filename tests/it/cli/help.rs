//! What `--help` says of each verb.

use clap::{Command, CommandFactory};
use rbee_hive::cli::Cli;

use super::{assert_same, run};
use crate::support::{document, program};

/// What has flags of its own, which `docs/CONFIGURATION.md` lists.
const OTHERS: [&str; 5] = ["serve", "config", "quickstart", "worker", "help"];

/// Each verb that is no server with its words, those of nouns too.
fn verbs() -> Vec<(String, Command)> {
    let mut root = Cli::command();
    root.build();
    let mut verbs = Vec::new();
    collect(&root, "", &mut verbs);
    assert!(verbs.len() > 22, "{}", verbs.len());
    verbs
}

fn collect(command: &Command, before: &str, verbs: &mut Vec<(String, Command)>) {
    for verb in
        command.get_subcommands().filter(|verb| !verb.is_hide_set() && !OTHERS.contains(&verb.get_name()))
    {
        let words = format!("{before}{}", verb.get_name());
        collect(verb, &format!("{words} "), verbs);
        verbs.push((words, verb.clone()));
    }
}

#[tokio::test]
async fn every_verb_has_its_help() {
    for (words, _) in verbs() {
        let mut command = program();
        command.args(words.split(' ')).arg("--help");
        let ran = run(command).await;
        assert_eq!((ran.status, ran.err.as_str()), (0, ""), "{words}");
        let help: Vec<_> = ran.out.lines().map(str::trim_end).collect();
        let name = format!("help {words}").replace(' ', "-");
        assert_same(&name, &help.join("\n"));
    }
}

#[test]
fn every_verb_of_a_client_is_in_the_document_with_each_of_its_flags() {
    let documented = document("docs/CLI.md");
    for (words, verb) in verbs() {
        assert!(documented.contains(&format!("`rbee-hive {words}")), "`rbee-hive {words}`");
        for flag in verb.get_arguments().filter_map(|argument| argument.get_long()) {
            assert!(flag == "help" || documented.contains(&format!("--{flag}")), "{words}: --{flag}");
        }
    }
}
