//! Models with trained weights, SmolLM2-135M-Instruct and Gemma 3 270M: their answers, logits and tokens are those of
//! llama.cpp's server (`tests/fixtures/real_weights/record.py`), the first knows the capital of France in every dialect,
//! and keeps to schemas. `.ci/clients` fetches them; without them the tests are skipped with a message.

use std::path::Path;

use rbee_hive::engine::load::load;
use rbee_hive::engine::tokenizer::Tokenizer;
use rbee_hive::models::gguf::{Arrays, Header};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::support::installed::{TRAINED_MODEL, WEIGHTS};
use crate::support::{TestHive, as_time_allows, merged, read_all};

const MODEL: &str = "smollm2";
/// With "What is" in front, the first token of the answer is nearly a tie, for llama.cpp too.
const QUESTION: &str = "Name the capital city of France.";

/// A hive with the model; `None` where there is none.
async fn hive() -> Option<TestHive> {
    let folder = WEIGHTS.folder().await?;
    let hive = TestHive::start().await;
    let file = hive.models_dir().join(format!("{MODEL}.gguf"));
    std::os::unix::fs::symlink(folder.join(TRAINED_MODEL), file).expect("a link");
    Some(hive)
}

/// A way to ask for the capital of France: a route, the fields of the request, and where the text of the answer is,
/// whole and in an event of a stream.
struct Dialect {
    route: &'static str,
    request: Value,
    text: &'static str,
    delta: &'static str,
}

