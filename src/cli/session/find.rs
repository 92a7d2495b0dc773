//! Which hive a verb means where none is named, and the token that it sends.

use std::path::{Path, PathBuf};

use rustix::process::{Pid, test_kill_process};

use crate::cli::end::{End, Ended};
use crate::client::{Host, Token};
use crate::config::{Config, DEFAULT_PORT};
use crate::daemon::HiveFile;
use crate::error::{Code, Failure};
use crate::files;

/// The token of the file, else that of `RBEE_HIVE_TOKEN`.
pub(super) fn token(file: Option<&Path>) -> Ended<Option<Token>> {
    let unusable = |failure: Failure| End::Usage(failure);
    let text = match file {
        Some(file) => files::read_text(file).map_err(|error| {
            unusable(Failure::io("read the token file", file, &error).hint("check --token-file"))
        })?,
        None => std::env::var("RBEE_HIVE_TOKEN").unwrap_or_default(),
    };
    let text = text.trim();
    if text.is_empty() && file.is_none() {
        return Ok(None);
    }
    if text.is_empty() || !text.bytes().all(|byte| byte.is_ascii_graphic()) {
        let failure =
            Failure::new(Code::InvalidField, "the token is not one word of visible ASCII characters");
        return Err(unusable(failure.hint("check what --token-file or RBEE_HIVE_TOKEN has")));
    }
    Ok(Some(Token::new(text)))
}

/// The hive that the data folder names, if it runs; else where a hive serves by default.
pub(super) fn host() -> Host {
    let found = running(&data_dir()).and_then(|hive| hive.url.parse().ok());
    found.unwrap_or_else(default_host)
}

/// The hive that the data folder names, if its process runs.
pub(super) fn running(data_dir: &Path) -> Option<HiveFile> {
    let hive = HiveFile::of(data_dir)?;
    let pid = Pid::from_raw(i32::try_from(hive.pid).ok()?)?;
    // A process of another user exists, and may not be signalled.
    let runs = !matches!(test_kill_process(pid), Err(rustix::io::Errno::SRCH));
    runs.then_some(hive)
}

fn default_host() -> Host {
    let url = format!("http://127.0.0.1:{DEFAULT_PORT}");
    url.parse().unwrap_or_else(|_| Host::Unix(PathBuf::new()))
}

/// Whether `--start` could start a hive there: it is where a verb looks by itself.
pub(super) fn is_here(host: &Host) -> bool {
    std::env::var_os("RBEE_HIVE_HOST").is_none() && *host == self::host()
}

/// The data folder of the hive that `rbee-hive serve` starts in this environment.
pub(super) fn data_dir() -> PathBuf {
    let named = |name| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    if let Some(dir) = named("RBEE_HIVE_DATA_DIR") {
        return dir;
    }
    // A file that is not valid is for `serve` to refuse.
    let file = named("RBEE_HIVE_CONFIG").and_then(|file| Config::from_file(&file).ok());
    file.unwrap_or_default().data_dir
}
