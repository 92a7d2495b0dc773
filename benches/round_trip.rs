//! The time of a read from POST to `[DONE]`, over loopback sockets, compared in the same run with the least
//! time that axum needs for the same exchange.
//!
//! The hive makes a job: four tasks, a channel, a replayable log, a look at the disk. The bare pair answers
//! with three fixed events. Both have the same client, whose time is included in both.

#![expect(clippy::disallowed_methods, reason = "a bench reads and copies the files that it names")]
#![expect(clippy::print_stdout, reason = "figures are printed")]

mod client;
mod memory;
mod paired;
mod servers;

use std::net::SocketAddr;
use std::sync::{Arc, Barrier};
use std::time::{Duration, Instant};

use criterion::Criterion;
use rbee_hive::spawn;
use tokio::runtime::Runtime;

use client::Connection;
use memory::resident_bytes;
use paired::Spread;
use servers::Server;

/// Round trips of one sample of a pair.
const CHUNK: u32 = 10;
const PAIRS: usize = 200;
/// The load: concurrent clients, round trips of each, rounds. The hive runs 64 reads at once, so none of
/// these is queued.
const CLIENTS: usize = 32;
const EACH: usize = 50;
const ROUNDS: usize = 9;
/// Open, silent streams whose memory is measured, those opened before, and rounds.
const SUBSCRIBERS: usize = 1000;
const SUBSCRIBERS_BEFORE: usize = 100;
const MEMORY_ROUNDS: usize = 5;
/// The argument that makes this program the subject of one memory round.
const SUBJECT: &str = "--idle-subscribers-of";

/// The servers, side by side.
struct Servers {
    empty: Server,
    ten: Server,
    bare: Server,
}

impl Servers {
    fn start(runtime: &Runtime) -> Self {
        let servers = Self {
            empty: Server::hive(runtime, 0),
            ten: Server::hive(runtime, 10),
            bare: Server::bare(runtime),
        };
        for (server, found) in [(&servers.empty, "Found 0 model(s)"), (&servers.ten, "Found 10 model(s)")] {
            let mut connection = Connection::open(server.address);
            assert!(connection.round_trip().contains(found), "the catalog is the one that was made");
        }
        servers
    }

    fn all(&self) -> [(&'static str, SocketAddr); 3] {
        [
            ("hive, no models", self.empty.address),
            ("hive, 10 models", self.ten.address),
            ("bare pair", self.bare.address),
        ]
    }

    fn stop(self, runtime: &Runtime) {
        for server in [self.empty, self.ten, self.bare] {
            server.stop(runtime);
        }
    }
}

fn absolute(criterion: &mut Criterion, servers: &Servers) {
    for keep_alive in [true, false] {
        let mut group = criterion.benchmark_group(format!("round trip, {}", kind(keep_alive)));
        group.warm_up_time(Duration::from_secs(1)).measurement_time(Duration::from_secs(3)).sample_size(50);
        for (name, address) in servers.all() {
            let mut connection = Connection::open(address);
            group.bench_function(name, |bencher| {
                bencher.iter(|| {
                    if !keep_alive {
                        connection = Connection::open(address);
                    }
                    connection.round_trip().len()
                });
            });
        }
        group.finish();
    }
}

const fn kind(keep_alive: bool) -> &'static str {
    if keep_alive { "keep-alive" } else { "new connection" }
}

/// A closure that measures [`CHUNK`] round trips.
fn round_trips(address: SocketAddr, keep_alive: bool) -> impl FnMut() -> Duration {
    let mut connection = Connection::open(address);
    move || {
        let start = Instant::now();
        for _ in 0..CHUNK {
            if !keep_alive {
                connection = Connection::open(address);
            }
            connection.round_trip();
        }
        start.elapsed()
    }
}

fn ratios(servers: &Servers, pairs: usize) {
    println!("\nPOST to [DONE]: {pairs} pairs of {CHUNK} round trips, one client; min – median – max");
    let [hives @ .., (_, bare)] = servers.all();
    for keep_alive in [true, false] {
        for (name, hive) in hives {
            let found = paired::pairs(pairs, round_trips(hive, keep_alive), round_trips(bare, keep_alive));
            let each = |seconds: &Spread| seconds.median() * 1e6 / f64::from(CHUNK);
            println!(
                "  {:14}  {name} {:7.1} µs   bare pair {:7.1} µs   ratio {}",
                kind(keep_alive),
                each(&found.a),
                each(&found.b),
                found.ratio
            );
        }
    }
}

/// The figures of one round of load.
struct Load {
    p50: f64,
    p99: f64,
    /// Round trips a second, over all clients.
    throughput: f64,
}

type Figure = fn(&Load) -> f64;

/// [`CLIENTS`] concurrent clients, each with its own connection, which it keeps.
fn load(address: SocketAddr, each: usize) -> Load {
    let start = Arc::new(Barrier::new(CLIENTS + 1));
    let clients: Vec<_> = (0..CLIENTS)
        .map(|_| {
            let start = Arc::clone(&start);
            spawn::thread("client", move || {
                let mut connection = Connection::open(address);
                connection.round_trip();
                start.wait();
                let timed = |_| {
                    let start = Instant::now();
                    connection.round_trip();
                    start.elapsed().as_secs_f64()
                };
                (0..each).map(timed).collect::<Vec<_>>()
            })
            .expect("a thread")
        })
        .collect();
    start.wait();
    let began = Instant::now();
    let latencies = Spread::of(clients.into_iter().flat_map(|client| client.join().expect("a client")));
    let seconds = began.elapsed().as_secs_f64();
    let count = u32::try_from(CLIENTS * each).expect("a small number");
    Load { p50: latencies.at(0.5), p99: latencies.at(0.99), throughput: f64::from(count) / seconds }
}

