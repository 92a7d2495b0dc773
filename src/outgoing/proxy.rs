//! The proxies of the environment: `HTTPS_PROXY`, `HTTP_PROXY`, `ALL_PROXY` and `NO_PROXY`, in upper or lower
//! case, with curl's rules.
//!
//! This machine itself is never asked through a proxy. What is told of a proxy never has its credentials.

use std::fmt;
use std::sync::Arc;

use hyper_util::client::proxy::matcher::Matcher;
use reqwest::Url;

use crate::origin::{Host, without_brackets};

/// The names of the variables, by what they are for.
const FOR_HTTPS: [&str; 4] = ["HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"];
const FOR_HTTP: [&str; 4] = ["HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"];
const EXCEPT: [&str; 2] = ["NO_PROXY", "no_proxy"];

/// Which proxy a server is asked through.
#[derive(Clone, Debug)]
pub(crate) struct Proxies(Arc<Matcher>);

/// A proxy, without its credentials.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ProxyServer {
    scheme: String,
    pub(crate) host: String,
    pub(crate) port: u16,
}

impl Default for Proxies {
    /// Those of the environment.
    fn default() -> Self {
        Self(Arc::new(Matcher::from_env()))
    }
}

impl Proxies {
    /// The proxy through which `url` is asked; `None` where its server is asked directly.
    pub(crate) fn of(&self, url: &Url) -> Option<ProxyServer> {
        if Host::of(url)?.is_loopback() {
            return None;
        }
        let intercept = self.0.intercept(&url.as_str().parse().ok()?)?;
        ProxyServer::of(intercept.uri())
    }
}

impl ProxyServer {
    fn of(uri: &http::Uri) -> Option<Self> {
        let scheme = uri.scheme_str()?.to_owned();
        let port = uri.port_u16().unwrap_or(match scheme.as_str() {
            "https" => 443,
            "http" => 80,
            _ => 1080,
        });
        let host = without_brackets(uri.host()?).to_owned();
        Some(Self { scheme, host, port })
    }

    /// Whether the hive's clients speak its protocol.
    pub(crate) fn is_usable(&self) -> bool {
        matches!(self.scheme.as_str(), "http" | "https")
    }
}

impl fmt::Display for ProxyServer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { scheme, host, port } = self;
        if host.contains(':') {
            write!(f, "{scheme}://[{host}]:{port}")
        } else {
            write!(f, "{scheme}://{host}:{port}")
        }
    }
}

/// What the environment says of proxies, in words; `Err` where the hive cannot do what it says.
pub(crate) fn in_words() -> Result<String, String> {
    describe(|name| std::env::var(name).ok().filter(|value| !value.is_empty()))
}

fn describe(variable: impl Fn(&'static str) -> Option<String>) -> Result<String, String> {
    let first = |names: &[&'static str]| names.iter().find_map(|name| Some((*name, variable(name)?)));
    let mut said = Vec::new();
    for (what, names) in [("https", &FOR_HTTPS), ("http", &FOR_HTTP)] {
        let Some((name, value)) = first(names) else { continue };
        let probe = http::Uri::from_static("http://proxied.invalid");
        let parsed = Matcher::builder().http(value).build().intercept(&probe);
        let proxy = parsed.and_then(|intercept| ProxyServer::of(intercept.uri()));
        match proxy {
            None => return Err(format!("{name} is not the URL of a proxy")),
            Some(proxy) if !proxy.is_usable() => {
                return Err(format!(
                    "{name} names the proxy {proxy}, whose protocol the hive does not speak"
                ));
            }
            Some(proxy) => said.push(format!("{what} goes through {proxy} ({name})")),
        }
    }
    if said.is_empty() {
        return Ok("servers are asked directly: the environment names no proxy".to_owned());
    }
    said.extend(first(&EXCEPT).map(|(name, hosts)| format!("except to {hosts} ({name})")));
    Ok(said.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn proxies(all: &str, except: &str) -> Proxies {
        Proxies(Arc::new(Matcher::builder().all(all.to_owned()).no(except.to_owned()).build()))
    }

    #[test]
    fn this_machine_and_excepted_hosts_are_asked_directly() {
        let proxies = proxies("http://me:secret@proxy.lan:3128", "internal.example, 10.0.0.0/8");
        let of = |url: &str| proxies.of(&Url::parse(url).unwrap()).map(|proxy| proxy.to_string());
        for proxied in ["https://huggingface.co/x", "http://hub.example:8080/", "https://8.8.8.8/"] {
            assert_eq!(of(proxied).as_deref(), Some("http://proxy.lan:3128"), "{proxied}");
        }
        for direct in [
            "http://127.0.0.1:7835/",
            "http://localhost:1/",
            "http://localhost./",
            "http://a.localhost/",
            "https://[::1]/",
            "http://[::ffff:127.0.0.1]:7835/",
            "https://internal.example/",
            "https://hub.internal.example/",
            "https://10.1.2.3/",
        ] {
            assert_eq!(of(direct), None, "{direct}");
        }
    }

    #[test]
    fn the_environment_is_told_without_credentials() {
        let told = |variables: &'static [(&str, &str)]| {
            describe(|name| {
                variables.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).to_owned())
            })
        };
        assert!(told(&[]).unwrap().contains("no proxy"));
        let both = told(&[("https_proxy", "http://me:secret@proxy:3128"), ("NO_PROXY", "a.example")]);
        assert_eq!(
            both.unwrap(),
            "https goes through http://proxy:3128 (https_proxy), except to a.example (NO_PROXY)"
        );
        let all = told(&[("ALL_PROXY", "proxy:8080")]).unwrap();
        assert_eq!(all.matches("http://proxy:8080 (ALL_PROXY)").count(), 2, "{all}");
        let socks = told(&[("ALL_PROXY", "socks5://me:secret@proxy")]).unwrap_err();
        assert!(socks.contains("socks5://proxy:1080") && !socks.contains("secret"), "{socks}");
        let wrong = told(&[("HTTP_PROXY", "ftp://me:secret@x")]).unwrap_err();
        assert_eq!(wrong, "HTTP_PROXY is not the URL of a proxy");
    }
}
