//! The coordinator: the one task that owns the state of an attempt to fetch a file, from what is stored
//! to the complete, hashed file.
//!
//! It alone decides who fetches what, whether an answer is of the same file, and what a failure means.
//! Connections, writer and hasher send it [`Event`]s through one channel, so that it learns of a write
//! before it learns of that write's end. It answers a connection's request for a lease when there is
//! something to fetch, and drops the request when the work ends.

mod hives;

use std::mem;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use futures::StreamExt;
use futures::future::{BoxFuture, FutureExt};
use futures::stream::FuturesUnordered;
use reqwest::Url;
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, Interval, MissedTickBehavior, interval, sleep_until};
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::error::{Code, Failure, Result};
use crate::files;
use crate::models::transfer::answer::{FileAnswer, Identity, Judgement};
use crate::models::transfer::budget::{Budget, Next};
use crate::models::transfer::chunks::ChunkTable;
use crate::models::transfer::connection::Connection;
use crate::models::transfer::context::Transfer;
use crate::models::transfer::hasher::Hasher;
use crate::models::transfer::holders::Holders;
use crate::models::transfer::messages::{CompleteChunk, Event, Events, Lease, Span, Write};
use crate::models::transfer::neighbours::Holder;
use crate::models::transfer::partial::{Begun, Partial};
use crate::models::transfer::progress::{self, Joining, Meter};
use crate::models::transfer::purpose::Step;
use crate::models::transfer::remote::Verdict;
use crate::models::transfer::trouble::{FetchResult, Trouble, TroubleKind};
use crate::models::transfer::vetting::Vetting;
use crate::models::transfer::writer::{self, Writer};
use crate::narration::Level;
use crate::spawn;
use crate::text;
use crate::time::in_words;

/// A transfer stops before the disk has less room than this, in bytes.
const LAST_ROOM: u64 = 64 << 20;

#[derive(Debug)]
pub(crate) struct Coordinator<'a> {
    transfer: &'a Arc<Transfer>,
    budget: &'a mut Budget,
    identity: Identity,
    chunks: ChunkTable,
    /// The URL that redirects led to.
    redirected: Option<Url>,
    /// Whether to ask for the whole file, because ranges of it cannot be combined.
    is_whole_only: bool,
    /// What each connection has a lease for.
    leases: Vec<Option<Leased>>,
    /// The connections that wait for a lease, and whether all of them wait for the budget's time.
    idle: Vec<(usize, oneshot::Sender<Lease>)>,
    is_delayed: bool,
    /// How many connections are of use.
    wanted: usize,
    /// Whether other hives are asked for the file.
    asks_hives: bool,
    /// Whether it is being found out which of them have it. Nobody is asked for the file meanwhile.
    is_finding: bool,
    /// The other hives that have the file. While there is one, the file's source is not asked.
    holders: Holders,
    /// Held while this hive downloads the file for all.
    lead: Option<DropGuard>,
    /// Whether the file's first bytes were looked at.
    is_vetted: bool,
    /// Every connection, the writer and the hasher, until they end.
    tasks: FuturesUnordered<BoxFuture<'static, Result<()>>>,
    events: Events,
    /// `None` once the work is to end, as the next.
    writer: Option<mpsc::Sender<Write>>,
    hasher: Option<mpsc::UnboundedSender<CompleteChunk>>,
    /// Ends the connections.
    stop: CancellationToken,
    /// The file's SHA-256, or why there is none, once the work is to end.
    outcome: Option<FetchResult<String>>,
}

/// What a lease is of.
#[derive(Debug)]
enum Leased {
    /// Of the file's source: the budget's epoch, and the URL that redirects had led to.
    FromSource(u64, Option<Url>),
    FromHive(Arc<Holder>),
}

/// How an attempt begins.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Manner {
    /// Whether to ask for the whole file, because ranges of it cannot be combined.
    pub(crate) is_whole_only: bool,
    /// Whether to ask other hives for the file.
    pub(crate) asks_hives: bool,
}

/// A file that was fetched.
#[derive(Debug)]
pub(crate) struct Whole {
    pub(crate) sha256: String,
    /// In bytes.
    pub(crate) size: u64,
    /// To be held until others find the file here.
    pub(crate) lead: Option<DropGuard>,
}

