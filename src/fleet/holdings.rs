//! What the hives of the fleet have: their models, and what their workers serve, as the buckets tell it.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::index::Index;
use super::names::HiveName;
use crate::callers::TokenUse;
use crate::models::{Model, Source};

/// A model of a hive.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct ModelRecord {
    #[serde(flatten)]
    pub(crate) model: Model,
    /// What requests may name besides its id and its name: its variants and aliases, with the ids under which workers
    /// serve them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) called: Vec<Called>,
}

/// A variant or an alias of a model.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Called {
    pub(crate) name: String,
    pub(crate) served_id: String,
}

/// What the workers of a hive serve. Fields of later versions are ignored.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Serving {
    /// Whether a request loads a model that no worker serves.
    pub(crate) on_demand: bool,
    /// By the id of what is served.
    pub(crate) served: BTreeMap<String, Served>,
    /// What was used of the limits of tokens.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub(crate) tokens: BTreeMap<String, TokenUse>,
}

/// What serves one model or variant.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Served {
    /// Workers that answer requests.
    pub(crate) ready: usize,
    /// Workers that load it; at least one where a load of it waits for room.
    pub(crate) loading: usize,
    /// Requests that those which answer can answer at once; 0 where that is not known.
    pub(crate) slots: usize,
    /// Requests under way, with those that wait.
    pub(crate) requests: usize,
}

/// What all hives have.
#[derive(Debug, Default)]
pub(super) struct Holdings {
    /// By the hive and the key of the model in the bucket.
    models: BTreeMap<HiveName, BTreeMap<String, Arc<ModelRecord>>>,
    serving: BTreeMap<HiveName, Arc<Serving>>,
    /// The models by what requests may call them.
    index: Index<ModelRecord>,
}

/// A hive that has a model.
#[derive(Clone, Debug)]
pub(crate) struct Holder {
    pub(crate) hive: HiveName,
    pub(crate) record: Arc<ModelRecord>,
    /// The id under which it serves what was named.
    pub(crate) served_id: String,
    pub(crate) served: Served,
    pub(crate) on_demand: bool,
}

impl ModelRecord {
    /// The id under which its hive serves what is called so.
    fn serves(&self, name: &str) -> Option<&str> {
        if self.model.id == name || self.model.name == name {
            return Some(&self.model.id);
        }
        self.called.iter().find(|called| called.name == name).map(|called| &*called.served_id)
    }

    /// What it may be called.
    fn names(&self) -> impl Iterator<Item = &str> {
        let own = [&self.model.id, &self.model.name, &self.model.source];
        own.into_iter().chain(self.called.iter().map(|called| &called.name)).map(String::as_str)
    }

    /// Whether it is the same model as another: as long, and, where both hashes are known, with the same one.
    pub(crate) fn is_like(&self, other: &Model) -> bool {
        let hashes = self.model.sha256.as_ref().zip(other.sha256.as_ref());
        self.model.size_bytes == other.size_bytes && hashes.is_none_or(|(a, b)| a.eq_ignore_ascii_case(b))
    }
}

/// A name that a request gives, with what it may mean besides.
struct Wanted<'a> {
    name: &'a str,
    /// As a source, if it may be the name of a model of Ollama's library.
    source: Option<String>,
}

impl<'a> Wanted<'a> {
    /// The name, and without the tag that clients of Ollama's add.
    fn each(name: &'a str) -> impl Iterator<Item = Self> {
        [Some(name), name.strip_suffix(":latest")].into_iter().flatten().map(|name| Self {
            source: match Source::parse(&format!("ollama:{}", name.trim_start_matches("ollama:"))) {
                Ok(Source::Ollama(source)) => Some(source.to_string()),
                _ => None,
            },
            name,
        })
    }

    /// As the catalog finds a model that has neither that id nor that name.
    fn is_about(&self, model: &Model) -> bool {
        let is_like = |text: &str| text.eq_ignore_ascii_case(self.name);
        is_like(&model.id) || is_like(&model.name) || self.source.as_ref() == Some(&model.source)
    }
}

impl Holdings {
    /// Takes what the bucket of models says of one; `None` where it is gone.
    pub(super) fn model(&mut self, hive: &HiveName, key: &str, record: Option<ModelRecord>) {
        let models = self.models.entry(hive.clone()).or_default();
        let was = match record.map(Arc::new) {
            Some(record) => {
                self.index.add(hive, record.names(), &record);
                models.insert(key.to_owned(), record)
            }
            None => models.remove(key),
        };
        if let Some(was) = was {
            self.index.remove(hive, was.names(), &was);
        }
        if models.is_empty() {
            self.models.remove(hive);
        }
    }

