//! Why a server could not be asked: what the chain of an error says, in words that tell the ways apart.
//!
//! The types of the errors decide, never their texts.

use std::error::Error;
use std::io;

use reqwest::Url;
use rustls::CertificateError;

use super::proxy::ProxyServer;
use crate::error::{Code, Failure};

/// The next step for a certificate that nobody vouches for.
const TRUST_IT: &str = "to trust it, put the certificate of its authority into a file, and its path into \
                        SSL_CERT_FILE in the hive's environment";

/// A request that got no answer.
#[derive(Debug)]
pub(crate) struct Unreached {
    reason: Reason,
    error: reqwest::Error,
    /// `host:port` of the server.
    server: String,
    /// The proxy in between.
    proxy: Option<String>,
    is_https: bool,
}

/// Why there was no answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Reason {
    /// The resolver does not know the name.
    UnknownHost,
    /// Nothing listens on the port.
    Refused,
    /// No connection came about in time.
    TimedOut,
    /// No network leads there.
    NoRoute,
    /// The other side closed the connection.
    Closed,
    /// The certificate is not valid, as the end of a sentence about it, with the next step.
    Certificate(&'static str, &'static str),
    /// Asked over https, it did not answer in TLS.
    NotTls,
    /// There is no TLS that both sides speak, or the other side ended it.
    TlsFailed,
    /// It did not answer in HTTP.
    NotHttp,
    /// Another reason: the causes tell.
    Other,
}

impl Unreached {
    /// Why a request to `url`, through `proxy` where there is one, got no answer.
    pub(crate) fn new(error: reqwest::Error, url: &Url, proxy: Option<&ProxyServer>) -> Self {
        let error = error.without_url();
        let host = url.host_str().unwrap_or_default();
        let server =
            url.port_or_known_default().map_or_else(|| host.to_owned(), |port| format!("{host}:{port}"));
        Self {
            reason: reason(&error),
            error,
            server,
            proxy: proxy.map(ToString::to_string),
            is_https: url.scheme() == "https",
        }
    }

    /// Calls the server so, where its address is nobody's business.
    pub(crate) fn calling_it(self, server: &str) -> Self {
        Self { server: server.to_owned(), ..self }
    }

    /// Whether every further request would fail in the same way, until a person changes something.
    pub(crate) fn is_lasting(&self) -> bool {
        matches!(self.reason, Reason::Certificate(..) | Reason::NotTls | Reason::NotHttp | Reason::TlsFailed)
    }

    /// What a user is told. `otherwise` is the code of a connection that came about and broke.
    pub(crate) fn into_failure(self, otherwise: Code) -> Failure {
        let Self { reason, error, server, proxy, is_https } = self;
        // A proxy is what is connected to; everything after that is the server's own.
        let peer = proxy.as_ref().map_or_else(|| server.clone(), |proxy| format!("the proxy {proxy}"));
        let via =
            proxy.as_ref().map_or_else(String::new, |proxy| format!(", asked through the proxy {proxy},"));
        let wrong_scheme = if is_https {
            "if it serves plain http, write http:// in the address; otherwise check the port"
        } else {
            "if it serves https, write https:// in the address; otherwise check the port"
        };
        let (code, message, hint) = match reason {
            Reason::UnknownHost => (
                Code::ServerUnreachable,
                format!("the name of {peer} is not known"),
                "check the name, and this machine's network and resolver",
            ),
            Reason::Refused => (
                Code::ServerUnreachable,
                format!("{peer} refused the connection: nothing listens on that port"),
                "check the host and the port, and that the server runs",
            ),
            Reason::TimedOut => (
                Code::ServerUnreachable,
                format!("{peer} did not accept the connection in time"),
                "the host is down, or a firewall drops the connection: check both, then try again",
            ),
            Reason::NoRoute => (
                Code::ServerUnreachable,
                format!("no network of this machine leads to {peer}"),
                "check this machine's network; where a proxy is needed, set HTTPS_PROXY in the hive's environment",
            ),
            Reason::Closed if is_https => (
                otherwise,
                format!("{server}{via} closed the connection before it answered"),
                "try again; a firewall in between may be the reason",
            ),
            Reason::Closed => {
                (otherwise, format!("{server}{via} closed the connection before it answered"), wrong_scheme)
            }
            Reason::Certificate(what, hint) => {
                (Code::CertificateInvalid, format!("the certificate of {server}{via} {what}"), hint)
            }
            Reason::NotTls => {
                (Code::WrongProtocol, format!("{server}{via} does not speak https"), wrong_scheme)
            }
            Reason::TlsFailed => (
                Code::WrongProtocol,
                format!("{server}{via} and the hive could not agree on how to encrypt"),
                "the hive speaks TLS 1.2 and 1.3: check the server's settings, or ask whoever runs it",
            ),
            Reason::NotHttp => {
                (Code::WrongProtocol, format!("{server}{via} does not speak http"), wrong_scheme)
            }
            Reason::Other if proxy.is_some() => (
                Code::ServerUnreachable,
                format!("{peer} gave no connection to {server}"),
                "check the proxy that the hive's environment names, its user and its password",
            ),
            Reason::Other => (
                otherwise,
                format!("the request to {server} failed"),
                "check the address and this machine's network",
            ),
        };
        Failure::new(code, message).hint(hint).cause(&error)
    }
}

