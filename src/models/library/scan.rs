//! Finding GGUF files beneath a folder.
//!
//! A folder of the user's may hold anything: loops of links, folders that cannot be read, a whole
//! file system. The walk is bounded in depth and number, never follows a loop, and says what it
//! had to leave out instead of failing.

use std::io;
use std::path::{Path, PathBuf};

use crate::models::library::folders::Kind;
use crate::models::library::hub_cache::HubFile;
use crate::models::library::look::Look;
use crate::models::library::split::{self, Group};
use crate::n;
use crate::narration::{self, Level};

/// How deep beneath a folder files are found.
const MAX_DEPTH: usize = 10;
/// How many entries of one folder are looked at.
const MAX_ENTRIES: usize = 200_000;
/// How many unreadable places of one folder are named one by one.
const MAX_COMPLAINTS: usize = 5;

/// The files of one model, and where they were found. Nothing in them has been read yet.
#[derive(Debug)]
pub(crate) struct Found {
    pub(crate) group: Group,
    pub(crate) place: Place,
}

impl Found {
    /// The first file.
    pub(crate) fn path(&self) -> &Path {
        &self.group.files[0]
    }

    /// The first file's name.
    pub(crate) fn file_name(&self) -> String {
        split::name_of(self.path())
    }
}

/// Where a model's files were found.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// In the hive's store.
    Store,
    /// In a folder of the user's.
    Folder,
    /// In the Hugging Face cache.
    Hub(HubFile),
    /// Nowhere yet: this partial file is all there is of it.
    Partial(PathBuf),
}

/// Whether a walk goes through links to folders.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Links {
    /// It does, and leaves out links that lead nowhere.
    Follow,
    /// It does not; links to files are yielded, wherever they lead.
    Keep,
}

/// The GGUF files beneath `root`, without the vision parts of other models.
pub(crate) fn gguf_files(root: &Path, links: Links, look: &Look<'_>) -> Vec<PathBuf> {
    let mut walk = Walk { root, links, look, files: Vec::new(), entries: 0, complaints: 0 };
    walk.enter(root, &mut Vec::new());
    if walk.complaints > MAX_COMPLAINTS {
        let more = walk.complaints - MAX_COMPLAINTS;
        look.left_out(
            Level::Warn,
            format!("{more} more places beneath {} could not be looked into", root.display()),
        );
    }
    walk.files
}

/// A walk through a folder and what is beneath it.
struct Walk<'a> {
    root: &'a Path,
    links: Links,
    look: &'a Look<'a>,
    files: Vec<PathBuf>,
    entries: usize,
    complaints: usize,
}

impl Walk<'_> {
    /// Looks into a folder; `above` are the folders that it is in.
    fn enter(&mut self, path: &Path, above: &mut Vec<(u64, u64)>) {
        let folder = match self.look.folder(path) {
            Ok(folder) => folder,
            Err(error) if above.is_empty() && error.kind() == io::ErrorKind::NotADirectory => {
                self.take(path);
                return;
            }
            Err(error) => return self.complain(path, above.is_empty(), &error),
        };
        if above.contains(&folder.identity()) {
            let what = format!("{} leads to a folder that it is in", path.display());
            return self.look.left_out(Level::Debug, what);
        }
        above.push(folder.identity());
        for entry in &folder.entries {
            self.entries += 1;
            if self.entries > MAX_ENTRIES {
                if self.entries == MAX_ENTRIES + 1 {
                    let root = self.root.display();
                    self.look.left_out(
                        Level::Warn,
                        format!("{root} has more than {MAX_ENTRIES} entries: the rest is not looked at"),
                    );
                }
                break;
            }
            let is_deep = above.len() == MAX_DEPTH;
            match &entry.kind {
                Kind::File => self.take(&entry.path),
                Kind::Folder if !is_deep => self.enter(&entry.path, above),
                Kind::Link(_) if self.links == Links::Keep => self.take(&entry.path),
                Kind::Link(_) => match self.look.metadata(&entry.path) {
                    Ok(metadata) if metadata.is_file() => self.take(&entry.path),
                    Ok(metadata) if metadata.is_dir() && !is_deep => self.enter(&entry.path, above),
                    Ok(_) => {}
                    Err(error) => self.complain(&entry.path, false, &error),
                },
                Kind::Folder | Kind::Other => {}
            }
        }
        above.pop();
    }

    fn take(&mut self, path: &Path) {
        if path.file_name().is_some_and(|name| is_model_name(&name.to_string_lossy())) {
            self.files.push(path.to_owned());
        }
    }

    fn complain(&mut self, path: &Path, is_root: bool, error: &io::Error) {
        let what = format!("Could not look into {}: {error}", path.display());
        // A link that leads nowhere, or a file that went away while we looked.
        if !is_root && error.kind() == io::ErrorKind::NotFound {
            return self.look.left_out(Level::Debug, what);
        }
        self.complaints += 1;
        if self.complaints <= MAX_COMPLAINTS {
            self.look.left_out(Level::Warn, what);
        }
    }
}

/// Whether a file of that name may be a model. `mmproj` files are the vision parts of other models
/// (llama.cpp's naming).
pub(crate) fn is_model_name(file_name: &str) -> bool {
    split::without_extension(file_name).is_some() && !file_name.to_ascii_lowercase().contains("mmproj")
}

/// Tells of what a listing had to leave out: to the job that asked for it or, where none did (the
/// gateway, a page's snapshot), to the log alone.
pub(crate) fn left_out(level: Level, what: &str) {
    match (narration::current().is_some(), level) {
        (true, Level::Debug) => n!(debug: "catalog_scan", "{what}"),
        (true, _) => n!(warn: "catalog_scan", "{what}"),
        (false, Level::Debug) => tracing::debug!("{what}"),
        (false, _) => tracing::warn!("{what}"),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use super::*;
    use crate::models::library::folders::Folders;

    #[test]
    fn a_walk_survives_loops_and_broken_links_and_skips_projectors() {
        let root = tempfile::tempdir().unwrap();
        let deep = root.path().join("a/b");
        fs::create_dir_all(&deep).unwrap();
        for name in ["m.gguf", "M2.GGUF", "mmproj-m.gguf", "m.txt", ".gguf"] {
            fs::write(deep.join(name), b"").unwrap();
        }
        symlink(root.path(), deep.join("loop")).unwrap();
        symlink("/nowhere/at/all.gguf", deep.join("broken.gguf")).unwrap();
        let known = Folders::default();
        let gguf_files = |root: &Path, links| gguf_files(root, links, &Look::new(&known));
        let mut files = gguf_files(root.path(), Links::Follow);
        files.sort();
        assert_eq!(files, [deep.join("M2.GGUF"), deep.join("m.gguf")]);
        assert!(gguf_files(root.path(), Links::Keep).contains(&deep.join("broken.gguf")));
        assert!(gguf_files(&root.path().join("missing"), Links::Follow).is_empty());
        assert_eq!(gguf_files(&deep.join("m.gguf"), Links::Follow), [deep.join("m.gguf")]);
        let deepest = root.path().join("1/2/3/4/5/6/7/8/9");
        fs::create_dir_all(deepest.join("10")).unwrap();
        fs::write(deepest.join("in.gguf"), b"").unwrap();
        fs::write(deepest.join("10/out.gguf"), b"").unwrap();
        assert_eq!(gguf_files(&root.path().join("1"), Links::Keep).len(), 2);
        assert!(!gguf_files(root.path(), Links::Keep).contains(&deepest.join("10/out.gguf")));
    }
}
