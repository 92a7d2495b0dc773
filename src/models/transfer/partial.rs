//! The partial file of a download: under another name than its final one, and held under an OS lock, so
//! that no listing takes it for a model and no other process writes it. The lock ends with the process
//! that holds it, however that ends; the file and its journal stay, to be resumed.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use crate::disk;
use crate::error::{Code, Failure, Result};
use crate::files;
use crate::models::transfer::context::Transfer;
use crate::models::transfer::disk::Disk;
use crate::models::transfer::journal::{self, Claim, Contents, Head, Journal};
use crate::models::transfer::purpose::Step;
use crate::models::transfer::remote::{Destination, RemoteFile};
use crate::narration::Level;
use crate::spawn;

/// How often a lock that another process holds is tried.
const POLL: Duration = Duration::from_millis(200);
/// How long a lock may be held by accident: a process that the hive starts has all of the hive's open
/// files, and their locks, until it runs its own program.
const INHERITED: Duration = Duration::from_millis(200);

/// A partial file that this process may write.
#[derive(Debug)]
pub(crate) struct Partial {
    destination: Destination,
    /// Holds the lock.
    file: File,
    /// Holds the lock of other programs.
    _other: Option<File>,
}

/// What an attempt to fetch a file begins with.
#[derive(Debug)]
pub(crate) struct Begun {
    pub(crate) head: Head,
    /// The bytes that are there, as far as the journal knows.
    pub(crate) claims: Vec<Claim>,
    /// `None` until it is known which file this is.
    pub(crate) journal: Option<Journal>,
    /// Whether the bytes of another version of the file were thrown away.
    pub(crate) is_other_version: bool,
    /// Whether bytes were thrown away whose journal was damaged.
    pub(crate) was_damaged: bool,
}

/// A download that is not running and can be resumed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Unfinished {
    pub(crate) head: Head,
    /// Bytes of the file that are stored.
    pub(crate) done: u64,
    pub(crate) changed: SystemTime,
}

/// What [`remove`] did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Removal {
    /// Removed the file, which freed this many bytes.
    Removed(u64),
    /// Left the file alone: another process is writing it.
    InUse,
    /// Left the file alone: a newer version of the hive made it.
    NewerFormat,
}

/// The failure of an operation on a partial file that a newer version of the hive made.
pub(crate) fn newer_format(path: &Path) -> Failure {
    let message = format!("a newer version of rbee-hive began the download in {}", path.display());
    Failure::new(Code::NotOwned, message)
        .hint("resume it with that version, or remove that file and the one with .journal added to its name")
}

/// The unfinished download in the partial file at `path`; `None` where nothing there can be resumed, or
/// not as a download of `wanted` if that is given. Blocks.
pub(crate) fn unfinished_at(path: &Path, wanted: Option<&RemoteFile>) -> Option<Unfinished> {
    let metadata = fs::symlink_metadata(path).ok().filter(fs::Metadata::is_file)?;
    let contents = Contents::read(&journal::path_of(path)).filter(|contents| contents.head.is_resumable())?;
    let is_resumed = |file| contents.head.is_resumed_by(&Head::of(file, contents.head.chunk_bytes));
    if !wanted.is_none_or(is_resumed) {
        return None;
    }
    let changed = metadata.modified().unwrap_or(SystemTime::UNIX_EPOCH);
    Some(Unfinished { done: contents.done(), head: contents.head, changed })
}

/// Removes a partial file that no process holds, its journal, and then those of `empty_folders` that
/// are empty, in this order. Blocks.
pub(crate) fn remove(path: &Path, empty_folders: &[PathBuf]) -> Result<Removal> {
    if journal::is_newer(&journal::path_of(path)) {
        return Ok(Removal::NewerFormat);
    }
    let remove = || {
        let file = match options().open(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            file => Some(file?),
        };
        let begin = Instant::now();
        while let Some(file) = &file
            && !is_locked(file)?
        {
            if begin.elapsed() > INHERITED {
                return Ok(Removal::InUse);
            }
            std::thread::sleep(INHERITED / 20);
        }
        // It is sparse: its blocks are less than its length.
        let freed = file.and_then(|file| file.metadata().ok()).map_or(0, |metadata| metadata.blocks() * 512);
        remove_with_journal(path, empty_folders)?;
        Ok(Removal::Removed(freed))
    };
    remove().map_err(|error| Failure::io("delete", path, &error))
}

impl Partial {
    /// Waits until no other process writes the file, and holds it.
    ///
    /// # Errors
    /// [`Code::Cancelled`] once the transfer is stopped, [`Code::NotOwned`] for a file of a newer version of
    /// the hive, and what the file system says.
    pub(crate) async fn hold(transfer: &Transfer) -> Result<Self> {
        let path = &transfer.destination.partial;
        let mut tries = 0;
        loop {
            let wanted = transfer.destination.clone();
            let held = spawn::blocking(move || {
                let is_newer = journal::is_newer(&journal::path_of(&wanted.partial));
                if is_newer { Err(newer_format(&wanted.partial)) } else { Ok(Self::try_hold(&wanted)) }
            });
            if let Some(held) = held.await??.map_err(|error| Failure::io("open the file", path, &error))? {
                return Ok(held);
            }
            tries += 1;
            // The first time it may have been held by accident.
            if tries == 2 {
                let message = format!("Another process is writing {}: waiting for it", path.display());
                transfer.say(Level::Info, Step::Waiting, message);
            }
            tokio::select! {
                () = tokio::time::sleep(POLL) => {}
                () = transfer.stop.cancelled() => {
                    return Err(Failure::new(Code::Cancelled, "the download was cancelled"));
                }
            }
        }
    }

