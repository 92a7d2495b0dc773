//! Where a hive is, and the secret that it asks for.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::PathBuf;
use std::str::FromStr;

use reqwest::Url;

use super::error::Error;
use crate::error::{Code, Failure};
use crate::origin;
use crate::text::excerpt;

/// Where a hive is: the URL before the paths of its routes, or a Unix socket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Host {
    /// Over HTTP. The path of the URL is a prefix of every route's, for a hive behind a proxy.
    Url(Url),
    /// The path of a Unix socket.
    Unix(PathBuf),
}

impl Host {
    /// Whether it is this machine.
    pub(super) fn is_local(&self) -> bool {
        match self {
            Self::Url(url) => origin::Host::of(url).is_some_and(|host| host.is_loopback()),
            Self::Unix(_) => true,
        }
    }

    /// Whether it is asked over TLS.
    pub(super) fn is_secure(&self) -> bool {
        matches!(self, Self::Url(url) if url.scheme() == "https")
    }
}

impl FromStr for Host {
    type Err = Error;

    /// Reads `http://…`, `https://…`, `host:port`, `host`, `unix:/path`, or a path that has a `/`.
    fn from_str(text: &str) -> Result<Self, Error> {
        let text = text.trim();
        if let Some(path) = text.strip_prefix("unix:") {
            return Ok(Self::Unix(path.strip_prefix("//").unwrap_or(path).into()));
        }
        if text.starts_with(['/', '.']) {
            return Ok(Self::Unix(text.into()));
        }
        let url = if text.contains("://") { text.to_owned() } else { format!("http://{text}") };
        let parsed = Url::parse(&url).ok().filter(|url| {
            matches!(url.scheme(), "http" | "https") && url.has_host() && url.query().is_none()
        });
        let given_no_port = !text.contains("://") && parsed.as_ref().is_some_and(|url| url.port().is_none());
        match parsed {
            Some(mut url) => {
                // `localhost` alone means the hive's port, as it does for its other clients.
                if given_no_port && !text.ends_with(":80") {
                    let _set = url.set_port(Some(crate::config::DEFAULT_PORT));
                }
                if let Some(ip) = loopback_of(&url) {
                    let _set = url.set_ip_host(ip);
                }
                Ok(Self::Url(url))
            }
            None => Err(Error::Unreachable(
                Failure::new(
                    Code::InvalidRequest,
                    format!("'{}' is not the address of a hive", excerpt(text)),
                )
                .hint("write http://HOST:PORT, HOST:PORT or unix:/PATH"),
            )),
        }
    }
}

/// Loopback, where a URL names all addresses: a hive that listens on all of them listens there too, and no hive is called
/// by such an address.
fn loopback_of(url: &Url) -> Option<IpAddr> {
    match origin::Host::of(url)? {
        origin::Host::Ip(IpAddr::V4(ip)) if ip.is_unspecified() => Some(Ipv4Addr::LOCALHOST.into()),
        origin::Host::Ip(IpAddr::V6(ip)) if ip.is_unspecified() => Some(Ipv6Addr::LOCALHOST.into()),
        _ => None,
    }
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Url(url) => f.write_str(url.as_str().trim_end_matches('/')),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

/// The bearer token of a hive. It is shown nowhere.
#[derive(Clone)]
pub struct Token(String);

impl Token {
    /// A token: the text without the space around it.
    #[must_use]
    pub fn new(text: &str) -> Self {
        Self(text.trim().to_owned())
    }

    pub(super) fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(..)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_spelling_of_an_address_is_read() {
        for (text, shown) in [
            ("http://127.0.0.1:7835", "http://127.0.0.1:7835"),
            ("http://127.0.0.1:7835/", "http://127.0.0.1:7835"),
            ("https://a.example/hive", "https://a.example/hive"),
            ("http://a.example", "http://a.example"),
            ("localhost:1234", "http://localhost:1234"),
            ("localhost", "http://localhost:7835"),
            ("a.example:80", "http://a.example"),
            ("[::1]:7835", "http://[::1]:7835"),
            ("http://0.0.0.0:7835", "http://127.0.0.1:7835"),
            ("[::]:7835", "http://[::1]:7835"),
            ("unix:/run/hive.sock", "unix:/run/hive.sock"),
            ("unix:///run/hive.sock", "unix:/run/hive.sock"),
            ("/run/hive.sock", "unix:/run/hive.sock"),
            ("./hive.sock", "unix:./hive.sock"),
        ] {
            assert_eq!(text.parse::<Host>().unwrap().to_string(), shown, "{text}");
        }
        for wrong in ["", "ftp://a", "http://", "a b", "http://a?b=c"] {
            assert!(wrong.parse::<Host>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_token_is_not_shown() {
        assert!(!format!("{:?}", Token::new(" secret\n")).contains("secret"));
        assert_eq!(Token::new(" secret\n").expose(), "secret");
    }
}
