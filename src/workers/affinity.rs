//! Which worker has which conversation in its cache.
//!
//! A request repeats the messages of the conversation so far and adds to them. Its worker has computed all of
//! them then, so the next request of the conversation, which begins with the same messages, costs least there.
//! A request is known by the hash of all its messages; the next one looks for the longest of its own beginnings
//! that is known. Beginnings that no request has had as a whole are not kept: many conversations begin with the
//! same instructions, and would all go to one worker.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::num::NonZeroUsize;

use lru::LruCache;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

/// The most requests that are remembered: those used last.
const REMEMBERED: NonZeroUsize = NonZeroUsize::new(4096).expect("it is not 0");

/// Which worker a request would rather have.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Preference {
    /// The one that has this conversation in its cache.
    pub conversation: Conversation,
    /// Any but this one, if there is another.
    pub avoided: Option<u32>,
    /// One that has so many tokens of context, else of those that have the most.
    pub context: Option<u64>,
}

impl Preference {
    /// Leaves only the workers that have the preferred context, or else the most. One that does not tell how much it has
    /// counts as having it.
    pub(super) fn choose_context<W>(&self, workers: &mut Vec<W>, context: impl Fn(&W) -> Option<u64>) {
        let Some(wanted) = self.context else { return };
        let has = |worker: &W| context(worker).unwrap_or(wanted).min(wanted);
        let most = workers.iter().map(has).max();
        workers.retain(|worker| Some(has(worker)) == most);
    }
}

/// The messages of a request, as hashes of its beginnings.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Conversation(Vec<u64>);

impl Conversation {
    /// The conversation of these messages, as they are written in the request.
    pub fn of<'a>(messages: impl IntoIterator<Item = &'a str>) -> Self {
        let mut hasher = DefaultHasher::new();
        let hashes = messages.into_iter().map(|message| {
            message.hash(&mut hasher);
            hasher.finish()
        });
        Self(hashes.collect())
    }
}

/// The workers that answered the requests used last: `W` tells which one.
#[derive(Debug)]
pub(crate) struct Affinity<W = u32>(Mutex<LruCache<(u64, u64), W>>);

impl<W> Default for Affinity<W> {
    fn default() -> Self {
        Self(Mutex::new(LruCache::new(REMEMBERED)))
    }
}

impl<W: Clone> Affinity<W> {
    /// The worker that answered the longest beginning of the conversation with this model.
    pub(crate) fn worker(&self, model: &str, conversation: &Conversation) -> Option<W> {
        let (model, mut workers) = (hash(model), self.0.lock());
        conversation.0.iter().rev().find_map(|beginning| workers.get(&(model, *beginning)).cloned())
    }

    /// Remembers that this worker answers the conversation.
    pub(crate) fn remember(&self, model: &str, conversation: &Conversation, worker: W) {
        if let Some(whole) = conversation.0.last() {
            self.0.lock().put((hash(model), *whole), worker);
        }
    }
}

fn hash(text: &str) -> u64 {
    let mut hasher = DefaultHasher::new();
    text.hash(&mut hasher);
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_beginning_that_is_known_decides() {
        let affinity = Affinity::<u32>::default();
        let first = ["system", "hello"];
        affinity.remember("m", &Conversation::of(first), 1);
        let next = ["system", "hello", "answer", "more"];
        assert_eq!(affinity.worker("m", &Conversation::of(next)), Some(1));
        affinity.remember("m", &Conversation::of(next), 2);
        assert_eq!(affinity.worker("m", &Conversation::of(next)), Some(2), "the longer one");
        assert_eq!(affinity.worker("m", &Conversation::of(first)), Some(1), "the same request again");
        // The last message was edited.
        assert_eq!(affinity.worker("m", &Conversation::of(["system", "hello", "answer", "else"])), Some(1));

        assert_eq!(
            affinity.worker("m", &Conversation::of(["system", "other"])),
            None,
            "another conversation"
        );
        assert_eq!(affinity.worker("other", &Conversation::of(first)), None, "another model");
        assert_eq!(affinity.worker("m", &Conversation::of(["systemhello"])), None);
        assert_eq!(affinity.worker("m", &Conversation::default()), None);
    }

    #[test]
    fn only_the_workers_with_enough_context_are_left_or_those_with_the_most() {
        let left = |wanted| {
            let mut workers = vec![Some(512), Some(2048), None, Some(1024), Some(2048)];
            let preference = Preference { context: wanted, ..Preference::default() };
            preference.choose_context(&mut workers, |context| *context);
            workers
        };
        assert_eq!(left(None).len(), 5);
        assert_eq!(left(Some(1000)), [Some(2048), None, Some(1024), Some(2048)]);
        assert_eq!(left(Some(2048)), [Some(2048), None, Some(2048)]);
        assert_eq!(left(Some(9000)), [None]);
        let mut known = vec![512, 2048];
        let preference = Preference { context: Some(9000), ..Preference::default() };
        preference.choose_context(&mut known, |context| Some(*context));
        assert_eq!(known, [2048]);
    }

    #[test]
    fn it_remembers_a_bounded_number_of_requests() {
        let affinity = Affinity::default();
        let conversation = |number: usize| Conversation::of([number.to_string().as_str()]);
        for number in 0..=REMEMBERED.get() {
            affinity.remember("m", &conversation(number), 7);
        }
        assert_eq!(affinity.0.lock().len(), REMEMBERED.get());
        assert_eq!(affinity.worker("m", &conversation(0)), None, "the oldest is forgotten");
        assert_eq!(affinity.worker("m", &conversation(REMEMBERED.get())), Some(7));
    }
}
