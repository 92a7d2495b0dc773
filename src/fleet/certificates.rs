//! The certificates of a fleet: an authority of its own, which nobody else trusts, the certificate of the machine that
//! the others reach, and one for each hive.
//!
//! Invariants:
//! - A private key never leaves the machine that made it.
//! - Of a request for a certificate nothing but the public key counts: names and uses are chosen here.
//! - The certificate of a hive is for a name below [`HIVES`], which no machine has, so that no hive can pass for the
//!   fleet's server.

use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, DistinguishedName, DnType,
    ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose, date_time_ymd,
};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use sha2::{Digest, Sha256};

use crate::error::{Code, Failure, Result};

/// What the names in the certificates of hives end in.
const HIVES: &str = ".hive.rbee.internal";
/// The last year of a certificate. Who is not to be in the fleet any more is expelled; nobody has to renew anything.
const LAST_YEAR: i32 = 2126;

/// The name that the certificate of a hive is for.
pub(super) fn name_of(hive: &str) -> String {
    format!("{hive}{HIVES}")
}

/// The hive whose certificate is for that name.
pub(super) fn hive_of_name(name: &str) -> Option<&str> {
    name.strip_suffix(HIVES)
}

/// A certificate, or a request for one, and its private key, in PEM.
pub(super) struct WithKey {
    pub(super) pem: String,
    pub(super) key: String,
}

/// The authority of a fleet.
pub(super) struct CertificateAuthority {
    issuer: Issuer<'static, KeyPair>,
}

impl CertificateAuthority {
    /// Makes the certificate of a new authority, and its key.
    ///
    /// # Errors
    /// If the system has no randomness.
    pub(super) fn make(fleet: &str) -> Result<WithKey> {
        let mut params = params(&format!("rbee fleet {fleet}"));
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let key = KeyPair::generate().map_err(unsigned)?;
        let pem = params.self_signed(&key).map_err(unsigned)?.pem();
        Ok(WithKey { pem, key: key.serialize_pem() })
    }

    /// The authority of this certificate and key.
    ///
    /// # Errors
    /// [`Code::ConfigInvalid`] if they are damaged.
    pub(super) fn of(pem: &str, key: &str) -> Result<Self> {
        let key = KeyPair::from_pem(key).map_err(damaged)?;
        Ok(Self { issuer: Issuer::from_ca_cert_pem(pem, key).map_err(damaged)? })
    }

    /// A certificate for a server that others reach under these names and addresses.
    ///
    /// # Errors
    /// [`Code::InvalidField`] if one is no name.
    pub(super) fn for_server(&self, names: &[String]) -> Result<WithKey> {
        let named = CertificateParams::new(names).map_err(|error| {
            Failure::new(Code::InvalidField, format!("advertise: a certificate cannot have it: {error}"))
                .hint("give the name or the address under which other machines reach this one")
        })?;
        let mut params = leaf(names.first().map_or("server", String::as_str));
        params.subject_alt_names = named.subject_alt_names;
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        let key = KeyPair::generate().map_err(unsigned)?;
        let pem = params.signed_by(&key, &self.issuer).map_err(unsigned)?.pem();
        Ok(WithKey { pem, key: key.serialize_pem() })
    }

    /// A certificate for a hive, whose request proves that it has the private key.
    ///
    /// # Errors
    /// [`Code::InvalidField`] if the request is not valid.
    pub(super) fn for_hive(&self, hive: &str, request: &str) -> Result<String> {
        let refused = |error: rcgen::Error| {
            Failure::new(Code::InvalidField, format!("csr: no valid request for a certificate: {error}"))
                .hint("join by `rbee-hive fleet join`, which makes one")
        };
        let request = CertificateSigningRequestParams::from_pem(request).map_err(refused)?;
        let mut params = leaf(hive);
        let named = CertificateParams::new([name_of(hive)]).map_err(refused)?;
        params.subject_alt_names = named.subject_alt_names;
        params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        Ok(params.signed_by(&request.public_key, &self.issuer).map_err(unsigned)?.pem())
    }
}

/// A request for a hive's certificate, with its new private key.
///
/// # Errors
/// If the system has no randomness.
pub(super) fn request(hive: &str) -> Result<WithKey> {
    let key = KeyPair::generate().map_err(unsigned)?;
    let mut params = CertificateParams::default();
    params.distinguished_name = called(hive);
    let pem = params.serialize_request(&key).and_then(|request| request.pem()).map_err(unsigned)?;
    Ok(WithKey { pem, key: key.serialize_pem() })
}

/// The hash by which a certificate in PEM is known: the SHA-256 of its DER.
///
/// # Errors
/// [`Code::ConfigInvalid`] if it is damaged.
pub(super) fn fingerprint_of(pem: &str) -> Result<[u8; 32]> {
    let certificate = CertificateDer::from_pem_slice(pem.as_bytes()).map_err(damaged)?;
    Ok(fingerprint(&certificate))
}

/// The hash by which a certificate is known.
pub(super) fn fingerprint(certificate: &CertificateDer<'_>) -> [u8; 32] {
    Sha256::digest(certificate).into()
}

