//! Which addresses a download may connect to.
//!
//! A URL comes from a stranger, and so does every redirect: without checks, it makes the hive ask
//! machines that only the hive can reach (SSRF). So every URL is vetted by the addresses that its host
//! resolves to, and the connection goes to these addresses, never to a second answer of the resolver.
//! Plain HTTP and private addresses need an entry in `[downloads] allow_hosts`. A hive that only this
//! machine can reach may also ask a server on this machine's loopback that the user named. An endpoint
//! of the configuration may be anywhere; where it is on loopback or a private network itself, it may
//! redirect to others there.
//!
//! Where the environment names a proxy for a URL, the proxy resolves the host, and what a name leads to
//! cannot be vetted here: that is the proxy's to decide. The schemes, and addresses that stand in the URL
//! itself, are vetted all the same. The proxy may be anywhere, for the user named it.

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use reqwest::Url;
use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use tokio::net::lookup_host;
use tokio::sync::OnceCell;
use tokio::time::timeout;

use crate::error::{Code, Failure};
use crate::models::transfer::remote::authority;
use crate::models::transfer::trouble::{FetchResult, Trouble, TroubleKind};
use crate::outgoing::{Proxies, ProxyServer};
use crate::time::in_words;

/// How long vetted addresses are used before their name is resolved again.
const FRESH: Duration = Duration::from_secs(60);

/// Vets the URLs of one download: those of the public internet over https pass, and those of the
/// servers that are named here.
#[derive(Debug, Default)]
pub(crate) struct Guard {
    /// Hosts, as `name` or `name:port`, that may be asked over any scheme at any address.
    pub(crate) allowed: Vec<String>,
    /// The server that the user named, if it may be on this machine's loopback.
    pub(crate) named: Option<(String, u16)>,
    /// The configured server that the download belongs to.
    pub(crate) endpoint: Option<(String, u16)>,
    /// The proxies of the environment.
    pub(crate) proxies: Proxies,
    /// How long the resolver may take.
    pub(crate) resolver_timeout: Duration,
    /// Where the endpoint's own addresses are, once they are resolved.
    pub(crate) reach: OnceCell<Reach>,
    /// The servers that passed, and when.
    pub(crate) passed: Mutex<HashMap<(bool, String, u16), Instant>>,
    pub(crate) vetted: Vetted,
}

/// Which addresses, besides public ones, redirects may lead to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Reach {
    loopback: bool,
    private: bool,
}

impl Reach {
    fn of(addresses: &[SocketAddr]) -> Self {
        let ips = || addresses.iter().map(|address| address.ip().to_canonical());
        Self { loopback: ips().any(|ip| ip.is_loopback()), private: ips().any(is_private) }
    }

    fn contains(self, ip: IpAddr) -> bool {
        (self.loopback && ip.is_loopback()) || (self.private && is_private(ip))
    }
}

/// The vetted addresses, by host. The HTTP client can resolve no other host.
#[derive(Clone, Debug, Default)]
pub(crate) struct Vetted(Arc<Mutex<HashMap<String, Vec<SocketAddr>>>>);

impl Resolve for Vetted {
    fn resolve(&self, name: Name) -> Resolving {
        let known = self.0.lock().get(name.as_str()).cloned();
        Box::pin(async move {
            match known {
                Some(addresses) => Ok(Box::new(addresses.into_iter()) as Addrs),
                None => Err(io::Error::other("the host was not vetted").into()),
            }
        })
    }
}

impl Guard {
    /// Vets a URL. Returns the proxy through which it is to be asked.
    ///
    /// # Errors
    /// Where its server may not be asked, or has no address.
    pub(crate) async fn vet(&self, url: &Url) -> FetchResult<Option<ProxyServer>> {
        let no_host = || refused("a URL without a host".to_owned(), "name a host");
        let (host, port) = authority(url).ok_or_else(no_host)?;
        let (scheme, is_https) = (url.scheme(), url.scheme() == "https");
        if !is_https && scheme != "http" {
            return Err(refused(format!("{host} would be asked over {scheme}"), "use an https URL"));
        }
        let proxy = self.proxies.of(url);
        let key = (is_https, host.clone(), port);
        if self.passed.lock().get(&key).is_some_and(|at| at.elapsed() < FRESH) {
            return Ok(proxy);
        }
        let is_named = host.parse::<IpAddr>().is_err();
        let reach = match &self.endpoint {
            None => Reach::default(),
            // What only the proxy can resolve has no address here.
            Some(_) if proxy.is_some() => Reach::default(),
            Some((host, port)) => {
                let addresses = || async { Ok::<_, Trouble>(Reach::of(&self.addresses(host, *port).await?)) };
                *self.reach.get_or_try_init(addresses).await?
            }
        };
        let server = Some((host.clone(), port));
        let is_allowed = self.endpoint == server || self.is_allowed(&host, port);
        // A name that another party owns and that resolves to loopback is an attack.
        let is_loopback = host == "localhost" || host.parse().is_ok_and(|ip: IpAddr| ip.is_loopback());
        let is_own = is_loopback && self.named == server;
        let plain_http = || {
            let hint = "use https; a server that you trust can be named in [downloads] allow_hosts";
            refused(format!("{host} would be asked over plain http"), hint)
        };
        // Not even resolved where no address could let it pass.
        if !is_https && !is_allowed && !is_own && reach == Reach::default() {
            return Err(plain_http());
        }
        if let Some(proxy) = &proxy {
            self.let_reach(proxy).await?;
            if is_named {
                self.passed.lock().insert(key, Instant::now());
                return Ok(Some(proxy.clone()));
            }
        }
        let addresses = self.addresses(&host, port).await?;
        let may_connect = |ip: IpAddr| {
            is_allowed || (is_own && ip.is_loopback()) || reach.contains(ip) || (is_https && is_public(ip))
        };
        let ips = addresses.iter().map(|address| address.ip().to_canonical());
        if let Some(bad) = ips.into_iter().find(|ip| !may_connect(*ip)) {
            if !is_https && is_public(bad) {
                return Err(plain_http());
            }
            tracing::warn!(%host, address = %bad, "refused to connect to an address that is not public");
            let hint = "a server on your own network can be named in [downloads] allow_hosts";
            let message = format!("{host} is on an address that is not of the public internet");
            return Err(refused(message, hint));
        }
        self.vetted.0.lock().insert(host, addresses);
        self.passed.lock().insert(key, Instant::now());
        Ok(proxy)
    }

