//! The thread that hashes a transfer's file, chunk by chunk in order, as the chunks become complete.
//!
//! It reads each chunk back from the disk and compares it with the checksum of the bytes that were
//! received, so that the hash is of those bytes and of the file alike.

use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::Arc;

use sha2::{Digest, Sha256};
use tokio::sync::mpsc;

use crate::error::Failure;
use crate::models::transfer::chunks::Stored;
use crate::models::transfer::messages::{Event, Hash};
use crate::models::transfer::trouble::Trouble;
use crate::models::units;

/// How many damaged chunks are fetched again.
const MAX_DAMAGED: u32 = 64;

#[derive(Debug)]
pub(crate) struct Hasher {
    pub(crate) file: Arc<File>,
    /// Where the file lies.
    pub(crate) path: PathBuf,
    pub(crate) chunk_bytes: u64,
    pub(crate) events: mpsc::UnboundedSender<Event>,
}

impl Hasher {
    /// Hashes until every chunk is hashed, the sender is gone, or the disk fails. The coordinator is
    /// told the hash or the failure. Blocks.
    pub(crate) fn run(self, chunks: mpsc::UnboundedReceiver<Hash>) {
        let event = match self.hash(chunks) {
            Ok(None) => return,
            Ok(Some(sha256)) => Event::Hashed(sha256),
            Err(error) => Event::Failed(Trouble::fatal(Failure::io("read back", &self.path, &error))),
        };
        self.tell(event);
    }

    fn hash(&self, mut chunks: mpsc::UnboundedReceiver<Hash>) -> io::Result<Option<String>> {
        let (mut sha256, mut buffer) = (Sha256::new(), Vec::new());
        let (mut complete, mut next, mut count) = (HashMap::new(), 0, None);
        let mut damaged = 0;
        while count != Some(next) {
            let Some(Stored { length, crc }) = complete.remove(&next) else {
                match chunks.blocking_recv() {
                    Some(Hash::Chunk { chunk, stored }) => drop(complete.insert(chunk, stored)),
                    Some(Hash::Count(chunks)) => count = Some(chunks),
                    None => return Ok(None),
                }
                continue;
            };
            // Of a file that is resumed, much may be complete when the transfer is stopped.
            if chunks.is_closed() {
                return Ok(None);
            }
            buffer.resize(length as usize, 0);
            let is_sound = match self.file.read_exact_at(&mut buffer, next as u64 * self.chunk_bytes) {
                Ok(()) => crc32fast::hash(&buffer) == crc,
                Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => false,
                Err(error) => return Err(error),
            };
            if is_sound {
                sha256.update(&buffer);
                next += 1;
                continue;
            }
            damaged += 1;
            if damaged > MAX_DAMAGED {
                return Err(io::Error::other("the disk does not give back what is written to it"));
            }
            self.tell(Event::Damaged { chunk: next });
        }
        Ok(Some(units::hex(&sha256.finalize())))
    }

    fn tell(&self, event: Event) {
        // The coordinator listens until this thread has ended.
        let _ = self.events.send(event);
    }
}
