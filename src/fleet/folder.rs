//! `DATA_DIR/fleet`: what a hive keeps of a fleet that was made or joined by the `fleet` operations.
//!
//! Invariants:
//! - The folder is there with all that belongs into it, or not at all: it gets its name by one rename, and loses it by
//!   one.
//! - It is its owner's alone (0700), and so is each file that the hive writes (0600).

use std::io::ErrorKind;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::config;
use crate::disk;
use crate::error::{Code, Failure, Result};
use crate::files::versioned::{self, Versioned};
use crate::files::{self, read_private};

/// The most bytes of a file of the folder.
const LARGEST: u64 = 16 << 20;

/// The names of the files.
pub(super) mod file {
    /// How the hive is in the fleet.
    pub(crate) const STATE: &str = "fleet.json";
    /// The certificate of the fleet's authority.
    pub(crate) const CA: &str = "ca.pem";
    /// The credentials of this hive's user of NATS.
    pub(crate) const CREDENTIALS: &str = "hive.creds";
    /// The certificate of this hive.
    pub(crate) const CERTIFICATE: &str = "hive.pem";
    /// Its private key.
    pub(crate) const KEY: &str = "hive.key";
    /// On the machine of `fleet up`: the keys of NATS.
    pub(crate) const SEEDS: &str = "authority.json";
    /// The private key of the authority of certificates.
    pub(crate) const CA_KEY: &str = "ca.key";
    /// Who was invited and let in.
    pub(crate) const LEDGER: &str = "ledger.json";
    /// The certificate of nats-server and of the address for joining.
    pub(crate) const SERVER: &str = "server.pem";
    /// Its private key.
    pub(crate) const SERVER_KEY: &str = "server.key";
    /// The settings of nats-server.
    pub(crate) const NATS: &str = "nats-server.conf";
    /// Its log.
    pub(crate) const LOG: &str = "nats-server.log";
    /// What it says before it has a log.
    pub(crate) const OUTPUT: &str = "nats-server.out";
    /// The streams.
    pub(crate) const STREAMS: &str = "jetstream";
}

/// How this hive is in a fleet.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub(super) struct State {
    #[serde(default = "versioned::first_version")]
    pub(super) version: u64,
    /// The name of the fleet.
    pub(super) name: String,
    /// The addresses of its servers.
    pub(super) nats: Vec<String>,
    /// What this machine does for the others; only on that of `fleet up`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) hosts: Option<Hosts>,
    #[serde(flatten)]
    pub(super) more: Map<String, Value>,
}

/// What the machine of `fleet up` does for the others.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub(super) struct Hosts {
    /// Where nats-server listens.
    pub(super) listen: SocketAddr,
    /// Where other machines join.
    pub(super) join_listen: SocketAddr,
    /// The host under which they reach this machine.
    pub(super) advertise: String,
    /// The user that this hive is.
    pub(super) hive: String,
    /// Whether `fleet leave` has stopped it.
    #[serde(default)]
    pub(super) is_down: bool,
}

/// The folder.
#[derive(Clone, Debug)]
pub(super) struct Folder(PathBuf);

impl Folder {
    /// That of a data folder.
    pub(super) fn of(data_dir: &Path) -> Self {
        Self(data_dir.join("fleet"))
    }

    pub(super) fn path(&self) -> &Path {
        &self.0
    }

