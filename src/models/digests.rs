//! The hashes of files whose SHA-256 nobody told: the hive reads such a file once, when another hive wants it.
//!
//! Invariants: a hash counts while its file has the same identity, size and times of change. A file is read by one
//! thread at a time, and files one after another, because they share a disk.

use std::collections::HashMap;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;
use sha2::{Digest, Sha256};
use tokio::sync::Semaphore;

use crate::error::{Failure, Result};
use crate::models::library::stamp::Stamp;
use crate::{files, spawn, text};

/// How much of a file is read at once, in bytes.
const PIECE: usize = 1 << 20;

/// The hashes that are known, and those that are being made.
#[derive(Debug)]
pub(crate) struct Digests {
    known: Mutex<HashMap<PathBuf, Known>>,
    turn: Arc<Semaphore>,
}

#[derive(Debug)]
struct Known {
    stamp: Stamp,
    state: State,
}

#[derive(Debug)]
enum State {
    /// So many bytes were read.
    Reading(Arc<AtomicU64>),
    Hashed(String),
    Failed(Failure),
}

/// What is known of a file's hash.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Hashed {
    /// In lower-case hexadecimal.
    As(String),
    /// It is being read: so many bytes were.
    Reading(u64),
}

impl Default for Digests {
    fn default() -> Self {
        Self { known: Mutex::default(), turn: Arc::new(Semaphore::new(1)) }
    }
}

impl Digests {
    /// The hash of a file. Where it is not known, somebody begins to read the file. Blocks on the disk for a moment.
    ///
    /// # Errors
    /// Why the file could not be read.
    pub(crate) fn of(self: &Arc<Self>, path: &Path) -> Result<Hashed> {
        let path = &*resolved(path);
        let stamp = stamp(path).map_err(|error| Failure::io("read", path, &error))?;
        let mut known = self.known.lock();
        match known.get(path).filter(|known| known.stamp == stamp).map(|known| &known.state) {
            Some(State::Hashed(sha256)) => return Ok(Hashed::As(sha256.clone())),
            Some(State::Reading(done)) => return Ok(Hashed::Reading(done.load(Ordering::Relaxed))),
            Some(State::Failed(failure)) => {
                let failure = failure.clone();
                // The next time it is read again.
                known.remove(path);
                return Err(failure);
            }
            None => {}
        }
        let done = Arc::<AtomicU64>::default();
        known.insert(path.to_owned(), Known { stamp, state: State::Reading(Arc::clone(&done)) });
        let (digests, path) = (Arc::clone(self), path.to_owned());
        spawn::detached(async move {
            let turn = Arc::clone(&digests.turn).acquire_owned().await;
            let read_path = path.clone();
            let hashed = spawn::blocking(move || hash(&read_path, &done)).await;
            drop(turn);
            let state = match hashed.map(|hashed| hashed.map_err(|error| Failure::io("read", &path, &error)))
            {
                Ok(Ok(sha256)) => State::Hashed(sha256),
                Ok(Err(failure)) | Err(failure) => State::Failed(failure),
            };
            // A file that changed meanwhile has another stamp, and is read again.
            digests.known.lock().insert(path, Known { stamp, state });
        });
        Ok(Hashed::Reading(0))
    }

    /// Notes the hash of a file that was just verified. Blocks on the disk.
    pub(crate) fn learn(&self, path: &Path, sha256: &str) {
        let path = resolved(path);
        if let Ok(stamp) = stamp(&path) {
            let state = State::Hashed(sha256.to_owned());
            self.known.lock().insert(path, Known { stamp, state });
        }
    }

    /// A file with that hash. Blocks on the disk.
    pub(crate) fn find(&self, sha256: &str) -> Option<PathBuf> {
        let is_it = |known: &Known| matches!(&known.state, State::Hashed(hash) if hash == sha256);
        let known = self.known.lock();
        let mut candidates = known.iter().filter(|(_, known)| is_it(known));
        let current = |(path, known): &(&PathBuf, &Known)| stamp(path).is_ok_and(|now| now == known.stamp);
        candidates.find(current).map(|(path, _)| path.clone())
    }
}

/// The file that a path leads to: links to one file have one hash.
fn resolved(path: &Path) -> PathBuf {
    path.canonicalize().unwrap_or_else(|_| path.to_owned())
}

fn stamp(path: &Path) -> io::Result<Stamp> {
    std::fs::metadata(path).map(|metadata| Stamp::of(&metadata))
}

fn hash(path: &Path, done: &AtomicU64) -> io::Result<String> {
    let (mut file, mut sha256, mut piece) = (files::open(path)?, Sha256::new(), vec![0; PIECE]);
    loop {
        match file.read(&mut piece)? {
            0 => return Ok(text::hex(&sha256.finalize())),
            read => {
                sha256.update(&piece[..read]);
                done.fetch_add(read as u64, Ordering::Relaxed);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::error::Code;

    async fn hashed(digests: &Arc<Digests>, path: &Path) -> String {
        loop {
            match digests.of(path).unwrap() {
                Hashed::As(sha256) => return sha256,
                Hashed::Reading(_) => tokio::task::yield_now().await,
            }
        }
    }

    #[tokio::test]
    async fn a_file_is_read_once_until_it_changes() {
        let folder = tempfile::tempdir().unwrap();
        let folder = folder.path().canonicalize().unwrap();
        let (path, digests) = (folder.join("m.gguf"), Arc::<Digests>::default());
        fs::write(&path, b"one").unwrap();
        let one = hashed(&digests, &path).await;
        assert_eq!(one, text::hex(&Sha256::digest(b"one")));
        assert_eq!(digests.of(&path).unwrap(), Hashed::As(one.clone()), "it is known now");
        assert_eq!(digests.find(&one), Some(path.clone()));
        fs::write(&path, b"another").unwrap();
        assert_eq!(digests.find(&one), None, "it is not that file any more");
        assert_eq!(hashed(&digests, &path).await, text::hex(&Sha256::digest(b"another")));
        digests.learn(&path, "told");
        assert_eq!(digests.of(&path).unwrap(), Hashed::As("told".into()));
        fs::remove_file(&path).unwrap();
        assert_eq!(digests.of(&path).unwrap_err().code, Code::Io);
        assert_eq!(digests.find("told"), None);
    }
}
