//! How a machine joins: one route over HTTPS, and who asks it.
//!
//! Invariants:
//! - Who joins trusts one authority alone, by the hash in the code of its invitation, and sends nothing to anybody else.
//! - Who asks takes a bounded part of the hive: so many connections, bytes and seconds.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::future::BoxFuture;
use http::{Method, Response, StatusCode};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use parking_lot::Mutex;
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::{DigitallySignedStruct, RootCertStore, ServerConfig, SignatureScheme};
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio::time::{sleep, timeout};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;

use super::certificates::{WithKey, fingerprint, fingerprint_of};
use super::gate::{Accepted, Request};
use super::join_code::JoinCode;
use super::wire::{answer, encode, reply, request};
use crate::error::{Code, Failure, Result};
use crate::{outgoing, spawn};

/// The route.
const PATH: &str = "/v1/fleet/join";
/// The port where a machine is joined, if nobody says otherwise.
pub(super) const PORT: u16 = 7836;
/// How many connections there may be at once.
const CONNECTIONS: usize = 16;
/// How long a connection may take from its beginning to its end.
const CONNECTION: Duration = Duration::from_secs(20);
/// The most bytes of a request.
const BODY: usize = 32 << 10;
/// How long connecting, and the whole exchange, may take for who joins.
const CONNECT: Duration = Duration::from_secs(10);
const EXCHANGE: Duration = Duration::from_secs(30);

/// Answers who asks to be let in.
pub(super) type Answer = Arc<dyn Fn(Request) -> BoxFuture<'static, Result<Accepted>> + Send + Sync>;

/// Serves the route until `stop` is cancelled.
///
/// # Errors
/// If the certificate cannot be used, which is a defect.
pub(super) fn serve(
    listener: TcpListener,
    certificate: &WithKey,
    answer: Answer,
    stop: CancellationToken,
) -> Result<()> {
    let acceptor = TlsAcceptor::from(Arc::new(tls(certificate)?));
    let seats = Arc::new(Semaphore::new(CONNECTIONS));
    // It belongs to the hive, not to the job that starts it.
    spawn::detached(async move {
        loop {
            let accepted = tokio::select! {
                accepted = listener.accept() => accepted,
                () = stop.cancelled() => return,
            };
            let Ok((stream, peer)) = accepted else {
                sleep(Duration::from_millis(100)).await;
                continue;
            };
            // One more is closed at once: who has an invitation tries again.
            let Ok(seat) = Arc::clone(&seats).try_acquire_owned() else { continue };
            let (acceptor, answer, stop) = (acceptor.clone(), Arc::clone(&answer), stop.clone());
            spawn::detached(async move {
                let _seat = seat;
                let connection = async {
                    let stream = acceptor.accept(stream).await.map_err(|error| error.to_string())?;
                    let service = service_fn(|request| respond(request, Arc::clone(&answer)));
                    let mut http = http1::Builder::new();
                    http.timer(TokioTimer::new()).header_read_timeout(CONNECTION).keep_alive(false);
                    let served = http.serve_connection(TokioIo::new(stream), service).await;
                    served.map_err(|error| error.to_string())
                };
                match stop.run_until_cancelled(timeout(CONNECTION, connection)).await {
                    Some(Ok(Err(error))) => tracing::debug!(%peer, error, "a connection to join the fleet"),
                    Some(Err(_)) => tracing::debug!(%peer, "a connection to join the fleet took too long"),
                    Some(Ok(Ok(()))) | None => {}
                }
            });
        }
    });
    Ok(())
}

fn tls(certificate: &WithKey) -> Result<ServerConfig> {
    let unusable = || Failure::internal("the certificate of the fleet's server cannot be used");
    outgoing::install_tls();
    let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(certificate.pem.as_bytes()).collect();
    let chain = chain.map_err(|error| unusable().detail(error))?;
    let key = PrivateKeyDer::from_pem_slice(certificate.key.as_bytes());
    let key = key.map_err(|error| unusable().detail(error))?;
    let config = ServerConfig::builder().with_no_client_auth().with_single_cert(chain, key);
    config.map_err(|error| unusable().detail(error))
}

async fn respond(
    asked: hyper::Request<Incoming>,
    answer: Answer,
) -> Result<Response<Full<Bytes>>, Infallible> {
    let plain = |status: StatusCode, body: Bytes| {
        let mut response = Response::new(Full::new(body));
        *response.status_mut() = status;
        let json = http::HeaderValue::from_static("application/json");
        response.headers_mut().insert(http::header::CONTENT_TYPE, json);
        Ok(response)
    };
    if asked.uri().path() != PATH {
        return plain(StatusCode::NOT_FOUND, Bytes::new());
    }
    if asked.method() != Method::POST {
        return plain(StatusCode::METHOD_NOT_ALLOWED, Bytes::new());
    }
    let Ok(body) = Limited::new(asked.into_body(), BODY).collect().await else {
        return plain(StatusCode::PAYLOAD_TOO_LARGE, Bytes::new());
    };
    let done = match request(&body.to_bytes()) {
        Ok(request) => answer(request).await,
        Err(failure) => Err(failure),
    };
    let status = match &done {
        Ok(_) => StatusCode::OK,
        Err(failure) => {
            tracing::warn!(code = %failure.code, "a hive was not let into the fleet: {failure}");
            StatusCode::from_u16(failure.code.http_status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR)
        }
    };
    plain(status, reply(done))
}

/// What is wrong with the certificate of who answered.
#[derive(Clone, Copy, Debug)]
enum Problem {
    /// It is not from the authority of the code.
    Stranger,
    /// It is not for the host that was asked.
    OtherHost,
}

