//! The coordinator: the one task that owns the state of an attempt to fetch a file, from what is stored
//! to the complete, hashed file.
//!
//! It alone decides who fetches what, whether an answer is of the same file, and what a failure means.
//! Connections, writer and hasher send it [`Event`]s through one channel, so that it learns of a write
//! before it learns of that write's end. It answers a connection's request for a lease when there is
//! something to fetch, and drops the request when the work ends.

use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use futures::future::{BoxFuture, FutureExt};
use futures::stream::FuturesUnordered;
use reqwest::Url;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::{Instant, Interval, MissedTickBehavior, interval, sleep_until};
use tokio_util::sync::CancellationToken;

use crate::error::{Code, Failure, Result};
use crate::files;
use crate::models::transfer::answer::FileAnswer;
use crate::models::transfer::budget::{Budget, Epoch, Next};
use crate::models::transfer::chunks::ChunkTable;
use crate::models::transfer::connection::Connection;
use crate::models::transfer::context::Transfer;
use crate::models::transfer::hasher::Hasher;
use crate::models::transfer::identity::{Identity, Judgement};
use crate::models::transfer::joining::Joining;
use crate::models::transfer::messages::{Event, Hash, Lease, Span, Write};
use crate::models::transfer::partial::{Begun, Partial};
use crate::models::transfer::progress::{self, Meter};
use crate::models::transfer::trouble::{FetchResult, Trouble, TroubleKind};
use crate::models::transfer::writer::{self, Writer};
use crate::models::units;
use crate::narration::Level;
use crate::spawn;

/// A transfer stops before the disk has less room than this, in bytes.
const LAST_ROOM: u64 = 64 << 20;

/// What a transfer has learnt of the server, for its next attempts too.
#[derive(Debug)]
pub(crate) struct Learnt {
    pub(crate) budget: Budget,
    /// The URL that redirects led to.
    pub(crate) redirected: Option<Url>,
    /// Whether to ask for the whole file, because ranges of it cannot be combined.
    pub(crate) is_whole_only: bool,
}

/// A complete file.
#[derive(Debug)]
pub(crate) struct Hashed {
    pub(crate) sha256: String,
    pub(crate) size: u64,
}

#[derive(Debug)]
struct Coordinator<'a> {
    transfer: &'a Arc<Transfer>,
    learnt: &'a mut Learnt,
    identity: Identity,
    chunks: ChunkTable,
    /// The lease of each connection that was started.
    leases: Vec<Option<Leased>>,
    /// The connections that wait for a lease.
    idle: Vec<(usize, oneshot::Sender<Lease>)>,
    /// Whether these wait for a time, too: that before which no server may be asked.
    is_delayed: bool,
    /// How many connections are of use.
    wanted: usize,
    /// Every connection, the writer and the hasher, until they end.
    tasks: FuturesUnordered<BoxFuture<'static, Result<()>>>,
    events: mpsc::UnboundedSender<Event>,
    /// `None` once the work is to end, as the next.
    writer: Option<mpsc::Sender<Write>>,
    hasher: Option<mpsc::UnboundedSender<Hash>>,
    /// Ends the connections.
    stop: CancellationToken,
    /// The file's SHA-256, or why there is none, once the work is to end.
    outcome: Option<FetchResult<String>>,
}

/// A lease that a connection has.
#[derive(Debug)]
struct Leased {
    epoch: Epoch,
    is_range: bool,
    /// See [`Span::end`].
    end: watch::Sender<u64>,
}

/// Fetches what the partial file lacks, and hashes all of it.
///
/// # Errors
/// Why the attempt ended. What was received is written and journalled by then.
pub(crate) async fn fetch(
    transfer: &Arc<Transfer>,
    partial: &Arc<Partial>,
    begun: Begun,
    learnt: &mut Learnt,
) -> FetchResult<Hashed> {
    let (events, received) = mpsc::unbounded_channel();
    let Begun { head, claims, journal, .. } = begun;
    let connections = transfer.context.downloads.connections;
    let chunks = ChunkTable::new(head.chunk_bytes, head.size, connections, &claims);
    let (writer, writes) = writer::channel(head.chunk_bytes);
    let (hasher, hashes) = mpsc::unbounded_channel();
    let tasks = FuturesUnordered::new();
    let write = Writer {
        file: partial.file(),
        path: partial.path().to_owned(),
        disk: Arc::clone(&transfer.context.disk),
        chunk_bytes: head.chunk_bytes,
        chunks: chunks.stored().to_vec(),
        events: events.clone(),
        journal,
    };
    let hash = Hasher {
        file: partial.file(),
        path: partial.path().to_owned(),
        chunk_bytes: head.chunk_bytes,
        events: events.clone(),
    };
    let is_known = write.journal.is_some();
    tasks.push(spawn::blocking(move || write.run(writes)).boxed());
    tasks.push(spawn::blocking(move || hash.run(hashes)).boxed());
    let coordinator = Coordinator {
        transfer,
        learnt,
        identity: Identity { head, is_known },
        chunks,
        leases: Vec::new(),
        idle: Vec::new(),
        is_delayed: false,
        wanted: 1,
        tasks,
        events,
        writer: Some(writer),
        hasher: Some(hasher),
        stop: transfer.stop.child_token(),
        outcome: None,
    };
    coordinator.run(received).await
}

