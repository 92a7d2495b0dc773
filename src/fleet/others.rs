//! The other hives, for requests to models: who has what, and how much is under way there.
//!
//! Nothing here asks NATS: what the buckets have is known, and what is sent goes directly.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use super::balance::Sent;
use super::choice::Candidate;
use super::holdings::{Holder, ModelRecord};
use super::membership::Membership;
use super::names::HiveName;
use super::peers::Peer;
use crate::error::Result;
use crate::models::Model;
use crate::workers::Conversation;

/// How often is looked whether a hive still gives signs of life.
const LOOK: Duration = Duration::from_secs(1);

/// The other hives. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Others(Arc<Membership>);

/// What other hives have under a name.
#[derive(Debug)]
pub(crate) struct NamedThere {
    pub(crate) record: Arc<ModelRecord>,
    pub(crate) served_id: String,
    /// The hives that have it.
    pub(crate) hives: Vec<String>,
    /// Whether a worker of one of them serves it.
    pub(crate) is_loaded: bool,
}

impl Others {
    pub(super) fn of(membership: Arc<Membership>) -> Self {
        Self(membership)
    }

    /// The name of this hive.
    pub(crate) fn own(&self) -> &HiveName {
        &self.0.hive
    }

    /// The hives that can be asked directly and have what one of these names means: with `like`, the same model as that.
    pub(crate) fn holders(&self, names: &[&str], like: Option<&Model>) -> Vec<Holder> {
        let mut holders = self.0.holdings.read().holders(&self.0.hive, names, like);
        holders.retain(|holder| self.0.peers.can_ask(&holder.hive));
        holders
    }

    /// What requests may name that the hives have that can be asked directly, by name. Where several have other models
    /// of one name, the first of them counts, as for a request.
    pub(crate) fn named(&self) -> BTreeMap<String, NamedThere> {
        let mut named: BTreeMap<String, NamedThere> = BTreeMap::new();
        let holdings = self.0.holdings.read();
        let others =
            holdings.models().filter(|(hive, _)| **hive != self.0.hive && self.0.peers.can_ask(hive));
        for (hive, record) in others.filter(|(_, record)| record.model.check_loadable().is_ok()) {
            let own = (record.model.id.clone(), record.model.id.clone());
            let called = record.called.iter().map(|called| (called.name.clone(), called.served_id.clone()));
            for (name, served_id) in std::iter::once(own).chain(called) {
                let is_loaded = holdings.served(hive, &served_id).ready > 0;
                let there = named.entry(name).or_insert_with(|| NamedThere {
                    record: Arc::clone(record),
                    served_id,
                    hives: Vec::new(),
                    is_loaded: false,
                });
                if record.is_like(&there.record.model) {
                    there.hives.push(hive.to_string());
                    there.is_loaded |= is_loaded;
                }
            }
        }
        named
    }

    /// The hive, to be asked directly.
    ///
    /// # Errors
    /// [`Code::HiveUnreachable`](crate::error::Code::HiveUnreachable)
    pub(crate) fn peer(&self, hive: &HiveName) -> Result<Peer> {
        self.0.peers.get(hive)
    }

    /// A hive that has the model, for the choice among several.
    pub(crate) fn candidate(&self, holder: &Holder) -> Candidate {
        Candidate {
            served: holder.served,
            sent: self.0.balance.sent(&holder.hive, &holder.served_id),
            loads: holder.on_demand,
            ..Candidate::default()
        }
    }

    /// Counts a request to a hive as under way.
    pub(crate) fn send(&self, holder: &Holder) -> Sent {
        self.0.balance.send(&holder.hive, &holder.served_id)
    }

    /// The hive that has answered the longest beginning of a conversation with the model: `Some(None)` is this one.
    pub(crate) fn knowing(&self, model: &str, conversation: &Conversation) -> Option<Option<HiveName>> {
        self.0.balance.knowing(model, conversation)
    }

    /// Remembers who answers the conversation; `None` is this hive.
    pub(crate) fn remember(&self, model: &str, conversation: &Conversation, hive: Option<HiveName>) {
        self.0.balance.remember(model, conversation, hive);
    }

    /// Waits until the hive gives no signs of life any more, neither to the fleet nor when it is asked directly: it may
    /// have lost the servers alone.
    pub(crate) async fn silent(self, peer: Peer) {
        while self.0.asking.is_reachable(&peer.hive) || peer.answers().await {
            tokio::time::sleep(LOOK).await;
        }
    }
}
