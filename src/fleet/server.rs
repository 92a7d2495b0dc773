//! nats-server as a child of the hive: on the machine of `fleet up` alone.
//!
//! Invariants:
//! - One task owns the process. It starts it again, after a pause that grows, where it ends by itself.
//! - It ends with the hive: where the hive is killed, a shell in its process group sees the pipe close that only the
//!   hive holds, and ends the group.
//! - It gets no secret of the hive's environment; its settings have no secret either, only what is signed.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::process::Signal;
use tokio::net::TcpStream;
use tokio::sync::{mpsc, oneshot};
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::addresses::host_and_port;
use super::authority::Trusted;
use super::folder::{Folder, file};
use crate::error::{Code, Failure, Result};
use crate::time::monotonic;
use crate::workers::{ChildGroup, WITH_LIFELINE, keep_secrets, last_lines, port_holder_in_words};
use crate::{disk, files, paths, spawn};

/// The oldest nats-server that will do.
const OLDEST: (u32, u32) = (2, 11);
/// How long it may take to say its version.
const VERSION_LIMIT: Duration = Duration::from_secs(10);
/// How long it may take until it accepts: it reads its streams first.
const ACCEPTS: Duration = Duration::from_secs(60);
/// How often that is looked for.
const LOOK: Duration = Duration::from_millis(50);
/// The first pause before it is started again, and the longest one.
const PAUSES: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));
/// After so long a run the next pause is the first one again.
const STEADY: Duration = Duration::from_secs(60);
/// How long it may take to end.
const GRACE: Duration = Duration::from_secs(10);
/// The lines of its log in a failure.
const TAIL_LINES: usize = 12;
/// The most bytes of a message: those of the largest event, and more.
const MAX_PAYLOAD: u32 = 8 << 20;

/// What to run.
#[derive(Clone, Debug)]
pub(super) struct Spec {
    pub(super) folder: Folder,
    /// The program, where the settings name one.
    pub(super) program: Option<PathBuf>,
    pub(super) listen: SocketAddr,
}

/// The nats-server that a hive runs.
#[derive(Debug)]
pub(super) struct Server {
    reload: mpsc::UnboundedSender<()>,
    stop: CancellationToken,
    ended: CancellationToken,
}

/// The settings of nats-server, which trusts nobody but those whom the fleet's account lets in.
pub(super) fn configuration(spec: &Spec, name: &str, advertise: &str, trusted: &Trusted) -> String {
    let quoted = |text: &str| serde_json::Value::from(text).to_string();
    let path = |name: &str| quoted(&spec.folder.file(name).to_string_lossy());
    let accounts =
        BTreeMap::from([(&trusted.system_key, &trusted.system), (&trusted.account_key, &trusted.account)]);
    let mut text =
        String::from("# rbee-hive writes this file whenever it starts nats-server: changes are lost.\n");
    let lines = [
        format!("server_name: {}", quoted(name)),
        format!("listen: {}", quoted(&spec.listen.to_string())),
        format!("client_advertise: {}", quoted(&host_and_port(advertise, spec.listen.port()))),
        format!("max_payload: {MAX_PAYLOAD}"),
        format!("logfile: {}\nlogfile_size_limit: 8MB\nlogfile_max_num: 3", path(file::LOG)),
        format!("jetstream {{ store_dir: {}, sync_interval: always }}", path(file::STREAMS)),
        format!("tls {{ cert_file: {}, key_file: {} }}", path(file::SERVER), path(file::SERVER_KEY)),
        format!("operator: {}", quoted(&trusted.operator)),
        format!("system_account: {}", quoted(&trusted.system_key)),
        "resolver: MEMORY".to_owned(),
    ];
    lines.iter().for_each(|line| writeln!(text, "{line}").unwrap_or_default());
    text.push_str("resolver_preload: {\n");
    accounts.iter().for_each(|(key, jwt)| writeln!(text, "  {key}: {}", quoted(jwt)).unwrap_or_default());
    text.push_str("}\n");
    text
}

/// Where this machine itself reaches what listens at this address.
pub(super) fn from_here(listen: SocketAddr) -> SocketAddr {
    let ip = match listen.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    SocketAddr::new(ip, listen.port())
}

