//! Who gets in, and what keeps nobody out: the process with few descriptors, its Unix socket, its folders.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Stdio;

use rbee_hive::config::Bind;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UnixStream};
use tokio::process::Command;

use crate::support::{Daemon, TestHive, check_of, command, folder, serve, soon, until, wrapped};

/// The hive, started by a shell with `ulimit` and these words.
fn limited(limit: &str, dir: &Path) -> Command {
    let mut shell = command("sh");
    shell.args(["-c", &format!("ulimit {limit} && exec \"$0\" \"$@\"")]);
    shell.stdout(Stdio::piped()).stderr(Stdio::null());
    wrapped(shell, &serve(dir, &[]))
}

#[tokio::test(flavor = "multi_thread")]
async fn silent_connections_keep_nobody_out() {
    let dir = folder();
    let daemon = Daemon::run(limited("-n 64", dir.path())).await;
    let address = daemon.url.strip_prefix("http://").expect("an address").to_owned();
    // Well over what it may open; some have sent a part of a request.
    let mut silent = Vec::new();
    for i in 0..150 {
        let mut stream = soon("a connection", TcpStream::connect(&address)).await.expect("a connection");
        if i % 2 == 0 {
            // It may be closed already.
            let _sent = stream.write_all(b"GET /health HTTP/1.1\r\nHost: lo").await;
        }
        silent.push(stream);
        if i % 10 == 0 {
            assert_eq!(daemon.get("/health").await.status(), 200, "after {i} connections");
        }
    }
    // The hive has descriptors left for its own work: journals, folders, processes.
    let check = daemon.succeed(&json!({ "HiveCheck": {} })).await;
    assert_eq!(check_of(&check, "narration")["ok"], true, "{check}");
    assert_eq!(daemon.succeed(&json!({ "ModelList": {} })).await, json!([]));
    drop(silent);
    daemon.stop().await;
}

#[cfg(target_os = "linux")]
#[tokio::test(flavor = "multi_thread")]
async fn it_raises_its_limit_of_open_files() {
    let dir = folder();
    let hard = rustix::process::getrlimit(rustix::process::Resource::Nofile).maximum.unwrap_or(u64::MAX);
    let daemon = Daemon::run(limited("-S -n 256", dir.path())).await;
    let limits = std::fs::read_to_string(format!("/proc/{}/limits", daemon.pid())).expect("its limits");
    let line = limits.lines().find(|line| line.starts_with("Max open files")).expect("a line");
    let current: u64 = line.split_whitespace().nth(3).and_then(|word| word.parse().ok()).expect("a number");
    assert_eq!(current, hard.min(65_536), "{line}");
    daemon.stop().await;
}

/// Sends a request through the socket and gives the whole answer.
async fn ask(socket: &Path, head: &str, body: &str) -> String {
    let mut stream = soon("a connection", UnixStream::connect(socket)).await.expect("a connection");
    let request = format!("{head}Content-Length: {}\r\nConnection: close\r\n\r\n{body}", body.len());
    stream.write_all(request.as_bytes()).await.expect("it takes the request");
    let mut answer = String::new();
    soon("an answer", stream.read_to_string(&mut answer)).await.expect("an answer");
    answer
}

