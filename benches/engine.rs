//! The built-in engine beside llama.cpp's server, on the same files with as many threads: prompts, answers, four
//! answers at once, and the most memory. `RBEE_TEST_LLAMA_SERVER` names the server, best one that was built for this
//! machine (`GGML_NATIVE`); without it only the built-in engine is measured.
//!
//! The models have the shapes of SmolLM2-135M and of one of 450 million weights, with random weights, so that no network is needed.
//! The engines take turns; each ratio is of two neighbouring samples. Both servers run all the time, and rest between.
//!
//! `cargo bench --bench engine`, or with the names of types: `cargo bench --bench engine -- Q8_0 F16`. Linux only: it
//! reads `/proc`.

#![expect(clippy::disallowed_methods, reason = "a bench runs other programs, outside any job")]
#![expect(clippy::print_stdout, reason = "figures are printed")]

#[expect(dead_code, reason = "this bench needs no daemon")]
mod daemon;
#[expect(dead_code, reason = "this bench compares speeds, not times")]
mod paired;

use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use daemon::{Killed, PROGRAM, exchange, get};
use paired::Spread;
use rbee_hive::engine::sample_model::{SampleModel, SampleWeights, WeightType};
use serde_json::{Value, json};

/// Tokens of a prompt.
const PROMPT: usize = 256;
/// Tokens of an answer.
const ANSWER: usize = 48;
/// Answers at once.
const STREAMS: usize = 4;

const TYPES: [(WeightType, &str); 8] = [
    (WeightType::Q4_0, "Q4_0"),
    (WeightType::Q4_1, "Q4_1"),
    (WeightType::Q5_0, "Q5_0"),
    (WeightType::Q5_1, "Q5_1"),
    (WeightType::Q8_0, "Q8_0"),
    (WeightType::Q4K, "Q4_K"),
    (WeightType::Q6K, "Q6_K"),
    (WeightType::F16, "F16"),
];

fn main() {
    if !cfg!(target_os = "linux") {
        println!("nothing is measured on this system: the bench reads Linux's /proc");
        return;
    }
    let for_figures = paired::for_figures();
    let chosen: Vec<String> = std::env::args().skip(1).filter(|name| !name.starts_with('-')).collect();
    let folder = tempfile::tempdir().expect("a folder");
    let rounds = if for_figures { 7 } else { 1 };
    println!(
        "tokens a second: built-in, llama-server, and the ratio (min – median – max); MiB at the peak\n"
    );
    for (kind, name) in TYPES {
        if !(chosen.is_empty() || chosen.iter().any(|chosen| chosen == name)) {
            continue;
        }
        let of_135m = match name {
            // Rows of blocks of 256.
            "Q4_K" | "Q6_K" => (512, 38, 8, 4, 1536, 49_152),
            _ => (576, 30, 9, 3, 1536, 49_152),
        };
        let shapes = [("135M", of_135m, true), ("450M", (1024, 25, 16, 4, 4096, 32_000), false)];
        for (size, shape, tied) in shapes.into_iter().take(if for_figures { 2 } else { 0 }) {
            measure(folder.path(), &format!("{size} {name}"), &model(kind, shape, tied), rounds);
        }
        if !for_figures {
            measure(folder.path(), name, &model(kind, (256, 1, 4, 2, 256, 512), true), rounds);
            return;
        }
    }
}

/// A model with this width, layers, heads, heads of keys, width of the feed-forward network, and vocabulary.
fn model(kind: WeightType, shape: (u32, u32, u32, u32, u32, u32), tied: bool) -> SampleModel {
    let (embedding, layers, heads, kv_heads, feed_forward, vocabulary) = shape;
    let weights = SampleWeights::Repeated { seed: 1 };
    let model = SampleModel { kind, embedding, layers, heads, kv_heads, ..SampleModel::default() };
    SampleModel { feed_forward, vocabulary, tied, weights, ..model }
}

