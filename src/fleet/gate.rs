//! Who comes into a fleet, on the machine of `fleet up`: it has the keys, and the list of who was let in.
//!
//! Its methods read and write files, and block. The lock of the list is held while the list is written, so that what is
//! in force is what is on the disk; it is never held across an await.

use std::net::IpAddr;
use std::time::Duration;

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use super::addresses::{addresses, host_and_port};
use super::authority::{Authority, Seeds, UserKey};
use super::certificates::{self, CertificateAuthority, WithKey};
use super::folder::{Folder, Hosts, State, file, pretty};
use super::join_code;
use super::ledger::{Ledger, User};
use super::names::HiveName;
use super::server::{Spec, configuration};
use crate::error::{Code, Failure, Result};
use crate::secret_hash::SecretHash;
use crate::time::{Instant, monotonic};

/// How many attempts may fail within [`WINDOW`]. Nobody guesses 128 bits; this bounds the work of trying.
const MOST_FAILED: u32 = 20;
const WINDOW: Duration = Duration::from_secs(60);
/// The longest name of a hive that a certificate can have beside its ending (RFC 1035, section 2.3.4).
const LONGEST_HIVE: usize = 220;

/// A hive that asks to be let in.
#[derive(Deserialize, Serialize)]
pub(super) struct Request {
    pub(super) secret: String,
    pub(super) hive: String,
    /// The id of its data folder.
    pub(super) folder: String,
    /// Its public nkey.
    pub(super) key: String,
    /// Its request for a certificate, in PEM.
    pub(super) csr: String,
}

/// What a hive gets that is let in.
#[derive(Debug, Deserialize, Serialize)]
pub(super) struct Accepted {
    pub(super) fleet: String,
    /// The addresses of the servers.
    pub(super) nats: Vec<String>,
    /// The port of nats-server on the machine that answers.
    pub(super) port: u16,
    /// The certificate of the fleet's authority.
    pub(super) ca: String,
    pub(super) jwt: String,
    pub(super) certificate: String,
}

/// The attempts that failed.
#[derive(Default)]
struct Attempts {
    since: Option<std::time::Instant>,
    failed: u32,
}

/// Who comes in.
pub(super) struct Gate {
    pub(super) state: State,
    pub(super) hosts: Hosts,
    folder: Folder,
    authority: Authority,
    certificates: CertificateAuthority,
    ca: String,
    /// The names of this machine, for its certificate.
    names: Vec<String>,
    spec: Spec,
    ledger: Mutex<Ledger>,
    attempts: Mutex<Attempts>,
}

/// What is to be made by `fleet up`.
pub(super) struct Plan {
    pub(super) name: String,
    pub(super) hosts: Hosts,
    /// The id of the data folder.
    pub(super) data_id: String,
}

/// Makes the folder of a new fleet: its keys, its authority of certificates, and this hive's own user.
///
/// # Errors
/// [`Code::InvalidField`]; [`Code::Io`]; [`Code::DiskFull`]
pub(super) fn make(folder: &Folder, plan: Plan) -> Result<()> {
    let Plan { name, hosts, data_id } = plan;
    let authority = Authority::new();
    let ca = CertificateAuthority::make(&name)?;
    let certificates = CertificateAuthority::of(&ca.pem, &ca.key)?;
    let user = UserKey::new();
    let own = certificates::request(&hosts.hive)?;
    let certificate = certificates.for_hive(&hosts.hive, &own.pem)?;
    let credentials = user.credentials(&authority.user(&hosts.hive, &user.public())?)?;
    let mut ledger = Ledger::default();
    ledger.users.push(User {
        hive: hosts.hive.clone(),
        folder: data_id,
        key: user.public(),
        since: Instant::now(),
        expelled_at: None,
    });
    let here = super::server::from_here(hosts.listen);
    let state = State {
        version: crate::files::versioned::VERSION,
        name,
        nats: vec![format!("tls://{here}")],
        hosts: Some(hosts),
        more: serde_json::Map::new(),
    };
    folder.make(&[
        (file::SEEDS, pretty(&authority.seeds()?)),
        (file::CA, ca.pem),
        (file::CA_KEY, ca.key),
        (file::CREDENTIALS, credentials),
        (file::CERTIFICATE, certificate),
        (file::KEY, own.key),
        (file::LEDGER, pretty(&ledger)),
        (file::STATE, pretty(&state)),
    ])
}

