//! What the hive accepts connections on: TCP, a Unix socket, or both.
//!
//! Invariants:
//! - Whoever connects through the Unix socket is the hive's own user or root. The socket's mode keeps others
//!   out from before it listens on, and the peer's user is checked as well.
//! - A socket file at which somebody listens is never replaced. The hive removes its own at the end.

use std::fmt;
use std::future::pending;
use std::io;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use rustls::pki_types::CertificateDer;
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixSocket, UnixStream};
use tokio_rustls::TlsAcceptor;
use tokio_util::either::Either;

use super::sockets::Sockets;
use crate::address::Address;
use crate::disk;
use crate::error::{Code, Failure, Result};

/// Connections that the system holds until the hive accepts them.
const BACKLOG: u32 = 1024;

/// An accepted connection.
pub(super) type Stream = Either<TcpStream, UnixStream>;

/// How a connection came in. An extension of every request.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Arrival {
    /// Over TCP.
    Tcp {
        /// The socket's own address.
        local: SocketAddr,
        /// The other end's address.
        peer: IpAddr,
        /// Whether it came to the address that stands in Ollama's place.
        is_for_ollama: bool,
    },
    /// Through the Unix socket, from a process of the hive's user or of root.
    Unix {
        /// The id of that user.
        user: u32,
    },
}

impl Arrival {
    /// Whom to count the connection for: an address, or the network of an IPv6 address, all of whose
    /// addresses one machine may have.
    pub(crate) fn peer(&self) -> Option<IpAddr> {
        let Self::Tcp { peer, .. } = self else { return None };
        Some(match peer.to_canonical() {
            IpAddr::V6(v6) if !v6.is_loopback() => {
                IpAddr::V6(Ipv6Addr::from_bits(v6.to_bits() & (u128::MAX << 64)))
            }
            other => other,
        })
    }
}

/// The certificate of the other end, where the connection is TLS. An extension of its requests.
#[derive(Clone, Debug)]
pub(crate) struct PeerCertificate(pub(crate) CertificateDer<'static>);

/// What the hive accepts connections on.
pub struct Listener {
    tcp: Option<TcpListener>,
    /// At the address that stands in Ollama's place.
    ollama: Option<TcpListener>,
    /// With its path, and with its file where the hive made that.
    unix: Option<(UnixListener, PathBuf, Option<SocketFile>)>,
    /// What makes TLS of every connection, if it is to be.
    tls: Option<TlsAcceptor>,
}

impl fmt::Debug for Listener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { tcp, ollama, unix, tls } = self;
        let mut shown = f.debug_struct("Listener");
        shown
            .field("tcp", tcp)
            .field("ollama", ollama)
            .field("unix", unix)
            .field("tls", &tls.is_some())
            .finish()
    }
}

impl From<TcpListener> for Listener {
    fn from(tcp: TcpListener) -> Self {
        Self { tcp: Some(tcp), ollama: None, unix: None, tls: None }
    }
}

impl Listener {
    /// Listens on `tcp` and, where a path is given, on a Unix socket there, for this process's user alone.
    ///
    /// # Errors
    /// [`Code::PortInUse`] if somebody listens there; [`Code::ConfigInvalid`] if something else is at that
    /// path, or no socket can be made there.
    pub async fn new(tcp: Option<TcpListener>, path: Option<&Path>) -> Result<Self> {
        let unix = match path {
            Some(path) => {
                let (socket, file) = listen(path).await?;
                Some((socket, path.to_owned(), Some(file)))
            }
            None => None,
        };
        Ok(Self { tcp, ollama: None, unix, tls: None })
    }

    /// Listens on these sockets too, which stand for its own.
    ///
    /// # Errors
    /// [`Code::Io`] if a socket cannot be used without waiting for it.
    pub fn on(self, Sockets { http, ollama, unix, owns_file }: Sockets) -> Result<Self> {
        let tcp = |socket: std::net::TcpListener| {
            socket.set_nonblocking(true)?;
            TcpListener::from_std(socket)
        };
        let unix_of = |socket: std::os::unix::net::UnixListener| {
            socket.set_nonblocking(true)?;
            let path = socket.local_addr()?.as_pathname().map(Path::to_owned).unwrap_or_default();
            let file = if owns_file { Some(SocketFile::of(path.clone())?) } else { None };
            io::Result::Ok((UnixListener::from_std(socket)?, path, file))
        };
        let on = || -> io::Result<Self> {
            Ok(Self {
                tcp: http.map(tcp).transpose()?.or(self.tcp),
                ollama: ollama.map(tcp).transpose()?.or(self.ollama),
                unix: unix.map(unix_of).transpose()?.or(self.unix),
                tls: self.tls,
            })
        };
        on().map_err(|error| {
            Failure::new(Code::Io, format!("a socket that was passed to the hive cannot be used: {error}"))
                .hint("pass sockets that listen")
        })
    }

