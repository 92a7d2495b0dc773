//! Bringing one file here: in parallel ranges, each written in place, checksummed and journalled as
//! it arrives, while one follower hashes the file in order.
//!
//! Connections join one by one, for as long as further ones can be of use: past a rate that a disk and
//! a hash barely keep up with, and sooner where the server is near, they would only put the bytes out
//! of order.
//!
//! Invariants:
//! - A byte counts as there once it is written *and* recorded with its checksum, in that order.
//! - What the follower hashes are the very bytes that were written, while they are still in memory;
//!   or else what it reads back from the disk, and then each chunk has the checksum with which it came
//!   from the network. What is promoted has, all of it, the hash that the source promised.
//! - Pieces of two versions of a file never meet: every request but the first carries `If-Range`, and
//!   where a server names no version, and the source promises no hash, one answer has to bring the
//!   whole file.
//! - A transfer that ends early keeps what can be gone on with, and says how much that is.

pub(crate) mod board;
pub(crate) mod connection;
pub(crate) mod budget;
pub(crate) mod partial;
pub(crate) mod journal;
pub(crate) mod progress;
pub(crate) mod transfers;
pub(crate) mod context;
pub(crate) mod fetch;
pub(crate) mod guard;
pub(crate) mod limiter;
pub(crate) mod disk;
pub(crate) mod remote;
pub(crate) mod report;
pub(crate) mod trouble;
pub(crate) mod writer;

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt;
use futures::stream::FuturesUnordered;
use parking_lot::{Condvar, Mutex};
use reqwest::Url;
use sha2::{Digest, Sha256};
use tokio::sync::watch;
use tokio::time::{Instant, MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;

use crate::error::{Code, Failure, Result};
use crate::files;
use crate::models::transfer::board::{Board, Filled};
use crate::models::transfer::budget::Budget;
use crate::models::transfer::context::TransferContext;
use crate::models::transfer::fetch::Fetcher;
use crate::models::transfer::journal::{Claim, Contents, Head, Journal};
use crate::models::transfer::partial::Partial;
use crate::models::transfer::progress::Meter;
use crate::models::transfer::remote::{Destination, Refusal, RemoteFile, StoredFile};
use crate::models::transfer::report::Reporter;
use crate::models::transfer::trouble::{FetchResult, Trouble, TroubleKind, download_failed};
use crate::models::transfer::writer::{Part, Queue};
use crate::models::units;
use crate::narration::Level;
use crate::spawn;

/// How often a file may turn out to be another one than before.
const MAX_CHANGES: u32 = 2;
/// How many chunks the disk may give back other than they were written.
const MAX_DAMAGE: u32 = 64;
/// At this rate no further connection joins, in bytes a second.
const FAST: u64 = 512 << 20;
/// A server that answers within this time is near: no distance slows its connections down.
const NEAR: Duration = Duration::from_millis(10);
/// At this rate no further connection to a server that is near joins, in bytes a second.
const FAST_AND_NEAR: u64 = 64 << 20;
/// A transfer stops before the disk has less room than this, in bytes.
const LAST_ROOM: u64 = 64 << 20;

/// One transfer.
#[derive(Debug)]
pub(crate) struct Transfer {
    pub(crate) context: Arc<TransferContext>,
    pub(crate) file: RemoteFile,
    pub(crate) destination: Destination,
    pub(crate) reporter: Reporter,
    pub(crate) stop: CancellationToken,
    pub(crate) fetcher: Fetcher,
    pub(crate) budget: Budget,
    /// Bytes received, of those that are needed.
    pub(crate) done: AtomicU64,
    /// The most that `done` ever was.
    furthest: AtomicU64,
    /// The shortest time in which an answer began, in microseconds.
    pub(crate) answered: AtomicU64,
    /// Where the redirects led to.
    pub(crate) place: Mutex<Option<Url>>,
    /// Whether the file is to be asked for as a whole.
    pub(crate) is_plain: AtomicBool,
}

/// One go at the file, from what is there to the whole of it.
#[derive(Debug)]
pub(crate) struct Round {
    pub(crate) transfer: Arc<Transfer>,
    pub(crate) file: Arc<File>,
    pub(crate) board: Mutex<Board>,
    /// Rung, with the board's lock, when a chunk has become whole or the work is to end.
    filled: Condvar,
    /// Rung, with the board's lock, when a chunk was hashed or the work is to end.
    hashed: Condvar,
    /// Rung when there may be something to do for an idle connection.
    pub(crate) bell: watch::Sender<()>,
    pub(crate) head: Mutex<Head>,
    pub(crate) journal: Mutex<Option<Journal>>,
    journal_path: std::path::PathBuf,
    /// Whether it is known which file this is, so that more connections may join.
    pub(crate) is_open: AtomicBool,
    pub(crate) live: AtomicU32,
    /// How many connections may be at work.
    pub(crate) joined: AtomicUsize,
    /// What is to be written.
    pub(crate) queue: Queue,
    pub(crate) stop: CancellationToken,
}

/// When it was last asked whether another connection should join, and how many bytes were there.
struct Joining {
    at: Instant,
    done: u64,
}

/// How the follower ended: with the hash, or because the work was stopped.
type Hashed = io::Result<Option<String>>;

impl Joining {
    /// Whether less came since the last time than makes one more connection useless.
    fn is_slow(&mut self, done: u64, answered: Duration) -> bool {
        let (before, now) = (std::mem::replace(&mut self.done, done), Instant::now());
        let elapsed = now.duration_since(std::mem::replace(&mut self.at, now));
        let fast = if answered < NEAR { FAST_AND_NEAR } else { FAST };
        (done.saturating_sub(before) as f64) < elapsed.as_secs_f64() * fast as f64
    }
}

impl Transfer {
    pub(crate) fn new(
        context: Arc<TransferContext>,
        file: RemoteFile,
        destination: Destination,
        reporter: Reporter,
        stop: CancellationToken,
    ) -> Self {
        let fetcher = Fetcher::new(&context.fetch, &file.trust, &file.url);
        let budget =
            Budget::new(context.downloads.retries, *context.timers.retry, *context.timers.retry_after);
        Self {
            context,
            file,
            destination,
            reporter,
            stop,
            fetcher,
            budget,
            done: AtomicU64::new(0),
            furthest: AtomicU64::new(0),
            answered: AtomicU64::new(u64::MAX),
            place: Mutex::default(),
            is_plain: AtomicBool::new(false),
        }
    }

    /// Brings the file to its place.
    ///
    /// # Errors
    /// [`Code::Cancelled`] once it is stopped; [`Code::DownloadFailed`], [`Code::SourceNotFound`],
    /// [`Code::SourceRefused`], [`Code::DiskFull`], and what [`Destination::accept`] says.
    pub(crate) async fn run(self: Arc<Self>) -> Result<StoredFile> {
        let partial = Arc::new(Partial::hold(&self.destination, &self.reporter, &self.stop).await?);
        if !self.destination.replace
            && let Ok(metadata) = std::fs::metadata(&self.destination.target)
        {
            // Another job, or another process, brought it in the meantime.
            self.on_disk(&partial, Partial::discard).await?;
            return Ok(StoredFile { size: metadata.len(), sha256: None, is_verified: false });
        }
        let mut changes = 0;
        loop {
            match self.round(&partial).await {
                Ok((sha256, size)) => return self.promote(&partial, sha256, size).await,
                Err(trouble) if trouble.kind == TroubleKind::Changed && changes < MAX_CHANGES => {
                    changes += 1;
                    let why = trouble.failure.message;
                    self.say(Level::Warn, "model_download_restarted", format!("{why}: starting over"));
                    self.on_disk(&partial, Partial::clear).await?;
                }
                Err(trouble) if trouble.kind == TroubleKind::Restart => {
                    // One answer has to bring the whole file, and this one did not.
                    self.on_disk(&partial, Partial::clear).await?;
                }
                Err(trouble) => return Err(self.give_up(&partial, trouble.failure).await),
            }
            self.done.store(0, Ordering::Relaxed);
        }
    }

    /// Counts bytes that arrived. What had come before, and was lost again, is no progress.
    pub(crate) fn received(&self, bytes: u64) {
        let done = self.done.fetch_add(bytes, Ordering::Relaxed) + bytes;
        let before = self.furthest.fetch_max(done, Ordering::Relaxed);
        self.budget.received(done.saturating_sub(before).min(bytes));
    }

    pub(crate) fn say(&self, level: Level, action: &'static str, message: String) {
        self.reporter.say(level, action, message);
    }

    /// Goes on from what is there until all of it is there and hashed.
    async fn round(self: &Arc<Self>, partial: &Arc<Partial>) -> FetchResult<(String, u64)> {
        let round = Arc::new(self.begin(partial).await?);
        let follower = spawn::blocking({
            let round = Arc::clone(&round);
            move || round.follow()
        });
        let writer = spawn::blocking({
            let round = Arc::clone(&round);
            move || round.write_all()
        });
        let mut connections: FuturesUnordered<_> = (0..self.context.downloads.connections)
            .map(|connection| spawn::detached(Arc::clone(&round).connection(connection)))
            .collect();

        let mut ticks = interval(self.context.timers.progress.max(Duration::from_millis(1)));
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        ticks.reset();
        let mut meter = Meter::starting_at(self.done.load(Ordering::Relaxed), Instant::now());
        let mut joins = interval((*self.context.timers.progress / 4).max(Duration::from_millis(1)));
        joins.set_missed_tick_behavior(MissedTickBehavior::Delay);
        joins.reset();
        let mut joining = Joining { at: Instant::now(), done: self.done.load(Ordering::Relaxed) };
        let mut outcome = Ok(());
        loop {
            let ended = tokio::select! {
                ended = connections.next() => ended,
                _ = joins.tick(), if round.joined.load(Ordering::Relaxed) < self.context.downloads.connections => {
                    let answered = Duration::from_micros(self.answered.load(Ordering::Relaxed));
                    if joining.is_slow(self.done.load(Ordering::Relaxed), answered) {
                        round.joined.fetch_add(1, Ordering::Relaxed);
                        round.ring();
                    }
                    continue;
                }
                _ = ticks.tick() => {
                    self.show(&round, &mut meter);
                    if outcome.is_ok() && let Err(failure) = self.check_room(partial) {
                        outcome = Err(Trouble::fatal(failure));
                        round.end();
                    }
                    continue;
                }
            };
            let Some(ended) = ended else { break };
            let ended = ended.unwrap_or_else(|error| {
                let failure = Failure::internal("a connection of a download broke off").detail(error);
                Err(Trouble::fatal(failure))
            });
            if let Err(trouble) = ended {
                round.end();
                // The first to fail knows why; but nothing beats a reason that is final.
                let is_final = trouble.kind == TroubleKind::Fatal;
                if outcome.is_ok()
                    || (is_final
                        && outcome.as_ref().is_err_and(|known: &Trouble| known.kind != TroubleKind::Fatal))
                {
                    outcome = Err(trouble);
                }
            }
        }
        if self.stop.is_cancelled() {
            round.end();
        }
        // What is in the queue is still written.
        round.queue.close();
        let written = writer
            .await
            .map_err(|error| Trouble::fatal(Failure::internal("writing a file broke off").detail(error)));
        let hashed = follower
            .await
            .map_err(|error| Trouble::fatal(Failure::internal("hashing a file broke off").detail(error)))?;
        self.show(&round, &mut meter);
        outcome?;
        written?.map_err(|error| disk_trouble(&round, &error))?;
        let hashed =
            hashed.map_err(|error| Trouble::fatal(Failure::io("read back", partial.path(), &error)))?;
        match hashed {
            Some(hash) => Ok((hash, round.board.lock().size().unwrap_or_default())),
            None => Err(Trouble::fatal(Failure::new(Code::Cancelled, "the download was cancelled"))),
        }
    }

    /// Looks at what is there already.
    async fn begin(self: &Arc<Self>, partial: &Arc<Partial>) -> FetchResult<Round> {
        let wanted = Head::of(&self.file, u64::from(self.context.downloads.chunk_bytes));
        let found = self
            .on_disk(partial, |partial| Ok(Contents::read(&partial.journal_path())))
            .await
            .map_err(Trouble::fatal)?;
        let is_known = found.is_some();
        let usable = found.filter(|contents| contents.head.is_resumed_by(&wanted));
        let journal_path = partial.journal_path();
        let (head, claims, journal) = match usable {
            Some(contents) => {
                let journal = Journal::resume(&journal_path, &contents, Arc::clone(&self.context.disk))
                    .map_err(|error| Trouble::fatal(Failure::io("open", &journal_path, &error)))?;
                (contents.head, contents.claims, Some(journal))
            }
            None => {
                if is_known {
                    self.say(
                        Level::Info,
                        "model_download_resume",
                        format!(
                            "What is here of {} is of another version of it: starting over",
                            self.file.name
                        ),
                    );
                }
                self.on_disk(partial, Partial::clear).await.map_err(Trouble::fatal)?;
                (wanted, Vec::new(), None)
            }
        };
        let connections = self.context.downloads.connections;
        let board = Board::new(head.chunk_bytes, head.size, connections, &claims);
        let done = board.done();
        self.done.store(done, Ordering::Relaxed);
        if done > 0 {
            let (name, size) = (&self.file.name, head.size.unwrap_or_default());
            self.say(
                Level::Info,
                "model_download_resume",
                format!("Going on with {name}: {} of {} are here", units::bytes(done), units::bytes(size)),
            );
        }
        Ok(Round {
            transfer: Arc::clone(self),
            file: partial.file(),
            board: Mutex::new(board),
            filled: Condvar::new(),
            hashed: Condvar::new(),
            bell: watch::Sender::new(()),
            is_open: AtomicBool::new(journal.is_some()),
            head: Mutex::new(head),
            journal: Mutex::new(journal),
            journal_path,
            live: AtomicU32::new(0),
            joined: AtomicUsize::new(1),
            queue: Queue::default(),
            stop: self.stop.child_token(),
        })
    }

    fn show(&self, round: &Round, meter: &mut Meter) {
        let size = round.board.lock().size().or(self.file.size);
        let mut progress = meter.sample(self.done.load(Ordering::Relaxed), size, Instant::now());
        progress.connections = Some(round.live.load(Ordering::Relaxed));
        let sentence = progress::sentence(&progress);
        self.reporter.progress(progress, sentence);
    }

    fn check_room(&self, partial: &Partial) -> Result<()> {
        // Where the disk does not tell, it says so when it is full.
        let room = files::free_bytes(partial.path()).unwrap_or(u64::MAX);
        let left = self.file.size.map_or(1, |size| size.saturating_sub(self.done.load(Ordering::Relaxed)));
        if room >= LAST_ROOM || left == 0 {
            return Ok(());
        }
        let path = partial.path().display();
        Err(Failure::new(
            Code::DiskFull,
            format!("the disk of {path} is nearly full: {} left", units::bytes(room)),
        )
        .hint("free some space on that disk, then try again: what is here is kept"))
    }

    /// Checks the whole file and gives it its name.
    async fn promote(&self, partial: &Arc<Partial>, sha256: String, size: u64) -> Result<StoredFile> {
        let name = &self.file.name;
        if let Some(promised) = self.file.sha256.as_ref().filter(|promised| **promised != sha256) {
            let host = self.file.url.host_str().unwrap_or_default();
            let failure = Failure::new(
                Code::DownloadFailed,
                format!("what {host} sent as {name} has the SHA-256 {sha256}, not {promised}"),
            );
            self.on_disk(partial, Partial::discard).await?;
            self.say(Level::Warn, "model_download_removed", format!("Removed the damaged {name}"));
            return Err(failure
                .stage("verify")
                .hint("the file was changed or damaged: check the hash, or where it comes from"));
        }
        let is_verified = self.file.sha256.is_some();
        let verdict = if is_verified {
            format!("{name} has the SHA-256 that its source promises: {sha256}")
        } else {
            format!("{name} could not be verified: its source promises no hash. Its SHA-256 is {sha256}")
        };
        self.say(Level::Info, "model_download_verify", verdict);
        let whole = StoredFile { size, sha256: Some(sha256), is_verified };

        let (disk, path, file) = (Arc::clone(&self.context.disk), partial.path().to_owned(), partial.file());
        let begin = Instant::now();
        let synced = spawn::blocking(move || disk.sync(&file)).await;
        let synced = synced.unwrap_or_else(|error| Err(io::Error::other(error)));
        let waited = format!("The disk took {} ms to have all of {name}", begin.elapsed().as_millis());
        self.say(Level::Debug, "model_download_sync", waited);
        if let Err(error) = synced {
            return Err(self.give_up(partial, Failure::io("write", &path, &error)).await);
        }
        let (accept, at, given) = (Arc::clone(&self.destination.accept), path.clone(), whole.clone());
        let accepted = spawn::blocking(move || accept(&at, &given))
            .await
            .unwrap_or_else(|error| Err(Refusal::Unusable(error)));
        if let Err(refusal) = accepted {
            let failure = match refusal {
                Refusal::Unfinished(failure) => return Err(self.give_up(partial, failure).await),
                Refusal::Unusable(failure) => failure,
            };
            self.on_disk(partial, Partial::discard).await?;
            self.say(Level::Warn, "model_download_removed", format!("Removed {name}: it is of no use"));
            return Err(failure.stage("verify"));
        }
        let (disk, target) = (Arc::clone(&self.context.disk), self.destination.target.clone());
        let moved = self.on_disk(partial, move |partial| partial.promote(&target, &*disk)).await;
        match moved {
            Ok(()) => Ok(whole),
            Err(failure) => Err(self.give_up(partial, failure).await),
        }
    }

    /// Keeps what can be gone on with, and says so.
    async fn give_up(&self, partial: &Arc<Partial>, mut failure: Failure) -> Failure {
        let kept = self
            .on_disk(partial, |partial| {
                let contents = Contents::read(&partial.journal_path())
                    .filter(|contents| contents.head.is_resumable() && contents.done() > 0);
                match contents {
                    Some(contents) => Ok(Some((contents.done(), contents.head.size))),
                    None => partial.discard().map(|()| None),
                }
            })
            .await;
        let name = &self.file.name;
        match kept {
            Ok(Some((done, size))) => {
                let come = came(done, size);
                if failure.code == Code::DownloadFailed {
                    // How far it came says whether to try again.
                    failure.message += &format!(", after {come}");
                }
                self.say(
                    Level::Info,
                    "model_download_kept",
                    format!("Kept {come} of {name}: downloading it again goes on from there"),
                );
            }
            Ok(None) => {
                let done = self.done.load(Ordering::Relaxed);
                let received = units::bytes(done);
                if failure.code == Code::DownloadFailed {
                    failure.message += &format!(", after {}", came(done, self.file.size));
                }
                self.say(
                    Level::Info,
                    "model_download_removed",
                    format!("Removed the partial file of {name} ({received}): it could not be gone on with"),
                );
            }
            Err(stays) => {
                self.say(
                    Level::Warn,
                    "model_download_kept",
                    format!("The partial file of {name} stays: {stays}"),
                );
            }
        }
        failure.stage("transfer")
    }

    async fn on_disk<T: Send + 'static>(
        &self,
        partial: &Arc<Partial>,
        work: impl FnOnce(&Partial) -> io::Result<T> + Send + 'static,
    ) -> Result<T> {
        let held = Arc::clone(partial);
        spawn::blocking(move || work(&held))
            .await
            .map_err(|error| Failure::internal("work on a partial file broke off").detail(error))?
            .map_err(|error| Failure::io("write", partial.path(), &error))
    }
}

