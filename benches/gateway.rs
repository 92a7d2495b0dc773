//! What the gateway adds to a request: straight to a scripted worker, and through the hive to the same worker.
//!
//! The scripted worker is this program in another process. It answers a chat completion at once, with two
//! events and `[DONE]`, so that nothing but the road to it is measured. The hive is a real daemon with its
//! default settings and log level, and starts the worker as an engine of its settings.
//!
//! - **Latency**: [`RATE`] requests a second over [`CONNECTIONS`] connections that are kept alive. A request's
//!   time runs from the moment at which it was due, so a server that stalls is charged for the requests behind.
//! - **Throughput**: as many requests as [`CLIENTS`] connections can make, each waiting for its answer.
//! - **Open streams**: the resident anonymous memory that each adds to the daemon.
//! - **Swaps**: two models, of which the memory limit admits one, are asked for in turn. The time from the
//!   request to its first byte, less what the scripted worker takes to stop and to start without a hive.
//! - **`LiteLLM`'s proxy**, where `RBEE_HIVE_BENCH_LITELLM` names its executable: the same latency and
//!   throughput, at a lower rate.
//!
//! `cargo bench --bench gateway`. Linux only: it reads `/proc`.

#![expect(clippy::disallowed_methods, reason = "a bench runs other programs, outside any job")]
#![expect(clippy::print_stdout, reason = "figures are printed")]

#[expect(dead_code, reason = "this bench starts workers by requests, too")]
mod daemon;
mod memory;
#[expect(dead_code, reason = "this bench compares slices, not single samples")]
mod paired;

use std::convert::Infallible;
use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use axum::body::Body;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::serve::ListenerExt;
use axum::{Json, Router};
use daemon::{Daemon, Killed};
use futures::future::join_all;
use futures::{StreamExt, stream};
use memory::resident_bytes;
use paired::Spread;
use rbee_hive::engine::sample_model::SampleModel;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Runtime;
use tokio::time::sleep_until;

/// The argument that makes this program the scripted worker.
const WORKER: &str = "--scripted-worker";
/// Requests a second, and the connections that share them.
const RATE: u32 = 1000;
const CONNECTIONS: u32 = 50;
/// Connections of the throughput, and requests of each in a slice.
const CLIENTS: usize = 32;
const EACH: usize = 200;
/// Open streams whose memory is measured, and those opened before.
const STREAMS: usize = 1000;
const STREAMS_BEFORE: usize = 100;
/// The variable that tells the scripted worker how many bytes to hold, and what it holds for swaps: so much that one
/// worker is within the limit, and two are not.
const HOLDS: &str = "SCRIPTED_WORKER_HOLDS";
const HELD: usize = 64 << 20;
const LIMIT: &str =
    "[memory]\nlimit = { cpu = \"80MiB\" }\n[residency]\nmin_stay = \"1ms\"\nlinger = \"1ms\"\n";
/// The rate for `LiteLLM`'s proxy.
const PROXY_RATE: u32 = 100;

/// How much is measured.
struct Extent {
    slices: usize,
    slice: Duration,
    each: usize,
    streams: usize,
    swaps: usize,
}

fn main() {
    let mut arguments = std::env::args().skip_while(|argument| argument != WORKER).skip(1);
    if let Some(port) = arguments.next() {
        return runtime().block_on(scripted_worker(port.parse().expect("a port")));
    }
    if !cfg!(target_os = "linux") {
        println!("nothing is measured on this system: the bench reads Linux's /proc");
        return;
    }
    let extent = if paired::for_figures() {
        Extent { slices: 20, slice: Duration::from_secs(2), each: EACH, streams: STREAMS, swaps: 20 }
    } else {
        Extent { slices: 1, slice: Duration::from_millis(200), each: 5, streams: 10, swaps: 1 }
    };
    let folder = tempfile::tempdir().expect("a folder");
    write_models(folder.path());
    let runtime = runtime();
    through_the_hive(&runtime, folder.path(), &extent);
    swaps(&runtime, folder.path(), &extent);
}

/// A model, its worker, and a server in front of it.
struct Road {
    name: &'static str,
    address: SocketAddr,
    /// The model's name there.
    model: &'static str,
    /// Sent as a bearer token.
    key: &'static str,
}

