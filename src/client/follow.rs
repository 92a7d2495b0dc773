//! Following a job: its typed stream, to its end.

use super::connection::{Connection, segment};
use super::error::{Error, Result};
use super::stream::{Next, Resuming};
use crate::error::Failure;
use crate::jobs::event::{Body, Event};
use crate::jobs::log::Elision;

/// What a job that is followed gives out.
#[derive(Debug)]
pub enum Followed {
    /// An event: a narration, the result, or the terminal event, which is the last.
    Event(Event),
    /// The job's log has dropped some events.
    Elision(Elision),
    /// The connection was lost, and why. The next call connects again and goes on after the last event.
    Lost(Failure),
}

/// A job that is followed from its first event to its last, over as many connections as that takes.
#[derive(Debug)]
pub struct Follow {
    stream: Resuming,
    is_ended: bool,
}

impl Follow {
    pub(super) fn new(connection: Connection, job: &str) -> Self {
        let path = format!("/v1/jobs/{}/stream?format=json", segment(job));
        Self { stream: Resuming::new(connection, path), is_ended: false }
    }

    /// What comes next; `None` after the terminal event. Events of a later version of the hive are left out. May be
    /// dropped before it is ready, and called again.
    ///
    /// # Errors
    /// [`Error::Refused`] with `job_not_found`; [`Error::Unreachable`] where the hive cannot be reached for long;
    /// [`Error::Failed`] for an event that is not understood.
    pub async fn next(&mut self) -> Result<Option<Followed>> {
        while !self.is_ended {
            let event = match self.stream.next().await? {
                Next::Event(event) => event,
                Next::Lost(failure) => return Ok(Some(Followed::Lost(failure))),
                Next::End => break,
            };
            let (name, data) = (event.event.unwrap_or_default(), event.data.unwrap_or_default());
            if name == "elision" {
                let elision = serde_json::from_str(&data).map_err(|error| Error::unexpected(&error))?;
                return Ok(Some(Followed::Elision(elision)));
            }
            if let Some(event) = Event::from_typed(&name, &data).map_err(|error| Error::unexpected(&error))? {
                self.is_ended = matches!(event.body, Body::Terminal(_));
                return Ok(Some(Followed::Event(event)));
            }
        }
        self.is_ended = true;
        Ok(None)
    }
}
