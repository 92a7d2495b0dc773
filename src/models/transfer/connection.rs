//! One connection of a transfer: takes a span, asks for it, and writes what comes.

use std::mem;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::Bytes;
use reqwest::StatusCode;
use reqwest::header::{
    CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, ETAG, HeaderMap, HeaderValue, IF_RANGE,
    LAST_MODIFIED, RANGE,
};
use tokio::time::{Instant, sleep_until, timeout_at};

use crate::error::{Code, Failure};
use crate::models::transfer::budget::{Attempt, Next};
use crate::models::transfer::fetch::{FetchRequest, FetchResponse};
use crate::models::transfer::trouble::{FetchResult, Trouble, TroubleKind, download_failed};
use crate::models::transfer::{Round, disk_trouble, passing};
use crate::models::units;
use crate::narration::Level;
use crate::spawn;

/// So many bytes of a chunk are written together, or what is left of it.
const WRITTEN_TOGETHER: usize = 512 << 10;

/// A body that is being read.
#[derive(Debug)]
struct Body {
    hop: FetchResponse,
    /// Offset in the file of the next byte.
    at: u64,
    /// Where the body ends, if its server said so.
    end: Option<u64>,
    /// Bytes of one chunk that have not been written yet.
    pending: Vec<Bytes>,
    /// How many those are.
    pending_bytes: usize,
    /// The position, in the queue to the disk, of what was given last.
    given: u64,
}

/// Watches that a connection delivers enough.
#[derive(Debug)]
struct Window {
    since: Instant,
    bytes: u64,
}

/// What a response says about the file that it is of.
#[derive(Debug, PartialEq, Eq)]
struct Described {
    /// The bytes that the body has.
    range: Range<u64>,
    size: Option<u64>,
    validator: Option<String>,
}

impl Round {
    /// Fetches spans until the file is whole and hashed, or the work is to end.
    pub(crate) async fn connection(self: Arc<Self>, me: usize) -> FetchResult<()> {
        let mut bell = self.bell.subscribe();
        loop {
            bell.mark_unchanged();
            let span = {
                let mut board = self.board.lock();
                if board.is_stopped || board.is_hashed() || self.stop.is_cancelled() {
                    return Ok(());
                }
                // The first connection finds out which file this is.
                let may_join = me == 0
                    || (me < self.joined.load(Ordering::Relaxed) && self.is_open.load(Ordering::Acquire));
                if may_join { board.claim(me) } else { None }
            };
            let Some(span) = span else {
                tokio::select! {
                    _ = bell.changed() => {}
                    () = self.stop.cancelled() => {}
                }
                continue;
            };
            let (attempt, not_before) = self.transfer.budget.attempt();
            tokio::select! {
                () = sleep_until(not_before) => {}
                () = self.stop.cancelled() => continue,
            }
            self.live.fetch_add(1, Ordering::Relaxed);
            let fetched = self.fetch(me, span).await;
            self.live.fetch_sub(1, Ordering::Relaxed);
            self.board.lock().release(me);
            if let Err(trouble) = fetched {
                self.after(attempt, trouble)?;
            }
            self.ring();
        }
    }

    /// Whether to go on after a failure.
    fn after(&self, attempt: Attempt, trouble: Trouble) -> FetchResult<()> {
        let Trouble { mut failure, kind } = trouble;
        if matches!(kind, TroubleKind::Fatal | TroubleKind::Changed | TroubleKind::Restart) {
            return Err(Trouble { failure, kind });
        }
        let transfer = &self.transfer;
        match transfer.budget.failed(attempt, kind) {
            Next::Exhausted => {
                failure.message += &format!(" (given up after {} retries)", transfer.budget.retries());
                return Err(Trouble { failure, kind: TroubleKind::Fatal });
            }
            Next::Again => {}
            Next::Retry { failure: number, wait } => {
                let what = &failure.message;
                let of = transfer.budget.retries();
                let (action, text) = match kind {
                    TroubleKind::Stalled => (
                        "model_download_stalled",
                        format!("{what}: replacing the connection ({number} of {of})"),
                    ),
                    TroubleKind::Later(asked) if asked > wait => (
                        "model_download_retry",
                        format!(
                            "{what} and asked to be left alone for {}; trying again in {} ({number} of {of})",
                            units::duration(asked),
                            units::duration(wait)
                        ),
                    ),
                    _ => (
                        "model_download_retry",
                        format!("{what}: trying again in {} ({number} of {of})", units::duration(wait)),
                    ),
                };
                transfer.say(Level::Warn, action, text);
            }
        }
        // Without a journal nothing tells that a second answer is of the same file.
        if self.journal.lock().is_none() && self.board.lock().done() > 0 {
            return Err(Trouble { failure, kind: TroubleKind::Restart });
        }
        Ok(())
    }

