//! `--start`: a hive in the background.

use super::run;
use crate::support::{folder, process_exists, program, soon, until};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

#[tokio::test(flavor = "multi_thread")]
async fn a_verb_starts_a_hive_that_outlives_it_and_the_next_one_finds_it() {
    let dir = folder();
    let data = dir.path().join("data");
    let verb = |arguments: &[&str]| {
        let mut command = program();
        command.args(arguments).env("RBEE_HIVE_DATA_DIR", &data).env("RBEE_HIVE_PORT", "0");
        run(command)
    };
    let first = verb(&["list", "--start"]).await;
    assert_eq!(first.status, 0, "{}", first.err);
    assert!(first.err.contains("Started a hive at http://127.0.0.1:"), "{}", first.err);
    assert!(data.join("hive.log").is_file());
    let hive: Value =
        serde_json::from_slice(&std::fs::read(data.join("hive.json")).expect("a file")).expect("JSON");
    // Without --start, the data folder leads to it.
    let second = verb(&["ps", "--quiet"]).await;
    assert_eq!((second.status, second.err.as_str()), (0, ""));
    let third = verb(&["ps", "--start"]).await;
    assert!(third.status == 0 && !third.err.contains("Started"), "{}", third.err);

    let pid = hive["pid"].as_u64().and_then(|pid| u32::try_from(pid).ok()).expect("a process id");
    let id = Pid::from_raw(i32::try_from(pid).expect("a process id")).expect("a process id");
    kill_process(id, Signal::TERM).expect("it runs");
    until("the hive to end", async || (!data.join("hive.json").exists()).then_some(())).await;
    soon("its process", until("its end", async || (!crate::support::process_runs(pid)).then_some(()))).await;
    assert!(!process_exists(pid) || !crate::support::process_runs(pid));
}

#[tokio::test]
async fn a_hive_that_does_not_start_says_why() {
    let dir = folder();
    let mut command = program();
    command.args(["list", "--start"]).env("RBEE_HIVE_DATA_DIR", dir.path().join("data"));
    command.env("RBEE_HIVE_BIND", "0.0.0.0");
    let ran = run(command).await;
    assert_eq!(ran.status, 3, "{}", ran.err);
    assert!(ran.err.contains("the hive did not start") && ran.err.contains("--token-file"), "{}", ran.err);
}