#[tokio::test(flavor = "multi_thread")]
async fn a_unix_socket_serves_the_same_routes_to_its_user() {
    let dir = folder();
    let socket = dir.path().join("hive.sock");
    let path = socket.to_str().expect("UTF-8").to_owned();
    let daemon = Daemon::start(dir.path(), &["--unix-socket", &path]).await;
    assert_eq!(std::fs::metadata(&socket).expect("a socket").permissions().mode() & 0o777, 0o600);
    let file = std::fs::read(dir.path().join("data/hive.json")).expect("hive.json");
    let file: Value = serde_json::from_slice(&file).expect("JSON");
    assert_eq!((&file["unix_socket"], &file["url"]), (&json!(path), &json!(daemon.url)));
    // No name is needed, and any will do, but not what a browser sent through a proxy.
    for (headers, status) in [
        ("", 200),
        ("Host: unix\r\n", 200),
        ("Host: evil.example\r\n", 200),
        ("Host: evil.example\r\nOrigin: http://evil.example\r\n", 403),
        ("Host: evil.example\r\nSec-Fetch-Site: same-origin\r\n", 403),
        ("Host: localhost\r\nSec-Fetch-Site: cross-site\r\n", 403),
    ] {
        let answer = ask(&socket, &format!("GET /v1/jobs HTTP/1.1\r\n{headers}"), "").await;
        assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{headers}: {answer}");
    }
    let head = "POST /v1/jobs HTTP/1.1\r\nContent-Type: application/json\r\n";
    let answer = ask(&socket, head, r#"{"ModelList":{}}"#).await;
    assert!(answer.starts_with("HTTP/1.1 201 "), "{answer}");
    assert_eq!(daemon.get("/health").await.status(), 200, "TCP serves too");

    // Another hive leaves it alone; after a kill, the file that is left is replaced.
    let other = folder();
    let (status, said) = Daemon::refuse(serve(other.path(), &["--unix-socket", &path])).await;
    assert_eq!(status.code(), Some(69), "{said}");
    assert!(said.contains(&path) && said.contains("hint: "), "{said}");
    daemon.kill().await;
    assert!(socket.exists(), "a killed hive leaves it");
    let daemon = Daemon::start(dir.path(), &["--unix-socket", &path]).await;
    assert!(ask(&socket, "GET /health HTTP/1.1\r\n", "").await.ends_with("ok"));
    let open = UnixStream::connect(&socket).await.expect("a connection");
    daemon.stop().await;
    drop(open);
    assert!(!socket.exists(), "it is removed at the end");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_unix_socket_can_be_the_only_way_in() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let socket = dir.path().join("hive.sock");
    let hive = TestHive::start_in(dir, |config| {
        config.bind = Bind::None;
        config.unix_socket = Some(socket.clone());
    })
    .await;
    assert_eq!(hive.url, format!("unix:{}", socket.display()));
    let file = std::fs::read(hive.dir().join("data/hive.json")).expect("hive.json");
    let file: Value = serde_json::from_slice(&file).expect("JSON");
    assert_eq!((&file["url"], &file["port"]), (&json!(hive.url), &json!(0)));
    let head = "POST /v1/jobs HTTP/1.1\r\nContent-Type: application/json\r\n";
    let created = ask(&socket, head, r#"{"HiveCheck":{}}"#).await;
    let (_, body) = created.split_once("\r\n\r\n").expect("a body");
    let job: Value = serde_json::from_str(body).expect("JSON");
    let stream = format!("GET {} HTTP/1.1\r\n", job["sse_url"].as_str().expect("a path"));
    let stream = ask(&socket, &stream, "").await;
    assert!(stream.contains(&format!("✅ port: serving on {}", socket.display())), "{stream}");
    assert!(stream.contains("for this user alone; no token is asked for"), "{stream}");
    let beat = UnixStream::connect(&socket).await.expect("a connection");
    hive.stop().await;
    drop(beat);
    assert!(!socket.exists());
}

/// Only root can become another user.
#[tokio::test(flavor = "multi_thread")]
async fn another_user_cannot_use_the_unix_socket_whatever_its_mode() {
    if !rustix::process::geteuid().is_root() || !crate::contract::has_tools().await {
        return;
    }
    let dir = folder();
    let socket = dir.path().join("hive.sock");
    let daemon = Daemon::start(dir.path(), &["--unix-socket", socket.to_str().expect("UTF-8")]).await;
    let open = |path: &Path, mode| {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).expect("a mode");
    };
    open(dir.path(), 0o711);
    open(&socket, 0o666);
    let curl = async |user: u32| {
        let mut command = command("curl");
        command.args(["-q", "-s", "--unix-socket"]).arg(&socket).arg("http://hive/health").uid(user);
        let output = soon("curl", command.output()).await.expect("curl");
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    assert_eq!(curl(0).await, "ok");
    assert_eq!(curl(65_534).await, "");
    daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_data_folder_that_others_can_change_is_refused() {
    let dir = folder();
    let data = dir.path().join("data");
    std::fs::create_dir(&data).expect("a folder");
    std::fs::set_permissions(&data, std::fs::Permissions::from_mode(0o777)).expect("a mode");
    let (status, said) = Daemon::refuse(serve(dir.path(), &[])).await;
    assert_eq!(status.code(), Some(78), "{said}");
    assert!(said.contains("can be written by others") && said.contains("chmod go-w"), "{said}");
    assert_eq!(std::fs::read_dir(&data).expect("a folder").count(), 0, "nothing was put there");

    // Nor does it write through a link, or wait for the other end of a FIFO.
    std::fs::set_permissions(&data, std::fs::Permissions::from_mode(0o700)).expect("a mode");
    let mine = dir.path().join("mine");
    std::fs::write(&mine, "mine").expect("a file");
    for name in ["hive.lock", "hive.tmp"] {
        std::os::unix::fs::symlink(&mine, data.join(name)).expect("a link");
        let (status, said) = Daemon::refuse(serve(dir.path(), &[])).await;
        assert!(!status.success() && said.contains("hive."), "{name}: {said}");
        assert_eq!(std::fs::read_to_string(&mine).expect("a file"), "mine");
        let _removed = std::fs::remove_file(data.join(name));
    }
    std::fs::remove_file(data.join("hive.lock")).expect("the lock that the refused start made");
    let fifo = command("mkfifo").arg(data.join("hive.lock")).status().await;
    assert!(fifo.expect("mkfifo").success());
    let (status, said) = Daemon::refuse(serve(dir.path(), &[])).await;
    assert!(!status.success() && said.contains("hive.lock"), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_folder_of_models_that_is_not_there_is_told_and_found_later() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let hive = TestHive::start_in(dir, |config| {
        std::fs::remove_dir(&config.models_dirs[0]).expect("it is empty");
    })
    .await;
    let folders = async || {
        let check = hive.succeed(&json!({ "HiveCheck": {} })).await;
        check_of(&check, "folders").clone()
    };
    let missing = folders().await;
    assert_eq!(missing["ok"], false);
    let path = hive.models_dir().display().to_string();
    assert!(missing["detail"].as_str().is_some_and(|detail| detail.contains(&path)), "{missing}");
    assert!(missing["hint"].as_str().is_some_and(|hint| hint.contains("mount")), "{missing}");
    std::fs::create_dir(hive.models_dir()).expect("a folder");
    until("the folder to be found", async || (folders().await["ok"] == true).then_some(())).await;
    hive.stop().await;
}