    /// Listens on `tcp` too, in Ollama's place.
    #[must_use]
    pub fn in_place_of_ollama(self, tcp: TcpListener) -> Self {
        Self { ollama: Some(tcp), ..self }
    }

    /// Speaks TLS alone.
    #[must_use]
    pub(crate) fn with_tls(self, tls: Option<TlsAcceptor>) -> Self {
        Self { tls, ..self }
    }

    /// What makes TLS of its connections.
    pub(super) fn tls(&self) -> Option<TlsAcceptor> {
        self.tls.clone()
    }

    /// The URL of the address that stands in Ollama's place.
    #[must_use]
    pub fn ollama_url(&self) -> Option<String> {
        let address = self.ollama.as_ref()?.local_addr().ok()?;
        Some(Address::Tcp(address).url())
    }

    /// The same sockets once more, for a successor, and the file of the Unix socket, which this listener removes no
    /// more: what becomes of the file is for whoever knows how the hive ends.
    ///
    /// # Errors
    /// The process may open no more files.
    pub(crate) fn share(&mut self) -> io::Result<(Sockets, Option<SocketFile>)> {
        let again = |socket: BorrowedFd<'_>| socket.try_clone_to_owned();
        let mut sockets = Sockets {
            http: self.tcp.as_ref().map(|tcp| again(tcp.as_fd())).transpose()?.map(Into::into),
            ollama: self.ollama.as_ref().map(|tcp| again(tcp.as_fd())).transpose()?.map(Into::into),
            unix: self.unix.as_ref().map(|(unix, ..)| again(unix.as_fd())).transpose()?.map(Into::into),
            owns_file: false,
        };
        let file = self.unix.as_mut().and_then(|(.., file)| file.take());
        sockets.owns_file = file.is_some();
        Ok((sockets, file))
    }

    /// Where it listens: its TCP address, if it has one.
    ///
    /// # Errors
    /// [`Code::Internal`] if it listens nowhere.
    pub fn address(&self) -> Result<Address> {
        match (&self.tcp, &self.unix) {
            (Some(tcp), _) => tcp
                .local_addr()
                .map(Address::Tcp)
                .map_err(|error| Failure::internal("the listener has no address").detail(error)),
            (None, Some((_, path, _))) => Ok(Address::Unix(path.clone())),
            (None, None) => Err(Failure::internal("the hive listens nowhere")),
        }
    }

    /// The next connection, ready to be served.
    ///
    /// # Errors
    /// The system could not give one, or one was lost before it was accepted.
    pub(super) async fn accept(&self) -> io::Result<(Stream, Arrival)> {
        let tcp = async |listener: &Option<TcpListener>| match listener {
            Some(tcp) => tcp.accept().await,
            None => pending().await,
        };
        let unix = async {
            match &self.unix {
                Some((unix, ..)) => unix.accept().await,
                None => pending().await,
            }
        };
        tokio::select! {
            accepted = tcp(&self.tcp) => arrived(accepted?, false),
            accepted = tcp(&self.ollama) => arrived(accepted?, true),
            accepted = unix => {
                let (stream, _) = accepted?;
                let user = stream.peer_cred()?.uid();
                if !is_trusted(user) {
                    tracing::warn!(user, "refused a connection of another user to the Unix socket");
                    return Err(io::ErrorKind::ConnectionRefused.into());
                }
                Ok((Either::Right(stream), Arrival::Unix { user }))
            }
        }
    }
}

fn arrived((stream, peer): (TcpStream, SocketAddr), is_for_ollama: bool) -> io::Result<(Stream, Arrival)> {
    stream.set_nodelay(true)?;
    let arrival = Arrival::Tcp { local: stream.local_addr()?, peer: peer.ip(), is_for_ollama };
    Ok((Either::Left(stream), arrival))
}

/// Whether a user is this process's own, or root, who can do anything anyway.
pub(crate) fn is_trusted(user: u32) -> bool {
    user == rustix::process::geteuid().as_raw() || user == 0
}

/// The file of a Unix socket, removed when this is dropped.
#[derive(Debug)]
pub(crate) struct SocketFile {
    path: PathBuf,
    /// Its device and inode: another process may have put its own in the place.
    identity: (u64, u64),
}

