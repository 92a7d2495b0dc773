//! Brings an archive to this machine: by the hive's own transfer, which resumes and verifies it, or from where it is
//! on this machine already.
//!
//! What an engine is made of is run as a program, so a file of a server is used only as the file that its SHA-256
//! promises.

use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use reqwest::Url;
use sha2::{Digest, Sha256};
use tokio_util::sync::CancellationToken;

use super::archive_name::Format;
use super::release::{Asset, Release};
use crate::config::{Config, EngineBuilds};
use crate::error::{Code, Failure, Result};
use crate::models::{
    Catalog, Destination, FetchConfig, Fetched, Fetcher, Purpose, RemoteFile, Transfers, Trust, Verdict,
};
use crate::narration::waiting_for;
use crate::text::{bytes, excerpt, hex, is_sha256};
use crate::{disk, files, n, spawn};

/// How many bytes are hashed at once.
const BLOCK: usize = 1 << 20;
/// The longest name of a file that a server may give.
const LONGEST_NAME: usize = 200;

/// An archive, and where it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Archive {
    /// Its name: that of a file.
    pub name: String,
    /// Where it is.
    pub place: Place,
    /// In bytes, where it is known.
    pub size: Option<u64>,
    /// The SHA-256 that it must have, in lower-case hexadecimal.
    pub sha256: Option<String>,
}

/// Where an archive is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// With the files of a release.
    Release(Url),
    /// The sources of a release, of which nobody gives a hash.
    Sources(Url),
    /// Where the settings say.
    Settings(Url),
    /// On this machine.
    Here(PathBuf),
}

/// An archive that is on this machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LocalArchive {
    /// Its file.
    pub path: PathBuf,
    /// In bytes.
    pub size_bytes: u64,
    /// The SHA-256 of its contents, in lower-case hexadecimal.
    pub sha256: String,
    /// Whether the hive fetched it, and may remove it.
    pub is_own: bool,
}

/// Brings archives to this machine.
#[derive(Clone, Debug)]
pub struct Archives {
    transfers: Arc<Transfers>,
    fetch: FetchConfig,
    /// Where they go.
    folder: PathBuf,
    releases: Option<Url>,
}

impl Archive {
    /// A file of a release.
    ///
    /// # Errors
    /// [`Code::EngineRefused`] where its name is none of a file, or it has no URL.
    pub fn of_asset(asset: &Asset) -> Result<Self> {
        let url = Url::parse(&asset.url).map_err(|error| {
            let message = format!("the release gives no valid URL for {}", excerpt(&asset.name));
            refused(message, "check the address in [engine_builds] releases").cause(&error)
        })?;
        let (place, size) = (Place::Release(url), Some(asset.size));
        Self { name: asset.name.clone(), place, size, sha256: asset.sha256.clone() }.checked()
    }

    /// The sources of a release, if it has any.
    ///
    /// # Errors
    /// [`Code::EngineRefused`] where its tag cannot be in the name of a file.
    pub fn of_sources(release: &Release) -> Option<Result<Self>> {
        let place = Place::Sources(Url::parse(release.sources.as_deref()?).ok()?);
        let name = format!("llama.cpp-{}.tar.gz", release.tag);
        Some(Self { name, place, size: None, sha256: None }.checked())
    }

    /// The archive that the settings name, if they do.
    ///
    /// # Errors
    /// [`Code::ConfigInvalid`] where they name none that could be one.
    pub fn of_settings(builds: &EngineBuilds) -> Option<Result<Self>> {
        let named = builds.archive.as_deref()?;
        Some(Self::named(named, builds.archive_sha256.as_deref()))
    }

    fn named(named: &str, sha256: Option<&str>) -> Result<Self> {
        let invalid = |message: &str, hint: &str| Failure::new(Code::ConfigInvalid, message).hint(hint);
        let sha256 = match sha256.map(str::to_ascii_lowercase) {
            Some(digits) if !is_sha256(&digits) => {
                let hint = "write the 64 hexadecimal digits that sha256sum prints";
                return Err(invalid("[engine_builds] archive_sha256 is not a SHA-256", hint));
            }
            digits => digits,
        };
        let not_a_place = || {
            let hint = "write https://host/path/archive.tar.gz, or the whole path of a file of this machine";
            invalid("[engine_builds] archive is neither a URL nor a whole path", hint)
        };
        let place = match Url::parse(named) {
            Ok(url) if matches!(url.scheme(), "https" | "http") => Place::Settings(url),
            _ if Path::new(named).is_absolute() => Place::Here(PathBuf::from(named)),
            _ => return Err(not_a_place()),
        };
        let last = match &place {
            Place::Here(path) => path.file_name().and_then(|name| name.to_str()),
            Place::Release(url) | Place::Sources(url) | Place::Settings(url) => url.path().rsplit('/').next(),
        };
        let name = last.filter(|name| !name.is_empty()).ok_or_else(not_a_place)?.to_owned();
        Self { name, place, size: None, sha256 }.checked()
    }

