//! `[fleet]`: the machines that this hive works with, by way of NATS.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use reqwest::Url;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::duration::PositiveDuration;
use crate::origin::without_brackets;

/// The longest name of a fleet, in bytes: it is part of the names of streams.
const LONGEST_NAME: usize = 32;

/// The fleet. Without `nats` the hive stands alone.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Fleet {
    /// The addresses of NATS servers, separated by commas: `tls://HOST:PORT`, or `nats://HOST:PORT` on loopback.
    /// Unset means no fleet.
    pub nats: Option<String>,
    /// The name of the fleet. Several can use the same servers.
    pub name: String,
    /// The file of credentials (`.creds`: a JWT and its seed) of this hive's user of NATS.
    #[schema(value_type = Option<String>)]
    pub credentials: Option<PathBuf>,
    /// The file of the seed of this hive's nkey, where NATS knows its users by nkeys.
    #[schema(value_type = Option<String>)]
    pub nkey: Option<PathBuf>,
    /// The file of the certificates, in PEM, that the servers' certificates are checked with. Unset means those of the
    /// system.
    #[schema(value_type = Option<String>)]
    pub ca: Option<PathBuf>,
    /// The program nats-server, which `fleet up` runs. Unset means the one on `PATH`.
    #[schema(value_type = Option<String>)]
    pub server: Option<PathBuf>,
    /// Where other hives reach this one directly, for the answers of models and for copies of their files:
    /// `ADDRESS:PORT`. Unset means port 7837 of all addresses, or a free port where that is taken; without a certificate
    /// it is a free port on loopback.
    #[schema(value_type = Option<String>)]
    pub listen: Option<SocketAddr>,
    /// The name or address under which they reach it there, with or without a port. Unset means the address by which
    /// this machine reaches the servers.
    pub advertise: Option<String>,
    /// The file of this hive's certificate, in PEM, for the name `HIVE.hive.rbee.internal`: other hives check it, and
    /// this one theirs, with `ca`. `fleet join` makes one.
    #[schema(value_type = Option<String>)]
    pub certificate: Option<PathBuf>,
    /// The file of the private key of that certificate, in PEM.
    #[schema(value_type = Option<String>)]
    pub key: Option<PathBuf>,
    /// How often the hive gives a sign of life. One that misses three is shown as unreachable.
    pub heartbeat: PositiveDuration,
    /// How long a hive may be silent before it counts as gone: its name is free then, and its jobs end as interrupted.
    /// Four times `heartbeat` at least.
    pub gone_after: PositiveDuration,
    /// How long the events of acts are kept for the whole fleet.
    pub keep: PositiveDuration,
}

impl Default for Fleet {
    fn default() -> Self {
        Self {
            nats: None,
            name: "home".to_owned(),
            credentials: None,
            nkey: None,
            ca: None,
            server: None,
            listen: None,
            advertise: None,
            certificate: None,
            key: None,
            heartbeat: Duration::from_secs(5).into(),
            gone_after: Duration::from_secs(300).into(),
            keep: Duration::from_secs(7 * 24 * 3600).into(),
        }
    }
}

impl Fleet {
    /// The addresses of the servers; none where the hive stands alone.
    pub fn servers(&self) -> impl Iterator<Item = &str> {
        self.nats.iter().flat_map(|nats| nats.split(',')).map(str::trim).filter(|server| !server.is_empty())
    }

    /// Whether every server is on this machine.
    pub(crate) fn is_here(&self) -> bool {
        self.servers().all(|server| Url::parse(server).is_ok_and(|url| is_loopback(&url)))
    }

    /// How long a hive may be silent before it counts as gone: never less than four signs of life, so that one is shown
    /// as unreachable before.
    pub(crate) fn longest_silence(&self) -> Duration {
        (*self.gone_after).max(self.heartbeat.saturating_mul(4))
    }

    /// The files that it names.
    pub(super) fn files_mut(&mut self) -> impl Iterator<Item = &mut PathBuf> {
        let Self { credentials, nkey, ca, server, certificate, key, .. } = self;
        [credentials, nkey, ca, server, certificate, key].into_iter().flatten()
    }

    /// Why a fleet cannot have that name, if it cannot.
    pub(crate) fn name_problem(name: &str) -> Option<String> {
        let is_plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
        let is_fine = !name.is_empty() && name.len() <= LONGEST_NAME && name.chars().all(is_plain);
        (!is_fine).then(|| format!("may be 1 to {LONGEST_NAME} of a to z, 0 to 9 and '-'"))
    }

