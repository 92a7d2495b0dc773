//! `HiveCheck`: whether this hive works, and what to do about what does not.
//!
//! The first check is of the narration: it narrates from a task, a thread and a child process, and
//! reads its own job's log to see whether all three arrived.

use std::collections::HashSet;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::process::Stdio;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::net::{TcpStream, UnixStream};
use utoipa::ToSchema;

use super::operation::{Context, Deadline, Operation};
use crate::address::Address;
use crate::disk;
use crate::doctor;
use crate::error::{Failure, Result};
use crate::files;
use crate::jobs::event::Body;
use crate::jobs::{JobClass, OperationKind};
use crate::narration::{self, Level};
use crate::{n, spawn, text};

/// Asks for a report on the hive.
#[derive(Debug, Deserialize, Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct HiveCheck {}

/// The result of every check.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = HiveCheckResult)]
pub(super) struct CheckReport {
    /// Whether every check passed.
    ok: bool,
    hive_id: String,
    version: &'static str,
    /// One entry for each check.
    checks: Vec<Check>,
}

/// The result of one check.
#[derive(Debug, Serialize, ToSchema)]
struct Check {
    name: &'static str,
    ok: bool,
    /// What the check found.
    detail: String,
    /// What to do about it, if it failed.
    hint: Option<String>,
}

/// The actions of the narrations that must arrive: from a task, a thread and a child process.
const PROBES: [&str; 3] = ["probe_task", "probe_thread", "probe_child"];

/// The least free space for the store, in bytes: with less, hardly a model fits.
const LEAST_FREE_BYTES: u64 = 2 << 30;

impl Operation for HiveCheck {
    const NAME: &'static str = "HiveCheck";
    const VERB: &'static str = "check";
    const KIND: OperationKind = OperationKind::Read;
    const CLASS: JobClass = JobClass::Reads;
    const DEADLINE: Deadline = Deadline::Read;
    const HIVE_FIELD: &'static str = "alias";

    type Output = CheckReport;

    async fn run(self, cx: Context) -> Result<Self::Output> {
        n!("hive_check", "🩺 Checking hive '{}'", cx.hive_id);
        let probed = probe_child(&cx).await;
        // If the child cannot run, the check of the engines reports it.
        let probes = if probed.is_ok() { &PROBES[..] } else { &PROBES[..2] };
        let mut checks = vec![narration_path(&cx, probes).await];
        checks.push(Check::of("engines", engines(&cx, probed).await));
        checks.push(store(&cx).await);
        checks.push(Check::of("catalog", doctor::catalog(&cx.app).await));
        checks.push(Check::of("history", doctor::history(&cx.app)));
        checks.push(Check::of("folders", doctor::folders(&cx.app).await));
        checks.push(port(&cx).await);
        checks.push(Check::of("devices", doctor::devices().await));
        checks.push(Check::of("workers", doctor::workers(&cx.app)));
        checks.push(Check::of("sandbox", doctor::sandbox(&cx.app).await));
        checks.push(Check::of("limits", doctor::open_files()));
        checks.push(Check::of("clock", doctor::clock(&cx.app)));
        checks.push(Check::of("exposure", doctor::exposure(&cx.app)));
        checks.push(Check::of("proxy", doctor::proxy()));
        for check in &checks {
            let Check { name, detail, .. } = check;
            match &check.hint {
                _ if check.ok => n!("hive_check", "✅ {name}: {detail}"),
                Some(hint) => n!(warn: "hive_check", "⚠️ {name}: {detail}; {hint}"),
                None => n!(warn: "hive_check", "⚠️ {name}: {detail}"),
            }
        }
        Ok(CheckReport {
            ok: checks.iter().all(|check| check.ok),
            hive_id: cx.app.hive_id().to_owned(),
            version: env!("CARGO_PKG_VERSION"),
            checks,
        })
    }
}

impl Check {
    fn of(name: &'static str, found: Result<String>) -> Self {
        match found {
            Ok(detail) => Self { name, ok: true, detail, hint: None },
            Err(failure) => Self { name, ok: false, detail: failure.message, hint: failure.hint },
        }
    }
}

