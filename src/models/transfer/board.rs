//! Which chunks of a file are there, which connection fetches which, and which are still open.
//!
//! A chunk fills from its front: what is there of it is always a prefix. Connections take spans of
//! neighbouring chunks, the first open ones first, so that the hash, which needs the bytes in order,
//! is never far behind. Where all spans are taken, an idle connection takes the back half of the
//! longest.
//!
//! What was received is written a while later, and of two connections that received the same bytes the
//! later's are not written: so whether a chunk is to be fetched is decided only once nothing of it is on
//! its way to the disk any more.
//!
//! Chunks that are next to be hashed are also held in memory, within a bound, so that they need not
//! be read back from the disk.

use std::collections::HashMap;
use std::ops::Range;

use bytes::Bytes;

use crate::models::transfer::journal::Claim;

/// How many chunks a span has at most.
const SPAN: usize = 16;
/// A span with fewer open chunks than this is not divided.
const WORTH_DIVIDING: usize = 4;
/// How many bytes are held in memory to be hashed, at most.
const HELD_BYTES: u64 = 4 << 20;

/// The bytes of a chunk that are there.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Filled {
    /// How many, from the chunk's front.
    pub(crate) length: u32,
    /// Their CRC-32.
    pub(crate) crc: u32,
}

/// One transfer's chunks.
#[derive(Debug)]
pub(crate) struct Board {
    chunk_bytes: u64,
    /// Size of the file in bytes, once it is known.
    size: Option<u64>,
    chunks: Vec<Filled>,
    /// What each connection fetches.
    spans: Vec<Range<usize>>,
    /// The first chunk of which each connection has received nothing; of those before it, some may
    /// not be written yet.
    reached: Vec<usize>,
    /// Of which chunks something is on its way to the disk, and in how many parts.
    under_way: HashMap<usize, usize>,
    /// Whether one connection fetches everything, because the server knows no ranges.
    sequential: Option<usize>,
    /// How many chunks, from the front, were hashed.
    hashed: usize,
    /// What is in memory of chunks that are hashed soon, each from its front.
    held: HashMap<usize, Vec<Bytes>>,
    /// Whether the next chunk is being hashed out of memory.
    is_hashing: bool,
    /// Whether the work is to end.
    pub(crate) is_stopped: bool,
}

impl Board {
    /// A board for `connections` connections, on which these claims of a journal stand.
    pub(crate) fn new(chunk_bytes: u64, size: Option<u64>, connections: usize, claims: &[Claim]) -> Self {
        let mut board = Self {
            chunk_bytes,
            size: None,
            chunks: Vec::new(),
            spans: vec![0..0; connections],
            reached: vec![0; connections],
            under_way: HashMap::new(),
            sequential: None,
            hashed: 0,
            held: HashMap::new(),
            is_hashing: false,
            is_stopped: false,
        };
        if let Some(size) = size {
            board.set_size(size);
        }
        for claim in claims {
            let index = claim.chunk as usize;
            let fits = index < board.chunks.len() && u64::from(claim.length) <= board.length(index);
            if fits {
                board.chunks[index] = Filled { length: claim.length, crc: claim.crc };
            }
        }
        board
    }

    /// The file's size in bytes, once it is known.
    pub(crate) const fn size(&self) -> Option<u64> {
        self.size
    }

    /// Says how long the file is.
    pub(crate) fn set_size(&mut self, size: u64) {
        self.size = Some(size);
        let count = usize::try_from(size.div_ceil(self.chunk_bytes)).unwrap_or(usize::MAX);
        self.chunks.resize(count, Filled::default());
    }

    /// The chunk that holds the byte at `offset`.
    pub(crate) fn chunk_at(&self, offset: u64) -> usize {
        usize::try_from(offset / self.chunk_bytes).unwrap_or(usize::MAX)
    }

