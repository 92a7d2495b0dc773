//! A model with trained weights, SmolLM2-135M-Instruct: it knows the capital of France in every dialect, and keeps
//! to schemas. `.ci/clients` fetches it; without it the tests are skipped with a message.

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