fn dialects() -> Vec<Dialect> {
    let messages = json!([{ "role": "user", "content": QUESTION }]);
    let chat = json!({ "messages": messages, "temperature": 0, "max_tokens": 12 });
    let options = json!({ "temperature": 0, "num_predict": 12 });
    vec![
        Dialect {
            route: "/v1/chat/completions",
            request: chat.clone(),
            text: "/choices/0/message/content",
            delta: "/choices/0/delta/content",
        },
        Dialect {
            route: "/v1/completions",
            request: json!({ "prompt": "The capital of France is", "temperature": 0, "max_tokens": 4 }),
            text: "/choices/0/text",
            delta: "/choices/0/text",
        },
        Dialect {
            route: "/v1/responses",
            request: json!({ "input": QUESTION, "temperature": 0, "max_output_tokens": 16 }),
            text: "/output/0/content/0/text",
            delta: "/delta",
        },
        Dialect { route: "/v1/messages", request: chat, text: "/content/0/text", delta: "/delta/text" },
        Dialect {
            route: "/api/chat",
            request: json!({ "messages": messages, "options": options }),
            text: "/message/content",
            delta: "/message/content",
        },
        Dialect {
            route: "/api/generate",
            request: json!({ "prompt": QUESTION, "options": options }),
            text: "/response",
            delta: "/response",
        },
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn the_capital_of_france_is_paris_in_every_dialect() {
    let Some(hive) = hive().await else { return };
    for dialect in dialects() {
        let route = dialect.route;
        let ask = async |stream: bool| {
            let request = merged(dialect.request.clone(), json!({ "model": MODEL, "stream": stream }));
            let answer = hive.post(route, &request).await;
            let status = answer.status();
            let body = read_all(answer).await;
            assert_eq!(status, 200, "{route}: {body}");
            body
        };
        let whole: Value = serde_json::from_str(&ask(false).await).expect("JSON");
        let text = whole.pointer(dialect.text).and_then(Value::as_str);
        let text = text.unwrap_or_else(|| panic!("{route}: {whole}"));
        assert!(text.contains("Paris"), "{route}: {text}");

        let stream = ask(true).await;
        // Events, or lines of JSON.
        let events = stream.lines().map(|line| line.strip_prefix("data: ").unwrap_or(line));
        let deltas = events.filter_map(|event| serde_json::from_str::<Value>(event).ok());
        let deltas: Vec<String> =
            deltas.filter_map(|event| Some(event.pointer(dialect.delta)?.as_str()?.to_owned())).collect();
        assert_eq!(deltas.concat(), text, "{route}: {stream}");
        assert!(deltas.iter().filter(|delta| !delta.is_empty()).count() > 1, "{route}: {stream}");
    }
    hive.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn structured_output_keeps_to_its_schema_at_every_try() {
    let Some(hive) = hive().await else { return };
    // Short, because each token takes its time.
    let schema = json!({
        "type": "object",
        "properties": { "size": { "enum": ["small", "large"] }, "rooms": { "type": "integer", "minimum": 1, "maximum": 9 } },
        "required": ["size", "rooms"],
        "additionalProperties": false,
    });
    let format = json!({ "type": "json_schema", "json_schema": { "name": "house", "schema": schema, "strict": true } });
    let messages = [json!({ "role": "user", "content": "Describe a house." })];
    for seed in 0..as_time_allows(3, 100) {
        let request = json!({
            "model": MODEL, "messages": messages, "response_format": format, "temperature": 1, "seed": seed,
        });
        let answer: Value = hive.post("/v1/chat/completions", &request).await.json().await.expect("JSON");
        let choice = &answer["choices"][0];
        assert_eq!(choice["finish_reason"], "stop", "seed {seed}: {answer}");
        let text = choice["message"]["content"].as_str().expect("a text");
        let house: Value =
            serde_json::from_str(text).unwrap_or_else(|error| panic!("seed {seed}: {error}: {text}"));
        assert_eq!(house.as_object().map(serde_json::Map::len), Some(2), "seed {seed}: {text}");
        assert!(house["size"] == "small" || house["size"] == "large", "seed {seed}: {text}");
        assert!(house["rooms"].as_u64().is_some_and(|rooms| (1..=9).contains(&rooms)), "seed {seed}: {text}");
    }
    hive.stop().await;
}

/// What was recorded of one model.
#[derive(Deserialize)]
struct Recorded {
    file: String,
    /// The text in which a question stands; none where it begins a conversation.
    prompt: Option<String>,
    /// Questions, and how the answers to them begin.
    answers: Vec<(String, String)>,
    /// Texts and their tokens.
    tokens: Vec<(String, Vec<u32>)>,
}

fn recorded(model: &str) -> Recorded {
    let path = format!("{}/tests/fixtures/real_weights/{model}.json", env!("CARGO_MANIFEST_DIR"));
    serde_json::from_str(&std::fs::read_to_string(path).expect("a fixture")).expect("its format")
}

#[tokio::test(flavor = "multi_thread")]
async fn answers_begin_as_llama_servers_do() {
    let Some(folder) = WEIGHTS.folder().await else { return };
    for model in ["smollm2", "gemma3"] {
        let recorded = recorded(model);
        let hive = TestHive::start().await;
        std::os::unix::fs::symlink(folder.join(&recorded.file), hive.models_dir().join("m.gguf"))
            .expect("a link");
        assert_eq!(recorded.answers.len(), 10);
        for (question, expected) in &recorded.answers {
            let more = json!({ "model": "m", "temperature": 0, "max_tokens": 32 });
            let (route, request, text) = match &recorded.prompt {
                None => {
                    let messages = json!([{ "role": "user", "content": question }]);
                    ("/v1/chat/completions", json!({ "messages": messages }), "/choices/0/message/content")
                }
                Some(prompt) => {
                    let prompt = prompt.replace("{question}", question);
                    ("/v1/completions", json!({ "prompt": prompt }), "/choices/0/text")
                }
            };
            let answer: Value = hive.post(route, &merged(request, more)).await.json().await.expect("JSON");
            let found = answer.pointer(text).and_then(Value::as_str).unwrap_or_else(|| panic!("{answer}"));
            assert!(found.starts_with(expected.as_str()), "{model}: {question}: {found:?}, not {expected:?}");
        }
        hive.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn texts_have_the_tokens_that_llama_server_makes_of_them() {
    let Some(folder) = WEIGHTS.folder().await else { return };
    for model in ["smollm2", "gemma3"] {
        let Recorded { file, tokens, .. } = recorded(model);
        assert_eq!(tokens.len(), 500);
        // Of Gemma's, a `▁` stays one here and is a space there, and `</s>` is a token of HTML here as in the file, and the
        // name of a control token there.
        let differs = |text: &str| model == "gemma3" && (text.contains('▁') || text.contains("</s>"));
        let header = Header::read(&folder.join(file), Arrays::Keep).expect("a sound file");
        let tokenizer = Tokenizer::from_metadata(&header.metadata).expect("a tokenizer");
        let wrong: Vec<_> = tokens
            .iter()
            .map(|(text, expected)| (text, tokenizer.encode(text, false).expect("tokens"), expected))
            .filter(|(text, found, expected)| found != *expected && !differs(text))
            .collect();
        assert!(
            wrong.is_empty(),
            "{model}: {} of 500 differ: {:?}",
            wrong.len(),
            &wrong[..wrong.len().min(5)]
        );
    }
}

/// How many tokens of a text the logits are compared after.
const COMPARED: usize = 24;
/// Logits that are told of each; the others count together.
const TOLD: usize = 1000;

/// The Kullback-Leibler divergence of this engine from a llama-server: its mean over the first tokens of a text.
async fn divergence(hive: &TestHive, file: &Path) -> f64 {
    let text = "The river rises in the mountains, and flows through three countries before it reaches the sea. In spring \
                it carries the water of the melting snow.";
    let header = Header::read(file, Arrays::Keep).expect("a sound file");
    let tokenizer = Tokenizer::from_metadata(&header.metadata).expect("a tokenizer");
    let tokens = tokenizer.encode_text(text, true, false).expect("tokens");
    assert!(tokens.len() > COMPARED, "{}", tokens.len());
    let model = load(file, &mut |_, _| {}).expect("a model").model;
    let mut cache = model.cache(64);
    let mut sum = 0.0;
    for end in 1..=COMPARED {
        let logits = model.forward(&tokens[end - 1..end], &mut cache).expect("logits");
        let request = json!({ "model": "m", "prompt": tokens[..end], "n_predict": 1, "n_probs": TOLD, "temperature": 0 });
        let answer: Value = hive.post("/v1/completions", &request).await.json().await.expect("JSON");
        let told = answer.pointer("/choices/0/logprobs/content/0/top_logprobs").and_then(Value::as_array);
        let told = told.unwrap_or_else(|| panic!("{answer}"));
        let largest = logits.iter().copied().fold(f32::MIN, f32::max);
        let total = logits.iter().map(|x| f64::from(x - largest).exp()).sum::<f64>().ln();
        let (mut theirs, mut ours) = (1.0, 1.0);
        for token in told {
            let id = token["id"].as_u64().expect("an id") as usize;
            let (p, q) =
                (token["logprob"].as_f64().expect("a number"), f64::from(logits[id] - largest) - total);
            sum += p.exp() * (p - q);
            theirs -= p.exp();
            ours -= q.exp();
        }
        if theirs > 1e-6 {
            sum += theirs * (theirs / ours.max(1e-9)).ln();
        }
    }
    sum / COMPARED as f64
}

#[tokio::test(flavor = "multi_thread")]
async fn logits_are_those_of_llama_server() {
    let Some(folder) = WEIGHTS.folder().await else { return };
    for model in ["smollm2", "gemma3"] {
        let Some(hive) = TestHive::with_llama_server(|_| {}).await else { return };
        let file = folder.join(recorded(model).file);
        std::os::unix::fs::symlink(&file, hive.models_dir().join("m.gguf")).expect("a link");
        let load = json!({ "ModelLoad": { "id": "m", "context_length": 128, "slots": 1 } });
        assert_eq!(hive.succeed(&load).await["engine"], "llama-server");
        let divergence = divergence(&hive, &file).await;
        println!("{model}: {divergence}");
        assert!((0.0..0.01).contains(&divergence.abs()), "{model}: {divergence}");
        hive.stop().await;
    }
}
