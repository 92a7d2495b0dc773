//! `--start`: a hive in the background, which outlives the verb.

use std::path::Path;
use std::process::Stdio;

use tokio::io::{AsyncBufReadExt, BufReader};

use super::find;
use crate::cli::end::{End, Ended};
use crate::client::Host;
use crate::daemon::READY;
use crate::disk;
use crate::error::{Code, Failure};
use crate::files;
use crate::spawn;

/// The lines of the log that are shown where the hive does not start.
const TAIL: usize = 10;

/// The address of the hive of this machine, which is started if none runs. It is ready then.
pub(super) async fn host(quiet: bool) -> Ended<Host> {
    let dir = find::data_dir();
    if let Some(hive) = find::running(&dir) {
        return hive.url.parse().map_err(End::from);
    }
    let log = dir.join("hive.log");
    let (url, pid) = start(&dir, &log).await?;
    if !quiet {
        super::Narrator::for_people()
            .say(&format!("Started a hive at {url} (process {pid}); its log is {}", log.display()));
    }
    url.parse().map_err(End::from)
}

/// Starts `rbee-hive serve` and waits until it is ready. Gives its URL and its process id.
async fn start(dir: &Path, log: &Path) -> Ended<(String, u32)> {
    let program = files::own_program()?;
    disk::create_private_dir(dir).map_err(|error| Failure::io("create", dir, &error))?;
    let file = disk::open(files::own().create(true).append(true), log)
        .map_err(|error| Failure::io("open", log, &error))?;
    let mut command = spawn::command(&program);
    // A group of its own: Ctrl-C in this terminal is not for it.
    command.arg("serve").stdout(Stdio::piped()).stderr(file).process_group(0);
    let mut hive = command.spawn().map_err(|error| Failure::io("run", &program, &error))?;
    let pid = hive.id().unwrap_or_default();
    let mut line = String::new();
    if let Some(out) = hive.stdout.take() {
        let read = BufReader::new(out).read_line(&mut line).await;
        read.map_err(|error| Failure::io("read from", &program, &error))?;
    }
    match line.strip_prefix(READY).and_then(|rest| rest.split_whitespace().next()) {
        Some(url) => Ok((url.to_owned(), pid)),
        None => {
            let status = hive.wait().await.map_err(|error| Failure::io("wait for", &program, &error))?;
            let failure = Failure::new(Code::ServerUnreachable, format!("the hive did not start: {status}"))
                .hint(format!("its log {} tells why", log.display()));
            let text = files::read_text(log).unwrap_or_default();
            let lines: Vec<_> = text.lines().map(str::to_owned).collect();
            let log_tail = lines[lines.len().saturating_sub(TAIL)..].to_vec();
            Err(crate::client::Error::Unreachable(Failure { log_tail, ..failure }).into())
        }
    }
}