impl Coordinator<'_> {
    async fn run(mut self, mut events: mpsc::UnboundedReceiver<Event>) -> FetchResult<Hashed> {
        let transfer = self.transfer;
        let (progress, received) = (*transfer.context.timers.progress, &transfer.received);
        received.set(self.chunks.stored_bytes());
        if received.bytes() > 0 {
            let (name, size) = (&transfer.file.name, self.chunks.size().unwrap_or_default());
            let (done, size) = (units::bytes(received.bytes()), units::bytes(size));
            let message = format!("Going on with {name}: {done} of {size} are here");
            transfer.say(Level::Info, "model_download_resume", message);
        }
        let mut meter = Meter::starting_at(received.bytes(), Instant::now());
        let mut joining = Joining::new(received.bytes());
        let (mut shows, mut joins) = (every(progress), every(progress / 4));
        if self.chunks.size().is_some() {
            self.hash_complete();
        }
        self.connect();
        loop {
            tokio::select! {
                Some(event) = events.recv() => {
                    if let Event::Answered { took, .. } = &event {
                        joining.note_answer(*took);
                    }
                    self.handle(event).await;
                }
                ended = self.tasks.next() => match ended {
                    None => break,
                    Some(Ok(())) => {}
                    Some(Err(panic)) => self.end(Err(Trouble::fatal(panic))),
                },
                () = transfer.stop.cancelled(), if self.outcome.is_none() => {
                    let cancelled = Failure::new(Code::Cancelled, "the download was cancelled");
                    self.end(Err(Trouble::fatal(cancelled)));
                }
                _ = joins.tick(), if self.wanted < transfer.context.downloads.connections => {
                    if joining.is_slow(received.bytes()) {
                        self.wanted += 1;
                        self.connect();
                    }
                }
                _ = shows.tick() => {
                    self.show(&mut meter);
                    self.check_room();
                }
                () = sleep_until(self.learnt.budget.not_before), if self.is_delayed => self.lease(),
            }
        }
        while let Ok(event) = events.try_recv() {
            self.handle(event).await;
        }
        self.learnt.budget.note_bytes(received.bytes());
        self.show(&mut meter);
        let unended = || Err(Trouble::fatal(Failure::internal("a transfer ended without an outcome")));
        let sha256 = self.outcome.take().unwrap_or_else(unended)?;
        Ok(Hashed { sha256, size: self.chunks.size().unwrap_or_default() })
    }

    async fn handle(&mut self, event: Event) {
        match event {
            Event::Idle { connection, ended, lease } => self.idle(connection, ended, lease),
            Event::Answered { connection, host, redirected, answer, body, .. } => {
                if redirected.is_some() {
                    self.learnt.redirected = redirected;
                }
                let span = self.judge(connection, &host, &answer).await;
                // The connection waits for it.
                let _ = body.send(span);
            }
            Event::Expired(url) => {
                self.learnt.redirected.take_if(|known| *known == url);
            }
            Event::Sent { connection, chunk, end } => self.chunks.sent(connection, chunk, end),
            Event::EndOfFile { size } => {
                self.identity.head.size = Some(size);
                self.chunks.set_size(size);
                self.hash_complete();
            }
            Event::Written { chunk, stored } => {
                self.chunks.written(chunk, stored);
                if self.chunks.is_complete(chunk) {
                    self.hash(Hash::Chunk { chunk, stored });
                }
                self.lease();
            }
            Event::Dropped { chunk, bytes } => {
                self.lose(bytes);
                self.chunks.dropped(chunk);
                self.lease();
            }
            Event::Damaged { chunk } => self.fetch_again(chunk).await,
            Event::Hashed(sha256) => self.end(Ok(sha256)),
            Event::Failed(trouble) => self.end(Err(trouble)),
        }
    }

    /// Starts the connections that are of use. The first finds out which file this is.
    fn connect(&mut self) {
        let Some(writer) = &self.writer else { return };
        let wanted = if self.identity.is_known { self.wanted } else { 1 };
        for number in self.leases.len()..wanted {
            let connection = Connection {
                number,
                transfer: Arc::clone(self.transfer),
                events: self.events.clone(),
                writer: writer.clone(),
                stop: self.stop.clone(),
            };
            self.leases.push(None);
            let ended = spawn::detached(connection.run());
            let panicked = |error| Failure::internal("a connection of a download panicked").detail(error);
            self.tasks.push(ended.map(move |ended| ended.map_err(panicked)).boxed());
        }
    }

    fn idle(&mut self, connection: usize, ended: FetchResult<()>, lease: oneshot::Sender<Lease>) {
        let leased = self.leases[connection].take();
        self.chunks.release(connection);
        if let (Some(leased), Err(trouble)) = (leased, ended)
            && let Err(trouble) = self.retry(leased.epoch, trouble)
        {
            self.end(Err(trouble));
        }
        if self.outcome.is_none() {
            self.idle.push((connection, lease));
            self.lease();
        }
    }

    /// Gives idle connections what there is to fetch.
    fn lease(&mut self) {
        let (epoch, not_before) = (self.learnt.budget.epoch(), self.learnt.budget.not_before);
        self.is_delayed = !self.idle.is_empty() && not_before > Instant::now();
        if self.idle.is_empty() || self.is_delayed {
            return;
        }
        for (connection, sender) in std::mem::take(&mut self.idle) {
            let Some(range) = self.chunks.claim(connection) else {
                self.idle.push((connection, sender));
                continue;
            };
            let is_range = !self.learnt.is_whole_only;
            let end = watch::Sender::new(range.end);
            self.leases[connection] = Some(Leased { epoch, is_range, end });
            let lease = Lease {
                range: is_range.then_some(range),
                validator: self.identity.head.validator.clone(),
                redirected: self.learnt.redirected.clone(),
            };
            // The connection waits for it.
            let _ = sender.send(lease);
        }
        self.tell_ends();
    }

    /// Tells every connection where its span ends.
    fn tell_ends(&self) {
        for (connection, leased) in self.leases.iter().enumerate() {
            if let Some(Leased { end, .. }) = leased {
                end.send_if_modified(|end| {
                    let before = std::mem::replace(end, self.chunks.span_end(connection));
                    before != *end
                });
            }
        }
    }

    /// Decides what a connection receives of an answer's body. `None` where it has to ask again.
    async fn judge(
        &mut self,
        connection: usize,
        host: &str,
        answer: &FileAnswer,
    ) -> FetchResult<Option<Span>> {
        let Some(is_range) = self.leases[connection].as_ref().map(|leased| leased.is_range) else {
            return Ok(None);
        };
        let file = &self.transfer.file;
        let content = match answer {
            FileAnswer::Content(content) => content,
            FileAnswer::NotSatisfiable { size } => {
                self.identity.judge_unsatisfiable(file, host, *size)?;
                self.learnt.is_whole_only = true;
                return Ok(None);
            }
        };
        match self.identity.judge(file, host, content, is_range)? {
            Judgement::AskForWhole => {
                self.learnt.is_whole_only = true;
                return Ok(None);
            }
            Judgement::First => {
                let head = self.identity.head.clone();
                self.chunks.set_size(head.size.unwrap_or_default());
                self.write(Write::Open(head)).await;
                self.hash_complete();
            }
            Judgement::Receive => {}
        }
        if content.range.is_none() {
            tracing::debug!(%host, "the server sent the whole file");
            if !self.chunks.make_sequential(connection) {
                return Ok(None);
            }
        }
        self.connect();
        self.tell_ends();
        let end = self.leases[connection].as_ref().map(|leased| leased.end.subscribe());
        Ok(end.map(|end| Span {
            chunk_bytes: self.identity.head.chunk_bytes,
            from: content.from(),
            stored: self.chunks.stored_in_span(connection),
            end,
        }))
    }

    /// Decides whether to go on after a failure, and says so.
    fn retry(&mut self, epoch: Epoch, trouble: Trouble) -> FetchResult<()> {
        let Trouble { mut failure, kind } = trouble;
        let is_final = matches!(kind, TroubleKind::Fatal | TroubleKind::Changed | TroubleKind::Restart);
        if is_final || self.outcome.is_some() {
            return Err(Trouble { failure, kind });
        }
        let budget = &mut self.learnt.budget;
        budget.note_bytes(self.transfer.received.bytes());
        let of = budget.retries;
        match budget.failed(epoch, kind) {
            Next::GiveUp => {
                failure.message += &format!(" (given up after {of} retries)");
                return Err(Trouble { failure, kind: TroubleKind::Fatal });
            }
            Next::Again => {}
            Next::Retry { failure: number, wait } => {
                let what = &failure.message;
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
                self.transfer.say(Level::Warn, action, text);
            }
        }
        if self.identity.is_resumable() || self.chunks.is_empty() {
            return Ok(());
        }
        Err(Trouble { failure, kind: TroubleKind::Restart })
    }

    /// Lets a chunk be fetched again whose bytes on the disk are not those that were received.
    async fn fetch_again(&mut self, chunk: usize) {
        let bytes = self.chunks.forget(chunk);
        self.lose(bytes);
        let start = chunk as u64 * self.identity.head.chunk_bytes;
        let (bytes, name) = (units::bytes(bytes), &self.transfer.file.name);
        let message =
            format!("{bytes} at byte {start} of {name} were damaged on the disk: fetching them again");
        self.transfer.say(Level::Warn, "model_download_damaged", message);
        self.write(Write::Forget { chunk }).await;
        self.lease();
    }

    fn lose(&mut self, bytes: u64) {
        let received = &self.transfer.received;
        self.learnt.budget.note_bytes(received.bytes());
        received.remove(bytes);
    }

    /// Tells the hasher of every complete chunk, and how many chunks there are.
    fn hash_complete(&self) {
        let stored = self.chunks.stored();
        self.hash(Hash::Count(stored.len()));
        for (chunk, &stored) in stored.iter().enumerate().filter(|(chunk, _)| self.chunks.is_complete(*chunk))
        {
            self.hash(Hash::Chunk { chunk, stored });
        }
    }

    // Where the writer or the hasher has ended, it has told why, and so the work ends.

    fn hash(&self, hash: Hash) {
        let _ = self.hasher.as_ref().map(|hasher| hasher.send(hash));
    }

    async fn write(&mut self, write: Write) {
        if let Some(writer) = &self.writer {
            // The writer never waits for this task.
            let _ = writer.send(write).await;
        }
    }

    /// Ends the work. The first outcome counts, but a final failure replaces one that is not.
    fn end(&mut self, outcome: FetchResult<String>) {
        let is_fatal = |outcome: &FetchResult<String>| {
            outcome.as_ref().is_err_and(|trouble| trouble.kind == TroubleKind::Fatal)
        };
        let replaces = self
            .outcome
            .as_ref()
            .is_none_or(|known| known.is_err() && !is_fatal(known) && is_fatal(&outcome));
        if replaces {
            self.outcome = Some(outcome);
        }
        self.stop.cancel();
        self.idle.clear();
        (self.writer, self.hasher) = (None, None);
    }

    fn show(&self, meter: &mut Meter) {
        let size = self.chunks.size().or(self.transfer.file.size);
        let mut progress = meter.sample(self.transfer.received.bytes(), size, Instant::now());
        let connections = self.leases.iter().flatten().count();
        progress.connections = Some(u32::try_from(connections).unwrap_or(u32::MAX));
        let sentence = progress::sentence(&progress);
        self.transfer.reporter.progress(progress, sentence);
    }

    fn check_room(&mut self) {
        let path = &self.transfer.destination.partial;
        // Where the disk does not tell, a write fails when it is full.
        let room = files::free_bytes(path).unwrap_or(u64::MAX);
        let size = self.transfer.file.size;
        let missing = size.map_or(1, |size| size.saturating_sub(self.transfer.received.bytes()));
        if self.outcome.is_some() || room >= LAST_ROOM || missing == 0 {
            return;
        }
        let message = format!("the disk of {} is nearly full: {} left", path.display(), units::bytes(room));
        let failure = Failure::new(Code::DiskFull, message)
            .hint("free some space on that disk, then try again: what is here is kept");
        self.end(Err(Trouble::fatal(failure)));
    }
}

/// Ticks in this interval, the first time after it.
fn every(period: Duration) -> Interval {
    let mut ticks = interval(period.max(Duration::from_millis(1)));
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    ticks.reset();
    ticks
}