impl Round {
    /// Ends the work of all connections and of the follower.
    pub(crate) fn end(&self) {
        self.stop.cancel();
        self.board.lock().is_stopped = true;
        self.filled.notify_all();
        self.hashed.notify_all();
        self.ring();
    }

    /// Wakes idle connections.
    pub(crate) fn ring(&self) {
        self.bell.send_replace(());
    }

    /// Says what the file is, as the first answer tells: from now on it is a fault if another answer
    /// tells otherwise. `only` is the one connection that may go on, where the answer is the whole
    /// file. Blocks on the disk.
    pub(crate) fn open(&self, size: u64, validator: Option<String>, only: Option<usize>) -> io::Result<()> {
        let mut head = self.head.lock();
        head.size = Some(size);
        head.validator = validator;
        if head.is_resumable() {
            let disk = Arc::clone(&self.transfer.context.disk);
            *self.journal.lock() = Some(Journal::create(&self.journal_path, &head, disk)?);
        }
        drop(head);
        // So that the follower may read anywhere, and listings see no growing file.
        self.file.set_len(size)?;
        {
            let mut board = self.board.lock();
            board.set_size(size);
            if let Some(only) = only {
                board.make_sequential(only);
            }
        }
        self.is_open.store(true, Ordering::Release);
        self.filled.notify_all();
        self.ring();
        Ok(())
    }

