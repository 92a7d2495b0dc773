//! One look at the disk, in which everything is asked for once; and what has to be asked again to know
//! whether another look would find the same.
//!
//! A look notes each question that it put to the disk (the metadata of a path) and the answer, before it
//! reads what is there. While the answers are the same, so is what was read; so a listing whose
//! questions have the same answers is the same listing, and nothing of it has to be made again.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::ffi::OsString;
use std::fs::{self, Metadata};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::models::library::folders::{Folder, Folders, Kind, Link, Stamp, is_old};
use crate::models::library::scan;
use crate::models::transfer::journal;
use crate::models::transfer::partial::{self, Unfinished};
use crate::narration::Level;

/// One look at the disk.
#[derive(Debug)]
pub(crate) struct Look<'a> {
    known: &'a Folders,
    folders: RefCell<HashMap<OsString, Arc<Folder>>>,
    answers: RefCell<Vec<Answer>>,
    told: RefCell<Vec<(Level, String)>>,
    /// Whether what was seen stays so for as long as the answers do.
    lasts: Cell<bool>,
}

/// What a look was answered and told of.
#[derive(Debug)]
pub(crate) struct Seen {
    answers: Vec<Answer>,
    told: Vec<(Level, String)>,
}

/// What the disk said about a path: `None` where nothing is there.
#[derive(Debug)]
struct Answer {
    path: PathBuf,
    /// Whether the question was about what a link leads to.
    follows: bool,
    stamp: Option<Stamp>,
}

fn ask(path: &Path, follows: bool) -> io::Result<Metadata> {
    if follows { fs::metadata(path) } else { fs::symlink_metadata(path) }
}

impl<'a> Look<'a> {
    pub(crate) fn new(known: &'a Folders) -> Self {
        Self {
            known,
            folders: RefCell::default(),
            answers: RefCell::default(),
            told: RefCell::default(),
            lasts: Cell::new(true),
        }
    }

    /// What is at `path`, or at the end of the link there. Blocks on the disk.
    pub(crate) fn metadata(&self, path: &Path) -> io::Result<Metadata> {
        self.ask(path, true)
    }

    /// What is at `path`, be it a link. Blocks on the disk.
    pub(crate) fn symlink_metadata(&self, path: &Path) -> io::Result<Metadata> {
        self.ask(path, false)
    }

    fn ask(&self, path: &Path, follows: bool) -> io::Result<Metadata> {
        let answer = ask(path, follows);
        let stamp = match &answer {
            Ok(metadata) => {
                if !is_old(metadata) {
                    self.does_not_last();
                }
                Some(Stamp::of(metadata))
            }
            Err(error) => {
                if error.kind() != io::ErrorKind::NotFound {
                    self.does_not_last();
                }
                None
            }
        };
        self.answers.borrow_mut().push(Answer { path: path.to_owned(), follows, stamp });
        answer
    }

    /// What is in the folder at `path`. Blocks on the disk.
    pub(crate) fn folder(&self, path: &Path) -> io::Result<Arc<Folder>> {
        if let Some(folder) = self.folders.borrow().get(path.as_os_str()) {
            return Ok(Arc::clone(folder));
        }
        let metadata = self.metadata(path)?;
        if !metadata.is_dir() {
            return Err(io::ErrorKind::NotADirectory.into());
        }
        let folder = self.known.read(path, &metadata).inspect_err(|_| self.does_not_last())?;
        self.folders.borrow_mut().insert(path.as_os_str().to_owned(), Arc::clone(&folder));
        Ok(folder)
    }

    /// The text of a small file. `None` where there is none that can be read. Blocks on the disk.
    pub(crate) fn text(&self, path: &Path) -> Option<Arc<str>> {
        let metadata = self.metadata(path).ok()?;
        self.known.text(path, &metadata).inspect_err(|_| self.does_not_last()).ok()
    }

    /// The link at `path`. `None` where there is none.
    pub(crate) fn link(&self, path: &Path) -> Option<Link> {
        let (folder, name) = (path.parent()?, path.file_name()?);
        let Some(folder) = self.folders.borrow().get(folder.as_os_str()).cloned() else {
            // Not asked for in the same way as everything else.
            self.does_not_last();
            return Link::read(path);
        };
        let index = folder.entries.binary_search_by(|entry| entry.name.as_os_str().cmp(name)).ok()?;
        match &folder.entries[index].kind {
            Kind::Link(link) => Some(link.clone()),
            _ => None,
        }
    }