    /// Asks for a span and receives it.
    async fn fetch(self: &Arc<Self>, me: usize, span: Range<usize>) -> FetchResult<()> {
        let transfer = &self.transfer;
        let (from, to) = {
            let board = self.board.lock();
            let Some(first) = span.clone().find(|&chunk| !board.is_whole(chunk)) else { return Ok(()) };
            let from = board.start(first) + u64::from(board.filled(first).length);
            (from, board.start(span.end).min(board.size().unwrap_or(u64::MAX)))
        };
        let is_plain = transfer.is_plain.load(Ordering::Relaxed);
        let mut headers = HeaderMap::new();
        if !is_plain {
            let range = HeaderValue::from_str(&format!("bytes={from}-{}", to.saturating_sub(1)));
            headers.extend(range.ok().map(|range| (RANGE, range)));
            let validator = self.head.lock().validator.clone();
            let validator = validator.and_then(|validator| HeaderValue::from_str(&validator).ok());
            headers.extend(validator.map(|validator| (IF_RANGE, validator)));
        }
        let begin = Instant::now();
        let hop = tokio::select! {
            hop = self.ask(headers) => hop?,
            () = self.stop.cancelled() => return Ok(()),
        };
        let took = u64::try_from(begin.elapsed().as_micros()).unwrap_or(u64::MAX);
        transfer.answered.fetch_min(took, Ordering::Relaxed);
        let Some(body) = self.judge(me, hop, from, is_plain).await? else { return Ok(()) };
        self.receive(me, body).await
    }

    /// Asks where the redirects led to before, and where the file's own address leads to now if that
    /// place has expired: a signed address is good for a while only, so that costs no retry.
    async fn ask(&self, headers: HeaderMap) -> FetchResult<FetchResponse> {
        let transfer = &self.transfer;
        let mut known = transfer.place.lock().clone();
        loop {
            let url = known.as_ref().unwrap_or(&transfer.file.url);
            let ask = FetchRequest {
                headers: headers.clone(),
                ..FetchRequest::get(url, transfer.file.credentials.as_ref())
            };
            let hop = transfer.fetcher.follow(ask).await?;
            let status = hop.response.status();
            let is_elsewhere = hop.url != transfer.file.url;
            if is_elsewhere && matches!(status.as_u16(), 400 | 401 | 403 | 404 | 410) {
                let mut place = transfer.place.lock();
                if *place == known {
                    *place = None;
                }
                if known.take().is_some() {
                    tracing::debug!(host = %hop.host, "the place of a file has expired");
                    continue;
                }
                if transfer.done.load(Ordering::Relaxed) > 0 {
                    let (host, status) = (&hop.host, status.as_u16());
                    let failure =
                        download_failed(format!("{host} does not give the file any more ({status})"));
                    return Err(Trouble::new(TroubleKind::Expired, failure));
                }
            }
            if is_elsewhere && status.is_success() {
                *transfer.place.lock() = Some(hop.url.clone());
            }
            return Ok(hop);
        }
    }