    /// A name that comes from a server becomes that of a file here.
    fn checked(self) -> Result<Self> {
        let name = &self.name;
        let is_safe = |c: char| c.is_ascii_alphanumeric() || "._-+".contains(c);
        let is_file_name = !name.starts_with('.') && name.len() <= LONGEST_NAME && name.chars().all(is_safe);
        if matches!(self.place, Place::Here(_)) || (is_file_name && !name.is_empty()) {
            return Ok(self);
        }
        let message = format!("an archive cannot have the name '{}'", excerpt(name));
        Err(refused(
            message,
            "name another archive: letters, digits, points, hyphens and underscores will do",
        ))
    }
}

impl Archives {
    /// Brings archives into the folder for downloads of the hive's folder of engines, by the transfers of the catalog.
    #[must_use]
    pub fn new(config: &Config, catalog: &Catalog, folder: PathBuf) -> Self {
        let releases = Url::parse(&config.engine_builds.releases).ok();
        Self { transfers: catalog.transfers(), fetch: FetchConfig::of(config), folder, releases }
    }

    /// The bytes of the archive that the settings name, where that can be told.
    ///
    /// # Errors
    /// Where there is no such file, or its server may not be asked.
    pub async fn size_of(&self, archive: &Archive) -> Result<Option<u64>> {
        match &archive.place {
            Place::Here(path) => {
                let read = std::fs::metadata(path).map_err(|error| Failure::io("read", path, &error));
                Ok(Some(read?.len()))
            }
            Place::Settings(url) => {
                let trust = Trust::Endpoint(url.clone());
                let size = Fetcher::new(&self.fetch, &trust, url).size_of(url, Purpose::Engine).await;
                size.map_err(|failure| failure.stage("preflight"))
            }
            Place::Release(_) | Place::Sources(_) => Ok(archive.size),
        }
    }

    /// Brings an archive here, or finds it here. Jobs that want the same one share its transfer.
    ///
    /// # Errors
    /// [`Code::Cancelled`] once `stop` is cancelled, where what can be resumed stays; [`Code::EngineRefused`] where it
    /// may not be used, or is not the file that it should be; and why it could not be fetched or read.
    pub async fn bring(&self, archive: &Archive, stop: &CancellationToken) -> Result<LocalArchive> {
        let (url, trusted) = match &archive.place {
            Place::Here(path) => return self.here(archive, path, stop).await,
            // Where the releases are on a network of one's own, so may their files be.
            Place::Release(url) | Place::Sources(url) => (url, self.releases.as_ref().unwrap_or(url)),
            Place::Settings(url) => (url, url),
        };
        if archive.sha256.is_none() && !matches!(archive.place, Place::Sources(_)) {
            let message =
                format!("nobody promises a SHA-256 of {}, so it could be any program", archive.name);
            let hint = "name another version, whose release has hashes, or the archive and its hash in [engine_builds] archive and archive_sha256";
            return Err(refused(message, hint));
        }
        let target = self.folder.join(&archive.name);
        if let Some(here) = self.fetched_before(archive, &target, stop).await? {
            return Ok(here);
        }
        let mut shown = url.clone();
        shown.set_query(None);
        let file = RemoteFile {
            purpose: Purpose::Engine,
            name: archive.name.clone(),
            source: shown.to_string(),
            url: url.clone(),
            credentials: None,
            size: archive.size,
            sha256: archive.sha256.clone(),
            version: None,
            companion_of: None,
            magic: Format::of(&archive.name).map_or(&[], Format::magic),
            vet: |_, _, _| Verdict::Usable { warning: None, header: None },
            trust: Trust::Endpoint(trusted.clone()),
        };
        let destination = Destination {
            partial: self.folder.join(format!("{}.partial", archive.name)),
            target: target.clone(),
            lock: None,
            replace: true,
            accept: Arc::new(|_, _| Ok(())),
            empty_folders: Vec::new(),
        };
        match self.transfers.fetch(&file, &destination, stop).await? {
            Fetched::Stored(stored) => {
                let sha256 = match stored.sha256 {
                    Some(sha256) => sha256,
                    None => hash(&target, stop).await?,
                };
                Ok(LocalArchive { path: target, size_bytes: stored.size, sha256, is_own: true })
            }
            Fetched::OtherFile => {
                let message = format!("another job has fetched another {} meanwhile", archive.name);
                Err(Failure::new(Code::DownloadFailed, message).hint("try again"))
            }
        }
    }

