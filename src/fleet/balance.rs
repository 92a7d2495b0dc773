//! What this hive knows of the requests that it has sent to others: how many are under way, and who has which
//! conversation in its cache.

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::Mutex;

use super::names::HiveName;
use crate::workers::{Affinity, Conversation};

/// A hive and the id of what it serves.
type Place = (HiveName, String);

/// What this hive knows of its requests to others. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub(super) struct Balance(Arc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    sent: Mutex<HashMap<Place, usize>>,
    /// `None` is this hive.
    conversations: Affinity<Option<HiveName>>,
}

/// Counts a request as under way until it is dropped.
#[derive(Debug)]
#[must_use = "the request counts as ended when this is dropped"]
pub(crate) struct Sent {
    balance: Balance,
    place: Place,
}

impl Balance {
    /// How many requests are under way there.
    pub(super) fn sent(&self, hive: &HiveName, served_id: &str) -> usize {
        self.0.sent.lock().get(&(hive.clone(), served_id.to_owned())).copied().unwrap_or(0)
    }

    /// Counts one more.
    pub(super) fn send(&self, hive: &HiveName, served_id: &str) -> Sent {
        let place = (hive.clone(), served_id.to_owned());
        *self.0.sent.lock().entry(place.clone()).or_default() += 1;
        Sent { balance: self.clone(), place }
    }

    /// The hive that has answered the longest beginning of the conversation with the model.
    pub(super) fn knowing(&self, model: &str, conversation: &Conversation) -> Option<Option<HiveName>> {
        self.0.conversations.worker(model, conversation)
    }

    /// Remembers who answers the conversation.
    pub(super) fn remember(&self, model: &str, conversation: &Conversation, hive: Option<HiveName>) {
        self.0.conversations.remember(model, conversation, hive);
    }
}

impl Drop for Sent {
    fn drop(&mut self) {
        let mut sent = self.balance.0.sent.lock();
        if let Some(count) = sent.get_mut(&self.place) {
            *count -= 1;
            if *count == 0 {
                sent.remove(&self.place);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_counts_until_it_is_dropped() {
        let (balance, hive) = (Balance::default(), HiveName::new("a").unwrap());
        let first = balance.send(&hive, "m");
        let second = balance.send(&hive, "m");
        assert_eq!((balance.sent(&hive, "m"), balance.sent(&hive, "other")), (2, 0));
        drop((first, second));
        assert_eq!(balance.sent(&hive, "m"), 0);
        assert!(balance.0.sent.lock().is_empty());
    }
}
