//! Ends the worker with the process that started it, however that ends.
//!
//! The starter holds the writing end of a pipe that is the worker's standard input. When it dies,
//! of `kill -9` too, the system closes that end.

use std::io::Read;

use tokio_util::sync::CancellationToken;

use super::GRACE;
use crate::error::{Failure, Result};
use crate::spawn;

/// Cancels `shutdown` when standard input ends, and ends the process if that does not, in time.
pub(super) fn hold(shutdown: CancellationToken) -> Result<()> {
    spawn::thread("lifeline", move || {
        let mut input = std::io::stdin().lock();
        let mut buffer = [0; 64];
        loop {
            match input.read(&mut buffer) {
                Ok(0) => break,
                Ok(_) => {}
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                Err(_) => break,
            }
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