    /// Removes an archive that the hive fetched.
    ///
    /// # Errors
    /// What the file system says.
    pub async fn discard(&self, archive: &LocalArchive) -> Result<()> {
        if !archive.is_own {
            return Ok(());
        }
        let path = archive.path.clone();
        let removed = spawn::blocking(move || disk::remove_file(path)).await?;
        match removed {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                Err(Failure::io("remove", &archive.path, &error))
            }
            _ => Ok(()),
        }
    }

    /// The archive, where it was fetched before and is the right one. Another one in its place is fetched anew.
    async fn fetched_before(
        &self,
        archive: &Archive,
        target: &Path,
        stop: &CancellationToken,
    ) -> Result<Option<LocalArchive>> {
        let (Some(promised), Ok(metadata)) = (&archive.sha256, std::fs::metadata(target)) else {
            return Ok(None);
        };
        let sha256 = hash(target, stop).await?;
        if sha256 != *promised {
            n!(warn: "worker_install_present", "{} is here, but damaged: downloading it again", archive.name);
            return Ok(None);
        }
        n!("worker_install_present", "{} is here already ({})", archive.name, bytes(metadata.len()));
        Ok(Some(LocalArchive { path: target.to_owned(), size_bytes: metadata.len(), sha256, is_own: true }))
    }

    /// An archive of this machine, which is used in place.
    async fn here(&self, archive: &Archive, path: &Path, stop: &CancellationToken) -> Result<LocalArchive> {
        let size_bytes = std::fs::metadata(path).map_err(|error| Failure::io("read", path, &error))?.len();
        let sha256 = hash(path, stop).await?;
        if let Some(promised) = archive.sha256.as_ref().filter(|promised| **promised != sha256) {
            let message = format!("{} has the SHA-256 {sha256}, not {promised}", path.display());
            return Err(refused(
                message,
                "check [engine_builds] archive_sha256, or where the file comes from",
            ));
        }
        n!("worker_install_verify", "{} has the SHA-256 {sha256}", path.display());
        Ok(LocalArchive { path: path.to_owned(), size_bytes, sha256, is_own: false })
    }
}

fn refused(message: String, hint: &str) -> Failure {
    Failure::new(Code::EngineRefused, message).hint(hint).stage("fetch")
}

/// The SHA-256 of a file.
async fn hash(path: &Path, stop: &CancellationToken) -> Result<String> {
    let _waiting = waiting_for(format!("the hash of {}", path.display()));
    let (from, stop) = (path.to_owned(), stop.clone());
    let hashed = spawn::blocking(move || {
        let (mut file, mut sha256, mut block) = (files::open(&from)?, Sha256::new(), vec![0; BLOCK]);
        while !stop.is_cancelled() {
            match file.read(&mut block)? {
                0 => return Ok(Some(hex(&sha256.finalize()))),
                read => sha256.update(&block[..read]),
            }
        }
        Ok(None)
    });
    let hashed = hashed.await?.map_err(|error: std::io::Error| Failure::io("read", path, &error))?;
    hashed.ok_or_else(|| Failure::new(Code::Cancelled, "the installation was cancelled"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_settings_name_a_url_or_a_file_of_this_machine() {
        let digits = "AB".repeat(32);
        let url = Archive::named("https://h/a/x.tar.gz?key=1", Some(&digits)).unwrap();
        assert_eq!((url.name.as_str(), url.sha256), ("x.tar.gz", Some(digits.to_lowercase())));
        assert!(matches!(url.place, Place::Settings(_)));
        let file = Archive::named("/srv/An archive.zip", None).unwrap();
        assert_eq!(file.place, Place::Here(PathBuf::from("/srv/An archive.zip")));
        for (named, sha256) in
            [("x.tar.gz", None), ("ftp://h/x.zip", None), ("https://h/", None), ("/x", Some("12"))]
        {
            assert_eq!(Archive::named(named, sha256).unwrap_err().code, Code::ConfigInvalid, "{named}");
        }
    }

    #[test]
    fn a_name_that_a_server_gives_is_that_of_a_file() {
        for name in ["", "..", ".hidden", "../x.zip", "a/b.zip", "a\0.zip", &"x".repeat(201)] {
            let url = "https://h/x".to_owned();
            let asset = Asset { name: name.to_owned(), size: 1, sha256: None, url };
            assert_eq!(Archive::of_asset(&asset).unwrap_err().code, Code::EngineRefused, "{name}");
        }
    }
}
