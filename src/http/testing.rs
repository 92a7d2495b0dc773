//! A router on a real socket, and a client that writes raw bytes.

use std::net::SocketAddr;
use std::time::Duration;

use axum::Router;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::config::Timers;
use crate::http::server;
use crate::spawn;

/// How long a test waits for something before it fails.
const PATIENCE: Duration = Duration::from_secs(20);

/// A test's own server.
pub(crate) struct Served {
    pub(crate) address: SocketAddr,
    pub(crate) shutdown: CancellationToken,
    task: JoinHandle<()>,
}

impl Served {
    /// Serves `app` on a free port of loopback.
    pub(crate) async fn start(app: Router, timers: Timers) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let shutdown = CancellationToken::new();
        let stop = shutdown.clone();
        let task = spawn::detached(server::serve(listener, app, timers, stop));
        Self { address, shutdown, task }
    }

    /// Stops it and waits until every connection is closed.
    pub(crate) async fn stop(self) {
        self.shutdown.cancel();
        soon(self.task).await.unwrap();
    }

    /// Connects and writes `text`.
    pub(crate) async fn send(&self, text: &str) -> TcpStream {
        let mut stream = TcpStream::connect(self.address).await.unwrap();
        stream.write_all(text.as_bytes()).await.unwrap();
        stream
    }

    /// Sends one request and returns the whole answer. `head` is a request line and headers, each
    /// ended by a newline; `@HERE` in it becomes the server's address.
    pub(crate) async fn ask(&self, head: &str, body: &str) -> String {
        let head = head.replace("@HERE", &self.address.to_string()).replace('\n', "\r\n");
        let mut stream = self.send(&format!("{head}Connection: close\r\n\r\n{body}")).await;
        let mut answer = Vec::new();
        soon(stream.read_to_end(&mut answer)).await.unwrap();
        String::from_utf8(answer).unwrap()
    }
}

/// Waits for `future`, and fails the test if that takes too long.
pub(crate) async fn soon<F: Future>(future: F) -> F::Output {
    tokio::time::timeout(PATIENCE, future).await.expect("the future is ready in time")
}

/// The status of a raw answer.
pub(crate) fn status(answer: &str) -> u16 {
    answer.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or_else(|| panic!("{answer}"))
}

/// Reads until the bytes read contain `text`.
pub(crate) async fn read_until(stream: &mut TcpStream, text: &str) -> String {
    let mut read = Vec::new();
    let mut buffer = [0; 4096];
    loop {
        let count = soon(stream.read(&mut buffer)).await.unwrap();
        read.extend_from_slice(&buffer[..count]);
        let so_far = String::from_utf8_lossy(&read);
        if so_far.contains(text) {
            return so_far.into_owned();
        }
        assert_ne!(count, 0, "ended before '{text}': {so_far}");
    }
}