    /// Where a chunk begins.
    pub(crate) const fn start(&self, chunk: usize) -> u64 {
        (chunk as u64).saturating_mul(self.chunk_bytes)
    }

    /// How many bytes a chunk has when it is whole.
    pub(crate) fn length(&self, chunk: usize) -> u64 {
        let rest = self.size.map_or(u64::MAX, |size| size.saturating_sub(self.start(chunk)));
        rest.min(self.chunk_bytes)
    }

    /// What is there of a chunk.
    pub(crate) fn filled(&self, chunk: usize) -> Filled {
        self.chunks.get(chunk).copied().unwrap_or_default()
    }

    /// Whether a chunk is whole.
    pub(crate) fn is_whole(&self, chunk: usize) -> bool {
        chunk < self.chunks.len() && u64::from(self.chunks[chunk].length) == self.length(chunk)
    }

    /// Whether every chunk is.
    #[cfg(test)]
    pub(crate) fn is_complete(&self) -> bool {
        self.size.is_some() && (0..self.chunks.len()).all(|chunk| self.is_whole(chunk))
    }

    /// Whether every chunk was hashed.
    pub(crate) fn is_hashed(&self) -> bool {
        self.size.is_some() && self.hashed == self.chunks.len()
    }

    /// The first chunk that was not hashed yet.
    pub(crate) const fn next_to_hash(&self) -> usize {
        self.hashed
    }

    /// Counts the next chunk as hashed.
    pub(crate) fn has_hashed(&mut self) {
        self.is_hashing = false;
        self.held.remove(&self.hashed);
        self.hashed += 1;
    }

    /// Holds bytes of a chunk that is hashed soon; `before` is how many of it were there. They must
    /// have been written and checksummed.
    pub(crate) fn hold(&mut self, chunk: usize, before: u32, pieces: Vec<Bytes>) {
        let is_near = (self.hashed..self.hashed.saturating_add(self.most_held())).contains(&chunk);
        // Of a chunk that was begun earlier, the front is on the disk alone.
        if is_near && (before == 0 || self.held.contains_key(&chunk)) {
            self.held.entry(chunk).or_default().extend(pieces);
        }
    }

    /// Whether a chunk comes right behind those that can be held, while one of these is being hashed
    /// or can be: to wait for that costs less than to read the chunk back.
    pub(crate) fn should_wait(&self, chunk: usize) -> bool {
        let most = self.most_held();
        let is_right_behind =
            chunk.checked_sub(self.hashed).is_some_and(|ahead| ahead == most || ahead == most + 1);
        let is_at_work = self.is_hashing || self.held.contains_key(&self.hashed);
        most > 0 && is_right_behind && is_at_work && self.is_whole(self.hashed)
    }

    /// How many chunks are held at most.
    fn most_held(&self) -> usize {
        usize::try_from(HELD_BYTES / self.chunk_bytes).unwrap_or(usize::MAX)
    }

    /// The bytes of the next chunk to hash, if all of them are in memory.
    pub(crate) fn take_held(&mut self) -> Option<Vec<Bytes>> {
        let held = self.held.remove(&self.hashed);
        self.is_hashing = held.is_some();
        held
    }

    /// Bytes that are there.
    pub(crate) fn done(&self) -> u64 {
        self.chunks.iter().map(|chunk| u64::from(chunk.length)).sum()
    }

    /// Sets what is there of a chunk.
    pub(crate) fn set(&mut self, chunk: usize, filled: Filled) {
        if chunk >= self.chunks.len() && self.size.is_none() {
            self.chunks.resize(chunk + 1, Filled::default());
        }
        if let Some(slot) = self.chunks.get_mut(chunk) {
            *slot = filled;
        }
        if filled.length == 0 {
            self.held.remove(&chunk);
        }
    }

    /// Says that a part of a chunk is on its way to the disk.
    pub(crate) fn sent(&mut self, chunk: usize) {
        *self.under_way.entry(chunk).or_default() += 1;
    }

