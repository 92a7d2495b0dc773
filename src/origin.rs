//! The `Host` (RFC 9110 section 7.2) and the `Origin` (RFC 6454 section 7) of a request.
//!
//! One parser reads both, so that they compare reliably, and no other code parses them again. Invariant: a
//! host is either an address in canonical form or a name in lower case without its final dot.

use std::net::{IpAddr, Ipv6Addr};
use std::str::FromStr;

use http::uri::Authority;
use reqwest::Url;

/// A host: a name, or an address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Host {
    /// An address; an IPv4-mapped IPv6 address is its IPv4 address.
    Ip(IpAddr),
    /// A name in lower case.
    Name(String),
}

impl Host {
    /// Parses a host of a setting; a port is ignored.
    pub(crate) fn from_setting(text: &str) -> Option<Self> {
        match text.parse::<IpAddr>() {
            Ok(ip) => Some(Self::Ip(ip.to_canonical())),
            Err(_) => HostPort::parse(text).map(|parsed| parsed.host),
        }
    }

    /// The host of a URL that has one.
    pub(crate) fn of(url: &Url) -> Option<Self> {
        let host = without_brackets(url.host_str()?);
        Some(match host.parse::<IpAddr>() {
            Ok(ip) => Self::Ip(ip.to_canonical()),
            Err(_) => Self::Name(canonical_name(host)),
        })
    }

    /// Whether it always means the local machine: `localhost`, a name that ends in `.localhost` (RFC 6761
    /// section 6.3), or a loopback address.
    pub(crate) fn is_loopback(&self) -> bool {
        match self {
            Self::Ip(ip) => ip.is_loopback(),
            Self::Name(name) => name == "localhost" || name.ends_with(".localhost"),
        }
    }
}

/// A host with an optional port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct HostPort {
    /// The host.
    pub(crate) host: Host,
    /// The port, if given.
    pub(crate) port: Option<u16>,
}

impl HostPort {
    /// Parses `host`, `host:port`, `[v6]` or `[v6]:port`. Everything else is `None`.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let authority = Authority::from_str(text).ok()?;
        if authority.as_str().contains('@') {
            return None;
        }
        let (host, rest) = match authority.host().strip_prefix('[') {
            Some(v6) => {
                let v6 = v6.strip_suffix(']')?.parse::<Ipv6Addr>().ok()?;
                (Host::Ip(IpAddr::V6(v6).to_canonical()), &text[authority.host().len()..])
            }
            None => (name_or_v4(authority.host())?, &text[authority.host().len()..]),
        };
        let port = match rest.strip_prefix(':') {
            // `parse` alone accepts a sign.
            Some(port) => Some(port.parse().ok().filter(|_| !port.starts_with('+'))?),
            None if rest.is_empty() => None,
            None => return None,
        };
        Some(Self { host, port })
    }
}

/// A host of a URL without the brackets that an IPv6 address has there.
pub(crate) fn without_brackets(host: &str) -> &str {
    host.trim_start_matches('[').trim_end_matches(']')
}

fn canonical_name(text: &str) -> String {
    text.strip_suffix('.').unwrap_or(text).to_ascii_lowercase()
}

fn name_or_v4(text: &str) -> Option<Host> {
    if let Ok(ip) = text.parse::<IpAddr>() {
        return Some(Host::Ip(ip));
    }
    let name = canonical_name(text);
    let sound = name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_'))
        && !name.is_empty();
    sound.then_some(Host::Name(name))
}

/// The origin of a web page.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Origin {
    /// Of a page of a web server.
    Web {
        /// Whether its scheme is `https`, not `http`.
        https: bool,
        /// Its host.
        host: Host,
        /// Its port.
        port: u16,
    },
    /// Of a page of a program, under a scheme of its own, such as `app://obsidian.md`,
    /// `vscode-webview://…` or `chrome-extension://…`: in lower case.
    Program(String),
}

