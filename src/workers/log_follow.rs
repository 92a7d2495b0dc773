//! Reading a worker's log while the worker writes it.

use std::io::{self, SeekFrom};
use std::path::{Path, PathBuf};

use tokio::fs::File;
use tokio::io::{AsyncReadExt, AsyncSeekExt};

use super::handle::Secret;
use super::log_progress::LogProgress;
use crate::n;
use crate::narration::{Level, LineNarrator, LineSplitter, Progress};

/// Read at once, in bytes.
const CHUNK_BYTES: usize = 64 << 10;
/// Chunks read in one turn, so that a flood cannot hold up its reader.
const CHUNKS_A_TURN: usize = 4;
/// A reader that has fallen behind by more than this many bytes skips to the end.
const MAX_LAG_BYTES: u64 = 1 << 20;
/// The end of a log that is searched for its last lines, in bytes.
const TAIL_BYTES: u64 = 64 << 10;

/// A place in a log that grows. Survives the log's being cut: it goes on at its new start.
#[derive(Debug)]
pub struct Follower {
    path: PathBuf,
    file: Option<File>,
    position: u64,
}

impl Follower {
    /// A follower at the start of the log at `path`, which need not exist yet.
    #[must_use]
    pub fn new(path: PathBuf) -> Self {
        Self { path, file: None, position: 0 }
    }

    /// The next bytes of the log, at most 64 KiB; none for now where there are no further ones.
    ///
    /// # Errors
    /// Where the log cannot be read.
    pub async fn next(&mut self) -> io::Result<Vec<u8>> {
        let file = match &mut self.file {
            Some(file) => file,
            none => match File::open(&self.path).await {
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

    /// Skips to the end where the reader has fallen far behind. Returns the bytes left out.
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

/// Narrates a log where it is asked to, line by line, thinned out where it is a flood.
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

    /// How far the log has been read, in bytes.
    pub(super) const fn position(&self) -> u64 {
        self.follower.position
    }

    /// How far the load has come, where the log has told.
    pub(super) fn progress(&self) -> Option<Progress> {
        self.progress.progress()
    }

    /// Narrates what was written since the last turn. A log that cannot be read is no reason to
    /// give up on its worker.
    pub(super) async fn turn(&mut self) {
        if let Err(error) = self.try_turn().await {
            tracing::debug!(path = %self.follower.path.display(), %error, "a worker's log could not be read");
        }
    }

    async fn try_turn(&mut self) -> io::Result<()> {
        for _ in 0..CHUNKS_A_TURN {
            let chunk = self.follower.next().await?;
            if chunk.is_empty() {
                return Ok(());
            }
            let Self { splitter, narrator, progress, secret, .. } = self;
            progress.push(&chunk);
            splitter.push(&chunk, |line| narrator.line(&secret.redact(line)));
        }
        let left_out = self.follower.catch_up().await?;
        if left_out > 0 {
            n!(warn: "worker_log", "… {left_out} bytes of the worker's log left out");
        }
        Ok(())
    }

    /// Narrates what is left, a last line without an end included.
    pub(super) async fn finish(&mut self) {
        self.turn().await;
        let Self { splitter, narrator, secret, .. } = self;
        splitter.finish(|line| narrator.line(&secret.redact(line)));
        narrator.report();
    }
}

/// The last `count` lines of a log, oldest first. Blocks on the disk.
pub(super) fn tail(path: &Path, count: usize, secret: &Secret) -> Vec<String> {
    let mut lines = Vec::new();
    let Ok(bytes) = end_of(path) else { return lines };
    let mut splitter = LineSplitter::default();
    splitter.push(&bytes, |line| lines.push(secret.redact(line).into_owned()));
    splitter.finish(|line| lines.push(secret.redact(line).into_owned()));
    lines.split_off(lines.len().saturating_sub(count))
}

fn end_of(path: &Path) -> io::Result<Vec<u8>> {
    use std::io::{Read, Seek};

    let mut file = std::fs::File::open(path)?;
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
    async fn what_is_appended_arrives_and_a_cut_log_goes_on() {
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
    fn the_tail_has_the_last_lines_and_no_secret() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log");
        let secret = Secret::random();
        let text: String = (0..30_000).map(|n| format!("line {n}\n")).collect();
        std::fs::write(&path, format!("{text}key {}", secret.expose())).unwrap();
        let tail = tail(&path, 3, &secret);
        assert_eq!(tail, ["line 29998", "line 29999", "key [secret]"]);
    }
}
