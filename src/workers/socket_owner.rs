//! Which process listens on a port. The hive trusts a worker's socket only where a process of the
//! worker's own group holds it, because any user of the machine can listen on loopback.

#[cfg(target_os = "linux")]
use std::io::{self, BufRead, BufReader};
#[cfg(target_os = "linux")]
use std::net::IpAddr;

#[cfg(target_os = "linux")]
use procfs::net::{TcpNetEntries, TcpNetEntry};
#[cfg(target_os = "linux")]
use procfs::{FromBufReadSI, current_system_info};

#[cfg(target_os = "linux")]
use crate::files;

/// Why a port is not trusted as a worker's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum UntrustedPort {
    /// No process listens on it.
    NoListener,
    /// A process outside the worker's group listens on it.
    #[cfg_attr(
        not(target_os = "linux"),
        expect(dead_code, reason = "only Linux tells which process listens")
    )]
    OtherProcess,
    /// Another reason, as the end of a sentence about the port.
    Other(String),
}

/// The end of a sentence about the port.
impl std::fmt::Display for UntrustedPort {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::NoListener => "has no listening socket",
            Self::OtherProcess => "is held by a process that is not the worker's",
            Self::Other(reason) => reason,
        })
    }
}

/// Checks that a process of the group holds every socket that accepts connections to `port` on
/// 127.0.0.1, and that none of them listens beyond loopback.
///
/// # Errors
/// The first reason not to trust the port.
#[cfg(target_os = "linux")]
pub(super) fn verify(group: u32, port: u16) -> Result<(), UntrustedPort> {
    use std::collections::HashSet;

    use procfs::process::{FDTarget, Process};

    let listeners = listeners(port)
        .map_err(|error| UntrustedPort::Other(format!("could not be checked in /proc: {error}")))?;
    if listeners.is_empty() {
        return Err(UntrustedPort::NoListener);
    }
    let held: HashSet<u64> = super::process_group::members(group)
        .into_iter()
        .filter_map(|pid| Process::new(pid.cast_signed()).ok()?.fd().ok())
        .flatten()
        .filter_map(|descriptor| match descriptor.ok()?.target {
            FDTarget::Socket(inode) => Some(inode),
            _ => None,
        })
        .collect();
    // A port may have several listeners, on different loopback addresses. Another user's listener on
    // 127.0.0.2 does not matter, because the hive never connects to it.
    let mut ours = false;
    for listener in listeners {
        let address = listener.local_address.ip();
        if held.contains(&listener.inode) {
            if !address.to_canonical().is_loopback() {
                return Err(UntrustedPort::Other(format!("listens on {address}, beyond loopback")));
            }
            ours |= accepts_our_connections(address);
        } else if accepts_our_connections(address) {
            return Err(UntrustedPort::OtherProcess);
        }
    }
    if ours { Ok(()) } else { Err(UntrustedPort::Other("is not held by the worker on 127.0.0.1".to_owned())) }
}

/// The sockets that listen on `port`.
///
/// A busy machine has tens of thousands of connections, and Linux takes milliseconds to list them. It
/// lists listening sockets first (`tcp_seq_start` in its `net/ipv4/tcp_ipv4.c`), so the rest is read
/// only where the port is not among them.
#[cfg(target_os = "linux")]
fn listeners(port: u16) -> procfs::ProcResult<Vec<TcpNetEntry>> {
    let first = read_listeners(port, false)?;
    if first.is_empty() { read_listeners(port, true) } else { Ok(first) }
}

