//! The queue between the connections of a transfer and the one thread that writes for all of them.
//!
//! A connection does not wait for each of its writes, only for room in the queue, so that the network
//! and the disk work at the same time; and writers of one file would wait for each other in the
//! system all the same. Whoever needs to know that his bytes are written and recorded asks with the
//! position that he got for them.

use std::collections::VecDeque;
use std::io;

use bytes::Bytes;
use parking_lot::{Condvar, Mutex};
use tokio::sync::watch;

/// How many bytes wait to be written, at most, when one more part is taken.
const MOST_WAITING: u64 = 2 << 20;

/// Bytes of one chunk that are to be written.
#[derive(Debug)]
pub(crate) struct Part {
    /// Where in the file.
    pub(crate) offset: u64,
    pub(crate) pieces: Vec<Bytes>,
    bytes: u64,
}

/// The queue. Parts are written in the order in which they were given.
#[derive(Debug)]
pub(crate) struct Queue {
    state: Mutex<State>,
    /// Rung when there is something to write, or nothing any more.
    some: Condvar,
    /// How many of the bytes that were given are written; all, as it were, once writing has ended.
    written: watch::Sender<u64>,
}

#[derive(Debug, Default)]
struct State {
    parts: VecDeque<Part>,
    given: u64,
    is_closed: bool,
    failure: Option<io::Error>,
}

impl Default for Queue {
    fn default() -> Self {
        Self { state: Mutex::default(), some: Condvar::new(), written: watch::Sender::new(0) }
    }
}

impl Queue {
    /// Gives bytes to be written, once there is room for them. Answers their position.
    ///
    /// # Errors
    /// Why an earlier write failed.
    pub(crate) async fn give(&self, offset: u64, pieces: Vec<Bytes>) -> io::Result<u64> {
        let bytes = pieces.iter().map(|piece| piece.len() as u64).sum();
        let given = self.state.lock().given;
        self.wait(|written| given.saturating_sub(written) < MOST_WAITING).await;
        let mut state = self.state.lock();
        state.check()?;
        state.given += bytes;
        state.parts.push_back(Part { offset, pieces, bytes });
        self.some.notify_one();
        Ok(state.given)
    }

    /// Waits until everything up to that position is written.
    ///
    /// # Errors
    /// Why a write failed.
    pub(crate) async fn settled(&self, position: u64) -> io::Result<()> {
        self.wait(|written| written >= position).await;
        self.state.lock().check()
    }

    async fn wait(&self, until: impl Fn(u64) -> bool) {
        // The sender is this queue's own.
        let _ = self.written.subscribe().wait_for(|written| until(*written)).await;
    }

    /// Writes parts until [`Self::close`]. Blocks.
    ///
    /// # Errors
    /// The first failure of a write. Whoever waits learns of it, too.
    pub(crate) fn write(&self, mut write: impl FnMut(Part) -> io::Result<()>) -> io::Result<()> {
        let _end = End(self);
        while let Some(part) = self.next() {
            let bytes = part.bytes;
            if let Err(error) = write(part) {
                self.state.lock().failure = Some(copy(&error));
                return Err(error);
            }
            self.written.send_modify(|written| *written += bytes);
        }
        Ok(())
    }

    fn next(&self) -> Option<Part> {
        let mut state = self.state.lock();
        loop {
            if let Some(part) = state.parts.pop_front() {
                return Some(part);
            }
            if state.is_closed {
                return None;
            }
            self.some.wait(&mut state);
        }
    }

    /// Says that nothing more is given.
    pub(crate) fn close(&self) {
        self.state.lock().is_closed = true;
        self.some.notify_one();
    }
}

impl State {
    fn check(&self) -> io::Result<()> {
        self.failure.as_ref().map_or(Ok(()), |error| Err(copy(error)))
    }
}

/// Lets nobody wait for a thread that is gone, whatever became of it.
struct End<'a>(&'a Queue);

impl Drop for End<'_> {
    fn drop(&mut self) {
        let mut state = self.0.state.lock();
        let is_rest = *self.0.written.borrow() < state.given;
        if is_rest && state.failure.is_none() {
            state.failure = Some(io::Error::other("writing broke off"));
        }
        state.parts.clear();
        drop(state);
        self.0.written.send_replace(u64::MAX);
    }
}

fn copy(error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), error.to_string())
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::spawn;

    fn part(bytes: usize) -> Vec<Bytes> {
        vec![Bytes::from(vec![0; bytes])]
    }

    #[tokio::test]
    async fn parts_are_written_in_order_and_no_more_than_a_few_wait() {
        let queue = Arc::new(Queue::default());
        let most = usize::try_from(MOST_WAITING).unwrap();
        queue.give(0, part(most)).await.unwrap();
        let full = queue.give(1, part(1));
        tokio::pin!(full);
        assert!(futures::poll!(&mut full).is_pending(), "there is no room");
        let writing = spawn::blocking({
            let queue = Arc::clone(&queue);
            move || {
                let mut offsets = Vec::new();
                queue.write(|part| {
                    offsets.push(part.offset);
                    Ok(())
                })?;
                Ok::<_, io::Error>(offsets)
            }
        });
        let position = full.await.unwrap();
        queue.settled(position).await.unwrap();
        queue.close();
        assert_eq!(writing.await.unwrap().unwrap(), [0, 1]);
    }

    #[tokio::test]
    async fn a_failed_write_is_known_to_all_who_wait_and_to_all_who_come() {
        let queue = Arc::new(Queue::default());
        let position = queue.give(0, part(1)).await.unwrap();
        let failing = Arc::clone(&queue);
        let written = spawn::blocking(move || failing.write(|_| Err(io::ErrorKind::StorageFull.into())));
        assert_eq!(queue.settled(position).await.unwrap_err().kind(), io::ErrorKind::StorageFull);
        assert!(written.await.unwrap().is_err());
        assert_eq!(queue.give(1, part(1)).await.unwrap_err().kind(), io::ErrorKind::StorageFull);
    }

    #[tokio::test]
    async fn nobody_waits_for_a_writer_that_panicked() {
        let queue = Arc::new(Queue::default());
        let position = queue.give(0, part(1)).await.unwrap();
        let panicking = Arc::clone(&queue);
        let written = spawn::blocking(move || panicking.write(|_| panic!("as a test")));
        assert!(queue.settled(position).await.unwrap_err().to_string().contains("broke off"));
        assert!(written.await.is_err());
    }
}
