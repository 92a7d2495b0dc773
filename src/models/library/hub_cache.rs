//! The Hugging Face cache: its GGUF files are listed and used in place.
//!
//! Layout (<https://huggingface.co/docs/huggingface_hub/guides/manage-cache>):
//! `models--org--repo/{blobs,refs,snapshots}`; a snapshot is a folder named after a commit whose
//! files are links into `blobs`, where a large file is named after its SHA-256; a file of `refs`,
//! such as `main`, holds the commit that it stands for.

pub(crate) mod owned;
pub(crate) mod put;

use std::ffi::OsString;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use owned::Owned;

use crate::error::Result;
use crate::models::library::folders::{Entry, Folder, Kind, Link};
use crate::models::library::look::Look;
use crate::models::library::reconcile;
use crate::models::library::reconcile::Reconciled;
use crate::models::library::scan::{self, Found, Links, Place};
use crate::models::library::split;
use crate::models::library::store::remove_file;
use crate::models::transfer::journal;
use crate::models::transfer::partial::Unfinished;
use crate::n;
use crate::narration::Level;

/// Where a model lies in the cache.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct HubFile {
    /// `org/repo`.
    pub(crate) repo: String,
    /// The commit of its snapshot.
    pub(crate) revision: String,
    /// The first file's path within the snapshot.
    pub(crate) relative: String,
    /// Whether that is the commit of the branch `main`.
    pub(crate) is_main: bool,
    /// The folder `models--org--repo`.
    folder: PathBuf,
}

/// The cache's folder that huggingface_hub itself would use, after what `variable` (the process
/// environment) says.
pub(crate) fn default_location(variable: impl Fn(&str) -> Option<OsString>) -> Option<PathBuf> {
    let set = |name: &str| variable(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    set("HF_HUB_CACHE")
        .or_else(|| set("HUGGINGFACE_HUB_CACHE"))
        .or_else(|| Some(set("HF_HOME")?.join("hub")))
        .or_else(|| Some(set("XDG_CACHE_HOME")?.join("huggingface/hub")))
        .or_else(|| Some(set("HOME")?.join(".cache/huggingface/hub")))
}

/// The models in the cache, those of each repository's `main` first. A cache that is not there has
/// none.
pub(crate) fn scan(cache: &Path, look: &Look<'_>) -> Vec<Found> {
    let mut found = Vec::new();
    for folder in folders_in(cache, look) {
        let name = split::name_of(&folder);
        let Some(repo) = name.strip_prefix("models--").map(|name| name.replace("--", "/")) else { continue };
        let main = look.text(&folder.join("refs/main")).unwrap_or_default();
        let mut snapshots: Vec<_> = folders_in(&folder.join("snapshots"), look)
            .into_iter()
            .map(|path| (split::name_of(&path) == main.trim(), path))
            .collect();
        snapshots.sort_by_key(|(is_main, _)| !is_main);
        for (is_main, snapshot) in snapshots {
            for group in split::group(scan::gguf_files(&snapshot, Links::Keep, look)) {
                let relative = group.files[0].strip_prefix(&snapshot).unwrap_or(&group.files[0]);
                let file = HubFile {
                    repo: repo.clone(),
                    revision: split::name_of(&snapshot),
                    relative: relative.to_string_lossy().into_owned(),
                    is_main,
                    folder: folder.clone(),
                };
                found.push(Found { group, place: Place::Hub(file) });
            }
        }
    }
    found
}

/// The hive's downloads into the cache that ended early: where each lies, the path that its file will
/// have, and what is there.
pub(crate) fn partials(cache: &Path, look: &Look<'_>) -> Vec<(PathBuf, PathBuf, Unfinished)> {
    let left = |path: &Path| {
        let target = put::target_of(path).filter(|target| fs::symlink_metadata(target).is_err())?;
        let left = look.unfinished(path)?;
        Some((path.to_owned(), target, left))
    };
    let mut found = Vec::new();
    for repository in folders_in(cache, look).iter().filter(|folder| is_repository(folder)) {
        if let Some(blobs) = folder(&repository.join("blobs"), look) {
            found.extend(blobs.entries.iter().filter_map(|blob| left(&blob.path)));
        }
    }
    found
}

/// Puts in order what a killed hive left in the cache. What is other tools' is left alone.
pub(crate) fn reconcile(cache: &Path, found: &mut Reconciled) {
    for path in blobs(cache) {
        if let Some(target) = put::target_of(&path) {
            reconcile::look_at_partial(&split::name_of(&target), &path, &empty_folders(&path), found);
        } else if let Some(partial) = journal::partial_of(&path)
            && put::target_of(&partial).is_some()
            && !partial.exists()
        {
            reconcile::remove_orphaned_journal(&path, found);
        }
    }
}

/// The folders to remove, in this order, where removing a partial file of the cache leaves them
/// empty: other tools warn of a repository without a snapshot.
pub(crate) fn empty_folders(partial: &Path) -> Vec<PathBuf> {
    let blobs = partial.parent().filter(|_| put::target_of(partial).is_some());
    blobs.into_iter().flat_map(|blobs| blobs.ancestors().take(2)).map(Path::to_owned).collect()
}

/// Everything in the folders of blobs.
fn blobs(cache: &Path) -> impl Iterator<Item = PathBuf> {
    let repositories = entries(cache).into_iter().filter(|folder| is_repository(folder));
    repositories.flat_map(|folder| entries(&folder.join("blobs")))
}

fn is_repository(folder: &Path) -> bool {
    folder.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b"models--"))
}

