//! The lines that the user typed in earlier conversations, in a file of the user's state folder (XDG Base Directory
//! Specification): the newest last. Without such a folder nothing is kept.

use std::path::PathBuf;

use etcetera::{BaseStrategy, choose_base_strategy};

use crate::{disk, files};

/// The most lines that are kept.
pub(super) const MOST: usize = 1000;

/// The lines of earlier conversations.
pub(super) struct History {
    file: Option<PathBuf>,
}

impl History {
    pub(super) fn of_user() -> Self {
        let dir = choose_base_strategy().ok().and_then(|strategy| strategy.state_dir());
        let dir = dir.map(|dir| dir.join("rbee-hive"));
        Self {
            file: dir.filter(|dir| disk::create_private_dir(dir).is_ok()).map(|dir| dir.join("chat-history")),
        }
    }

    /// The newest lines. A file that cannot be read has none.
    pub(super) fn lines(&self) -> Vec<String> {
        let text = self.file.as_ref().and_then(|file| files::read_text(file).ok()).unwrap_or_default();
        let lines: Vec<_> = text.lines().map(str::to_owned).collect();
        let newest = lines.len().saturating_sub(MOST);
        if newest > 0
            && let Some(file) = &self.file
        {
            // It stays as long as it is where the disk is full.
            files::put(file, format!("{}\n", lines[newest..].join("\n")).as_bytes()).ok();
        }
        lines[newest..].to_vec()
    }

    /// Keeps a line, if it can be offered again: of several lines that were pasted at once, none is.
    pub(super) fn add(&self, line: &str) -> bool {
        if line.trim().is_empty() || line.contains('\n') {
            return false;
        }
        if let Some(file) = &self.file
            && let Ok(mut file) = disk::open(files::own().append(true).create(true), file)
        {
            // A history that cannot be written is no reason to end the conversation.
            disk::write_all(&mut file, format!("{line}\n").as_bytes()).ok();
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_lines_are_kept() {
        let dir = tempfile::tempdir().unwrap();
        let history = History { file: Some(dir.path().join("chat-history")) };
        assert!(history.lines().is_empty());
        for number in 0..MOST + 2 {
            assert!(history.add(&format!("line {number}")));
        }
        assert!(!history.add("") && !history.add("two\nlines"));
        let lines = history.lines();
        assert_eq!((lines.len(), lines[0].as_str()), (MOST, "line 2"));
        assert_eq!(files::read_text(dir.path().join("chat-history")).unwrap().lines().count(), MOST);
    }
}