fn through_the_hive(runtime: &Runtime, folder: &Path, extent: &Extent) {
    let settings = folder.join("plain.toml");
    fs::write(&settings, engine(0)).expect("the settings");
    let daemon = Daemon::start(folder, "info", &["--config".as_ref(), settings.as_os_str()]);
    let (_, worker) = daemon.spawn_worker("a", "scripted");
    let port = u16::try_from(worker["port"].as_u64().expect("a port")).expect("a port");
    let address = SocketAddr::from(([127, 0, 0, 1], port));
    let straight = Road { name: "straight", address, model: "a", key: "none" };
    let hive = Road { name: "hive", address: daemon.address, model: "a", key: "none" };

    println!("time to the first byte at {RATE} requests a second, {} slices, milliseconds", extent.slices);
    compare_latency(runtime, &hive, &straight, RATE, extent);
    println!("requests a second of {CLIENTS} clients, {} slices", extent.slices);
    compare_throughput(runtime, &hive, &straight, extent);
    open_streams(runtime, &hive, daemon.pid(), extent.streams);
    if let Some(program) = std::env::var_os("RBEE_HIVE_BENCH_LITELLM") {
        let (address, _proxy) = litellm(folder, Path::new(&program), straight.address);
        let proxy = Road { name: "LiteLLM", address, model: "a", key: "sk-bench" };
        let extent = Extent { slices: extent.slices.div_ceil(2), each: extent.each.div_ceil(10), ..*extent };
        println!("time to the first byte at {PROXY_RATE} requests a second, milliseconds");
        compare_latency(runtime, &proxy, &straight, PROXY_RATE, &extent);
        compare_latency(runtime, &hive, &straight, PROXY_RATE, &extent);
        println!("requests a second of {CLIENTS} clients");
        compare_throughput(runtime, &proxy, &straight, &extent);
    }
}

/// Measures slices of both in turn; the one that comes first alternates.
fn in_turn<T>(slices: usize, mut a: impl FnMut() -> T, mut b: impl FnMut() -> T) -> Vec<(T, T)> {
    a();
    b();
    let pair = |slice| {
        if slice % 2 == 0 {
            let a = a();
            (a, b())
        } else {
            let b = b();
            (a(), b)
        }
    };
    (0..slices).map(pair).collect()
}

fn compare_latency(runtime: &Runtime, through: &Road, straight: &Road, rate: u32, extent: &Extent) {
    let slice = |road: &Road| runtime.block_on(latencies(road, rate, extent.slice));
    let pairs = in_turn(extent.slices, || slice(through), || slice(straight));
    for (name, quantile) in [("p50", 0.5), ("p99", 0.99)] {
        let at = |of: &Spread| of.at(quantile) * 1e3;
        println!("  {name}  {:9}  {}", through.name, Spread::of(pairs.iter().map(|(a, _)| at(a))));
        println!("  {name}  {:9}  {}", straight.name, Spread::of(pairs.iter().map(|(_, b)| at(b))));
        println!("  {name}  added      {}", Spread::of(pairs.iter().map(|(a, b)| at(a) - at(b))));
    }
}

fn compare_throughput(runtime: &Runtime, through: &Road, straight: &Road, extent: &Extent) {
    let slice = |road: &Road| runtime.block_on(throughput(road, extent.each));
    let pairs = in_turn(extent.slices, || slice(through), || slice(straight));
    println!("  {:9}  {}", through.name, Spread::of(pairs.iter().map(|(a, _)| *a)));
    println!("  {:9}  {}", straight.name, Spread::of(pairs.iter().map(|(_, b)| *b)));
    println!("  ratio      {}", Spread::of(pairs.iter().map(|(a, b)| a / b)));
}

/// The seconds to the first byte of each answer.
async fn latencies(road: &Road, rate: u32, over: Duration) -> Spread {
    let every = Duration::from_secs(1) * CONNECTIONS / rate;
    let begin = Instant::now() + Duration::from_millis(50);
    let clients = (0..CONNECTIONS).map(|client| async move {
        let mut connection = Connection::open(road).await;
        let mut due = begin + every * client / CONNECTIONS;
        let mut seconds = Vec::new();
        while due < begin + over {
            sleep_until(due.into()).await;
            connection.ask(false).await;
            connection.first_byte().await;
            seconds.push(due.elapsed().as_secs_f64());
            connection.rest().await;
            due += every;
        }
        seconds
    });
    Spread::of(join_all(clients).await.into_iter().flatten())
}

/// Answers a second.
async fn throughput(road: &Road, each: usize) -> f64 {
    let mut connections = Vec::new();
    for _ in 0..CLIENTS {
        connections.push(Connection::open(road).await);
    }
    let begin = Instant::now();
    join_all(connections.iter_mut().map(|connection| async {
        for _ in 0..each {
            connection.ask(false).await;
            connection.first_byte().await;
            connection.rest().await;
        }
    }))
    .await;
    #[expect(clippy::cast_precision_loss, reason = "a small number")]
    let count = (CLIENTS * each) as f64;
    count / begin.elapsed().as_secs_f64()
}