/// Finds nats-server: its path and its version.
///
/// # Errors
/// [`Code::FleetServerFailed`], saying how to get one.
pub(super) async fn find(given: Option<&Path>) -> Result<(PathBuf, String)> {
    let failed = |message: String| {
        Failure::new(Code::FleetServerFailed, message).hint(format!(
            "get nats-server {}.{} or later: from the package manager, from \
             https://github.com/nats-io/nats-server/releases, or with `go install \
             github.com/nats-io/nats-server/v2@latest`; `server` in [fleet] names it where it is not on PATH",
            OLDEST.0, OLDEST.1
        ))
    };
    let program = match given {
        Some(program) => program.to_owned(),
        None => paths::on_path("nats-server")
            .ok_or_else(|| failed("there is no nats-server on PATH".to_owned()))?,
    };
    let shown = program.display();
    let mut command = spawn::command(&program);
    keep_secrets(&mut command);
    command.arg("--version").kill_on_drop(true);
    let output = timeout(VERSION_LIMIT, command.output()).await;
    let output = output
        .map_err(|_| failed(format!("{shown} does not tell its version")))?
        .map_err(|error| failed(format!("{shown} does not start: {error}")))?;
    let text = String::from_utf8_lossy(&output.stdout);
    let version = text.split_once(": v").map_or("", |(_, version)| version.trim()).to_owned();
    match numbers(&version) {
        Some(numbers) if numbers >= OLDEST => Ok((program, version)),
        Some(_) => Err(failed(format!("{shown} is nats-server {version}, which is too old"))),
        None => Err(failed(format!("{shown} is no nats-server: it does not tell a version"))),
    }
}

/// The first two numbers of a version.
fn numbers(version: &str) -> Option<(u32, u32)> {
    let mut parts = version.split('.');
    Some((parts.next()?.parse().ok()?, parts.next()?.parse().ok()?))
}

impl Server {
    /// Starts it, and answers once it accepts or has failed to. It is tried again until [`Self::stop`], or until
    /// `stop` is cancelled.
    pub(super) async fn start(spec: Spec, stop: CancellationToken) -> (Self, Result<()>) {
        let (reload, reloads) = mpsc::unbounded_channel();
        let (first, started) = oneshot::channel();
        let server = Self { reload, stop, ended: CancellationToken::new() };
        let (stop, ended) = (server.stop.clone(), server.ended.clone().drop_guard());
        // It belongs to the hive, not to the job that starts it.
        spawn::detached(async move {
            supervise(&spec, reloads, &stop, first).await;
            drop(ended);
        });
        let result = started.await.unwrap_or_else(|_| {
            Err(Failure::new(Code::Cancelled, "nats-server was stopped while it started"))
        });
        (server, result)
    }

    /// Has it read its settings again.
    pub(super) fn reload(&self) {
        // It is gone where it was stopped, and reads them when it starts.
        let _sent = self.reload.send(());
    }