    /// Looks at the head of an answer: is it of this file, and of the bytes that were asked for?
    /// `None` where another request has to be made.
    async fn judge(
        self: &Arc<Self>,
        me: usize,
        hop: FetchResponse,
        from: u64,
        is_plain: bool,
    ) -> FetchResult<Option<Body>> {
        let host = &hop.host;
        let status = hop.response.status();
        if status == StatusCode::RANGE_NOT_SATISFIABLE && !is_plain {
            return self.not_satisfiable(&hop);
        }
        if !matches!(status, StatusCode::OK | StatusCode::PARTIAL_CONTENT) {
            return Err(hop.trouble());
        }
        if hop.header(CONTENT_ENCODING).is_some_and(|encoding| !encoding.eq_ignore_ascii_case("identity")) {
            return Err(Trouble::fatal(
                download_failed(format!("{host} sent the file in an encoding that was not asked for"))
                    .hint("use a URL of the file itself"),
            ));
        }
        if hop
            .header(CONTENT_TYPE)
            .is_some_and(|kind| kind.trim_start().to_ascii_lowercase().starts_with("text/html"))
        {
            return Err(Trouble::fatal(
                download_failed(format!("{host} sent a web page instead of a file"))
                    .hint("use the link of the download itself, not of the page around it"),
            ));
        }
        let described = describe(&hop)?;
        self.compare(host, &described)?;
        let is_partial = status == StatusCode::PARTIAL_CONTENT;
        if is_partial && described.range.start != from {
            return Err(passing(format!("{host} sent other bytes of the file than were asked for")));
        }
        let is_first = !self.is_open.load(Ordering::Acquire);
        let may_combine = described.validator.is_some() || self.transfer.file.sha256.is_some();
        if is_partial && (described.size.is_none() || (is_first && !may_combine)) {
            // Nothing would tell that a second answer is of the same version: ask for all of it.
            self.transfer.is_plain.store(true, Ordering::Relaxed);
            return Ok(None);
        }
        if described.size == Some(0) {
            return Err(Trouble::fatal(
                Failure::new(Code::ModelCorrupt, format!("{host} sent an empty file"))
                    .hint("check the URL in a browser: it must lead to the file itself"),
            ));
        }
        if is_first && let Some(size) = described.size {
            let (round, validator) = (Arc::clone(self), described.validator.clone());
            let only = (!is_partial).then_some(me);
            let opened = spawn::blocking(move || round.open(size, validator, only)).await;
            opened
                .unwrap_or_else(|error| Err(std::io::Error::other(error)))
                .map_err(|error| disk_trouble(self, &error))?;
        }
        if !is_partial {
            tracing::debug!(%host, "the server sent the whole file");
            if !self.board.lock().make_sequential(me) {
                return Ok(None);
            }
            self.ring();
        }
        let end = is_partial.then_some(described.range.end).or(described.size);
        Ok(Some(Body {
            at: described.range.start,
            end,
            pending: Vec::new(),
            pending_bytes: 0,
            given: 0,
            hop,
        }))
    }

    /// 416: the file is not as long as it was, or the server does not do ranges after all.
    fn not_satisfiable(&self, hop: &FetchResponse) -> FetchResult<Option<Body>> {
        let size = hop
            .header(CONTENT_RANGE)
            .and_then(|range| range.trim().strip_prefix("bytes */"))
            .and_then(|size| size.trim().parse::<u64>().ok());
        let known = self.board.lock().size().or(self.transfer.file.size);
        match (size, known) {
            (Some(0), None | Some(0)) => Err(Trouble::fatal(Failure::new(
                Code::ModelCorrupt,
                format!("{} has an empty file", hop.host),
            ))),
            (Some(size), Some(known)) if size != known => Err(self.changed(&hop.host)),
            _ => {
                self.transfer.is_plain.store(true, Ordering::Relaxed);
                Ok(None)
            }
        }
    }

    /// Compares what an answer says about its file with what is known.
    fn compare(&self, host: &str, described: &Described) -> FetchResult<()> {
        let head = self.head.lock();
        let is_promised = self.transfer.file.sha256.is_some() || self.transfer.file.version.is_some();
        if let (Some(size), Some(known)) = (described.size, self.transfer.file.size)
            && is_promised
            && size != known
        {
            // One of a server's machines may be behind the others, or a proxy in between.
            return Err(Trouble::passing(
                download_failed(format!("{host} has {size} bytes of the file, which should have {known}"))
                    .hint("the server has another file than its catalog says: try again later"),
            ));
        }
        if !self.is_open.load(Ordering::Acquire) {
            return Ok(());
        }
        let is_other_size = described.size.is_some() && described.size != head.size;
        let is_other_version = match (&described.validator, &head.validator) {
            // An ETag cannot be compared with a date.
            (Some(one), Some(other)) => one.starts_with('"') == other.starts_with('"') && one != other,
            _ => false,
        };
        drop(head);
        if is_other_size || is_other_version { Err(self.changed(host)) } else { Ok(()) }
    }

