//! How a fleet is to be made: what was asked for, and what that becomes on this machine.

use std::net::{IpAddr, SocketAddr};

use super::addresses::{addresses, host_and_port};
use super::folder::{Hosts, State};
use super::joining;
use super::names::HiveName;
use super::server::not_bound;
use crate::config;
use crate::error::{Code, Failure, Result};
use crate::origin::without_brackets;
use crate::text::excerpt;

/// How a fleet is to be made.
pub(crate) struct Wanted {
    pub(crate) name: String,
    pub(crate) listen: SocketAddr,
    pub(crate) join_listen: SocketAddr,
    pub(crate) advertise: Option<String>,
}

impl Wanted {
    /// What this machine runs for that.
    ///
    /// # Errors
    /// [`Code::InvalidField`]; [`Code::PortInUse`].
    pub(super) fn hosts(&self, hive: &HiveName, hostname: &str) -> Result<Hosts> {
        if let Some(problem) = config::Fleet::name_problem(&self.name) {
            return Err(Failure::new(
                Code::InvalidField,
                format!("name: '{}' {problem}", excerpt(&self.name)),
            )
            .hint("choose another name for the fleet"));
        }
        let hosts = Hosts {
            listen: free(self.listen, "listen")?,
            join_listen: free(self.join_listen, "join_listen")?,
            advertise: advertised(self.advertise.as_deref(), hostname)?,
            hive: hive.to_string(),
            // Until it runs: a start of the hive after an attempt that was cut off does not go on with it.
            is_down: true,
        };
        if hosts.listen.port() == hosts.join_listen.port() {
            return Err(Failure::new(Code::InvalidField, "join_listen: the port is that of listen")
                .hint("choose two ports"));
        }
        Ok(hosts)
    }

    /// What was asked for and is otherwise in a fleet that is there, in words.
    pub(super) fn differences(&self, state: &State, hosts: &Hosts) -> impl Iterator<Item = String> {
        let asked = |listen: SocketAddr, of: SocketAddr, default: u16| {
            listen != of && listen.port() != 0 && listen.port() != default
        };
        let rows = [
            ("name", self.name != state.name && self.name != "home", state.name.clone()),
            ("listen", asked(self.listen, hosts.listen, 4222), hosts.listen.to_string()),
            (
                "join_listen",
                asked(self.join_listen, hosts.join_listen, joining::PORT),
                hosts.join_listen.to_string(),
            ),
            (
                "advertise",
                self.advertise.as_ref().is_some_and(|host| !host.eq_ignore_ascii_case(&hosts.advertise)),
                hosts.advertise.clone(),
            ),
        ];
        rows.into_iter().filter(|(_, differs, _)| *differs).map(|(field, _, stays)| {
            format!(
                "{field} stays {stays}: to change it, end the fleet with `fleet leave --force --forget` and make it anew"
            )
        })
    }
}

/// An address at which nobody listens; port 0 becomes a free one, for good.
fn free(address: SocketAddr, field: &str) -> Result<SocketAddr> {
    let listener = std::net::TcpListener::bind(address).map_err(|error| not_bound(address, field, &error))?;
    listener.local_addr().map_err(|error| not_bound(address, field, &error))
}

/// The host under which others reach this machine.
fn advertised(given: Option<&str>, hostname: &str) -> Result<String> {
    let Some(given) = given else {
        let is_of_its_own = HiveName::new(hostname).is_ok();
        let first = || addresses().first().map(IpAddr::to_string);
        let found = if is_of_its_own { Some(hostname.to_ascii_lowercase()) } else { first() };
        return found.ok_or_else(|| {
            Failure::new(Code::InvalidField, "advertise: this machine has no name and no address of its own")
                .hint("give the name or address under which other machines reach it")
        });
    };
    let host = without_brackets(given);
    let url = reqwest::Url::parse(&format!("https://{}", host_and_port(host, 1)));
    let is_host = url.is_ok_and(|url| {
        url.host_str().is_some_and(|read| without_brackets(read).eq_ignore_ascii_case(host))
    });
    if is_host {
        return Ok(host.to_ascii_lowercase());
    }
    Err(Failure::new(
        Code::InvalidField,
        format!("advertise: '{}' is no name and no address", excerpt(given)),
    )
    .hint("give a name or an address without a port"))
}
