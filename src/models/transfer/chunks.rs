//! The table of a file's chunks: which are stored, which are being written, and which connection
//! fetches which.
//!
//! A chunk is filled from its front: the stored bytes of a chunk are always a prefix of it.
//! Connections get spans of neighbouring chunks, the first open ones first, so that the hasher, which
//! needs the bytes in order, is never far behind. Where every incomplete chunk is taken, an idle
//! connection gets the back half of the longest span.
//!
//! Invariant: a chunk that is incomplete, in no span and not being written is open, and the next idle
//! connection gets it. Bytes are written some time after they were received, and the writer drops bytes
//! that another connection has stored first. So whether a chunk is open is decided only when no write
//! of it is pending.

use std::collections::HashMap;
use std::ops::Range;

use tokio::sync::watch;

use crate::models::transfer::journal::{Claim, Stored};

/// The most chunks that a connection gets at once.
const MAX_SPAN: usize = 16;
/// A span with fewer chunks to come than this is not divided. A connection reports a chunk when it
/// sends the chunk's last bytes to the writer, so the first chunk to come may be half received; the
/// back half begins at least one chunk behind that.
const MIN_DIVIDED: usize = 4;

/// The chunks of one file.
#[derive(Debug)]
pub(crate) struct ChunkTable {
    chunk_bytes: u64,
    /// Size of the file in bytes, once it is known.
    size: Option<u64>,
    chunks: Vec<Stored>,
    /// Every chunk before this one is complete.
    first_incomplete: usize,
    /// What each connection fetches.
    assignments: Vec<Assignment>,
    /// The number of pending writes of each chunk that has any.
    pending_writes: HashMap<usize, usize>,
    /// The one connection that fetches everything, where the server sends only the whole file.
    sequential: Option<usize>,
}

#[derive(Debug, Default)]
struct Assignment {
    span: Range<usize>,
    /// The first chunk of which the connection has sent nothing to the writer.
    next_to_send: usize,
    /// The offset in the file at which the span ends.
    end: watch::Sender<u64>,
}

impl ChunkTable {
    /// A table for at most `connections` connections, with the chunks that a journal claims.
    pub(crate) fn new(chunk_bytes: u64, size: Option<u64>, connections: usize, claims: &[Claim]) -> Self {
        let mut table = Self {
            chunk_bytes,
            size: None,
            chunks: Vec::new(),
            first_incomplete: 0,
            assignments: (0..connections).map(|_| Assignment::default()).collect(),
            pending_writes: HashMap::new(),
            sequential: None,
        };
        if let Some(size) = size {
            table.set_size(size);
        }
        for claim in claims {
            let chunk = claim.chunk as usize;
            if chunk < table.chunks.len() && u64::from(claim.stored.length) <= table.length(chunk) {
                table.chunks[chunk] = claim.stored;
            }
        }
        table
    }

    /// The file's size in bytes, once it is known.
    pub(crate) const fn size(&self) -> Option<u64> {
        self.size
    }

    pub(crate) fn set_size(&mut self, size: u64) {
        self.size = Some(size);
        let count = usize::try_from(size.div_ceil(self.chunk_bytes)).unwrap_or(usize::MAX);
        self.chunks.resize(count, Stored::default());
        for connection in 0..self.assignments.len() {
            self.assign(connection, self.assignments[connection].span.clone());
        }
    }

    /// Every chunk, as far as it is stored.
    pub(crate) fn stored(&self) -> &[Stored] {
        &self.chunks
    }

    /// Bytes that are stored.
    pub(crate) fn stored_bytes(&self) -> u64 {
        self.chunks.iter().map(|stored| u64::from(stored.length)).sum()
    }

    /// Whether no byte is stored or being written.
    pub(crate) fn is_empty(&self) -> bool {
        self.stored_bytes() == 0 && self.pending_writes.is_empty()
    }

    pub(crate) fn is_complete(&self, chunk: usize) -> bool {
        let stored = self.chunks.get(chunk).map(|stored| u64::from(stored.length));
        self.size.is_some() && stored == Some(self.length(chunk))
    }

    const fn start(&self, chunk: usize) -> u64 {
        (chunk as u64).saturating_mul(self.chunk_bytes)
    }

