//! Whether a hive answers.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UnixStream};
use tokio::time::timeout;
use tokio_util::either::Either;

use crate::address::Address;

/// The most bytes that are read of an answer, which is one line.
const ENOUGH: u64 = 4096;

/// Asks the hive that serves at `address` for `/health`, over a connection of its own.
///
/// # Errors
/// It cannot be reached, gives no answer within `patience`, or another answer than `200`.
pub async fn answers(address: &Address, patience: Duration) -> io::Result<()> {
    let answer = timeout(patience, ask(address));
    let answer = answer.await.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))??;
    match answer.starts_with("HTTP/1.1 200 ") {
        true => Ok(()),
        false => {
            let line = answer.lines().next().unwrap_or_default();
            Err(io::Error::new(io::ErrorKind::InvalidData, format!("it answered '{line}'")))
        }
    }
}

async fn ask(address: &Address) -> io::Result<String> {
    let mut stream = match address {
        Address::Tcp(address) => Either::Left(TcpStream::connect(reachable(*address)).await?),
        Address::Unix(path) => Either::Right(UnixStream::connect(path).await?),
    };
    stream.write_all(b"GET /health HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").await?;
    let mut answer = Vec::new();
    stream.take(ENOUGH).read_to_end(&mut answer).await?;
    Ok(String::from_utf8_lossy(&answer).into_owned())
}

/// The address to connect to from this machine: a hive that listens on all addresses listens on loopback too.
fn reachable(address: SocketAddr) -> SocketAddr {
    let ip = match address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    SocketAddr::new(ip, address.port())
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};

    use super::*;
    use crate::spawn;

    #[tokio::test]
    async fn only_a_200_within_the_time_is_an_answer() {
        let socket = std::net::TcpListener::bind("0.0.0.0:0").unwrap();
        let address = Address::Tcp(socket.local_addr().unwrap());
        let silent = answers(&address, Duration::from_millis(20)).await.unwrap_err();
        assert_eq!(silent.kind(), io::ErrorKind::TimedOut);
        drop(spawn::thread("server", move || {
            // The first connection is that of the question above, which nobody waits for any more.
            let (_given_up, _) = socket.accept().unwrap();
            for line in ["HTTP/1.1 200 OK", "HTTP/1.1 503 Service Unavailable"] {
                let (mut stream, _) = socket.accept().unwrap();
                let _read = stream.read(&mut [0; 512]).unwrap();
                write!(stream, "{line}\r\nContent-Length: 2\r\n\r\nok").unwrap();
            }
        }));
        let patience = Duration::from_secs(60);
        answers(&address, patience).await.unwrap();
        let refused = answers(&address, patience).await.unwrap_err();
        assert!(refused.to_string().contains("503"), "{refused}");
        let refused = answers(&address, patience).await.unwrap_err();
        assert_ne!(refused.kind(), io::ErrorKind::TimedOut, "nobody listens any more");
    }
}
