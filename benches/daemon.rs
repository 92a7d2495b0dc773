//! A real daemon in a process of its own, and a minimal client for it.

use std::ffi::OsStr;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

/// The executable of both the daemon and the built-in worker.
pub(crate) const PROGRAM: &str = env!("CARGO_BIN_EXE_rbee-hive");

pub(crate) fn get(address: SocketAddr, path: &str) -> String {
    exchange(address, &format!("GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n"))
}

/// Sends a request with `Connection: close`, and reads the answer to its end.
pub(crate) fn exchange(address: SocketAddr, request: &str) -> String {
    let mut stream = TcpStream::connect(address).expect("the server accepts");
    stream.set_nodelay(true).expect("an open socket");
    stream.write_all(request.as_bytes()).expect("the server reads");
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).expect("an answer");
    String::from_utf8_lossy(&answer).into_owned()
}

/// A process that is killed when the value is dropped.
pub(crate) struct Killed(pub(crate) Child);

impl Drop for Killed {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A daemon that the bench starts.
pub(crate) struct Daemon {
    process: Killed,
    pub(crate) address: SocketAddr,
}

impl Daemon {
    /// Starts it with its data in `folder/hive`, and the models of `folder/models` and `folder/hub`. Nobody reads its
    /// log, whose filter is `log`.
    pub(crate) fn start(folder: &Path, log: &str, arguments: &[&OsStr]) -> Self {
        let child = Command::new(PROGRAM)
            .args(["serve", "--port", "0", "--llama-server", "", "--workers-lifeline", "true", "--data-dir"])
            .arg(folder.join("hive"))
            .arg("--models-dir")
            .arg(folder.join("models"))
            .args(arguments)
            .env("HF_HUB_CACHE", folder.join("hub"))
            .env("RUST_LOG", log)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn();
        let mut process = Killed(child.expect("the daemon"));
        let mut ready = String::new();
        let out = process.0.stdout.take().expect("a pipe");
        BufReader::new(out).read_line(&mut ready).expect("the ready line");
        let address = ready.split("http://").nth(1).and_then(|rest| rest.split_whitespace().next());
        let address = address.and_then(|address| address.trim_end_matches('/').parse().ok());
        Self { process, address: address.expect("an address") }
    }

    /// Runs an operation to its end; returns the seconds that it took, and its result.
    pub(crate) fn run(&self, operation: &Value) -> (f64, Value) {
        let body = operation.to_string();
        let begin = Instant::now();
        let accepted = exchange(
            self.address,
            &format!(
                "POST /v1/jobs HTTP/1.1\r\nHost: {}\r\nContent-Type: application/json\r\nConnection: close\r\n\
                 Content-Length: {}\r\n\r\n{body}",
                self.address,
                body.len()
            ),
        );
        let path = accepted.split(r#""sse_url":""#).nth(1).and_then(|rest| rest.split('"').next());
        let stream = get(self.address, path.unwrap_or_else(|| panic!("{operation}: {accepted}")));
        let took = begin.elapsed().as_secs_f64();
        assert!(stream.contains("data: [DONE]\n\n"), "{operation}: {stream}");
        let result = stream.lines().rev().find_map(|line| line.strip_prefix("data: {"));
        let result = result.expect("a result");
        (took, serde_json::from_str(&format!("{{{result}")).expect("JSON"))
    }

    pub(crate) fn spawn_worker(&self, model: &str, engine: &str) -> (f64, Value) {
        self.run(&json!({ "WorkerSpawn": { "model": model, "worker": engine } }))
    }

    pub(crate) fn stop_worker(&self, worker: &Value) {
        self.run(&json!({ "WorkerProcessDelete": { "pid": worker["pid"] } }));
    }

    pub(crate) fn pid(&self) -> u32 {
        self.process.0.id()
    }
}

/// Stops it in order, so that no worker of its is left, whatever engine the worker runs.
impl Drop for Daemon {
    fn drop(&mut self) {
        let request =
            format!("POST /v1/shutdown HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n", self.address);
        exchange(
            self.address,
            &format!("{request}Content-Type: application/json\r\nContent-Length: 2\r\n\r\n{{}}"),
        );
        let begin = Instant::now();
        while matches!(self.process.0.try_wait(), Ok(None)) && begin.elapsed() < Duration::from_secs(30) {
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}