fn called(name: &str) -> DistinguishedName {
    let mut called = DistinguishedName::new();
    // At most 64 characters (RFC 5280, upper bound of a common name). The names that count stand elsewhere.
    called.push(DnType::CommonName, name.chars().take(64).collect::<String>());
    called
}

fn params(name: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = called(name);
    // Clocks differ.
    params.not_before = date_time_ymd(2020, 1, 1);
    params.not_after = date_time_ymd(LAST_YEAR, 1, 1);
    params
}

fn leaf(name: &str) -> CertificateParams {
    let mut params = params(name);
    params.is_ca = IsCa::ExplicitNoCa;
    params.use_authority_key_identifier_extension = true;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params
}

fn unsigned(error: rcgen::Error) -> Failure {
    Failure::internal("a certificate of the fleet could not be made").detail(error)
}

fn damaged(error: impl std::error::Error + Send + Sync + 'static) -> Failure {
    Failure::new(Code::ConfigInvalid, "a certificate of the fleet is damaged")
        .hint("put the folder `fleet` of the data folder back from a backup, or make the fleet anew")
        .detail(error)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use rustls::RootCertStore;
    use rustls::client::WebPkiServerVerifier;
    use rustls::client::danger::ServerCertVerifier;
    use rustls::crypto::ring;
    use rustls::pki_types::{ServerName, UnixTime};

    use super::*;

    /// Whether a client that trusts only `ca` takes a server with this certificate for `name`.
    fn is_for(certificate: &str, ca: &str, name: &str) -> bool {
        let der = |pem: &str| CertificateDer::from_pem_slice(pem.as_bytes()).unwrap();
        let mut roots = RootCertStore::empty();
        roots.add(der(ca)).unwrap();
        let provider = Arc::new(ring::default_provider());
        let verifier = WebPkiServerVerifier::builder_with_provider(roots.into(), provider).build().unwrap();
        let name = ServerName::try_from(name.to_owned()).unwrap();
        verifier.verify_server_cert(&der(certificate), &[], &name, &[], UnixTime::now()).is_ok()
    }

    #[test]
    fn a_certificate_is_for_its_names_and_from_its_authority() {
        let (ca, other) =
            (CertificateAuthority::make("home").unwrap(), CertificateAuthority::make("home").unwrap());
        let authority = CertificateAuthority::of(&ca.pem, &ca.key).unwrap();
        let server = authority.for_server(&["gpu-1".to_owned(), "10.0.0.7".to_owned()]).unwrap();
        assert!(is_for(&server.pem, &ca.pem, "gpu-1") && is_for(&server.pem, &ca.pem, "10.0.0.7"));
        assert!(!is_for(&server.pem, &ca.pem, "gpu-2"));
        assert!(!is_for(&server.pem, &other.pem, "gpu-1"));
        assert_ne!(fingerprint_of(&ca.pem).unwrap(), fingerprint_of(&other.pem).unwrap());
        assert!(authority.for_server(&["ä".to_owned()]).is_err());
    }

    #[test]
    fn of_a_request_only_the_public_key_counts() {
        let ca = CertificateAuthority::make("home").unwrap();
        let authority = CertificateAuthority::of(&ca.pem, &ca.key).unwrap();
        // It asks for the name of the server, and to be an authority itself.
        let key = KeyPair::generate().unwrap();
        let mut greedy = CertificateParams::new(["nats.lab".to_owned()]).unwrap();
        greedy.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let asked = greedy.serialize_request(&key).unwrap().pem().unwrap();
        let given = authority.for_hive("gpu-2", &asked).unwrap();
        assert!(is_for(&given, &ca.pem, "gpu-2.hive.rbee.internal"));
        assert!(!is_for(&given, &ca.pem, "nats.lab") && !is_for(&given, &ca.pem, "gpu-2"));
        // What it signs counts for nothing.
        let own = Issuer::from_ca_cert_pem(&given, key).map(|issuer| CertificateAuthority { issuer });
        let below =
            own.and_then(|own| own.for_server(&["nats.lab".to_owned()]).map_err(|_| rcgen::Error::Time));
        assert!(below.is_err() || !is_for(&below.unwrap().pem, &ca.pem, "nats.lab"));
    }

    #[test]
    fn a_request_without_the_private_key_is_refused() {
        let ca = CertificateAuthority::make("home").unwrap();
        let authority = CertificateAuthority::of(&ca.pem, &ca.key).unwrap();
        let asked = request("gpu-2").unwrap().pem;
        authority.for_hive("gpu-2", &asked).unwrap();
        let mut der = rustls::pki_types::CertificateSigningRequestDer::from_pem_slice(asked.as_bytes())
            .unwrap()
            .to_vec();
        // The last byte is of the signature.
        *der.last_mut().unwrap() ^= 1;
        use base64::Engine;
        let body = base64::prelude::BASE64_STANDARD.encode(der);
        let forged =
            format!("-----BEGIN CERTIFICATE REQUEST-----\n{body}\n-----END CERTIFICATE REQUEST-----\n");
        assert_eq!(authority.for_hive("gpu-2", &forged).unwrap_err().code, Code::InvalidField);
    }
}