    /// Says how long a file is whose server had not said so.
    pub(crate) fn set_size(&self, size: u64) {
        self.head.lock().size = Some(size);
        self.board.lock().set_size(size);
        self.filled.notify_all();
        self.ring();
    }

    /// Writes what the connections give. Blocks.
    fn write_all(&self) -> io::Result<()> {
        self.queue.write(|Part { offset, pieces, .. }| self.write(offset, pieces)).inspect_err(|_| self.end())
    }

    /// Writes bytes of one chunk at an offset of the file, then records them. What another connection
    /// has written in the meantime is left alone.
    fn write(&self, offset: u64, pieces: Vec<Bytes>) -> io::Result<()> {
        let (chunk, start, before) = {
            let mut board = self.board.lock();
            let chunk = board.chunk_at(offset);
            while !board.is_stopped && board.should_wait(chunk) {
                self.hashed.wait(&mut board);
            }
            (chunk, board.start(chunk), board.filled(chunk))
        };
        if start + u64::from(before.length) != offset {
            let bytes = pieces.iter().map(|piece| piece.len() as u64).sum();
            self.transfer.done.fetch_sub(bytes, Ordering::Relaxed);
            self.landed(chunk);
            return Ok(());
        }
        let mut crc = crc32fast::Hasher::new_with_initial_len(before.crc, u64::from(before.length));
        let mut length = before.length;
        for piece in &pieces {
            self.transfer.context.disk.write_all_at(&self.file, piece, start + u64::from(length))?;
            crc.update(piece);
            length += u32::try_from(piece.len()).map_err(io::Error::other)?;
        }
        let filled = Filled { length, crc: crc.finalize() };
        if let Some(journal) = &mut *self.journal.lock() {
            let chunk = u32::try_from(chunk).map_err(io::Error::other)?;
            journal.append(Claim { chunk, length: filled.length, crc: filled.crc })?;
        }
        let is_whole = {
            let mut board = self.board.lock();
            board.hold(chunk, before.length, pieces);
            board.set(chunk, filled);
            board.is_whole(chunk)
        };
        self.landed(chunk);
        if is_whole {
            self.filled.notify_all();
        }
        Ok(())
    }

