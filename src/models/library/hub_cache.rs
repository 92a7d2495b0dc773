//! The Hugging Face cache, which all tools share: its GGUF files are listed and used in place.
//!
//! Layout (<https://huggingface.co/docs/huggingface_hub/guides/manage-cache>):
//! `models--org--repo/{blobs,refs,snapshots}`; a snapshot is a folder named after a commit whose
//! files are links into `blobs`, where a large file is named after its SHA-256; a file of `refs`,
//! such as `main`, holds its commit.

mod scan;
mod remove;
pub(crate) mod snapshot;
pub(crate) mod notes;
pub(crate) mod layout;

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use crate::error::Result;
use crate::models::library::location::{HubCacheModel, PartialModel, ScannedModel};
use crate::models::library::probe::DiskProbe;
use layout::CacheRepository;
use notes::HubNotes;

/// The cache's folder, which may not exist, and the hive's notes about it.
#[derive(Debug)]
pub(crate) struct HubCache {
    pub(crate) dir: PathBuf,
    pub(crate) notes: HubNotes,
}

impl HubCache {
    /// The repository `org/repo`, whose segments must be in the Hub's grammar.
    pub(crate) fn repository(&self, repo: &str) -> CacheRepository {
        CacheRepository::new(&self.dir, repo)
    }

    /// The models in the cache; of each repository, those of `main` first.
    pub(crate) fn scan(&self, probe: &DiskProbe<'_>) -> Vec<ScannedModel> {
        scan::models(&self.dir, probe)
    }

    /// The hive's unfinished downloads into the cache that can be resumed and whose blob does not
    /// exist.
    pub(crate) fn partials(&self, probe: &DiskProbe<'_>) -> Vec<PartialModel> {
        scan::partials(&self.dir, probe)
    }

    /// Deletes a model. Returns the bytes that this frees.
    pub(crate) fn remove(&self, model: &HubCacheModel, links: &[PathBuf]) -> Result<u64> {
        remove::remove_model(model, links, &self.notes)
    }

    /// Deletes a complete file that waits in the cache for the rest of its model: a blob to which no snapshot
    /// links, if it is the hive's own. Returns the bytes that this frees.
    pub(crate) fn remove_unlinked(&self, blob: &Path) -> Result<u64> {
        remove::remove_unlinked(blob, &self.notes)
    }
}

/// The folder that huggingface_hub itself would use, according to what `variable` (the process
/// environment) returns.
pub(crate) fn default_location(variable: impl Fn(&str) -> Option<OsString>) -> Option<PathBuf> {
    let set = |name: &str| variable(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    set("HF_HUB_CACHE")
        .or_else(|| set("HUGGINGFACE_HUB_CACHE"))
        .or_else(|| Some(set("HF_HOME")?.join("hub")))
        .or_else(|| Some(set("XDG_CACHE_HOME")?.join("huggingface/hub")))
        .or_else(|| Some(set("HOME")?.join(".cache/huggingface/hub")))
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    #[test]
    fn the_location_follows_the_precedence_of_huggingface_hub() {
        let location = |set: &[(&str, &str)]| {
            default_location(|name| {
                set.iter().find(|(key, _)| *key == name).map(|(_, value)| OsString::from(value))
            })
        };
        let all = [
            ("HF_HUB_CACHE", "/1"),
            ("HUGGINGFACE_HUB_CACHE", "/2"),
            ("HF_HOME", "/3"),
            ("XDG_CACHE_HOME", "/4"),
            ("HOME", "/5"),
        ];
        let expected = ["/1", "/2", "/3/hub", "/4/huggingface/hub", "/5/.cache/huggingface/hub"];
        for (skipped, expected) in expected.iter().enumerate() {
            assert_eq!(location(&all[skipped..]).unwrap(), Path::new(expected));
        }
        assert_eq!(
            location(&[("HF_HOME", ""), ("HOME", "/h")]).unwrap(),
            Path::new("/h/.cache/huggingface/hub")
        );
        assert_eq!(location(&[]), None);
    }
}