impl Gate {
    /// Reads what `fleet up` has made.
    ///
    /// # Errors
    /// [`Code::ConfigInvalid`] if a file is missing or damaged.
    pub(super) fn open(
        folder: Folder,
        state: State,
        hosts: Hosts,
        spec: Spec,
        hostname: &str,
    ) -> Result<Self> {
        let damaged = || {
            Failure::new(Code::ConfigInvalid, "files of the fleet are missing")
                .hint("put the folder `fleet` of the data folder back from a backup, or make the fleet anew")
        };
        let seeds: Seeds = folder.json(file::SEEDS)?.ok_or_else(damaged)?;
        let ca = folder.text(file::CA)?;
        Ok(Self {
            authority: Authority::of(&seeds)?,
            certificates: CertificateAuthority::of(&ca, &folder.text(file::CA_KEY)?)?,
            ledger: Mutex::new(folder.json(file::LEDGER)?.ok_or_else(damaged)?),
            attempts: Mutex::default(),
            names: names(&hosts.advertise, hostname),
            ca,
            spec,
            state,
            hosts,
            folder,
        })
    }

    /// Writes the server's certificate, for the names that the machine has now, and the settings of nats-server. Gives
    /// the chain of certificates and the key.
    ///
    /// # Errors
    /// [`Code::InvalidField`]; [`Code::Io`]; [`Code::DiskFull`]
    pub(super) fn prepare(&self) -> Result<WithKey> {
        let server = self.certificates.for_server(&self.names)?;
        self.folder.put(file::SERVER, &server.pem)?;
        self.folder.put(file::SERVER_KEY, &server.key)?;
        self.configure(&self.ledger.lock())?;
        Ok(WithKey { pem: format!("{}{}", server.pem, self.ca), key: server.key })
    }

    fn configure(&self, ledger: &Ledger) -> Result<()> {
        let trusted = self.authority.trusted(&self.state.name, &ledger.expelled())?;
        let name = format!("rbee-{}-{}", self.state.name, self.hosts.hive);
        self.folder.put(file::NATS, &configuration(&self.spec, &name, &self.hosts.advertise, &trusted))
    }

    /// Changes the list, on the disk first. Says also whether somebody is out by that.
    fn change<T>(&self, change: impl FnOnce(&mut Ledger) -> Result<T>) -> Result<(T, bool)> {
        let mut ledger = self.ledger.lock();
        let mut changed = ledger.clone();
        let done = change(&mut changed)?;
        self.folder.put(file::LEDGER, &pretty(&changed))?;
        let is_out = changed.expelled() != ledger.expelled();
        *ledger = changed;
        if is_out {
            self.configure(&ledger)?;
        }
        Ok((done, is_out))
    }

    /// The beginning of the codes of invitations.
    ///
    /// # Errors
    /// [`Code::ConfigInvalid`] if the authority's certificate is damaged.
    pub(super) fn code_beginning(&self) -> Result<String> {
        Ok(join_code::beginning(&certificates::fingerprint_of(&self.ca)?))
    }

    /// The addresses beyond this machine under which it can be joined, but for the advertised one, where it listens on all.
    pub(super) fn other_addresses(&self) -> Vec<String> {
        let port = self.hosts.join_listen.port();
        if !self.hosts.join_listen.ip().is_unspecified() {
            return Vec::new();
        }
        let ips = self.names.iter().filter_map(|name| name.parse::<IpAddr>().ok());
        let beyond = ips.filter(|ip| !ip.is_loopback()).map(|ip| host_and_port(&ip.to_string(), port));
        let own = host_and_port(&self.hosts.advertise, port);
        beyond.filter(|address| *address != own).collect()
    }

