//! Unpacks the archives of engines and of sources into an empty folder.
//!
//! An archive comes from strangers, whatever hash it has. So (`sink.rs`) nothing gets outside the folder: no absolute
//! path, no `..`, nothing is written through a link, and a link leads to a place within the folder. Nothing but files,
//! folders and such links is made, with no right but that to be executed. Its entries, their depth and their bytes
//! have bounds, so that a small archive cannot fill the disk. An archive that breaks one of these rules is refused as
//! a whole; its folder is the caller's to remove.

mod executable;
mod tar_gz;
mod zipped;
mod sink;
mod trouble;

use std::io::Read;
use std::path::{Path, PathBuf};

use tokio_util::sync::CancellationToken;

use super::archive_name::Format;
use super::fetch::LocalArchive;
use crate::error::Result;
use crate::narration::waiting_for;
use crate::text::bytes;
use crate::{files, n, spawn};
use executable::check;
use sink::{Limits, Selection, Sink};
use trouble::Trouble;

/// The name of an engine's executable.
const PROGRAM: &str = "llama-server";

/// An engine that was unpacked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unpacked {
    /// Its executable.
    pub program: PathBuf,
    /// The bytes of all its files.
    pub size_bytes: u64,
}

/// Unpacks an engine into the folder `into`, which is empty, with the libraries that belong beside it.
///
/// # Errors
/// [`Code::EngineRefused`](crate::error::Code::EngineRefused) where the archive breaks a rule of this module, is
/// damaged, or has no llama-server for this machine; [`Code::Cancelled`](crate::error::Code::Cancelled) once `stop` is
/// cancelled; what the file system says.
pub async fn engine(
    archive: &LocalArchive,
    libraries: Option<&LocalArchive>,
    into: &Path,
    stop: &CancellationToken,
) -> Result<Unpacked> {
    let name = name_of(&archive.path);
    let mut size_bytes = unpack(&archive.path, into, Selection::All, stop).await?;
    let folder = into.to_owned();
    let found = spawn::blocking(move || program_in(&folder)).await?;
    let program = found.map_err(|trouble| trouble.into_failure(&name))?;
    if let Some(libraries) = libraries {
        let beside = program.parent().unwrap_or(into);
        size_bytes += unpack(&libraries.path, beside, Selection::Flat, stop).await?;
    }
    n!("worker_install_unpack", "Unpacked {name}: {}", bytes(size_bytes));
    Ok(Unpacked { program, size_bytes })
}

/// Unpacks sources into the folder `into`, which is empty: what the archive has beneath `only`, or beneath `only` in
/// its one folder, or all of it. Returns their bytes.
///
/// # Errors
/// Those of [`engine`].
pub async fn sources(
    archive: &Path,
    only: Option<&'static str>,
    into: &Path,
    stop: &CancellationToken,
) -> Result<u64> {
    unpack(archive, into, only.map_or(Selection::All, Selection::Beneath), stop).await
}

async fn unpack(archive: &Path, into: &Path, selection: Selection, stop: &CancellationToken) -> Result<u64> {
    let name = name_of(archive);
    let _waiting = waiting_for(format!("{name} to be unpacked"));
    n!("worker_install_unpack", "Unpacking {name}");
    let (archive, into, stop) = (archive.to_owned(), into.to_owned(), stop.clone());
    let unpacked = spawn::blocking(move || unpack_blocking(&archive, &into, selection, None, &stop)).await?;
    unpacked.map_err(|trouble| trouble.into_failure(&name))
}

fn unpack_blocking(
    archive: &Path,
    into: &Path,
    selection: Selection,
    limits: Option<Limits>,
    stop: &CancellationToken,
) -> Result<u64, Trouble> {
    let file = files::open(archive).map_err(|error| Trouble::disk("read", archive, error))?;
    let length = file.metadata().map_err(|error| Trouble::disk("read", archive, error))?.len();
    let mut beginning = Vec::new();
    (&file).take(4).read_to_end(&mut beginning).map_err(|error| Trouble::disk("read", archive, error))?;
    let limits = limits.unwrap_or_else(|| Limits::of_archive(length));
    let mut sink = Sink::new(into, selection, limits, stop);
    let format = Format::of_contents(&beginning);
    match format.ok_or_else(|| Trouble::refused("it is neither a .tar.gz nor a .zip"))? {
        Format::TarGz => tar_gz::read(file, &mut sink)?,
        Format::Zip => zipped::read(file, &mut sink)?,
    }
    sink.finish()
}

/// The llama-server in a folder, the one nearest to its top, if it is one for this machine. Blocks.
fn program_in(folder: &Path) -> Result<PathBuf, Trouble> {
    let entries = walkdir::WalkDir::new(folder).sort_by_file_name().into_iter();
    let named = entries.filter_map(std::result::Result::ok).filter(|entry| entry.file_name() == PROGRAM);
    let programs = named.filter(|entry| entry.file_type().is_file());
    let program = programs.min_by_key(walkdir::DirEntry::depth);
    let program = program.ok_or_else(|| Trouble::refused(format!("it has no {PROGRAM}")))?.into_path();
    check(&program)?;
    Ok(program)
}

fn name_of(path: &Path) -> String {
    path.file_name().unwrap_or(path.as_os_str()).to_string_lossy().into_owned()
}

#[cfg(test)]
mod tests;
