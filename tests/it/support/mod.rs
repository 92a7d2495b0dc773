//! Support for the tests of the running hive: the daemon, in this process or as a real one, and servers
//! and browsers to test it with.

mod browser;
pub(crate) mod builds;
mod clock;
mod conversing;
mod documents;
mod faulty;
pub(crate) mod github;
#[cfg(target_os = "linux")]
mod gpus;
mod hive;
pub(crate) mod hub;
pub(crate) mod installed;
#[cfg(target_os = "linux")]
mod machines;
mod models;
mod nats;
#[cfg(target_os = "linux")]
mod network;
mod problem;
mod process;
mod programs;
mod relay;
pub(crate) mod rows;
pub(crate) mod schema;
mod scripted;
mod small_disk;
mod sse;
mod stalling;
mod tls;

pub(crate) use browser::Browser;
pub(crate) use clock::Clock;
pub(crate) use conversing::{converse_for, said};
pub(crate) use documents::{document, documents, section};
pub(crate) use faulty::{Fault, FaultServer, Served, When};
#[cfg(target_os = "linux")]
pub(crate) use gpus::Gpus;
pub(crate) use hive::{TestHive, quick};
#[cfg(target_os = "linux")]
pub(crate) use machines::{Heard, Machine, Machines, Net};
pub(crate) use models::{
    IMAGE_TOKENS, projector, unknown_model, write_bert, write_embedding_model, write_endless_model,
    write_foreign_model, write_model, write_model_that_says, write_projector,
};
pub(crate) use nats::NatsServer;
pub(crate) use problem::problem;
pub(crate) use process::{Daemon, folder, no_process_mentions, program, serve};
pub(crate) use programs::{
    command, llama_server, llama_server_script, nats_server, python_with, skipped, wrapped,
};
pub(crate) use relay::Relay;
pub(crate) use scripted::Scripted;
pub(crate) use small_disk::SmallDisk;
pub(crate) use sse::{Typed, data_lines, read_all, read_until, typed};
pub(crate) use stalling::StallingServer;
pub(crate) use tls::tls_acceptor;

use std::future::Future;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::LazyLock;
use std::time::Duration;

use serde_json::Value;

/// How long a test waits before it fails as hung. Generous, so that a slow or busy machine does not
/// fail it.
pub(crate) const PATIENCE: Duration = Duration::from_secs(180);

/// Waits for `future`, and fails if that takes longer than [`PATIENCE`].
pub(crate) async fn soon<F: Future>(what: &str, future: F) -> F::Output {
    match tokio::time::timeout(PATIENCE, future).await {
        Ok(output) => output,
        Err(_) => panic!("waited {PATIENCE:?} in vain for {what}"),
    }
}

