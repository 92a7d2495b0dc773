//! Who listens on a port: the hive trusts a worker's socket only where the worker's own group
//! holds it, since any user of the machine may listen on loopback.

#[cfg(target_os = "linux")]
use std::net::IpAddr;

/// Why a port is not to be trusted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Doubt {
    /// Nobody listens there.
    Nobody,
    /// A process that is not the worker's does.
    Stranger,
    /// What else is wrong.
    Other(String),
}

/// The end of a sentence about the port.
impl std::fmt::Display for Doubt {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Nobody => "has no listening socket",
            Self::Stranger => "is held by a process that is not the worker's",
            Self::Other(what) => what,
        })
    }
}

/// Checks that every socket that takes connections to `port` on loopback is held by a process of
/// the group, and that none of them listens beyond loopback.
///
/// # Errors
/// What is wrong.
#[cfg(target_os = "linux")]
pub(super) fn verify(group: u32, port: u16) -> Result<(), Doubt> {
    use std::collections::HashSet;

    use procfs::net::{TcpState, tcp, tcp6};
    use procfs::process::{FDTarget, Process};

    let unreadable =
        |error: procfs::ProcError| Doubt::Other(format!("could not be checked in /proc: {error}"));
    // A machine without IPv6 has no such table.
    let listeners: Vec<_> = tcp()
        .map_err(unreadable)?
        .into_iter()
        .chain(tcp6().unwrap_or_default())
        .filter(|entry| entry.state == TcpState::Listen && entry.local_address.port() == port)
        .collect();
    if listeners.is_empty() {
        return Err(Doubt::Nobody);
    }
    let held: HashSet<u64> = super::process::members(group)
        .into_iter()
        .filter_map(|pid| Process::new(pid.cast_signed()).ok()?.fd().ok())
        .flatten()
        .filter_map(|descriptor| match descriptor.ok()?.target {
            FDTarget::Socket(inode) => Some(inode),
            _ => None,
        })
        .collect();
    // A port may have several listeners, on different addresses of loopback: another user's
    // 127.0.0.2 is none of our business, as no connection of ours goes there.
    let mut ours = false;
    for listener in listeners {
        let address = listener.local_address.ip();
        if held.contains(&listener.inode) {
            if !address.to_canonical().is_loopback() {
                return Err(Doubt::Other(format!("listens on {address}, beyond loopback")));
            }
            ours |= takes_our_connections(address);
        } else if takes_our_connections(address) {
            return Err(Doubt::Stranger);
        }
    }
    if ours { Ok(()) } else { Err(Doubt::Other("is not held by the worker on 127.0.0.1".to_owned())) }
}

/// The process that listens on `port`, and its name, where the system lets this user see it.
#[cfg(target_os = "linux")]
#[must_use]
pub fn port_holder(port: u16) -> Option<(u32, String)> {
    use procfs::net::{TcpState, tcp, tcp6};
    use procfs::process::{FDTarget, all_processes};

    let inode = tcp()
        .ok()?
        .into_iter()
        .chain(tcp6().unwrap_or_default())
        .find(|entry| entry.state == TcpState::Listen && entry.local_address.port() == port)?
        .inode;
    all_processes().ok()?.flatten().find_map(|process| {
        let holds = process.fd().ok()?.flatten().any(|fd| fd.target == FDTarget::Socket(inode));
        holds.then(|| Some((process.pid().cast_unsigned(), process.stat().ok()?.comm)))?
    })
}

/// Elsewhere the system has no way to ask that needs no rights.
#[cfg(not(target_os = "linux"))]
#[must_use]
pub fn port_holder(_port: u16) -> Option<(u32, String)> {
    None
}

/// Whether a socket bound to `address` may get a connection to 127.0.0.1.
#[cfg(target_os = "linux")]
fn takes_our_connections(address: IpAddr) -> bool {
    let address = address.to_canonical();
    address.is_unspecified() || address == IpAddr::V4(std::net::Ipv4Addr::LOCALHOST)
}

/// Elsewhere the report is trusted: it lies in a folder that only this user can write to.
#[cfg(not(target_os = "linux"))]
pub(super) fn verify(_group: u32, port: u16) -> Result<(), Doubt> {
    match std::net::TcpListener::bind(("127.0.0.1", port)) {
        Ok(_free) => Err(Doubt::Nobody),
        Err(_taken) => Ok(()),
    }
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use std::net::TcpListener;

    use super::*;

    #[test]
    fn a_socket_of_another_group_is_told_from_ones_own() {
        let own = rustix::process::getpgrp().as_raw_pid().cast_unsigned();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        assert_eq!(verify(own, port), Ok(()));
        assert_eq!(verify(1, port), Err(Doubt::Stranger));
        drop(listener);
        assert_eq!(verify(own, port), Err(Doubt::Nobody));

        let open = TcpListener::bind("0.0.0.0:0").unwrap();
        let error = verify(own, open.local_addr().unwrap().port()).unwrap_err().to_string();
        assert!(error.contains("beyond loopback"), "{error}");
    }
}
