//! The other hives that a transfer gets its file from, and how much each of them does.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use crate::models::transfer::neighbours::Holder;
use crate::text;

/// How many connections there are to one hive, at most: more would only put the bytes out of order.
const MOST_CONNECTIONS: usize = 4;

/// The hives that have the file. One that fails is left out from then on.
#[derive(Debug, Default)]
pub(crate) struct Holders {
    in_use: Vec<InUse>,
    /// Those that have failed.
    left_out: Vec<Arc<Holder>>,
}

#[derive(Debug)]
struct InUse {
    holder: Arc<Holder>,
    connections: usize,
}

impl Holders {
    pub(crate) fn add(&mut self, found: Vec<Holder>) {
        self.in_use
            .extend(found.into_iter().map(|holder| InUse { holder: Arc::new(holder), connections: 0 }));
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.in_use.is_empty()
    }

    pub(crate) fn len(&self) -> usize {
        self.in_use.len()
    }

    /// Those that are in use, in words: `hive 'b' and hive 'c'`.
    pub(crate) fn in_words(&self) -> String {
        listed(self.in_use.iter().map(|one| one.holder.to_string()).collect())
    }

    /// Whether all of them have the whole file.
    pub(crate) fn are_complete(&self) -> bool {
        self.in_use.iter().all(|one| one.holder.is_complete)
    }

    /// The names of those that have failed.
    pub(crate) fn left_out(&self) -> Vec<String> {
        self.left_out.iter().map(|holder| holder.hive.clone()).collect()
    }

    /// The one that does the least, for another connection. `None` where all do enough.
    pub(crate) fn choose(&mut self) -> Option<Arc<Holder>> {
        let one = self.in_use.iter_mut().min_by_key(|one| one.connections)?;
        (one.connections < MOST_CONNECTIONS).then(|| {
            one.connections += 1;
            Arc::clone(&one.holder)
        })
    }

    /// A connection to it has ended.
    pub(crate) fn release(&mut self, holder: &Arc<Holder>) {
        let one = self.in_use.iter_mut().find(|one| Arc::ptr_eq(&one.holder, holder));
        if let Some(one) = one {
            one.connections -= 1;
        }
    }

    /// Leaves it out from now on. Returns whether it was in use.
    pub(crate) fn leave_out(&mut self, holder: &Arc<Holder>) -> bool {
        let before = self.in_use.len();
        self.in_use.retain(|one| !Arc::ptr_eq(&one.holder, holder));
        let was_in_use = self.in_use.len() < before;
        if was_in_use {
            self.left_out.push(Arc::clone(holder));
        }
        was_in_use
    }

    /// What came from whom, in words: `600.0 MiB from hive 'b' and 1.0 MiB from hive 'c'`. `None` where nothing did.
    pub(crate) fn received(&self) -> Option<String> {
        let all = self.in_use.iter().map(|one| &one.holder).chain(&self.left_out);
        let parts: Vec<_> = all
            .filter_map(|holder| match holder.received.load(Ordering::Relaxed) {
                0 => None,
                bytes => Some(format!("{} from {holder}", text::bytes(bytes))),
            })
            .collect();
        (!parts.is_empty()).then(|| listed(parts))
    }
}

/// `a`, `a and b`, `a, b and c`.
fn listed(mut parts: Vec<String>) -> String {
    let last = parts.pop().unwrap_or_default();
    if parts.is_empty() { last } else { format!("{} and {last}", parts.join(", ")) }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicU64;

    use super::*;

    fn holder(hive: &str) -> Holder {
        Holder {
            hive: hive.into(),
            url: reqwest::Url::parse("http://127.0.0.1:1/blobs/0").unwrap(),
            client: reqwest::Client::new(),
            headers: reqwest::header::HeaderMap::new(),
            is_complete: true,
            received: AtomicU64::new(0),
        }
    }

    #[test]
    fn connections_are_spread_over_those_that_have_not_failed() {
        let mut holders = Holders::default();
        assert!(holders.choose().is_none());
        holders.add(vec![holder("b"), holder("c")]);
        let chosen: Vec<_> = std::iter::from_fn(|| holders.choose()).collect();
        assert_eq!(chosen.len(), 2 * MOST_CONNECTIONS);
        for hive in ["b", "c"] {
            assert_eq!(chosen.iter().filter(|holder| holder.hive == hive).count(), MOST_CONNECTIONS);
        }
        let failed = &chosen[0];
        assert!(holders.leave_out(failed) && !holders.leave_out(failed), "it fails once");
        holders.release(failed);
        assert_eq!(holders.left_out(), std::slice::from_ref(&failed.hive));
        assert!(holders.choose().is_none(), "the other one does enough");
        holders.release(chosen.iter().find(|holder| holder.hive != failed.hive).unwrap());
        assert_ne!(holders.choose().unwrap().hive, failed.hive);
    }

    #[test]
    fn what_came_from_whom_is_told() {
        let mut holders = Holders::default();
        assert_eq!(holders.received(), None);
        holders.add(vec![holder("b"), holder("c"), holder("d")]);
        assert_eq!(holders.in_words(), "hive 'b', hive 'c' and hive 'd'");
        holders.in_use[0].holder.received.store(2048, Ordering::Relaxed);
        let failed = Arc::clone(&holders.in_use[2].holder);
        failed.received.store(1024, Ordering::Relaxed);
        holders.leave_out(&failed);
        assert_eq!(holders.received().unwrap(), "2.0 KiB from hive 'b' and 1.0 KiB from hive 'd'");
    }
}
