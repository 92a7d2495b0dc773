//! What a fleet costs, with real hives and a real nats-server on loopback:
//!
//! - a job on another hive against the same job at home, side by side;
//! - the first byte of a chat by way of another hive against that hive itself, side by side, over HTTP on loopback and with
//!   mutual TLS;
//! - how many events of acts a second a hive publishes;
//! - a model to three hives of a fleet against the same model to one hive alone, over a line of 100 MB/s that all share, as
//!   an internet connection is;
//! - what a hive remembers of a hundred others, of which only their entries in the buckets are there.
//!
//! Needs a nats-server: `.ci/clients nats` builds one, or `RBEE_TEST_NATS_SERVER` names it.

#![expect(clippy::disallowed_methods, reason = "a bench starts the servers that it measures")]
#![expect(clippy::print_stdout, reason = "figures are printed")]
#![expect(dead_code, reason = "the shared parts have more than this bench needs")]

mod daemon;
mod gguf;
mod line;
mod memory;
mod paired;

use std::ffi::OsStr;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use daemon::{Daemon, Killed, PROGRAM, get};
use line::Line;
use memory::resident_bytes;
use rbee_hive::engine::sample_model::SampleModel;
use tokio::runtime::Runtime;

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
    let settings = nats.map_or_else(String::new, |nats| format!("[fleet]\nnats = \"{nats}\"\n"));
    start_with(dir, name, &settings)
}