/// The sockets that listen on `port`. Unless `whole_table` is set, the first socket that does not
/// listen ends each table.
#[cfg(target_os = "linux")]
fn read_listeners(port: u16, whole_table: bool) -> procfs::ProcResult<Vec<TcpNetEntry>> {
    let port = format!(":{port:04X}");
    let mut found = Vec::new();
    for path in ["/proc/net/tcp", "/proc/net/tcp6"] {
        let table = match files::open(path.as_ref()) {
            // A machine without IPv6 has no such table.
            Err(error) if error.kind() == io::ErrorKind::NotFound && path.ends_with('6') => continue,
            table => table?,
        };
        let mut lines = BufReader::new(table).lines();
        let mut text = lines.next().transpose()?.unwrap_or_default();
        for line in lines {
            let line = line?;
            // proc_pid_net(5): number, local address, remote address, state.
            let mut fields = line.split_ascii_whitespace().skip(1);
            let is_of_port = fields.next().is_some_and(|address| address.ends_with(&port));
            let is_listening = fields.nth(1) == Some("0A");
            if is_listening && is_of_port {
                text = format!("{text}\n{line}");
            } else if !is_listening && !whole_table {
                break;
            }
        }
        found.extend(TcpNetEntries::from_buf_read(text.as_bytes(), current_system_info())?.0);
    }
    Ok(found)
}

/// The process that listens on `port`, and its name, where the system lets this user see it.
#[cfg(target_os = "linux")]
#[must_use]
pub fn port_holder(port: u16) -> Option<(u32, String)> {
    use procfs::process::{FDTarget, all_processes};

    let inode = listeners(port).ok()?.first()?.inode;
    all_processes().ok()?.flatten().find_map(|process| {
        let holds = process.fd().ok()?.flatten().any(|fd| fd.target == FDTarget::Socket(inode));
        holds.then(|| Some((process.pid().cast_unsigned(), process.stat().ok()?.comm)))?
    })
}

/// Other systems tell that only to privileged users.
#[cfg(not(target_os = "linux"))]
#[must_use]
pub fn port_holder(_port: u16) -> Option<(u32, String)> {
    None
}

/// The process that listens on `port`, for people.
pub(crate) fn port_holder_in_words(port: u16) -> String {
    match port_holder(port) {
        Some((pid, name)) => format!("process {pid} ({name})"),
        None => "another process".to_owned(),
    }
}

/// Whether a socket bound to `address` may get a connection to 127.0.0.1.
#[cfg(target_os = "linux")]
fn accepts_our_connections(address: IpAddr) -> bool {
    let address = address.to_canonical();
    address.is_unspecified() || address == IpAddr::V4(std::net::Ipv4Addr::LOCALHOST)
}

/// On other systems the worker's report is trusted: only this user can write to its folder.
#[cfg(not(target_os = "linux"))]
pub(super) fn verify(_group: u32, port: u16) -> Result<(), UntrustedPort> {
    match std::net::TcpListener::bind(("127.0.0.1", port)) {
        Ok(_free) => Err(UntrustedPort::NoListener),
        Err(_taken) => Ok(()),
    }
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use std::net::{TcpListener, TcpStream};

    use super::*;

    #[test]
    fn only_a_loopback_socket_of_the_group_is_trusted() {
        let own = rustix::process::getpgrp().as_raw_pid().cast_unsigned();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        assert_eq!(verify(own, port), Ok(()));
        assert_eq!(verify(1, port), Err(UntrustedPort::OtherProcess));
        drop(listener);
        assert_eq!(verify(own, port), Err(UntrustedPort::NoListener));

        assert_eq!(read_listeners(port, true).unwrap().len(), 0);
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let connection = TcpStream::connect(("127.0.0.1", port)).unwrap();
        let (first, all) = (read_listeners(port, false).unwrap(), read_listeners(port, true).unwrap());
        assert_eq!((first.len(), first[0].inode), (1, all[0].inode), "a connection to it does not listen");
        assert_eq!(verify(own, port), Ok(()));
        drop(connection);

        // Where there is IPv6.
        if let Ok(listener) = TcpListener::bind("[::1]:0") {
            assert_eq!(read_listeners(listener.local_addr().unwrap().port(), false).unwrap().len(), 1);
        }

        let open = TcpListener::bind("0.0.0.0:0").unwrap();
        let error = verify(own, open.local_addr().unwrap().port()).unwrap_err().to_string();
        assert!(error.contains("beyond loopback"), "{error}");
    }
}
