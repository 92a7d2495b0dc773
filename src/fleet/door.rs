//! Where other hives reach this one directly, over HTTP: for the answers of models and for copies of their files, which
//! NATS does not carry.
//!
//! Invariants:
//! - Beyond this machine it is mutual TLS. Each side checks that the other's certificate is of the fleet's authority and
//!   for the name of the hive that it says it is.
//! - Without certificates it is on loopback alone, and lets in who knows the secret that the bucket of hives has.
//! - Who is not a member is not let in.

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, ToSocketAddrs, UdpSocket};
use std::path::Path;
use std::sync::Arc;

use parking_lot::Mutex;
use reqwest::Url;
use rustls::client::verify_server_name;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::server::{ParsedCertificate, WebPkiClientVerifier};
use rustls::{RootCertStore, ServerConfig};
use subtle::ConstantTimeEq;
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

use super::addresses::{addresses, host_and_port};
use super::certificates::name_of;
use super::members::Members;
use super::names::HiveName;
use super::record::Secret;
use crate::config;
use crate::error::{Code, Failure, Result};
use crate::files::{self, read_private};
use crate::origin::without_brackets;
use crate::outgoing::install_tls;
use crate::text::hex;

/// The port, if nobody says otherwise and nobody has it.
const PORT: u16 = 7837;
/// The most bytes of a file with a certificate or a key.
const LARGEST: u64 = 1 << 20;

/// What this hive shows other hives, and checks theirs with.
pub(super) struct Papers {
    /// The fleet's authority, in PEM.
    pub(super) ca: String,
    /// This hive's certificate, in PEM.
    pub(super) certificate: String,
    /// Its private key, in PEM.
    pub(super) key: String,
}

/// A door that is open.
#[derive(Debug)]
pub(super) struct Door {
    /// The URL at which others knock.
    pub(super) url: String,
    /// What they need to know, where certificates do not tell who they are.
    pub(super) secret: Option<Secret>,
}

/// The socket behind the door, and who is let in.
pub(crate) struct HiveListener {
    pub(crate) tcp: TcpListener,
    pub(crate) tls: Option<TlsAcceptor>,
    pub(crate) access: Access,
}

/// Who is let in. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Access {
    secret: Option<Secret>,
    members: Arc<Mutex<Members>>,
}

impl Papers {
    /// Those of the settings; `None` where they name none.
    ///
    /// # Errors
    /// [`Code::ConfigInvalid`] if a file is missing.
    pub(super) fn of(settings: &config::Fleet) -> Result<Option<Self>> {
        let config::Fleet { ca: Some(ca), certificate: Some(certificate), key: Some(key), .. } = settings
        else {
            return Ok(None);
        };
        let missing = |what: &str, path: &Path| {
            let message = format!("{what} is not there: no file {}", path.display());
            Failure::new(Code::ConfigInvalid, message).hint("check the paths in [fleet]")
        };
        let public = |what: &str, path: &Path| {
            files::read_text(path).map_err(|error| match error.kind() {
                io::ErrorKind::NotFound => missing(what, path),
                _ => Failure {
                    code: Code::ConfigInvalid,
                    ..Failure::io(&format!("read {what}"), path, &error)
                },
            })
        };
        let what = "the key of this hive's certificate";
        Ok(Some(Self {
            ca: public("the certificate of the fleet's authority", ca)?,
            certificate: public("the certificate of this hive", certificate)?,
            key: read_private(what, key, LARGEST)?.ok_or_else(|| missing(what, key))?,
        }))
    }

    /// TLS in which both sides have to have a certificate of the authority.
    fn server(&self) -> Result<ServerConfig> {
        install_tls();
        let mut roots = RootCertStore::empty();
        for ca in CertificateDer::pem_slice_iter(self.ca.as_bytes()) {
            roots.add(ca.map_err(unusable)?).map_err(unusable)?;
        }
        let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(self.certificate.as_bytes()).collect();
        let key = PrivateKeyDer::from_pem_slice(self.key.as_bytes()).map_err(unusable)?;
        let verifier = WebPkiClientVerifier::builder(Arc::new(roots)).build().map_err(unusable)?;
        let config = ServerConfig::builder().with_client_cert_verifier(verifier);
        config.with_single_cert(chain.map_err(unusable)?, key).map_err(unusable)
    }
}

