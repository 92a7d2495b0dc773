//! Ends the worker with the process that started it, however that ends.
//!
//! The starter holds the writing end of a pipe that is the worker's standard input. When it dies,
//! of `kill -9` too, the system closes that end. A starter that wants the worker to outlive it
//! writes the line `stay` first.

use std::io::BufRead;

use tokio_util::sync::CancellationToken;

use super::GRACE;
use crate::error::{Failure, Result};
use crate::spawn;

/// The line that releases the worker.
const RELEASE: &str = "stay";

/// Cancels `shutdown` when standard input ends, and ends the process if that does not, in time.
pub(super) fn hold(shutdown: CancellationToken) -> Result<()> {
    spawn::thread("lifeline", move || {
        // Whatever cannot be read ends it, too: nobody is known to be there any more.
        if std::io::stdin().lock().lines().map_while(std::io::Result::ok).any(|line| line == RELEASE) {
            tracing::debug!("this worker outlives whoever started it");
            return;
        }
        tracing::warn!("standard input has ended, and so does this worker");
        shutdown.cancel();
        // Where the process is still there then, something hangs that nobody is left to notice.
        std::thread::sleep(GRACE * 2);
        std::process::exit(75);
    })
    .map(drop)
    .map_err(|error| Failure::internal(format!("could not start the lifeline's thread: {error}")))
}
