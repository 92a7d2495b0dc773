//! Images, in every dialect, through a real llama-server: `RBEE_TEST_LLAMA_SERVER` names it, and without one the
//! tests are skipped with a message.

use serde_json::{Value, json};

use crate::support::{IMAGE_TOKENS, TestHive, merged, write_model, write_projector};

/// A PNG of 4 by 4 pixels.
const PNG: &str = "iVBORw0KGgoAAAANSUhEUgAAAAQAAAAECAIAAAAmkwkpAAAAKUlEQVR42g3HMQEAAAzCMIRVGGdFIXDLlyQSGxcTBIvjU6mt62cyOzcPp2MTQQYaK1UAAAAASUVORK5CYII=";
/// One whose beginning alone is a PNG's.
const BROKEN: &str = "iVBORw0KGgoAAAANSUhEUgAAAAQAAAAE";

const QUESTION: &str = "What is in the picture?";

/// A dialect: its route, its request with this image or with none, and where its answer has the text, the count of
/// the prompt's tokens and the message of an error.
struct Dialect {
    route: &'static str,
    request: fn(Option<&str>) -> Value,
    text: &'static str,
    tokens: &'static str,
    error: &'static str,
}

/// The question, and the image's part before it, if there is one.
fn parts(image: Option<Value>, kind: &str) -> Vec<Value> {
    image.into_iter().chain([json!({ "type": kind, "text": QUESTION })]).collect()
}

fn dialects() -> [Dialect; 5] {
    [
        Dialect {
            route: "/v1/chat/completions",
            request: |image| {
                let image = image.map(|data| {
                    json!({ "type": "image_url", "image_url": { "url": format!("data:image/png;base64,{data}") } })
                });
                json!({ "messages": [{ "role": "user", "content": parts(image, "text") }], "temperature": 0 })
            },
            text: "/choices/0/message/content",
            tokens: "/usage/prompt_tokens",
            error: "/error/message",
        },
        Dialect {
            route: "/v1/messages",
            request: |image| {
                let source = |data| json!({ "type": "base64", "media_type": "image/png", "data": data });
                let image = image.map(|data| json!({ "type": "image", "source": source(data) }));
                json!({ "messages": [{ "role": "user", "content": parts(image, "text") }], "max_tokens": 20,
                        "temperature": 0 })
            },
            text: "/content/0/text",
            tokens: "/usage/input_tokens",
            error: "/error/message",
        },
        Dialect {
            route: "/v1/responses",
            request: |image| {
                let image = image.map(|data| {
                    json!({ "type": "input_image", "image_url": format!("data:image/png;base64,{data}") })
                });
                json!({ "input": [{ "role": "user", "content": parts(image, "input_text") }], "temperature": 0 })
            },
            text: "/output/0/content/0/text",
            tokens: "/usage/input_tokens",
            error: "/error/message",
        },
        Dialect {
            route: "/api/chat",
            request: |image| {
                let images: Vec<&str> = image.into_iter().collect();
                json!({ "messages": [{ "role": "user", "content": QUESTION, "images": images }], "stream": false,
                        "options": { "temperature": 0 } })
            },
            text: "/message/content",
            tokens: "/prompt_eval_count",
            error: "/error",
        },
        Dialect {
            route: "/api/generate",
            request: |image| {
                let images: Vec<&str> = image.into_iter().collect();
                json!({ "prompt": QUESTION, "images": images, "stream": false, "options": { "temperature": 0 } })
            },
            text: "/response",
            tokens: "/prompt_eval_count",
            error: "/error",
        },
    ]
}

async fn ask(hive: &TestHive, dialect: &Dialect, image: Option<&str>) -> (u16, Value) {
    let request = merged(json!({ "model": "sees" }), (dialect.request)(image));
    let answer = hive.post(dialect.route, &request).await;
    let (status, text) = (answer.status().as_u16(), answer.text().await.expect("a body"));
    (status, serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}")))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_model_with_a_projector_sees_images_in_every_dialect() {
    let Some(hive) = TestHive::with_llama_server(|_| {}).await else { return };
    write_model(&hive.models_dir(), "sees");
    write_projector(&hive.models_dir(), "mmproj-sees.gguf");
    let model = hive.succeed(&json!({ "ModelGet": { "id": "sees" } })).await;
    assert!(model["capabilities"].as_array().expect("names").contains(&json!("images")), "{model}");
    for dialect in dialects() {
        let mut tokens = Vec::new();
        for image in [None, Some(PNG)] {
            let (status, answer) = ask(&hive, &dialect, image).await;
            assert_eq!(status, 200, "{}: {answer}", dialect.route);
            let text = answer.pointer(dialect.text).unwrap_or_else(|| panic!("{}: {answer}", dialect.route));
            assert_eq!(text, "Hello from a small model.", "{}", dialect.route);
            let count = |place| answer.pointer(place).and_then(Value::as_u64);
            let counted = count(dialect.tokens).unwrap_or_else(|| panic!("{}: {answer}", dialect.route));
            // Anthropic counts those that were cached by themselves.
            tokens.push(counted + count("/usage/cache_read_input_tokens").unwrap_or(0));
        }
        // Its places, and the two marks around it.
        let of_image = tokens[1] - tokens[0];
        assert!(of_image > IMAGE_TOKENS && of_image < 64, "{}: {tokens:?}", dialect.route);
        for broken in [BROKEN, "no Base64 at all", ""] {
            let (status, refused) = ask(&hive, &dialect, Some(broken)).await;
            assert_eq!(status, 400, "{}: {broken:?}: {refused}", dialect.route);
            let message = refused.pointer(dialect.error).and_then(Value::as_str);
            assert!(message.is_some_and(|text| text.contains("image")), "{}: {refused}", dialect.route);
        }
    }
    hive.stop().await;
}
