//! The messages between the coordinator of a transfer and its connections, writer and hasher.

use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use reqwest::Url;
use tokio::sync::{mpsc, oneshot, watch};

use crate::models::transfer::answer::FileAnswer;
use crate::models::transfer::journal::{Head, Stored};
use crate::models::transfer::neighbours::{Found, Holder};
use crate::models::transfer::remote::Verdict;
use crate::models::transfer::trouble::{FetchResult, Trouble};

/// What the coordinator is told.
#[derive(Debug)]
pub(crate) enum Event {
    /// A connection is idle: its last lease, if it had one, ended like this. The lease is sent when
    /// there is something to fetch, and dropped when the work ends.
    Idle { connection: usize, ended: FetchResult<()>, lease: oneshot::Sender<Lease> },
    /// A server began to answer a connection's request.
    Answered {
        connection: usize,
        host: String,
        /// Where the answer came from, after redirects.
        url: Url,
        /// Time from the request to the answer.
        took: Duration,
        answer: FileAnswer,
        /// What to receive of the body; `None` where another request is needed.
        span: oneshot::Sender<FetchResult<Option<Span>>>,
    },
    /// These other hives have the file.
    Found(Found),
    /// A connection is about to send bytes of a chunk, up to offset `end` of the file, to the writer.
    Sent { connection: usize, chunk: usize, end: u64 },
    /// The server has sent all of a file whose size it had not told: this is its size.
    EndOfFile { size: u64 },
    /// The writer has written and journalled bytes of a chunk: this is stored of it now.
    Written { chunk: usize, stored: Stored },
    /// The writer has dropped this many bytes of a chunk: another connection's are stored.
    Dropped { chunk: usize, bytes: u64 },
    /// The stored bytes of a chunk are not those that were received.
    Damaged { chunk: usize },
    /// The first bytes of the file were looked at.
    Vetted(Verdict),
    /// Every chunk is hashed: the file's SHA-256.
    Hashed(String),
    /// The writer or the hasher cannot go on.
    Failed(Trouble),
}

/// Where the coordinator is told.
#[derive(Clone, Debug)]
pub(crate) struct Events(pub(crate) mpsc::UnboundedSender<Event>);

impl Events {
    pub(crate) fn tell(&self, event: Event) {
        // The coordinator listens until all that hold this have ended.
        let _ = self.0.send(event);
    }
}

/// How a connection is to ask for its span.
#[derive(Debug)]
pub(crate) struct Lease {
    /// The bytes to ask for; `None` to ask for the whole file, which only its source is asked for.
    pub(crate) range: Option<Range<u64>>,
    /// The version of the file, for `If-Range`, once a server has named it.
    pub(crate) validator: Option<String>,
    /// The URL that redirects led to before.
    pub(crate) redirected: Option<Url>,
    /// The other hive to ask, instead of the file's source.
    pub(crate) holder: Option<Arc<Holder>>,
}

/// The part of a body that a connection is to receive.
#[derive(Debug)]
pub(crate) struct Span {
    pub(crate) chunk_bytes: u64,
    /// Offset in the file of the body's first byte.
    pub(crate) from: u64,
    /// How many bytes are stored of the chunk that holds `from`, and of those after it.
    pub(crate) stored: Vec<u32>,
    /// The offset in the file at which to stop. It moves to the front where another connection gets the
    /// rest. `u64::MAX` where the server has not told the file's size.
    pub(crate) end: watch::Receiver<u64>,
}

/// What the writer is to do.
#[derive(Debug)]
pub(crate) enum Write {
    /// Set the file's length to the head's size, and begin its journal if it can be resumed. Before any
    /// bytes.
    Open(Head),
    /// Write bytes of one chunk at an offset of the file.
    Bytes { offset: u64, pieces: Vec<Bytes> },
    /// Take a chunk for empty.
    Forget { chunk: usize },
}

/// A chunk for the hasher.
#[derive(Debug)]
pub(crate) struct CompleteChunk {
    pub(crate) chunk: usize,
    pub(crate) stored: Stored,
    /// Whether it is the last of the file.
    pub(crate) is_last: bool,
}
