//! The time that the hive adds to the start of a worker, and the processor time of an idle hive.
//!
//! **Start.** `WorkerSpawn`, from its POST to `[DONE]`, compared with the same worker without a hive:
//! the same program with the same arguments, whose report and health route are polled every
//! millisecond. The difference of each pair is the time that the hive adds to the engine's load time.
//!
//! **Idle.** The processor time of a daemon with one worker and one reader of heartbeats, in percent of
//! one core; first on the machine as it is, then with several hundred more sleeping processes, as a
//! user's machine has.
//!
//! `cargo bench --bench workers`. Linux only: it reads `/proc`.

#![expect(clippy::disallowed_methods, reason = "a bench runs other programs, outside any job")]
#![expect(clippy::print_stdout, reason = "figures are printed")]

mod daemon;
#[expect(dead_code, reason = "this bench compares differences, not ratios")]
mod paired;

use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use daemon::{Daemon, Killed, PROGRAM, get};
use paired::Spread;
use rbee_hive::engine::sample_model::{SampleModel, WeightType};
use serde_json::Value;

/// How many more sleeping processes a user's machine has.
const SLEEPERS: usize = 400;

fn main() {
    if !cfg!(target_os = "linux") {
        println!("nothing is measured on this system: the bench reads Linux's /proc");
        return;
    }
    let is_for_figures = paired::for_figures();
    let (pairs, idle) =
        if is_for_figures { (40, Duration::from_secs(30)) } else { (2, Duration::from_millis(300)) };
    let folder = tempfile::tempdir().expect("a folder");
    let models = folder.path().join("models");
    fs::create_dir(&models).expect("a folder");
    write(&models, "small", SampleModel::default());
    // Its load is long enough that the hive polls it at longer intervals.
    let large = SampleModel {
        embedding: 1024,
        feed_forward: 4096,
        layers: 16,
        heads: 16,
        kv_heads: 16,
        head_length: 64,
        kind: WeightType::F16,
        ..SampleModel::default()
    };
    if is_for_figures {
        write(&models, "large", large);
    }
    let daemon = Daemon::start(folder.path(), "off", &[]);
    // The first load searches for engines; it does not count.
    daemon.stop_worker(&daemon.spawn_worker("small", "builtin").1);

    println!("from WorkerSpawn to its end, and the same worker without a hive; milliseconds, {pairs} pairs");
    for model in ["small", "large"] {
        if models.join(format!("{model}.gguf")).exists() {
            start(&daemon, folder.path(), &models, model, pairs);
        }
    }
    println!("\nprocessor time of an idle daemon over {idle:?}, percent of one core (aim: 1)");
    let nothing = idle_cost(&daemon, idle);
    let worker = daemon.spawn_worker("small", "builtin").1;
    let worker_alone = idle_cost(&daemon, idle);
    let _heartbeats = heartbeats(&daemon);
    let with_reader = idle_cost(&daemon, idle);
    let sleepers = Sleepers::start(if is_for_figures { SLEEPERS } else { 3 });
    let with_sleepers = idle_cost(&daemon, idle);
    println!("no worker, no reader                                  {nothing:.3}");
    println!("one worker, no reader                                 {worker_alone:.3}");
    println!("one worker, one reader of heartbeats                  {with_reader:.3}");
    println!("the same, with {:3} more sleeping processes            {with_sleepers:.3}", sleepers.0.len());
    drop(sleepers);
    daemon.stop_worker(&worker);
}

fn write(models: &Path, name: &str, model: SampleModel) {
    let model = SampleModel { name: name.to_owned(), ..model };
    model.write(&models.join(format!("{name}.gguf"))).expect("a model");
}

