//! Files that decide who may call: nobody but their owner, who is this user or root, may read or change them.

use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use super::reading::open;
use crate::error::{Code, Failure, Result};

/// The text of such a file, of at most so many bytes; `None` where there is no file. `what` names the file in
/// errors.
///
/// # Errors
/// [`Code::ConfigInvalid`] if it is not a regular file of this user or root, if others than its owner may read
/// or write it, if it is larger, or if it is not UTF-8.
pub(crate) fn read_private(what: &str, path: &Path, most: u64) -> Result<Option<String>> {
    let invalid = |message: String| Failure::new(Code::ConfigInvalid, message);
    let shown = path.display();
    let unreadable = |error: io::Error| {
        invalid(format!("could not read {what} {shown}: {error}"))
            .hint("it must be a file of text that this user may read")
    };
    let file = match open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(unreadable(error)),
    };
    let metadata = file.metadata().map_err(unreadable)?;
    let owner = metadata.uid();
    if owner != rustix::process::geteuid().as_raw() && owner != 0 {
        return Err(invalid(format!("{what} {shown} belongs to another user ({owner})"))
            .hint("make a file of your own: its owner knows what is in it, and can change it"));
    }
    let mode = metadata.mode() & 0o777;
    if mode & 0o077 != 0 {
        let message = format!("{what} {shown} can be used by others than its owner (mode {mode:04o})");
        return Err(invalid(message).hint(format!("run `chmod 600 {shown}`")));
    }
    let mut text = String::new();
    file.take(most + 1).read_to_string(&mut text).map_err(unreadable)?;
    if text.len() as u64 > most {
        return Err(invalid(format!("{what} {shown} is larger than {most} bytes"))
            .hint("check that it is the file that you mean"));
    }
    Ok(Some(text))
}