    /// The unfinished download at `path`, if there is one that can be resumed. Blocks on the disk.
    pub(crate) fn unfinished(&self, path: &Path) -> Option<Unfinished> {
        // The questions come before the reading.
        let _ = (self.symlink_metadata(path), self.symlink_metadata(&journal::path_of(path)));
        partial::unfinished_at(path, None)
    }

    /// Tells of what has to be left out.
    pub(crate) fn left_out(&self, level: Level, what: String) {
        scan::left_out(level, &what);
        self.told.borrow_mut().push((level, what));
    }

    /// Says that another look may find something else although every answer is the same: something
    /// could not be read, or changed a moment ago.
    pub(crate) fn does_not_last(&self) {
        self.lasts.set(false);
    }

    /// What was seen. `None` where another look may find something else all the same.
    pub(crate) fn seen(self) -> Option<Seen> {
        let (answers, told) = (self.answers.into_inner(), self.told.into_inner());
        self.lasts.get().then_some(Seen { answers, told })
    }
}

impl Seen {
    /// Whether another look would find the same. Blocks on the disk.
    pub(crate) fn is_so_still(&self) -> bool {
        self.answers.iter().all(|answer| match ask(&answer.path, answer.follows) {
            Ok(metadata) => answer.stamp == Some(Stamp::of(&metadata)),
            Err(error) => answer.stamp.is_none() && error.kind() == io::ErrorKind::NotFound,
        })
    }

    /// Tells again of what was left out.
    pub(crate) fn tell(&self) {
        for (level, what) in &self.told {
            scan::left_out(*level, what);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::os::unix::fs::symlink;

    use super::*;
    use crate::models::testing::age;

    #[test]
    fn one_look_sees_one_state_of_a_folder() {
        let root = tempfile::tempdir().unwrap();
        let known = Folders::default();
        let link = |look: &Look<'_>| look.link(&root.path().join("a")).unwrap().target;
        File::create(root.path().join("b")).unwrap();
        symlink("b", root.path().join("a")).unwrap();
        age(root.path());
        let look = Look::new(&known);
        assert_eq!(link(&look), Path::new("b"), "read by itself");
        let folder = look.folder(root.path()).unwrap();
        assert_eq!(link(&look), Path::new("b"));
        assert_eq!(look.link(&root.path().join("b")), None);
        // What is put in its place has another name to begin with, and takes this one over.
        symlink("c", root.path().join("draft")).unwrap();
        fs::rename(root.path().join("draft"), root.path().join("a")).unwrap();
        assert!(Arc::ptr_eq(&folder, &look.folder(root.path()).unwrap()));
        let look = Look::new(&known);
        look.folder(root.path()).unwrap();
        assert_eq!(link(&look), Path::new("c"));
        fs::remove_dir_all(root.path()).unwrap();
        assert!(Look::new(&known).folder(root.path()).is_err());
    }

    #[test]
    fn what_was_seen_holds_until_an_answer_differs() {
        let root = tempfile::tempdir().unwrap();
        let (file, absent, folder) =
            (root.path().join("file"), root.path().join("absent"), root.path().join("folder"));
        fs::create_dir(&folder).unwrap();
        let known = Folders::default();
        let seen = || {
            let look = Look::new(&known);
            let _ = (look.metadata(&file), look.symlink_metadata(&absent), look.folder(&folder));
            look.left_out(Level::Debug, "a remark".into());
            look.seen()
        };
        fs::write(&file, "one").unwrap();
        assert!(seen().is_none(), "it has just changed");
        let aged = || {
            age(&file);
            age(&folder);
            seen().expect("nothing is fresh")
        };
        let before = aged();
        assert!(before.is_so_still());
        assert_eq!(before.told.len(), 1);
        fs::write(&file, "two").unwrap();
        assert!(!before.is_so_still(), "a file was written in place");
        let before = aged();
        File::create(folder.join("new")).unwrap();
        assert!(!before.is_so_still(), "a folder has one more name");
        let before = aged();
        symlink("nowhere", &absent).unwrap();
        assert!(!before.is_so_still(), "what was not there is there");
        fs::remove_file(&absent).unwrap();
        assert!(before.is_so_still());
        fs::remove_file(&file).unwrap();
        assert!(!before.is_so_still(), "what was there is gone");
    }

    #[test]
    fn what_could_not_be_read_is_looked_at_again() {
        let root = tempfile::tempdir().unwrap();
        let file = root.path().join("file");
        fs::write(&file, [0xff]).unwrap();
        age(&file);
        let known = Folders::default();
        let look = Look::new(&known);
        assert_eq!(look.text(&file), None, "it is no text");
        assert!(look.folder(&file).is_err());
        assert!(look.seen().is_none());
    }
}