    /// The first setting that cannot work, and what is wrong with it.
    pub(super) fn problem(&self) -> Option<(&'static str, String)> {
        if self.nats.is_some() && self.servers().next().is_none() {
            return Some(("nats", "names no server: write tls://HOST:PORT, or leave it out".to_owned()));
        }
        if let Some(problem) = self.servers().find_map(server_problem) {
            return Some(("nats", problem));
        }
        if let Some(problem) = Self::name_problem(&self.name) {
            return Some(("name", problem));
        }
        if self.credentials.is_some() && self.nkey.is_some() {
            return Some(("nkey", "and credentials are two ways to sign in: set one of them".to_owned()));
        }
        if self.certificate.is_some() != self.key.is_some() {
            return Some(("certificate", "and key belong together: set both, or none".to_owned()));
        }
        if self.certificate.is_some() && self.ca.is_none() {
            return Some(("certificate", "needs ca, with which other hives' are checked".to_owned()));
        }
        if let Some(listen) = self.listen.filter(|listen| !listen.ip().is_loopback())
            && self.nats.is_some()
            && self.certificate.is_none()
        {
            let problem =
                format!("has {listen}, which is beyond this machine: that needs certificate and key");
            return Some(("listen", problem));
        }
        self.advertise.as_deref().and_then(advertise_problem).map(|problem| ("advertise", problem))
    }
}

/// Whether the host of an address is this machine.
fn is_loopback(url: &Url) -> bool {
    let host = url.host_str().unwrap_or_default();
    let address = without_brackets(host).parse::<std::net::IpAddr>();
    host == "localhost" || address.is_ok_and(|ip| ip.is_loopback())
}

/// What is wrong with the host under which others are to reach this hive.
fn advertise_problem(advertise: &str) -> Option<String> {
    let is_address = without_brackets(advertise).parse::<std::net::IpAddr>().is_ok();
    let host = if is_address && !advertise.starts_with('[') && advertise.contains(':') {
        format!("[{advertise}]")
    } else {
        advertise.to_owned()
    };
    let url = Url::parse(&format!("https://{host}/")).ok();
    let is_plain = url.is_some_and(|url| url.has_host() && url.path() == "/" && url.username().is_empty());
    (!is_plain || advertise.contains('/'))
        .then(|| format!("has '{advertise}', which is no name or address: write HOST or HOST:PORT"))
}

/// What is wrong with the address of a server.
fn server_problem(server: &str) -> Option<String> {
    let shown = crate::secrets::without_credentials(server);
    let Some(url) = Url::parse(server).ok().filter(Url::has_host) else {
        return Some(format!("has '{shown}', which is no address: write tls://HOST:PORT"));
    };
    if !url.username().is_empty() || url.password().is_some() {
        return Some("has a user or a password in an address: give credentials or nkey".to_owned());
    }
    match url.scheme() {
        "tls" => None,
        "nats" if is_loopback(&url) => None,
        "nats" => {
            Some(format!("has '{shown}', which is beyond this machine and not encrypted: write tls://"))
        }
        other => Some(format!("has '{shown}', whose scheme '{other}' is neither tls nor nats")),
    }
}

#[cfg(test)]
mod tests {
    use crate::config::Config;

    fn problem(text: &str) -> Option<String> {
        let config: Config = toml::from_str(&format!("[fleet]\n{text}")).unwrap();
        config.validate().err().map(|failure| failure.message)
    }

    #[test]
    fn a_fleet_is_reached_encrypted_or_on_this_machine() {
        assert_eq!(problem(""), None);
        for fine in [
            "nats = \"tls://nats.example:4222\"",
            "nats = \"nats://localhost:4222, nats://127.0.0.1:4223,nats://[::1]:4224\"",
            "nats = \"tls://a:1\"\nname = \"lab-2\"\ncredentials = \"hive.creds\"",
            "nats = \"tls://a:1\"\nlisten = \"0.0.0.0:7837\"\nca = \"a\"\ncertificate = \"b\"\nkey = \"c\"",
            "nats = \"nats://localhost:1\"\nlisten = \"127.0.0.1:7837\"\nadvertise = \"gpu-1.lab:7837\"",
            "listen = \"0.0.0.0:7837\"\nadvertise = \"2001:db8::1\"",
        ] {
            assert_eq!(problem(fine), None, "{fine}");
        }
        for (wrong, told) in [
            ("nats = \"\"", "names no server"),
            ("nats = \"nats://nats.example:4222\"", "not encrypted"),
            ("nats = \"http://127.0.0.1:4222\"", "neither tls nor nats"),
            ("nats = \"127.0.0.1:4222\"", "is no address"),
            ("nats = \"tls://me:secret@a:1\"", "a user or a password"),
            ("nats = \"tls://a:1\"\nlisten = \"0.0.0.0:7837\"", "beyond this machine"),
            ("key = \"c\"", "belong together"),
            ("certificate = \"b\"\nkey = \"c\"", "needs ca"),
            ("advertise = \"http://gpu-1\"", "no name or address"),
            ("name = \"My fleet\"", "may be 1 to 32"),
            ("credentials = \"a\"\nnkey = \"b\"", "two ways to sign in"),
        ] {
            let problem = problem(wrong).expect(wrong);
            assert!(problem.starts_with("[fleet] ") && problem.contains(told), "{wrong}: {problem}");
            assert!(!problem.contains("secret"), "{problem}");
        }
    }
}
