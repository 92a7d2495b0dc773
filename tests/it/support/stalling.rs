//! A server that sends half of every model and then stops.

use std::net::SocketAddr;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use super::{soon, write_model};

/// Answers every request with the first half of a model and keeps the connection open.
pub(crate) struct StallingServer {
    address: SocketAddr,
    open: watch::Receiver<usize>,
    task: JoinHandle<()>,
}

impl StallingServer {
    pub(crate) async fn start() -> Self {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let model = std::fs::read(write_model(dir.path(), "half")).expect("a model");
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.expect("a free port");
        let address = listener.local_addr().expect("an address");
        let (count, open) = watch::channel(0);
        let task = rbee_hive::spawn::detached(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (count, model) = (count.clone(), model.clone());
                rbee_hive::spawn::detached(async move {
                    count.send_modify(|open| *open += 1);
                    // Clients are expected to close the connection.
                    let _closed = stall(stream, &model).await;
                    count.send_modify(|open| *open -= 1);
                });
            }
        });
        Self { address, open, task }
    }

    /// The URL of a model of that name. Every name exists.
    pub(crate) fn model(&self, stem: &str) -> String {
        format!("http://{}/{stem}.gguf", self.address)
    }

    /// Waits until `wanted` connections are open.
    pub(crate) async fn connections(&self, wanted: usize) {
        let mut open = self.open.clone();
        soon("connections to open or close", open.wait_for(|open| *open == wanted))
            .await
            .expect("the server is there");
    }
}

impl Drop for StallingServer {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn stall(mut stream: TcpStream, model: &[u8]) -> std::io::Result<()> {
    let mut request = Vec::new();
    while !request.ends_with(b"\r\n\r\n") {
        request.push(stream.read_u8().await?);
    }
    let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", model.len());
    stream.write_all(head.as_bytes()).await?;
    if request.starts_with(b"HEAD ") {
        return Ok(());
    }
    stream.write_all(&model[..model.len() / 2]).await?;
    stream.read_u8().await.map(drop)
}