/// The reason that the outermost telling error of the chain gives.
fn reason(error: &reqwest::Error) -> Reason {
    if error.is_dns() {
        return Reason::UnknownHost;
    }
    let found = chain(error).find_map(|error| {
        if let Some(error) = error.downcast_ref::<rustls::Error>() {
            return Some(of_tls(error));
        }
        if let Some(error) = error.downcast_ref::<hyper::Error>() {
            return if error.is_parse() {
                Some(Reason::NotHttp)
            } else {
                error.is_incomplete_message().then_some(Reason::Closed)
            };
        }
        error.downcast_ref::<io::Error>().and_then(|error| of_io(error.kind()))
    });
    found.unwrap_or(if error.is_timeout() { Reason::TimedOut } else { Reason::Other })
}

/// An error and its sources. What an [`io::Error`] wraps is not its source.
fn chain<'a>(error: &'a (dyn Error + 'static)) -> impl Iterator<Item = &'a (dyn Error + 'static)> {
    let mut next = Some(error);
    std::iter::from_fn(move || {
        let error = next?;
        next = match error.downcast_ref::<io::Error>().and_then(io::Error::get_ref) {
            Some(wrapped) => Some(wrapped),
            None => error.source(),
        };
        Some(error)
    })
}

fn of_io(kind: io::ErrorKind) -> Option<Reason> {
    Some(match kind {
        io::ErrorKind::ConnectionRefused => Reason::Refused,
        io::ErrorKind::TimedOut => Reason::TimedOut,
        io::ErrorKind::HostUnreachable | io::ErrorKind::NetworkUnreachable | io::ErrorKind::NetworkDown => {
            Reason::NoRoute
        }
        io::ErrorKind::ConnectionReset
        | io::ErrorKind::ConnectionAborted
        | io::ErrorKind::BrokenPipe
        | io::ErrorKind::UnexpectedEof => Reason::Closed,
        _ => return None,
    })
}

fn of_tls(error: &rustls::Error) -> Reason {
    match error {
        rustls::Error::InvalidCertificate(error) => of_certificate(error),
        rustls::Error::InvalidMessage(_) => Reason::NotTls,
        _ => Reason::TlsFailed,
    }
}

fn of_certificate(error: &CertificateError) -> Reason {
    let (what, hint) = match error {
        CertificateError::Expired | CertificateError::ExpiredContext { .. } => {
            ("has expired", "whoever runs the server must renew it; if this machine's clock is wrong, set it")
        }
        CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
            ("is not valid yet", "check this machine's clock; otherwise ask whoever runs the server")
        }
        // A bad signature is that of another authority of the same name.
        CertificateError::UnknownIssuer | CertificateError::BadSignature => {
            ("is of no authority that this machine trusts; it may be self-signed", TRUST_IT)
        }
        // Among others: one for authorities, which a server uses as its own.
        CertificateError::Other(_) => ("is not one for a server; it may be self-signed", TRUST_IT),
        CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
            ("is for another name", "check the name in the address; otherwise ask whoever runs the server")
        }
        CertificateError::Revoked => ("was revoked", "do not use this server until it has a new one"),
        _ => ("is not valid", "ask whoever runs the server"),
    };
    Reason::Certificate(what, hint)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use rcgen::{BasicConstraints, CertificateParams, IsCa, KeyPair};
    use reqwest::dns::{Addrs, Name, Resolve, Resolving};
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;
    use tokio_rustls::TlsAcceptor;
    use tokio_rustls::rustls::ServerConfig;
    use tokio_rustls::rustls::crypto::ring;
    use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};

    use super::*;
    use crate::{outgoing, spawn};

    /// A certificate for `localhost`, and its key. It is its own authority.
    fn certificate(change: impl FnOnce(&mut CertificateParams)) -> (CertificateDer<'static>, KeyPair) {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(["localhost".to_owned()]).unwrap();
        change(&mut params);
        (params.self_signed(&key).unwrap().der().clone(), key)
    }

    /// A server with that certificate. Gives its port.
    async fn serve_tls((certificate, key): (CertificateDer<'static>, KeyPair)) -> u16 {
        let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![certificate], PrivateKeyDer::Pkcs8(key.serialize_der().into()))
            .unwrap();
        let acceptor = TlsAcceptor::from(Arc::new(config));
        serve(move |stream| {
            let acceptor = acceptor.clone();
            async move {
                let Ok(mut stream) = acceptor.accept(stream).await else { return };
                let _answered = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").await;
            }
        })
        .await
    }

    async fn serve<F>(answer: impl Fn(tokio::net::TcpStream) -> F + Send + Sync + 'static) -> u16
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        spawn::detached(async move {
            while let Ok((stream, _)) = listener.accept().await {
                spawn::detached(answer(stream));
            }
        });
        port
    }

    /// A server that reads a request's first bytes and answers with these.
    async fn serve_bytes(bytes: &'static [u8]) -> u16 {
        serve(move |mut stream| async move {
            let _read = stream.read(&mut [0; 1024]).await;
            let _written = stream.write_all(bytes).await;
            let _closed = stream.shutdown().await;
        })
        .await
    }

    /// Knows `localhost`, without the network.
    struct LocalNames;

    impl Resolve for LocalNames {
        fn resolve(&self, name: Name) -> Resolving {
            let address = std::net::SocketAddr::from(([127, 0, 0, 1], 0));
            let known = (name.as_str() == "localhost").then_some(address);
            Box::pin(async move {
                let address = known.ok_or("no such name")?;
                Ok(Box::new(std::iter::once(address)) as Addrs)
            })
        }
    }

    /// What a client that trusts `authority` tells of a request to `url`.
    async fn told(url: &str, authority: Option<&CertificateDer<'static>>) -> (Failure, bool) {
        let trusted = authority.map(|der| reqwest::Certificate::from_der(der).unwrap());
        let builder = outgoing::builder(std::time::Duration::from_secs(10), false);
        let builder = builder.dns_resolver(LocalNames);
        let client = builder.tls_certs_only(trusted).build().unwrap();
        let url = Url::parse(url).unwrap();
        let unreached = Unreached::new(client.get(url.clone()).send().await.unwrap_err(), &url, None);
        let is_lasting = unreached.is_lasting();
        (unreached.into_failure(Code::DownloadFailed), is_lasting)
    }

    #[tokio::test]
    async fn certificates_that_are_not_valid_say_why() {
        let expired = certificate(|params| params.not_after = rcgen::date_time_ymd(2020, 1, 1));
        let early = certificate(|params| params.not_before = rcgen::date_time_ymd(2999, 1, 1));
        let renamed = certificate(|params| {
            *params = CertificateParams::new(["other.example".to_owned()]).unwrap();
        });
        let authority = certificate(|params| params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained));
        for (made, is_trusted, what) in [
            (expired, true, "has expired"),
            (early, true, "is not valid yet"),
            (renamed, true, "is for another name"),
            (certificate(|_| {}), false, "is of no authority that this machine trusts"),
            (authority, false, "is not one for a server; it may be self-signed"),
        ] {
            let authority = made.0.clone();
            let port = serve_tls(made).await;
            let (failure, is_lasting) =
                told(&format!("https://localhost:{port}/"), is_trusted.then_some(&authority)).await;
            assert_eq!((failure.code, is_lasting), (Code::CertificateInvalid, true), "{failure:?}");
            let expected = format!("the certificate of localhost:{port} {what}");
            assert!(failure.message.starts_with(&expected) && failure.hint.is_some(), "{failure:?}");
        }
    }

    #[tokio::test]
    async fn servers_that_speak_another_protocol_are_told() {
        let tls = serve_tls(certificate(|_| {})).await;
        let (failure, is_lasting) = told(&format!("http://localhost:{tls}/"), None).await;
        assert_eq!((failure.code, is_lasting), (Code::WrongProtocol, true), "{failure:?}");
        assert_eq!(failure.message, format!("localhost:{tls} does not speak http"));
        assert!(failure.hint.unwrap().contains("https://"));

        let plain = serve_bytes(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n").await;
        let (failure, is_lasting) = told(&format!("https://localhost:{plain}/"), None).await;
        assert_eq!((failure.code, is_lasting), (Code::WrongProtocol, true), "{failure:?}");
        assert_eq!(failure.message, format!("localhost:{plain} does not speak https"));
        assert!(failure.hint.unwrap().contains("http://"));
    }

    #[tokio::test]
    async fn connections_that_do_not_come_about_say_how() {
        let unused = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap().port();
        let silent = serve_bytes(b"").await;
        let unreachable = Code::ServerUnreachable;
        for (url, code, what) in [
            (format!("http://127.0.0.1:{unused}/"), unreachable, "refused the connection"),
            (format!("https://127.0.0.1:{unused}/"), unreachable, "refused the connection"),
            (format!("http://127.0.0.1:{silent}/"), Code::DownloadFailed, "closed the connection"),
            (
                "http://unknown.example/".to_owned(),
                unreachable,
                "the name of unknown.example:80 is not known",
            ),
        ] {
            let (failure, is_lasting) = told(&url, None).await;
            assert_eq!((failure.code, is_lasting), (code, false), "{failure:?}");
            assert!(failure.message.contains(what) && failure.hint.is_some(), "{url}: {failure:?}");
        }
        let (failure, _) = told(&format!("http://127.0.0.1:{unused}/"), None).await;
        assert!(failure.message.starts_with(&format!("127.0.0.1:{unused} ")), "{}", failure.message);
    }

    #[test]
    fn what_an_io_error_wraps_is_looked_at() {
        let inner = rustls::Error::InvalidCertificate(CertificateError::Revoked);
        let error = io::Error::new(io::ErrorKind::InvalidData, inner);
        assert!(chain(&error).any(|error| error.is::<rustls::Error>()));
    }
}
