//! The responses that clients of OpenAI's Responses API may go on with by their ids, kept in memory.
//!
//! A response goes on with the turns before it, which it shares with the other responses of its conversation: those
//! that go on with the same first one. So a conversation takes the memory of what was said in it once, and memory
//! comes back where all of it goes.
//!
//! Invariants:
//! - What is kept is within the bounds. The conversations that were used longest ago go first, each as a whole, and
//!   none may grow so long that it would drive out all others. All ends with the hive.
//! - A turn is there as long as one response goes on with it.
//! - A response is found only by whom it was kept for.

use std::collections::HashMap;
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use lru::LruCache;
use parking_lot::Mutex;
use serde_json::Value;

use crate::time::monotonic;

/// How much is kept.
#[derive(Clone, Copy, Debug)]
struct Bounds {
    /// Of all turns: thousands of usual conversations.
    bytes: usize,
    /// Of the turns of one conversation: one of the largest requests that the gateway takes by default.
    conversation: usize,
    /// What a turn takes besides its JSON, at most.
    turn: usize,
    /// How long a conversation is kept without being used: a person goes on the next morning.
    idle: Duration,
}

const BOUNDS: Bounds =
    Bounds { bytes: 128 << 20, conversation: LONGEST, turn: 1 << 10, idle: Duration::from_secs(24 * 3600) };

/// The most bytes of one conversation.
const LONGEST: usize = 64 << 20;

/// Of how many responses that were too long to be kept it is known.
const REMEMBERED: NonZeroUsize = NonZeroUsize::new(1024).expect("it is not 0");

/// The kept responses of one hive. Clones share them.
#[derive(Clone, Debug)]
pub(crate) struct Responses(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    kept: Mutex<Kept>,
    bounds: Bounds,
    /// The bytes of all turns, those that only a running request goes on with among them.
    bytes: Arc<AtomicUsize>,
}

#[derive(Debug)]
struct Kept {
    /// By their roots' ids.
    conversations: LruCache<Arc<str>, Branches>,
    /// The id of the root of each response's conversation.
    roots: HashMap<String, Arc<str>>,
    /// The responses that their conversations were too long for, and whom they would be kept for.
    too_long: LruCache<String, Arc<str>>,
}

/// The responses of one conversation: every one is the end of a branch.
#[derive(Debug)]
struct Branches {
    owner: Arc<str>,
    used: Instant,
    responses: HashMap<String, Conversation>,
}

/// Why a response is not found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Missing {
    /// It was never kept, or is not any more.
    Unknown,
    /// Its conversation was too long to be kept.
    TooLong,
}

/// A response and what was said before it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Conversation(Option<Arc<Turn>>);

/// The input of a request and its response, as JSON, after what was said before.
#[derive(Debug)]
struct Turn {
    input: Bytes,
    response: Bytes,
    earlier: Option<Arc<Turn>>,
    /// What it takes of the memory.
    bytes: usize,
    root: Arc<Root>,
}

/// The first response of a conversation.
#[derive(Debug)]
struct Root {
    id: Arc<str>,
    /// The bytes of all turns that go on with it.
    bytes: AtomicUsize,
    /// Those of all conversations.
    all: Arc<AtomicUsize>,
}

impl Root {
    fn add(&self, bytes: usize) {
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
        self.all.fetch_add(bytes, Ordering::Relaxed);
    }

    fn subtract(&self, bytes: usize) {
        self.bytes.fetch_sub(bytes, Ordering::Relaxed);
        self.all.fetch_sub(bytes, Ordering::Relaxed);
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        self.root.subtract(self.bytes);
        // One after the other: a chain of many would not fit on the stack.
        let mut next = self.earlier.take();
        while let Some(mut turn) = next.and_then(Arc::into_inner) {
            next = turn.earlier.take();
        }
    }
}

impl Default for Responses {
    fn default() -> Self {
        Self::within(BOUNDS)
    }
}

impl Responses {
    fn within(bounds: Bounds) -> Self {
        let kept = Kept {
            conversations: LruCache::unbounded(),
            roots: HashMap::new(),
            too_long: LruCache::new(REMEMBERED),
        };
        Self(Arc::new(Inner { kept: Mutex::new(kept), bounds, bytes: Arc::default() }))
    }

