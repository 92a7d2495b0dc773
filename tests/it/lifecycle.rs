//! The daemon as a process: its start, its ready line, its refusals, its shutdown and its death.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::Duration;

use rustix::process::Signal;
use serde_json::{Value, json};
use tokio::net::TcpListener;

use crate::support::{
    Clock, Daemon, StallingServer, client, command, data_lines, folder, no_process_mentions, nowhere,
    process_runs, program, rounds, serve, soon, until, wrapped, write_model,
};

fn mode(path: &Path) -> u32 {
    std::fs::metadata(path).unwrap_or_else(|error| panic!("{}: {error}", path.display())).permissions().mode()
        & 0o777
}

fn hive_file(dir: &Path) -> Value {
    let text = std::fs::read(dir.join("data/hive.json")).expect("hive.json is there");
    serde_json::from_slice(&text).expect("JSON")
}

#[tokio::test(flavor = "multi_thread")]
async fn it_announces_its_address_and_keeps_its_folder_private() {
    let dir = folder();
    let daemon = Daemon::start(dir.path(), &["--hive-id", "attic"]).await;
    let data = dir.path().join("data");
    let (pid, url) = (daemon.pid(), daemon.url.clone());
    assert_eq!(
        daemon.ready_line,
        format!("rbee-hive ready on {url} (pid {pid}, data in {})", data.display())
    );
    // The file exists before the ready line.
    let file = hive_file(dir.path());
    assert_eq!((&file["pid"], &file["url"], &file["hive_id"]), (&json!(pid), &json!(url), &json!("attic")));
    assert_eq!(file["version"], env!("CARGO_PKG_VERSION"));
    assert_eq!(url, format!("http://127.0.0.1:{}", file["port"]));
    let started_at = file["started_at"].as_str().expect("an instant");
    assert!(started_at.len() == 24 && started_at.ends_with('Z'), "{started_at}");
    for folder in ["", "models", "jobs", "workers"] {
        assert_eq!(mode(&data.join(folder)), 0o700, "{folder}");
    }
    for file in ["hive.json", "hive.lock"] {
        assert_eq!(mode(&data.join(file)), 0o600, "{file}");
    }
    let health = daemon.get("/health").await;
    assert_eq!(health.status(), 200);
    assert_eq!(health.text().await.expect("a body"), "ok");
    daemon.stop().await;
    assert!(!data.join("hive.json").exists(), "the file is removed at shutdown");
}

#[derive(Clone, Copy, Debug)]
enum Stop {
    Signal(Signal),
    Request,
}

