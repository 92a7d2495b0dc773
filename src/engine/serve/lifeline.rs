//! Ends the worker when the process that started it has ended, however it ended.
//!
//! The starter holds the writing end of a pipe that is the worker's standard input. When the starter
//! dies, even by `kill -9`, the system closes that end. A starter whose worker is to outlive it
//! writes the line `stay` first.

use std::io::BufRead;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use crate::error::{Failure, Result};
use crate::spawn;

/// The line that lets the worker outlive its starter.
const RELEASE: &str = "stay";

/// Cancels `shutdown` when standard input ends. If the process still runs after `limit`, it is ended.
pub(super) fn watch(shutdown: CancellationToken, limit: Duration) -> Result<()> {
    spawn::thread("lifeline", move || {
        // A read error counts as the end: the starter may be gone.
        if std::io::stdin().lock().lines().map_while(std::io::Result::ok).any(|line| line == RELEASE) {
            tracing::debug!("this worker outlives the process that started it");
            return;
        }
        tracing::warn!("standard input has ended: this worker stops");
        shutdown.cancel();
        // If the process still runs then, it hangs, and its starter is not there to end it.
        std::thread::sleep(limit);
        std::process::exit(75);
    })
    .map(drop)
    .map_err(|error| Failure::internal(format!("could not start the lifeline's thread: {error}")))
}