impl Origin {
    /// Parses `scheme://host[:port]`. Everything else is `None`, such as `null` and `file://`.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let (scheme, rest) = text.split_once("://")?;
        let scheme = scheme.to_ascii_lowercase();
        let https = match scheme.as_str() {
            "http" => false,
            "https" => true,
            _ => return of_program(&scheme, rest),
        };
        let HostPort { host, port } = HostPort::parse(rest)?;
        Some(Self::Web { https, host, port: port.unwrap_or(if https { 443 } else { 80 }) })
    }

    /// Whether the request goes to where a page of this origin came from. A `Host` without a port has the
    /// default port of the page's scheme, because a proxy may add TLS.
    pub(crate) fn is_of(&self, target: &HostPort) -> bool {
        let Self::Web { https, host, port } = self else { return false };
        let default = if *https { 443 } else { 80 };
        *host == target.host && *port == target.port.unwrap_or(default)
    }
}

/// An origin under another scheme (RFC 3986 section 3.1) than that of web servers.
fn of_program(scheme: &str, authority: &str) -> Option<Origin> {
    let is_scheme = scheme.starts_with(|c: char| c.is_ascii_alphabetic())
        && scheme.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'+' | b'-' | b'.'));
    let is_authority = !authority.is_empty()
        && authority.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_' | b':'));
    (is_scheme && is_authority)
        .then(|| Origin::Program(format!("{scheme}://{}", authority.to_ascii_lowercase())))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn host(text: &str) -> Option<Host> {
        HostPort::parse(text).map(|parsed| parsed.host)
    }

    #[test]
    fn loopback_is_recognised_in_every_spelling() {
        for text in [
            "localhost",
            "LocalHost:1",
            "localhost.",
            "a.localhost",
            "127.0.0.1:7835",
            "127.9.9.9",
            "[::1]:1",
        ] {
            assert!(host(text).is_some_and(|host| host.is_loopback()), "{text}");
        }
        for text in ["evil.example", "localhost.evil.example", "notlocalhost", "0.0.0.0", "10.0.0.1", "[::]"]
        {
            assert!(host(text).is_some_and(|host| !host.is_loopback()), "{text}");
        }
        assert!(host("[::ffff:127.0.0.1]").is_some_and(|host| host.is_loopback()));
        for text in ["LocalHost", "localhost.", "127.1", "[::1]", "[::FFFF:127.0.0.1]"] {
            let url = Url::parse(&format!("http://{text}:1/")).unwrap();
            assert!(Host::of(&url).is_some_and(|host| host.is_loopback()), "{text}");
        }
    }

    #[test]
    fn invalid_hosts_are_refused() {
        for text in [
            "",
            ":80",
            "user@localhost",
            "localhost:",
            "localhost:99999",
            "localhost:+1",
            "[::1",
            "[::1]x",
            "a b",
            "a/b",
            "::1",
        ] {
            assert_eq!(HostPort::parse(text), None, "{text}");
        }
    }

    #[test]
    fn an_origin_belongs_to_its_own_host_and_port_only() {
        let of =
            |origin: &str, host: &str| Origin::parse(origin).unwrap().is_of(&HostPort::parse(host).unwrap());
        assert!(of("http://localhost:7835", "localhost:7835"));
        assert!(of("http://LOCALHOST", "localhost:80"));
        assert!(of("https://hive.example", "hive.example"));
        assert!(!of("http://localhost:3000", "localhost:7835"));
        assert!(!of("http://127.0.0.1:7835", "localhost:7835"));
        assert!(!of("https://localhost", "localhost:7835"));
        for text in [
            "null",
            "",
            "file://",
            "app://",
            "app://a/b",
            "app://*",
            "://a",
            "1a://b",
            "http://a/b",
            "//a",
            "http://a:b",
        ] {
            assert_eq!(Origin::parse(text), None, "{text}");
        }
        // A program's page never is the hive's own, and only equal to itself.
        assert!(!of("app://localhost", "localhost"));
        assert_eq!(Origin::parse("APP://Obsidian.md"), Origin::parse("app://obsidian.md"));
        assert_ne!(Origin::parse("app://obsidian.md"), Origin::parse("tauri://obsidian.md"));
        assert_ne!(Origin::parse("app://obsidian.md"), Origin::parse("https://obsidian.md"));
    }

    #[test]
    fn settings_may_have_bare_v6_addresses() {
        assert_eq!(Host::from_setting("fd00::1"), host("[fd00::1]"));
        assert_eq!(Host::from_setting("Hive.Example:80"), Some(Host::Name("hive.example".into())));
    }
}