    /// Lets the client resolve the host of a proxy.
    async fn let_reach(&self, proxy: &ProxyServer) -> FetchResult<()> {
        if !proxy.is_usable() {
            let message = format!("the hive does not speak the protocol of the proxy {proxy}");
            let hint =
                "name an http proxy in HTTPS_PROXY and HTTP_PROXY; HiveCheck shows what the environment says";
            return Err(Trouble::fatal(Failure::new(Code::WrongProtocol, message).hint(hint)));
        }
        let addresses = self.addresses(&proxy.host, proxy.port).await?;
        self.vetted.0.lock().insert(proxy.host.clone(), addresses);
        Ok(())
    }

    fn is_allowed(&self, host: &str, port: u16) -> bool {
        let bracketed = if host.contains(':') { format!("[{host}]") } else { host.to_owned() };
        self.allowed.iter().any(|allowed| {
            allowed.eq_ignore_ascii_case(host)
                || allowed.eq_ignore_ascii_case(&bracketed)
                || allowed.eq_ignore_ascii_case(&format!("{bracketed}:{port}"))
        })
    }

    async fn addresses(&self, host: &str, port: u16) -> FetchResult<Vec<SocketAddr>> {
        if let Ok(ip) = host.parse() {
            return Ok(vec![SocketAddr::new(ip, port)]);
        }
        let failed = |what: &str| {
            Failure::new(Code::ServerUnreachable, format!("the name {host} {what}"))
                .hint("check the host's name, and this machine's network and resolver")
        };
        let failure = match timeout(self.resolver_timeout, lookup_host((host, port))).await {
            Ok(Ok(mut found)) => match found.next() {
                Some(first) => return Ok(std::iter::once(first).chain(found).collect()),
                None => failed("has no address"),
            },
            Ok(Err(error)) => failed("could not be resolved").cause(&error),
            Err(_) => failed(&format!("was not resolved within {}", in_words(self.resolver_timeout))),
        };
        Err(Trouble::passing(failure))
    }
}

fn refused(message: String, hint: &str) -> Trouble {
    let message = format!("the download is not allowed: {message}");
    Trouble::new(TroubleKind::Refused, Failure::new(Code::SourceRefused, message).hint(hint))
}

/// Whether an address belongs to a private network: RFC 1918, or unique local (RFC 4193). Link-local
/// addresses do not, because cloud machines find their secrets there.
fn is_private(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => ip.is_private(),
        IpAddr::V6(ip) => ip.is_unique_local(),
    }
}

/// Whether an address belongs to the public internet, after the special-purpose registries of IANA
/// (RFC 6890). An IPv6 address that stands for an IPv4 address counts as that one.
fn is_public(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => is_public_v4(ip),
        IpAddr::V6(ip) => is_public_v6(ip),
    }
}

fn is_public_v4(ip: Ipv4Addr) -> bool {
    let [a, b, c, _] = ip.octets();
    let special = ip.is_private()
        || ip.is_loopback()
        || ip.is_link_local()
        || ip.is_multicast()
        || ip.is_documentation()
        || a == 0
        || a >= 240
        || (a == 100 && (64..128).contains(&b))
        || (a == 192 && b == 0 && c == 0)
        || (a == 192 && b == 88 && c == 99)
        || (a == 198 && (18..20).contains(&b));
    !special
}