    /// Takes what the bucket of workers says of a hive; `None` where its entry is gone.
    pub(super) fn serving(&mut self, hive: &HiveName, serving: Option<Serving>) {
        match serving {
            Some(serving) => drop(self.serving.insert(hive.clone(), Arc::new(serving))),
            None => drop(self.serving.remove(hive)),
        }
    }

    /// The models of a hive, by their keys.
    pub(super) fn models_of(&self, hive: &HiveName) -> impl Iterator<Item = (&String, &Arc<ModelRecord>)> {
        self.models.get(hive).into_iter().flatten()
    }

    /// The hives that have an entry.
    pub(super) fn hives(&self) -> impl Iterator<Item = &HiveName> {
        self.models.keys().chain(self.serving.keys().filter(|hive| !self.models.contains_key(*hive)))
    }

    /// All models, with their hives.
    pub(super) fn models(&self) -> impl Iterator<Item = (&HiveName, &Arc<ModelRecord>)> {
        self.models.iter().flat_map(|(hive, models)| models.values().map(move |record| (hive, record)))
    }

    /// What a hive serves under that id.
    pub(super) fn served(&self, hive: &HiveName, served_id: &str) -> Served {
        let serving = self.serving.get(hive);
        serving.and_then(|serving| serving.served.get(served_id)).copied().unwrap_or_default()
    }

    /// The hives, other than `own`, that have what one of these names means. An id counts more than a name or an alias.
    /// With `like` only those that have the same model; else those that have the same as the first of them.
    pub(super) fn holders(&self, own: &HiveName, names: &[&str], like: Option<&Model>) -> Vec<Holder> {
        let mut holders: Vec<Holder> = Vec::new();
        let wanted: Vec<_> = names.iter().flat_map(|name| Wanted::each(name)).collect();
        let names = wanted.iter().flat_map(|wanted| [Some(wanted.name), wanted.source.as_deref()]).flatten();
        for (hive, models) in self.index.called(names).into_iter().filter(|(hive, _)| *hive != own) {
            let Some((record, served_id)) = meant(models.into_iter(), &wanted) else { continue };
            let like = like.or(holders.first().map(|first| &first.record.model));
            if record.model.check_loadable().is_err() || like.is_some_and(|like| !record.is_like(like)) {
                continue;
            }
            holders.push(Holder {
                hive: hive.clone(),
                record: Arc::clone(record),
                served: self.served(hive, &served_id),
                on_demand: self.serving.get(hive).is_some_and(|serving| serving.on_demand),
                served_id,
            });
        }
        holders
    }

    /// What a hive has under a name, if that can be loaded.
    pub(super) fn named(&self, hive: &HiveName, name: &str) -> Option<&Arc<ModelRecord>> {
        let wanted: Vec<_> = Wanted::each(name).collect();
        let (record, _) = meant(self.models.get(hive)?.values(), &wanted)?;
        Some(record).filter(|record| record.model.check_loadable().is_ok())
    }
}