fn under_load(servers: &Servers, rounds: usize, each: usize) {
    println!("\nunder load: {CLIENTS} clients, keep-alive, {rounds} rounds of {each} round trips each");
    let [hives @ .., (_, bare)] = servers.all();
    for (name, hive) in hives {
        let (mut of_hive, mut of_bare) = (Vec::new(), Vec::new());
        for _ in 0..rounds {
            of_hive.push(load(hive, each));
            of_bare.push(load(bare, each));
        }
        let figures: [(&str, Figure); 3] = [
            ("p50, ms", |load| load.p50 * 1e3),
            ("p99, ms", |load| load.p99 * 1e3),
            ("round trips a second", |load| load.throughput),
        ];
        for (what, figure) in figures {
            let (a, b) = (of_hive.iter().map(figure), of_bare.iter().map(figure));
            println!(
                "  {what:20}  {name} {:9.2}   bare pair {:9.2}   ratio {}",
                Spread::of(a.clone()).median(),
                Spread::of(b.clone()).median(),
                Spread::of(a.zip(b).map(|(a, b)| a / b))
            );
        }
    }
}

/// Prints the memory of a silent subscriber in this process, in bytes. The client's half of each connection
/// is a bare descriptor, which takes no memory here.
fn be_the_subject(server: &str) {
    let runtime = runtime();
    let (server, path) = match server {
        "hive" => {
            let hive = Server::stuck_hive(&runtime);
            let path = format!("{}?format=json", Connection::open(hive.address).submit());
            (hive, path)
        }
        _ => (Server::bare(&runtime), "/idle".to_owned()),
    };
    let mut sockets: Vec<_> = Vec::with_capacity(SUBSCRIBERS + SUBSCRIBERS_BEFORE);
    let mut subscribe = |count: usize| {
        for _ in 0..count {
            let mut connection = Connection::open(server.address);
            connection.subscribe(&path);
            sockets.push(connection.into_socket());
        }
        resident_bytes("self", "Anonymous").expect("this system tells it")
    };
    // The first ones also allocate what the others share.
    let before = subscribe(SUBSCRIBERS_BEFORE);
    let after = subscribe(SUBSCRIBERS);
    println!("{}", (after - before) / SUBSCRIBERS as f64);
    drop(sockets);
    server.stop(&runtime);
    runtime.shutdown_background();
}

/// Each figure is from a process of its own: an allocator returns little memory, so a second measurement in
/// the same process would reuse that of the first.
fn idle_subscribers(rounds: usize) {
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile);
    let needed = 2 * (SUBSCRIBERS + SUBSCRIBERS_BEFORE) as u64 + 100;
    if resident_bytes("self", "Anonymous").is_none() || limit.current.is_some_and(|limit| limit < needed) {
        println!("\nmemory of silent subscribers: skipped (needs Linux and `ulimit -n {needed}`)");
        return;
    }
    let runtime = runtime();
    let figure = |server: &str| {
        let program = std::env::current_exe().expect("this program's path");
        let subject = runtime
            .block_on(async { spawn::command(program).args([SUBJECT, server]).output().await })
            .expect("it runs");
        let text = String::from_utf8_lossy(&subject.stdout);
        assert!(subject.status.success(), "{}", String::from_utf8_lossy(&subject.stderr));
        text.trim().parse::<f64>().expect("a number")
    };
    let pairs: Vec<_> = (0..rounds).map(|_| (figure("hive"), figure("bare"))).collect();
    let (hive, bare) = (pairs.iter().map(|pair| pair.0), pairs.iter().map(|pair| pair.1));
    println!("\nmemory of {SUBSCRIBERS} silent subscribers to a typed stream, {rounds} rounds");
    println!("  hive       {} bytes each", Spread::of(hive));
    println!("  bare pair  {} bytes each", Spread::of(bare));
    println!("  ratio      {}", Spread::of(pairs.iter().map(|(hive, bare)| hive / bare)));
}

fn runtime() -> Runtime {
    tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("a runtime")
}

fn main() {
    let mut args = std::env::args().skip_while(|arg| arg != SUBJECT).skip(1);
    if let Some(server) = args.next() {
        return be_the_subject(&server);
    }
    let figures = paired::for_figures();
    let runtime = runtime();
    let servers = Servers::start(&runtime);
    let mut criterion = Criterion::default().configure_from_args();
    absolute(&mut criterion, &servers);
    criterion.final_summary();
    ratios(&servers, if figures { PAIRS } else { 1 });
    under_load(&servers, if figures { ROUNDS } else { 1 }, if figures { EACH } else { 1 });
    servers.stop(&runtime);
    if figures {
        idle_subscribers(MEMORY_ROUNDS);
    }
}
