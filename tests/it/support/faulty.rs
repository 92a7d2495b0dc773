//! A file server over real sockets that injects faults on request and counts the bytes that it sends.
//!
//! It writes HTTP by hand, because a correct HTTP library cannot be made to send wrong answers.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, SystemTime};

use parking_lot::Mutex;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

/// A fault that the server injects into a download.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// The body ends before its Content-Length.
    Truncated,
    /// The Content-Length goes beyond the end of the file, where the connection closes.
    LongLength,
    /// The Content-Length is shorter than the range.
    ShortLength,
    /// 200 and the whole file in answer to a range request.
    IgnoresRange,
    /// The Content-Range names other bytes than the request.
    WrongRange,
    /// 206 of another version: other bytes under another `ETag`, whatever `If-Range` says.
    ChangedEtag,
    /// The file changes during the download and stays changed.
    ChangesOnce,
    /// 416 for every range.
    Unsatisfiable,
    /// A web page with 200.
    Html,
    /// 429 with Retry-After in seconds.
    Busy429,
    /// 503 with Retry-After as a date.
    Busy503Date,
    /// 503 with a Retry-After of a year.
    AbsurdRetryAfter,
    /// The server reads the request and sends nothing.
    Hangs,
    /// One byte a second.
    Drip,
    /// The connection is reset in the middle of the body.
    Reset,
    /// A redirect to itself.
    RedirectLoop,
    /// A redirect to another port of this machine.
    RedirectPort,
    /// A redirect to a signed URL that expires after some requests.
    ExpiringRedirect,
    /// A Content-Encoding that the client did not accept.
    Gzip,
    /// An empty file.
    Empty,
    /// The connection closes in the middle of the response's head.
    ClosedEarly,
    /// No `ETag`, no `Last-Modified`, and bodies that end early.
    NoValidator,
    /// One byte of the body is wrong.
    FlippedByte,
}

impl Fault {
    pub(crate) const ALL: [Self; 23] = [
        Self::Truncated,
        Self::LongLength,
        Self::ShortLength,
        Self::IgnoresRange,
        Self::WrongRange,
        Self::ChangedEtag,
        Self::ChangesOnce,
        Self::Unsatisfiable,
        Self::Html,
        Self::Busy429,
        Self::Busy503Date,
        Self::AbsurdRetryAfter,
        Self::Hangs,
        Self::Drip,
        Self::Reset,
        Self::RedirectLoop,
        Self::RedirectPort,
        Self::ExpiringRedirect,
        Self::Gzip,
        Self::Empty,
        Self::ClosedEarly,
        Self::NoValidator,
        Self::FlippedByte,
    ];
}

/// The number of requests for which a signed URL of [`Fault::ExpiringRedirect`] is valid.
const SIGNATURE_USES: usize = 3;

/// The requests for a file at which its fault occurs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum When {
    Never,
    /// At every request.
    Always,
    /// `At(first, count)`: at `count` requests, starting with the request of number `first`, from 0.
    At(usize, usize),
}

/// A file to serve.
#[derive(Clone)]
pub(crate) struct Served {
    pub(crate) bytes: Arc<Vec<u8>>,
    pub(crate) fault: Fault,
    pub(crate) when: When,
    /// Bytes of the file, over all requests, that are sent before `pace` applies.
    pub(crate) burst: u64,
    /// Bytes a second on each connection; 0 is no limit.
    pub(crate) pace: u64,
    /// Determines, with the number of the request, where in a body the fault occurs.
    pub(crate) seed: u64,
}

impl Served {
    /// A file served without faults and at full speed.
    pub(crate) fn correct(bytes: Vec<u8>) -> Self {
        let bytes = Arc::new(bytes);
        Self { bytes, fault: Fault::Truncated, when: When::Never, burst: 0, pace: 0, seed: 0 }
    }
}

/// A running server. Dropping it closes all connections.
pub(crate) struct FaultServer {
    pub(crate) address: SocketAddr,
    state: Arc<State>,
    accepting: [JoinHandle<()>; 2],
    stop: CancellationToken,
}

/// A served file and the requests for it.
struct File {
    served: Served,
    requests: AtomicUsize,
    /// Bytes of its bodies sent so far.
    sent: AtomicU64,
    /// How often each signed URL was used.
    signatures: Mutex<HashMap<String, usize>>,
}