fn open_streams(runtime: &Runtime, hive: &Road, pid: u32, count: usize) {
    let mut open = Vec::new();
    let mut add = |count: usize| {
        runtime.block_on(async {
            for _ in 0..count {
                let mut connection = Connection::open(hive).await;
                connection.ask(true).await;
                connection.first_byte().await;
                open.push(connection);
            }
        });
        resident_bytes(&pid.to_string(), "Anonymous").expect("Linux tells it")
    };
    // The first ones also allocate what the others share.
    let before = add(STREAMS_BEFORE.min(count));
    let after = add(count);
    #[expect(clippy::cast_precision_loss, reason = "a small number")]
    let each = (after - before) / count as f64 / 1024.0;
    println!("{count} open streams through the hive\n  {each:.1} KiB each");
}

fn swaps(runtime: &Runtime, folder: &Path, extent: &Extent) {
    let settings = folder.join("swaps.toml");
    fs::write(&settings, format!("{LIMIT}{}", engine(HELD))).expect("the settings");
    let daemon = Daemon::start(folder, "info", &["--config".as_ref(), settings.as_os_str()]);
    let hive = |model| Road { name: "hive", address: daemon.address, model, key: "none" };
    let first_byte = |model| {
        runtime.block_on(async {
            let road = hive(model);
            let mut connection = Connection::open(&road).await;
            let begin = Instant::now();
            connection.ask(false).await;
            connection.first_byte().await;
            let took = begin.elapsed().as_secs_f64() * 1e3;
            connection.rest().await;
            (took, connection.worker())
        })
    };
    let mut last = ["a", "b"].map(|model| first_byte(model).1);
    let (mut swaps, mut bare, mut added) = (Vec::new(), Vec::new(), Vec::new());
    for swap in 0..extent.swaps {
        let (took, worker) = first_byte(["a", "b"][swap % 2]);
        assert_ne!(worker, last[swap % 2], "the worker is a new one");
        last[swap % 2] = worker;
        let without = stop_and_start() * 1e3;
        swaps.push(took);
        bare.push(without);
        added.push(took - without);
    }
    println!("a swap of two models, {} swaps, milliseconds", extent.swaps);
    println!("  hive                    {}", Spread::of(swaps));
    println!("  worker alone            {}", Spread::of(bare));
    println!("  added (aim: 50)         {}", Spread::of(added));
}

/// The seconds that the scripted worker takes to stop after SIGTERM, and to start and answer its health route.
fn stop_and_start() -> f64 {
    let start = || {
        let free = std::net::TcpListener::bind(("127.0.0.1", 0)).expect("a free port");
        let address = free.local_addr().expect("a bound listener");
        drop(free);
        let begin = Instant::now();
        let program = std::env::current_exe().expect("this program");
        let port = address.port().to_string();
        let worker = Command::new(program).args([WORKER, &port]).env(HOLDS, HELD.to_string()).spawn();
        let worker = Killed(worker.expect("the worker"));
        while std::net::TcpStream::connect(address).is_err() {
            std::thread::sleep(Duration::from_millis(1));
        }
        assert!(daemon::get(address, "/health").starts_with("HTTP/1.1 200"));
        (worker, begin.elapsed())
    };
    let (mut worker, started) = start();
    let begin = Instant::now();
    let pid = i32::try_from(worker.0.id()).ok().and_then(Pid::from_raw).expect("a process id");
    kill_process(pid, Signal::TERM).expect("it runs");
    worker.0.wait().expect("it ends");
    (begin.elapsed() + started).as_secs_f64()
}

/// `LiteLLM`'s proxy in front of the worker.
fn litellm(folder: &Path, program: &Path, worker: SocketAddr) -> (SocketAddr, Killed) {
    let settings = folder.join("litellm.yaml");
    let model = json!({"model_name": "a", "litellm_params": {"model": "openai/a", "api_key": "none",
                       "api_base": format!("http://{worker}/v1")}});
    // JSON is YAML.
    let text = json!({"model_list": [model], "general_settings": {"master_key": "sk-bench"}}).to_string();
    fs::write(&settings, text).expect("its settings");
    let free = std::net::TcpListener::bind(("127.0.0.1", 0)).expect("a free port");
    let address = free.local_addr().expect("a bound listener");
    drop(free);
    let proxy = Command::new(program)
        .arg("--config")
        .arg(&settings)
        .args(["--host", "127.0.0.1", "--port", &address.port().to_string(), "--telemetry", "False"])
        .env("LITELLM_LOCAL_MODEL_COST_MAP", "True")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn();
    let proxy = Killed(proxy.expect("LiteLLM's proxy"));
    let begin = Instant::now();
    while std::net::TcpStream::connect(address).is_err() {
        assert!(begin.elapsed() < Duration::from_secs(120), "LiteLLM's proxy does not start");
        std::thread::sleep(Duration::from_millis(50));
    }
    (address, proxy)
}

