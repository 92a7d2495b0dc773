//! One connection of a transfer: gets a lease, asks a server for its bytes, and sends what comes to the
//! writer.

use std::mem;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::Bytes;
use reqwest::header::{HeaderValue, IF_RANGE, RANGE};
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, timeout_at};
use tokio_util::sync::CancellationToken;

use crate::models::transfer::answer::{FileAnswer, empty_file};
use crate::models::transfer::context::Transfer;
use crate::models::transfer::fetch::{FetchRequest, FetchResponse};
use crate::models::transfer::messages::{Event, Events, Lease, Span, Write};
use crate::models::transfer::neighbours::Holder;
use crate::models::transfer::trouble::{FetchResult, Trouble, TroubleKind, download_failed};
use crate::models::transfer::writer::WRITTEN_TOGETHER;
use crate::text;
use crate::time::in_words;

#[derive(Debug)]
pub(crate) struct Connection {
    pub(crate) number: usize,
    pub(crate) transfer: Arc<Transfer>,
    pub(crate) events: Events,
    pub(crate) writer: mpsc::Sender<Write>,
    /// Cancelled when the work of all connections ends.
    pub(crate) stop: CancellationToken,
}

/// A body that is being received.
#[derive(Debug)]
struct Body {
    response: FetchResponse,
    /// The other hive that it comes from.
    holder: Option<Arc<Holder>>,
    /// Where the body ends, if its server told that.
    end: Option<u64>,
    span: Span,
    /// Offset in the file of the next byte.
    at: u64,
    /// Bytes of one chunk that were not sent to the writer yet, and how many they are.
    pending: Vec<Bytes>,
    pending_bytes: usize,
    /// The bytes received since an instant. Too few of them within the stall time are a stall.
    watched_since: Instant,
    watched_bytes: u64,
    /// What the whole transfer had received then.
    watched_all: u64,
}

impl Connection {
    /// Fetches one lease after another until the work ends.
    pub(crate) async fn run(self) {
        let mut ended = Ok(());
        loop {
            let (sender, lease) = oneshot::channel();
            self.events.tell(Event::Idle { connection: self.number, ended, lease: sender });
            let Ok(lease) = lease.await else { return };
            ended = self.fetch(lease).await;
        }
    }

    async fn fetch(&self, lease: Lease) -> FetchResult<()> {
        let begin = Instant::now();
        let response = tokio::select! {
            response = self.ask(&lease) => response?,
            () = self.stop.cancelled() => return Ok(()),
        };
        let answer = FileAnswer::read(&response, lease.range.as_ref())?;
        let end = answer.end();
        let (sender, span) = oneshot::channel();
        self.events.tell(Event::Answered {
            connection: self.number,
            host: response.host.clone(),
            url: response.url.clone(),
            took: begin.elapsed(),
            answer,
            span: sender,
        });
        let Some(span) = span.await.unwrap_or(Ok(None))? else { return Ok(()) };
        let body = Body {
            response,
            holder: lease.holder,
            end,
            at: span.from,
            span,
            pending: Vec::new(),
            pending_bytes: 0,
            watched_since: Instant::now(),
            watched_bytes: 0,
            watched_all: self.transfer.received(),
        };
        self.receive(body).await
    }

    /// Asks another hive, the URL that redirects led to before, or else the file's own.
    async fn ask(&self, lease: &Lease) -> FetchResult<FetchResponse> {
        if let (Some(holder), Some(range)) = (&lease.holder, &lease.range) {
            return holder.ask(range, *self.transfer.context.fetch.timers.stall).await;
        }
        let file = &self.transfer.file;
        let mut request =
            FetchRequest::get(lease.redirected.as_ref().unwrap_or(&file.url), file.credentials.as_ref());
        if let Some(range) = &lease.range {
            let range = format!("bytes={}-{}", range.start, range.end - 1);
            for (name, value) in [(RANGE, Some(&range)), (IF_RANGE, lease.validator.as_ref())] {
                let value = value.and_then(|value| HeaderValue::from_str(value).ok());
                request.headers.extend(value.map(|value| (name, value)));
            }
        }
        let response = self.transfer.fetcher.follow(request).await?;
        let status = response.response.status().as_u16();
        let is_refused = response.url != file.url && matches!(status, 400 | 401 | 403 | 404 | 410);
        if is_refused && (lease.redirected.is_some() || self.transfer.received() > 0) {
            let message = format!("{} does not give the file any more ({status})", response.host);
            return Err(Trouble::new(TroubleKind::Expired, download_failed(message)));
        }
        Ok(response)
    }

    /// Receives a body up to the end of the span. What came before a failure is written all the same.
    async fn receive(&self, mut body: Body) -> FetchResult<()> {
        let received = loop {
            match self.receive_piece(&mut body).await {
                Ok(true) => {}
                ended => break ended.map(drop),
            }
        };
        self.flush(&mut body).await;
        received
    }