/// Runs the built-in worker's executable with `--version`, and narrates the line that it prints.
async fn probe_child(cx: &Context) -> Result<()> {
    let program = cx.app.config.worker_program()?;
    let failed = |error: std::io::Error| {
        Failure::io("run", &program, &error)
            .hint("the built-in engine is the hive's own executable: reinstall it, or set worker_program")
    };
    let mut child = spawn::command(&program)
        .arg("--version")
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .map_err(failed)?;
    let reader =
        child.stdout.take().map(|out| spawn::narrate_lines(out, Level::Info, PROBES[2], "A child: "));
    let status = child.wait().await.map_err(failed)?;
    if let Some(reader) = reader {
        // It ends when the child closes its end of the pipe.
        let _read = reader.await;
    }
    if !status.success() {
        return Err(Failure::internal(format!("{} --version ended with {status}", program.display()))
            .hint("set worker_program to the executable of rbee-hive"));
    }
    Ok(())
}

/// Whether the built-in engine and every engine of the settings run.
async fn engines(cx: &Context, builtin: Result<()>) -> Result<String> {
    builtin?;
    doctor::engines(&cx.app).await
}

/// Narrates from a task and a thread, and waits until this job's log has a narration of each probe.
async fn narration_path(cx: &Context, probes: &[&'static str]) -> Check {
    let found = async {
        let task = spawn::task(async {
            n!(PROBES[0], "A task: this line came from a spawned task");
            spawn::blocking(|| n!(PROBES[1], "A thread: this line came from a blocking thread")).await
        });
        let joined = task.await;
        if !matches!(joined, Ok(Ok(()))) {
            return Err(Failure::internal("a task or a thread of the check panicked"));
        }
        let job = cx.app.jobs.get(cx.job_id.as_str())?;
        let log = cx.app.jobs.log(&job).await?;
        let mut missing: HashSet<_> = probes.iter().copied().collect();
        let mut cursor = log.follow(0);
        let arrived = async {
            while !missing.is_empty() {
                let Some(batch) = cursor.next().await else { break };
                for event in batch.events {
                    if let Body::Narration { action, .. } = &event.body {
                        missing.remove(&**action);
                    }
                }
            }
        };
        let _in_time = tokio::time::timeout(Duration::from_secs(5), arrived).await;
        if !missing.is_empty() {
            return Err(Failure::internal(format!("narrations were lost from: {missing:?}"))
                .hint("this is a defect: please report it with this job's stream"));
        }
        let strays = narration::outside_jobs();
        Ok(format!("task, thread and child reach this stream; {strays} narration(s) outside a job so far"))
    };
    Check::of("narration", found.await)
}

/// Writes a file into the store and looks at the free space on its disk.
async fn store(cx: &Context) -> Check {
    let dir = cx.app.config.store_dir();
    let found = spawn::blocking(move || {
        let probe = dir.join(format!(".probe-{}", uuid::Uuid::new_v4().simple()));
        disk::write(&probe, b"probe")
            .and_then(|()| disk::remove_file(&probe))
            .map_err(|error| Failure::io("write to the store", &dir, &error))?;
        let free =
            files::free_bytes(&dir).map_err(|error| Failure::io("look at the disk of", &dir, &error))?;
        let detail = format!("{} is writable, {} free", dir.display(), text::bytes(free));
        if free < LEAST_FREE_BYTES {
            return Err(Failure::new(crate::error::Code::DiskFull, detail)
                .hint("free some space, or put --data-dir on a larger disk"));
        }
        Ok(detail)
    });
    Check::of("store", found.await.flatten())
}

/// Connects to the address that the hive serves on.
async fn port(cx: &Context) -> Check {
    let own = &cx.app.address;
    let connected = match own {
        Address::Tcp(address) => TcpStream::connect(reachable(*address)).await.map(drop),
        Address::Unix(path) => UnixStream::connect(path).await.map(drop),
    };
    let found = match connected {
        Ok(()) => Ok(format!("serving on {own}")),
        Err(error) => Err(Failure::new(
            crate::error::Code::Io,
            format!("could not connect to the hive's own address {own}: {error}"),
        )
        .hint("check the machine's firewall for loopback, and the limit of open files (ulimit -n)")),
    };
    Check::of("port", found)
}

/// The address at which this machine reaches a socket that is bound to `address`.
fn reachable(mut address: SocketAddr) -> SocketAddr {
    if address.ip().is_unspecified() {
        address.set_ip(match address {
            SocketAddr::V4(_) => Ipv4Addr::LOCALHOST.into(),
            SocketAddr::V6(_) => Ipv6Addr::LOCALHOST.into(),
        });
    }
    address
}