/// Calls `look` repeatedly until it finds something.
pub(crate) async fn until<T, F: Future<Output = Option<T>>>(what: &str, mut look: impl FnMut() -> F) -> T {
    soon(what, async {
        loop {
            if let Some(found) = look().await {
                return found;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
    .await
}

/// Something where a chunk of a file is stored whose journal this is: after the line that says which file it is, a
/// journal has a record for each chunk.
pub(crate) fn has_chunk(journal: &Path) -> Option<()> {
    let journal = std::fs::read(journal).ok()?;
    let line = journal.iter().position(|byte| *byte == b'\n')?;
    (journal.len() > line + 16).then_some(())
}

/// The files and links beneath a folder; none where it is missing.
pub(crate) fn files_beneath(folder: &Path) -> Vec<PathBuf> {
    walkdir::WalkDir::new(folder)
        .into_iter()
        .filter_map(Result::ok)
        .filter(|entry| !entry.file_type().is_dir())
        .map(walkdir::DirEntry::into_path)
        .collect()
}

/// One check of the report of `HiveCheck`.
pub(crate) fn check_of<'a>(report: &'a Value, name: &str) -> &'a Value {
    let mut checks = report["checks"].as_array().expect("checks").iter();
    checks.find(|check| check["name"] == name).unwrap_or_else(|| panic!("no check of the {name}: {report}"))
}

/// A JSON object with the fields of another one too, which replace its own.
pub(crate) fn merged(mut base: Value, extra: Value) -> Value {
    let Value::Object(extra) = extra else { panic!("not an object: {extra}") };
    base.as_object_mut().expect("an object").extend(extra);
    base
}

/// A client with a new connection for each request, so that no test depends on a pool of connections.
pub(crate) fn client() -> reqwest::Client {
    client_that_sends(reqwest::header::HeaderMap::new())
}

/// The same, for the holder of a token.
pub(crate) fn client_with(token: &str) -> reqwest::Client {
    let bearer = format!("Bearer {token}").parse().expect("a token");
    client_that_sends([(reqwest::header::AUTHORIZATION, bearer)].into_iter().collect())
}

/// The same, for a hive that serves on that Unix socket, whatever host a URL names.
#[cfg(target_os = "linux")]
pub(crate) fn client_at(socket: &Path) -> reqwest::Client {
    let client = client_builder(reqwest::header::HeaderMap::new()).unix_socket(socket);
    client.build().expect("a client")
}

fn client_that_sends(headers: reqwest::header::HeaderMap) -> reqwest::Client {
    client_builder(headers).build().expect("a client")
}

fn client_builder(headers: reqwest::header::HeaderMap) -> reqwest::ClientBuilder {
    // Only the first one takes effect; a hive in this process may have installed it.
    let _installed = rustls::crypto::ring::default_provider().install_default();
    let client = reqwest::Client::builder().pool_max_idle_per_host(0).no_proxy().default_headers(headers);
    // Loopback needs no certificates, and loading the system's is slow.
    client.tls_certs_only([])
}

/// An address of this machine at which nothing listens while this process runs: a socket holds the port
/// without listening.
pub(crate) fn nowhere() -> String {
    static TAKEN: LazyLock<(tokio::net::TcpSocket, SocketAddr)> = LazyLock::new(|| {
        let socket = tokio::net::TcpSocket::new_v4().expect("a socket");
        socket.bind("127.0.0.1:0".parse().expect("an address")).expect("a free port");
        let address = socket.local_addr().expect("an address");
        (socket, address)
    });
    format!("http://{}", TAKEN.1)
}

/// The built executable.
pub(crate) fn executable() -> PathBuf {
    PathBuf::from(env!("CARGO_BIN_EXE_rbee-hive"))
}

/// Whether a process of that id exists (a zombie does).
pub(crate) fn process_exists(pid: u32) -> bool {
    let pid = rustix::process::Pid::from_raw(i32::try_from(pid).expect("a process id")).expect("not 0");
    rustix::process::test_kill_process(pid).is_ok()
}

/// Whether a process of that id runs. Unlike [`process_exists`], this does not count a zombie: an orphan
/// remains one if the machine's init does not reap it.
pub(crate) fn process_runs(pid: u32) -> bool {
    #[cfg(target_os = "linux")]
    {
        let pid = i32::try_from(pid).expect("a process id");
        let state = procfs::process::Process::new(pid).and_then(|process| process.stat()?.state());
        state.is_ok_and(|state| {
            !matches!(state, procfs::process::ProcState::Zombie | procfs::process::ProcState::Dead)
        })
    }
    #[cfg(not(target_os = "linux"))]
    process_exists(pid)
}

/// How often a randomised test is repeated: `default` times, or as often as the environment variable
/// `RBEE_HIVE_TEST_ROUNDS` says.
pub(crate) fn rounds(default: usize) -> usize {
    match std::env::var("RBEE_HIVE_TEST_ROUNDS") {
        Ok(rounds) => rounds.parse().expect("RBEE_HIVE_TEST_ROUNDS is a number"),
        Err(_) => default,
    }
}

/// `few`, or `full` if `RBEE_HIVE_TEST_ROUNDS` asks for 20 rounds or more.
pub(crate) fn as_time_allows(few: usize, full: usize) -> usize {
    if rounds(0) >= 20 { full } else { few }
}