/// Opens the door.
///
/// # Errors
/// [`Code::PortInUse`]; [`Code::ConfigInvalid`] if the certificates cannot be used, or if there are none and the fleet
/// is on more than this machine.
pub(super) async fn open(
    settings: &config::Fleet,
    papers: Option<&Papers>,
    members: Arc<Mutex<Members>>,
) -> Result<(Door, HiveListener)> {
    let tls = papers.map(Papers::server).transpose()?.map(|config| TlsAcceptor::from(Arc::new(config)));
    let tcp = listen(settings, tls.is_some()).await?;
    let bound =
        tcp.local_addr().map_err(|error| Failure::internal("a socket has no address").detail(error))?;
    let secret = tls.is_none().then(|| Secret(hex(&rand::random::<[u8; 32]>())));
    let scheme = if tls.is_some() { "https" } else { "http" };
    let door = Door { url: format!("{scheme}://{}", advertised(settings, bound)), secret: secret.clone() };
    Ok((door, HiveListener { tcp, tls, access: Access { secret, members } }))
}

async fn listen(settings: &config::Fleet, is_encrypted: bool) -> Result<TcpListener> {
    let in_use = |address: SocketAddr, error: &io::Error| {
        let message =
            format!("other hives cannot reach this one directly: {address} cannot be bound: {error}");
        Failure::new(Code::PortInUse, message).hint("give another address: `listen` in [fleet]")
    };
    if let Some(address) = settings.listen {
        if !is_encrypted && !address.ip().is_loopback() {
            return Err(no_certificate());
        }
        return TcpListener::bind(address).await.map_err(|error| in_use(address, &error));
    }
    let first = match is_encrypted {
        true => SocketAddr::from((Ipv4Addr::UNSPECIFIED, PORT)),
        false if settings.is_here() => SocketAddr::from((Ipv4Addr::LOCALHOST, 0)),
        false => return Err(no_certificate()),
    };
    // Another hive of this machine may have it.
    let free = SocketAddr::new(first.ip(), 0);
    match TcpListener::bind(first).await {
        Ok(tcp) => Ok(tcp),
        Err(_) => TcpListener::bind(free).await.map_err(|error| in_use(free, &error)),
    }
}

/// The host and port under which others reach the socket.
fn advertised(settings: &config::Fleet, bound: SocketAddr) -> String {
    if let Some(advertise) = &settings.advertise {
        let has_port = |text: &str| {
            text.rsplit_once(':').is_some_and(|(host, _)| !host.contains(':') || host.ends_with(']'))
        };
        return match has_port(advertise) {
            true => advertise.clone(),
            false => host_and_port(without_brackets(advertise), bound.port()),
        };
    }
    let ip = match bound.ip().is_unspecified() {
        true => settings.servers().find_map(way_to).or_else(|| addresses().first().copied()),
        false => None,
    };
    host_and_port(&ip.unwrap_or_else(|| bound.ip()).to_string(), bound.port())
}

/// The address of this machine from which it reaches a server beyond it. Nothing is sent.
fn way_to(server: &str) -> Option<IpAddr> {
    let url = Url::parse(server).ok()?;
    let to =
        (without_brackets(url.host_str()?), url.port().unwrap_or(4222)).to_socket_addrs().ok()?.next()?;
    let any: IpAddr =
        if to.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { std::net::Ipv6Addr::UNSPECIFIED.into() };
    let socket = UdpSocket::bind((any, 0)).ok()?;
    socket.connect(to).ok()?;
    Some(socket.local_addr().ok()?.ip()).filter(|ip| !ip.is_loopback())
}

fn no_certificate() -> Failure {
    let message = "other hives cannot reach this one directly: it has no certificate for that";
    Failure::new(Code::ConfigInvalid, message).hint(
        "give certificate and key in [fleet] (docs/FLEET.md says for which name); `rbee-hive fleet join` gets them by \
         itself",
    )
}

fn unusable(error: impl std::error::Error + Send + Sync + 'static) -> Failure {
    Failure::new(Code::ConfigInvalid, format!("the certificate of this hive cannot be used: {error}"))
        .hint("check ca, certificate and key in [fleet]")
        .detail(error)
}