    /// Counts a part of a chunk as written, or as dropped.
    fn landed(&self, chunk: usize) {
        if self.board.lock().landed(chunk) {
            self.ring();
        }
    }

    /// Hashes the chunks in order as they become whole; those that are not in memory any more are read
    /// back and checked. Blocks.
    fn follow(&self) -> Hashed {
        let hashed = self.hash();
        if hashed.is_err() {
            self.end();
        }
        self.ring();
        hashed
    }

    fn hash(&self) -> Hashed {
        let mut hash = Sha256::new();
        let mut buffer = Vec::new();
        let mut damage = 0;
        loop {
            let (chunk, start, filled, held) = {
                let mut board = self.board.lock();
                loop {
                    if board.is_stopped {
                        return Ok(None);
                    }
                    if board.is_hashed() {
                        return Ok(Some(units::hex(&hash.finalize())));
                    }
                    let next = board.next_to_hash();
                    if board.is_whole(next) {
                        break (next, board.start(next), board.filled(next), board.take_held());
                    }
                    self.filled.wait(&mut board);
                }
            };
            if let Some(pieces) = held {
                pieces.iter().for_each(|piece| hash.update(piece));
                self.has_hashed();
                continue;
            }
            buffer.resize(filled.length as usize, 0);
            let is_sound = match self.file.read_exact_at(&mut buffer, start) {
                Ok(()) => crc32fast::hash(&buffer) == filled.crc,
                Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => false,
                Err(error) => return Err(error),
            };
            if is_sound {
                hash.update(&buffer);
                self.has_hashed();
                continue;
            }
            damage += 1;
            if damage > MAX_DAMAGE {
                return Err(io::Error::other("the disk does not give back what is written to it"));
            }
            self.lose(chunk, start, filled);
        }
    }

