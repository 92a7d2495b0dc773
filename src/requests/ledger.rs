//! The ledger: the requests under way, the last ones that ended, and the totals.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::broadcast;

use super::feed::Feed;
use super::record::Record;
use super::request::Request;
use super::totals::{Sums, Totals, TotalsOf, counts_of};
use crate::usage::Usage;

/// The most requests that are remembered after their end.
const REMEMBERED: usize = 1000;

/// The ledger of one hive. Clones share it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Ledger(Arc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    /// What outlives the hive.
    usage: Usage,
    under_way: Mutex<HashMap<Arc<str>, Arc<Mutex<Request>>>>,
    /// The last requests, the newest last.
    ended: Mutex<VecDeque<Arc<Record>>>,
    totals: Mutex<Totals>,
    feed: Feed,
}

impl Ledger {
    /// A ledger that also adds to this usage.
    pub(crate) fn of(usage: Usage) -> Self {
        Self(Arc::new(Inner { usage, ..Inner::default() }))
    }

    /// A request begins.
    pub(super) fn begin(&self, id: &Arc<str>, request: &Arc<Mutex<Request>>) {
        self.0.under_way.lock().insert(Arc::clone(id), Arc::clone(request));
    }

    /// Tells those who follow the requests.
    pub(super) fn announce(&self, record: &Record) {
        self.0.feed.announce(record);
    }

    /// A request has ended.
    pub(super) fn end(&self, record: Record) {
        self.announce(&record);
        let counts = counts_of(&record);
        self.0.totals.lock().add(&record, &counts);
        self.0.usage.add(&record.caller, record.model.as_deref(), &counts);
        let id = Arc::clone(&record.request_id);
        {
            let mut ended = self.0.ended.lock();
            if ended.len() == REMEMBERED {
                ended.pop_front();
            }
            ended.push_back(Arc::new(record));
        }
        self.0.under_way.lock().remove(&id);
    }

    /// What happens to requests from now on, as the data of events `request`.
    pub(crate) fn follow(&self) -> broadcast::Receiver<Arc<str>> {
        self.0.feed.follow()
    }

    /// Whether every request under way has got its worker.
    pub(crate) fn all_have_workers(&self) -> bool {
        let requests: Vec<_> = self.0.under_way.lock().values().cloned().collect();
        requests.iter().all(|request| request.lock().served_by.is_some())
    }

    /// The request of that id, if it is under way or among the last ones.
    pub(crate) fn find(&self, id: &str) -> Option<Arc<Record>> {
        let under_way = self.0.under_way.lock().get(id).cloned();
        // An ended one is in both lists for a moment.
        let is_it = |record: &&Arc<Record>| &*record.request_id == id;
        let ended = || self.0.ended.lock().iter().rev().find(is_it).cloned();
        under_way.map(|request| Arc::new(request.lock().record())).or_else(ended)
    }

    /// The requests for a model, which has these ids, or all: those under way, and at most `most` of those that ended last, the newest
    /// first.
    pub(crate) fn of_model(&self, ids: Option<&[String]>, most: usize) -> Vec<Arc<Record>> {
        let is_of_it = |record: &Arc<Record>| {
            ids.is_none_or(|ids| ids.iter().any(|id| record.model.as_deref() == Some(id)))
        };
        let requests: Vec<_> = self.0.under_way.lock().values().cloned().collect();
        let under_way = requests.iter().map(|request| Arc::new(request.lock().record()));
        let mut records: Vec<_> =
            under_way.filter(|record| record.outcome.is_none() && is_of_it(record)).collect();
        let ended = self.0.ended.lock();
        records.extend(ended.iter().rev().filter(|record| is_of_it(record)).take(most).cloned());
        records
    }

    /// The sums since the hive started, by model, by worker and by caller.
    pub(crate) fn totals(&self) -> [Vec<TotalsOf>; 3] {
        self.0.totals.lock().view()
    }

    /// The same sums as numbers, by model and by caller.
    pub(crate) fn sums(&self) -> [Vec<(Arc<str>, Sums)>; 2] {
        self.0.totals.lock().sums()
    }

    /// How many requests are under way.
    pub(crate) fn under_way(&self) -> usize {
        self.0.under_way.lock().len()
    }
}