    fn changed(&self, host: &str) -> Trouble {
        let name = &self.transfer.file.name;
        let failure = download_failed(format!("{host} has another version of {name} now"))
            .hint("the file changes while it is being downloaded: try again when that has ended");
        Trouble::new(TroubleKind::Changed, failure)
    }

    /// Receives a body to the end of this connection's span. What arrived before a failure is
    /// written all the same, and is when this ends; of a span that came whole, the last of it may still
    /// be on its way to the disk.
    async fn receive(self: &Arc<Self>, me: usize, mut body: Body) -> FetchResult<()> {
        let mut window = Window { since: Instant::now(), bytes: 0 };
        let received = loop {
            match self.step(me, &mut body, &mut window).await {
                Ok(true) => {}
                Ok(false) => break Ok(()),
                Err(trouble) => break Err(trouble),
            }
        };
        self.flush(&mut body).await?;
        let is_whole = received.is_ok() && self.board.lock().is_at_end(me, body.at);
        if !is_whole {
            // Whoever fetches what follows looks at what is there.
            self.queue.settled(body.given).await.map_err(|error| disk_trouble(self, &error))?;
        }
        received
    }

    /// Reads one piece of the body. Answers whether there is more to read.
    async fn step(self: &Arc<Self>, me: usize, body: &mut Body, window: &mut Window) -> FetchResult<bool> {
        let (limit, size, may_go_on) = {
            let mut board = self.board.lock();
            board.reach(me, body.at);
            (board.span_end(me), board.size(), board.may_go_on(me))
        };
        if !may_go_on || body.at >= limit {
            return Ok(false);
        }
        let transfer = &self.transfer;
        let stall = *transfer.context.timers.stall;
        let host = &body.hop.host;
        // So many bytes within the time of a stall, or what is left of the span.
        let enough =
            (stall.as_secs_f64() * transfer.context.downloads.min_bytes_per_second as f64).ceil() as u64;
        let read = tokio::select! {
            biased;
            () = self.stop.cancelled() => return Ok(false),
            read = timeout_at(window.since + stall, body.hop.response.chunk()) => read,
        };
        let mut piece = match read {
            Err(_) if window.bytes >= enough.max(1) => {
                *window = Window { since: Instant::now(), bytes: 0 };
                return Ok(true);
            }
            Err(_) => {
                let stall = units::duration(stall);
                let what = match window.bytes {
                    0 => format!("{host} sent nothing for {stall}: the transfer has stalled"),
                    bytes => format!(
                        "{host} sent only {} in {stall}: the transfer has stalled",
                        units::bytes(bytes)
                    ),
                };
                return Err(Trouble::new(TroubleKind::Stalled, download_failed(what)));
            }
            Ok(Err(error)) => {
                let failure =
                    download_failed(format!("{host} broke off the transfer")).cause(&error.without_url());
                return Err(Trouble::passing(failure));
            }
            Ok(Ok(Some(piece))) => piece,
            Ok(Ok(None)) => {
                if size.is_none() {
                    if body.at == 0 {
                        return Err(Trouble::fatal(Failure::new(
                            Code::ModelCorrupt,
                            format!("{host} sent an empty file"),
                        )));
                    }
                    self.flush(body).await?;
                    self.set_size(body.at);
                } else if body.end.is_none_or(|end| body.at < end) {
                    return Err(passing(format!("{host} broke off the transfer")));
                }
                return Ok(false);
            }
        };
        if window.bytes + piece.len() as u64 >= enough {
            *window = Window { since: Instant::now(), bytes: 0 };
        } else {
            window.bytes += piece.len() as u64;
        }
        piece.truncate(usize::try_from(limit - body.at).unwrap_or(usize::MAX));
        let length = piece.len() as u64;
        self.check_magic(host, body.at, &piece)?;
        let begin = Instant::now();
        self.take(body, piece).await?;
        tokio::select! {
            () = transfer.context.limiter.pass(length) => {}
            () = self.stop.cancelled() => {}
        }
        // The disk and the speed limit are no fault of the server.
        window.since += begin.elapsed();
        Ok(true)
    }

