//! llama.cpp's sources: from a folder, an archive, or a source distribution that the machine's pip fetches.

use std::ffi::OsString;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};
use tokio_util::sync::CancellationToken;

use super::request::{BuildRequest, Sources};
use super::run::{Program, Runner};
use crate::engines::unpack;
use crate::error::{Code, Failure, Result};
use crate::{disk, files, n, spawn, text};

/// The stage of a failure to get the sources.
const STAGE: &str = "sources";
/// What llama.cpp's sources have at their root.
const MARK: &str = "CMakeLists.txt";
/// Where source distributions of others have them.
const VENDORED: &str = "vendor/llama.cpp";

/// Sources that are on this machine.
#[derive(Debug)]
pub struct Fetched {
    /// A folder of sources, or an archive that has them.
    pub(super) path: PathBuf,
    pub(super) version: String,
    /// The SHA-256 of the archive, in hexadecimal.
    pub(super) sha256: Option<String>,
    /// Whether it is a source distribution, which has them in [`VENDORED`].
    is_distribution: bool,
}

/// Brings the sources that the request names to this machine.
pub(super) async fn fetch(request: &BuildRequest, stop: &CancellationToken) -> Result<Fetched> {
    match &request.sources {
        Sources::Folder { path, version } => Ok(Fetched {
            path: path.clone(),
            version: checked(version)?,
            sha256: None,
            is_distribution: false,
        }),
        Sources::Archive { path, version } => {
            let sha256 = Some(sha256_of(path.clone()).await?);
            Ok(Fetched { path: path.clone(), version: checked(version)?, sha256, is_distribution: false })
        }
        Sources::Package(requirement) => package(request, requirement, stop).await,
    }
}

/// Has the machine's pip fetch a source distribution. One whose version is told is fetched once.
async fn package(request: &BuildRequest, requirement: &str, stop: &CancellationToken) -> Result<Fetched> {
    let (name, version) = match requirement.split_once("==") {
        Some((name, version)) => (checked(name)?, Some(checked(version)?)),
        None => (checked(requirement)?, None),
    };
    let packages = request.cache.join("packages");
    let folder = packages.join(text::hex(&Sha256::digest(requirement)[..6]));
    let failed = |error: io::Error| Failure::io("use the folder", &folder, &error).stage(STAGE);
    let kept = version.as_ref().and_then(|_| distribution_in(&folder));
    if kept.is_none() {
        remove_if_there(&packages).map_err(failed)?;
        disk::create_private_dir(&folder).map_err(failed)?;
        n!(
            "worker_install_build",
            "Downloading the sources: '{requirement}', with pip of {}",
            request.python.display()
        );
        // pip asks a source distribution for its metadata, for which it fetches the package's build tools: these
        // may come as they are.
        let words =
            ["-m", "pip", "download", "--disable-pip-version-check", "--no-input", "--progress-bar", "off"];
        let options = ["--no-deps", "--no-binary", &name, "--dest", ".", requirement];
        let program = Program {
            stage: STAGE,
            failed: &format!("pip could not fetch the source distribution '{requirement}'"),
            program: &request.python,
            arguments: words.into_iter().chain(options).map(OsString::from).collect(),
            folder: &folder,
            is_pip: true,
        };
        Runner::new(folder.join("pip.log"), stop)?.run(program).await?;
    }
    let (path, version) = kept.or_else(|| distribution_in(&folder)).ok_or_else(|| {
        Failure::new(
            Code::EngineBuildFailed,
            format!("pip fetched no source distribution for '{requirement}'"),
        )
        .hint("a .tar.gz was expected: check [engine_builds] source_package")
        .stage(STAGE)
    })?;
    let sha256 = sha256_of(path.clone()).await?;
    n!("worker_install_build", "The sources are {name} {version}, SHA-256 {sha256}");
    Ok(Fetched { path, version: checked(&version)?, sha256: Some(sha256), is_distribution: true })
}

