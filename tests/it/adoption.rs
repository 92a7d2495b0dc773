//! A daemon that is killed, and the next one, which adopts its workers.

use std::path::{Path, PathBuf};

use rbee_hive::engine::sample_model::SampleModel;
use reqwest::Client;
use rustix::process::Signal;
use serde_json::{Value, json};

use crate::support::{Daemon, as_time_allows, check_of, data_lines, soon, until, write_model};

/// The flags of a daemon whose workers outlive it.
const STAY: [&str; 2] = ["--workers-lifeline", "false"];

/// The data folder of a test. Ends the workers that its records name, if the test fails midway.
struct Leftovers(PathBuf);

impl Leftovers {
    fn records(&self) -> Vec<Value> {
        let Ok(workers) = std::fs::read_dir(self.0.join("data/workers")) else { return Vec::new() };
        workers
            .filter_map(|entry| std::fs::read(entry.ok()?.path().join("record.json")).ok())
            .filter_map(|text| serde_json::from_slice(&text).ok())
            .collect()
    }
}

impl Drop for Leftovers {
    fn drop(&mut self) {
        for record in self.records() {
            let pid = record["process"]["pid"].as_i64().and_then(|pid| i32::try_from(pid).ok());
            if let Some(pid) = pid.filter(|pid| runs(*pid)).and_then(rustix::process::Pid::from_raw) {
                let _ended = rustix::process::kill_process_group(pid, Signal::KILL);
            }
        }
    }
}

/// Whether a process runs. An ended process that is not reaped yet does not.
fn runs(pid: i32) -> bool {
    let status = std::process::id();
    assert_ne!(i64::from(pid), i64::from(status));
    match std::fs::read_to_string(format!("/proc/{pid}/stat")) {
        Ok(stat) => !stat.rsplit(')').next().unwrap_or_default().trim_start().starts_with(['Z', 'X']),
        Err(_) if cfg!(target_os = "linux") => false,
        Err(_) => rustix::process::Pid::from_raw(pid)
            .is_some_and(|pid| rustix::process::test_kill_process(pid).is_ok()),
    }
}

fn client() -> Client {
    // An error means that another test has installed it.
    let _set = rustls::crypto::ring::default_provider().install_default();
    Client::builder().pool_max_idle_per_host(0).no_proxy().build().expect("a client")
}

async fn succeed(client: &Client, url: &str, operation: Value) -> Value {
    let answer = client.post(format!("{url}/v1/jobs")).json(&operation).send().await.expect("an answer");
    let accepted: Value = answer.json().await.expect("JSON");
    let stream = accepted["sse_url"].as_str().unwrap_or_else(|| panic!("refused: {accepted}"));
    let stream = client.get(format!("{url}{stream}")).send().await.expect("a stream");
    let stream = soon("the end of a job", stream.text()).await.expect("a whole stream");
    let lines = data_lines(&stream);
    assert_eq!(lines.last().map(String::as_str), Some("[DONE]"), "{operation}:\n{stream}");
    serde_json::from_str(&lines[lines.len() - 2]).expect("a result line")
}

async fn listed(client: &Client, url: &str) -> Vec<i64> {
    let workers = succeed(client, url, json!({ "WorkerProcessList": {} })).await;
    let workers = workers.as_array().expect("a list");
    let mut pids: Vec<_> = workers.iter().map(|worker| worker["pid"].as_i64().expect("a pid")).collect();
    pids.sort_unstable();
    pids
}

async fn spawned(client: &Client, url: &str, model: &str) -> i64 {
    let spawn = json!({ "WorkerSpawn": { "model": model, "worker": "builtin" } });
    succeed(client, url, spawn).await["pid"].as_i64().expect("a pid")
}

/// A model with long answers, so that a request is in flight when the daemon is killed.
fn write_talker(dir: &Path) {
    SampleModel { name: "talker".to_owned(), context_length: 8192, ..SampleModel::default() }
        .write(&dir.join("talker.gguf"))
        .expect("a small model can be written");
}

