//! Engines that the settings describe, run for real: the examples of docs/CONFIGURATION.md, where the machine has the
//! programs.

use std::path::Path;

use rbee_hive::engine::sample_model::{SampleModel, SampleWeights, WeightType};
use serde_json::{Value, json};

use crate::support::installed::MLX;
use crate::support::{Daemon, command, document, folder, no_process_mentions, read_all, section, soon};

const SENTENCE: &str = "Another engine says this.";

/// The settings of an engine among the examples.
fn example(engine: &str) -> String {
    let document = document("docs/CONFIGURATION.md");
    let (_, examples) = section(&document, "## `[engines.NAME]`").split_once("```toml\n").expect("examples");
    let (examples, _) = examples.split_once("```").expect("their end");
    let table = format!("[engines.{engine}]");
    let of_engine = examples.split("\n\n").find(|example| example.starts_with(&table));
    of_engine.unwrap_or_else(|| panic!("no example of {engine}")).to_owned()
}

/// Writes a model that says the sentence for the hive, and for MLX, which has copies of its own.
async fn write_models(python: &Path, folder: &Path) {
    let model = SampleModel {
        name: "tiny".to_owned(),
        weights: SampleWeights::Sentence(SENTENCE.to_owned()),
        kind: WeightType::F32,
        ..SampleModel::default()
    };
    let file = folder.join("models/tiny.gguf");
    model.write(&file).expect("a model");
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/mlx_model.py");
    let mut write = command(python);
    write.arg(script).arg(file).arg(folder.join("home/mlx/tiny"));
    let output = soon("a model in MLX's form", write.output()).await.expect("Python starts");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

#[tokio::test(flavor = "multi_thread")]
async fn mlx_serves_as_its_example_says() {
    let Some(installed) = MLX.folder().await else { return };
    let bin = installed.join("bin");
    let dir = folder();
    write_models(&bin.join("python"), dir.path()).await;
    // On Apple's machines it computes on the GPU.
    let settings = dir.path().join("hive.toml");
    std::fs::write(&settings, example("mlx").replace("\"metal\"", "\"cpu\"")).expect("settings");
    let path = format!("{}:{}", bin.display(), std::env::var("PATH").unwrap_or_default());
    let home = dir.path().join("home").display().to_string();
    let settings = settings.display().to_string();
    let environment = [("PATH", path.as_str()), ("HOME", &home), ("HF_HUB_OFFLINE", "1")];
    let hive = Daemon::start_with(dir.path(), &["--config", &settings], &environment).await;

    let worker = hive.succeed(&json!({ "WorkerSpawn": { "model": "tiny", "worker": "mlx" } })).await;
    assert_eq!(worker["engine"], "mlx", "{worker}");
    let messages = json!([{ "role": "user", "content": "Who are you?" }]);
    let request = json!({ "model": "tiny", "messages": messages, "temperature": 0, "max_tokens": 40 });
    let answer = hive.try_post("/v1/chat/completions", &request).await.expect("an answer");
    let answer: Value = answer.json().await.expect("JSON");
    assert_eq!(answer["choices"][0]["message"]["content"], SENTENCE, "{answer}");
    let mut streamed = request.clone();
    streamed["stream"] = true.into();
    let stream = read_all(hive.try_post("/v1/chat/completions", &streamed).await.expect("a stream")).await;
    let said: String = stream
        .lines()
        // MLX sends comments too.
        .filter_map(|line| serde_json::from_str::<Value>(line.strip_prefix("data: ")?).ok())
        .filter_map(|event| event["choices"][0]["delta"]["content"].as_str().map(str::to_owned))
        .collect();
    assert_eq!(said, SENTENCE, "{stream}");
    // Other dialects go through the same worker.
    let message = hive.try_post("/v1/messages", &request).await.expect("a message");
    let message: Value = message.json().await.expect("JSON");
    assert_eq!(message["content"][0]["text"], SENTENCE, "{message}");

    hive.succeed(&json!({ "ModelUnload": { "id": "tiny" } })).await;
    assert!(no_process_mentions("mlx_lm.server --model tiny"), "it is gone");
    hive.stop().await;
}
