//! A stream of Server-Sent Events that goes on after a lost connection (WHATWG HTML, section 9.2).

use std::pin::Pin;
use std::time::Duration;

use futures::Stream;
use http::{Method, StatusCode};
use sse_stream::{Sse, SseByteStream};
use tokio::time::Instant;
use tokio_stream::StreamExt;

use super::connection::Connection;
use super::error::{Error, Result};
use crate::error::{Code, Failure};

/// How long a stream may be silent before it counts as lost. The hive's comments come every 15 s.
const SILENCE: Duration = Duration::from_secs(60);
/// How long a lost stream is asked for again: longer than a hive takes to start again.
const PATIENCE: Duration = Duration::from_secs(20);
/// The longest pause between two tries.
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

type Open = Pin<Box<dyn Stream<Item = Result<Sse, sse_stream::Error>> + Send>>;

/// A stream of events that resumes by itself.
pub(super) struct Resuming {
    connection: Connection,
    path: String,
    last_id: Option<String>,
    open: Option<Open>,
    /// Since when no connection comes about, and the pause before the next try.
    lost: Option<(Instant, Duration)>,
}

/// What comes next of a stream.
pub(super) enum Next {
    /// An event.
    Event(Sse),
    /// The connection was lost; the next call asks for the rest.
    Lost(Failure),
    /// The stream has no more: the server says that the last event was given out.
    End,
}

impl std::fmt::Debug for Resuming {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Resuming").field("path", &self.path).finish_non_exhaustive()
    }
}

impl Resuming {
    pub(super) const fn new(connection: Connection, path: String) -> Self {
        Self { connection, path, last_id: None, open: None, lost: None }
    }

    /// The next event. May be dropped before it is ready, and called again.
    ///
    /// # Errors
    /// [`Error::Refused`] where the hive refuses the stream; [`Error::Unreachable`] where it cannot be reached for
    /// long.
    pub(super) async fn next(&mut self) -> Result<Next> {
        loop {
            if let Some(open) = &mut self.open {
                let why = match open.next().await {
                    Some(Ok(event)) => {
                        if let Some(id) = &event.id {
                            self.last_id = Some(id.clone());
                        }
                        self.lost = None;
                        return Ok(Next::Event(event));
                    }
                    Some(Err(error)) => error.to_string(),
                    None => "the hive closed the stream".to_owned(),
                };
                self.open = None;
                self.lost = Some((Instant::now(), Duration::ZERO));
                let failure =
                    Failure::new(Code::ServerUnreachable, format!("the connection was lost: {why}"));
                return Ok(Next::Lost(failure));
            }
            if let Some((_, pause)) = self.lost {
                tokio::time::sleep(pause).await;
            }
            match self.connect().await {
                Ok(Some(open)) => self.open = Some(open),
                Ok(None) => return Ok(Next::End),
                Err(Error::Unreachable(failure)) => {
                    let now = Instant::now();
                    let (since, pause) = self.lost.unwrap_or((now, Duration::ZERO));
                    if now.duration_since(since) >= PATIENCE {
                        return Err(Error::Unreachable(failure));
                    }
                    let pause = (pause * 2).clamp(Duration::from_millis(50), LONGEST_PAUSE);
                    self.lost = Some((since, pause));
                }
                Err(refused) => return Err(refused),
            }
        }
    }

    /// Asks for the events after the last one; `None` where there are none.
    async fn connect(&self) -> Result<Option<Open>> {
        let request = self.connection.request(Method::GET, &self.path);
        let request = match &self.last_id {
            Some(id) => request.header("last-event-id", id),
            None => request,
        };
        let answer = self.connection.send(request).await?;
        if answer.status() == StatusCode::NO_CONTENT {
            return Ok(None);
        }
        let bytes = answer.bytes_stream().timeout(SILENCE).map(|read| match read {
            Ok(read) => read.map_err(std::io::Error::other),
            Err(_) => Err(std::io::Error::new(std::io::ErrorKind::TimedOut, "nothing came for a minute")),
        });
        Ok(Some(Box::pin(SseByteStream::new(Box::pin(bytes)))))
    }
}