    /// Adds an invitation.
    ///
    /// # Errors
    /// [`Code::InvalidField`]; [`Code::Io`]; [`Code::DiskFull`]
    pub(super) fn invite(&self, sha256: SecretHash, expires_at: Instant) -> Result<()> {
        self.change(|ledger| ledger.invite(sha256, expires_at, Instant::now())).map(|((), _)| ())
    }

    /// Expels a hive. It is out once nats-server has read its settings again.
    ///
    /// # Errors
    /// [`Code::UnknownHive`]; [`Code::InvalidField`] for this hive itself; [`Code::Io`]; [`Code::DiskFull`]
    pub(super) fn expel(&self, hive: &str) -> Result<Instant> {
        let now = Instant::now();
        if hive.eq_ignore_ascii_case(&self.hosts.hive) {
            let message = format!("name: '{}' is this hive, which runs the fleet's server", self.hosts.hive);
            return Err(Failure::new(Code::InvalidField, message)
                .hint("`rbee-hive fleet leave --force` stops the fleet"));
        }
        self.change(|ledger| ledger.expel(&hive.to_ascii_lowercase(), now))?;
        Ok(now)
    }

    /// Lets a hive in that has the secret of an invitation. Says also whether somebody is out by that.
    ///
    /// # Errors
    /// [`Code::InvitationRefused`]; [`Code::HiveNameTaken`]; [`Code::InvalidField`]; [`Code::Io`];
    /// [`Code::DiskFull`]
    pub(super) fn admit(&self, request: &Request) -> Result<(Accepted, bool)> {
        self.check_attempts()?;
        let admitted = self.try_admit(request);
        if admitted.is_err() {
            let mut attempts = self.attempts.lock();
            attempts.since.get_or_insert_with(monotonic);
            attempts.failed += 1;
        }
        admitted
    }

    fn check_attempts(&self) -> Result<()> {
        let mut attempts = self.attempts.lock();
        if attempts.since.is_some_and(|since| since.elapsed() > WINDOW) {
            *attempts = Attempts::default();
        }
        if attempts.failed < MOST_FAILED {
            return Ok(());
        }
        Err(Failure::new(Code::InvitationRefused, "too many attempts to join have failed")
            .hint("wait a minute, then try again with the right code"))
    }

    fn try_admit(&self, request: &Request) -> Result<(Accepted, bool)> {
        let Request { secret, hive, folder, key, csr } = request;
        let hive = HiveName::new(hive)?.to_string();
        if hive.len() > LONGEST_HIVE || uuid::Uuid::try_parse(folder).is_err() {
            return Err(Failure::new(Code::InvalidField, "hive: the name or the folder's id is not valid")
                .hint("give that hive a shorter name with --hive-id"));
        }
        let sha256 = SecretHash::of(secret.as_bytes());
        let now = Instant::now();
        let ((jwt, certificate), is_out) = self.change(|ledger| {
            let user = User {
                hive: hive.clone(),
                folder: folder.clone(),
                key: key.clone(),
                since: now,
                expelled_at: None,
            };
            // Before anything is signed.
            ledger.admit(&sha256, user)?;
            Ok((self.authority.user(&hive, key)?, self.certificates.for_hive(&hive, csr)?))
        })?;
        let port = self.hosts.listen.port();
        tracing::info!(hive, "a hive was let into the fleet");
        Ok((
            Accepted {
                fleet: self.state.name.clone(),
                nats: vec![format!("tls://{}", host_and_port(&self.hosts.advertise, port))],
                port,
                ca: self.ca.clone(),
                jwt,
                certificate,
            },
            is_out,
        ))
    }
}

