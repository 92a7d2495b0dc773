//! A hive that runs, and waits for a successor that takes over from it.
//!
//! It waits at a Unix socket in its data folder, for processes of its own user. To each that connects it gives its
//! listening sockets, which changes nothing: it goes on until one of them says that it takes over.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;
use std::time::Duration;

use tokio::net::{UnixListener, UnixStream};
use tokio::time::{sleep, timeout};

use super::wire::{Channel, FromHive, FromSuccessor, Kind, SOCKET, VERSION};
use crate::http::{self, Listener, SocketFile, Sockets};

/// How long a successor may take to say that it takes over.
const PATIENCE: Duration = Duration::from_secs(30);
/// The pause after a connection that could not be accepted.
const PAUSE: Duration = Duration::from_millis(100);

/// What a successor gets.
#[derive(Debug, Default)]
pub(super) struct Offer {
    /// Where it asks; unset where no such socket could be made.
    door: Option<(UnixListener, SocketFile)>,
    /// The listening sockets.
    sockets: Sockets,
    /// The file of the Unix socket among them.
    file: Option<SocketFile>,
}

/// A successor that takes over.
#[derive(Debug)]
pub(super) struct Taker {
    pub(super) channel: Channel,
    /// Whether it goes on with the Unix socket.
    pub(super) keeps_unix: bool,
}

impl Offer {
    /// Offers what `listener` listens on. A hive that cannot do that serves all the same, and says why.
    pub(super) async fn make(data_dir: &Path, listener: &mut Listener) -> Self {
        let shared = listener.share().unwrap_or_else(|error| {
            tracing::warn!(%error, "another hive cannot take this one's sockets over");
            (Sockets::default(), None)
        });
        let door = http::listen(&data_dir.join(SOCKET)).await;
        if let Err(failure) = &door {
            tracing::warn!("another hive cannot take over from this one: {failure}");
        }
        let (sockets, file) = shared;
        Self { door: door.ok(), sockets, file }
    }

    /// Waits for a successor that takes over.
    pub(super) async fn taken(&self) -> Taker {
        let Some((door, _)) = &self.door else { return std::future::pending().await };
        loop {
            match door.accept().await {
                Ok((stream, _)) => match timeout(PATIENCE, self.offer_to(stream)).await {
                    Ok(Ok(taker)) => return taker,
                    Ok(Err(error)) => tracing::info!(%error, "a process that could take over did not"),
                    Err(_) => tracing::info!("a process that could take over said nothing"),
                },
                Err(error) => {
                    tracing::warn!(%error, "could not accept a successor");
                    sleep(PAUSE).await;
                }
            }
        }
    }

    async fn offer_to(&self, stream: UnixStream) -> io::Result<Taker> {
        if !http::is_trusted(stream.peer_cred()?.uid()) {
            return Err(io::Error::new(io::ErrorKind::PermissionDenied, "it is another user's"));
        }
        let sockets = &self.sockets;
        let all: [(Kind, Option<BorrowedFd<'_>>); 3] = [
            (Kind::Http, sockets.http.as_ref().map(AsFd::as_fd)),
            (Kind::Ollama, sockets.ollama.as_ref().map(AsFd::as_fd)),
            (Kind::Unix, sockets.unix.as_ref().map(AsFd::as_fd)),
        ];
        let (kinds, descriptors): (Vec<_>, Vec<_>) =
            all.into_iter().filter_map(|(kind, socket)| Some((kind, socket?))).unzip();
        let mut channel = Channel::new(stream);
        let pid = std::process::id();
        let offer = FromHive::Offer { version: VERSION, pid, sockets: kinds, owns_file: sockets.owns_file };
        channel.send(&offer, &descriptors).await?;
        match channel.receive().await? {
            (FromSuccessor::Take { keeps_unix }, _) => Ok(Taker { channel, keeps_unix }),
            (other @ FromSuccessor::Serving, _) => {
                Err(io::Error::new(io::ErrorKind::InvalidData, format!("it said {other:?} first")))
            }
        }
    }

    /// Takes the offer back: the next successor finds no hive here.
    pub(super) fn withdraw(&mut self) {
        self.door = None;
    }

    /// Holds the sockets no more: once the hive does not accept, the system refuses connections, unless a service
    /// manager holds the sockets.
    pub(super) fn close(&mut self) {
        *self = Self::default();
    }

    /// The sockets, for this process to serve on again.
    pub(super) fn take_back(self) -> Sockets {
        if let Some(file) = self.file {
            file.leave();
        }
        self.sockets
    }

    /// Leaves the sockets to a successor, with the file of the Unix socket where it goes on with that.
    pub(super) fn leave(self, keeps_unix: bool) {
        if let Some(file) = self.file.filter(|_| keeps_unix) {
            file.leave();
        }
    }
}
