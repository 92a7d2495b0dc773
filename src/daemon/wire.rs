//! What a hive and its successor say to each other while one takes over from the other.
//!
//! Each message is one line of JSON, and may bring file descriptors (`SCM_RIGHTS`, `unix(7)`). Fields that a side does
//! not know are ignored. A side that does not speak the other's [`VERSION`] says so, and nothing changes.

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{BorrowedFd, OwnedFd};

use rustix::io::{FdFlags, fcntl_setfd};
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags, recvmsg, sendmsg,
};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use tokio::io::Interest;
use tokio::net::UnixStream;

use crate::text::json;

/// The version of these messages.
pub(super) const VERSION: u32 = 1;
/// The name of the socket in the data folder at which a hive waits for its successor.
pub(super) const SOCKET: &str = "successor.sock";
/// The most descriptors of one message.
const MOST_DESCRIPTORS: usize = 4;
/// The longest message, in bytes.
const LONGEST: usize = 64 << 10;

/// A message of the hive that runs. The first is an offer.
#[derive(Debug, Serialize, Deserialize)]
#[serde(tag = "message", rename_all = "snake_case")]
pub(super) enum FromHive {
    /// What can be taken over. Brings the sockets, in this order.
    Offer {
        version: u32,
        pid: u32,
        sockets: Vec<Kind>,
        /// Whether it made the file of its Unix socket.
        owns_file: bool,
    },
    /// All is the successor's from now on. Brings the lock of the data folder, and says how many answers are still under
    /// way at each worker, by its process id.
    Released { in_flight: Vec<(u32, usize)> },
    /// How many they are now.
    InFlight { in_flight: Vec<(u32, usize)> },
}

/// A message of the successor.
#[derive(Debug, Serialize, Deserialize)]
#[serde(tag = "message", rename_all = "snake_case")]
pub(super) enum FromSuccessor {
    /// It takes over. Until here nothing has changed.
    Take {
        /// Whether it goes on with the Unix socket.
        keeps_unix: bool,
    },
    /// It serves. Where it ends before it says so, the hive before it serves again.
    Serving,
}

/// What is served on a socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Kind {
    Http,
    Ollama,
    Unix,
}

/// One end of the conversation.
#[derive(Debug)]
pub(super) struct Channel {
    stream: UnixStream,
    /// What was received and is not read yet.
    ahead: Vec<u8>,
}

impl Channel {
    pub(super) fn new(stream: UnixStream) -> Self {
        Self { stream, ahead: Vec::new() }
    }

    /// Sends a message with descriptors.
    ///
    /// # Errors
    /// The other side is gone.
    pub(super) async fn send(
        &self,
        message: &impl Serialize,
        descriptors: &[BorrowedFd<'_>],
    ) -> io::Result<()> {
        let line = json(message) + "\n";
        let mut sent = 0;
        while sent < line.len() {
            // They go with the first bytes.
            let descriptors = if sent == 0 { descriptors } else { &[] };
            let rest = &line.as_bytes()[sent..];
            sent += self
                .stream
                .async_io(Interest::WRITABLE, || send_some(&self.stream, rest, descriptors))
                .await?;
        }
        Ok(())
    }

    /// The next message, and the descriptors that came with it.
    ///
    /// # Errors
    /// The other side is gone, or it is no such message.
    pub(super) async fn receive<T: DeserializeOwned>(&mut self) -> io::Result<(T, Vec<OwnedFd>)> {
        let mut descriptors = Vec::new();
        loop {
            if let Some(end) = self.ahead.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = self.ahead.drain(..=end).collect();
                return Ok((serde_json::from_slice(&line)?, descriptors));
            }
            if self.ahead.len() > LONGEST {
                return Err(io::ErrorKind::FileTooLarge.into());
            }
            let (stream, ahead) = (&self.stream, &mut self.ahead);
            let more = stream.async_io(Interest::READABLE, || receive_some(stream, ahead)).await?;
            descriptors.extend(more);
        }
    }
}