impl SocketFile {
    /// The file that is there now.
    fn of(path: PathBuf) -> io::Result<Self> {
        let metadata = std::fs::symlink_metadata(&path)?;
        Ok(Self { path, identity: (metadata.dev(), metadata.ino()) })
    }

    /// Leaves the file where it is.
    pub(crate) fn leave(mut self) {
        self.path = PathBuf::new();
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        let found = std::fs::symlink_metadata(&self.path);
        if found.is_ok_and(|found| (found.dev(), found.ino()) == self.identity) {
            let _removed = disk::remove_file(&self.path);
        }
    }
}

/// Listens on a Unix socket at `path`, for this process's user alone: check the peers with [`is_trusted`].
///
/// # Errors
/// [`Code::PortInUse`] if somebody listens there; [`Code::ConfigInvalid`] if something else is at that path, or no
/// socket can be made there.
pub(crate) async fn listen(path: &Path) -> Result<(UnixListener, SocketFile)> {
    make_way(path).await?;
    let listen = || {
        let socket = UnixSocket::new_stream()?;
        socket.bind(path)?;
        let file = SocketFile::of(path.to_owned())?;
        // Before it listens, nobody can connect.
        disk::set_mode(path, 0o600)?;
        Ok((socket.listen(BACKLOG)?, file))
    };
    listen().map_err(|error: io::Error| {
        Failure::new(
            Code::ConfigInvalid,
            format!("could not listen on the Unix socket {}: {error}", path.display()),
        )
        .hint("--unix-socket takes a path of about 100 bytes at most, in a folder that exists and is yours")
    })
}

/// Removes the socket file that a killed process left at `path`.
async fn make_way(path: &Path) -> Result<()> {
    let in_the_way = |what: &str| {
        Failure::new(Code::ConfigInvalid, format!("{} is {what}", path.display()))
            .hint("choose another path with --unix-socket, or remove that file yourself")
    };
    match std::fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(Failure::io("look at", path, &error)),
        Ok(found) if !found.file_type().is_socket() => return Err(in_the_way("there, and not a socket")),
        Ok(found) if !is_trusted(found.uid()) => return Err(in_the_way("another user's socket")),
        Ok(_) => {}
    }
    match UnixStream::connect(path).await {
        Ok(_) => Err(Failure::new(
            Code::PortInUse,
            format!("another process listens on the Unix socket {}", path.display()),
        )
        .hint("stop that process, or choose another path with --unix-socket")),
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => disk::remove_file(path)
            .map_err(|error| Failure::io("remove the socket file that was left at", path, &error)),
        Err(error) => Err(Failure::io("connect to the socket", path, &error)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_machine_is_one_peer() {
        let peer = |ip: &str| {
            Arrival::Tcp {
                local: "127.0.0.1:1".parse().unwrap(),
                peer: ip.parse().unwrap(),
                is_for_ollama: false,
            }
            .peer()
        };
        assert_eq!(peer("2001:db8:1:2:3:4:5:6"), peer("2001:db8:1:2::1"));
        assert_ne!(peer("2001:db8:1:2::1"), peer("2001:db8:1:3::1"));
        assert_eq!(peer("::ffff:10.0.0.1"), peer("10.0.0.1"));
        assert_ne!(peer("10.0.0.1"), peer("10.0.0.2"));
        assert_eq!(Arrival::Unix { user: 0 }.peer(), None);
    }

    #[tokio::test]
    async fn a_socket_that_is_used_or_is_no_socket_is_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("hive.sock");
        let first = Listener::new(None, Some(&path)).await.unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
        assert_eq!(first.address().unwrap(), Address::Unix(path.clone()));
        let refused = Listener::new(None, Some(&path)).await.unwrap_err();
        assert_eq!(refused.code, Code::PortInUse);
        assert!(path.exists());
        drop(first);
        assert!(!path.exists(), "its own file is removed at the end");

        // What a killed process leaves.
        drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
        let next = Listener::new(None, Some(&path)).await.unwrap();
        disk::remove_file(&path).unwrap();
        std::fs::write(&path, b"mine").unwrap();
        drop(next);
        assert_eq!(std::fs::read(&path).unwrap(), b"mine", "the file of another stays");
        let refused = Listener::new(None, Some(&path)).await.unwrap_err();
        assert!(refused.message.contains("not a socket"), "{refused}");
        assert_eq!(std::fs::read(&path).unwrap(), b"mine");
        let long = dir.path().join("x".repeat(200));
        assert!(Listener::new(None, Some(&long)).await.unwrap_err().hint.unwrap().contains("100 bytes"));
    }
}