    fn has_hashed(&self) {
        self.board.lock().has_hashed();
        self.hashed.notify_all();
    }

    /// Lets a chunk be fetched again whose bytes on the disk are not those that came.
    fn lose(&self, chunk: usize, start: u64, filled: Filled) {
        let (transfer, bytes) = (&self.transfer, u64::from(filled.length));
        transfer.done.fetch_sub(bytes, Ordering::Relaxed);
        transfer.say(
            Level::Warn,
            "model_download_damaged",
            format!(
                "{} at byte {start} of {} were damaged on the disk: fetching them again",
                units::bytes(bytes),
                transfer.file.name
            ),
        );
        self.board.lock().set(chunk, Filled::default());
        self.ring();
    }
}

fn came(done: u64, size: Option<u64>) -> String {
    match size {
        Some(size) => format!("{} of {}", units::bytes(done), units::bytes(size)),
        None => units::bytes(done),
    }
}

/// A failure of this machine's disk.
pub(crate) fn disk_trouble(round: &Round, error: &io::Error) -> Trouble {
    Trouble::fatal(Failure::io("write", &round.transfer.destination.partial, error))
}

/// A failure of the other side.
pub(crate) fn passing(message: String) -> Trouble {
    Trouble::passing(download_failed(message))
}

#[cfg(test)]
mod tests;
