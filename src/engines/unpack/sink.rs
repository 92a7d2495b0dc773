//! What is written of an archive, entry by entry, and what is refused.

use std::collections::HashMap;
use std::fs::OpenOptions;
use std::io::{self, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use rustix::fs::OFlags;
use tokio_util::sync::CancellationToken;

use super::trouble::Trouble;
use crate::narration::Progress;
use crate::text::{self, excerpt};
use crate::{disk, n};

/// How many bytes are written at once.
const BLOCK: usize = 256 << 10;
/// After how many bytes progress is narrated.
const TOLD_EVERY: u64 = 16 << 20;
/// The longest name of one folder or file.
const LONGEST_NAME: usize = 255;
/// The longest path in an archive.
const LONGEST_PATH: usize = 2048;

/// How much an archive may have.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    pub(super) entries: usize,
    /// Folders above a file.
    pub(super) depth: usize,
    pub(super) bytes: u64,
}

impl Limits {
    /// The limits of an archive of that length. Programs become about a third as long, and text a tenth.
    pub(super) fn of_archive(length: u64) -> Self {
        let bytes = length.saturating_mul(40).saturating_add(16 << 20).min(32 << 30);
        Self { entries: 50_000, depth: 32, bytes }
    }
}

/// Which entries are written, and where.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Selection {
    /// All, where the archive has them.
    All,
    /// The files alone, all in one folder, beside those that are there already.
    Flat,
    /// Those beneath this folder of the archive, or of the one folder that it has, without that.
    Beneath(&'static str),
}

/// What an entry is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    File { is_executable: bool },
    Folder,
    Link { target: Vec<u8> },
}

/// What was written at a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Written {
    Folder,
    Other,
}

/// Writes the entries of one archive.
#[derive(Debug)]
pub(super) struct Sink<'a> {
    folder: &'a Path,
    selection: Selection,
    pub(super) limits: Limits,
    pub(super) stop: &'a CancellationToken,
    entries: usize,
    bytes: u64,
    told: u64,
    written: HashMap<PathBuf, Written>,
    /// Made once all else is written, so that nothing is written through one.
    links: Vec<(PathBuf, PathBuf)>,
}

impl<'a> Sink<'a> {
    pub(super) fn new(
        folder: &'a Path,
        selection: Selection,
        limits: Limits,
        stop: &'a CancellationToken,
    ) -> Self {
        let (written, links) = (HashMap::new(), Vec::new());
        Self { folder, selection, limits, stop, entries: 0, bytes: 0, told: 0, written, links }
    }

    /// Writes an entry.
    pub(super) fn put(&mut self, name: &[u8], kind: Kind, contents: &mut dyn Read) -> Result<(), Trouble> {
        self.entries += 1;
        if self.entries > self.limits.entries {
            return Err(Trouble::refused(format!("it has more than {} entries", self.limits.entries)));
        }
        let path = checked_path(name, self.limits.depth)?;
        let kind = match kind {
            Kind::Link { target } => Kind::Link { target: checked_target(&path, &target)?.into() },
            kind => kind,
        };
        let Some(path) = self.selected(path, &kind)? else { return Ok(()) };
        self.take(&path, &kind)?;
        let at = self.folder.join(&path);
        match kind {
            Kind::Folder => {
                disk::create_dir_all(&at).map_err(|error| Trouble::disk("make the folder", &at, error))
            }
            Kind::File { is_executable } => self.write(&at, is_executable, contents),
            Kind::Link { target } => {
                // It was text before.
                let target = String::from_utf8_lossy(&target).into_owned();
                self.links.push((at, target.into()));
                Ok(())
            }
        }
    }

    /// Makes the links. Returns the bytes of all files.
    pub(super) fn finish(self) -> Result<u64, Trouble> {
        if self.entries == 0 {
            return Err(Trouble::refused("it is empty"));
        }
        if let Selection::Beneath(only) = self.selection
            && self.written.is_empty()
        {
            return Err(Trouble::refused(format!("it has nothing in {only}")));
        }
        for (at, target) in &self.links {
            match disk::symlink(target, at) {
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists && self.is_flat() => {}
                made => made.map_err(|error| Trouble::disk("make the link", at, error))?,
            }
        }
        Ok(self.bytes)
    }

    fn is_flat(&self) -> bool {
        self.selection == Selection::Flat
    }

    /// The path at which an entry is written, if it is.
    fn selected(&self, path: PathBuf, kind: &Kind) -> Result<Option<PathBuf>, Trouble> {
        let some = |path: &Path| (!path.as_os_str().is_empty()).then(|| path.to_owned());
        Ok(match self.selection {
            Selection::All => some(&path),
            Selection::Flat if *kind == Kind::Folder => None,
            Selection::Flat => {
                if let Kind::Link { target } = kind
                    && target.contains(&b'/')
                {
                    return Err(refused(&path, "a link to another folder"));
                }
                path.file_name().map(PathBuf::from)
            }
            Selection::Beneath(only) => {
                let in_folder = path.components().skip(1).collect::<PathBuf>();
                path.strip_prefix(only).or_else(|_| in_folder.strip_prefix(only)).ok().and_then(some)
            }
        })
    }

