//! A file in the making: under another name than its final one, and held under an OS lock, so that no
//! listing takes it for a model and no other process writes it. The lock ends with the process that
//! holds it, however that ends; the file and its journal stay, to be gone on with.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use tokio_util::sync::CancellationToken;

use crate::error::{Code, Failure, Result};
use crate::models::transfer::disk::{self, Disk};
use crate::models::transfer::journal::{self, Contents, Head};
use crate::models::transfer::remote::{Destination, RemoteFile};
use crate::models::transfer::report::Reporter;
use crate::narration::Level;
use crate::spawn;

/// How often a lock that another process holds is tried.
const POLL: Duration = Duration::from_millis(200);
/// How long a lock may be held in passing: a process that this one starts has all its open files,
/// locks with them, until it runs its own program.
const IN_PASSING: Duration = Duration::from_millis(200);

/// A partial file that is this process's to write.
#[derive(Debug)]
pub(crate) struct Partial {
    path: PathBuf,
    /// Holds the lock.
    file: Arc<File>,
    /// Holds the lock of other programs.
    _other: Option<File>,
    /// As in [`Destination`].
    empty_folders: Vec<PathBuf>,
}

/// What a download that is not under way left behind.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Unfinished {
    /// What it is called in narrations.
    pub(crate) name: String,
    /// As [`crate::models::Model::source`].
    pub(crate) source: String,
    /// Bytes that are there.
    pub(crate) done: u64,
    /// Size of the whole file in bytes.
    pub(crate) size: Option<u64>,
    pub(crate) changed: SystemTime,
}

/// The failure of an operation on a partial file that a newer version of the hive made.
pub(crate) fn newer_format(path: &Path) -> Failure {
    Failure::new(
        Code::NotOwned,
        format!("a newer version of rbee-hive began the download in {}", path.display()),
    )
    .hint("resume it with that version, or remove that file and the one with .journal added to its name")
}

/// What lies at the path of a partial file, as far as its journal tells. `None` where nothing is
/// there that could be gone on with, as a part of `wanted` if that is given.
pub(crate) fn unfinished_at(path: &Path, wanted: Option<&RemoteFile>) -> Option<Unfinished> {
    let metadata = fs::symlink_metadata(path).ok().filter(fs::Metadata::is_file)?;
    let contents = Contents::read(&journal::path_of(path)).filter(|contents| contents.head.is_resumable())?;
    let is_resumed = |file| contents.head.is_resumed_by(&Head::of(file, contents.head.chunk_bytes));
    if !wanted.is_none_or(is_resumed) {
        return None;
    }
    let done = contents.done();
    Some(Unfinished {
        name: contents.head.name,
        source: contents.head.source,
        done,
        size: contents.head.size,
        changed: metadata.modified().unwrap_or(SystemTime::UNIX_EPOCH),
    })
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

/// Removes a partial file that no process holds, its journal, and then those of `empty_folders` that
/// are empty, in this order. Blocks.
pub(crate) fn remove(path: &Path, empty_folders: &[PathBuf]) -> Result<Removal> {
    let failed = |error: &io::Error| Failure::io("delete", path, error);
    if journal::is_newer(&journal::path_of(path)) {
        return Ok(Removal::NewerFormat);
    }
    let file = match options().open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            remove_if_there(&journal::path_of(path)).map_err(|error| failed(&error))?;
            return Ok(Removal::Removed(0));
        }
        Err(error) => return Err(failed(&error)),
    };
    let begin = Instant::now();
    while !is_locked(&file).map_err(|error| failed(&error))? {
        if begin.elapsed() > IN_PASSING {
            return Ok(Removal::InUse);
        }
        std::thread::sleep(IN_PASSING / 20);
    }
    // Sparse: what it holds is less than its length.
    let freed = file.metadata().map_or(0, |metadata| metadata.blocks() * 512);
    remove_if_there(&journal::path_of(path))
        .and_then(|()| remove_if_there(path))
        .map_err(|error| failed(&error))?;
    remove_empty(empty_folders);
    Ok(Removal::Removed(freed))
}