/// The SHA-256 of a file of a snapshot: the name of the blob that it links to.
pub(crate) fn sha256(path: &Path) -> Option<String> {
    Link::read(path).as_ref().and_then(sha256_of)
}

/// The same of its link.
pub(crate) fn sha256_of(link: &Link) -> Option<String> {
    let name = split::name_of(&link.target);
    crate::models::sources::is_sha256(&name).then_some(name)
}

/// The folders in a folder, and what leads to some.
fn folders_in(path: &Path, look: &Look<'_>) -> Vec<PathBuf> {
    let Some(folder) = folder(path, look) else { return Vec::new() };
    let is_folder = |entry: &&Entry| matches!(entry.kind, Kind::Folder | Kind::Link(_));
    folder.entries.iter().filter(is_folder).map(|entry| entry.path.clone()).collect()
}

/// A folder. One that is not there has nothing; one that cannot be read is narrated.
fn folder(path: &Path, look: &Look<'_>) -> Option<Arc<Folder>> {
    look.folder(path)
        .inspect_err(|error| {
            if let Some(what) = unreadable(path, error) {
                look.left_out(Level::Warn, what);
            }
        })
        .ok()
}

/// The part of a file's path that says how its weights are quantised, in upper case: `Q4_K_M`,
/// `UD-IQ2_XXS`.
pub(crate) fn quantization_tag(relative: &str) -> Option<String> {
    let stem = split::stem(relative).to_ascii_uppercase();
    let words: Vec<_> = stem.split(['-', '.', '/']).collect();
    let at = words.iter().rposition(|word| is_quantization(word))?;
    let dynamic = at > 0 && words[at - 1] == "UD";
    Some(if dynamic { format!("UD-{}", words[at]) } else { words[at].to_owned() })
}

fn is_quantization(word: &str) -> bool {
    if matches!(word, "F32" | "F16" | "BF16" | "FP16" | "FP32" | "MXFP4" | "NVFP4" | "MXFP4_MOE") {
        return true;
    }
    let digits = ["IQ", "TQ", "Q"].iter().find_map(|prefix| word.strip_prefix(prefix)).unwrap_or_default();
    let mut characters = digits.chars();
    characters.next().is_some_and(|c| c.is_ascii_digit())
        && characters.next() == Some('_')
        && characters.all(|c| c.is_ascii_alphanumeric() || c == '_')
}

/// The blob that a file of a snapshot links to: its path, with a canonical folder. The blob itself may
/// be a link in turn (huggingface_hub can share blobs between caches), and is not followed.
pub(crate) fn blob_of(link: &Path) -> Option<PathBuf> {
    let target = link.parent()?.join(fs::read_link(link).ok()?);
    Some(target.parent()?.canonicalize().ok()?.join(target.file_name()?))
}