    /// The number of bytes that a complete chunk has.
    fn length(&self, chunk: usize) -> u64 {
        let rest = self.size.map_or(u64::MAX, |size| size.saturating_sub(self.start(chunk)));
        rest.min(self.chunk_bytes)
    }

    fn is_open(&self, chunk: usize) -> bool {
        !self.is_complete(chunk)
            && !self.pending_writes.contains_key(&chunk)
            && !self.assignments.iter().any(|assignment| assignment.span.contains(&chunk))
    }

    /// Gives a connection a span to fetch. Returns the bytes to ask for, without those at the front
    /// that are stored; `None` while there is nothing for this connection to fetch.
    pub(crate) fn claim(&mut self, connection: usize) -> Option<Range<u64>> {
        self.release(connection);
        if self.sequential.is_some_and(|only| only != connection) {
            return None;
        }
        let span = if self.size.is_some() {
            self.first_open().or_else(|| self.divide())?
        } else {
            // The answer to the first request tells the size.
            let is_first = self.assignments.iter().all(|assignment| assignment.span.is_empty());
            is_first.then_some(0..MAX_SPAN)?
        };
        let stored = self.chunks.get(span.start).map_or(0, |stored| stored.length);
        let from = self.start(span.start) + u64::from(stored);
        self.assignments[connection].next_to_send = span.start;
        self.assign(connection, span);
        Some(from..*self.span_end(connection).borrow())
    }

    /// The first open chunks that are neighbours, no more than a fair part of all.
    fn first_open(&mut self) -> Option<Range<usize>> {
        while self.is_complete(self.first_incomplete) {
            self.first_incomplete += 1;
        }
        let incomplete = self.first_incomplete..self.chunks.len();
        let connections = self.assignments.len();
        let open = incomplete.filter(|&chunk| self.is_open(chunk)).take(MAX_SPAN * connections);
        let open: Vec<_> = open.collect();
        let first = *open.first()?;
        let neighbours = open.iter().zip(first..).take_while(|(chunk, next)| **chunk == *next).count();
        Some(first..first + neighbours.min(open.len().div_ceil(connections)))
    }

    /// Takes the back half of the longest span from its connection.
    fn divide(&mut self) -> Option<Range<usize>> {
        let to_come = |Assignment { span, next_to_send, .. }: &Assignment| {
            (span.start.max(*next_to_send)..span.end).filter(|&chunk| !self.is_complete(chunk)).count()
        };
        let counts = self.assignments.iter().map(to_come).enumerate();
        let (longest, count) = counts.max_by_key(|&(_, count)| count)?;
        if count < MIN_DIVIDED {
            return None;
        }
        let Range { start, end } = self.assignments[longest].span;
        let middle = end - count / 2;
        self.assign(longest, start..middle);
        Some(middle..end)
    }

    fn assign(&mut self, connection: usize, span: Range<usize>) {
        let end = self.start(span.end);
        let assignment = &mut self.assignments[connection];
        assignment.span = span;
        assignment.end.send_replace(self.size.map_or(end, |size| end.min(size)));
    }

    /// The offset in the file at which a connection's span ends. It moves to the front where another
    /// connection gets the back half of the span.
    pub(crate) fn span_end(&self, connection: usize) -> watch::Receiver<u64> {
        self.assignments[connection].end.subscribe()
    }

    /// How many bytes are stored of each chunk of a connection's span.
    pub(crate) fn stored_in_span(&self, connection: usize) -> Vec<u32> {
        let span = &self.assignments[connection].span;
        self.chunks.iter().skip(span.start).take(span.len()).map(|stored| stored.length).collect()
    }

    /// Takes a connection's span away.
    pub(crate) fn release(&mut self, connection: usize) {
        self.assign(connection, 0..0);
    }

    /// Gives one connection every chunk, for a body that begins at the file's front. Returns `false`
    /// where another connection has got every chunk before.
    pub(crate) fn make_sequential(&mut self, connection: usize) -> bool {
        if self.sequential.is_some_and(|only| only != connection) {
            return false;
        }
        self.sequential = Some(connection);
        (0..self.assignments.len()).for_each(|other| self.release(other));
        self.assign(connection, 0..self.size.map_or(usize::MAX, |_| self.chunks.len()));
        true
    }

