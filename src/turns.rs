//! Locks by key: work on the same key takes turns, work on different keys runs at the same time.

use std::borrow::Borrow;
use std::collections::HashMap;
use std::hash::Hash;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::{Mutex as AsyncMutex, OwnedMutexGuard};

/// A lock for each key in use. A key that nobody holds or waits for takes no memory.
#[derive(Debug)]
pub struct Turns<K>(Mutex<HashMap<K, Arc<AsyncMutex<()>>>>);

impl<K> Default for Turns<K> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

impl<K: Eq + Hash> Turns<K> {
    /// Takes the lock of `key` if nobody holds it.
    #[must_use]
    pub fn try_take<Q>(&self, key: &Q) -> Option<OwnedMutexGuard<()>>
    where
        K: Borrow<Q>,
        Q: ToOwned<Owned = K> + ?Sized,
    {
        self.lock_of(key).try_lock_owned().ok()
    }

    /// Waits for the lock of `key`.
    pub async fn take<Q>(&self, key: &Q) -> OwnedMutexGuard<()>
    where
        K: Borrow<Q>,
        Q: ToOwned<Owned = K> + ?Sized,
    {
        self.lock_of(key).lock_owned().await
    }

    fn lock_of<Q>(&self, key: &Q) -> Arc<AsyncMutex<()>>
    where
        K: Borrow<Q>,
        Q: ToOwned<Owned = K> + ?Sized,
    {
        let mut locks = self.0.lock();
        // Every task that holds or waits for a lock has its own reference to it.
        locks.retain(|_, lock| Arc::strong_count(lock) > 1);
        Arc::clone(locks.entry(key.to_owned()).or_default())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn equal_keys_exclude_each_other_and_unused_locks_are_removed() {
        let turns = Turns::<String>::default();
        let first = turns.take("a").await;
        assert!(turns.try_take("a").is_none());
        let other = turns.try_take("b").expect("another key is free");
        drop((first, other));
        let _again = turns.try_take("a").expect("it is free again");
        assert_eq!(turns.0.lock().len(), 1);
    }
}
