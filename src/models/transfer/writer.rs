//! The thread that writes a transfer's file and journal, for all of its connections.
//!
//! It alone writes both, so it needs no lock, and it knows what is stored of each chunk. Bytes are
//! written, checksummed and journalled, in this order, before the coordinator is told. What does not
//! continue the stored bytes of its chunk is dropped: another connection's bytes are there.

use std::io;
use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::mpsc;

use crate::disk;
use crate::error::Failure;
use crate::models::transfer::disk::Disk;
use crate::models::transfer::journal::{Claim, Head, Journal, Stored};
use crate::models::transfer::messages::{Event, Events, Write};
use crate::models::transfer::partial::Partial;
use crate::models::transfer::trouble::Trouble;

/// This many bytes of a chunk, or the rest of it, are written together.
pub(crate) const WRITTEN_TOGETHER: usize = 512 << 10;
/// How many bytes wait to be written, at most.
const MAX_WAITING: usize = 2 << 20;

#[derive(Debug)]
pub(crate) struct Writer {
    pub(crate) partial: Arc<Partial>,
    pub(crate) disk: Arc<dyn Disk>,
    /// The journal, if the file can be resumed and is known.
    pub(crate) journal: Option<Journal>,
    pub(crate) chunk_bytes: u64,
    /// What is stored of each chunk.
    pub(crate) chunks: Vec<Stored>,
    pub(crate) events: Events,
}

/// A channel to a writer, which holds [`MAX_WAITING`] bytes.
pub(crate) fn channel(chunk_bytes: u64) -> (mpsc::Sender<Write>, mpsc::Receiver<Write>) {
    let together = usize::try_from(chunk_bytes).map_or(WRITTEN_TOGETHER, |bytes| bytes.min(WRITTEN_TOGETHER));
    mpsc::channel(MAX_WAITING.div_ceil(together))
}

impl Writer {
    /// Writes until every sender is gone, or until the disk fails, which the coordinator is told.
    /// Blocks.
    pub(crate) fn run(mut self, mut writes: mpsc::Receiver<Write>) {
        while let Some(write) = writes.blocking_recv() {
            let done = match write {
                Write::Open(head) => self.open(&head),
                Write::Bytes { offset, pieces } => self.write(offset, &pieces),
                Write::Forget { chunk } => {
                    self.set(chunk, Stored::default());
                    Ok(())
                }
            };
            if let Err(error) = done {
                let failure = Failure::io("write", self.partial.path(), &error);
                self.events.tell(Event::Failed(Trouble::fatal(failure)));
                return;
            }
        }
    }

    fn open(&mut self, head: &Head) -> io::Result<()> {
        if head.is_resumable() {
            let path = self.partial.journal_path();
            self.journal = Some(Journal::create(&path, head, Arc::clone(&self.disk))?);
        }
        // So that listings see no growing file.
        disk::set_len(self.partial.file(), head.size.unwrap_or_default())
    }

    fn write(&mut self, offset: u64, pieces: &[Bytes]) -> io::Result<()> {
        let chunk = usize::try_from(offset / self.chunk_bytes).map_err(io::Error::other)?;
        let Stored { mut length, crc } = self.chunks.get(chunk).copied().unwrap_or_default();
        if offset % self.chunk_bytes != u64::from(length) {
            let bytes = pieces.iter().map(|piece| piece.len() as u64).sum();
            self.events.tell(Event::Dropped { chunk, bytes });
            return Ok(());
        }
        let mut crc = crc32fast::Hasher::new_with_initial_len(crc, u64::from(length));
        let mut at = offset;
        for piece in pieces {
            self.disk.write_all_at(self.partial.file(), piece, at)?;
            crc.update(piece);
            length += u32::try_from(piece.len()).map_err(io::Error::other)?;
            at += piece.len() as u64;
        }
        let stored = Stored { length, crc: crc.finalize() };
        if let Some(journal) = &mut self.journal {
            journal.append(Claim { chunk: u32::try_from(chunk).map_err(io::Error::other)?, stored })?;
        }
        self.set(chunk, stored);
        self.events.tell(Event::Written { chunk, stored });
        Ok(())
    }

    fn set(&mut self, chunk: usize, stored: Stored) {
        if chunk >= self.chunks.len() {
            self.chunks.resize(chunk + 1, Stored::default());
        }
        self.chunks[chunk] = stored;
    }
}
