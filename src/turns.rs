//! Turns: work on the same thing, one at a time, and on different things at once.

use std::borrow::Borrow;
use std::collections::HashMap;
use std::hash::Hash;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::{Mutex as AsyncMutex, OwnedMutexGuard};

/// A lock for each key that somebody holds or waits for, and none for the others.
#[derive(Debug)]
pub struct Turns<K>(Mutex<HashMap<K, Arc<AsyncMutex<()>>>>);

impl<K> Default for Turns<K> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

impl<K: Eq + Hash> Turns<K> {
    /// The turn, where nobody has it.
    #[must_use]
    pub fn try_take<Q>(&self, key: &Q) -> Option<OwnedMutexGuard<()>>
    where
        K: Borrow<Q>,
        Q: ToOwned<Owned = K> + ?Sized,
    {
        self.lock_of(key).try_lock_owned().ok()
    }

    /// Waits for the turn.
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
        // Whoever holds or waits for a turn has a handle of its own.
        locks.retain(|_, lock| Arc::strong_count(lock) > 1);
        Arc::clone(locks.entry(key.to_owned()).or_default())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn equal_keys_take_turns_and_leave_nothing_behind() {
        let turns = Turns::<String>::default();
        let first = turns.take("a").await;
        assert!(turns.try_take("a").is_none());
        let other = turns.try_take("b").expect("another key is free");
        drop((first, other));
        let _again = turns.try_take("a").expect("it is free again");
        assert_eq!(turns.0.lock().len(), 1);
    }
}