struct State {
    files: Mutex<HashMap<String, Arc<File>>>,
    sent: AtomicU64,
    /// Bodies pause while `sent` is at least this.
    limit: watch::Sender<u64>,
    /// Requests that carried a token: there must be none.
    tokens: AtomicUsize,
    /// The address of a second server on this machine, which has no files.
    elsewhere: SocketAddr,
    /// Requests to the second server.
    redirected: AtomicUsize,
}

impl Drop for FaultServer {
    fn drop(&mut self) {
        self.accepting.iter().for_each(JoinHandle::abort);
        self.stop.cancel();
    }
}

/// A socket on a free port of loopback.
fn socket() -> (TcpSocket, SocketAddr) {
    let socket = TcpSocket::new_v4().expect("a socket");
    // Bytes in a send buffer count as sent although they may never arrive: keep the buffer small.
    socket.set_send_buffer_size(16 << 10).expect("a small buffer");
    socket.bind("127.0.0.1:0".parse().expect("an address")).expect("a free port");
    let address = socket.local_addr().expect("an address");
    (socket, address)
}

impl FaultServer {
    pub(crate) async fn start() -> Self {
        let ((socket, address), (other, elsewhere)) = (socket(), socket());
        let stop = CancellationToken::new();
        let state = Arc::new(State {
            files: Mutex::default(),
            sent: AtomicU64::new(0),
            limit: watch::Sender::new(u64::MAX),
            tokens: AtomicUsize::new(0),
            elsewhere,
            redirected: AtomicUsize::new(0),
        });
        let serve = |socket: TcpSocket, address: SocketAddr| {
            let listener = socket.listen(1024).expect("a listener");
            let (state, stop) = (Arc::clone(&state), stop.clone());
            rbee_hive::spawn::detached(async move {
                while let Ok((stream, _)) = listener.accept().await {
                    let (state, stop) = (Arc::clone(&state), stop.clone());
                    rbee_hive::spawn::detached(async move {
                        tokio::select! {
                            () = converse(stream, address, &state) => {}
                            () = stop.cancelled() => {}
                        }
                    });
                }
            })
        };
        let accepting = [serve(socket, address), serve(other, elsewhere)];
        Self { address, state, accepting, stop }
    }

    /// Serves a file at `/name`, in place of the one before. Returns its URL.
    pub(crate) fn serve(&self, name: &str, served: Served) -> String {
        let (requests, sent) = (AtomicUsize::new(0), AtomicU64::new(0));
        let file = File { served, requests, sent, signatures: Mutex::default() };
        self.state.files.lock().insert(name.to_owned(), Arc::new(file));
        format!("http://{}/{name}", self.address)
    }

    /// Stops all bodies once this many more bytes were sent in all, up to one piece for each
    /// connection beyond that. The connections stay open.
    pub(crate) fn hold_after(&self, bytes: u64) {
        self.state.limit.send_replace(self.sent() + bytes);
    }

    /// Lets the bodies that [`Self::hold_after`] stopped go on.
    pub(crate) fn release(&self) {
        self.state.limit.send_replace(u64::MAX);
    }

    /// Bytes of bodies sent so far.
    pub(crate) fn sent(&self) -> u64 {
        self.state.sent.load(Ordering::SeqCst)
    }

    /// Requests that carried a token.
    pub(crate) fn tokens(&self) -> usize {
        self.state.tokens.load(Ordering::SeqCst)
    }

    /// Requests to the port to which [`Fault::RedirectPort`] redirects.
    pub(crate) fn redirected(&self) -> usize {
        self.state.redirected.load(Ordering::SeqCst)
    }
}

/// The parts of a request that matter here.
struct Request {
    path: String,
    range: Option<(u64, u64)>,
    if_range: Option<String>,
}

async fn converse(mut stream: TcpStream, address: SocketAddr, state: &State) {
    let is_elsewhere = state.elsewhere == address;
    while let Some(request) = read_request(&mut stream, state).await {
        if is_elsewhere {
            state.redirected.fetch_add(1, Ordering::SeqCst);
            let _ = send(&mut stream, "404 Not Found", "Content-Length: 0\r\n", b"").await;
            return;
        }
        if !answer(&mut stream, address, state, &request).await {
            return;
        }
    }
}