    /// Says that a part of a chunk is written, or never will be. Answers whether the chunk waits for a
    /// connection now, and did not before.
    pub(crate) fn landed(&mut self, chunk: usize) -> bool {
        if let Some(parts) = self.under_way.get_mut(&chunk) {
            *parts -= 1;
            if *parts == 0 {
                self.under_way.remove(&chunk);
            }
        }
        self.is_open(chunk)
    }

    /// Whether a connection that has received everything before `at` is at the end of its span.
    pub(crate) fn is_at_end(&self, connection: usize, at: u64) -> bool {
        self.size.is_some() && at >= self.span_end(connection)
    }

    /// Whether a chunk is to be fetched by whoever comes next.
    fn is_open(&self, chunk: usize) -> bool {
        !self.is_whole(chunk)
            && !self.under_way.contains_key(&chunk)
            && !self.spans.iter().any(|span| span.contains(&chunk))
    }

    /// Gives a connection a span to fetch; `None` while nothing is left that it could fetch.
    pub(crate) fn claim(&mut self, connection: usize) -> Option<Range<usize>> {
        self.spans[connection] = 0..0;
        if self.sequential.is_some_and(|only| only != connection) {
            return None;
        }
        if self.size.is_none() {
            // The first answer will tell it.
            let is_first = self.spans.iter().all(Range::is_empty);
            return is_first.then(|| self.take(connection, 0..SPAN));
        }
        let open: Vec<_> = (0..self.chunks.len()).filter(|&chunk| self.is_open(chunk)).collect();
        if let Some(&first) = open.first() {
            let fair = open.len().div_ceil(self.spans.len()).clamp(1, SPAN);
            let neighbours = open.iter().zip(first..).take_while(|(chunk, next)| **chunk == *next).count();
            return Some(self.take(connection, first..first + fair.min(neighbours)));
        }
        self.divide(connection)
    }

    /// Takes the back half of what is left of the longest span.
    fn divide(&mut self, connection: usize) -> Option<Range<usize>> {
        let rest = |(span, reached): (&Range<usize>, &usize)| {
            span.clone().filter(|&chunk| chunk >= *reached && !self.is_whole(chunk)).count()
        };
        let rests = self.spans.iter().zip(&self.reached).map(rest);
        let (victim, count) = rests.enumerate().max_by_key(|&(_, count)| count)?;
        if count < WORTH_DIVIDING {
            return None;
        }
        let end = self.spans[victim].end;
        let middle = end - count / 2;
        self.spans[victim].end = middle;
        Some(self.take(connection, middle..end))
    }

    /// Says which byte a connection receives next.
    pub(crate) fn reach(&mut self, connection: usize, offset: u64) {
        self.reached[connection] = self.chunk_at(offset.saturating_add(self.chunk_bytes - 1));
    }

    fn take(&mut self, connection: usize, span: Range<usize>) -> Range<usize> {
        self.reached[connection] = span.start;
        self.spans[connection] = span.clone();
        span
    }

    /// The end of a connection's span, in bytes; it moves forward where another connection takes a
    /// part of it over.
    pub(crate) fn span_end(&self, connection: usize) -> u64 {
        let end = self.start(self.spans[connection].end);
        self.size.map_or(end, |size| end.min(size))
    }

    /// Lets a connection's span go.
    pub(crate) fn release(&mut self, connection: usize) {
        self.spans[connection] = 0..0;
    }

    /// Makes one connection the only one, for a body that begins at the file's front. Answers whether
    /// it is: another may have been first.
    pub(crate) fn make_sequential(&mut self, connection: usize) -> bool {
        if self.sequential.is_some_and(|only| only != connection) {
            return false;
        }
        self.sequential = Some(connection);
        self.spans.fill(0..0);
        self.spans[connection] = 0..self.size.map_or(usize::MAX, |_| self.chunks.len());
        true
    }

