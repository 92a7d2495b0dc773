//! Reads a `.zip`.

use std::fs::File;
use std::io::{self, BufReader, Read};

use zip::ZipArchive;
use zip::result::ZipError;

use super::sink::{Kind, Sink};
use super::trouble::Trouble;

/// The kinds of files in a Unix mode (`inode(7)`).
const KINDS: u32 = 0o170_000;
const FILE: u32 = 0o100_000;
const FOLDER: u32 = 0o040_000;
const LINK: u32 = 0o120_000;
/// The longest target of a link, in bytes.
const LONGEST_TARGET: u64 = 4096;

/// Puts every entry of the archive into the sink.
pub(super) fn read(file: File, sink: &mut Sink<'_>) -> Result<(), Trouble> {
    let mut archive = ZipArchive::new(BufReader::new(file)).map_err(damaged)?;
    if archive.has_duplicate_names() {
        return Err(Trouble::refused("it has a path that it has twice"));
    }
    for index in 0..archive.len() {
        let mut entry = archive.by_index(index).map_err(damaged)?;
        if entry.encrypted() {
            return Err(Trouble::refused("it is encrypted"));
        }
        let name = entry.name_raw().to_vec();
        let mode = entry.unix_mode().unwrap_or_default();
        let kind = match mode & KINDS {
            LINK => {
                let mut target = Vec::new();
                (&mut entry).take(LONGEST_TARGET).read_to_end(&mut target).map_err(Trouble::Damaged)?;
                Kind::Link { target }
            }
            _ if name.ends_with(b"/") => Kind::Folder,
            FOLDER => Kind::Folder,
            0 | FILE => Kind::File { is_executable: mode & 0o111 != 0 },
            _ => return Err(Trouble::refused("it has a device, or something else that is no file")),
        };
        sink.put(&name, kind, &mut entry)?;
    }
    Ok(())
}

fn damaged(error: ZipError) -> Trouble {
    Trouble::Damaged(match error {
        ZipError::Io(error) => error,
        error => io::Error::new(io::ErrorKind::InvalidData, error),
    })
}