/// Deletes the links of a model from its snapshot, each blob that no other snapshot links to, and
/// the folders of that repository that this leaves empty. Answers the bytes that came free.
pub(crate) fn remove(file: &HubFile, links: &[PathBuf], owned: &Owned) -> Result<u64> {
    let blobs = file.folder.join("blobs").canonicalize().ok();
    let mut freed = 0;
    for link in links {
        let blob = blob_of(link).filter(|blob| blob.parent() == blobs.as_deref() && blob != link);
        freed += remove_file(link)?;
        if let Some(blob) = blob {
            if is_referenced(&file.folder, &blob) {
                n!("model_delete", "Kept {}: another snapshot of {} uses it", blob.display(), file.repo);
            } else {
                freed += remove_file(&blob)?;
                owned.forget(&blob);
            }
        }
        remove_empty_folders(link, &file.folder.join("snapshots"));
    }
    forget_refs(file);
    for name in ["blobs", "snapshots", "refs", ""] {
        // Refused by the system where something is left in it.
        let _ = fs::remove_dir(file.folder.join(name));
    }
    Ok(freed)
}

fn is_referenced(repository: &Path, blob: &Path) -> bool {
    walkdir::WalkDir::new(repository.join("snapshots"))
        .into_iter()
        .filter_map(Result::ok)
        .filter(|entry| entry.path_is_symlink())
        .any(|entry| blob_of(entry.path()).is_some_and(|target| target == blob))
}

/// Removes the folders above `path` that are empty, up to `root` and without it.
fn remove_empty_folders(path: &Path, root: &Path) {
    for folder in path.ancestors().skip(1).take_while(|folder| *folder != root && folder.starts_with(root)) {
        if fs::remove_dir(folder).is_err() {
            break;
        }
    }
}

/// Removes the refs to a snapshot that is gone: huggingface_hub warns of such refs.
fn forget_refs(file: &HubFile) {
    if file.folder.join("snapshots").join(&file.revision).exists() {
        return;
    }
    let refs = file.folder.join("refs");
    // A revision such as refs/pr/1 lies in folders of its own.
    let references = walkdir::WalkDir::new(&refs).into_iter().filter_map(Result::ok);
    for reference in references.filter(|entry| entry.file_type().is_file()) {
        let path = reference.path();
        if fs::read_to_string(path).is_ok_and(|commit| commit.trim() == file.revision) {
            // What cannot be removed does no harm.
            let _ = fs::remove_file(path);
            remove_empty_folders(path, &refs);
        }
    }
}

/// The paths in a folder, sorted. A folder that is not there is empty; one that cannot be read is
/// narrated.
fn entries(folder: &Path) -> Vec<PathBuf> {
    let entries = match fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) => {
            if let Some(what) = unreadable(folder, &error) {
                scan::left_out(Level::Warn, &what);
            }
            return Vec::new();
        }
    };
    let mut paths: Vec<_> = entries.filter_map(Result::ok).map(|entry| entry.path()).collect();
    paths.sort_unstable();
    paths
}

/// What is told of a folder that cannot be read. `None` where there is none.
fn unreadable(folder: &Path, error: &io::Error) -> Option<String> {
    let is_there = !matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory);
    is_there.then(|| format!("Could not look into {}: {error}", folder.display()))
}

#[cfg(test)]
mod tests {
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

    #[test]
    fn the_tag_of_a_file_name_is_its_quantisation() {
        for (name, tag) in [
            ("Llama-3.2-1B-Instruct-Q4_K_M.gguf", Some("Q4_K_M")),
            ("qwen2.5-0.5b.q8_0.gguf", Some("Q8_0")),
            ("m-UD-IQ2_XXS-00001-of-00002.gguf", Some("UD-IQ2_XXS")),
            ("m-f16.gguf", Some("F16")),
            ("Qwen-Q.gguf", None),
            ("model.gguf", None),
        ] {
            assert_eq!(quantization_tag(name).as_deref(), tag, "{name}");
        }
    }
}