fn start(daemon: &Daemon, folder: &Path, models: &Path, model: &str, pairs: usize) {
    let path = models.join(format!("{model}.gguf"));
    let mebibytes = fs::metadata(&path).expect("a model").len() >> 20;
    let hive = || {
        let (took, worker) = daemon.spawn_worker(model, "builtin");
        daemon.stop_worker(&worker);
        took
    };
    let bare = || bare_start(folder, &path);
    let (mut with, mut without, mut added) = (Vec::new(), Vec::new(), Vec::new());
    for pair in 0..=pairs {
        // The order alternates; the first pair does not count.
        let (hive, bare) = if pair % 2 == 0 {
            let hive = hive();
            (hive, bare())
        } else {
            let bare = bare();
            (hive(), bare)
        };
        if pair > 0 {
            with.push(hive * 1e3);
            without.push(bare * 1e3);
            added.push((hive - bare) * 1e3);
        }
    }
    println!("{model} model of {mebibytes} MiB");
    println!("  WorkerSpawn           {}", Spread::of(with));
    println!("  without a hive        {}", Spread::of(without));
    println!("  added (aim: 50)       {}", Spread::of(added));
}

/// Starts a worker without a hive; returns the seconds until it first answers that it is ready.
fn bare_start(folder: &Path, model: &Path) -> f64 {
    let report = folder.join("report.json");
    let begin = Instant::now();
    let child = Command::new(PROGRAM)
        .args(["worker", "--port=0", "--lifeline", "--slots=1"])
        .arg(format!("--model={}", model.display()))
        .arg(format!("--report={}", report.display()))
        .env("RBEE_WORKER_SECRET", "bench")
        .env("RAYON_NUM_THREADS", "1")
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn();
    let _worker = Killed(child.expect("a worker"));
    let port = loop {
        let report =
            fs::read_to_string(&report).ok().and_then(|text| serde_json::from_str::<Value>(&text).ok());
        match report.and_then(|report| report["port"].as_u64()) {
            Some(port) => break port,
            None => pause(begin),
        }
    };
    let address: SocketAddr = format!("127.0.0.1:{port}").parse().expect("an address");
    while !get(address, "/health").starts_with("HTTP/1.1 200") {
        pause(begin);
    }
    let took = begin.elapsed().as_secs_f64();
    fs::remove_file(&report).expect("the report");
    took
}

fn pause(since: Instant) {
    assert!(since.elapsed() < Duration::from_secs(60), "the worker does not become ready");
    std::thread::sleep(Duration::from_millis(1));
}

/// Processes that sleep.
struct Sleepers(Vec<Killed>);

impl Sleepers {
    fn start(count: usize) -> Self {
        let one = || Command::new("sleep").arg("1000").stdin(Stdio::null()).spawn().map(Killed);
        Self((0..count).map(|_| one().expect("a process")).collect())
    }
}

/// Reads heartbeats on a thread that ends when the socket is closed.
fn heartbeats(daemon: &Daemon) -> TcpStream {
    let mut stream = TcpStream::connect(daemon.address).expect("the server accepts");
    let request = format!("GET /v1/heartbeats/stream HTTP/1.1\r\nHost: {}\r\n\r\n", daemon.address);
    stream.write_all(request.as_bytes()).expect("the server reads");
    let mut reader = stream.try_clone().expect("a socket");
    std::thread::spawn(move || {
        let mut chunk = [0; 8192];
        while matches!(reader.read(&mut chunk), Ok(1..)) {}
    });
    stream
}

/// The processor time that the daemon has used so far.
fn processor_time(daemon: &Daemon) -> Duration {
    // Fields 14 and 15 of proc_pid_stat(5), after the name in parentheses, in ticks of 10 ms.
    let path = PathBuf::from(format!("/proc/{}/stat", daemon.pid()));
    let stat = fs::read_to_string(path).expect("the daemon runs");
    let fields: Vec<_> = stat.rsplit(')').next().expect("fields").split_whitespace().collect();
    let ticks = |field: usize| fields[field - 3].parse::<u64>().expect("a number");
    Duration::from_millis((ticks(14) + ticks(15)) * 10)
}

/// Percent of one core that the daemon uses over this time.
fn idle_cost(daemon: &Daemon, over: Duration) -> f64 {
    // Earlier operations may still be finishing.
    std::thread::sleep(over / 20);
    let (before, begin) = (processor_time(daemon), Instant::now());
    std::thread::sleep(over);
    let took = processor_time(daemon) - before;
    took.as_secs_f64() / begin.elapsed().as_secs_f64() * 100.0
}