impl<'a> Coordinator<'a> {
    /// Fetches what the partial file lacks, and hashes all of it.
    ///
    /// # Errors
    /// Why the attempt ended. What was received is written and journalled by then.
    pub(crate) async fn fetch(
        transfer: &'a Arc<Transfer>,
        partial: &Arc<Partial>,
        begun: Begun,
        budget: &'a mut Budget,
        manner: Manner,
    ) -> FetchResult<Whole> {
        let Begun { head, claims, journal, .. } = begun;
        let (chunk_bytes, connections) = (head.chunk_bytes, transfer.context.downloads().connections);
        let chunks = ChunkTable::new(chunk_bytes, head.size, connections, &claims);
        let (sender, received) = mpsc::unbounded_channel();
        let events = Events(sender);
        let (writer, writes) = writer::channel(chunk_bytes);
        let (hasher, complete) = mpsc::unbounded_channel();
        let identity = Identity { head, is_known: journal.is_some() };
        let write = Writer {
            partial: Arc::clone(partial),
            disk: Arc::clone(&transfer.context.disk),
            journal,
            chunk_bytes,
            chunks: chunks.stored().to_vec(),
            events: events.clone(),
        };
        let hash = Hasher {
            partial: Arc::clone(partial),
            vetting: Vetting::of(&transfer.file),
            chunk_bytes,
            events: events.clone(),
        };
        let tasks = FuturesUnordered::new();
        tasks.push(spawn::blocking(move || write.run(writes)).boxed());
        tasks.push(spawn::blocking(move || hash.run(complete)).boxed());
        let coordinator = Self {
            transfer,
            budget,
            identity,
            chunks,
            redirected: None,
            is_whole_only: manner.is_whole_only,
            leases: Vec::new(),
            idle: Vec::new(),
            is_delayed: false,
            wanted: 1,
            asks_hives: manner.asks_hives,
            is_finding: false,
            holders: Holders::default(),
            lead: None,
            is_vetted: false,
            tasks,
            events,
            writer: Some(writer),
            hasher: Some(hasher),
            stop: transfer.stop.child_token(),
            outcome: None,
        };
        coordinator.run(received).await
    }