    /// Whether a connection may go on.
    pub(crate) fn may_go_on(&self, connection: usize) -> bool {
        !self.is_stopped && self.sequential.is_none_or(|only| only == connection)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use proptest::prelude::*;

    use super::*;

    fn whole(board: &Board, chunk: usize) -> Filled {
        Filled { length: u32::try_from(board.length(chunk)).unwrap(), crc: 0 }
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
            let mut board = Board::new(1000, Some(size), connections, &[]);
            let step = |board: &mut Board, connection: usize, count: usize| {
                let Some(span) = board.claim(connection) else { return };
                for chunk in span.take(count) {
                    if board.start(chunk) < board.span_end(connection) {
                        let filled = whole(board, chunk);
                        board.set(chunk, filled);
                    }
                }
            };
            for (connection, count) in steps {
                step(&mut board, connection % connections, count);
                for (a, one) in board.spans.iter().enumerate() {
                    for other in &board.spans[a + 1..] {
                        prop_assert!(one.is_empty() || other.is_empty()
                            || one.end <= other.start || other.end <= one.start);
                    }
                }
            }
            (0..connections).for_each(|connection| board.release(connection));
            while !board.is_complete() {
                step(&mut board, 0, SPAN);
            }
            prop_assert_eq!(board.done(), size);
            prop_assert_eq!(board.claim(0), None);
        }

        /// However late what was received is written, whoever received it, and however often all of it
        /// comes from the front: once nothing is on its way, what is missing is open.
        #[test]
        fn what_is_missing_is_open_however_late_all_else_is_written(
            size in 1..20_000u64,
            connections in 1..5usize,
            steps in prop::collection::vec((0..6usize, 0..5usize, 1..3000u64), 0..400),
        ) {
            let mut board = Board::new(1000, Some(size), connections, &[]);
            let mut queue = VecDeque::new();
            // What each is receiving: the next byte.
            let mut bodies: Vec<Option<u64>> = vec![None; connections];
            for (what, connection, bytes) in steps {
                let me = connection % connections;
                match (what, bodies[me]) {
                    (0, _) => land(&mut board, &mut queue),
                    (1, None) if board.claim(me).is_some() && board.make_sequential(me) => bodies[me] = Some(0),
                    (1, Some(_)) => {
                        board.release(me);
                        bodies[me] = None;
                    }
                    (_, None) => {
                        let first = board.claim(me).and_then(|span| span.into_iter().find(|&chunk| !board.is_whole(chunk)));
                        bodies[me] = first.map(|chunk| board.start(chunk) + u64::from(board.filled(chunk).length));
                    }
                    (_, Some(mut at)) => {
                        board.reach(me, at);
                        // Late news of where the span ends, as for a piece that was waited for.
                        let end = (at + bytes).min(size);
                        while at < end {
                            let chunk = board.chunk_at(at);
                            let upto = end.min(board.start(chunk) + board.length(chunk));
                            board.sent(chunk);
                            queue.push_back((chunk, at, upto));
                            at = upto;
                        }
                        bodies[me] = Some(at);
                        if board.is_at_end(me, at) || !board.may_go_on(me) {
                            board.release(me);
                            bodies[me] = None;
                        }
                    }
                }
            }
            (0..connections).for_each(|connection| board.release(connection));
            while !queue.is_empty() {
                land(&mut board, &mut queue);
            }
            let left = (0..board.chunks.len()).filter(|&chunk| !board.is_whole(chunk)).count();
            let open = (0..board.chunks.len()).filter(|&chunk| board.is_open(chunk)).count();
            prop_assert_eq!(left, open);
            let anyone = board.sequential.unwrap_or(0);
            prop_assert_eq!(board.claim(anyone).is_some(), left > 0);
        }
    }

