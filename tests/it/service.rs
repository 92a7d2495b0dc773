//! The daemon under a service manager: sockets that are passed to it, and what it tells the manager.

use std::net::TcpListener;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::process::Stdio;

use rustix::process::Signal;
use serde_json::json;
use tokio::net::UnixDatagram;
use tokio::process::Command;

use crate::support::{Daemon, command, folder, serve, soon, write_model};

/// The command, which gets these sockets as a service manager passes them, as descriptors 3 and 4: by way of standard
/// input and standard error, which are then empty.
fn with_sockets(inner: &Command, names: &str, sockets: [Option<OwnedFd>; 2]) -> Command {
    let inner = inner.as_std();
    let mut outer = command("sh");
    let [first, second] = sockets;
    let (count, moves) = match second {
        Some(_) => (2, "3<&0 4<&2 </dev/null 2>/dev/null"),
        None => (1, "3<&0 </dev/null"),
    };
    // The manager writes the process id into the environment after it has made the process, as this shell does.
    outer.args(["-c", &format!("export LISTEN_PID=$$; exec \"$@\" {moves}"), "sh"]);
    outer.arg(inner.get_program()).args(inner.get_args());
    for (name, value) in inner.get_envs() {
        match value {
            Some(value) => outer.env(name, value),
            None => outer.env_remove(name),
        };
    }
    outer.env("LISTEN_FDS", count.to_string()).env("LISTEN_FDNAMES", names).stdout(Stdio::piped());
    outer.stdin(Stdio::from(first.expect("a socket")));
    outer.stderr(second.map_or_else(Stdio::null, Stdio::from));
    outer
}