fn send_some(stream: &UnixStream, bytes: &[u8], descriptors: &[BorrowedFd<'_>]) -> io::Result<usize> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MOST_DESCRIPTORS))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    if !descriptors.is_empty() && !ancillary.push(SendAncillaryMessage::ScmRights(descriptors)) {
        return Err(io::ErrorKind::ArgumentListTooLong.into());
    }
    Ok(sendmsg(stream, &[IoSlice::new(bytes)], &mut ancillary, SendFlags::empty())?)
}

/// Appends what has come to `ahead`.
fn receive_some(stream: &UnixStream, ahead: &mut Vec<u8>) -> io::Result<Vec<OwnedFd>> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MOST_DESCRIPTORS))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let mut bytes = [0; 4096];
    let received = recvmsg(stream, &mut [IoSliceMut::new(&mut bytes)], &mut ancillary, RecvFlags::empty())?;
    if received.bytes == 0 {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    ahead.extend_from_slice(&bytes[..received.bytes]);
    let mut descriptors = Vec::new();
    for message in ancillary.drain() {
        if let RecvAncillaryMessage::ScmRights(received) = message {
            descriptors.extend(received);
        }
    }
    for descriptor in &descriptors {
        // No child of the hive inherits it.
        fcntl_setfd(descriptor, FdFlags::CLOEXEC)?;
    }
    Ok(descriptors)
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Seek, Write};
    use std::os::fd::AsFd;

    use super::*;

    #[test]
    fn what_the_first_version_says_is_understood() {
        // Never change these lines: hives that run speak so.
        let offer = r#"{"message":"offer","version":1,"pid":7,"sockets":["http","ollama","unix"],"owns_file":true,"x":1}"#;
        let FromHive::Offer { version: 1, pid: 7, sockets, owns_file: true } =
            serde_json::from_str(offer).unwrap()
        else {
            panic!("{offer}")
        };
        assert_eq!(sockets, [Kind::Http, Kind::Ollama, Kind::Unix]);
        let released = serde_json::from_str(r#"{"message":"released","in_flight":[[12,3]],"x":1}"#).unwrap();
        assert!(matches!(released, FromHive::Released { in_flight } if in_flight == [(12, 3)]));
        let told = serde_json::from_str(r#"{"message":"in_flight","in_flight":[]}"#).unwrap();
        assert!(matches!(told, FromHive::InFlight { in_flight } if in_flight.is_empty()));
        let take = serde_json::from_str(r#"{"message":"take","keeps_unix":true,"x":1}"#).unwrap();
        assert!(matches!(take, FromSuccessor::Take { keeps_unix: true }));
        assert!(matches!(serde_json::from_str(r#"{"message":"serving"}"#).unwrap(), FromSuccessor::Serving));
    }

    #[tokio::test]
    async fn messages_and_descriptors_arrive_in_their_order() {
        let (one, other) = UnixStream::pair().unwrap();
        let (one, mut other) = (Channel::new(one), Channel::new(other));
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(b"shared").unwrap();
        let many: Vec<(u32, usize)> = (0..2000).map(|pid| (pid, 1)).collect();
        let sending = async {
            let offer =
                FromHive::Offer { version: VERSION, pid: 7, sockets: vec![Kind::Http], owns_file: false };
            one.send(&offer, &[file.as_fd()]).await.unwrap();
            one.send(&FromHive::InFlight { in_flight: many.clone() }, &[]).await.unwrap();
            drop(one);
        };
        let receiving = async {
            let (offer, descriptors) = other.receive::<FromHive>().await.unwrap();
            assert!(matches!(offer, FromHive::Offer { pid: 7, .. }) && descriptors.len() == 1);
            let mut received = std::fs::File::from(descriptors.into_iter().next().unwrap());
            received.rewind().unwrap();
            let mut text = String::new();
            received.read_to_string(&mut text).unwrap();
            assert_eq!(text, "shared");
            let (told, none) = other.receive::<FromHive>().await.unwrap();
            assert!(matches!(told, FromHive::InFlight { in_flight } if in_flight == many) && none.is_empty());
            let end = other.receive::<FromHive>().await.unwrap_err();
            assert_eq!(end.kind(), io::ErrorKind::UnexpectedEof);
        };
        tokio::join!(sending, receiving);
    }
}
