//! The only file that opens files to read them.
//!
//! A path may lead to anything: a FIFO, which waits for its writer, a terminal, a device without an end, or
//! a file that something replaced a moment ago. So what is there is looked at once it is open, the open
//! never waits for anybody, and only regular files are read. A file that is read as a whole has a bound.
//! `clippy.toml` bans the other ways.

use std::fs::{File, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use rustix::fs::OFlags;

use crate::disk;

/// The most bytes of a small file: a record, a token, a ref, settings, a file of `/proc` or `/sys`.
pub(crate) const SMALL: u64 = 1 << 20;

/// Opens a regular file to read it.
///
/// # Errors
/// What the file system says, or that it is something other than a regular file.
pub(crate) fn open(path: &Path) -> io::Result<File> {
    open_sized(path).map(|(file, _)| file)
}

/// Opens a regular file, and returns its size in bytes: 0 for those of `/proc`.
fn open_sized(path: &Path) -> io::Result<(File, u64)> {
    let file = open_with(path, OFlags::NONBLOCK | OFlags::NOCTTY)?;
    let metadata = file.metadata()?;
    if metadata.is_file() {
        return Ok((file, metadata.len()));
    }
    let kind = if metadata.is_dir() { io::ErrorKind::IsADirectory } else { io::ErrorKind::InvalidInput };
    Err(io::Error::new(kind, "it is not a regular file"))
}

/// Reads a regular file of at most `most` bytes.
///
/// # Errors
/// Those of [`open`], or that the file is longer.
pub(crate) fn read(path: &Path, most: u64) -> io::Result<Vec<u8>> {
    let (file, size) = open_sized(path)?;
    // With room for all of it, one call reads it.
    let mut bytes = Vec::with_capacity(usize::try_from(size.min(most).saturating_add(1)).unwrap_or_default());
    file.take(most.saturating_add(1)).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > most {
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, format!("it has more than {most} bytes")));
    }
    Ok(bytes)
}

/// Reads a small file of text.
///
/// # Errors
/// Those of [`read`] with [`SMALL`], or that it is not UTF-8.
pub(crate) fn read_text(path: impl AsRef<Path>) -> io::Result<String> {
    String::from_utf8(read(path.as_ref(), SMALL)?)
        .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error.utf8_error()))
}

/// Makes the names in a folder durable.
///
/// # Errors
/// What the file system says.
pub(crate) fn sync_folder(path: &Path) -> io::Result<()> {
    disk::sync(&open_with(path, OFlags::DIRECTORY)?)
}

fn open_with(path: &Path, flags: OFlags) -> io::Result<File> {
    OpenOptions::new().read(true).custom_flags(flags.bits().cast_signed()).open(path)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn only_regular_files_are_opened_and_nothing_is_waited_for() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        rustix::fs::mkfifoat(rustix::fs::CWD, path("fifo"), rustix::fs::Mode::RWXU).unwrap();
        let _socket = std::os::unix::net::UnixListener::bind(path("socket")).unwrap();
        for (name, target) in [("zero", "/dev/zero"), ("tty", "/dev/tty"), ("pipe", "fifo"), ("loop", "loop")]
        {
            symlink(target, path(name)).unwrap();
        }
        for name in ["fifo", "pipe", "socket", "zero", "tty", "loop", "."] {
            assert!(open(&path(name)).is_err(), "{name}");
            assert!(read_text(path(name)).is_err(), "{name}");
        }
        let refused = open(&path("fifo")).unwrap_err();
        assert_eq!(refused.to_string(), "it is not a regular file");
        assert!(sync_folder(&path("fifo")).is_err());
        sync_folder(folder.path()).unwrap();
    }

    #[test]
    fn a_file_is_read_up_to_its_bound() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x");
        fs::write(&path, "12345").unwrap();
        assert_eq!(read(&path, 5).unwrap(), b"12345");
        assert_eq!(read(&path, 4).unwrap_err().kind(), io::ErrorKind::FileTooLarge);
        assert_eq!(read_text(&path).unwrap(), "12345");
        fs::write(&path, [0xff]).unwrap();
        assert_eq!(read_text(&path).unwrap_err().kind(), io::ErrorKind::InvalidData);
        // Its size says 0.
        assert!(read_text("/proc/self/status").unwrap().contains("Pid:"));
    }
}
