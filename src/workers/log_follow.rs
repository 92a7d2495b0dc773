//! Reading a worker's log while the worker writes it.

use std::io::{self, SeekFrom};
use std::path::{Path, PathBuf};

use tokio::fs::File;
use tokio::io::{AsyncReadExt, AsyncSeekExt};

use super::log_progress::LogProgress;
use super::secret::Secret;
use crate::files;
use crate::narration::{Level, LineNarrator, LineSplitter, Progress};
use crate::{n, spawn};

/// Bytes of one read.
const CHUNK_BYTES: usize = 64 << 10;
/// Reads of one call of [`NarratedLog::narrate_new`], so that a flood cannot hold up its caller.
const CHUNKS_PER_CALL: usize = 4;
/// A reader that falls behind by more bytes than this skips to the end.
const MAX_LAG_BYTES: u64 = 1 << 20;
/// The bytes at the end of a log in which its last lines are searched.
const TAIL_BYTES: u64 = 64 << 10;

/// A position in a growing log. When the log is cut, reading goes on at its new start.
#[derive(Debug)]
pub struct Follower {
    path: PathBuf,
    file: Option<File>,
    position: u64,
}

impl Follower {
    /// A follower at the start of the log at `path`, which may not exist yet.
    #[must_use]
    pub fn new(path: PathBuf) -> Self {
        Self { path, file: None, position: 0 }
    }

    /// The next bytes of the log, at most 64 KiB; empty where there are none yet.
    ///
    /// # Errors
    /// Where the log cannot be read.
    pub async fn next(&mut self) -> io::Result<Vec<u8>> {
        let file = match &mut self.file {
            Some(file) => file,
            none => match open(self.path.clone()).await {
                Ok(file) => none.insert(file),
                Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
                Err(error) => return Err(error),
            },
        };
        if file.metadata().await?.len() < self.position {
            self.position = file.seek(SeekFrom::Start(0)).await?;
        }
        let mut chunk = vec![0; CHUNK_BYTES];
        let read = file.read(&mut chunk).await?;
        chunk.truncate(read);
        self.position += read as u64;
        Ok(chunk)
    }

    /// Skips to the end if the reader has fallen far behind. Returns the bytes that it skipped.
    async fn catch_up(&mut self) -> io::Result<u64> {
        let Some(file) = &mut self.file else { return Ok(0) };
        let behind = file.metadata().await?.len().saturating_sub(self.position);
        if behind <= MAX_LAG_BYTES {
            return Ok(0);
        }
        self.position = file.seek(SeekFrom::Current(behind.cast_signed())).await?;
        Ok(behind)
    }
}

async fn open(path: PathBuf) -> io::Result<File> {
    let opened = spawn::blocking(move || files::open(&path)).await;
    opened.map_err(io::Error::other).flatten().map(File::from_std)
}

/// Narrates a log line by line, and thins out a flood of lines.
#[derive(Debug)]
pub(super) struct NarratedLog {
    follower: Follower,
    splitter: LineSplitter,
    narrator: LineNarrator,
    progress: LogProgress,
    secret: Secret,
}

impl NarratedLog {
    pub(super) fn new(path: PathBuf, level: Level, engine: &str, secret: Secret) -> Self {
        Self {
            follower: Follower::new(path),
            splitter: LineSplitter::default(),
            narrator: LineNarrator::new(level, "worker_log", format!("{engine}: ")),
            progress: LogProgress::default(),
            secret,
        }
    }

    /// The bytes of the log that have been read.
    pub(super) const fn position(&self) -> u64 {
        self.follower.position
    }

    /// The last progress of the load that the log reported.
    pub(super) fn progress(&self) -> Option<Progress> {
        self.progress.progress()
    }

    /// Narrates the lines that were written since the last call. A log that cannot be read does not
    /// make the start fail.
    pub(super) async fn narrate_new(&mut self) {
        if let Err(error) = self.try_narrate_new().await {
            tracing::debug!(path = %self.follower.path.display(), %error, "could not read the log of a worker");
        }
    }

    async fn try_narrate_new(&mut self) -> io::Result<()> {
        for _ in 0..CHUNKS_PER_CALL {
            let chunk = self.follower.next().await?;
            if chunk.is_empty() {
                return Ok(());
            }
            let Self { splitter, narrator, progress, secret, .. } = self;
            progress.push(&chunk);
            splitter.push(&chunk, |line| narrator.line(&secret.redact(line)));
        }
        let skipped = self.follower.catch_up().await?;
        if skipped > 0 {
            n!(warn: "worker_log", "… {skipped} bytes of the worker's log left out");
        }
        Ok(())
    }

    /// Narrates the rest of the log, including a last line without a line break.
    pub(super) async fn finish(&mut self) {
        self.narrate_new().await;
        let Self { splitter, narrator, secret, .. } = self;
        splitter.finish(|line| narrator.line(&secret.redact(line)));
        narrator.report();
    }
}

/// The last `count` lines of a worker's log, oldest first. Blocks.
pub(super) fn tail(path: &Path, count: usize, secret: &Secret) -> Vec<String> {
    last_lines(path, count).iter().map(|line| secret.redact(line).into_owned()).collect()
}

/// The last `count` lines of a log, oldest first; none where it cannot be read. Blocks.
pub(crate) fn last_lines(path: &Path, count: usize) -> Vec<String> {
    let mut lines = Vec::new();
    let Ok(bytes) = end_of(path) else { return lines };
    let mut splitter = LineSplitter::default();
    splitter.push(&bytes, |line| lines.push(line.to_owned()));
    splitter.finish(|line| lines.push(line.to_owned()));
    lines.split_off(lines.len().saturating_sub(count))
}

fn end_of(path: &Path) -> io::Result<Vec<u8>> {
    use std::io::{Read, Seek};

    let mut file = files::open(path)?;
    let start = file.metadata()?.len().saturating_sub(TAIL_BYTES);
    file.seek(SeekFrom::Start(start))?;
    let mut bytes = Vec::new();
    file.take(TAIL_BYTES).read_to_end(&mut bytes)?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    #[tokio::test]
    async fn appended_bytes_arrive_also_after_the_log_was_cut() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log");
        let mut follower = Follower::new(path.clone());
        assert!(follower.next().await.unwrap().is_empty(), "no log yet");
        let mut log = std::fs::File::options().create(true).append(true).open(&path).unwrap();
        log.write_all(b"one\n").unwrap();
        assert_eq!(follower.next().await.unwrap(), b"one\n");
        assert!(follower.next().await.unwrap().is_empty());
        log.set_len(0).unwrap();
        log.write_all(b"2\n").unwrap();
        assert_eq!(follower.next().await.unwrap(), b"2\n");
    }

    #[test]
    fn the_tail_has_the_last_lines_without_the_secret() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log");
        let secret = Secret::random();
        let text: String = (0..30_000).map(|n| format!("line {n}\n")).collect();
        std::fs::write(&path, format!("{text}key {}", secret.expose())).unwrap();
        let tail = tail(&path, 3, &secret);
        assert_eq!(tail, ["line 29998", "line 29999", "key [secret]"]);
    }
}