#[tokio::test(flavor = "multi_thread")]
async fn every_kind_of_shutdown_ends_open_streams_with_a_terminal_event() {
    let server = StallingServer::start().await;
    let dir = folder();
    write_model(&dir.path().join("models"), "tiny");
    for (i, stop) in
        [Stop::Signal(Signal::TERM), Stop::Signal(Signal::INT), Stop::Signal(Signal::QUIT), Stop::Request]
            .into_iter()
            .enumerate()
    {
        let daemon = Daemon::start(dir.path(), &[]).await;
        let worker = daemon.succeed(&json!({ "ModelLoad": { "id": "tiny" } })).await;
        let download = json!({ "ModelDownload": { "model": server.model(&format!("model-{i}")) } });
        let id = daemon.submit(&download).await;
        server.connections(1).await;
        let plain = daemon.get(&format!("/v1/jobs/{id}/stream")).await;
        let typed = daemon.get(&format!("/v1/jobs/{id}/stream?format=json")).await;
        let events = daemon.get("/v1/events").await;
        match stop {
            Stop::Signal(signal) => daemon.signal(signal),
            Stop::Request => {
                let request = client().post(format!("{}/v1/shutdown", daemon.url)).json(&json!({}));
                assert_eq!(soon("an answer", request.send()).await.expect("an answer").status(), 200);
            }
        }
        let plain = soon("the end", plain.text()).await.expect("a whole stream");
        let last = data_lines(&plain).pop().expect("an end");
        assert!(last.starts_with("[ERROR] the hive was stopped"), "{stop:?}: {plain}");
        let typed = soon("the end", typed.text()).await.expect("a whole stream");
        assert!(typed.contains("event: failed\n") && typed.contains(r#""code":"interrupted""#), "{typed}");
        soon("the end", events.text()).await.expect("a clean end");
        let status = daemon.ended().await;
        assert_eq!(status.code(), Some(0), "{stop:?}: it ended with {status}");
        assert!(!dir.path().join("data/hive.json").exists());
        let worker = u32::try_from(worker["pid"].as_u64().expect("a pid")).expect("a pid");
        assert!(!process_runs(worker), "{stop:?}: a worker outlived its hive");
        server.connections(0).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn it_can_be_stopped_as_soon_as_it_is_ready() {
    let dir = folder();
    for _ in 0..rounds(5) {
        Daemon::start(dir.path(), &[]).await.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_hive_on_the_same_folder_names_the_first() {
    let dir = folder();
    let daemon = Daemon::start(dir.path(), &[]).await;
    let (status, said) = Daemon::refuse(serve(dir.path(), &[])).await;
    assert_eq!(status.code(), Some(75), "{said}");
    assert!(said.contains(&format!("process {}, serving on {}", daemon.pid(), daemon.url)), "{said}");
    assert!(said.contains("hint: ") && said.contains("--data-dir"), "{said}");
    // The refused hive changed nothing of the first one.
    assert_eq!(hive_file(dir.path())["pid"], daemon.pid());
    assert_eq!(daemon.get("/health").await.status(), 200);
    daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_taken_port_names_its_holder() {
    let dir = folder();
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.expect("a free port");
    let port = listener.local_addr().expect("an address").port();
    let mut command = program();
    command.args(["--port", &port.to_string(), "--data-dir"]).arg(dir.path().join("data"));
    let (status, said) = Daemon::refuse(command).await;
    assert_eq!(status.code(), Some(69), "{said}");
    assert!(said.contains(&format!("port {port} is taken by ")), "{said}");
    if cfg!(target_os = "linux") {
        assert!(said.contains(&format!("process {} (", std::process::id())), "{said}");
    }
    assert!(said.contains("--port"), "{said}");
    assert!(!dir.path().join("data/hive.json").exists());

    // If the folder's own hive runs, that is the one to use, whatever its port.
    let daemon = Daemon::start(dir.path(), &[]).await;
    let mut command = program();
    command.args(["--port", &port.to_string(), "--data-dir"]).arg(dir.path().join("data"));
    let (_, said) = Daemon::refuse(command).await;
    if cfg!(target_os = "linux") {
        assert!(said.contains(&format!("as process {}: use it at {}", daemon.pid(), daemon.url)), "{said}");
    }
    daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn beyond_loopback_it_needs_a_private_token_file() {
    let dir = folder();
    let (status, said) = Daemon::refuse(serve(dir.path(), &["--bind", "0.0.0.0"])).await;
    assert_eq!(status.code(), Some(78), "{said}");
    assert!(said.contains("hint: make a token with ") && said.contains("--token-file"), "{said}");

    let token = dir.path().join("token");
    let path = token.to_str().expect("UTF-8");
    std::fs::write(&token, "0123456789abcdef0123456789abcdef\n").expect("a file");
    std::fs::set_permissions(&token, std::fs::Permissions::from_mode(0o644)).expect("a mode");
    let (status, said) = Daemon::refuse(serve(dir.path(), &["--token-file", path])).await;
    assert_eq!(status.code(), Some(78), "{said}");
    assert!(said.contains(path) && said.contains("0644") && said.contains("chmod 600"), "{said}");

    std::fs::set_permissions(&token, std::fs::Permissions::from_mode(0o600)).expect("a mode");
    let daemon = Daemon::start(dir.path(), &["--token-file", path]).await;
    assert_eq!(daemon.get("/health").await.status(), 200);
    assert_eq!(daemon.get("/v1/jobs").await.status(), 401);
    let request = client()
        .get(format!("{}/v1/jobs", daemon.url))
        .header("Authorization", "Bearer 0123456789abcdef0123456789abcdef");
    assert_eq!(soon("an answer", request.send()).await.expect("an answer").status(), 200);
    daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn invalid_settings_are_refused_by_name() {
    let dir = folder();
    let file = dir.path().join("hive.toml");
    let path = file.to_str().expect("UTF-8");
    for (text, names) in [
        ("prot = 1", "prot"),
        ("port = 70000", "70000"),
        ("[timers]\nsilence = \"soon\"", "silence"),
        ("[jobs]\nconcurrent_acts = 0", "concurrent_"),
        ("hive_ids = []", "--hive-id"),
        ("queen_url = \"ftp://queen\"", "--queen-url"),
        ("allow_origins = [\"example.org\"]", "--allow-origin"),
        ("allow_hosts = [\"*\"]", "--allow-host"),
        ("bind = \"0.0.0.0\"", "0.0.0.0"),
        ("port = ", "line 1"),
    ] {
        std::fs::write(&file, text).expect("a file");
        let (status, said) = Daemon::refuse(serve(dir.path(), &["--config", path])).await;
        assert_eq!(status.code(), Some(78), "{text}: {said}");
        assert!(said.contains(names) && said.contains("hint: "), "{text}: {said}");
        assert!(!said.contains("panicked"), "{said}");
    }
    std::fs::remove_file(&file).expect("it is there");
    let (status, said) = Daemon::refuse(serve(dir.path(), &["--config", path])).await;
    assert!(!status.success() && said.contains(path) && said.contains("--config"), "{said}");
    let (status, said) = Daemon::refuse(serve(dir.path(), &["--prot", "1"])).await;
    assert_eq!(status.code(), Some(2), "clap's own: {said}");
    assert!(!dir.path().join("data").exists(), "a refused start makes no folder");
}

#[tokio::test(flavor = "multi_thread")]
async fn flags_override_the_environment_which_overrides_the_file() {
    let dir = folder();
    let (more, file) = (dir.path().join("more"), dir.path().join("hive.toml"));
    std::fs::create_dir(&more).expect("a folder");
    write_model(&dir.path().join("models"), "one");
    write_model(&more, "two");
    std::fs::write(
        &file,
        format!(
            "port = 0\nhive_ids = [\"file\"]\nmodels_dirs = [{:?}]\nallow_hosts = [\"file.test\"]\n",
            more
        ),
    )
    .expect("a file");
    let dirs = std::env::join_paths([dir.path().join("models"), more.clone()]).expect("a list of folders");
    let command = |name: &str| {
        let mut command = program();
        command.env("RBEE_HIVE_CONFIG", &file).env("RBEE_HIVE_DATA_DIR", dir.path().join("data"));
        if name != "file" {
            command
                .env("RBEE_HIVE_PORT", "0")
                .env("RBEE_HIVE_BIND", "127.0.0.1")
                .env("RBEE_HIVE_HIVE_ID", "env,second")
                .env("RBEE_HIVE_MODELS_DIR", &dirs)
                .env("RBEE_HIVE_ALLOW_HOST", "env.test")
                .env("RBEE_HIVE_ALLOW_ORIGIN", "https://page.test")
                .env("RBEE_HIVE_PUBLIC_URL", "http://public.test");
        }
        command
    };
    let names = async |daemon: &Daemon| {
        let models = daemon.succeed(&json!({ "ModelList": {} })).await;
        models.as_array().expect("models").iter().map(|model| model["id"].to_string()).collect::<Vec<_>>()
    };
    let status = async |daemon: &Daemon, host: &str| {
        let request = client().get(format!("{}/v1/jobs", daemon.url)).header("Host", host);
        soon("an answer", request.send()).await.expect("an answer").status().as_u16()
    };

    let daemon = Daemon::run(command("file")).await;
    assert_eq!(hive_file(dir.path())["hive_id"], "file");
    assert_eq!(names(&daemon).await, ["\"two\""]);
    assert_eq!((status(&daemon, "file.test").await, status(&daemon, "env.test").await), (200, 403));
    daemon.stop().await;

    let daemon = Daemon::run(command("env")).await;
    assert_eq!(hive_file(dir.path())["hive_id"], "env");
    assert_eq!(names(&daemon).await, ["\"one\"", "\"two\""]);
    assert_eq!((status(&daemon, "file.test").await, status(&daemon, "env.test").await), (403, 200));
    daemon.succeed(&json!({ "ModelList": { "hive_id": "second" } })).await;
    let request = client().get(format!("{}/v1/jobs", daemon.url)).header("Origin", "https://page.test");
    let answer = soon("an answer", request.send()).await.expect("an answer");
    assert_eq!(answer.headers()["access-control-allow-origin"], "https://page.test");
    daemon.stop().await;

    let mut flags = command("flags");
    flags.args(["serve", "--hive-id", "flag", "--allow-host", "flag.test", "--models-dir"]).arg(&more);
    let daemon = Daemon::run(flags).await;
    assert_eq!(hive_file(dir.path())["hive_id"], "flag");
    assert_eq!(names(&daemon).await, ["\"two\""]);
    assert_eq!((status(&daemon, "env.test").await, status(&daemon, "flag.test").await), (403, 200));
    daemon.stop().await;

    // Settings whose effect is only visible if they are invalid.
    for (name, value) in [
        ("RBEE_HIVE_QUEEN_URL", "nonsense"),
        ("RBEE_HIVE_PUBLIC_URL", "nonsense"),
        ("RBEE_HIVE_TOKEN_FILE", "/nonexistent/token"),
        ("RBEE_HIVE_BIND", "0.0.0.0"),
    ] {
        let mut command = command("env");
        command.env(name, value);
        let (status, said) = Daemon::refuse(command).await;
        assert_eq!(status.code(), Some(78), "{name}: {said}");
        assert!(said.contains(value), "{name}: {said}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_hive_leaves_no_worker_and_no_lock_behind() {
    let dir = folder();
    write_model(&dir.path().join("models"), "tiny");
    for _ in 0..rounds(2) {
        let daemon = Daemon::start(dir.path(), &[]).await;
        let killed = daemon.pid();
        let mut workers = Vec::new();
        for operation in [
            json!({ "ModelLoad": { "id": "tiny" } }),
            json!({ "WorkerSpawn": { "model": "tiny", "worker": "cpu" } }),
        ] {
            let worker = daemon.succeed(&operation).await;
            workers.push(u32::try_from(worker["pid"].as_u64().expect("a pid")).expect("a pid"));
        }
        assert!(workers.iter().all(|pid| process_runs(*pid)));
        daemon.kill().await;
        assert_eq!(hive_file(dir.path())["pid"], killed, "a killed hive leaves its file");
        // The next hive starts at once, while the workers may still be ending.
        let next = Daemon::start(dir.path(), &[]).await;
        assert_eq!(hive_file(dir.path())["pid"], next.pid());
        for pid in workers {
            until("an orphaned worker to end", async || (!process_runs(pid)).then_some(())).await;
        }
        assert_eq!(next.succeed(&json!({ "WorkerProcessList": {} })).await, json!([]));
        next.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hive_that_is_killed_while_a_worker_starts_leaves_none_behind() {
    let dir = folder();
    write_model(&dir.path().join("models"), "tiny");
    for round in 0..rounds(2) {
        let daemon = Daemon::start(dir.path(), &[]).await;
        let id = daemon.submit(&json!({ "ModelLoad": { "id": "tiny" } })).await;
        let mut stream = daemon.get(&format!("/v1/jobs/{id}/stream?format=json")).await;
        let mut seen = String::new();
        // As soon as the process exists; a little later in each round.
        soon("the worker to start", async {
            while !seen.contains("worker_command") {
                seen +=
                    &String::from_utf8_lossy(&stream.chunk().await.expect("a chunk").expect("it goes on"));
            }
        })
        .await;
        tokio::time::sleep(Duration::from_millis(round as u64 * 3)).await;
        daemon.kill().await;
        // Only a worker of this hive has the folder on its command line.
        let data = dir.path().to_str().expect("UTF-8").to_owned();
        until("its workers to end", async || no_process_mentions(&data).then_some(())).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hangup_reloads_the_settings_and_the_hive_serves_on() {
    let dir = folder();
    write_model(&dir.path().join("models"), "tiny");
    let config = dir.path().join("hive.toml");
    std::fs::write(&config, "[jobs]\nkeep_acts = 100\n").expect("a file");
    let daemon = Daemon::start(dir.path(), &["--config", config.to_str().expect("UTF-8")]).await;
    let worker = daemon.succeed(&json!({ "ModelLoad": { "id": "tiny" } })).await;
    let acts = async || daemon.json("/v1/jobs").await["jobs"].as_array().expect("jobs").len();
    assert_eq!(acts().await, 1);

    std::fs::write(&config, "port = 1\n[jobs]\nkeep_acts = 0\n").expect("a file");
    daemon.signal(Signal::HUP);
    until("the history to be pruned", async || (acts().await == 0).then_some(())).await;
    let reload = async || {
        let answer = daemon.try_post("/v1/reload", &json!({})).await.expect("an answer");
        (answer.status().as_u16(), answer.json::<Value>().await.expect("JSON"))
    };
    let told = json!({ "file": config, "applied": [], "restart_needed": ["port"] });
    assert_eq!(reload().await, (200, told));
    std::fs::write(&config, "[jobs]\nkeep_akts = 0\n").expect("a file");
    daemon.signal(Signal::HUP);
    let (status, problem) = reload().await;
    assert_eq!((status, &problem["code"]), (500, &json!("config_invalid")), "{problem}");
    let workers = daemon.succeed(&json!({ "WorkerProcessList": {} })).await;
    assert_eq!((&workers[0]["pid"], &workers[0]["status"]), (&worker["pid"], &json!("ready")));
    daemon.stop().await;
}

/// A process that is killed when the test fails.
struct Killed(u32);

impl Drop for Killed {
    fn drop(&mut self) {
        let pid = i32::try_from(self.0).ok().and_then(rustix::process::Pid::from_raw);
        let _ended = pid.map(|pid| rustix::process::kill_process(pid, Signal::KILL));
    }
}

/// The terminal of a hive is closed: it gets SIGHUP, and every line of its log fails from then on.
#[cfg(target_os = "linux")]
#[tokio::test(flavor = "multi_thread")]
async fn a_hive_whose_terminal_is_closed_serves_on() {
    const TERMINAL: &str = "\
import os, pty, re, sys
pid, terminal = pty.fork()
if pid == 0:
    os.execv(sys.argv[1], sys.argv[1:])
text = b''
while not re.search(rb'ready on .*\\n', text):
    text += os.read(terminal, 4096)
os.close(terminal)
print(pid, re.search(rb'(http://\\S+)', text).group(1).decode(), flush=True)
";
    let dir = folder();
    let mut python = command("python3");
    python.arg("-c").arg(TERMINAL);
    let mut python = wrapped(python, &serve(dir.path(), &[]));
    let Ok(output) = soon("the terminal", python.output()).await else { return };
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    let (pid, url) = said.trim().split_once(' ').unwrap_or_else(|| panic!("{output:?}"));
    let pid: u32 = pid.parse().expect("a process id");
    let killed = Killed(pid);
    // A failed job is logged.
    let request = client().post(format!("{url}/v1/jobs")).json(&json!({ "ModelUnload": { "id": "none" } }));
    let job: Value = soon("a job", request.send()).await.expect("an answer").json().await.expect("JSON");
    let stream = client().get(format!("{url}{}", job["sse_url"].as_str().expect("a path"))).send();
    let stream = soon("a stream", stream).await.expect("a stream").text().await.expect("a whole stream");
    assert!(stream.contains("[ERROR] "), "{stream}");
    let stop = client().post(format!("{url}/v1/shutdown")).json(&json!({})).send();
    assert_eq!(soon("an answer", stop).await.expect("an answer").status(), 200);
    until("the hive to end", async || (!process_runs(pid)).then_some(())).await;
    std::mem::forget(killed);
    assert!(!dir.path().join("data/hive.json").exists());
}

#[cfg(debug_assertions)]
#[tokio::test(flavor = "multi_thread")]
async fn the_times_of_a_hive_are_those_of_the_clock_as_it_is_set() {
    let dir = folder();
    let clock = Clock::new(dir.path());
    let daemon = Daemon::start_with(dir.path(), &[], &[clock.environment()]).await;
    let created_at = async || {
        let id = daemon.submit(&json!({ "ModelList": {} })).await;
        daemon.stream(&id).await;
        daemon.json(&format!("/v1/jobs/{id}")).await["created_at"].as_str().expect("an instant").to_owned()
    };
    let before = created_at().await;
    clock.turn(-24 * 3600, Duration::ZERO);
    assert!(created_at().await < before);
    clock.turn(24 * 3600, Duration::ZERO);
    assert!(created_at().await > before);
    daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hive_that_is_tested_asks_nobody_beyond_this_machine() {
    let dir = folder();
    let daemon = Daemon::start(dir.path(), &[]).await;
    let offers = daemon.succeed(&json!({ "WorkerCatalogList": {} })).await;
    let offers = offers["workers"].as_array().expect("engines");
    let asks_nobody = |offer: &Value| offer["problem"].as_str().is_some_and(|why| why.contains(&nowhere()));
    assert!(!offers.is_empty() && offers.iter().all(asks_nobody), "{offers:#?}");
    daemon.stop().await;
}