    /// Counts a pending write: a connection has sent bytes of a chunk, up to offset `end` of the file.
    pub(crate) fn sent(&mut self, connection: usize, chunk: usize, end: u64) {
        *self.pending_writes.entry(chunk).or_default() += 1;
        let next = usize::try_from(end.div_ceil(self.chunk_bytes)).unwrap_or(usize::MAX);
        self.assignments[connection].next_to_send = next;
    }

    /// Ends a pending write: this is stored of the chunk now.
    pub(crate) fn written(&mut self, chunk: usize, stored: Stored) {
        if chunk >= self.chunks.len() && self.size.is_none() {
            self.chunks.resize(chunk + 1, Stored::default());
        }
        if let Some(slot) = self.chunks.get_mut(chunk) {
            *slot = stored;
        }
        self.dropped(chunk);
    }

    /// Ends a pending write whose bytes were not written.
    pub(crate) fn dropped(&mut self, chunk: usize) {
        if let Some(writes) = self.pending_writes.get_mut(&chunk) {
            *writes -= 1;
            if *writes == 0 {
                self.pending_writes.remove(&chunk);
            }
        }
    }

    /// Forgets the stored bytes of a chunk. Returns how many these were.
    pub(crate) fn forget(&mut self, chunk: usize) -> u64 {
        self.first_incomplete = self.first_incomplete.min(chunk);
        self.chunks.get_mut(chunk).map_or(0, |stored| u64::from(std::mem::take(stored).length))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use proptest::prelude::*;

    use super::*;

    impl ChunkTable {
        fn all_complete(&self) -> bool {
            (0..self.chunks.len()).all(|chunk| self.is_complete(chunk))
        }

        fn complete(&mut self, chunk: usize) {
            let length = u32::try_from(self.length(chunk)).unwrap();
            self.written(chunk, Stored { length, crc: 0 });
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(128))]

        /// However connections take turns, fail and resume, no chunk is fetched by two at once and
        /// every chunk is fetched in the end.
        #[test]
        fn spans_never_overlap_and_cover_the_file(
            size in 1..100_000u64,
            connections in 1..9usize,
            steps in prop::collection::vec((0..9usize, 0..4usize), 0..200),
        ) {
            let mut table = ChunkTable::new(1000, Some(size), connections, &[]);
            let step = |table: &mut ChunkTable, connection: usize, count: usize| {
                if table.claim(connection).is_some() {
                    table.assignments[connection].span.clone().take(count).for_each(|chunk| table.complete(chunk));
                }
            };
            for (connection, count) in steps {
                step(&mut table, connection % connections, count);
                let spans: Vec<_> = table.assignments.iter().map(|assignment| &assignment.span).collect();
                for (a, one) in spans.iter().enumerate() {
                    for other in &spans[a + 1..] {
                        prop_assert!(one.is_empty() || other.is_empty()
                            || one.end <= other.start || other.end <= one.start);
                    }
                }
            }
            (0..connections).for_each(|connection| table.release(connection));
            while !table.all_complete() {
                step(&mut table, 0, MAX_SPAN);
            }
            prop_assert_eq!(table.stored_bytes(), size);
            prop_assert_eq!(table.claim(0), None);
        }

        /// However late received bytes are written, whoever received them, and however often the whole
        /// file comes from the front: once no write is pending, every incomplete chunk is open.
        #[test]
        fn incomplete_chunks_stay_claimable_when_writes_are_delayed(
            size in 1..20_000u64,
            connections in 1..5usize,
            steps in prop::collection::vec((0..7usize, 0..5usize, 1..3000u64), 0..400),
        ) {
            let mut table = ChunkTable::new(1000, Some(size), connections, &[]);
            let mut writes = VecDeque::new();
            // The next byte that each connection receives.
            let mut bodies: Vec<Option<u64>> = vec![None; connections];
            for (what, connection, bytes) in steps {
                let me = connection % connections;
                match (what, bodies[me]) {
                    (0, _) => write(&mut table, &mut writes),
                    (1, None) if table.claim(me).is_some() && table.make_sequential(me) => bodies[me] = Some(0),
                    (1, Some(_)) => {
                        table.release(me);
                        bodies[me] = None;
                    }
                    (2, _) => drop(table.forget(usize::try_from(bytes % size / 1000).unwrap())),
                    (_, None) => bodies[me] = table.claim(me).map(|range| range.start),
                    (_, Some(mut at)) => {
                        // The connection learns late where its span ends now.
                        let end = (at + bytes).min(size);
                        while at < end {
                            let chunk = usize::try_from(at / 1000).unwrap();
                            let until = end.min(table.start(chunk) + table.length(chunk));
                            table.sent(me, chunk, until);
                            writes.push_back((chunk, at, until));
                            at = until;
                        }
                        bodies[me] = Some(at);
                        if at >= *table.span_end(me).borrow() {
                            table.release(me);
                            bodies[me] = None;
                        }
                    }
                }
            }
            (0..connections).for_each(|connection| table.release(connection));
            while !writes.is_empty() {
                write(&mut table, &mut writes);
            }
            let incomplete = (0..table.chunks.len()).filter(|&chunk| !table.is_complete(chunk)).count();
            let open = (0..table.chunks.len()).filter(|&chunk| table.is_open(chunk)).count();
            prop_assert_eq!(incomplete, open);
            let anyone = table.sequential.unwrap_or(0);
            prop_assert_eq!(table.claim(anyone).is_some(), incomplete > 0);
        }
    }