/// Trusts the authority with that hash, and nobody else.
#[derive(Debug)]
struct Pinned {
    authority: [u8; 32],
    provider: Arc<CryptoProvider>,
    problem: Mutex<Option<Problem>>,
}

impl ServerCertVerifier for Pinned {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let refused = |problem, error| {
            *self.problem.lock() = Some(problem);
            Err(error)
        };
        let unknown = || rustls::Error::InvalidCertificate(rustls::CertificateError::UnknownIssuer);
        let Some(authority) = intermediates.iter().find(|known| fingerprint(known) == self.authority) else {
            return refused(Problem::Stranger, unknown());
        };
        let mut roots = RootCertStore::empty();
        roots.add(authority.clone().into_owned())?;
        let verifier = WebPkiServerVerifier::builder_with_provider(roots.into(), Arc::clone(&self.provider));
        let verifier = verifier.build().map_err(|_| unknown())?;
        match verifier.verify_server_cert(end_entity, &[], server_name, ocsp_response, now) {
            Err(
                error @ rustls::Error::InvalidCertificate(
                    rustls::CertificateError::NotValidForName
                    | rustls::CertificateError::NotValidForNameContext { .. },
                ),
            ) => refused(Problem::OtherHost, error),
            Err(error) => refused(Problem::Stranger, error),
            verified => verified,
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let known = &self.provider.signature_verification_algorithms;
        rustls::crypto::verify_tls12_signature(message, cert, dss, known)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let known = &self.provider.signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, cert, dss, known)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

/// A machine that can be joined: its address as a URL.
///
/// # Errors
/// [`Code::InvalidField`]
pub(super) fn url(address: &str) -> Result<reqwest::Url> {
    let invalid = || {
        let shown = crate::text::excerpt(address);
        Failure::new(Code::InvalidField, format!("address: '{shown}' is no address: write HOST:PORT"))
            .hint("copy the whole line that `rbee-hive fleet invite` prints on the machine of the fleet")
    };
    let mut url = reqwest::Url::parse(&format!("https://{}", address.trim())).map_err(|_| invalid())?;
    let is_plain = url.path() == "/" && url.query().is_none() && url.fragment().is_none();
    if !url.has_host() || !url.username().is_empty() || url.password().is_some() || !is_plain {
        return Err(invalid());
    }
    if !address.trim().trim_end_matches('/').ends_with(":443") && url.port().is_none() {
        url.set_port(Some(PORT)).map_err(|()| invalid())?;
    }
    url.set_path(PATH);
    Ok(url)
}

/// Asks the machine of an invitation to let this hive in.
///
/// # Errors
/// What it answers; [`Code::InvitationRefused`] if it is not the machine that invited; [`Code::FleetUnreachable`].
pub(super) async fn ask(url: reqwest::Url, code: &JoinCode, asks: &Request) -> Result<Accepted> {
    outgoing::install_tls();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let pinned = Arc::new(Pinned { authority: code.authority, provider, problem: Mutex::default() });
    let tls = rustls::ClientConfig::builder()
        .dangerous()
        .with_custom_certificate_verifier(Arc::clone(&pinned) as Arc<dyn ServerCertVerifier>)
        .with_no_client_auth();
    let client = outgoing::builder(CONNECT, false).tls_backend_preconfigured(tls).timeout(EXCHANGE).build();
    let client = client
        .map_err(|error| Failure::internal("could not build the client to join a fleet").detail(error))?;
    let host = shown(&url);
    let exchange = async {
        let answer = client.post(url).header(http::header::CONTENT_TYPE, "application/json");
        answer.body(encode(asks)).send().await?.bytes().await
    };
    let answered = exchange.await.map_err(|error| {
        let failure = match *pinned.problem.lock() {
            Some(Problem::Stranger) => Failure::new(
                Code::InvitationRefused,
                format!("what answers at {host} is not the machine that made this code"),
            )
            .hint("check the address and the code: copy the whole line that `rbee-hive fleet invite` prints"),
            Some(Problem::OtherHost) => Failure::new(
                Code::InvitationRefused,
                format!("the machine of the fleet is not called {host}: its certificate has other names"),
            )
            .hint(
                "use an address that `rbee-hive fleet invite` shows, or `fleet up --advertise` with this one",
            ),
            None => {
                Failure::new(Code::FleetUnreachable, format!("nobody who could be joined answers at {host}"))
                    .hint("check the address, that the hive there runs, and that no firewall is in between")
            }
        };
        failure.cause(&error.without_url())
    })?;
    let accepted: Accepted = answer(&host, &answered)?;
    if fingerprint_of(&accepted.ca).is_ok_and(|hash| hash == code.authority) {
        return Ok(accepted);
    }
    Err(Failure::new(Code::InvitationRefused, format!("{host} answered with another authority than its own"))
        .hint("make a new invitation, and check that both machines have the same version of rbee-hive"))
}

/// The host and port of a URL.
pub(super) fn shown(url: &reqwest::Url) -> String {
    format!("{}:{}", url.host_str().unwrap_or_default(), url.port_or_known_default().unwrap_or(PORT))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_a_host_and_a_port() {
        for (address, expected) in [
            ("gpu-1", "https://gpu-1:7836/v1/fleet/join"),
            ("gpu-1:9", "https://gpu-1:9/v1/fleet/join"),
            ("[::1]:9", "https://[::1]:9/v1/fleet/join"),
            ("10.0.0.7:443", "https://10.0.0.7/v1/fleet/join"),
        ] {
            assert_eq!(url(address).unwrap().as_str(), expected);
        }
        for wrong in ["", "a b", "me@gpu-1:9", "gpu-1:9/x", "gpu-1:9?x", "https://gpu-1", "gpu-1:99999"] {
            assert_eq!(url(wrong).unwrap_err().code, Code::InvalidField, "{wrong}");
        }
    }
}
