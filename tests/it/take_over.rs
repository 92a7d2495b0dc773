//! A hive that takes over from the one that runs.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use rbee_hive::engine::sample_model::SampleModel;
use rustix::process::{Pid, Signal};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::UnixStream;
use tokio::process::Command;

use crate::fleet::{hive, in_fleet_of};
use crate::support::{
    Daemon, NatsServer, StallingServer, client, data_lines, folder, read_all, read_until, serve, soon, typed,
    until, write_model,
};

/// A folder with models, and no worker that outlives the test.
struct Place(TempDir);

impl Place {
    fn new() -> Self {
        // A job that is not waited for long.
        Self::with("[timers]\nhand_over = \"20s\"\n")
    }

    fn with(settings: &str) -> Self {
        let place = Self(folder());
        let models = place.0.path().join("models");
        write_model(&models, "tiny");
        // Its answers are long.
        SampleModel { name: "talker".to_owned(), context_length: 8192, ..SampleModel::default() }
            .write(&models.join("talker.gguf"))
            .expect("a small model can be written");
        std::fs::write(place.config(), settings).expect("a file");
        place
    }

    fn config(&self) -> PathBuf {
        self.0.path().join("hive.toml")
    }

    fn path(&self) -> &Path {
        self.0.path()
    }

    fn serve(&self, more: &[&str]) -> Command {
        let mut command = serve(self.path(), &["--workers-lifeline", "false"]);
        command.arg("--config").arg(self.config()).args(more);
        command
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let Ok(workers) = std::fs::read_dir(self.path().join("data/workers")) else { return };
        let records = workers.filter_map(|entry| std::fs::read(entry.ok()?.path().join("record.json")).ok());
        for record in records.filter_map(|text| serde_json::from_slice::<Value>(&text).ok()) {
            let pid = record["process"]["pid"].as_i64().and_then(|pid| i32::try_from(pid).ok());
            if let Some(pid) = pid.and_then(Pid::from_raw) {
                let _ended = rustix::process::kill_process_group(pid, Signal::KILL);
            }
        }
    }
}

fn signal(pid: &Value, signal: Signal) {
    let pid =
        pid.as_i64().and_then(|pid| i32::try_from(pid).ok()).and_then(Pid::from_raw).expect("a process id");
    rustix::process::kill_process(pid, signal).expect("it runs");
}

fn chat(model: &str, tokens: u32) -> Value {
    json!({ "model": model, "stream": true, "max_tokens": tokens, "temperature": 0,
            "messages": [{ "role": "user", "content": "Hello?" }] })
}

/// Clients that ask without a pause, each time over a new connection, until they are stopped.
struct Clients {
    stop: Arc<AtomicBool>,
    asked: Arc<AtomicUsize>,
    tasks: Vec<tokio::task::JoinHandle<()>>,
}

impl Clients {
    fn of(url: &str) -> Self {
        let (stop, asked) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
        let mut tasks = Vec::new();
        for path in ["/health", "/v1/models", "/v1/chat/completions"] {
            let (stop, asked, url) = (Arc::clone(&stop), Arc::clone(&asked), format!("{url}{path}"));
            tasks.push(rbee_hive::spawn::detached(async move {
                while !stop.load(Ordering::Relaxed) {
                    let request = match path.ends_with("completions") {
                        true => client().post(&url).json(&chat("tiny", 8)),
                        false => client().get(&url),
                    };
                    let answer = request.send().await.unwrap_or_else(|error| panic!("{url}: {error:?}"));
                    assert_eq!(answer.status(), 200, "{url}: {:?}", answer.text().await);
                    let text = answer.text().await.unwrap_or_else(|error| panic!("{url}: {error:?}"));
                    assert!(!path.ends_with("completions") || text.contains("[DONE]"), "{text}");
                    asked.fetch_add(1, Ordering::Relaxed);
                }
            }));
        }
        Self { stop, asked, tasks }
    }

    /// Waits until they have got some more answers.
    async fn served(&self) {
        let before = self.asked.load(Ordering::Relaxed);
        until("more answers", async || {
            let failed = self.tasks.iter().any(tokio::task::JoinHandle::is_finished);
            (failed || self.asked.load(Ordering::Relaxed) > before + 20).then_some(())
        })
        .await;
    }

