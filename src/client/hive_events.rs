//! The events of the whole hive.

use serde_json::Value;

use super::connection::Connection;
use super::error::{Error, Result};
use super::stream::{Next, Resuming};
use crate::error::Failure;

/// What the events of a hive give out.
#[derive(Debug)]
pub enum HiveEvent {
    /// An event.
    Event {
        /// Its name: `snapshot`, `job`, `model`, `worker`, …
        name: String,
        /// Its data.
        data: Value,
    },
    /// The connection was lost, and why. The next call connects again; what was missed comes then, or a snapshot.
    Lost(Failure),
}

/// The events of the whole hive, over as many connections as that takes.
#[derive(Debug)]
pub struct HiveEvents(Resuming);

impl HiveEvents {
    pub(super) fn new(connection: Connection) -> Self {
        Self(Resuming::new(connection, "/v1/events".to_owned()))
    }

    /// What comes next. May be dropped before it is ready, and called again.
    ///
    /// # Errors
    /// [`Error::Refused`] without the hive's token; [`Error::Unreachable`] where the hive cannot be reached for long;
    /// [`Error::Failed`] for an event that is not understood.
    pub async fn next(&mut self) -> Result<HiveEvent> {
        loop {
            match self.0.next().await? {
                Next::Event(event) => {
                    let (Some(name), Some(data)) = (event.event, event.data) else { continue };
                    let data = serde_json::from_str(&data).map_err(|error| Error::unexpected(&error))?;
                    return Ok(HiveEvent::Event { name, data });
                }
                Next::Lost(failure) => return Ok(HiveEvent::Lost(failure)),
                // A hive never ends this stream so; a proxy may.
                Next::End => {}
            }
        }
    }
}
