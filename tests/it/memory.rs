//! What the built-in engine takes of memory, against the plan.

use std::path::Path;

use rbee_hive::engine::hyperparameters::Architecture;
use rbee_hive::engine::sample_model::{SampleModel, SampleTokenizer, SampleWeights, WeightType};
use serde_json::{Value, json};

use crate::support::TestHive;

/// About the bytes of the weights.
const WEIGHTS: u64 = 64 << 20;
/// The width of the residual stream.
const WIDTH: u32 = 1024;

/// Writes a model of that type whose weights are nearly all in its embedding and its output, and whose layers have
/// windows, so that a long prompt is quick. Its cache takes 16 MiB at 8,192 tokens.
fn write(folder: &Path, kind: WeightType, tokenizer: SampleTokenizer) {
    let row = kind.row_bytes(WIDTH as usize) as u64;
    let model = SampleModel {
        architecture: Architecture::Gemma3,
        tokenizer,
        weights: SampleWeights::Repeated { seed: 5 },
        kind,
        context_length: 8192,
        embedding: WIDTH,
        layers: 2,
        heads: 4,
        kv_heads: 4,
        head_length: 64,
        feed_forward: 256,
        vocabulary: (WEIGHTS / 2 / row) as u32,
        window: 64,
        ..SampleModel::default()
    };
    model.write(&folder.join("m.gguf")).expect("a model");
}

/// The most memory that a process has had, in bytes.
fn peak(pid: &Value) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("the process runs");
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("the kernel tells");
    line.trim().trim_end_matches(" kB").parse::<u64>().expect("a number") << 10
}

/// What is planned for a model with this context, and the most that it takes with a prompt that fills it, in bytes.
pub(crate) async fn planned_and_taken(hive: &TestHive, id: &str, context: u64) -> (u64, u64) {
    let load = |dry_run: bool| {
        let fields = json!({ "id": id, "context_length": context, "slots": 1, "dry_run": dry_run });
        json!({ "ModelLoad": fields })
    };
    let plan = hive.succeed(&load(true)).await;
    let worker = hive.succeed(&load(false)).await;
    let prompt: Vec<u64> = (0..context - 8).map(|at| at * 37 % 300).collect();
    let request = json!({ "model": id, "prompt": prompt, "max_tokens": 4, "temperature": 0 });
    let answer = hive.post("/v1/completions", &request).await;
    assert_eq!(answer.status(), 200, "{id} {context}");
    let taken = peak(&worker["pid"]);
    hive.succeed(&json!({ "ModelUnload": { "id": id } })).await;
    (plan["formula_bytes"].as_u64().expect("a plan"), taken)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_model_of_any_type_takes_what_is_planned() {
    let mut wrong = Vec::new();
    for (index, kind) in WeightType::ALL.into_iter().enumerate() {
        let hive = TestHive::start().await;
        let tokenizer = [SampleTokenizer::Bpe, SampleTokenizer::SentencePiece][index % 2];
        write(&hive.models_dir(), kind, tokenizer);
        for context in [1024, 8192] {
            let (planned, taken) = planned_and_taken(&hive, "m", context).await;
            let off = (planned as f64 / taken as f64 - 1.0) * 100.0;
            if off.abs() > 5.0 {
                wrong.push(format!("{kind:?} {context}: {planned} planned, {taken} taken: {off:+.1} %"));
            }
        }
        hive.stop().await;
    }
    assert!(wrong.is_empty(), "off by more than 5 %:\n{}", wrong.join("\n"));
}