/// The names and addresses under which this machine may be reached, the advertised one first.
fn names(advertise: &str, hostname: &str) -> Vec<String> {
    let mut names = vec![advertise.to_owned(), "localhost".to_owned()];
    // A certificate has no other names.
    let is_name =
        |name: &str| !name.is_empty() && name.chars().all(|c| c.is_ascii_alphanumeric() || "-._".contains(c));
    if is_name(hostname) {
        names.push(hostname.to_owned());
        if !hostname.contains('.') {
            names.push(format!("{hostname}.local"));
        }
    }
    names.extend(["127.0.0.1".to_owned(), "::1".to_owned()]);
    names.extend(addresses().iter().map(IpAddr::to_string));
    let mut seen = std::collections::BTreeSet::new();
    names.retain(|name| seen.insert(name.clone()));
    names
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gate(dir: &std::path::Path) -> Gate {
        let folder = Folder::of(dir);
        let hosts = Hosts {
            listen: "127.0.0.1:4222".parse().unwrap(),
            join_listen: "127.0.0.1:7836".parse().unwrap(),
            advertise: "gpu-1".to_owned(),
            hive: "gpu-1".to_owned(),
            is_down: false,
        };
        make(&folder, Plan { name: "home".into(), hosts: hosts.clone(), data_id: "f".into() }).unwrap();
        let state = folder.state().unwrap().unwrap();
        let spec = Spec { folder: folder.clone(), program: None, listen: hosts.listen };
        Gate::open(folder, state, hosts, spec, "gpu-1").unwrap()
    }

    fn request(secret: &str) -> Request {
        Request {
            secret: secret.to_owned(),
            hive: "gpu-2".to_owned(),
            folder: uuid::Uuid::new_v4().to_string(),
            key: UserKey::new().public(),
            csr: certificates::request("gpu-2").unwrap().pem,
        }
    }

    #[test]
    fn who_has_the_secret_is_let_in_and_expelled_again() {
        let dir = tempfile::tempdir().unwrap();
        let gate = gate(dir.path());
        gate.prepare().unwrap();
        gate.invite(SecretHash::of(b"secret"), Instant(i64::MAX)).unwrap();
        assert_eq!(gate.other_addresses(), Vec::<String>::new(), "it listens on one alone");
        assert_eq!(gate.admit(&request("other")).unwrap_err().code, Code::InvitationRefused);
        let (accepted, is_out) = gate.admit(&request("secret")).unwrap();
        assert_eq!((accepted.nats, is_out), (vec!["tls://gpu-1:4222".to_owned()], false));
        assert_eq!(gate.expel("GPU-1").unwrap_err().code, Code::InvalidField);
        gate.expel("GPU-2").unwrap();
        assert_eq!(gate.expel("gpu-2").unwrap_err().code, Code::UnknownHive);
        // It is known after a restart, and has the hash alone.
        let text = std::fs::read_to_string(gate.folder.file(file::LEDGER)).unwrap();
        assert!(text.contains("expelled_at") && !text.contains("\"secret\""), "{text}");
    }

    #[test]
    fn what_is_asked_for_wrongly_uses_no_invitation_up_and_attempts_are_bounded() {
        let dir = tempfile::tempdir().unwrap();
        let gate = gate(dir.path());
        gate.invite(SecretHash::of(b"secret"), Instant(i64::MAX)).unwrap();
        for broken in [
            Request { key: "UAAA".into(), ..request("secret") },
            Request { csr: "nothing".into(), ..request("secret") },
            Request { hive: "all".into(), ..request("secret") },
            Request { folder: "f".into(), ..request("secret") },
            Request { hive: "gpu-1".into(), ..request("secret") },
        ] {
            assert_ne!(gate.admit(&broken).unwrap_err().code, Code::InvitationRefused);
        }
        gate.admit(&request("secret")).unwrap();
        let failure = (0..MOST_FAILED).map(|_| gate.admit(&request("guess")).unwrap_err()).last().unwrap();
        assert!(failure.message.contains("too many"), "{failure}");
    }
}
