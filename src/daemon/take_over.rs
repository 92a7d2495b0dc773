//! A hive that takes over from the one that runs.
//!
//! Its settings are checked before it asks, and it asks for the sockets before it takes them: what goes wrong until then
//! leaves the hive that runs as it is. Then that hive ends its work ([`ending`](super::ending)) and releases the lock of
//! the data folder, which both hold until this one serves, without a gap in which a third could come. If this one ends
//! before that, the other serves again.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use tokio::net::UnixStream;

use super::wire::{Channel, FromHive, FromSuccessor, Kind, SOCKET, VERSION};
use crate::app::AppState;
use crate::config::Config;
use crate::error::{Code, Failure, Result};
use crate::http::{self, Sockets};
use crate::workers::InFlight;

/// A hive that runs and that can be taken over.
#[derive(Debug)]
pub struct Predecessor {
    channel: Channel,
    pid: u32,
    sockets: Sockets,
    data_dir: PathBuf,
}

/// What a hive left to this one.
#[derive(Debug)]
pub struct Estate {
    channel: Channel,
    pid: u32,
    /// The lock of the data folder.
    pub(super) lock: File,
    in_flight: Vec<(u32, usize)>,
}

impl Predecessor {
    /// Asks the hive of the data folder what can be taken over; `None` where none runs.
    ///
    /// # Errors
    /// [`Code::ConfigInvalid`] if these settings cannot be served with; [`Code::DataDirLocked`] if the hive that runs
    /// does not speak of this.
    pub async fn find(config: &Config) -> Result<Option<Self>> {
        config.validate()?;
        http::check_access(config)?;
        let socket = config.data_dir.join(SOCKET);
        let stream = match UnixStream::connect(&socket).await {
            Ok(stream) => stream,
            Err(error)
                if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused) =>
            {
                return Ok(None);
            }
            Err(error) => return Err(Failure::io("connect to", &socket, &error)),
        };
        let mut channel = Channel::new(stream);
        let no_offer = |why: &str| broken(&config.data_dir, &format!("its offer cannot be read: {why}"));
        let (offer, descriptors) = channel.receive().await.map_err(|error| no_offer(&error.to_string()))?;
        let FromHive::Offer { version, pid, sockets: kinds, owns_file } = offer else {
            return Err(no_offer("it is another message"));
        };
        if version != VERSION || kinds.len() != descriptors.len() {
            return Err(no_offer(&format!("it has version {version}, and this program speaks {VERSION}")));
        }
        let mut sockets = Sockets { owns_file, ..Sockets::default() };
        for (kind, socket) in kinds.into_iter().zip(descriptors) {
            match kind {
                Kind::Http => sockets.http = Some(socket.into()),
                Kind::Ollama => sockets.ollama = Some(socket.into()),
                Kind::Unix => sockets.unix = Some(socket.into()),
            }
        }
        let sockets = sockets.fitting(config);
        Ok(Some(Self { channel, pid, sockets, data_dir: config.data_dir.clone() }))
    }

    /// Its sockets at which these settings serve too.
    pub fn sockets(&mut self) -> Sockets {
        std::mem::take(&mut self.sockets)
    }

    /// Takes over: waits until it has ended its work. `keeps_unix` tells whether its Unix socket is served on.
    ///
    /// # Errors
    /// [`Code::DataDirLocked`] if it ends without releasing the data folder.
    pub async fn take(self, keeps_unix: bool) -> Result<Estate> {
        let Self { mut channel, pid, data_dir, .. } = self;
        let lost = |error: io::Error| broken(&data_dir, &format!("it did not release the folder: {error}"));
        tracing::info!(pid, "taking over from the hive that runs");
        channel.send(&FromSuccessor::Take { keeps_unix }, &[]).await.map_err(lost)?;
        let (released, descriptors) = channel.receive().await.map_err(lost)?;
        match (released, descriptors.into_iter().next()) {
            (FromHive::Released { in_flight }, Some(lock)) => {
                Ok(Estate { channel, pid, lock: lock.into(), in_flight })
            }
            (other, _) => Err(broken(&data_dir, &format!("it said {other:?}"))),
        }
    }
}

/// The failure of a hand-over.
fn broken(data_dir: &Path, why: &str) -> Failure {
    Failure::new(
        Code::DataDirLocked,
        format!("could not take over from the hive that uses {}: {why}", data_dir.display()),
    )
    .hint("stop that hive and start this one without --take-over: its workers stay if [workers] keep_on_shutdown is true")
}

impl Estate {
    /// Counts the answers that the hive which left still has under way, so that none of them is cut to make room.
    pub(super) fn hold(&self, app: &AppState) -> Vec<InFlight> {
        hold(app, &self.in_flight)
    }

    /// Tells that hive that this one serves. Then counts its answers, beginning with those of [`Self::hold`], until it
    /// has ended.
    pub(super) async fn attend(self, app: AppState, mut held: Vec<InFlight>) {
        let Self { mut channel, pid, mut in_flight, .. } = self;
        if let Err(error) = channel.send(&FromSuccessor::Serving, &[]).await {
            tracing::warn!(pid, %error, "the hive that this one took over from is gone already");
        }
        while let Ok((FromHive::InFlight { in_flight: now } | FromHive::Released { in_flight: now }, _)) =
            channel.receive().await
        {
            if now != in_flight {
                // The new guards first: no worker looks idle in between.
                let before = std::mem::replace(&mut held, hold(&app, &now));
                drop(before);
                in_flight = now;
            }
        }
        drop(held);
        tracing::info!(pid, "the hive that this one took over from has ended");
    }
}

fn hold(app: &AppState, in_flight: &[(u32, usize)]) -> Vec<InFlight> {
    in_flight.iter().flat_map(|(pid, requests)| app.workers.hold(*pid, *requests)).collect()
}