fn is_public_v6(ip: Ipv6Addr) -> bool {
    let segments = ip.segments();
    let v4 = |high: u16, low: u16| is_public_v4(Ipv4Addr::from((u32::from(high) << 16) | u32::from(low)));
    match segments {
        // IPv4-mapped, and the well-known prefix of NAT64 (RFC 6052).
        [0, 0, 0, 0, 0, 0xffff, high, low] | [0x64, 0xff9b, 0, 0, 0, 0, high, low] => v4(high, low),
        // 6to4 (RFC 3056).
        [0x2002, high, low, ..] => v4(high, low),
        // Teredo and the other protocol assignments, ORCHID, documentation.
        [0x2001, second, ..] if second < 0x200 || second == 0xdb8 => false,
        [0x3fff, second, ..] if second < 0x1000 => false,
        // Global unicast is 2000::/3: whatever is outside it is local, multicast or reserved.
        [first, ..] => first & 0xe000 == 0x2000,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn guard(allowed: &[&str], named: Option<&str>) -> Guard {
        let named = named.and_then(|url| authority(&Url::parse(url).unwrap()));
        let allowed = allowed.iter().map(ToString::to_string).collect();
        Guard { allowed, named, resolver_timeout: Duration::from_secs(5), ..Guard::default() }
    }

    fn guard_of(endpoint: &str) -> Guard {
        let endpoint = authority(&Url::parse(endpoint).unwrap());
        Guard { endpoint, resolver_timeout: Duration::from_secs(5), ..Guard::default() }
    }

    #[test]
    fn only_addresses_of_the_public_internet_are_public() {
        for ip in ["1.1.1.1", "8.8.8.8", "2606:4700::1111", "64:ff9b::808:808", "2002:808:808::1"] {
            assert!(is_public(ip.parse().unwrap()), "{ip}");
        }
        for ip in [
            "127.0.0.1",
            "10.1.2.3",
            "172.16.0.1",
            "192.168.0.1",
            "169.254.169.254",
            "0.0.0.0",
            "100.64.0.1",
            "224.0.0.1",
            "255.255.255.255",
            "198.18.0.1",
            "192.0.0.1",
            "::1",
            "::",
            "fe80::1",
            "fd00::1",
            "fec0::1",
            "ff02::1",
            "::ffff:127.0.0.1",
            "::ffff:10.0.0.1",
            "::127.0.0.1",
            "64:ff9b::7f00:1",
            "64:ff9b:1::1",
            "2002:7f00:1::1",
            "2001::1",
            "2001:db8::1",
            "100::1",
        ] {
            assert!(!is_public(ip.parse().unwrap()), "{ip}");
        }
    }

    #[tokio::test]
    async fn private_and_plain_hosts_are_refused_in_every_spelling() {
        for url in [
            "https://127.0.0.1/x",
            "https://0x7f.1/x",
            "https://2130706433/x",
            "https://0.0.0.0/x",
            "https://[::]/x",
            "https://[::1]/x",
            "https://[::ffff:127.0.0.1]/x",
            "https://169.254.169.254/x",
            "https://localhost/x",
            "https://localhost./x",
            "http://8.8.8.8/x",
            "http://example.com/x",
            "http://127.0.0.1/x",
            "ftp://8.8.8.8/x",
            "file:///etc/passwd",
        ] {
            let failure = guard(&[], None).vet(&Url::parse(url).unwrap()).await.unwrap_err().failure;
            // Some resolvers do not know a name that ends in a dot.
            assert!(
                matches!(failure.code, Code::SourceRefused | Code::ServerUnreachable),
                "{url}: {failure}"
            );
        }
    }

    #[tokio::test]
    async fn the_named_server_and_allowed_hosts_pass() {
        let local = Url::parse("http://127.0.0.1:81/x").unwrap();
        guard(&[], Some("http://127.0.0.1:81/x")).vet(&local).await.unwrap();
        guard(&["127.0.0.1:81"], None).vet(&local).await.unwrap();
        guard(&["127.0.0.1"], None).vet(&local).await.unwrap();
        guard(&[], Some("http://127.0.0.1:82/x")).vet(&local).await.unwrap_err();
        guard(&["127.0.0.1:82"], None).vet(&local).await.unwrap_err();
        let private = "http://10.0.0.1/x";
        guard(&[], Some(private)).vet(&Url::parse(private).unwrap()).await.unwrap_err();
        guard(&["[::1]:81"], None).vet(&Url::parse("http://[::1]:81/x").unwrap()).await.unwrap();
    }

    #[tokio::test]
    async fn an_endpoint_redirects_within_its_own_reach() {
        let vet = async |endpoint: &str, url: &str| guard_of(endpoint).vet(&Url::parse(url).unwrap()).await;
        vet("http://127.0.0.1:81/", "http://127.0.0.1:81/x").await.unwrap();
        vet("http://127.0.0.1:81/", "http://127.0.0.1:82/x").await.unwrap();
        vet("http://10.0.0.1/", "http://10.0.0.2/x").await.unwrap();
        vet("http://127.0.0.1:81/", "http://10.0.0.2/x").await.unwrap_err();
        vet("http://10.0.0.1/", "http://127.0.0.1/x").await.unwrap_err();
        vet("http://10.0.0.1/", "http://169.254.169.254/x").await.unwrap_err();
        vet("https://1.1.1.1/", "https://127.0.0.1/x").await.unwrap_err();
        vet("https://1.1.1.1/", "http://1.1.1.2/x").await.unwrap_err();
        vet("https://1.1.1.1/", "https://8.8.8.8/x").await.unwrap();
    }
}
