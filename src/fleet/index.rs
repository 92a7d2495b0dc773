//! Things of the hives by what they are called, in any case of the letters: finds what a name may mean without looking
//! at all of them.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use super::names::HiveName;

#[derive(Debug)]
pub(super) struct Index<T>(HashMap<String, Vec<(HiveName, Arc<T>)>>);

impl<T> Default for Index<T> {
    fn default() -> Self {
        Self(HashMap::new())
    }
}

impl<T> Index<T> {
    pub(super) fn add<'a>(
        &mut self,
        hive: &HiveName,
        names: impl IntoIterator<Item = &'a str>,
        thing: &Arc<T>,
    ) {
        for name in names {
            let called = self.0.entry(name.to_ascii_lowercase()).or_default();
            called.push((hive.clone(), Arc::clone(thing)));
        }
    }

    /// Removes what was added of a hive under these names.
    pub(super) fn remove<'a>(
        &mut self,
        hive: &HiveName,
        names: impl IntoIterator<Item = &'a str>,
        thing: &Arc<T>,
    ) {
        for name in names.into_iter().map(str::to_ascii_lowercase) {
            let Some(called) = self.0.get_mut(&name) else { continue };
            called.retain(|(of, other)| of != hive || !Arc::ptr_eq(other, thing));
            if called.is_empty() {
                self.0.remove(&name);
            }
        }
    }

    /// What is called so, by hive.
    pub(super) fn called<'a>(
        &self,
        names: impl IntoIterator<Item = &'a str>,
    ) -> BTreeMap<&HiveName, Vec<&Arc<T>>> {
        let mut found: BTreeMap<_, Vec<&Arc<T>>> = BTreeMap::new();
        let called = names.into_iter().filter_map(|name| self.0.get(&name.to_ascii_lowercase()));
        for (hive, thing) in called.flatten() {
            let of_hive = found.entry(hive).or_default();
            if !of_hive.iter().any(|known| Arc::ptr_eq(known, thing)) {
                of_hive.push(thing);
            }
        }
        found
    }
}