    async fn run(mut self, mut events: mpsc::UnboundedReceiver<Event>) -> FetchResult<Whole> {
        let transfer = self.transfer;
        let stored = self.chunks.stored_bytes();
        transfer.received.store(stored, Ordering::Relaxed);
        if stored > 0 {
            let (name, size) = (&transfer.file.name, self.chunks.size().unwrap_or_default());
            let (stored, size) = (text::bytes(stored), text::bytes(size));
            let message = format!("Resuming {name}: {stored} of {size} are stored");
            transfer.say(Level::Info, Step::Resume, message);
        }
        let (mut meter, mut joining) = (Meter::starting_at(stored, Instant::now()), Joining::new(stored));
        let progress = *transfer.context.fetch.timers.progress;
        let (mut shows, mut joins) = (every(progress), every(progress / 4));
        transfer.shelf.begin(self.chunks.size(), self.identity.head.chunk_bytes, self.chunks.stored());
        self.hash_all();
        self.find_holders();
        self.connect();
        loop {
            tokio::select! {
                Some(event) = events.recv() => {
                    if let Event::Answered { took, .. } = &event {
                        joining.fastest_answer = joining.fastest_answer.min(*took);
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
                _ = joins.tick(), if self.wanted < transfer.context.downloads().connections => {
                    // The rest of a file that is of no use is not worth its transfer.
                    if joining.is_slow(transfer.received()) && self.is_vetted {
                        self.wanted += 1;
                        self.connect();
                    }
                }
                _ = shows.tick() => {
                    self.show(&mut meter);
                    self.check_room();
                }
                () = sleep_until(self.budget.not_before), if self.is_delayed => self.lease(),
            }
        }
        while let Ok(event) = events.try_recv() {
            self.handle(event).await;
        }
        self.budget.note_bytes(transfer.received());
        self.show(&mut meter);
        let no_outcome = || Err(Trouble::fatal(Failure::internal("a transfer ended without an outcome")));
        let sha256 = self.outcome.take().unwrap_or_else(no_outcome)?;
        self.thank();
        Ok(Whole { sha256, size: self.chunks.size().unwrap_or_default(), lead: self.lead })
    }

    async fn handle(&mut self, event: Event) {
        match event {
            Event::Idle { connection, ended, lease } => self.idle(connection, ended, lease),
            Event::Answered { connection, host, url, answer, span, .. } => {
                let is_of_source = self.hive_of(connection).is_none();
                if is_of_source && url != self.transfer.file.url {
                    self.redirected = Some(url);
                }
                // The connection waits for it.
                let _ = span.send(self.judge(connection, &host, &answer).await);
            }
            Event::Found(found) => self.found(found),
            Event::Sent { connection, chunk, end } => self.chunks.sent(connection, chunk, end),
            Event::EndOfFile { size } => {
                self.chunks.set_size(size);
                self.transfer.shelf.set_size(size);
                self.hash_all();
            }
            Event::Written { chunk, stored } => {
                self.chunks.written(chunk, stored);
                self.transfer.shelf.set(chunk, stored.length);
                self.hash(chunk);
                self.lease();
            }
            Event::Dropped { chunk, bytes } => {
                self.lose(bytes);
                self.chunks.dropped(chunk);
                self.lease();
            }
            Event::Damaged { chunk } => {
                let bytes = self.chunks.forget(chunk);
                self.lose(bytes);
                let (start, name) = (chunk as u64 * self.identity.head.chunk_bytes, &self.transfer.file.name);
                let what = format!("{} at byte {start} of {name}", text::bytes(bytes));
                let message = format!("{what} were damaged on the disk: fetching them again");
                self.transfer.say(Level::Warn, Step::Damaged, message);
                self.transfer.shelf.set(chunk, 0);
                self.write(Write::Forget { chunk }).await;
                self.lease();
            }
            Event::Vetted(Verdict::Unusable(failure)) => {
                self.end(Err(Trouble::new(TroubleKind::Unusable, failure)));
            }
            Event::Vetted(verdict) => {
                self.is_vetted = true;
                if let Verdict::Usable { warning, header } = verdict {
                    let warn = |step, warning| {
                        let message = format!("{}: {warning}", self.transfer.file.name);
                        self.transfer.say(Level::Warn, step, message);
                    };
                    if let Some(warning) = warning {
                        warn(Step::Unknown, warning);
                    }
                    let judge = &self.transfer.context.judge;
                    if let Some(warning) =
                        header.and_then(|header| judge.support(&judge.needs(&header)).warning())
                    {
                        warn(Step::Engine, warning);
                    }
                }
            }
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
            let panicked = |error| Failure::internal("a connection of a download panicked").detail(error);
            let ended = spawn::detached(connection.run());
            self.tasks.push(ended.map(move |ended| ended.map_err(panicked)).boxed());
        }
    }

    fn idle(&mut self, connection: usize, ended: FetchResult<()>, lease: oneshot::Sender<Lease>) {
        self.chunks.release(connection);
        let leased = self.leases[connection].take();
        if let Some(Leased::FromHive(holder)) = &leased {
            self.left_hive(holder, ended);
        } else if let (Some(Leased::FromSource(epoch, redirected)), Err(trouble)) = (leased, ended) {
            if trouble.kind == TroubleKind::Expired && redirected.is_some() {
                // Signed URLs are valid for a while only: to ask the file's own URL costs no retry.
                self.redirected.take_if(|known| Some(&*known) == redirected.as_ref());
            } else if let Err(trouble) = self.retry(epoch, trouble) {
                self.end(Err(trouble));
            }
        }
        if self.outcome.is_none() {
            self.idle.push((connection, lease));
            self.lease();
        }
    }

    /// Gives idle connections what there is to fetch.
    fn lease(&mut self) {
        // The waits of the budget are for the file's source.
        let waits = self.holders.is_empty() && self.budget.not_before > Instant::now();
        self.is_delayed = !self.idle.is_empty() && waits && !self.is_finding;
        if self.is_delayed || self.is_finding {
            return;
        }
        for (connection, sender) in mem::take(&mut self.idle) {
            if !self.holders.is_empty() {
                match self.lease_from_hive(connection) {
                    // The connection waits for it.
                    Some(lease) => drop(sender.send(lease)),
                    None => self.idle.push((connection, sender)),
                }
                continue;
            }
            let Some(range) = self.chunks.claim(connection) else {
                self.idle.push((connection, sender));
                continue;
            };
            self.leases[connection] = Some(Leased::FromSource(self.budget.epoch, self.redirected.clone()));
            // The connection waits for it.
            let _ = sender.send(Lease {
                range: (!self.is_whole_only).then_some(range),
                validator: self.identity.head.validator.clone(),
                redirected: self.redirected.clone(),
                holder: None,
            });
        }
    }

    /// Decides what a connection receives of an answer's body. `None` where it has to ask again.
    async fn judge(
        &mut self,
        connection: usize,
        host: &str,
        answer: &FileAnswer,
    ) -> FetchResult<Option<Span>> {
        let of_hive = self.hive_of(connection).map(|holder| hives::checked(&holder, answer)).transpose()?;
        let answer = of_hive.as_ref().unwrap_or(answer);
        match self.identity.judge(&self.transfer.file, host, answer)? {
            Judgement::AskForWhole => {
                self.is_whole_only = true;
                return Ok(None);
            }
            Judgement::First => {
                let head = self.identity.head.clone();
                self.chunks.set_size(head.size.unwrap_or_default());
                self.transfer.shelf.set_size(head.size.unwrap_or_default());
                self.write(Write::Open(head)).await;
                self.connect();
            }
            Judgement::Receive => {}
        }
        if answer.range.is_none() {
            tracing::debug!(%host, "the server sent the whole file");
            if !self.chunks.make_sequential(connection) {
                return Ok(None);
            }
        }
        Ok(Some(Span {
            chunk_bytes: self.identity.head.chunk_bytes,
            from: answer.range.as_ref().map_or(0, |range| range.start),
            stored: self.chunks.stored_in_span(connection),
            end: self.chunks.span_end(connection),
        }))
    }

    /// Decides whether to go on after a failure, and says so.
    fn retry(&mut self, epoch: u64, trouble: Trouble) -> FetchResult<()> {
        let Trouble { mut failure, kind } = trouble;
        let is_final = kind.is_fatal() || matches!(kind, TroubleKind::Changed | TroubleKind::Restart);
        if is_final || self.outcome.is_some() {
            return Err(Trouble { failure, kind });
        }
        self.budget.note_bytes(self.transfer.received());
        let of = self.budget.retries;
        match self.budget.failed(epoch, kind) {
            Next::GiveUp => {
                failure.message += &format!(" (given up after {of} retries)");
                return Err(Trouble::fatal(failure));
            }
            Next::Again => {}
            Next::Retry { failure: number, wait } => {
                let mut what = failure.message.clone();
                if let TroubleKind::Later(asked) = kind {
                    what += &format!(" and asks to wait {}", in_words(asked));
                }
                if kind == TroubleKind::Stalled {
                    let message = format!("{what}: replacing the connection ({number} of {of})");
                    self.transfer.say(Level::Warn, Step::Stalled, message);
                } else {
                    let next = format!("trying again in {}", in_words(wait));
                    let message = format!("{what}: {next} ({number} of {of})");
                    let waiting = format!("the next try, which comes after {} ({what})", in_words(wait));
                    self.transfer.say_wait(Step::Retry, message, waiting);
                }
            }
        }
        if self.identity.is_resumable() || self.chunks.is_empty() {
            return Ok(());
        }
        Err(Trouble { failure, kind: TroubleKind::Restart })
    }

    /// Counts bytes as not received.
    fn lose(&mut self, bytes: u64) {
        self.budget.note_bytes(self.transfer.received());
        self.transfer.received.fetch_sub(bytes, Ordering::Relaxed);
    }

    fn hash_all(&self) {
        (0..self.chunks.stored().len()).for_each(|chunk| self.hash(chunk));
    }

    /// Tells the hasher of a chunk, if it is complete.
    fn hash(&self, chunk: usize) {
        let chunks = self.chunks.stored();
        if let Some(hasher) = self.hasher.as_ref().filter(|_| self.chunks.is_complete(chunk)) {
            let is_last = chunk + 1 == chunks.len();
            // Where the hasher has ended, it has told why, and so the work ends.
            let _ = hasher.send(CompleteChunk { chunk, stored: chunks[chunk], is_last });
        }
    }

    async fn write(&mut self, write: Write) {
        if let Some(writer) = &self.writer {
            // The writer never waits for this task. Where it has ended, it has told why.
            let _ = writer.send(write).await;
        }
    }

    /// Ends the work. The first outcome counts, but a final failure replaces one that is not.
    fn end(&mut self, outcome: FetchResult<String>) {
        let is_final = |outcome: &FetchResult<String>| match outcome {
            Ok(_) => true,
            Err(trouble) => trouble.kind.is_fatal(),
        };
        if self.outcome.as_ref().is_none_or(|known| !is_final(known) && is_final(&outcome)) {
            self.outcome = Some(outcome);
        }
        self.stop.cancel();
        self.idle.clear();
        (self.writer, self.hasher) = (None, None);
    }

    fn show(&self, meter: &mut Meter) {
        // While every connection waits for the next try, a rate of nothing would say less than that.
        if self.is_delayed && self.leases.iter().all(Option::is_none) {
            return;
        }
        let size = self.chunks.size().or(self.transfer.file.size);
        let mut progress = meter.sample(self.transfer.received(), size, Instant::now());
        progress.connections = u32::try_from(self.leases.iter().flatten().count()).ok();
        progress.kept = self.identity.head.is_resumable().then(|| self.chunks.stored_bytes());
        let sentence = progress::sentence(&progress);
        self.transfer.say_progress(progress, sentence);
    }

    fn check_room(&mut self) {
        let path = &self.transfer.destination.partial;
        // Where the disk does not tell, a write fails when it is full.
        let room = files::free_bytes(path).unwrap_or(u64::MAX);
        let is_missing = self.transfer.file.size.is_none_or(|size| size > self.transfer.received());
        if self.outcome.is_none() && room < LAST_ROOM && is_missing {
            let message =
                format!("the disk of {} is nearly full: {} left", path.display(), text::bytes(room));
            let failure = Failure::new(Code::DiskFull, message)
                .hint("free some space on that disk, then try again: the bytes downloaded so far are kept");
            self.end(Err(Trouble::fatal(failure)));
        }
    }
}

/// Ticks in this interval, the first time after it.
fn every(period: Duration) -> Interval {
    let mut ticks = interval(period.max(Duration::from_millis(1)));
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    ticks.reset();
    ticks
}
