//! The products of each kind of processor that this machine's is of, side by side: `cargo bench -p rbee-kernels`.
//!
//! One thread multiplies a matrix of 1,024 x 1,024 weights, which fits the processor's cache, with one row of
//! activations, as for a token of an answer, and with 64, as for a prompt. The kinds take turns. What is counted is the
//! processor time of the thread, so that other programs disturb little. Linux only: it reads `/proc`.

#![expect(clippy::disallowed_methods, reason = "a bench reads the kernel's figures")]
#![expect(clippy::print_stdout, reason = "figures are printed")]

use rbee_kernels::encode::encode;
use rbee_kernels::{Builder, Input, Matrix, Processor, Type};

/// The sides of the matrix.
const SIDE: usize = 1024;
/// The least time of a sample.
const LEAST_SECONDS: f64 = 0.01;

fn main() {
    if !cfg!(target_os = "linux") {
        println!("nothing is measured on this system: the bench reads Linux's /proc");
        return;
    }
    let for_figures = std::env::args().any(|argument| argument == "--bench");
    let rounds = if for_figures { 15 } else { 1 };
    let pool = rayon::ThreadPoolBuilder::new().num_threads(1).build().expect("a thread");
    pool.install(|| {
        let names: Vec<&str> = Processor::all().into_iter().map(Processor::name).collect();
        println!(
            "billions of products of two numbers for each second of processor time: {}",
            names.join(", ")
        );
        for rows in [1, 64] {
            println!("\nrows of activations: {rows}");
            for kind in Type::ALL {
                let speeds: Vec<String> =
                    speeds(kind, rows, rounds).iter().map(|speed| format!("{speed:8.2}")).collect();
                println!("{:8} {}", format!("{kind:?}"), speeds.join(" "));
            }
        }
    });
}

/// The median speed of each kind of processor.
fn speeds(kind: Type, rows: usize, rounds: usize) -> Vec<f64> {
    let matrix = matrix(kind);
    let x: Vec<f32> = (0..rows * SIDE).map(number).collect();
    let seconds = |processor: Processor, repeats: usize| {
        let begin = processor_seconds();
        for _ in 0..repeats {
            std::hint::black_box(Matrix::products_on(processor, [&matrix], &Input::new(&x, SIDE)));
        }
        processor_seconds() - begin
    };
    // So many that a sample is long enough for the clock.
    let enough = |processor: Processor| {
        (0..)
            .map(|power| 1 << power)
            .find(|repeats| seconds(processor, *repeats) > LEAST_SECONDS)
            .unwrap_or(1)
    };
    let mut kinds: Vec<(Processor, usize, Vec<f64>)> =
        Processor::all().into_iter().map(|kind| (kind, enough(kind), Vec::new())).collect();
    for _ in 0..rounds {
        for (processor, repeats, speeds) in &mut kinds {
            let products = (*repeats * rows * SIDE * SIDE) as f64;
            speeds.push(products / seconds(*processor, *repeats) / 1e9);
        }
    }
    let median = |mut speeds: Vec<f64>| {
        speeds.sort_by(f64::total_cmp);
        speeds[speeds.len() / 2]
    };
    kinds.into_iter().map(|(_, _, speeds)| median(speeds)).collect()
}

fn matrix(kind: Type) -> Matrix {
    let weights: Vec<f32> = (0..SIDE * SIDE).map(|i| number(i) * 0.2).collect();
    let mut builder = Builder::new(kind, SIDE, SIDE).expect("whole blocks");
    builder.push(&encode(kind, &weights));
    builder.finish()
}

/// A number between -1 and 1 that looks random.
fn number(i: usize) -> f32 {
    ((i as u32).wrapping_mul(2_654_435_761) >> 8) as f32 / (1 << 23) as f32 - 1.0
}

/// The processor time of this thread so far.
fn processor_seconds() -> f64 {
    // The kernel brings the figure up to date.
    std::thread::yield_now();
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").expect("the kernel tells");
    let nanoseconds: f64 = text.split(' ').next().and_then(|first| first.parse().ok()).expect("a number");
    nanoseconds / 1e9
}