async fn read_request(stream: &mut TcpStream, state: &State) -> Option<Request> {
    let mut head = Vec::new();
    let mut buffer = [0; 1024];
    while !head.ends_with(b"\r\n\r\n") {
        let read = stream.read(&mut buffer).await.ok().filter(|&read| read > 0)?;
        head.extend_from_slice(&buffer[..read]);
    }
    let head = String::from_utf8_lossy(&head).into_owned();
    let header = |name: &str| {
        head.lines().find_map(|line| {
            let (key, value) = line.split_once(':')?;
            key.eq_ignore_ascii_case(name).then(|| value.trim().to_owned())
        })
    };
    if header("authorization").is_some() {
        state.tokens.fetch_add(1, Ordering::SeqCst);
    }
    let range = header("range").and_then(|range| {
        let (first, last) = range.strip_prefix("bytes=")?.split_once('-')?;
        Some((first.parse().ok()?, last.parse().unwrap_or(u64::MAX)))
    });
    let path = head.split(' ').nth(1)?.trim_start_matches('/').to_owned();
    Some(Request { path, range, if_range: header("if-range") })
}

/// Sends the response. Returns whether the connection can be used again.
async fn answer(stream: &mut TcpStream, address: SocketAddr, state: &State, request: &Request) -> bool {
    let name = request.path.split('?').next().unwrap_or_default();
    let Some(file) = state.files.lock().get(name).cloned() else {
        return send(stream, "404 Not Found", "Content-Length: 0\r\n", b"").await;
    };
    let served = &file.served;
    let number = file.requests.fetch_add(1, Ordering::SeqCst);
    let is_faulty = match served.when {
        When::Never => false,
        When::Always => true,
        When::At(first, times) => (first..first + times).contains(&number),
    };
    let fault = is_faulty.then_some(served.fault);
    let position = Position { seed: served.seed, number };
    let has_changed =
        matches!((served.fault, served.when), (Fault::ChangesOnce, When::At(first, _)) if number >= first);
    let is_other = fault == Some(Fault::ChangedEtag) || has_changed;
    let mut bytes = Arc::clone(&served.bytes);
    let mut etag = "\"one\"".to_owned();
    if is_other {
        // The other version has the same length and is valid too.
        let other = Arc::make_mut(&mut bytes);
        if let Some(last) = other.last_mut() {
            *last ^= 0xff;
        }
        etag = if has_changed { "\"two\"".to_owned() } else { format!("\"other-{number}\"") };
    }
    let size = bytes.len() as u64;
    match fault {
        Some(Fault::Html) => {
            return send(
                stream,
                "200 OK",
                "Content-Type: text/html\r\nContent-Length: 13\r\n",
                b"<html>private",
            )
            .await;
        }
        Some(Fault::Busy429) => {
            return send(
                stream,
                "429 Too Many Requests",
                "Retry-After: 1\r\nContent-Length: 7\r\n",
                b"private",
            )
            .await;
        }
        Some(Fault::Busy503Date) => {
            let at = httpdate::fmt_http_date(SystemTime::now() + Duration::from_secs(2));
            let headers = format!("Retry-After: {at}\r\nContent-Length: 7\r\n");
            return send(stream, "503 Service Unavailable", &headers, b"private").await;
        }
        Some(Fault::AbsurdRetryAfter) => {
            let headers = "Retry-After: 31536000\r\nContent-Length: 0\r\n";
            return send(stream, "503 Service Unavailable", headers, b"").await;
        }
        Some(Fault::Unsatisfiable) if request.range.is_some() => {
            let headers = format!("Content-Range: bytes */{size}\r\nContent-Length: 0\r\n");
            return send(stream, "416 Range Not Satisfiable", &headers, b"").await;
        }
        Some(Fault::Hangs) => return std::future::pending().await,
        Some(Fault::ClosedEarly) => {
            let _ = stream.write_all(b"HTTP/1.1 206 Part").await;
            return false;
        }
        Some(Fault::RedirectLoop) => {
            let headers = format!("Location: /{}\r\nContent-Length: 0\r\n", request.path);
            return send(stream, "302 Found", &headers, b"").await;
        }
        Some(Fault::RedirectPort) => {
            let headers = format!("Location: http://{}/x.gguf\r\nContent-Length: 0\r\n", state.elsewhere);
            return send(stream, "302 Found", &headers, b"").await;
        }
        _ => {}
    }
    if served.fault == Fault::ExpiringRedirect && served.when != When::Never {
        // The signature is the number of the request that it answers.
        let Some((_, signed)) = request.path.split_once('?') else {
            let headers = format!("Location: http://{address}/{name}?{number}\r\nContent-Length: 0\r\n");
            return send(stream, "302 Found", &headers, b"").await;
        };
        let uses = {
            let mut signatures = file.signatures.lock();
            let uses = signatures.entry(signed.to_owned()).or_default();
            *uses += 1;
            *uses
        };
        if uses > SIGNATURE_USES {
            return send(stream, "403 Forbidden", "Content-Length: 0\r\n", b"").await;
        }
    }
    let has_validator = !(served.fault == Fault::NoValidator && served.when != When::Never);
    let is_honoured = !matches!(fault, Some(Fault::IgnoresRange | Fault::Unsatisfiable | Fault::Empty))
        && (fault == Some(Fault::ChangedEtag)
            || request.if_range.as_ref().is_none_or(|wanted| *wanted == etag));
    let range = request.range.filter(|_| is_honoured).filter(|(first, _)| *first < size);
    let (first, end) = match (range, fault) {
        (_, Some(Fault::Empty)) => (0, 0),
        (Some((first, last)), _) => (first, last.saturating_add(1).min(size)),
        (None, _) => (0, size),
    };
    let body = &bytes[usize::try_from(first).unwrap_or(0)..usize::try_from(end).unwrap_or(0)];
    let mut length = body.len() as u64;
    let mut headers = String::new();
    if has_validator {
        headers += &format!("ETag: {etag}\r\n");
    }
    let mut cut = body.len();
    let mut flipped = None;
    match fault {
        Some(Fault::Truncated | Fault::Reset | Fault::NoValidator) => cut = position.within(body.len()),
        Some(Fault::LongLength) => length += 1 + position.within(1000) as u64,
        Some(Fault::ShortLength) => {
            length = position.within(body.len()) as u64;
            cut = usize::try_from(length).unwrap_or(0);
        }
        Some(Fault::Gzip) => headers += "Content-Encoding: gzip\r\n",
        Some(Fault::FlippedByte) if !body.is_empty() => flipped = Some(position.within(body.len())),
        _ => {}
    }
    headers += &format!("Content-Length: {length}\r\n");
    let status = if range.is_some() {
        let shift = u64::from(fault == Some(Fault::WrongRange));
        headers +=
            &format!("Content-Range: bytes {}-{}/{}\r\n", first + shift, end - 1 + shift, size + shift);
        "206 Partial Content"
    } else {
        "200 OK"
    };
    let head = format!("HTTP/1.1 {status}\r\n{headers}\r\n");
    if stream.write_all(head.as_bytes()).await.is_err() {
        return false;
    }
    let mut limit = state.limit.subscribe();
    if fault == Some(Fault::Drip) {
        for byte in body {
            if stream.write_all(&[*byte]).await.is_err() {
                return false;
            }
            state.sent.fetch_add(1, Ordering::SeqCst);
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
    }
    let mut at = 0;
    for piece in body[..cut].chunks(16 << 10) {
        let mut piece = piece.to_vec();
        if let Some(slot) = flipped.and_then(|byte| piece.get_mut(byte.checked_sub(at)?)) {
            *slot ^= 1;
        }
        at += piece.len();
        let may_go_on = limit.wait_for(|limit| state.sent.load(Ordering::SeqCst) < *limit).await.is_ok();
        if !may_go_on || stream.write_all(&piece).await.is_err() {
            return false;
        }
        let length = piece.len() as u64;
        state.sent.fetch_add(length, Ordering::SeqCst);
        let sent = file.sent.fetch_add(length, Ordering::SeqCst) + length;
        if served.pace > 0 && sent > served.burst {
            tokio::time::sleep(Duration::from_secs_f64(length as f64 / served.pace as f64)).await;
        }
    }
    if fault == Some(Fault::Reset) {
        // Closing a socket with a linger time of 0 sends RST.
        let _ = stream.set_zero_linger();
        return false;
    }
    cut == body.len() && length == body.len() as u64
}

/// Where in a body a fault occurs.
struct Position {
    seed: u64,
    number: usize,
}

impl Position {
    /// A number below `most` that depends on the seed and the request only.
    fn within(&self, most: usize) -> usize {
        // splitmix64
        let mut mixed = self.seed.wrapping_add((self.number as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15));
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        usize::try_from((mixed ^ (mixed >> 31)) % most.max(1) as u64).unwrap_or(0)
    }
}

async fn send(stream: &mut TcpStream, status: &str, headers: &str, body: &[u8]) -> bool {
    let head = format!("HTTP/1.1 {status}\r\n{headers}\r\n");
    stream.write_all(head.as_bytes()).await.is_ok() && stream.write_all(body).await.is_ok()
}
