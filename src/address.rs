//! Where a running hive serves.

use std::fmt;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

/// Where a running hive serves: over TCP, or on a Unix socket alone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Address {
    /// A TCP address. There may be a Unix socket beside it.
    Tcp(SocketAddr),
    /// The path of the only socket.
    Unix(PathBuf),
}

impl Address {
    /// The TCP address, if there is one.
    #[must_use]
    pub const fn tcp(&self) -> Option<SocketAddr> {
        match self {
            Self::Tcp(address) => Some(*address),
            Self::Unix(_) => None,
        }
    }

    /// The path, if there is no TCP address.
    #[must_use]
    pub fn path(&self) -> Option<&Path> {
        match self {
            Self::Tcp(_) => None,
            Self::Unix(path) => Some(path),
        }
    }

    /// The TCP port, or 0.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.tcp().map_or(0, |address| address.port())
    }

    /// `http://127.0.0.1:7835`, or `unix:` and the path.
    #[must_use]
    pub fn url(&self) -> String {
        match self {
            Self::Tcp(address) => format!("http://{address}"),
            Self::Unix(path) => format!("unix:{}", path.display()),
        }
    }
}

impl From<SocketAddr> for Address {
    fn from(address: SocketAddr) -> Self {
        Self::Tcp(address)
    }
}

impl From<PathBuf> for Address {
    fn from(path: PathBuf) -> Self {
        Self::Unix(path)
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => address.fmt(f),
            Self::Unix(path) => path.display().fmt(f),
        }
    }
}
