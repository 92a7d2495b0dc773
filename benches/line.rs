//! A server of one model, at the other end of a line that all connections share.

use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use sha2::{Digest, Sha256};

use super::gguf;

/// How many bytes are sent at once.
const PIECE: usize = 256 << 10;

/// The server. It ends with the bench.
pub(crate) struct Line {
    /// The source of the model, with its hash.
    pub(crate) source: String,
    pub(crate) size: usize,
    sent: Arc<AtomicU64>,
}

struct Shared {
    file: Vec<u8>,
    bytes_per_second: f64,
    /// When the line is free again.
    free_at: Mutex<Instant>,
    sent: Arc<AtomicU64>,
}

impl Line {
    /// Serves a model of about `size` bytes.
    pub(crate) fn serve(size: usize, bytes_per_second: f64) -> Self {
        let (file, sent) = (gguf::of_size(size), Arc::<AtomicU64>::default());
        let sha256: String = Sha256::digest(&file).iter().map(|byte| format!("{byte:02x}")).collect();
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = listener.local_addr().expect("an address");
        let size = file.len();
        let free_at = Mutex::new(Instant::now());
        let shared = Arc::new(Shared { file, bytes_per_second, free_at, sent: Arc::clone(&sent) });
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let (Ok(stream), shared) = (stream, Arc::clone(&shared)) else { continue };
                std::thread::spawn(move || shared.converse(stream));
            }
        });
        Self { source: format!("http://{address}/model.gguf#sha256={sha256}"), size, sent }
    }

    /// Bytes of the model that were sent since the last call.
    pub(crate) fn sent(&self) -> u64 {
        self.sent.swap(0, Ordering::Relaxed)
    }
}

impl Shared {
    fn converse(&self, stream: TcpStream) {
        let mut writer = stream.try_clone().expect("the same socket");
        let mut lines = BufReader::new(stream).lines();
        let mut range = None;
        while let Some(Ok(line)) = lines.next() {
            let asked = line.strip_prefix("range: bytes=").and_then(|range| range.split_once('-'));
            if let Some((first, last)) = asked {
                range = first.parse::<usize>().ok().zip(last.parse::<usize>().ok());
            }
            if !line.is_empty() {
                continue;
            }
            let size = self.file.len();
            let (first, end) = range.take().map_or((0, size), |(first, last)| (first, size.min(last + 1)));
            let head = format!(
                "HTTP/1.1 206 Partial Content\r\nContent-Range: bytes {first}-{}/{size}\r\nETag: \"one\"\r\n\
                 Content-Length: {}\r\n\r\n",
                end - 1,
                end - first
            );
            if writer.write_all(head.as_bytes()).is_err() {
                return;
            }
            for piece in self.file[first..end].chunks(PIECE) {
                self.wait_for(piece.len());
                if writer.write_all(piece).is_err() {
                    return;
                }
                self.sent.fetch_add(piece.len() as u64, Ordering::Relaxed);
            }
        }
    }

    /// Waits until the line has carried so many bytes more.
    fn wait_for(&self, bytes: usize) {
        let until = {
            let mut free_at = self.free_at.lock().expect("nobody panicked");
            let took = Duration::from_secs_f64(bytes as f64 / self.bytes_per_second);
            *free_at = (*free_at).max(Instant::now()) + took;
            *free_at
        };
        std::thread::sleep(until.saturating_duration_since(Instant::now()));
    }
}
