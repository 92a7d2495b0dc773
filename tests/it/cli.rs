//! The command line: the real program, against a real hive.

mod ends;
mod follow;
mod help;
mod login;
mod run;
mod start;
mod terminal;
mod verbs;

use std::process::Stdio;

use tokio::process::Command;

use crate::support::{TestHive, program, soon};

/// What a run of the program came to.
struct Ran {
    status: i32,
    out: String,
    err: String,
}

/// A verb, with its arguments, of a client of the hive at that address.
fn verb_at(url: &str, arguments: &[&str]) -> Command {
    let mut command = program();
    command.args(arguments).env("RBEE_HIVE_HOST", url).stdin(Stdio::null()).stderr(Stdio::piped());
    command
}

/// Runs a verb against a hive.
async fn verb(hive: &TestHive, arguments: &[&str]) -> Ran {
    run(verb_at(&hive.url, arguments)).await
}

/// Runs a verb that must succeed, and gives its standard output.
async fn succeed(hive: &TestHive, arguments: &[&str]) -> String {
    let ran = verb(hive, arguments).await;
    assert_eq!(ran.status, 0, "{arguments:?}:\n{}{}", ran.out, ran.err);
    ran.out
}

/// Runs the program to its end.
async fn run(mut command: Command) -> Ran {
    let output = soon("the program's end", command.stderr(Stdio::piped()).output()).await.expect("an end");
    Ran {
        status: output.status.code().unwrap_or(-1),
        out: String::from_utf8(output.stdout).expect("text"),
        err: String::from_utf8(output.stderr).expect("text"),
    }
}

/// Compares with a snapshot, in which other words stand for what differs between two runs.
fn assert_stable(name: &str, text: &str) {
    let filters = vec![
        // Columns are as wide as what they show.
        (r"  +", "  "),
        (r"job-[0-9a-f]{8}-[0-9a-f-]{27}", "[JOB]"),
        (r"worker-[0-9a-f]{8}-[0-9a-f-]{27}", "[WORKER]"),
        (r"\d+ (seconds?|minutes?) ago", "[AGO]"),
        (r"\d+(\.\d)? (ms|s|min \d+ s)\b", "[TIME]"),
        (r"\d+\.\d (KiB|MiB|GiB|TiB)", "[SIZE]"),
        (r"127\.0\.0\.1:\d+", "[ADDRESS]"),
        (r"/\S*/\.tmp\w+", "[FOLDER]"),
        (r"(?m)^ *PID ", "PID "),
        (r"(?m)^ *\d+ ", "[PID] "),
        (r"worker \d+", "worker [PID]"),
    ];
    compare(name, text, filters);
}

/// Compares with a snapshot.
fn assert_same(name: &str, text: &str) {
    compare(name, text, Vec::new());
}

/// `INSTA_UPDATE=always` writes the snapshots again.
fn compare(name: &str, text: &str, filters: Vec<(&str, &str)>) {
    insta::with_settings!({ filters => filters, prepend_module_to_snapshot => false, omit_expression => true }, {
        insta::assert_snapshot!(name, text);
    });
}