/// A socket that listens on a free port.
fn listening(address: &str) -> (TcpListener, OwnedFd) {
    let socket = TcpListener::bind((address, 0)).expect("a free port");
    let passed = socket.try_clone().expect("a copy").into();
    (socket, passed)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hive_serves_on_the_sockets_that_it_is_passed() {
    let dir = folder();
    write_model(&dir.path().join("models"), "tiny");
    let (tcp, passed) = listening("127.0.0.1");
    let path = dir.path().join("passed.sock");
    let unix = UnixListener::bind(&path).expect("a socket");
    let address = tcp.local_addr().expect("an address");
    // The settings name another port: the socket counts.
    let inner = serve(dir.path(), &[]);
    let hive = with_sockets(&inner, "http:unix", [Some(passed), Some(unix.into())]);
    let hive = Daemon::run(hive).await;
    assert_eq!(hive.url, format!("http://{address}"));
    assert_eq!(hive.get("/health").await.text().await.expect("a text"), "ok");
    let file = std::fs::read_to_string(dir.path().join("data/hive.json")).expect("the hive's file");
    assert!(file.contains("passed.sock") && file.contains(&address.port().to_string()), "{file}");
    rbee_hive::daemon::answers(&rbee_hive::address::Address::Unix(path.clone()), crate::support::PATIENCE)
        .await
        .expect("an answer over the Unix socket");

    let worker = hive.succeed(&json!({ "ModelLoad": { "id": "tiny" } })).await;
    let process = format!("/proc/{}", worker["pid"]);
    if cfg!(target_os = "linux") {
        let environment = std::fs::read_to_string(format!("{process}/environ")).expect("its environment");
        assert!(!environment.contains("LISTEN_"), "{environment:?}");
        let held = rbee_hive::workers::port_holder(address.port()).expect("a holder").0;
        assert!(held == hive.pid() || held == std::process::id(), "process {held} holds the port");
        let inode = |path: &Path| std::fs::read_link(path).ok();
        let sockets = std::fs::read_dir(format!("/proc/{}/fd", hive.pid())).expect("its descriptors");
        let passed = inode(Path::new(&format!("/proc/{}/fd/3", hive.pid()))).expect("the passed socket");
        assert!(sockets.count() > 3 && passed.to_string_lossy().starts_with("socket:"), "{passed:?}");
        let theirs = std::fs::read_dir(format!("{process}/fd")).expect("the worker's descriptors");
        assert!(
            theirs.flatten().all(|entry| inode(&entry.path()) != Some(passed.clone())),
            "it has {passed:?}"
        );
    }
    hive.stop().await;
    assert!(path.exists(), "the file of a socket is its maker's");
    assert!(std::net::TcpStream::connect(address).is_ok(), "the manager's socket still takes connections");
}

#[tokio::test(flavor = "multi_thread")]
async fn passed_sockets_are_told_by_their_kind_and_refused_where_they_are_not_understood() {
    let dir = folder();
    let path = dir.path().join("passed.sock");
    let unix = UnixListener::bind(&path).expect("a socket");
    let (tcp, passed) = listening("127.0.0.1");
    let inner = serve(dir.path(), &[]);
    let unnamed = "rbee-hive.socket:rbee-hive.socket";
    let hive = Daemon::run(with_sockets(&inner, unnamed, [Some(unix.into()), Some(passed)])).await;
    assert_eq!(hive.url, format!("http://{}", tcp.local_addr().expect("an address")));
    hive.stop().await;

    let ((_one, first), (_other, second)) = (listening("127.0.0.1"), listening("127.0.0.1"));
    let (status, _) = Daemon::refuse(with_sockets(&inner, "http:http", [Some(first), Some(second)])).await;
    assert_eq!(status.code(), Some(78), "two of a kind");
    let (_tcp, passed) = listening("0.0.0.0");
    let (status, said) = Daemon::refuse(with_sockets(&inner, "http", [Some(passed), None])).await;
    assert_eq!(status.code(), Some(78), "beyond loopback without a token");
    assert!(said.contains("binding 0.0.0.0 without a token"), "{said}");
}

/// What the daemon told its manager, until a message has all of these lines.
async fn told(manager: &UnixDatagram, lines: &[&str]) -> String {
    let what = format!("{lines:?}");
    soon(&what, async {
        let mut buffer = [0; 4096];
        loop {
            let length = manager.recv(&mut buffer).await.expect("a message");
            let message = String::from_utf8_lossy(&buffer[..length]).into_owned();
            if lines.iter().all(|line| message.lines().any(|told| told.starts_with(line))) {
                return message;
            }
        }
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn the_manager_hears_of_the_start_of_each_reload_of_signs_of_life_and_of_the_stop() {
    let dir = folder();
    write_model(&dir.path().join("models"), "tiny");
    let path = dir.path().join("notify");
    let manager = UnixDatagram::bind(&path).expect("a socket");
    let variables =
        [("NOTIFY_SOCKET", path.to_str().expect("UTF-8")), ("WATCHDOG_USEC", "400000"), ("WATCHDOG_PID", "")];
    let hive = Daemon::start_with(dir.path(), &[], &variables).await;
    let ready = told(&manager, &["READY=1", "STATUS=Serving on http://127.0.0.1:"]).await;
    assert!(ready.contains("no model loaded"), "{ready}");
    told(&manager, &["WATCHDOG=1"]).await;
    told(&manager, &["WATCHDOG=1"]).await;
    let worker = hive.succeed(&json!({ "ModelLoad": { "id": "tiny" } })).await;
    let status = told(&manager, &["STATUS="]).await;
    assert!(status.contains("loaded: tiny; 1 worker(s)"), "{status}");
    if cfg!(target_os = "linux") {
        let environment = std::fs::read_to_string(format!("/proc/{}/environ", worker["pid"]));
        let environment = environment.expect("its environment");
        assert!(
            !environment.contains("NOTIFY_SOCKET") && !environment.contains("WATCHDOG"),
            "{environment:?}"
        );
    }
    hive.signal(Signal::HUP);
    told(&manager, &["RELOADING=1", "MONOTONIC_USEC="]).await;
    told(&manager, &["READY=1"]).await;
    hive.signal(Signal::TERM);
    told(&manager, &["STOPPING=1"]).await;
    assert!(hive.ended().await.success());
}