impl Partial {
    /// Waits until no other process writes the file, and holds it.
    ///
    /// # Errors
    /// [`Code::Cancelled`] once `stop` is cancelled, and what the file system says.
    pub(crate) async fn hold(
        destination: &Destination,
        reporter: &Reporter,
        stop: &CancellationToken,
    ) -> Result<Self> {
        let mut tries = 0;
        loop {
            let wanted = destination.clone();
            let held = spawn::blocking(move || Self::try_hold(&wanted))
                .await
                .map_err(|error| Failure::internal("opening a partial file broke off").detail(error))?;
            if let Some(held) =
                held.map_err(|error| Failure::io("open the file", &destination.partial, &error))?
            {
                return Ok(held);
            }
            tries += 1;
            // The first time it may have been held in passing.
            if tries == 2 {
                reporter.say(
                    Level::Info,
                    "model_download_waiting",
                    format!("Another process is writing {}: waiting for it", destination.partial.display()),
                );
            }
            tokio::select! {
                () = tokio::time::sleep(POLL) => {}
                () = stop.cancelled() => {
                    return Err(Failure::new(Code::Cancelled, "the download was cancelled"));
                }
            }
        }
    }

    /// `None` where another process is writing it.
    fn try_hold(destination: &Destination) -> io::Result<Option<Self>> {
        let path = &destination.partial;
        for folder in [Some(path), destination.lock.as_ref()].into_iter().flatten().filter_map(|p| p.parent())
        {
            fs::create_dir_all(folder)?;
        }
        let mut other = None;
        if let Some(lock) = &destination.lock {
            let file = options().create(true).open(lock)?;
            if !is_locked(&file)? {
                return Ok(None);
            }
            other = Some(file);
        }
        if fs::symlink_metadata(path).is_ok_and(|metadata| !metadata.is_file()) {
            // The draft of an import, which a killed hive left.
            remove_if_there(path)?;
        }
        let file = match options().create(true).open(path) {
            // Whoever removed another partial file may have found the folder empty just now.
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            file => file?,
        };
        if !is_locked(&file)? {
            return Ok(None);
        }
        // Whoever held it before may have given the file its final name, or removed it.
        let is_still_there = fs::symlink_metadata(path).is_ok_and(|now| {
            file.metadata().is_ok_and(|held| (held.dev(), held.ino()) == (now.dev(), now.ino()))
        });
        Ok(is_still_there.then(|| Self {
            path: path.clone(),
            file: Arc::new(file),
            _other: other,
            empty_folders: destination.empty_folders.clone(),
        }))
    }

    /// Where it is.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Where its journal is.
    pub(crate) fn journal_path(&self) -> PathBuf {
        journal::path_of(&self.path)
    }

    /// The file, to be written and read in place.
    pub(crate) fn file(&self) -> Arc<File> {
        Arc::clone(&self.file)
    }

    /// Forgets everything that is in it.
    pub(crate) fn clear(&self) -> io::Result<()> {
        // In this order: a journal must never speak of bytes that are not there.
        remove_if_there(&self.journal_path())?;
        self.file.set_len(0)
    }

    /// Removes it and its journal.
    pub(crate) fn discard(&self) -> io::Result<()> {
        remove_if_there(&self.journal_path())?;
        remove_if_there(&self.path)?;
        remove_empty(&self.empty_folders);
        Ok(())
    }

    /// Gives it its final name, over what has it now, durably. It must be on the disk already.
    pub(crate) fn promote(&self, target: &Path, disk: &dyn Disk) -> io::Result<()> {
        disk.rename(&self.path, target)?;
        disk::sync_folder_of(target)?;
        remove_if_there(&self.journal_path())
    }
}

fn options() -> OpenOptions {
    let mut options = OpenOptions::new();
    // A link in its place must not lead the write elsewhere.
    options.read(true).write(true).custom_flags(rustix::fs::OFlags::NOFOLLOW.bits().cast_signed());
    options
}

fn is_locked(file: &File) -> io::Result<bool> {
    match file.try_lock() {
        Ok(()) => Ok(true),
        Err(TryLockError::WouldBlock) => Ok(false),
        Err(TryLockError::Error(error)) => Err(error),
    }
}

fn remove_empty(folders: &[PathBuf]) {
    for folder in folders {
        // The system refuses to remove a folder that has something in it.
        if fs::remove_dir(folder).is_err() {
            break;
        }
    }
}

fn remove_if_there(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}