    /// Does the oldest write, if it continues what is stored.
    fn write(table: &mut ChunkTable, writes: &mut VecDeque<(usize, u64, u64)>) {
        let Some((chunk, from, until)) = writes.pop_front() else { return };
        let length = table.chunks[chunk].length;
        if table.start(chunk) + u64::from(length) == from {
            let length = length + u32::try_from(until - from).unwrap();
            table.written(chunk, Stored { length, crc: 0 });
        } else {
            table.dropped(chunk);
        }
    }

    #[test]
    fn a_chunk_that_is_being_written_is_fetched_again_only_if_it_is_lost() {
        let mut table = ChunkTable::new(10, Some(25), 1, &[]);
        assert_eq!(table.claim(0), Some(0..25));
        [(0, 10), (1, 20), (2, 24), (2, 25)].into_iter().for_each(|(chunk, end)| table.sent(0, chunk, end));
        table.complete(0);
        assert_eq!(table.claim(0), None, "every other chunk is being written");
        table.written(1, Stored { length: 4, crc: 0 });
        assert_eq!(table.claim(0), Some(14..20), "the writer dropped the rest of it");
        table.written(2, Stored { length: 4, crc: 0 });
        assert!(!table.is_open(2), "more of it is being written");
        table.complete(2);
        assert_eq!(table.forget(2), 5);
        assert_eq!(table.claim(0), Some(14..25), "the disk has lost the last chunk");
    }

    #[test]
    fn claims_beyond_the_file_are_ignored_and_the_latest_counts() {
        let claim = |chunk, length, crc| Claim { chunk, stored: Stored { length, crc } };
        let claims = [claim(0, 4, 1), claim(0, 10, 2), claim(2, 5, 3), claim(2, 6, 4), claim(3, 1, 5)];
        let table = ChunkTable::new(10, Some(25), 2, &claims);
        let stored = |length, crc| Stored { length, crc };
        assert_eq!(table.stored(), [stored(10, 2), stored(0, 0), stored(5, 3)]);
        assert!(
            table.is_complete(0) && !table.is_complete(1) && table.is_complete(2) && !table.is_complete(3)
        );
        assert_eq!(table.stored_bytes(), 15);
    }

    #[test]
    fn an_idle_connection_gets_half_of_the_longest_span() {
        let mut table = ChunkTable::new(1, Some(16), 2, &[]);
        table.assign(0, 0..16);
        table.sent(0, 3, 4);
        assert_eq!(table.claim(1), Some(10..16));
        assert_eq!((*table.span_end(0).borrow(), *table.span_end(1).borrow()), (10, 16));
    }
}