/// The source distribution in a folder, `NAME-VERSION.tar.gz`, and its version.
fn distribution_in(folder: &Path) -> Option<(PathBuf, String)> {
    let names =
        std::fs::read_dir(folder).ok()?.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    names.into_iter().find_map(|name| {
        let (_, version) = name.strip_suffix(".tar.gz")?.rsplit_once('-')?;
        Some((folder.join(&name), version.to_owned()))
    })
}

/// A name or version, which becomes part of a path and of a command line.
fn checked(text: &str) -> Result<String> {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "._+-".contains(c);
    if !text.is_empty() && text.len() <= 100 && !text.starts_with(['-', '.']) && text.chars().all(is_plain) {
        return Ok(text.to_owned());
    }
    Err(Failure::new(
        Code::InvalidField,
        format!("'{}' is no name or version of sources", text::excerpt(text)),
    )
    .hint("use letters, digits, '.', '_', '+' and '-', such as 'b6789' or 'llama-cpp-python==0.3.36'")
    .stage(STAGE))
}

impl Fetched {
    /// Their version.
    #[must_use]
    pub fn version(&self) -> &str {
        &self.version
    }

    /// Puts the sources at `target`, unless they are there.
    pub(super) async fn unpack(&self, target: &Path, stop: &CancellationToken) -> Result<PathBuf> {
        if self.path.is_dir() {
            return self
                .path
                .join(MARK)
                .is_file()
                .then(|| self.path.clone())
                .ok_or_else(|| self.without_sources());
        }
        if target.is_dir() {
            return Ok(target.to_owned());
        }
        let draft = target.with_extension(files::DRAFT);
        let failed = |error: io::Error| Failure::io("unpack into", &draft, &error).stage(STAGE);
        remove_if_there(&draft).map_err(failed)?;
        disk::create_private_dir(&draft).map_err(failed)?;
        // Much of a source distribution is not llama.cpp.
        let only = self.is_distribution.then_some(VENDORED);
        let unpacked = unpack::sources(&self.path, only, &draft, stop).await;
        unpacked.map_err(|failure| failure.stage(STAGE))?;
        let root = root_of(&draft).ok_or_else(|| self.without_sources())?;
        disk::rename(root, target).map_err(failed)?;
        remove_if_there(&draft).map_err(failed)?;
        Ok(target.to_owned())
    }

    fn without_sources(&self) -> Failure {
        let path = self.path.display();
        Failure::new(Code::EngineBuildFailed, format!("{path} has no sources of llama.cpp"))
            .hint(format!("there should be a {MARK} at its root, or in {VENDORED}"))
            .stage(STAGE)
    }
}

/// The root of the sources in a folder into which one archive was unpacked.
fn root_of(folder: &Path) -> Option<PathBuf> {
    let has_mark = |root: &Path| root.join(MARK).is_file();
    if has_mark(folder) {
        return Some(folder.to_owned());
    }
    let first = std::fs::read_dir(folder).ok()?.next()?.ok()?.path();
    [first.join(VENDORED), first].into_iter().find(|root| has_mark(root))
}

/// Removes a folder, if it is there.
pub(super) fn remove_if_there(folder: &Path) -> io::Result<()> {
    match disk::remove_dir_all(folder) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// The SHA-256 of a file, in hexadecimal.
async fn sha256_of(path: PathBuf) -> Result<String> {
    let hash = move || -> Result<String> {
        let failed = |error: &io::Error| Failure::io("read", &path, error).stage(STAGE);
        let (mut file, mut hash) = (files::open(&path).map_err(|error| failed(&error))?, Sha256::new());
        let mut buffer = vec![0; 1 << 20];
        loop {
            match file.read(&mut buffer).map_err(|error| failed(&error))? {
                0 => return Ok(text::hex(&hash.finalize())),
                read => hash.update(&buffer[..read]),
            }
        }
    };
    spawn::blocking(hash).await?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_version_that_leads_elsewhere_is_refused() {
        for version in ["b6789", "0.3.36", "1.0+local", "llama-cpp-python"] {
            assert_eq!(checked(version).unwrap(), version);
        }
        for version in ["", "..", "-x", "a/b", "a b", "1;rm", &"1".repeat(200)] {
            assert_eq!(checked(version).unwrap_err().code, Code::InvalidField, "{version}");
        }
    }
}
