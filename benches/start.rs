//! Measures what people notice of the program itself: how soon a hive answers, how much memory an idle one holds, and
//! how soon the command line has printed something.
//!
//! `cargo bench --bench start`. The hive has 2,000 models in its folders. Each start is compared with `rbee-hive
//! --version`, which starts the same program and does nothing.

#![expect(clippy::print_stdout, reason = "figures are printed")]
#![expect(clippy::disallowed_methods, reason = "a bench makes the files that it names")]

#[expect(dead_code, reason = "this bench runs no operation")]
mod daemon;
mod many_models;
mod memory;
mod paired;

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use daemon::{Daemon, PROGRAM, get};
use many_models::Places;
use memory::resident_bytes;
use paired::{Pairs, Spread};

/// How long a hive is left alone before its memory is read.
const IDLE: Duration = Duration::from_secs(5);

fn main() {
    let (models, rounds) = if paired::for_figures() { (2000, 60) } else { (20, 2) };
    let dir = tempfile::tempdir().expect("a folder");
    let root = dir.path().canonicalize().expect("a folder");
    let full = root.join("full");
    Places::with_models(&full, models);
    let empty = root.join("empty");
    Places::with_models(&empty, 0);

    println!("{models} models; from the start of the process to the answer of /health, ms (20 is the aim)");
    show("again", &paired::pairs(rounds, || start(&full), version));
    let first = || {
        std::fs::remove_dir_all(full.join("data/state")).ok();
        start(&full)
    };
    show("without the state of an earlier hive", &paired::pairs(rounds, first, version));
    show("no models", &paired::pairs(rounds, || start(&empty), version));

    println!("\nresident memory of an idle hive, MiB (16 is the aim)");
    for (folder, what) in [(&empty, "no models"), (&full, "models")] {
        let rss = (0..rounds.min(5)).map(|_| {
            let hive = serve(folder);
            std::thread::sleep(if paired::for_figures() { IDLE } else { Duration::ZERO });
            resident_mib(hive.pid())
        });
        println!("{what}: {}", Spread::of(rss));
    }

    println!("\nfrom the start of the verb to its end, ms (15 is the aim for ps)");
    let hive = serve(&full);
    let url = format!("http://{}", hive.address);
    for verb in ["ps", "list"] {
        show(verb, &paired::pairs(rounds, || run(&[verb, "--host", &url]), version));
    }
}

fn serve(folder: &Path) -> Daemon {
    Daemon::start(folder, "warn", &[])
}

/// How long a hive takes from its start to its first answer.
fn start(folder: &Path) -> Duration {
    let begin = Instant::now();
    let hive = serve(folder);
    let answer = get(hive.address, "/health");
    let took = begin.elapsed();
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    took
}

fn version() -> Duration {
    run(&["--version"])
}

/// How long the program takes for these arguments.
fn run(arguments: &[&str]) -> Duration {
    let begin = Instant::now();
    let output = Command::new(PROGRAM).args(arguments).stdin(Stdio::null()).output().expect("the program");
    let took = begin.elapsed();
    assert!(output.status.success() && !output.stdout.is_empty(), "{arguments:?}: {output:?}");
    took
}

fn resident_mib(pid: u32) -> f64 {
    resident_bytes(&pid.to_string(), "Rss").expect("Linux tells it") / f64::from(1 << 20)
}

fn show(what: &str, pairs: &Pairs) {
    println!("{what}: {}", milliseconds(&pairs.a));
    println!("  --version: {}; ratio {}", milliseconds(&pairs.b), pairs.ratio);
}

/// As [`Spread`] shows itself.
fn milliseconds(seconds: &Spread) -> Spread {
    Spread::of([0.0, 0.25, 0.5, 0.75, 1.0].map(|quantile| seconds.at(quantile) * 1000.0))
}