    /// Keeps a response that goes on with `earlier`, for `owner`, unless its conversation becomes too long.
    pub(crate) fn keep(
        &self,
        id: String,
        owner: Arc<str>,
        earlier: Conversation,
        input: Bytes,
        response: Bytes,
    ) {
        let Inner { kept, bounds, bytes: all } = &*self.0;
        let root = earlier.0.as_ref().map(|turn| Arc::clone(&turn.root)).unwrap_or_else(|| {
            Arc::new(Root { id: id.as_str().into(), bytes: AtomicUsize::new(0), all: Arc::clone(all) })
        });
        let bytes = input.len() + response.len() + bounds.turn;
        let mut kept = kept.lock();
        if root.bytes.load(Ordering::Relaxed) + bytes > bounds.conversation {
            tracing::info!(id, bytes, "the conversation of a response is too long for it to be kept");
            kept.too_long.put(id, owner);
            return;
        }
        root.add(bytes);
        kept.roots.insert(id.clone(), Arc::clone(&root.id));
        let new = || Branches { owner, used: monotonic(), responses: HashMap::new() };
        let branches = kept.conversations.get_or_insert_mut(Arc::clone(&root.id), new);
        branches.used = monotonic();
        let turn = Turn { input, response, earlier: earlier.0, bytes, root };
        branches.responses.insert(id, Conversation(Some(Arc::new(turn))));
        while kept
            .conversations
            .peek_lru()
            .is_some_and(|(_, oldest)| monotonic() - oldest.used >= bounds.idle)
            || (all.load(Ordering::Relaxed) > bounds.bytes && kept.conversations.len() > 1)
        {
            kept.drop_oldest();
        }
    }

    /// The response of that id, if it is kept for `owner`.
    pub(crate) fn find(&self, id: &str, owner: &str) -> Result<Conversation, Missing> {
        let mut kept = self.0.kept.lock();
        if kept.too_long.peek(id).is_some_and(|of| &**of == owner) {
            return Err(Missing::TooLong);
        }
        let root = kept.roots.get(id).cloned().ok_or(Missing::Unknown)?;
        let branches = kept.conversations.peek(&root).filter(|found| &*found.owner == owner);
        if monotonic() - branches.ok_or(Missing::Unknown)?.used >= self.0.bounds.idle {
            kept.conversations.demote(&root);
            kept.drop_oldest();
            return Err(Missing::Unknown);
        }
        let branches = kept.conversations.get_mut(&root).ok_or(Missing::Unknown)?;
        branches.used = monotonic();
        branches.responses.get(id).cloned().ok_or(Missing::Unknown)
    }

    /// Drops the response of that id, if it is kept for `owner`.
    pub(crate) fn forget(&self, id: &str, owner: &str) -> Result<(), Missing> {
        self.find(id, owner)?;
        let mut kept = self.0.kept.lock();
        let root = kept.roots.remove(id).ok_or(Missing::Unknown)?;
        if let Some(branches) = kept.conversations.peek_mut(&root) {
            branches.responses.remove(id);
            if branches.responses.is_empty() {
                kept.conversations.pop(&root);
            }
        }
        Ok(())
    }
}

impl Kept {
    /// Drops the conversation that was used longest ago.
    fn drop_oldest(&mut self) {
        let Some((_, branches)) = self.conversations.pop_lru() else { return };
        for id in branches.responses.keys() {
            self.roots.remove(id);
        }
    }
}

impl Conversation {
    fn turns(&self) -> impl Iterator<Item = &Turn> {
        std::iter::successors(self.0.as_deref(), |turn| turn.earlier.as_deref())
    }

    /// Every item of it, from the first on.
    pub(crate) fn items(&self) -> Vec<Value> {
        let turns: Vec<&Turn> = self.turns().collect();
        turns.into_iter().rev().flat_map(Turn::items).collect()
    }

    /// The items of the last request's input.
    pub(crate) fn input(&self) -> Vec<Value> {
        self.0.as_ref().map(|turn| read(&turn.input)).unwrap_or_default()
    }

    /// The response's object.
    pub(crate) fn response(&self) -> Bytes {
        self.0.as_ref().map(|turn| turn.response.clone()).unwrap_or_default()
    }

    /// The item of that id of the last turn.
    pub(crate) fn item(&self, id: &str) -> Option<Value> {
        self.0.as_ref()?.items().into_iter().find(|item| item["id"] == id)
    }
}

impl Missing {
    /// In a sentence about the response.
    pub(crate) fn why(self) -> String {
        match self {
            Self::Unknown => "is not kept".to_owned(),
            Self::TooLong => {
                format!(
                    "was not kept: its conversation is longer than the {} MiB that one may take",
                    LONGEST >> 20
                )
            }
        }
    }
}

impl Turn {
    /// What was said in it.
    fn items(&self) -> Vec<Value> {
        let mut items: Vec<Value> = read(&self.input);
        let mut response: Value = read(&self.response);
        if let Some(output) = response["output"].as_array_mut() {
            items.append(output);
        }
        items
    }
}

/// What the hive itself has written.
fn read<T: serde::de::DeserializeOwned + Default>(json: &Bytes) -> T {
    serde_json::from_slice(json).unwrap_or_default()
}

#[cfg(test)]
mod tests;
