//! The responses that clients of OpenAI's Responses API may go on with by their ids, kept in memory.
//!
//! A response goes on with the turns before it, which it shares with the responses that they were. So a
//! conversation of many turns takes the memory of what was said in it once.
//!
//! Invariants:
//! - What is kept is within the bounds; the responses that were used longest ago go first. It ends with the hive.
//! - A turn is there as long as one response goes on with it.
//! - A response is found only by whom it was kept for.

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
    /// As JSON. Two of the largest requests that the gateway takes by default, or thousands of usual ones.
    bytes: usize,
    /// So that looking for one to drop is never long.
    responses: NonZeroUsize,
    /// How long a response is kept without being used: a person goes on the next morning.
    idle: Duration,
}

const BOUNDS: Bounds = Bounds {
    bytes: 128 << 20,
    responses: NonZeroUsize::new(4096).expect("it is not 0"),
    idle: Duration::from_secs(24 * 3600),
};

/// The kept responses of one hive. Clones share them.
#[derive(Clone, Debug)]
pub(crate) struct Responses(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    kept: Mutex<LruCache<String, Kept>>,
    bounds: Bounds,
    /// The bytes of all turns.
    bytes: Arc<AtomicUsize>,
}

#[derive(Debug)]
struct Kept {
    conversation: Conversation,
    owner: Arc<str>,
    used: Instant,
}

/// A response and what was said before it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Conversation(Vec<Arc<Turn>>);

/// The input of a request and its response, as JSON.
#[derive(Debug)]
struct Turn {
    input: Bytes,
    response: Bytes,
    /// The bytes of all turns, this one's among them.
    total: Arc<AtomicUsize>,
}

impl Drop for Turn {
    fn drop(&mut self) {
        self.total.fetch_sub(self.input.len() + self.response.len(), Ordering::Relaxed);
    }
}

impl Default for Responses {
    fn default() -> Self {
        Self::within(BOUNDS)
    }
}

impl Responses {
    fn within(bounds: Bounds) -> Self {
        let kept = Mutex::new(LruCache::new(bounds.responses));
        Self(Arc::new(Inner { kept, bounds, bytes: Arc::default() }))
    }

    /// Keeps a response that goes on with `earlier`, for `owner`. One that alone is beyond the bounds is not kept.
    pub(crate) fn keep(
        &self,
        id: String,
        owner: Arc<str>,
        earlier: Conversation,
        input: Bytes,
        response: Bytes,
    ) {
        let Inner { kept, bounds, bytes } = &*self.0;
        let added = input.len() + response.len();
        if added > bounds.bytes {
            tracing::info!(id, bytes = added, "a response is too long to be kept");
            return;
        }
        bytes.fetch_add(added, Ordering::Relaxed);
        let mut conversation = earlier;
        conversation.0.push(Arc::new(Turn { input, response, total: Arc::clone(bytes) }));
        let mut kept = kept.lock();
        kept.put(id, Kept { conversation, owner, used: monotonic() });
        while bytes.load(Ordering::Relaxed) > bounds.bytes
            || kept.peek_lru().is_some_and(|(_, oldest)| monotonic() - oldest.used >= bounds.idle)
        {
            if kept.pop_lru().is_none() {
                return;
            }
        }
    }

    /// The response of that id, if it is kept for `owner`.
    pub(crate) fn find(&self, id: &str, owner: &str) -> Option<Conversation> {
        let mut kept = self.0.kept.lock();
        let found = kept.peek(id).filter(|found| &*found.owner == owner)?;
        if monotonic() - found.used >= self.0.bounds.idle {
            kept.pop(id);
            return None;
        }
        let found = kept.get_mut(id)?;
        found.used = monotonic();
        Some(found.conversation.clone())
    }

    /// Drops the response of that id. Returns whether it was kept for `owner`.
    pub(crate) fn forget(&self, id: &str, owner: &str) -> bool {
        self.find(id, owner).is_some() && self.0.kept.lock().pop(id).is_some()
    }
}