    /// Stops them; none may have failed.
    async fn stop(self) {
        self.stop.store(true, Ordering::Relaxed);
        for task in self.tasks {
            task.await.expect("every request was answered");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_hive_takes_over_and_nobody_notices() {
    let place = Place::new();
    let server = StallingServer::start().await;
    let old = Daemon::run(place.serve(&[])).await;
    let url = old.url.clone();
    let tiny = old.succeed(&json!({ "ModelLoad": { "id": "tiny" } })).await;
    let talker = old.succeed(&json!({ "ModelLoad": { "id": "talker" } })).await;
    // A download that never ends, with a reader.
    let download = old.submit(&json!({ "ModelDownload": { "model": server.model("half") } })).await;
    let stream = format!("/v1/jobs/{download}/stream?format=json");
    let mut reader = old.get(&stream).await;
    let mut seen = String::new();
    read_until(&mut reader, &mut seen, "\"progress\"").await;
    // An answer that stands still in its middle.
    let mut answer = old.try_post("/v1/chat/completions", &chat("talker", 4000)).await.expect("an answer");
    let mut text = String::new();
    read_until(&mut answer, &mut text, "data: ").await;
    signal(&talker["pid"], Signal::STOP);
    let clients = Clients::of(&url);
    clients.served().await;

    let new = Daemon::run(place.serve(&["--take-over"])).await;
    assert_eq!(new.url, url, "it serves on the same socket");
    clients.served().await;
    clients.stop().await;
    assert!(old.runs(), "an answer is under way there");
    let workers = new.succeed(&json!({ "WorkerProcessList": {} })).await;
    let pids: Vec<_> = workers.as_array().expect("a list").iter().map(|worker| &worker["pid"]).collect();
    assert_eq!(pids, [&tiny["pid"], &talker["pid"]], "no worker was lost");
    let file = std::fs::read_to_string(place.path().join("data/hive.json")).expect("the hive's file");
    assert!(file.contains(&format!("\"pid\":{}", new.pid())), "{file}");

    // The job was told, its reader got the end, and reads it at the new hive as well.
    seen += &read_all(reader).await;
    let end = typed(&seen).pop().expect("an end");
    assert_eq!((&*end.event, &end.data["code"]), ("failed", &json!("interrupted")), "{seen}");
    let events = typed(&read_all(new.get(&stream).await).await);
    assert_eq!(events, typed(&seen), "the whole stream is the same");
    let last_but_one = events.len() - 1;
    let rest = client().get(format!("{url}{stream}")).header("Last-Event-ID", last_but_one.to_string());
    let rest = typed(&read_all(rest.send().await.expect("an answer")).await);
    assert_eq!(rest, events[last_but_one..]);

    // The new hive knows of the answer that the old one still passes on, and does not cut it.
    let stop = json!({ "WorkerProcessDelete": { "pid": talker["pid"], "grace_seconds": 60 } });
    let stop = new.submit(&stop).await;
    let mut stopping = new.get(&format!("/v1/jobs/{stop}/stream")).await;
    let mut narrated = String::new();
    read_until(&mut stopping, &mut narrated, "for 1 in flight").await;
    signal(&talker["pid"], Signal::CONT);
    text += &read_all(answer).await;
    assert!(text.ends_with("data: [DONE]\n\n"), "{}", &text[text.len().saturating_sub(300)..]);
    assert!(old.ended().await.success());
    narrated += &read_all(stopping).await;
    assert!(data_lines(&narrated).last().is_some_and(|line| line == "[DONE]"), "{narrated}");
    new.stop().await;
    assert!(
        std::net::TcpStream::connect(url.trim_start_matches("http://")).is_err(),
        "nobody listens any more"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_for_another_hive_of_the_fleet_goes_on_to_its_end() {
    let Some(nats) = NatsServer::start().await else { return };
    let asked = hive("a", &nats.url()).await;
    let place = Place::with(&format!(
        "hive_ids = [\"b\"]\n[timers]\nhand_over = \"300ms\"\ndrain = \"100ms\"\n\
         [fleet]\nnats = \"{}\"\nheartbeat = \"500ms\"\ngone_after = \"60s\"\n",
        nats.url()
    ));
    let old = Daemon::run(place.serve(&[])).await;
    in_fleet_of(&old).await;
    let talker = old.succeed(&json!({ "ModelLoad": { "id": "talker" } })).await;
    let has_it = async || {
        let list: Value = asked.get("/v1/models").await.json().await.expect("JSON");
        (list["data"][0]["id"] == "talker" || list["data"][1]["id"] == "talker").then_some(())
    };
    until("word of the model", has_it).await;
    let mut events = asked.get("/v1/events").await;
    let mut answer = asked.post("/v1/chat/completions", &chat("talker", 4000)).await;
    let mut text = String::new();
    read_until(&mut answer, &mut text, "data: ").await;
    signal(&talker["pid"], Signal::STOP);

    let new = Daemon::run(place.serve(&["--take-over"])).await;
    in_fleet_of(&new).await;
    let mut told = String::new();
    read_until(&mut events, &mut told, "\"change\":\"joined\"").await;
    assert!(!told.contains("\"change\":\"left\""), "the hive was in its fleet all the time: {told}");
    // The new hive knows of the answer that the old one gives to another hive.
    let stop = json!({ "WorkerProcessDelete": { "pid": talker["pid"], "grace_seconds": 60 } });
    let stop = new.submit(&stop).await;
    let mut stopping = new.get(&format!("/v1/jobs/{stop}/stream")).await;
    read_until(&mut stopping, &mut String::new(), "for 1 in flight").await;
    assert!(old.runs(), "an answer is under way there");
    signal(&talker["pid"], Signal::CONT);
    text += &read_all(answer).await;
    assert!(text.ends_with("data: [DONE]\n\n"), "{}", &text[text.len().saturating_sub(300)..]);
    assert!(old.ended().await.success());
    read_all(stopping).await;
    new.stop().await;
    asked.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hive_that_cannot_serve_takes_nothing_over() {
    let place = Place::new();
    let socket = place.path().join("hive.sock");
    let old = Daemon::run(place.serve(&["--unix-socket", socket.to_str().expect("UTF-8")])).await;
    let worker = old.succeed(&json!({ "ModelLoad": { "id": "tiny" } })).await;
    let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    let taken = taken.local_addr().expect("an address").to_string();
    let token = place.path().join("missing.token");
    for (flags, status, word) in [
        (["--bind", "0.0.0.0"], 78, "without a token"),
        (["--token-file", token.to_str().expect("UTF-8")], 78, "missing.token"),
        (["--ollama-listen", &taken], 69, "is taken by"),
    ] {
        let (ended, said) = Daemon::refuse(place.serve(&[&["--take-over"], &flags[..]].concat())).await;
        assert!(ended.code() == Some(status) && said.contains(word), "{flags:?}: {ended}: {said}");
        let workers = old.succeed(&json!({ "WorkerProcessList": {} })).await;
        assert_eq!(workers[0]["pid"], worker["pid"], "{flags:?}");
    }
    // One that does not ask is refused as ever.
    let (_, said) = Daemon::refuse(place.serve(&[])).await;
    assert!(said.contains("another hive uses the data folder"), "{said}");

    // The Unix socket goes over too, and its file goes with the last hive.
    let flags = ["--take-over", "--unix-socket", socket.to_str().expect("UTF-8")];
    let new = Daemon::run(place.serve(&flags)).await;
    assert!(old.ended().await.success());
    let address = socket.clone().into();
    let answers = rbee_hive::daemon::answers(&address, crate::support::PATIENCE);
    answers.await.expect("an answer over the Unix socket");
    // Without it in the settings, the last one leaves it.
    let last = Daemon::run(place.serve(&["--take-over"])).await;
    assert!(new.ended().await.success());
    assert!(!socket.exists(), "nobody serves there");
    let workers = last.succeed(&json!({ "WorkerProcessList": {} })).await;
    assert_eq!(workers[0]["pid"], worker["pid"], "the third hive has the first one's worker");
    last.stop().await;
    // And where no hive runs, it is a start like any other.
    Daemon::run(place.serve(&["--take-over"])).await.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hive_whose_successor_dies_before_it_serves_serves_again() {
    let place = Place::new();
    let hive = Daemon::run(place.serve(&[])).await;
    let worker = hive.succeed(&json!({ "ModelLoad": { "id": "tiny" } })).await;
    for _ in 0..2 {
        let mut successor = BufReader::new(
            UnixStream::connect(place.path().join("data/successor.sock")).await.expect("the hive listens"),
        );
        let mut said = String::new();
        soon("an offer", successor.read_line(&mut said)).await.expect("an offer");
        assert!(said.contains("\"offer\"") && said.contains("\"http\""), "{said}");
        let take = b"{\"message\":\"take\",\"keeps_unix\":false}\n";
        successor.get_mut().write_all(take).await.expect("it listens");
        soon("the release", successor.read_line(&mut said)).await.expect("the release");
        assert!(said.contains("\"released\""), "{said}");
        drop(successor);
        // Who connects meanwhile waits.
        assert_eq!(hive.get("/health").await.status(), 200);
        let workers = hive.succeed(&json!({ "WorkerProcessList": {} })).await;
        assert_eq!(workers[0]["pid"], worker["pid"], "{workers}");
    }
    let answer = hive.try_post("/v1/chat/completions", &chat("tiny", 8)).await.expect("an answer");
    assert!(read_all(answer).await.contains("[DONE]"));
    hive.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_for_a_successor_leaves_the_workers_and_lets_an_answer_finish() {
    let place = Place::new();
    let old = Daemon::run(place.serve(&[])).await;
    let talker = old.succeed(&json!({ "ModelLoad": { "id": "talker" } })).await;
    let mut answer = old.try_post("/v1/chat/completions", &chat("talker", 2000)).await.expect("an answer");
    let mut text = String::new();
    read_until(&mut answer, &mut text, "data: ").await;
    signal(&talker["pid"], Signal::STOP);
    old.signal(Signal::USR1);
    let address = old.url.trim_start_matches("http://").to_owned();
    until("the socket to close", async || std::net::TcpStream::connect(&address).is_err().then_some(()))
        .await;
    assert!(old.runs(), "an answer is under way there");
    signal(&talker["pid"], Signal::CONT);
    text += &read_all(answer).await;
    assert!(text.ends_with("data: [DONE]\n\n"), "{}", &text[text.len().saturating_sub(300)..]);
    assert!(old.ended().await.success());
    let new = Daemon::run(place.serve(&[])).await;
    let workers = new.succeed(&json!({ "WorkerProcessList": {} })).await;
    assert_eq!(workers[0]["pid"], talker["pid"]);
    new.stop().await;
}