    /// Receives one piece of the body. Returns whether there is more to receive.
    async fn receive_piece(&self, body: &mut Body) -> FetchResult<bool> {
        let end = *body.span.end.borrow();
        if body.at >= end {
            return Ok(false);
        }
        let context = &self.transfer.context;
        let (host, stall) = (&body.response.host, *context.fetch.timers.stall);
        // This many bytes within the time of a stall, or what is left of the span.
        let enough = (stall.as_secs_f64() * context.downloads().min_bytes_per_second as f64).ceil() as u64;
        let read = tokio::select! {
            biased;
            () = self.stop.cancelled() => return Ok(false),
            read = timeout_at(body.watched_since + stall, body.response.response.chunk()) => read,
        };
        let piece = match read {
            // A hive that is downloading the file itself gives each part as it comes. While others come, all is well.
            Err(_)
                if body.holder.as_ref().is_some_and(|holder| !holder.is_complete)
                    && self.transfer.received() > body.watched_all =>
            {
                (body.watched_since, body.watched_bytes) = (Instant::now(), 0);
                body.watched_all = self.transfer.received();
                return Ok(true);
            }
            Err(_) => {
                let sent = match body.watched_bytes {
                    0 => format!("nothing for {}", in_words(stall)),
                    bytes => format!("only {} in {}", text::bytes(bytes), in_words(stall)),
                };
                let message = format!("{host} sent {sent}: the transfer has stalled");
                return Err(Trouble::new(TroubleKind::Stalled, download_failed(message)));
            }
            Ok(Err(error)) => {
                let failure = download_failed(format!("{host} broke off the transfer"));
                return Err(Trouble::passing(failure.cause(&error.without_url())));
            }
            Ok(Ok(Some(piece))) => piece,
            Ok(Ok(None)) if end == u64::MAX => {
                if body.at == 0 {
                    return Err(empty_file(host));
                }
                self.flush(body).await;
                self.events.tell(Event::EndOfFile { size: body.at });
                return Ok(false);
            }
            Ok(Ok(None)) if body.end.is_some_and(|end| body.at >= end) => return Ok(false),
            Ok(Ok(None)) => {
                return Err(Trouble::passing(download_failed(format!("{host} broke off the transfer"))));
            }
        };
        body.watched_bytes += piece.len() as u64;
        if body.watched_bytes >= enough {
            (body.watched_since, body.watched_bytes) = (Instant::now(), 0);
            body.watched_all = self.transfer.received();
        }
        self.check_magic(host, body.at, &piece)?;
        let (begin, length) = (Instant::now(), piece.len() as u64);
        self.take(body, piece).await;
        tokio::select! {
            () = context.limiter.pass(length) => {}
            () = self.stop.cancelled() => {}
        }
        // The disk and the speed limit are no fault of the server.
        body.watched_since += begin.elapsed();
        Ok(true)
    }

    /// Splits a piece at the ends of chunks, leaves out what is stored already, and sends the rest to
    /// the writer when it is enough.
    async fn take(&self, body: &mut Body, mut piece: Bytes) {
        // Another connection may have got the back half of the span while this one waited.
        let wanted = body.span.end.borrow().saturating_sub(body.at);
        piece.truncate(usize::try_from(wanted).unwrap_or(usize::MAX));
        let Span { chunk_bytes, from, .. } = body.span;
        while !piece.is_empty() {
            let chunk = body.at / chunk_bytes;
            let index = usize::try_from(chunk - from / chunk_bytes).ok();
            let length = index.and_then(|index| body.span.stored.get(index)).copied().unwrap_or_default();
            let (stored, chunk_end) = (chunk * chunk_bytes + u64::from(length), (chunk + 1) * chunk_bytes);
            let is_stored = body.pending.is_empty() && body.at < stored;
            let until = if is_stored { stored } else { chunk_end };
            let length = usize::try_from(until - body.at).map_or(piece.len(), |bytes| bytes.min(piece.len()));
            let bytes = piece.split_to(length);
            body.at += length as u64;
            if is_stored {
                continue;
            }
            self.transfer.received.fetch_add(length as u64, Ordering::Relaxed);
            self.transfer.context.received.fetch_add(length as u64, Ordering::Relaxed);
            if let Some(holder) = &body.holder {
                holder.received.fetch_add(length as u64, Ordering::Relaxed);
                self.transfer.from_neighbours.fetch_add(length as u64, Ordering::Relaxed);
            }
            body.pending.push(bytes);
            body.pending_bytes += length;
            if body.at == chunk_end || body.pending_bytes >= WRITTEN_TOGETHER {
                self.flush(body).await;
            }
        }
    }

    /// Sends the pending bytes to the writer.
    async fn flush(&self, body: &mut Body) {
        let pieces = mem::take(&mut body.pending);
        if pieces.is_empty() {
            return;
        }
        let offset = body.at - mem::take(&mut body.pending_bytes) as u64;
        let chunk = usize::try_from(offset / body.span.chunk_bytes).unwrap_or(usize::MAX);
        // Before the bytes, so that the coordinator counts the write before it ends.
        self.events.tell(Event::Sent { connection: self.number, chunk, end: body.at });
        // Where the writer has ended, it has told the coordinator why, and so the work ends.
        let _ = self.writer.send(Write::Bytes { offset, pieces }).await;
    }

    /// What does not begin as its kind of file does is not worth its transfer.
    fn check_magic(&self, host: &str, at: u64, piece: &[u8]) -> FetchResult<()> {
        let magic = usize::try_from(at).ok().and_then(|at| self.transfer.file.magic.get(at..));
        if magic.unwrap_or_default().iter().zip(piece).all(|(expected, byte)| expected == byte) {
            return Ok(());
        }
        let format = self.transfer.file.purpose.format();
        Err(Trouble::fatal(
            download_failed(format!("what {host} sends is not {format}"))
                .hint("check the URL in a browser: it must lead to the file itself"),
        ))
    }
}
