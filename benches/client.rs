//! A minimal client: blocking, one socket, no pool and no runtime, so that the server is measured.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

/// The body of every POST, as in the contract's example.
const OPERATION: &str = r#"{"ModelList":{"hive_id":"localhost"}}"#;

/// A connection that is kept alive.
pub(crate) struct Connection {
    stream: TcpStream,
    address: SocketAddr,
    /// The bytes of the current answer that have arrived.
    answer: Vec<u8>,
}

impl Connection {
    pub(crate) fn open(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).expect("the server accepts");
        stream.set_nodelay(true).expect("an open socket");
        stream.set_read_timeout(Some(Duration::from_secs(60))).expect("an open socket");
        Self { stream, address, answer: Vec::with_capacity(8192) }
    }

    /// Submits an operation and gives the path of its stream.
    pub(crate) fn submit(&mut self) -> String {
        let request = format!(
            "POST /v1/jobs HTTP/1.1\r\nHost: {}\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{OPERATION}",
            self.address,
            OPERATION.len()
        );
        self.send(&request);
        let answer = self.complete_answer();
        assert!(answer.starts_with("HTTP/1.1 201"), "{answer}");
        let (_, rest) = answer.split_once(r#""sse_url":""#).expect("a path in the answer");
        rest.split('"').next().expect("the path ends").to_owned()
    }

    /// From POST to `[DONE]`; gives the answer of the stream.
    pub(crate) fn round_trip(&mut self) -> &str {
        let path = self.submit();
        self.get(&path);
        let answer = self.complete_answer();
        assert!(answer.contains("data: [DONE]\n\n"), "{answer}");
        answer
    }

    /// Subscribes to a stream that does not end, and returns when its first event has arrived.
    pub(crate) fn subscribe(&mut self, path: &str) {
        self.get(path);
        while !self.text().contains("\ndata: ") && !self.text().starts_with("data: ") {
            self.more();
        }
    }

    /// The socket alone, without the memory around it.
    pub(crate) fn into_socket(self) -> TcpStream {
        self.stream
    }

    fn get(&mut self, path: &str) {
        let request = format!("GET {path} HTTP/1.1\r\nHost: {}\r\n\r\n", self.address);
        self.send(&request);
    }

    fn send(&mut self, request: &str) {
        self.answer.clear();
        self.stream.write_all(request.as_bytes()).expect("the server reads");
    }

    /// Reads the answer to its end: the bytes that it declares, or its last chunk (RFC 9112, section 7.1). No
    /// data of these servers looks like a last chunk.
    fn complete_answer(&mut self) -> &str {
        loop {
            self.more();
            let text = self.text();
            let Some((head, body)) = text.split_once("\r\n\r\n") else { continue };
            let declared = head.lines().find_map(|line| line.strip_prefix("content-length: "));
            let ended = match declared {
                Some(length) => body.len() >= length.parse().expect("a length"),
                None => body.ends_with("\r\n0\r\n\r\n"),
            };
            if ended {
                return self.text();
            }
        }
    }

    fn more(&mut self) {
        let mut chunk = [0; 8192];
        let read = self.stream.read(&mut chunk).expect("the server answers within a minute");
        assert!(read > 0, "the server closed the connection");
        self.answer.extend_from_slice(&chunk[..read]);
    }

    fn text(&self) -> &str {
        // A read may end within a character; only ASCII is searched for.
        match std::str::from_utf8(&self.answer) {
            Ok(text) => text,
            Err(error) => std::str::from_utf8(&self.answer[..error.valid_up_to()]).expect("checked"),
        }
    }
}