    /// The path of one of its files.
    pub(super) fn file(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    /// How the hive is in a fleet; `None` where it was neither made nor joined here.
    ///
    /// # Errors
    /// [`Code::ConfigInvalid`] if the file cannot be used.
    pub(super) fn state(&self) -> Result<Option<State>> {
        self.json(file::STATE)
    }

    /// Writes how the hive is in the fleet.
    ///
    /// # Errors
    /// [`Code::Io`]; [`Code::DiskFull`]
    pub(super) fn set_state(&self, state: &State) -> Result<()> {
        self.put(file::STATE, &pretty(state))
    }

    /// The contents of a file of JSON with a version; `None` where there is none.
    ///
    /// # Errors
    /// [`Code::ConfigInvalid`] if it cannot be used.
    pub(super) fn json<T: DeserializeOwned>(&self, name: &str) -> Result<Option<T>> {
        let path = self.file(name);
        let Some(text) = read_private("the fleet's file", &path, LARGEST)? else { return Ok(None) };
        let invalid = |what: &str, hint: &str| {
            let message = format!("the fleet's file {} {what}", path.display());
            Err(Failure::new(Code::ConfigInvalid, message).hint(hint))
        };
        match Versioned::parse(text.as_bytes()) {
            Versioned::Known(contents) => Ok(Some(contents)),
            Versioned::Newer => invalid("is of a newer version of the hive", "update this hive"),
            Versioned::Invalid => invalid(
                "is damaged",
                "put it back from a backup; or move the folder away, and join the fleet or make it anew",
            ),
        }
    }

    /// The text of a file that has to be there.
    ///
    /// # Errors
    /// [`Code::ConfigInvalid`] if it is not, or cannot be used.
    pub(super) fn text(&self, name: &str) -> Result<String> {
        let path = self.file(name);
        read_private("the fleet's file", &path, LARGEST)?.ok_or_else(|| {
            Failure::new(Code::ConfigInvalid, format!("the fleet's file {} is missing", path.display())).hint(
                "put it back from a backup; or move the folder away, and join the fleet or make it anew",
            )
        })
    }

    /// Replaces a file.
    ///
    /// # Errors
    /// [`Code::Io`]; [`Code::DiskFull`]
    pub(super) fn put(&self, name: &str, contents: &str) -> Result<()> {
        let path = self.file(name);
        files::put_durable(&path, contents.as_bytes()).map_err(|error| Failure::io("write", &path, &error))
    }

    /// Makes the folder with these files, all or nothing. It must not be there.
    ///
    /// # Errors
    /// [`Code::Io`]; [`Code::DiskFull`]
    pub(super) fn make(&self, contents: &[(&str, String)]) -> Result<()> {
        let draft = Self(self.0.with_extension("new"));
        discard(&draft.0)?;
        let made = (|| {
            disk::create_private_dir(&draft.0).map_err(|error| Failure::io("create", &draft.0, &error))?;
            contents.iter().try_for_each(|(name, text)| draft.put(name, text))?;
            disk::rename(&draft.0, &self.0).map_err(|error| Failure::io("create", &self.0, &error))
        })();
        if made.is_err() {
            // The error to report is the one that led here.
            let _discarded = discard(&draft.0);
        }
        made
    }

    /// Removes it, all at once for whoever looks.
    ///
    /// # Errors
    /// [`Code::Io`]
    pub(super) fn remove(&self) -> Result<()> {
        let gone = self.0.with_extension("gone");
        discard(&gone)?;
        match disk::rename(&self.0, &gone) {
            Err(error) if error.kind() != ErrorKind::NotFound => Err(Failure::io("remove", &self.0, &error)),
            _ => discard(&gone),
        }
    }

    /// The settings with which this hive is in the fleet.
    pub(super) fn settings(&self, state: &State, given: &config::Fleet) -> config::Fleet {
        config::Fleet {
            nats: Some(state.nats.join(",")),
            name: state.name.clone(),
            credentials: Some(self.file(file::CREDENTIALS)),
            nkey: None,
            ca: Some(self.file(file::CA)),
            certificate: Some(self.file(file::CERTIFICATE)),
            key: Some(self.file(file::KEY)),
            // This machine reaches its own server at an address that others do not.
            advertise: given.advertise.clone().or(state.hosts.as_ref().map(|hosts| hosts.advertise.clone())),
            ..given.clone()
        }
    }
}

/// JSON that people can read.
pub(super) fn pretty(value: &impl Serialize) -> String {
    serde_json::to_string_pretty(value).unwrap_or_default() + "\n"
}

fn discard(folder: &Path) -> Result<()> {
    match disk::remove_dir_all(folder) {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(Failure::io("remove", folder, &error)),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn the_folder_is_made_whole_or_not_at_all_and_is_private() {
        let dir = tempfile::tempdir().unwrap();
        let folder = Folder::of(dir.path());
        // What a kill has left is no obstacle.
        fs::create_dir(dir.path().join("fleet.new")).unwrap();
        fs::write(dir.path().join("fleet.new/old"), "x").unwrap();
        folder.make(&[("a/b", String::new())]).unwrap_err();
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
        folder.make(&[("a", "1".to_owned()), ("b", "2".to_owned())]).unwrap();
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!((mode(folder.path()), mode(&folder.file("a"))), (0o700, 0o600));
        assert!(!folder.file("old").exists());
        assert_eq!(folder.text("b").unwrap(), "2");
        assert!(folder.state().unwrap().is_none());
        folder.make(&[("c", String::new())]).unwrap_err();
        assert!(folder.file("a").exists() && !folder.file("c").exists());
        folder.remove().unwrap();
        folder.remove().unwrap();
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
    }

    #[test]
    fn a_file_that_others_can_read_or_of_a_newer_version_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let folder = Folder::of(dir.path());
        folder.make(&[(file::STATE, r#"{"version":2}"#.to_owned())]).unwrap();
        assert!(folder.state().unwrap_err().message.contains("newer"));
        folder.put(file::STATE, r#"{"name":"home","nats":["tls://a:1"],"later":1}"#).unwrap();
        let state = folder.state().unwrap().unwrap();
        folder.set_state(&state).unwrap();
        assert!(folder.text(file::STATE).unwrap().contains("later"));
        fs::set_permissions(folder.file(file::STATE), fs::Permissions::from_mode(0o644)).unwrap();
        assert_eq!(folder.state().unwrap_err().code, Code::ConfigInvalid);
    }
}