    /// `None` where another process is writing it.
    fn try_hold(destination: &Destination) -> io::Result<Option<Self>> {
        let path = &destination.partial;
        let mut other = None;
        if let Some(lock) = &destination.lock {
            other = open_locked(lock)?;
            if other.is_none() {
                return Ok(None);
            }
        }
        if fs::symlink_metadata(path).is_ok_and(|metadata| !metadata.is_file()) {
            // The draft of an import that a killed hive left.
            remove_if_there(path)?;
        }
        let Some(file) = open_locked(path)? else { return Ok(None) };
        // The process that held it before may have given the file its final name, or removed it.
        let held = file.metadata()?;
        let is_same = |now: fs::Metadata| (held.dev(), held.ino()) == (now.dev(), now.ino());
        let is_held = fs::symlink_metadata(path).is_ok_and(is_same);
        Ok(is_held.then(|| Self { destination: destination.clone(), file, _other: other }))
    }

    pub(crate) fn path(&self) -> &Path {
        &self.destination.partial
    }

    pub(crate) fn journal_path(&self) -> PathBuf {
        journal::path_of(self.path())
    }

    /// The file, to be written and read in place.
    pub(crate) fn file(&self) -> &File {
        &self.file
    }

    /// Does work on the blocking pool; its failures name this file.
    pub(crate) async fn on_disk<T: Send + 'static>(
        self: &Arc<Self>,
        work: impl FnOnce(&Self) -> io::Result<T> + Send + 'static,
    ) -> Result<T> {
        let held = Arc::clone(self);
        let done = spawn::blocking(move || work(&held)).await?;
        done.map_err(|error| Failure::io("write", self.path(), &error))
    }

    /// Resumes what is there, if it is of the file that `wanted` describes, and removes it otherwise.
    pub(crate) fn begin(&self, wanted: Head, disk: Arc<dyn Disk>) -> io::Result<Begun> {
        let path = self.journal_path();
        match Contents::read(&path) {
            Some(contents) if contents.head.is_resumed_by(&wanted) => {
                let journal = Some(Journal::resume(&path, &contents, disk)?);
                let Contents { head, claims, .. } = contents;
                Ok(Begun { head, claims, journal, is_other_version: false, was_damaged: false })
            }
            other => {
                let (is_other_version, was_damaged) = (other.is_some(), journal::is_damaged(&path));
                self.clear()?;
                Ok(Begun { head: wanted, claims: Vec::new(), journal: None, is_other_version, was_damaged })
            }
        }
    }

    /// Removes everything that is in it.
    pub(crate) fn clear(&self) -> io::Result<()> {
        // In this order: a journal must never claim bytes that are not there.
        remove_if_there(&self.journal_path())?;
        disk::set_len(&self.file, 0)
    }

    /// Removes it and its journal.
    pub(crate) fn discard(&self) -> io::Result<()> {
        remove_with_journal(self.path(), &self.destination.empty_folders)
    }

    /// Gives it its final name, over what has that name, durably. All of it must be on the disk.
    pub(crate) fn promote(&self, disk: &dyn Disk) -> io::Result<()> {
        let target = &self.destination.target;
        disk.rename(self.path(), target)?;
        target.parent().map_or(Ok(()), files::sync_folder)?;
        remove_if_there(&self.journal_path())
    }
}

fn options() -> OpenOptions {
    let mut options = OpenOptions::new();
    // A link in its place must not lead the write elsewhere.
    options.read(true).write(true).custom_flags(rustix::fs::OFlags::NOFOLLOW.bits().cast_signed());
    options
}

/// Opens a file, which is created where it is missing, and locks it. `None` where another process holds
/// it.
fn open_locked(path: &Path) -> io::Result<Option<File>> {
    path.parent().map_or(Ok(()), disk::create_dir_all)?;
    match disk::open(options().create(true), path) {
        // Another process has just removed the folder, which was empty.
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        file => file.and_then(|file| Ok(is_locked(&file)?.then_some(file))),
    }
}

fn is_locked(file: &File) -> io::Result<bool> {
    match file.try_lock() {
        Ok(()) => Ok(true),
        Err(TryLockError::WouldBlock) => Ok(false),
        Err(TryLockError::Error(error)) => Err(error),
    }
}

fn remove_with_journal(path: &Path, empty_folders: &[PathBuf]) -> io::Result<()> {
    remove_if_there(&journal::path_of(path))?;
    remove_if_there(path)?;
    // The system refuses to remove a folder that has something in it.
    let _ = empty_folders.iter().try_for_each(disk::remove_dir);
    Ok(())
}

fn remove_if_there(path: &Path) -> io::Result<()> {
    match disk::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}
