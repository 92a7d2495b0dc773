//! The thread that hashes a transfer's file, chunk by chunk in order, as the chunks become complete.
//!
//! It reads each chunk back from the disk and compares it with the checksum of the bytes that were
//! received, so that the hash is of those bytes and of the file alike. It has the file in order, so it also
//! vets the beginning.

use std::collections::HashMap;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use sha2::{Digest, Sha256};
use tokio::sync::mpsc;

use crate::error::Failure;
use crate::models::transfer::messages::{CompleteChunk, Event, Events};
use crate::models::transfer::partial::Partial;
use crate::models::transfer::trouble::Trouble;
use crate::models::transfer::vetting::Vetting;
use crate::text;

/// How many damaged chunks are fetched again.
const MAX_DAMAGED: u32 = 64;

#[derive(Debug)]
pub(crate) struct Hasher {
    pub(crate) partial: Arc<Partial>,
    pub(crate) vetting: Vetting,
    pub(crate) chunk_bytes: u64,
    pub(crate) events: Events,
}

impl Hasher {
    /// Hashes until every chunk is hashed, the sender is gone, or the disk fails. The coordinator is
    /// told the hash or the failure. Blocks.
    pub(crate) fn run(mut self, chunks: mpsc::UnboundedReceiver<CompleteChunk>) {
        let event = match self.hash(chunks) {
            Ok(None) => return,
            Ok(Some(sha256)) => Event::Hashed(sha256),
            Err(error) => {
                Event::Failed(Trouble::fatal(Failure::io("read back", self.partial.path(), &error)))
            }
        };
        self.events.tell(event);
    }

    fn hash(&mut self, mut chunks: mpsc::UnboundedReceiver<CompleteChunk>) -> io::Result<Option<String>> {
        let (mut sha256, mut buffer) = (Sha256::new(), Vec::new());
        let (mut complete, mut next, mut damaged) = (HashMap::new(), 0, 0);
        loop {
            let Some(CompleteChunk { stored, is_last, .. }) = complete.remove(&next) else {
                let Some(chunk) = chunks.blocking_recv() else { return Ok(None) };
                complete.insert(chunk.chunk, chunk);
                continue;
            };
            // Of a file that is resumed, much may be complete when the transfer is stopped.
            if chunks.is_closed() {
                return Ok(None);
            }
            buffer.resize(stored.length as usize, 0);
            let read = self.partial.file().read_exact_at(&mut buffer, next as u64 * self.chunk_bytes);
            let is_sound = match read {
                Ok(()) => crc32fast::hash(&buffer) == stored.crc,
                Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => false,
                Err(error) => return Err(error),
            };
            if is_sound {
                sha256.update(&buffer);
                next += 1;
                if let Some(verdict) = self.vetting.look(&self.partial, next, self.chunk_bytes)? {
                    self.events.tell(Event::Vetted(verdict));
                }
                if is_last {
                    return Ok(Some(text::hex(&sha256.finalize())));
                }
                continue;
            }
            damaged += 1;
            if damaged > MAX_DAMAGED {
                return Err(io::Error::other("the disk does not give back what is written to it"));
            }
            self.events.tell(Event::Damaged { chunk: next });
        }
    }
}
