//! Sockets that listen already when the hive starts: a service manager passes them, or the hive that this one
//! takes over from.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::os::unix::net::UnixListener;
use std::path::PathBuf;

use crate::config::{Bind, Config};
use crate::error::{Code, Failure, Result};

/// Listening sockets, by what the hive serves there.
#[derive(Debug, Default)]
pub struct Sockets {
    /// The hive's own address.
    pub http: Option<TcpListener>,
    /// The address that stands in Ollama's place.
    pub ollama: Option<TcpListener>,
    /// The Unix socket.
    pub unix: Option<UnixListener>,
    /// Whether the hive is to remove the file of that socket at its end. Else whoever made the file does.
    pub owns_file: bool,
}

impl Sockets {
    /// Those at which a hive with these settings serves.
    #[must_use]
    pub fn fitting(self, config: &Config) -> Self {
        let is_at = |socket: &TcpListener, wanted: SocketAddr| {
            let port = wanted.port();
            socket.local_addr().is_ok_and(|at| at.ip() == wanted.ip() && (port == 0 || at.port() == port))
        };
        let http = match config.bind {
            Bind::Address(ip) => Some(SocketAddr::new(ip, config.port)),
            Bind::None => None,
        };
        Self {
            http: self.http.filter(|socket| http.is_some_and(|wanted| is_at(socket, wanted))),
            ollama: self
                .ollama
                .filter(|socket| config.ollama.listen.is_some_and(|wanted| is_at(socket, wanted))),
            unix: self.unix.filter(|socket| path_of(socket).ok() == config.unix_socket),
            owns_file: self.owns_file,
        }
    }

    /// These, and in the places that are empty those of `others`.
    #[must_use]
    pub fn or(self, others: Self) -> Self {
        let owns_file = if self.unix.is_some() { self.owns_file } else { others.owns_file };
        Self {
            http: self.http.or(others.http),
            ollama: self.ollama.or(others.ollama),
            unix: self.unix.or(others.unix),
            owns_file,
        }
    }

    /// The settings, with the addresses of these sockets in the place of those that they replace. So every rule about
    /// addresses holds for the real ones.
    ///
    /// # Errors
    /// [`Code::ConfigInvalid`] if the hive may not serve at such an address, or a Unix socket has no path.
    pub fn into_settings(&self, mut config: Config) -> Result<Config> {
        let unknown = |error: io::Error| {
            Failure::new(
                Code::ConfigInvalid,
                format!("a socket that was passed to the hive has no address: {error}"),
            )
            .hint("pass TCP sockets and a Unix socket with a path, which listen")
        };
        if let Some(socket) = &self.http {
            let address = socket.local_addr().map_err(unknown)?;
            (config.bind, config.port) = (Bind::Address(address.ip()), address.port());
        }
        if let Some(socket) = &self.ollama {
            config.ollama.listen = Some(socket.local_addr().map_err(unknown)?);
        }
        if let Some(socket) = &self.unix {
            let path = path_of(socket).map_err(unknown)?;
            config.unix_socket = Some(path);
        }
        config.validate()?;
        Ok(config)
    }
}

/// The path of a Unix socket.
fn path_of(socket: &UnixListener) -> io::Result<PathBuf> {
    let address = socket.local_addr()?;
    address
        .as_pathname()
        .map(PathBuf::from)
        .ok_or_else(|| io::Error::other("it has no path in the file system"))
}