    /// Sorts a piece into chunks; what is there already is dropped, and whole chunks are written.
    async fn take(self: &Arc<Self>, body: &mut Body, mut piece: Bytes) -> FetchResult<()> {
        while !piece.is_empty() {
            let (have, end) = {
                let board = self.board.lock();
                let chunk = board.chunk_at(body.at);
                let start = board.start(chunk);
                (start + u64::from(board.filled(chunk).length), start + board.length(chunk))
            };
            if body.pending.is_empty() && body.at < have {
                let skipped = piece.len().min(usize::try_from(have - body.at).unwrap_or(usize::MAX));
                body.at += skipped as u64;
                drop(piece.split_to(skipped));
                continue;
            }
            let wanted = usize::try_from(end - body.at).unwrap_or(usize::MAX);
            let part = piece.split_to(wanted.min(piece.len()));
            self.transfer.received(part.len() as u64);
            body.at += part.len() as u64;
            body.pending_bytes += part.len();
            body.pending.push(part);
            if body.at == end || body.pending_bytes >= WRITTEN_TOGETHER {
                self.flush(body).await?;
            }
        }
        Ok(())
    }

    /// Gives what is pending of a chunk to be written.
    async fn flush(&self, body: &mut Body) -> FetchResult<()> {
        if body.pending.is_empty() {
            return Ok(());
        }
        let offset = body.at - mem::take(&mut body.pending_bytes) as u64;
        {
            let mut board = self.board.lock();
            let chunk = board.chunk_at(offset);
            board.sent(chunk);
        }
        let given = self.queue.give(offset, mem::take(&mut body.pending)).await;
        body.given = given.map_err(|error| disk_trouble(self, &error))?;
        Ok(())
    }

    /// What is no GGUF file is not worth its transfer.
    fn check_magic(&self, host: &str, at: u64, piece: &[u8]) -> FetchResult<()> {
        let magic =
            usize::try_from(at).ok().and_then(|at| self.transfer.file.magic.get(at..)).unwrap_or_default();
        if magic.iter().zip(piece).all(|(expected, byte)| expected == byte) {
            return Ok(());
        }
        Err(Trouble::fatal(
            download_failed(format!("what {host} sends is not a GGUF file"))
                .hint("check the URL in a browser: it must lead to the file itself"),
        ))
    }
}

/// What the head of a `200` or a `206` says about its file.
fn describe(hop: &FetchResponse) -> FetchResult<Described> {
    // A weak ETag tells nothing about bytes (RFC 9110, section 13.1.5).
    let validator = hop
        .header(ETAG)
        .filter(|etag| etag.starts_with('"'))
        .or_else(|| hop.header(LAST_MODIFIED))
        .map(ToOwned::to_owned);
    if hop.response.status() == StatusCode::OK {
        let size = hop.header(CONTENT_LENGTH).and_then(|length| length.trim().parse().ok());
        return Ok(Described { range: 0..size.unwrap_or(u64::MAX), size, validator });
    }
    let range = hop.header(CONTENT_RANGE).and_then(content_range);
    let (range, size) = range
        .ok_or_else(|| passing(format!("{} sent a part of the file and did not say which", hop.host)))?;
    Ok(Described { range, size, validator })
}

/// `bytes 0-99/1000` or `bytes 0-99/*` (RFC 9110, section 14.4).
fn content_range(text: &str) -> Option<(Range<u64>, Option<u64>)> {
    let (range, size) = text.trim().strip_prefix("bytes ")?.split_once('/')?;
    let (first, last) = range.split_once('-')?;
    let (first, last): (u64, u64) = (first.trim().parse().ok()?, last.trim().parse().ok()?);
    let size = match size.trim() {
        "*" => None,
        size => Some(size.parse().ok()?),
    };
    let is_sound = first <= last && last < u64::MAX && size.is_none_or(|size| last < size);
    is_sound.then(|| (first..last + 1, size))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_content_range_is_understood_or_refused() {
        assert_eq!(content_range("bytes 0-99/1000"), Some((0..100, Some(1000))));
        assert_eq!(content_range("bytes 5-5/*"), Some((5..6, None)));
        for bad in [
            "bytes */10",
            "bytes 9-3/10",
            "bytes 0-10/10",
            "items 0-1/2",
            "bytes 0-18446744073709551615/*",
            "",
        ] {
            assert_eq!(content_range(bad), None, "{bad}");
        }
    }
}