/// The one of a hive's models that is meant, and the id under which it serves what was named.
fn meant<'a>(
    models: impl Iterator<Item = &'a Arc<ModelRecord>> + Clone,
    wanted: &[Wanted<'_>],
) -> Option<(&'a Arc<ModelRecord>, String)> {
    wanted.iter().find_map(|wanted| {
        let only = |is_meant: &dyn Fn(&ModelRecord) -> bool| {
            let mut meant = models.clone().filter(|record| is_meant(record));
            // A name that several models have means none of them.
            meant.next().filter(|_| meant.next().is_none())
        };
        let name = wanted.name;
        let record = only(&|record| record.model.id == name)
            .or_else(|| only(&|record| record.serves(name).is_some()))
            .or_else(|| only(&|record| wanted.is_about(&record.model)))?;
        Some((record, record.serves(name).unwrap_or(&record.model.id).to_owned()))
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn hive(name: &str) -> HiveName {
        HiveName::new(name).unwrap()
    }

    fn record(id: &str, name: &str, size: u64, sha256: Option<&str>) -> ModelRecord {
        serde_json::from_value(json!({
            "id": id, "name": name, "size_bytes": size, "path": "/m.gguf", "source": "file", "format": "gguf",
            "status": "available", "added_at": "1970-01-02T00:00:00.000Z", "loaded": false, "sha256": sha256,
            "called": [{"name": format!("{id}-alias"), "served_id": format!("{id}@fast")}],
        }))
        .unwrap()
    }

    fn holders(holdings: &Holdings, names: &[&str], like: Option<&Model>) -> Vec<(String, String)> {
        let found = holdings.holders(&hive("own"), names, like);
        found.into_iter().map(|holder| (holder.hive.to_string(), holder.served_id)).collect()
    }

    fn is(hive: &str, id: &str) -> (String, String) {
        (hive.to_owned(), id.to_owned())
    }

    #[test]
    fn a_model_is_found_by_its_id_its_name_and_its_aliases() {
        let mut all = Holdings::default();
        all.model(&hive("own"), "1", Some(record("m", "m", 7, None)));
        all.model(&hive("a"), "1", Some(record("m", "m", 7, None)));
        all.model(&hive("b"), "1", Some(record("m-2", "m", 7, None)));
        all.model(&hive("c"), "1", Some(record("m-1", "m", 7, None)));
        all.model(&hive("c"), "2", Some(record("m-2", "m", 7, None)));
        assert_eq!(holders(&all, &["m"], None), [is("a", "m"), is("b", "m-2")], "c has two of that name");
        assert_eq!(holders(&all, &["m-2"], None), [is("b", "m-2"), is("c", "m-2")]);
        assert_eq!(holders(&all, &["m-1-alias", "m-1"], None), [is("c", "m-1@fast")]);
        assert_eq!(holders(&all, &["other"], None), []);
        assert_eq!(holders(&all, &["M-1"], None), [is("c", "m-1")]);
        assert_eq!(holders(&all, &["m-1:latest"], None), [is("c", "m-1")]);
        all.model(&hive("a"), "1", None);
        assert_eq!(holders(&all, &["m"], None), [is("b", "m-2")]);
        // What a record said before does not count any more.
        all.model(&hive("b"), "1", Some(record("m-3", "n", 7, None)));
        assert_eq!(holders(&all, &["m"], None), []);
        assert_eq!(holders(&all, &["N", "m-3"], None), [is("b", "m-3")]);
    }

    #[test]
    fn only_the_same_model_counts() {
        let mut all = Holdings::default();
        all.model(&hive("a"), "1", Some(record("m", "m", 7, Some("AA"))));
        all.model(&hive("b"), "1", Some(record("m", "m", 7, Some("aa"))));
        all.model(&hive("c"), "1", Some(record("m", "m", 7, Some("bb"))));
        all.model(&hive("d"), "1", Some(record("m", "m", 8, None)));
        all.model(&hive("e"), "1", Some(record("m", "m", 7, None)));
        let expected = ["a", "b", "e"].map(|hive| is(hive, "m"));
        assert_eq!(holders(&all, &["m"], None), expected, "as the first of them");
        assert_eq!(holders(&all, &["m"], Some(&record("m", "m", 8, None).model)), [is("d", "m")]);
        assert_eq!(holders(&all, &["m"], Some(&record("m", "m", 9, None).model)), []);
    }

    #[test]
    fn the_index_finds_what_a_look_at_all_models_finds() {
        let (hives, names) =
            (["a", "b"], ["m", "M", "n", "m-alias", "N-ALIAS", "llama:latest", "ollama:llama"]);
        let change = (0..2_usize, 0..3_usize, proptest::option::of((0..3_usize, 0..3_usize, any::<bool>())));
        proptest!(|(changes in proptest::collection::vec(change, 0..12))| {
            let mut all = Holdings::default();
            for (of, key, called) in changes {
                let record = called.map(|(id, name, is_ollamas)| {
                    let mut record = record(["m", "M", "n"][id], ["m", "n", "o"][name], 7, None);
                    if is_ollamas {
                        record.model.source = "ollama:llama:latest".to_owned();
                    }
                    record
                });
                all.model(&hive(hives[of]), &key.to_string(), record);
            }
            for name in names {
                let looked: Vec<_> = hives
                    .iter()
                    .filter_map(|of| {
                        let wanted: Vec<_> = Wanted::each(name).collect();
                        let (_, served_id) = meant(all.models.get(&hive(of))?.values(), &wanted)?;
                        Some(is(of, &served_id))
                    })
                    .collect();
                prop_assert_eq!(holders(&all, &[name], None), looked);
            }
            for key in 0..3 {
                hives.iter().for_each(|of| all.model(&hive(of), &key.to_string(), None));
            }
            prop_assert!(all.index.called(names).is_empty(), "nothing of it stays");
        });
    }
}
