//! The time of `n!`, compared with `tracing::info!` of the same text in the same run.
//!
//! First without a subscriber, then with one that formats to a sink. The order is fixed: `tracing` cannot
//! remove a subscriber.
//!
//! "Send alone" is the least possible time: the same text formatted and sent through the same kind of channel.
//! `n!` adds the lookup of the context, the clock and the call into `tracing`.

#![expect(clippy::print_stdout, reason = "figures are printed")]

mod paired;

use std::hint::black_box;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use criterion::{Criterion, Throughput};
use rbee_hive::narration::{Entry, Level, Narration, NarrationContext, Progress, with_narration_context};
use rbee_hive::{n, spawn};
use tokio::runtime::Runtime;
use tokio::sync::mpsc::{self, UnboundedSender};

/// Narrations of one sample of a pair; also the most that the reader may be behind.
const CHUNK: u64 = 1000;
const PAIRS: usize = 300;

const JOB: &str = "job-01890a5d-ac96-774b-bcce-b302099a8057";
const OPERATION: &str = "model_load";

/// A channel with a reader on another thread.
struct Reader {
    entries: UnboundedSender<Entry>,
    sent: AtomicU64,
    read: Arc<AtomicU64>,
}

impl Reader {
    fn start(runtime: &Runtime) -> Self {
        let (entries, mut receiver) = mpsc::unbounded_channel();
        let read = Arc::new(AtomicU64::new(0));
        let count = Arc::clone(&read);
        let _guard = runtime.enter();
        spawn::detached(async move {
            let mut batch = Vec::new();
            while receiver.recv_many(&mut batch, 512).await > 0 {
                count.fetch_add(batch.len() as u64, Ordering::Release);
                batch.clear();
            }
        });
        Self { entries, sent: AtomicU64::new(0), read }
    }

    /// Calls `work`, which sends, `count` times. Gives the time without the waits for the reader, which
    /// catches up after every [`CHUNK`].
    fn time(&self, count: u64, mut work: impl FnMut(u64)) -> Duration {
        let mut total = Duration::ZERO;
        let mut done = 0;
        while done < count {
            let chunk = CHUNK.min(count - done);
            let start = Instant::now();
            (done..done + chunk).for_each(&mut work);
            total += start.elapsed();
            done += chunk;
            let sent = self.sent.fetch_add(chunk, Ordering::Relaxed) + chunk;
            while self.read.load(Ordering::Acquire) < sent {
                std::thread::yield_now();
            }
        }
        total
    }
}

/// The time of `count` calls of `work`.
fn time(count: u64, work: impl FnMut(u64)) -> Duration {
    let start = Instant::now();
    (0..count).for_each(work);
    start.elapsed()
}

struct Bench {
    runtime: Runtime,
    reader: Reader,
}

impl Bench {
    /// The time of `work` inside a job.
    fn in_job(&self, count: u64, work: impl FnMut(u64)) -> Duration {
        let context = NarrationContext::new(JOB.to_owned(), OPERATION, self.reader.entries.clone());
        self.runtime.block_on(with_narration_context(context, async { self.reader.time(count, work) }))
    }

    fn narrate(&self, count: u64) -> Duration {
        self.in_job(count, |i| n!("tensors_read", "Read {} of 291 tensors", black_box(i)))
    }

    fn narrate_debug(&self, count: u64) -> Duration {
        self.in_job(count, |i| n!(debug: "tensors_read", "Read {} of 291 tensors", black_box(i)))
    }

    fn narrate_progress(&self, count: u64) -> Duration {
        self.in_job(count, |i| {
            let progress =
                Progress { done: i, total: Some(291), unit: "tensors".to_owned(), ..Progress::default() };
            n!(progress: progress, "tensors_read", "Read {} of 291 tensors", black_box(i));
        })
    }

    fn send_alone(&self, count: u64) -> Duration {
        self.reader.time(count, |i| {
            let narration = Narration {
                at: rbee_hive::time::Instant(0),
                level: Level::Info,
                action: "tensors_read",
                message: format!("Read {} of 291 tensors", black_box(i)),
                progress: None,
            };
            let sent = self.reader.entries.send(Entry::Narration(narration));
            assert!(sent.is_ok(), "the reader lives as long as the runtime");
        })
    }

    /// All that there is to measure.
    fn all(&self) -> [(&'static str, Measure<'_>); 6] {
        [
            ("n! in a job", Box::new(|count| self.narrate(count))),
            ("n! in a job, debug", Box::new(|count| self.narrate_debug(count))),
            ("n! in a job, progress", Box::new(|count| self.narrate_progress(count))),
            ("n! outside a job", Box::new(narrate_stray)),
            ("tracing::info!", Box::new(trace)),
            ("send alone", Box::new(|count| self.send_alone(count))),
        ]
    }
}

type Measure<'a> = Box<dyn Fn(u64) -> Duration + 'a>;

fn narrate_stray(count: u64) -> Duration {
    time(count, |i| n!("tensors_read", "Read {} of 291 tensors", black_box(i)))
}

/// With the fields that `n!` hands to `tracing`.
fn trace(count: u64) -> Duration {
    time(count, |i| {
        tracing::info!(
            job_id = JOB,
            operation = OPERATION,
            action = "tensors_read",
            "Read {} of 291 tensors",
            black_box(i)
        );
    })
}

fn absolute(criterion: &mut Criterion, bench: &Bench, subscriber: &str) {
    let mut group = criterion.benchmark_group(format!("narration, {subscriber}"));
    group.warm_up_time(Duration::from_millis(500)).measurement_time(Duration::from_secs(2)).sample_size(50);
    group.throughput(Throughput::Elements(1));
    for (name, measure) in bench.all() {
        group.bench_function(name, |bencher| bencher.iter_custom(&measure));
    }
    group.finish();
}

fn ratios(bench: &Bench, subscriber: &str, pairs: usize) {
    println!("\n{subscriber}: {pairs} pairs of {CHUNK} calls; nanoseconds a call; min – median – max");
    for baseline in ["tracing::info!", "send alone"] {
        for (name, measure) in bench.all().iter().filter(|(name, _)| name.starts_with("n!")) {
            let all = bench.all();
            let (_, other) = all.iter().find(|(name, _)| *name == baseline).expect("it is in the list");
            let found = paired::pairs(pairs, || measure(CHUNK), || other(CHUNK));
            println!(
                "  {name:22} {:8.1} ns   {baseline:15} {:8.1} ns   ratio {}",
                nanoseconds_each(&found.a),
                nanoseconds_each(&found.b),
                found.ratio
            );
        }
    }
}

fn nanoseconds_each(seconds_of_chunk: &paired::Spread) -> f64 {
    seconds_of_chunk.median() * 1e9 / CHUNK as f64
}

fn main() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).build().expect("a runtime");
    let reader = Reader::start(&runtime);
    let bench = Bench { runtime, reader };
    let pairs = if paired::for_figures() { PAIRS } else { 1 };
    let mut criterion = Criterion::default().configure_from_args();

    for subscriber in ["no subscriber", "a subscriber that formats to a sink"] {
        if subscriber != "no subscriber" {
            tracing_subscriber::fmt()
                .with_max_level(tracing::Level::DEBUG)
                .with_ansi(false)
                .with_writer(std::io::sink)
                .init();
        }
        absolute(&mut criterion, &bench, subscriber);
        ratios(&bench, subscriber, pairs);
    }
    criterion.final_summary();
}