fn measure(folder: &Path, name: &str, model: &SampleModel, rounds: usize) {
    let path = folder.join("model.gguf");
    model.write(&path).expect("a model");
    let mut engines = vec![Server::built_in(folder, &path)];
    engines.extend(Server::llama(&path));
    let tokens = |count: usize, seed: usize| -> Vec<usize> {
        (0..count).map(|i| 300 + (i * 37 + seed * 101) % 190).collect()
    };
    // Speeds by engine: prompt, answer, answers at once.
    let mut speeds = vec![[const { Vec::new() }; 3]; engines.len()];
    for round in 0..=rounds {
        for (engine, speeds) in engines.iter().zip(&mut speeds) {
            let begin = Instant::now();
            engine.complete(&tokens(PROMPT, round), 1);
            let prompt = PROMPT as f64 / begin.elapsed().as_secs_f64();
            let begin = Instant::now();
            engine.complete(&tokens(4, round + 50), ANSWER);
            let answer = ANSWER as f64 / begin.elapsed().as_secs_f64();
            let begin = Instant::now();
            std::thread::scope(|scope| {
                for stream in 0..STREAMS {
                    scope.spawn(move || engine.complete(&tokens(4, 100 * stream + round + 500), ANSWER));
                }
            });
            let together = (STREAMS * ANSWER) as f64 / begin.elapsed().as_secs_f64();
            // The first round warms up.
            if round > 0 {
                [prompt, answer, together].into_iter().zip(speeds).for_each(|(speed, all)| all.push(speed));
            }
        }
    }
    println!("{name}");
    for (index, what) in ["prompt of 256", "answer", "four answers"].into_iter().enumerate() {
        let of = |engine: usize| speeds[engine][index].iter().copied();
        print!("  {what:14} {:7.1}", Spread::of(of(0)).median());
        if engines.len() > 1 {
            let ratio = Spread::of(of(0).zip(of(1)).map(|(own, other)| own / other));
            let [least, median, most] = [0.0, 0.5, 1.0].map(|quantile| ratio.at(quantile));
            print!(" {:7.1}   {least:.2} – {median:.2} – {most:.2}", Spread::of(of(1)).median());
        }
        println!();
    }
    let alone = Spread::of(speeds[0][2].iter().zip(&speeds[0][1]).map(|(four, one)| four / one)).median();
    println!("  four over one  {alone:7.2}");
    let peaks: Vec<String> =
        engines.iter().map(|engine| format!("{:7.0}", engine.peak_mebibytes())).collect();
    println!("  memory         {}", peaks.join(" "));
}

/// A server that runs.
struct Server {
    process: Killed,
    address: SocketAddr,
}

impl Server {
    fn built_in(folder: &Path, model: &Path) -> Self {
        let report = folder.join("report.json");
        std::fs::remove_file(&report).ok();
        let mut command = Command::new(PROGRAM);
        command.args(["worker", "--port=0", "--context-length=2048"]).arg(format!("--slots={STREAMS}"));
        command.arg(format!("--model={}", model.display())).arg(format!("--report={}", report.display()));
        let process = started(&mut command);
        let port = loop {
            let report = std::fs::read_to_string(&report).unwrap_or_default();
            let report = serde_json::from_str::<Value>(&report).unwrap_or_default();
            match report["port"].as_u64() {
                Some(port) => break port as u16,
                None => std::thread::sleep(Duration::from_millis(20)),
            }
        };
        Self { process, address: SocketAddr::from(([127, 0, 0, 1], port)) }.ready()
    }

    fn llama(model: &Path) -> Option<Self> {
        let program = std::env::var_os("RBEE_TEST_LLAMA_SERVER").filter(|program| !program.is_empty())?;
        let free =
            TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr()).expect("a port");
        let threads = std::thread::available_parallelism().map_or(1, std::num::NonZero::get).to_string();
        let (port, slots, context) =
            (free.port().to_string(), STREAMS.to_string(), (2048 * STREAMS).to_string());
        let mut command = Command::new(program);
        command.args(["--port", &port, "--threads", &threads, "--parallel", &slots, "--ctx-size", &context]);
        let process = started(command.args(["--no-webui", "--model"]).arg(model));
        Some(Self { process, address: free }.ready())
    }

    fn ready(self) -> Self {
        // A server that does not listen yet refuses.
        while std::net::TcpStream::connect(self.address).is_err()
            || !get(self.address, "/health").starts_with("HTTP/1.1 200")
        {
            std::thread::sleep(Duration::from_millis(20));
        }
        self
    }

    /// Generates so many tokens.
    fn complete(&self, prompt: &[usize], tokens: usize) {
        let body = json!({ "prompt": prompt, "max_tokens": tokens, "temperature": 0, "ignore_eos": true })
            .to_string();
        let (address, length) = (self.address, body.len());
        let head = format!(
            "POST /v1/completions HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\nContent-Type: application/json\r\n"
        );
        let answer = exchange(address, &format!("{head}Content-Length: {length}\r\n\r\n{body}"));
        assert!(answer.contains(&format!("\"completion_tokens\":{tokens}")), "{answer}");
    }

    fn peak_mebibytes(&self) -> f64 {
        let status =
            std::fs::read_to_string(format!("/proc/{}/status", self.process.0.id())).expect("it runs");
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("the kernel tells");
        line.trim().trim_end_matches(" kB").parse::<f64>().expect("a number") / 1024.0
    }
}

fn started(command: &mut Command) -> Killed {
    let command = command.env_remove("RBEE_WORKER_SECRET").stdin(Stdio::null());
    Killed(command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("the server starts"))
}