fn write_models(folder: &Path) {
    let models = folder.join("models");
    fs::create_dir(&models).expect("a folder");
    for name in ["a", "b"] {
        let model = SampleModel { name: name.to_owned(), ..SampleModel::default() };
        model.write(&models.join(format!("{name}.gguf"))).expect("a model");
    }
}

/// The scripted worker as an engine in the settings. It holds so many bytes.
fn engine(holds: usize) -> String {
    let program = std::env::current_exe().expect("this program");
    // An engine must take the model; the scripted one does not look at it.
    let command = json!([program, WORKER, "{port}", "{model}"]);
    format!(
        "[engines.scripted]\ncommand = {command}\ndevices = [\"cpu\"]\nenv = {{ {HOLDS} = \"{holds}\" }}\n[models.a]\nengine = \"scripted\"\n[models.b]\nengine = \"scripted\"\n"
    )
}

/// One connection, kept alive.
struct Connection {
    stream: TcpStream,
    request: [String; 2],
    answer: Vec<u8>,
}

impl Connection {
    async fn open(road: &Road) -> Self {
        let stream = TcpStream::connect(road.address).await.expect("the server accepts");
        stream.set_nodelay(true).expect("an open socket");
        let request = [false, true].map(|holds| {
            let content = if holds { "hold" } else { "Hello" };
            let body = json!({"model": road.model, "stream": true, "messages": [{"role": "user", "content": content}]})
                .to_string();
            format!(
                "POST /v1/chat/completions HTTP/1.1\r\nHost: {}\r\nAuthorization: Bearer {}\r\n\
                 Content-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
                road.address,
                road.key,
                body.len()
            )
        });
        Self { stream, request, answer: Vec::new() }
    }

    async fn ask(&mut self, holds: bool) {
        self.answer.clear();
        self.stream.write_all(self.request[usize::from(holds)].as_bytes()).await.expect("the server reads");
    }

    /// Reads up to the first byte of the first event.
    async fn first_byte(&mut self) {
        while !self.has(b"data: ") {
            self.more().await;
        }
        let answer = String::from_utf8_lossy(&self.answer);
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    }

    /// Reads the rest, to the last chunk (RFC 9112, section 7.1).
    async fn rest(&mut self) {
        while !self.answer.ends_with(b"\r\n0\r\n\r\n") {
            self.more().await;
        }
        assert!(self.has(b"[DONE]"), "the whole answer");
    }

    /// The process id of the worker that answered.
    fn worker(&self) -> String {
        let answer = String::from_utf8_lossy(&self.answer);
        let (_, id) = answer.split_once(r#""id":""#).expect("an id");
        id.split('"').next().expect("its end").to_owned()
    }

    fn has(&self, text: &[u8]) -> bool {
        self.answer.windows(text.len()).any(|window| window == text)
    }

    async fn more(&mut self) {
        let read = self.stream.read_buf(&mut self.answer).await.expect("the server answers");
        assert!(read > 0, "the server closed the connection: {}", String::from_utf8_lossy(&self.answer));
    }
}

/// Serves on this port until it is ended.
async fn scripted_worker(port: u16) {
    let holds = std::env::var(HOLDS).map_or(0, |bytes| bytes.parse().expect("a number"));
    // What it holds is in memory once it is written to.
    let _held = std::hint::black_box(vec![1_u8; holds]);
    let app = Router::new()
        .route("/health", get(async || Json(json!({"status": "ok"}))))
        .route("/v1/chat/completions", post(async |Json(request): Json<Value>| answer(&request)));
    let listener = TcpListener::bind(("127.0.0.1", port)).await.expect("its port");
    let listener = listener.tap_io(|stream| stream.set_nodelay(true).expect("an open socket"));
    axum::serve(listener, app).await.expect("it serves");
}

fn answer(request: &Value) -> Response {
    let event = |content: &str| {
        let chunk = json!({"id": std::process::id().to_string(), "object": "chat.completion.chunk", "created": 0, "model": "a",
                           "choices": [{"index": 0, "delta": {"content": content}, "finish_reason": null}]});
        Ok::<_, Infallible>(format!("data: {chunk}\n\n"))
    };
    let first = stream::iter([event("Hello")]);
    let body = if request["messages"][0]["content"] == "hold" {
        Body::from_stream(first.chain(stream::pending()))
    } else {
        Body::from_stream(first.chain(stream::iter([event("!"), Ok("data: [DONE]\n\n".to_owned())])))
    };
    ([(CONTENT_TYPE, "text/event-stream")], body).into_response()
}

fn runtime() -> Runtime {
    tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("a runtime")
}