impl Conversation {
    /// Every item of it, from the first on.
    pub(crate) fn items(&self) -> Vec<Value> {
        self.0.iter().flat_map(|turn| turn.items()).collect()
    }

    /// The items of the last request's input.
    pub(crate) fn input(&self) -> Vec<Value> {
        self.0.last().map(|turn| read(&turn.input)).unwrap_or_default()
    }

    /// The response's object.
    pub(crate) fn response(&self) -> Bytes {
        self.0.last().map(|turn| turn.response.clone()).unwrap_or_default()
    }

    /// The item of that id of the last turn.
    pub(crate) fn item(&self, id: &str) -> Option<Value> {
        self.0.last()?.items().into_iter().find(|item| item["id"] == id)
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
mod tests {
    use serde_json::json;

    use super::*;

    fn bounds() -> Bounds {
        Bounds { bytes: 1000, responses: NonZeroUsize::new(3).unwrap(), idle: Duration::from_secs(3600) }
    }

    /// Keeps a response whose input has so many bytes.
    fn keep(responses: &Responses, id: &str, earlier: Conversation, bytes: usize) {
        let input = json!([{"id": format!("in-{id}"), "text": "x".repeat(bytes)}]).to_string();
        let response = json!({"id": id, "output": [{"id": format!("out-{id}")}]}).to_string();
        responses.keep(id.into(), "me".into(), earlier, input.into(), response.into());
    }

    fn ids(conversation: &Conversation) -> Vec<String> {
        conversation.items().iter().map(|item| item["id"].as_str().unwrap().to_owned()).collect()
    }

    #[test]
    fn a_conversation_has_what_was_said_before_whatever_became_of_the_responses() {
        let responses = Responses::within(bounds());
        keep(&responses, "a", Conversation::default(), 1);
        keep(&responses, "b", responses.find("a", "me").unwrap(), 1);
        // Another branch of the same conversation.
        keep(&responses, "c", responses.find("a", "me").unwrap(), 1);
        assert!(responses.forget("a", "me") && !responses.forget("a", "me"));
        let b = responses.find("b", "me").unwrap();
        assert_eq!(ids(&b), ["in-a", "out-a", "in-b", "out-b"]);
        assert_eq!(b.input()[0]["id"], "in-b");
        assert_eq!(b.item("out-b").unwrap()["id"], "out-b");
        assert!(b.item("out-a").is_none());
        assert_eq!(ids(&responses.find("c", "me").unwrap()), ["in-a", "out-a", "in-c", "out-c"]);
    }

    #[test]
    fn nobody_finds_what_is_kept_for_another() {
        let responses = Responses::within(bounds());
        keep(&responses, "a", Conversation::default(), 1);
        assert!(responses.find("a", "you").is_none() && !responses.forget("a", "you"));
        assert!(responses.find("a", "me").is_some());
    }

    #[test]
    fn the_bounds_hold_and_what_was_used_last_stays() {
        let responses = Responses::within(bounds());
        for id in ["a", "b", "c"] {
            keep(&responses, id, Conversation::default(), 1);
        }
        responses.find("a", "me").unwrap();
        keep(&responses, "d", Conversation::default(), 1);
        let found = |id| responses.find(id, "me").is_some();
        assert_eq!(["a", "b", "c", "d"].map(found), [true, false, true, true], "by number");
        keep(&responses, "e", Conversation::default(), 900);
        assert_eq!(["a", "c", "d", "e"].map(found), [false, false, false, true], "by bytes");
        keep(&responses, "f", Conversation::default(), 2000);
        assert_eq!(["e", "f"].map(found), [true, false], "it alone is beyond them");
        let total = || responses.0.bytes.load(Ordering::Relaxed);
        assert!(total() <= 1000);
        responses.forget("e", "me");
        assert_eq!(total(), 0);
    }

    #[test]
    fn what_is_not_used_for_long_is_gone() {
        let responses = Responses::within(Bounds { idle: Duration::ZERO, ..bounds() });
        keep(&responses, "a", Conversation::default(), 1);
        assert!(responses.find("a", "me").is_none());
        assert_eq!(responses.0.bytes.load(Ordering::Relaxed), 0);
    }
}