/// Kills the daemon, and waits until it is gone.
async fn kill(daemon: Daemon) {
    daemon.signal(Signal::KILL);
    daemon.ended().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_workers_of_a_killed_daemon_are_adopted_each_time() {
    let dir = tempfile::tempdir().expect("a folder");
    let leftovers = Leftovers(dir.path().to_owned());
    let models = dir.path().join("models");
    std::fs::create_dir(&models).expect("a folder for models");
    write_model(&models, "tiny");
    write_talker(&models);
    let client = client();
    let mut daemon = Daemon::start(dir.path(), &STAY).await;
    let mut pids = Vec::new();
    for model in ["tiny", "talker", "tiny", "talker"] {
        pids.push(spawned(&client, &daemon.url, model).await);
    }
    pids.sort_unstable();
    for round in 0..as_time_allows(2, 20) {
        let mut generation = in_flight(&client, &leftovers).await;
        kill(daemon).await;
        daemon = Daemon::start(dir.path(), &STAY).await;
        assert_eq!(listed(&client, &daemon.url).await, pids, "round {round}");
        // The request in flight goes on: its client is connected to the worker itself.
        let more = soon("more of the generation", generation.chunk()).await.expect("no error");
        assert!(more.is_some(), "the generation went on");
        drop(generation);
        let chat = json!({ "model": "tiny", "messages": [{ "role": "user", "content": "Hello?" }] });
        let answer = client.post(format!("{}/v1/chat/completions", daemon.url)).json(&chat).send().await;
        let answer: Value = answer.expect("an answer").json().await.expect("JSON");
        assert_eq!(answer["choices"][0]["message"]["content"], "Hello from a small model.", "{answer}");
    }
    let check = succeed(&client, &daemon.url, json!({ "HiveCheck": {} })).await.to_string();
    assert!(check.contains("4 worker(s) taken over"), "{check}");
    #[cfg(target_os = "linux")]
    assert_eq!(workers_of(dir.path()), pids, "only the workers run");
    let one = pids[0];
    let stopped = succeed(&client, &daemon.url, json!({ "WorkerProcessDelete": { "pid": one } })).await;
    assert_eq!((&stopped["exit_code"], &stopped["signal"]), (&Value::Null, &Value::Null), "{stopped}");
    assert!(!runs(i32::try_from(one).expect("a pid")));
    daemon.signal(Signal::TERM);
    assert!(daemon.ended().await.success());
    for pid in pids {
        assert!(!runs(i32::try_from(pid).expect("a pid")), "worker {pid} outlived a graceful stop");
    }
    assert!(leftovers.records().is_empty(), "no record remains");
}

/// The processes that run as workers on models of this folder.
#[cfg(target_os = "linux")]
fn workers_of(dir: &Path) -> Vec<i64> {
    let dir = dir.to_str().expect("UTF-8");
    let mut pids: Vec<_> = procfs::process::all_processes()
        .expect("the processes")
        .filter_map(|process| {
            let process = process.ok()?;
            let words = process.cmdline().ok()?;
            let works =
                words.iter().any(|word| word == "worker") && words.iter().any(|word| word.contains(dir));
            works.then(|| i64::from(process.pid()))
        })
        .collect();
    pids.sort_unstable();
    pids
}

/// Sends a worker a request with a long answer, as the gateway does, and waits for its first bytes.
async fn in_flight(client: &Client, leftovers: &Leftovers) -> reqwest::Response {
    let record = leftovers
        .records()
        .into_iter()
        .find(|record| record["request"]["model_id"] == "talker")
        .expect("a record of a worker");
    let chat = json!({
        "model": "talker", "stream": true, "max_tokens": 8000, "temperature": 0,
        "messages": [{ "role": "user", "content": "Tell me everything." }],
    });
    let url = format!("http://127.0.0.1:{}/v1/chat/completions", record["port"]);
    let secret = record["secret"].as_str().expect("a secret");
    let mut answer = client.post(url).bearer_auth(secret).json(&chat).send().await.expect("an answer");
    assert!(answer.status().is_success(), "{:?}", answer.text().await);
    let first = soon("the first bytes", answer.chunk()).await.expect("no error");
    assert!(first.is_some());
    answer
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_starts_ends_with_its_killed_daemon() {
    let dir = tempfile::tempdir().expect("a folder");
    let leftovers = Leftovers(dir.path().to_owned());
    let models = dir.path().join("models");
    std::fs::create_dir(&models).expect("a folder for models");
    write_model(&models, "tiny");
    let client = client();
    let daemon = Daemon::start(dir.path(), &STAY).await;
    let spawn = json!({ "WorkerSpawn": { "model": "tiny", "worker": "builtin" } });
    client.post(format!("{}/v1/jobs", daemon.url)).json(&spawn).send().await.expect("an answer");
    let pid = until("a worker to have a record", async || {
        let records = leftovers.records();
        records.first().and_then(|record| i32::try_from(record["process"]["pid"].as_i64()?).ok())
    })
    .await;
    kill(daemon).await;
    let daemon = Daemon::start(dir.path(), &STAY).await;
    let left = listed(&client, &daemon.url).await;
    // If it became ready just before the kill, it is adopted instead.
    if left.is_empty() {
        until("the half-started worker to end", async || (!runs(pid)).then_some(())).await;
    } else {
        assert_eq!(left, [i64::from(pid)]);
    }
    daemon.signal(Signal::TERM);
    assert!(daemon.ended().await.success());
    assert!(!runs(pid));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stopped_hive_leaves_its_workers_running_if_the_settings_say_so() {
    let dir = tempfile::tempdir().expect("a folder");
    let _leftovers = Leftovers(dir.path().to_owned());
    let models = dir.path().join("models");
    std::fs::create_dir(&models).expect("a folder for models");
    write_model(&models, "tiny");
    let config = dir.path().join("hive.toml");
    std::fs::write(&config, "[workers]\nkeep_on_shutdown = true\n").expect("a file");
    let keeping = [STAY[0], STAY[1], "--config", config.to_str().expect("UTF-8")];
    let client = client();
    let daemon = Daemon::start(dir.path(), &keeping).await;
    let pid = spawned(&client, &daemon.url, "tiny").await;
    daemon.signal(Signal::TERM);
    assert!(daemon.ended().await.success());
    assert!(runs(i32::try_from(pid).expect("a pid")), "it still serves");
    let daemon = Daemon::start(dir.path(), &STAY).await;
    assert_eq!(listed(&client, &daemon.url).await, [pid]);
    daemon.signal(Signal::TERM);
    assert!(daemon.ended().await.success());
    assert!(!runs(i32::try_from(pid).expect("a pid")));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_with_a_newer_record_is_left_alone_and_reported() {
    let dir = tempfile::tempdir().expect("a folder");
    let _leftovers = Leftovers(dir.path().to_owned());
    let models = dir.path().join("models");
    std::fs::create_dir(&models).expect("a folder for models");
    write_model(&models, "tiny");
    let client = client();
    let daemon = Daemon::start(dir.path(), &STAY).await;
    let pid = spawned(&client, &daemon.url, "tiny").await;
    kill(daemon).await;

    let folders = std::fs::read_dir(dir.path().join("data/workers")).expect("a folder of workers");
    let folder = folders.last().expect("a worker").expect("a folder").path();
    let path = folder.join("record.json");
    let text = std::fs::read_to_string(&path).expect("a record");
    assert!(text.starts_with(r#"{"version":1,"#), "{text}");
    let newer = text.replacen(r#""version":1"#, r#""version":2"#, 1);
    std::fs::write(&path, &newer).expect("a record");

    let daemon = Daemon::start(dir.path(), &STAY).await;
    assert!(listed(&client, &daemon.url).await.is_empty());
    let check = succeed(&client, &daemon.url, json!({ "HiveCheck": {} })).await;
    let workers = check_of(&check, "workers");
    let detail = workers["detail"].as_str().expect("a detail");
    assert!(detail.contains(&format!("process {pid}, version 2 in {}", path.display())), "{workers}");
    assert!(workers["hint"].as_str().is_some_and(|hint| hint.contains("newer hive")), "{workers}");
    assert_eq!(workers["ok"], false);
    daemon.signal(Signal::TERM);
    assert!(daemon.ended().await.success());
    assert!(runs(i32::try_from(pid).expect("a pid")), "it still serves");
    assert_eq!(std::fs::read_to_string(&path).expect("a record"), newer);

    std::fs::write(&path, text).expect("a record");
    let daemon = Daemon::start(dir.path(), &STAY).await;
    assert_eq!(listed(&client, &daemon.url).await, [pid]);
    daemon.signal(Signal::TERM);
    assert!(daemon.ended().await.success());
    assert!(!runs(i32::try_from(pid).expect("a pid")));
}

#[cfg(target_os = "linux")]
#[tokio::test(flavor = "multi_thread")]
async fn a_worker_gets_no_secret_of_the_hive_and_can_gain_no_privileges() {
    let dir = tempfile::tempdir().expect("a folder");
    let _leftovers = Leftovers(dir.path().to_owned());
    let models = dir.path().join("models");
    std::fs::create_dir(&models).expect("a folder for models");
    write_model(&models, "tiny");
    let variables = [
        ("AWS_SECRET_ACCESS_KEY", "cloud"),
        ("HF_TOKEN", "hub"),
        ("DATABASE_URL", "postgres://me:word@db/x"),
        ("OMP_NUM_THREADS", "7"),
    ];
    let daemon = Daemon::start_with(dir.path(), &[], &variables).await;
    let pid = spawned(&client(), &daemon.url, "tiny").await;
    let environment = std::fs::read_to_string(format!("/proc/{pid}/environ")).expect("its environment");
    let names: Vec<_> = environment.split('\0').filter_map(|variable| variable.split('=').next()).collect();
    for (name, _) in &variables[..3] {
        assert!(!names.contains(name), "{name}: {names:?}");
    }
    for name in ["OMP_NUM_THREADS", "PATH", "RBEE_WORKER_SECRET"] {
        assert!(names.contains(&name), "{name}: {names:?}");
    }
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("its status");
    assert!(status.lines().any(|line| line.split_whitespace().eq(["NoNewPrivs:", "1"])), "{status}");
    daemon.stop().await;
}
