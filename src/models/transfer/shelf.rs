//! What is stored of a file while it is being transferred, for those who read it meanwhile.

use tokio::sync::watch;

use crate::models::transfer::journal::Stored;

/// Where a transfer tells what is stored. Its readers see the end of the transfer in the end of this.
#[derive(Debug, Default)]
pub(crate) struct Shelf(watch::Sender<Shelved>);

/// What is stored of a file.
#[derive(Debug, Default)]
pub(crate) struct Shelved {
    /// Size of the file in bytes, once it is known.
    pub(crate) size: Option<u64>,
    chunk_bytes: u64,
    /// How many bytes of each chunk, from its front.
    lengths: Vec<u32>,
    /// Grows with each change: whoever waits for the file sees that it comes, wherever in the file that is.
    pub(crate) changes: u64,
}

impl Shelf {
    pub(crate) fn subscribe(&self) -> watch::Receiver<Shelved> {
        self.0.subscribe()
    }

    /// An attempt begins, with these chunks.
    pub(crate) fn begin(&self, size: Option<u64>, chunk_bytes: u64, chunks: &[Stored]) {
        self.0.send_modify(|shelved| {
            let lengths = chunks.iter().map(|stored| stored.length).collect();
            *shelved = Shelved { size, chunk_bytes, lengths, changes: shelved.changes + 1 };
        });
    }

    pub(crate) fn set_size(&self, size: u64) {
        self.0.send_modify(|shelved| (shelved.size, shelved.changes) = (Some(size), shelved.changes + 1));
    }

    /// So many bytes of a chunk are stored now.
    pub(crate) fn set(&self, chunk: usize, length: u32) {
        self.0.send_modify(|shelved| {
            if chunk >= shelved.lengths.len() {
                shelved.lengths.resize(chunk + 1, 0);
            }
            shelved.lengths[chunk] = length;
            shelved.changes += 1;
        });
    }
}

impl Shelved {
    /// Where the stored bytes end that begin at an offset of the file. The offset itself where there are none.
    pub(crate) fn end_from(&self, offset: u64) -> u64 {
        if self.chunk_bytes == 0 {
            return offset;
        }
        let mut end = offset;
        loop {
            let chunk = end / self.chunk_bytes;
            let length = usize::try_from(chunk).ok().and_then(|chunk| self.lengths.get(chunk)).copied();
            let stored = chunk * self.chunk_bytes + u64::from(length.unwrap_or_default());
            if stored <= end {
                return end;
            }
            end = stored;
            if !end.is_multiple_of(self.chunk_bytes) {
                return end;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_stored_bytes_end_at_the_first_gap() {
        let shelf = Shelf::default();
        let shelved = shelf.subscribe();
        assert_eq!(shelved.borrow().end_from(7), 7, "nothing has begun");
        let stored = |length| Stored { length, crc: 0 };
        shelf.begin(Some(35), 10, &[stored(10), stored(10), stored(4), stored(0)]);
        let end_from = |offset| shelved.borrow().end_from(offset);
        assert_eq!([0, 9, 10, 23].map(end_from), [24; 4]);
        assert_eq!([24, 29, 30, 35].map(end_from), [24, 29, 30, 35]);
        shelf.set(3, 5);
        assert_eq!([24, 30, 34].map(end_from), [24, 35, 35]);
        shelf.set(2, 10);
        assert_eq!(end_from(3), 35);
        shelf.set(0, 0);
        assert_eq!([3, 10].map(end_from), [3, 35]);
    }
}
