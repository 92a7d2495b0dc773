//! Looks at the beginning of a file while the rest is still to come, so that a file that is of no use is not
//! fetched whole.
//!
//! The beginning is looked at when its first chunk is complete and, where that does not decide, each time
//! that it has twice as many chunks.

use std::io;
use std::os::unix::fs::FileExt;

use crate::models::transfer::partial::Partial;
use crate::models::transfer::remote::{RemoteFile, Verdict, Vet};

/// The longest beginning that is looked at, in bytes. What it does not decide is decided by the whole file.
const LONGEST: u64 = 32 << 20;

/// The vetting of one file.
#[derive(Debug)]
pub(crate) struct Vetting {
    name: String,
    vet: Vet,
    size: Option<u64>,
    /// How many chunks to wait for; `None` once the file is vetted.
    next: Option<usize>,
}

impl Vetting {
    pub(crate) fn of(file: &RemoteFile) -> Self {
        Self { name: file.name.clone(), vet: file.vet, size: file.size, next: Some(1) }
    }

    /// Looks at the beginning of a partial file, whose first `chunks` chunks are complete. `None` where it
    /// is not the time for that. Blocks.
    pub(crate) fn look(
        &mut self,
        partial: &Partial,
        chunks: usize,
        chunk_bytes: u64,
    ) -> io::Result<Option<Verdict>> {
        if self.next != Some(chunks) {
            return Ok(None);
        }
        let length = chunks as u64 * chunk_bytes;
        self.next = Some(chunks * 2).filter(|_| length * 2 <= LONGEST);
        let length = length.min(partial.file().metadata()?.len());
        let mut beginning = vec![0; usize::try_from(length).unwrap_or_default()];
        partial.file().read_exact_at(&mut beginning, 0)?;
        let verdict = (self.vet)(&self.name, &beginning, self.size);
        if !matches!(verdict, Verdict::Undecided) {
            self.next = None;
        }
        Ok(Some(verdict))
    }
}
