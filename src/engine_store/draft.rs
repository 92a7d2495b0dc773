//! The folder of a build that is being made.

use std::io;
use std::path::{Path, PathBuf};

use super::folder;
use crate::disk;

/// The folder of a build that is being made. It is removed when it is dropped, unless it got its place.
#[derive(Debug)]
pub struct BuildDraft {
    path: PathBuf,
    is_placed: bool,
}

impl BuildDraft {
    /// Makes an empty folder in `drafts`.
    pub(super) fn new(drafts: &Path, name: &str) -> io::Result<Self> {
        let path = drafts.join(name);
        disk::create_private_dir(&path)?;
        Ok(Self { path, is_placed: false })
    }

    /// The folder, which is empty at first.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Flushes all of it to the disk and gives it its place, where nothing may be.
    pub(super) fn place(mut self, at: &Path) -> io::Result<()> {
        folder::sync(&self.path)?;
        let above = at.parent().unwrap_or(at);
        disk::create_dir_all(above)?;
        disk::rename(&self.path, at)?;
        self.is_placed = true;
        Ok(())
    }
}

impl Drop for BuildDraft {
    fn drop(&mut self) {
        if !self.is_placed
            && let Err(error) = folder::remove(&self.path)
        {
            tracing::warn!(path = %self.path.display(), %error, "could not remove a draft: the next start does");
        }
    }
}