impl Access {
    /// The hive that asks: it says so itself, and proves it.
    ///
    /// # Errors
    /// [`Code::Unauthorized`]
    pub(crate) fn check(
        &self,
        says: Option<&str>,
        secret: Option<&str>,
        certificate: Option<&CertificateDer<'_>>,
    ) -> Result<HiveName> {
        let refused = |why: &str| {
            Failure::new(Code::Unauthorized, format!("this address is for the hives of a fleet: {why}"))
                .hint("ask this hive at the address that `rbee-hive fleet status` shows")
        };
        let hive = says.and_then(|says| HiveName::new(says).ok());
        let hive = hive.ok_or_else(|| refused("the request does not say which one asks"))?;
        let is_proven = match (&self.secret, certificate) {
            (Some(own), _) => {
                secret.is_some_and(|given| bool::from(given.as_bytes().ct_eq(own.0.as_bytes())))
            }
            (None, Some(certificate)) => is_for(certificate, &hive),
            (None, None) => false,
        };
        if !is_proven {
            return Err(refused(&format!("nothing proves that hive '{hive}' asks")));
        }
        if self.members.lock().get(&hive).is_none() {
            return Err(refused(&format!("hive '{hive}' is not in it")));
        }
        Ok(hive)
    }
}

/// Whether a certificate is for that hive. TLS has checked whose it is.
fn is_for(certificate: &CertificateDer<'_>, hive: &HiveName) -> bool {
    let Ok(name) = ServerName::try_from(name_of(hive.as_str())) else { return false };
    ParsedCertificate::try_from(certificate).is_ok_and(|parsed| verify_server_name(&parsed, &name).is_ok())
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::certificates::{CertificateAuthority, request};
    use super::super::record::HiveRecord;
    use super::*;
    use crate::time::monotonic;

    fn settings(text: &str) -> config::Fleet {
        toml::from_str(text).unwrap()
    }

    fn members(hive: &str) -> Arc<Mutex<Members>> {
        let mut members = Members::new(Duration::from_secs(5), Duration::from_secs(60));
        members.hear(&HiveName::new(hive).unwrap(), HiveRecord::default(), monotonic());
        Arc::new(Mutex::new(members))
    }

    #[tokio::test]
    async fn without_a_certificate_it_is_for_this_machine_and_asks_for_the_secret() {
        let here = settings("nats = \"nats://127.0.0.1:4222\"");
        let (door, listener) = open(&here, None, members("gpu-1")).await.unwrap();
        assert!(door.url.starts_with("http://127.0.0.1:"), "{}", door.url);
        let (secret, access) = (door.secret.unwrap().0, &listener.access);
        access.check(Some("GPU-1"), Some(&secret), None).unwrap();
        for (says, given) in [
            (None, Some(&*secret)),
            (Some("gpu-1"), None),
            (Some("gpu-1"), Some("guess")),
            (Some("gpu-2"), Some(&*secret)),
        ] {
            assert_eq!(access.check(says, given, None).unwrap_err().code, Code::Unauthorized, "{says:?}");
        }
        let far = settings("nats = \"tls://nats.example:4222\"");
        assert!(open(&far, None, members("a")).await.is_err());
    }

    #[test]
    fn a_certificate_proves_one_name() {
        let ca = CertificateAuthority::make("home").unwrap();
        let authority = CertificateAuthority::of(&ca.pem, &ca.key).unwrap();
        let pem = authority.for_hive("gpu-1", &request("gpu-1").unwrap().pem).unwrap();
        let certificate = CertificateDer::from_pem_slice(pem.as_bytes()).unwrap();
        let access = Access { secret: None, members: members("gpu-1") };
        access.check(Some("gpu-1"), None, Some(&certificate)).unwrap();
        access.check(Some("gpu-2"), None, Some(&certificate)).unwrap_err();
        access.check(Some("gpu-1"), Some("anything"), None).unwrap_err();
        let elsewhere = Access { secret: None, members: members("gpu-3") };
        elsewhere.check(Some("gpu-1"), None, Some(&certificate)).unwrap_err();
    }

    #[test]
    fn what_is_advertised_is_what_others_can_reach() {
        let bound = |text: &str| text.parse().unwrap();
        for (advertise, expected) in [
            ("gpu-1.lab", "gpu-1.lab:7837"),
            ("gpu-1.lab:80", "gpu-1.lab:80"),
            ("10.0.0.7", "10.0.0.7:7837"),
            ("2001:db8::1", "[2001:db8::1]:7837"),
            ("[2001:db8::1]:80", "[2001:db8::1]:80"),
        ] {
            let given = settings(&format!("advertise = \"{advertise}\""));
            assert_eq!(advertised(&given, bound("0.0.0.0:7837")), expected);
        }
        let here = settings("nats = \"nats://127.0.0.1:1\"");
        assert_eq!(advertised(&here, bound("127.0.0.1:5")), "127.0.0.1:5");
        assert!(!advertised(&here, bound("0.0.0.0:5")).starts_with("0.0.0.0") || addresses().is_empty());
    }
}