    /// Writes what was received first, if nothing else was written there.
    fn land(board: &mut Board, queue: &mut VecDeque<(usize, u64, u64)>) {
        let Some((chunk, from, upto)) = queue.pop_front() else { return };
        let length = board.filled(chunk).length;
        if board.start(chunk) + u64::from(length) == from {
            let length = length + u32::try_from(upto - from).unwrap();
            board.set(chunk, Filled { length, crc: 0 });
        }
        board.landed(chunk);
    }

    #[test]
    fn what_is_being_written_is_fetched_again_only_if_it_is_lost() {
        let mut board = Board::new(10, Some(25), 1, &[]);
        assert_eq!(board.claim(0), Some(0..3));
        let first = whole(&board, 0);
        board.set(0, first);
        [1, 2, 2].into_iter().for_each(|chunk| board.sent(chunk));
        assert!(!board.is_at_end(0, 24) && board.is_at_end(0, 25));
        board.release(0);
        assert_eq!(board.claim(0), None, "all of the rest is on its way");
        board.set(1, Filled { length: 4, crc: 0 });
        assert!(board.landed(1), "the rest of it was another's, and came too late");
        assert_eq!(board.claim(0), Some(1..2));
        assert!(!board.landed(2), "more of it is on its way");
        let last = whole(&board, 2);
        board.set(2, last);
        assert!(!board.landed(2));
        board.set(2, Filled::default());
        board.release(0);
        assert_eq!(board.claim(0), Some(1..3), "the disk has lost it");
    }

    #[test]
    fn claims_beyond_the_file_are_ignored_and_the_latest_counts() {
        let claim = |chunk, length, crc| Claim { chunk, length, crc };
        let claims = [claim(0, 4, 1), claim(0, 10, 2), claim(2, 5, 3), claim(2, 6, 4), claim(3, 1, 5)];
        let board = Board::new(10, Some(25), 2, &claims);
        assert_eq!(board.filled(0), Filled { length: 10, crc: 2 });
        assert_eq!(board.filled(2), Filled { length: 5, crc: 3 });
        assert!(board.is_whole(0) && !board.is_whole(1) && board.is_whole(2) && !board.is_whole(3));
        assert_eq!(board.done(), 15);
    }

    #[test]
    fn chunks_are_held_near_the_hash_and_writing_waits_for_it_only_there() {
        let chunk_bytes = HELD_BYTES / 4;
        let mut board = Board::new(chunk_bytes, Some(chunk_bytes * 20), 1, &[]);
        let fill = |board: &mut Board, chunk: usize| {
            board.hold(chunk, 0, vec![Bytes::from_static(b"x")]);
            let filled = whole(board, chunk);
            board.set(chunk, filled);
        };
        (1..6).for_each(|chunk| fill(&mut board, chunk));
        assert!(!board.should_wait(4), "the first chunk is not there: nothing would come of waiting");
        fill(&mut board, 0);
        assert!(board.should_wait(4) && board.should_wait(5) && !board.should_wait(3));
        assert!(!board.should_wait(12), "what is far ahead is read back in any case");
        assert!(board.take_held().is_some());
        assert!(board.should_wait(4), "the first chunk is being hashed");
        board.has_hashed();
        assert!(!board.should_wait(4));
        (1..4).for_each(|_| {
            assert!(board.take_held().is_some());
            board.has_hashed();
        });
        assert_eq!(board.take_held(), None, "it came too far ahead");
        assert!(!board.should_wait(8), "what is read back may take its time");
        board.hold(4, 1, vec![Bytes::from_static(b"x")]);
        assert_eq!(board.take_held(), None, "its front is on the disk alone");
    }

    #[test]
    fn an_idle_connection_takes_half_of_the_longest_span() {
        let mut board = Board::new(1, Some(16), 1, &[]);
        board.spans.push(0..0);
        board.reached.push(0);
        board.spans[0] = 0..16;
        assert_eq!(board.claim(1), Some(8..16));
        assert_eq!(board.span_end(0), 8);
    }
}