fn start_with(dir: &Path, name: &str, settings: &str) -> Daemon {
    let folder = dir.join(name);
    std::fs::create_dir_all(folder.join("models")).expect("a folder");
    let config = folder.join("hive.toml");
    std::fs::write(&config, settings).expect("a file");
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

/// A connection that is kept, over which chats are sent.
struct Chats {
    connection: TcpStream,
    request: String,
}

impl Chats {
    fn with(hive: &Daemon) -> Self {
        let connection = TcpStream::connect(hive.address).expect("the hive accepts");
        connection.set_nodelay(true).expect("an open socket");
        let body = json!({ "model": "m", "stream": true, "max_tokens": 1, "temperature": 0,
                           "messages": [{ "role": "user", "content": "Hello" }] })
        .to_string();
        let request = format!(
            "POST /v1/chat/completions HTTP/1.1\r\nHost: {}\r\nContent-Type: application/json\r\n\
             Content-Length: {}\r\n\r\n{body}",
            hive.address,
            body.len()
        );
        Self { connection, request }
    }

    /// The seconds to the first event of an answer, which is then read to its end.
    fn first_event(&mut self) -> f64 {
        let begin = Instant::now();
        self.connection.write_all(self.request.as_bytes()).expect("the hive reads");
        let (mut answer, mut first) = (Vec::new(), None);
        // The last chunk (RFC 9112, section 7.1).
        while !answer.ends_with(b"\r\n0\r\n\r\n") {
            let mut piece = [0; 16 << 10];
            let read = self.connection.read(&mut piece).expect("an answer");
            assert!(read > 0, "the hive hung up: {}", String::from_utf8_lossy(&answer));
            answer.extend_from_slice(&piece[..read]);
            if first.is_none() && answer.windows(6).any(|window| window == b"data: ") {
                first = Some(begin.elapsed().as_secs_f64());
            }
        }
        assert!(answer.starts_with(b"HTTP/1.1 200"), "{}", String::from_utf8_lossy(&answer));
        first.expect("an event")
    }
}

/// Waits until a hive has heard of a worker that serves the model.
fn hears_of_a_worker(hive: &Daemon) {
    let begin = Instant::now();
    while !get(hive.address, "/v1/models/m").contains("\"loaded\":true") {
        assert!(begin.elapsed() < Duration::from_secs(30), "no word of the model");
        std::thread::sleep(Duration::from_millis(50));
    }
}

fn chats(chats: usize, home: &Daemon, other: &Daemon) {
    home.run(&json!({ "ModelLoad": { "id": "m" } }));
    hears_of_a_worker(other);
    let (mut straight, mut around) = (Chats::with(home), Chats::with(other));
    for round in 1..=3 {
        let (mut at_home, mut elsewhere) = (Vec::new(), Vec::new());
        for _ in 0..chats {
            at_home.push(straight.first_event());
            elsewhere.push(around.first_event());
        }
        let (at_home, elsewhere) = (median(at_home), median(elsewhere));
        println!(
            "  first event of a chat, round {round}: at home {at_home:.2}, by another hive {elsewhere:.2}, added {:.2}",
            elsewhere - at_home
        );
    }
}

/// Two hives of a fleet that one of them has made, whose certificates let them ask each other over TLS.
fn with_certificates(dir: &Path) -> (Daemon, Daemon) {
    const SECRET: &str = "a-secret-of-an-invitation";
    let settings = format!("[fleet]\nserver = {:?}\nlisten = \"127.0.0.1:0\"\n", nats_server());
    let (home, other) = (start_with(dir, "home", &settings), start_with(dir, "other", &settings));
    let sha256: String = Sha256::digest(SECRET).iter().map(|byte| format!("{byte:02x}")).collect();
    let up = json!({ "FleetUp": { "listen": "127.0.0.1:0", "join_listen": "127.0.0.1:0", "advertise": "127.0.0.1",
                                  "sha256": sha256 } });
    let (_, hosted) = home.run(&up);
    let line = hosted["invitation"]["join"].as_str().expect("a line").to_owned();
    let words: Vec<_> = line.split(' ').collect();
    other.run(&json!({ "FleetJoin": { "address": words[3], "code": format!("{}{SECRET}", words[4]) } }));
    for hive in [&home, &other] {
        sees(hive, 2);
    }
    (home, other)
}

/// Acts from several callers at once, until all their events are in the stream.
fn events(acts: usize, hive: &Daemon) {
    const CALLERS: usize = 8;
    let begin = Instant::now();
    std::thread::scope(|scope| {
        for _ in 0..CALLERS {
            scope.spawn(|| {
                for _ in 0..acts.div_ceil(CALLERS) {
                    hive.run(&act("localhost"));
                }
            });
        }
    });
    let made = begin.elapsed().as_secs_f64();
    while hive.run(&json!({ "FleetStatus": {} })).1["unpublished"] != 0 {
        std::thread::sleep(Duration::from_millis(5));
    }
    let published = begin.elapsed().as_secs_f64();
    let jobs = acts.div_ceil(CALLERS) * CALLERS;
    let listed = get(hive.address, "/v1/jobs?operation=memory_lease&limit=1");
    let id = listed.split("\"job_id\":\"").nth(1).and_then(|rest| rest.split('"').next()).expect("a job");
    let stream = get(hive.address, &format!("/v1/jobs/{id}/stream?format=json"));
    let each = stream.lines().filter(|line| line.starts_with("id: ")).count();
    let rate = (jobs * each) as f64 / published;
    println!(
        "  {jobs} acts of {each} events each, by {CALLERS} callers at once: {made:.2} s, all published after \
         {published:.2} s, {rate:.0} events a second"
    );
}

/// Entries of so many hives, with so many models each, as the hives themselves would write them.
fn simulate(runtime: &Runtime, nats: &str, hives: usize, models: usize) {
    runtime.block_on(async {
        let client = async_nats::connect(nats).await.expect("the server");
        let stream = async_nats::jetstream::new(client);
        let bucket = async |name: &str| stream.get_key_value(name).await.expect("a bucket");
        let (in_hives, in_models, in_workers) =
            (bucket("rbee_home_hives").await, bucket("rbee_home_models").await, bucket("rbee_home_workers").await);
        for hive in 0..hives {
            let name = format!("sim-{hive}");
            let served: Value = (0..4).map(|i| (format!("model-{i}"), json!({ "ready": 1, "slots": 4 }))).collect();
            let workers = json!({ "on_demand": true, "served": served });
            in_workers.put(&name, workers.to_string().into()).await.expect("an entry");
            for model in 0..models {
                let id = format!("org/some-model-{model}-GGUF:Q4_K_M");
                let sha256 = format!("{model:064x}");
                let record = json!({
                    "id": id, "name": format!("some-model-{model}-q4_k_m"), "size_bytes": 4_683_073_184_u64,
                    "path": "", "source": "hf:org/some-model-GGUF", "revision": "0123456789abcdef0123456789abcdef01234567",
                    "format": "gguf", "architecture": "llama", "quantization": "Q4_K_M",
                    "parameter_count": 8_030_261_312_u64, "context_length": 131_072,
                    "capabilities": ["chat", "completions", "tools"], "loaded": false, "status": "available",
                    "added_at": "2026-01-01T00:00:00.000Z", "sha256": sha256,
                });
                in_models.put(format!("{name}.{model:032x}"), record.to_string().into()).await.expect("an entry");
            }
            let record = json!({
                "hive": name, "folder": name, "run": name, "version": "0.1.0", "hostname": name, "pid": 1,
                "url": "http://10.0.0.1:7835", "direct": "https://10.0.0.1:7837", "platform": "linux-x86_64",
                "devices": [{ "device": "cpu", "capacity_bytes": 1_u64 << 38, "free_bytes": 1_u64 << 37 },
                            { "device": "cuda:0", "capacity_bytes": 1_u64 << 36, "free_bytes": 1_u64 << 35 }],
                "models": models, "workers": 4, "jobs": 1,
            });
            in_hives.put(&name, record.to_string().into()).await.expect("an entry");
        }
    });
}

fn mib(hive: &Daemon) -> f64 {
    resident_bytes(&hive.pid().to_string(), "Rss").map_or(f64::NAN, |bytes| bytes / f64::from(1 << 20))
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
    for hive in ["b", "home"] {
        let models = dir.path().join(hive).join("models");
        std::fs::create_dir_all(&models).expect("a folder");
        let model = SampleModel { name: "m".to_owned(), ..SampleModel::default() };
        model.write(&models.join("m.gguf")).expect("a model");
    }
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
    // As many of the same jobs as the hive of the fleet has run: three rounds of each, at home and for the other.
    for operation in [read as fn(&str) -> Value, act] {
        measure(3 * jobs, &alone, &alone, |_| operation("localhost"));
    }
    println!(
        "resident memory after these jobs: alone {:.1} MiB, in a fleet of two {:.1} MiB",
        mib(&alone),
        mib(&b)
    );
    println!(
        "chats over connections that are kept, {jobs} each, in turns; medians in ms; HTTP between the hives"
    );
    chats(jobs, &b, &a);
    println!("the same with mutual TLS between the hives");
    let (home, other) = with_certificates(dir.path());
    chats(jobs, &home, &other);
    drop((other, home));
    println!("events");
    events(jobs * 4, &b);
    let c = start_hive(dir.path(), "c", Some(&url));
    for hive in [&a, &b, &c] {
        sees(hive, 3);
    }
    measure_downloads(&alone, [&a, &b, &c]);
    drop((alone, a, b, c));
    let runtime = Runtime::new().expect("a runtime");
    let d = start_hive(dir.path(), "d", Some(&url));
    sees(&d, 1);
    std::thread::sleep(Duration::from_secs(2));
    let before = mib(&d);
    let (hives, models) = if paired::for_figures() { (100, 20) } else { (3, 2) };
    simulate(&runtime, &url, hives, models);
    sees(&d, hives + 1);
    std::thread::sleep(Duration::from_secs(2));
    println!(
        "resident memory with {hives} other hives of {models} models each: {:.1} MiB, {:.1} more than without them",
        mib(&d),
        mib(&d) - before
    );
    drop(d);
    drop(nats);
}