    /// Takes the place of an entry, and makes the folders above it.
    fn take(&mut self, path: &Path, kind: &Kind) -> Result<(), Trouble> {
        for folder in path.ancestors().skip(1).filter(|folder| !folder.as_os_str().is_empty()) {
            match self.written.insert(folder.to_owned(), Written::Folder) {
                Some(Written::Other) => {
                    return Err(refused(path, "a path that leads through a file or a link"));
                }
                Some(Written::Folder) | None => {}
            }
        }
        let is_folder = *kind == Kind::Folder;
        let written = if is_folder { Written::Folder } else { Written::Other };
        match self.written.insert(path.to_owned(), written) {
            Some(Written::Folder) if is_folder => {}
            Some(_) => return Err(refused(path, "a path that it has twice")),
            None => {}
        }
        let at = self.folder.join(path);
        let above = at.parent().unwrap_or(self.folder);
        disk::create_dir_all(above).map_err(|error| Trouble::disk("make the folder", above, error))
    }

    fn write(&mut self, at: &Path, is_executable: bool, contents: &mut dyn Read) -> Result<(), Trouble> {
        let mut options = OpenOptions::new();
        let mode = if is_executable { 0o755 } else { 0o644 };
        options.write(true).create_new(true).mode(mode).custom_flags(OFlags::NOFOLLOW.bits().cast_signed());
        let mut file = match disk::open(&options, at) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists && self.is_flat() => return Ok(()),
            file => file.map_err(|error| Trouble::disk("write", at, error))?,
        };
        let mut block = vec![0; BLOCK];
        loop {
            if self.stop.is_cancelled() {
                return Err(Trouble::Cancelled);
            }
            let read = match contents.read(&mut block) {
                Ok(0) => return Ok(()),
                Ok(read) => read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(Trouble::Damaged(error)),
            };
            self.bytes += read as u64;
            if self.bytes > self.limits.bytes {
                let most = text::bytes(self.limits.bytes);
                return Err(Trouble::refused(format!(
                    "it has more than {most}, which is too much for its length"
                )));
            }
            disk::write_all(&mut file, &block[..read]).map_err(|error| Trouble::disk("write", at, error))?;
            self.tell();
        }
    }

    fn tell(&mut self) {
        if self.bytes - self.told < TOLD_EVERY {
            return;
        }
        self.told = self.bytes;
        let progress = Progress { done: self.bytes, unit: "bytes".to_owned(), ..Progress::default() };
        n!(progress: progress, "worker_install_unpack", "Unpacked {}", text::bytes(self.bytes));
    }
}

fn refused(path: &Path, what: &str) -> Trouble {
    Trouble::refused(format!("it has {what} ({})", excerpt(&path.to_string_lossy())))
}

/// A name of an archive as a path below a folder; empty for the folder itself.
fn checked_path(name: &[u8], depth: usize) -> Result<PathBuf, Trouble> {
    let shown = || excerpt(&String::from_utf8_lossy(name));
    let refuse = |what: &str| Err(Trouble::refused(format!("it has {what} ({})", shown())));
    let Ok(text) = std::str::from_utf8(name) else { return refuse("a name that is not UTF-8") };
    if text.starts_with('/') {
        return refuse("an absolute path");
    }
    if text.len() > LONGEST_PATH || text.chars().any(|c| c.is_control() || c == '\\') {
        return refuse("a name that is none of a file");
    }
    let names: Vec<_> = text.split('/').filter(|name| !name.is_empty() && *name != ".").collect();
    if names.contains(&"..") {
        return refuse("a path with ..");
    }
    if names.len() > depth + 1 || names.iter().any(|name| name.len() > LONGEST_NAME) {
        return refuse("a path that is too deep or too long");
    }
    Ok(names.into_iter().collect())
}

/// The target of a link at `path`, where it is within the folder of the archive. Since `..` stands at its beginning
/// alone, and the folders above the link are no links, the system will find the same place.
fn checked_target(path: &Path, target: &[u8]) -> Result<String, Trouble> {
    let refuse = || Err(refused(path, "a link that leads out of it"));
    let Ok(text) = std::str::from_utf8(target) else { return refuse() };
    if text.is_empty()
        || text.starts_with('/')
        || text.len() > LONGEST_PATH
        || text.chars().any(char::is_control)
    {
        return refuse();
    }
    let names: Vec<_> = text.split('/').filter(|name| !name.is_empty() && *name != ".").collect();
    let up = names.iter().take_while(|name| **name == "..").count();
    let above = path.components().count().saturating_sub(1);
    if up > above || names[up..].contains(&"..") {
        return refuse();
    }
    Ok(text.to_owned())
}
