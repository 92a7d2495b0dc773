//! Reads a `.tar.gz`.

use std::fs::File;
use std::io::{self, BufReader, Read};

use flate2::read::MultiGzDecoder;
use tar::{Archive, EntryType, PaxExtensions};
use tokio_util::sync::CancellationToken;

use super::sink::{Kind, Sink};
use super::trouble::Trouble;

/// The most bytes that describe one entry: its long name, or its extended header.
const MOST_DESCRIBED: u64 = 64 << 10;
/// The bytes of headers and paddings that one entry may take besides its contents.
const OVERHEAD: u64 = 4 << 10;

/// Puts every entry of the archive into the sink.
pub(super) fn read(file: File, sink: &mut Sink<'_>) -> Result<(), Trouble> {
    let stop = sink.stop;
    let damaged =
        |error: io::Error| if stop.is_cancelled() { Trouble::Cancelled } else { Trouble::Damaged(error) };
    // Its buffer is refilled from the beginning: what was read to tell the format is read again.
    let mut file = file;
    io::Seek::rewind(&mut file).map_err(damaged)?;
    let left = sink.limits.bytes.saturating_add(sink.limits.entries as u64 * OVERHEAD);
    let inner = MultiGzDecoder::new(BufReader::with_capacity(256 << 10, file));
    let mut archive = Archive::new(Bounded { inner, left, stop });
    let mut described = Described::default();
    // Raw, because what describes an entry has no bound otherwise.
    for entry in archive.entries().map_err(damaged)?.raw(true) {
        let mut entry = entry.map_err(damaged)?;
        let kind = match entry.header().entry_type() {
            EntryType::XGlobalHeader => continue,
            EntryType::GNULongName => {
                described.name = Some(text(&mut entry)?);
                continue;
            }
            EntryType::GNULongLink => {
                described.target = Some(text(&mut entry)?);
                continue;
            }
            EntryType::XHeader => {
                described.extend(&small(&mut entry)?)?;
                continue;
            }
            EntryType::Regular | EntryType::Continuous => {
                let mode = entry.header().mode().map_err(damaged)?;
                Kind::File { is_executable: mode & 0o111 != 0 }
            }
            EntryType::Directory => Kind::Folder,
            EntryType::Symlink => {
                let in_header = || entry.header().link_name_bytes().unwrap_or_default().into_owned();
                Kind::Link { target: described.target.take().unwrap_or_else(in_header) }
            }
            EntryType::Link => return Err(Trouble::refused("it has a hard link")),
            EntryType::Char | EntryType::Block => return Err(Trouble::refused("it has a device")),
            EntryType::Fifo => return Err(Trouble::refused("it has a FIFO")),
            _ => return Err(Trouble::refused("it has an entry of an unknown kind")),
        };
        let name = described.name.take().unwrap_or_else(|| entry.header().path_bytes().into_owned());
        described = Described::default();
        // So did the first versions of tar.
        let kind =
            if name.ends_with(b"/") && matches!(kind, Kind::File { .. }) { Kind::Folder } else { kind };
        sink.put(&name, kind, &mut entry)?;
    }
    // What follows the last entry is read, so that the checksum at the end is compared.
    io::copy(&mut archive.into_inner(), &mut io::sink()).map_err(damaged)?;
    Ok(())
}

/// What earlier entries say of the next one.
#[derive(Debug, Default)]
struct Described {
    name: Option<Vec<u8>>,
    target: Option<Vec<u8>>,
}

impl Described {
    /// Reads an extended header (POSIX `pax`).
    fn extend(&mut self, header: &[u8]) -> Result<(), Trouble> {
        for field in PaxExtensions::new(header) {
            let field = field.map_err(Trouble::Damaged)?;
            match field.key_bytes() {
                b"path" => self.name = Some(field.value_bytes().to_vec()),
                b"linkpath" => self.target = Some(field.value_bytes().to_vec()),
                // They would have a second opinion of where the next entry begins.
                b"size" => return Err(Trouble::refused("it has a file of more than 8 GiB")),
                key if key.starts_with(b"GNU.sparse") => {
                    return Err(Trouble::refused("it has a file with holes"));
                }
                _ => {}
            }
        }
        Ok(())
    }
}

/// The contents of an entry that describes another one.
fn small(entry: &mut impl Read) -> Result<Vec<u8>, Trouble> {
    let mut contents = Vec::new();
    entry.take(MOST_DESCRIBED + 1).read_to_end(&mut contents).map_err(Trouble::Damaged)?;
    if contents.len() as u64 > MOST_DESCRIBED {
        return Err(Trouble::refused("it has a name that is too long"));
    }
    Ok(contents)
}

/// The same, up to the byte that ends it.
fn text(entry: &mut impl Read) -> Result<Vec<u8>, Trouble> {
    let mut contents = small(entry)?;
    contents.truncate(contents.iter().position(|byte| *byte == 0).unwrap_or(contents.len()));
    Ok(contents)
}

/// A reader that fails once it has given too much, or is stopped. A reader that ended there would make the archive
/// seem complete.
struct Bounded<'a, R> {
    inner: R,
    left: u64,
    stop: &'a CancellationToken,
}

impl<R: Read> Read for Bounded<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.stop.is_cancelled() {
            return Err(io::Error::other("it was cancelled"));
        }
        let read = self.inner.read(buffer)?;
        self.left = self.left.checked_sub(read as u64).ok_or_else(|| io::Error::other("it is too large"))?;
        Ok(read)
    }
}
