//! The addresses of this machine.

use std::net::{IpAddr, Ipv6Addr};

/// A host and a port as one word.
pub(super) fn host_and_port(host: &str, port: u16) -> String {
    if host.parse::<Ipv6Addr>().is_ok() { format!("[{host}]:{port}") } else { format!("{host}:{port}") }
}

/// The addresses of this machine beyond itself.
pub(super) fn addresses() -> Vec<IpAddr> {
    let networks = sysinfo::Networks::new_with_refreshed_list();
    let all = networks.values().flat_map(|network| network.ip_networks()).map(|network| network.addr);
    let is_of_link = |ip: &IpAddr| match ip {
        IpAddr::V4(ip) => ip.is_link_local(),
        IpAddr::V6(ip) => ip.is_unicast_link_local(),
    };
    let mut found: Vec<_> = all.filter(|ip| !ip.is_loopback() && !is_of_link(ip)).collect();
    // Those of IPv4 first: people type them.
    found.sort();
    found.dedup();
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_of_ipv6_has_brackets_before_a_port() {
        assert_eq!(host_and_port("fd00::1", 7), "[fd00::1]:7");
        assert_eq!(host_and_port("gpu-1", 7), "gpu-1:7");
    }
}
