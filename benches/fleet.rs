//! What a fleet costs: a job on another hive against the same job at home, side by side, with real hives and a real
//! nats-server on loopback. And a model to three hives of a fleet against the same model to one hive alone, over a line of
//! 100 MB/s that all share, as an internet connection is.
//!
//! Needs a nats-server: `.ci/clients nats` builds one, or `RBEE_TEST_NATS_SERVER` names it.

#![expect(clippy::disallowed_methods, reason = "a bench starts the servers that it measures")]
#![expect(clippy::print_stdout, reason = "figures are printed")]
#![expect(dead_code, reason = "the shared parts have more than this bench needs")]

mod daemon;
mod line;
mod memory;
mod paired;

use std::ffi::OsStr;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use daemon::{Daemon, Killed, PROGRAM};
use line::Line;
use memory::resident_bytes;

fn nats_server() -> PathBuf {
    let built = Path::new(PROGRAM)
        .parent()
        .and_then(Path::parent)
        .map(|target| target.join("clients/nats/nats-server"));
    let named = std::env::var_os("RBEE_TEST_NATS_SERVER").map(PathBuf::from);
    named.or(built.filter(|file| file.is_file())).unwrap_or_else(|| "nats-server".into())
}

/// Starts a nats-server that writes each message to the disk before it acknowledges it.
fn start_nats(dir: &Path) -> (Killed, String) {
    let port =
        TcpListener::bind("127.0.0.1:0").expect("a free port").local_addr().expect("an address").port();
    let config = dir.join("nats.conf");
    let store = dir.join("jetstream");
    let text = format!(
        "listen: \"127.0.0.1:{port}\"\njetstream {{ store_dir: \"{}\", sync_interval: always }}\n",
        store.display()
    );
    std::fs::write(&config, text).expect("a file");
    let child = Command::new(nats_server())
        .arg("--config")
        .arg(&config)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("a nats-server");
    (Killed(child), format!("nats://127.0.0.1:{port}"))
}

fn start_hive(dir: &Path, name: &str, nats: Option<&str>) -> Daemon {
    let folder = dir.join(name);
    std::fs::create_dir_all(folder.join("models")).expect("a folder");
    let config = folder.join("hive.toml");
    let text = nats.map_or_else(String::new, |nats| format!("[fleet]\nnats = \"{nats}\"\n"));
    std::fs::write(&config, text).expect("a file");
    let arguments = ["--config".as_ref(), config.as_os_str(), "--hive-id".as_ref(), OsStr::new(name)];
    Daemon::start(&folder, "warn", &arguments)
}

/// Waits until a hive can reach that many.
fn sees(hive: &Daemon, wanted: usize) {
    let begin = Instant::now();
    loop {
        let (_, status) = hive.run(&json!({ "FleetStatus": {} }));
        if status["hives"].as_array().is_some_and(|hives| hives.len() == wanted) {
            return;
        }
        assert!(begin.elapsed() < Duration::from_secs(30), "{status}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

fn median(mut times: Vec<f64>) -> f64 {
    times.sort_by(f64::total_cmp);
    times[times.len() / 2] * 1e3
}

/// The medians, in milliseconds, of the operation at home and by way of the other hive, taken in turns.
fn measure(jobs: usize, home: &Daemon, other: &Daemon, operation: impl Fn(&str) -> Value) -> (f64, f64) {
    let (mut at_home, mut elsewhere) = (Vec::new(), Vec::new());
    for _ in 0..jobs {
        at_home.push(home.run(&operation("localhost")).0);
        elsewhere.push(other.run(&operation("b")).0);
    }
    (median(at_home), median(elsewhere))
}

fn read(hive: &str) -> Value {
    json!({ "ResidencyGet": { "hive_id": hive } })
}

fn act(hive: &str) -> Value {
    json!({ "MemoryLease": { "hive_id": hive, "bytes": 1, "seconds": 1 } })
}

/// The line to the internet, in bytes a second.
const LINE: f64 = 100e6;

/// Seconds until every hive has the model, which all want at once, and what the line carried of it, in sizes of it.
fn download(line: &Line, hives: &[&Daemon]) -> (f64, f64) {
    line.sent();
    let request = json!({ "ModelDownload": { "model": line.source } });
    let begin = Instant::now();
    std::thread::scope(|scope| {
        for hive in hives {
            let request = &request;
            scope.spawn(move || hive.run(request));
        }
    });
    let took = begin.elapsed().as_secs_f64();
    let carried = line.sent() as f64 / line.size as f64;
    for hive in hives {
        hive.run(&json!({ "ModelDelete": { "id": "model" } }));
    }
    (took, carried)
}

fn measure_downloads(alone: &Daemon, fleet: [&Daemon; 3]) {
    let (size, rounds) = if paired::for_figures() { (1 << 30, 3) } else { (8 << 20, 1) };
    let line = Line::serve(size, LINE);
    println!("a model of {size} bytes, over a line of {LINE:.0} bytes/s");
    for round in 1..=rounds {
        let (one, _) = download(&line, &[alone]);
        let (three, carried) = download(&line, &fleet);
        println!(
            "  round {round}: to one hive {one:.2} s, to three of a fleet {three:.2} s (times {:.2}; 1.2 is the aim); \
             the line carried {carried:.2} of it",
            three / one
        );
    }
}

fn main() {
    let jobs = if paired::for_figures() { 300 } else { 3 };
    let dir = tempfile::tempdir().expect("a temporary folder");
    let (nats, url) = start_nats(dir.path());
    std::thread::sleep(Duration::from_millis(500));
    let alone = start_hive(dir.path(), "alone", None);
    let (a, b) = (start_hive(dir.path(), "a", Some(&url)), start_hive(dir.path(), "b", Some(&url)));
    sees(&a, 2);
    sees(&b, 2);
    println!("from POST to [DONE], {jobs} jobs each, in turns; medians in ms");
    for (name, operation) in [("a read", read as fn(&str) -> Value), ("an act", act)] {
        for round in 1..=3 {
            let (home, other) = measure(jobs, &b, &a, operation);
            println!(
                "  {name}, round {round}: at home {home:.2}, by another hive {other:.2}, added {:.2}",
                other - home
            );
        }
    }
    let mib = |hive: &Daemon| {
        resident_bytes(&hive.pid().to_string(), "Rss").map_or(f64::NAN, |bytes| bytes / f64::from(1 << 20))
    };
    println!("resident memory: alone {:.1} MiB, in a fleet of two {:.1} MiB", mib(&alone), mib(&b));
    let c = start_hive(dir.path(), "c", Some(&url));
    for hive in [&a, &b, &c] {
        sees(hive, 3);
    }
    measure_downloads(&alone, [&a, &b, &c]);
    drop((alone, a, b, c));
    drop(nats);
}