    /// Ends it, and waits until it has ended.
    pub(super) async fn stop(&self) {
        self.stop.cancel();
        self.ended.cancelled().await;
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

/// Runs it until it is to stop.
async fn supervise(
    spec: &Spec,
    mut reloads: mpsc::UnboundedReceiver<()>,
    stop: &CancellationToken,
    first: oneshot::Sender<Result<()>>,
) {
    let (mut pause, mut first) = (PAUSES.0, Some(first));
    loop {
        let begun = monotonic();
        let Some(started) = stop.run_until_cancelled(start(spec)).await else { return };
        match started {
            Ok(mut group) => {
                tracing::info!(listen = %spec.listen, "the fleet's nats-server accepts");
                first.take().map(|first| first.send(Ok(())));
                loop {
                    tokio::select! {
                        () = stop.cancelled() => {
                            let end = group.stop(GRACE).await;
                            if !end.processes_gone() {
                                tracing::warn!("processes of nats-server are still there");
                            }
                            return;
                        }
                        Some(()) = reloads.recv() => group.signal_leader(Signal::HUP),
                        () = group.exited() => break,
                    }
                }
                let end = group.end().await;
                let how = end.exit.map_or_else(|| "it does not end".to_owned(), |exit| exit.to_string());
                let log = spec.folder.file(file::LOG);
                tracing::warn!(log = %log.display(), "the fleet's nats-server ended ({how}); it is started again");
            }
            Err(failure) => match first.take() {
                Some(first) => drop(first.send(Err(failure))),
                None => {
                    tracing::warn!(code = %failure.code, hint = failure.hint, log = ?failure.log_tail, "{failure}");
                }
            },
        }
        if begun.elapsed() > STEADY {
            pause = PAUSES.0;
        }
        if stop.run_until_cancelled(sleep(pause)).await.is_none() {
            return;
        }
        pause = (pause * 2).min(PAUSES.1);
    }
}

/// Starts it, and waits until it accepts.
async fn start(spec: &Spec) -> Result<ChildGroup> {
    let (program, _) = find(spec.program.as_deref()).await?;
    check_free(spec.listen, "listen")?;
    let output = spec.folder.file(file::OUTPUT);
    let failed = |message: String| {
        let mut failure = Failure::new(Code::FleetServerFailed, message)
            .hint(format!("look at {}", spec.folder.file(file::LOG).display()));
        failure.log_tail = [&output, &spec.folder.file(file::LOG)]
            .into_iter()
            .flat_map(|path| last_lines(path, TAIL_LINES))
            .collect();
        failure
    };
    let out = disk::open(files::own().write(true).create(true).truncate(true), &output)
        .map_err(|error| Failure::io("write", &output, &error))?;
    let err = out.try_clone().map_err(|error| Failure::io("write", &output, &error))?;
    let mut command = spawn::command("sh");
    command.args(["-c", WITH_LIFELINE, "sh"]).arg(&program).arg("--config").arg(spec.folder.file(file::NATS));
    command.current_dir(spec.folder.path()).stdout(out).stderr(err);
    keep_secrets(&mut command);
    let mut group = ChildGroup::spawn(&mut command)
        .map_err(|error| failed("nats-server does not start".to_owned()).cause(&error))?;
    let accepts = async {
        while TcpStream::connect(from_here(spec.listen)).await.is_err() {
            sleep(LOOK).await;
        }
    };
    let ended = tokio::select! {
        accepted = timeout(ACCEPTS, accepts) => accepted.is_err().then_some("does not accept connections"),
        () = group.exited() => Some("ended before it accepted connections"),
    };
    match ended {
        None => Ok(group),
        Some(how) => {
            group.stop(GRACE).await;
            Err(failed(format!("the fleet's nats-server {how}")))
        }
    }
}

/// Refuses an address at which another program listens.
///
/// # Errors
/// [`Code::PortInUse`], naming the program; [`Code::InvalidField`] if this machine does not have the address.
pub(super) fn check_free(address: SocketAddr, field: &str) -> Result<()> {
    std::net::TcpListener::bind(address).map(drop).map_err(|error| not_bound(address, field, &error))
}

/// Why an address cannot be listened at, which a field of `FleetUp` names.
pub(super) fn not_bound(address: SocketAddr, field: &str, error: &std::io::Error) -> Failure {
    if error.kind() != std::io::ErrorKind::AddrInUse {
        return Failure::new(Code::InvalidField, format!("{field}: could not bind {address}: {error}"))
            .hint("give an address of this machine");
    }
    let holder = port_holder_in_words(address.port());
    let message = format!("port {} of the fleet is taken by {holder}", address.port());
    let flag = field.replace('_', "-");
    Failure::new(Code::PortInUse, message)
        .hint(format!("stop that process, or choose another address by `fleet up --{flag}`"))
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn program(dir: &Path, says: &str) -> PathBuf {
        let path = dir.join("nats-server");
        fs::write(&path, format!("#!/bin/sh\necho '{says}'\n")).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        path
    }

    #[tokio::test]
    async fn an_old_or_other_program_is_refused_with_what_to_do() {
        let dir = tempfile::tempdir().unwrap();
        for (says, told) in [
            ("nats-server: v2.12.1", None),
            ("nats-server: v2.11.0-RC.1", None),
            ("nats-server: v3.0.0", None),
            ("nats-server: v2.10.29", Some("is nats-server 2.10.29, which is too old")),
            ("hello", Some("is no nats-server")),
        ] {
            let found = find(Some(&program(dir.path(), says))).await;
            match told {
                None => drop(found.unwrap()),
                Some(told) => {
                    let failure = found.unwrap_err();
                    assert_eq!(failure.code, Code::FleetServerFailed);
                    assert!(failure.message.contains(told), "{failure}");
                    assert!(failure.hint.unwrap().contains("go install"));
                }
            }
        }
        let missing = find(Some(&dir.path().join("none"))).await.unwrap_err();
        assert!(missing.message.contains("does not start"), "{missing}");
    }

    #[test]
    fn an_address_is_reached_from_here() {
        for (listen, from) in
            [("0.0.0.0:1", "127.0.0.1:1"), ("[::]:1", "[::1]:1"), ("10.0.0.7:1", "10.0.0.7:1")]
        {
            assert_eq!(from_here(listen.parse().unwrap()).to_string(), from);
        }
    }
}
