//! How long a model of the built-in engine thinks, as each dialect asks.

use serde_json::{Value, json};

use crate::support::{TestHive, merged, write_model_that_says};

const SENTENCE: &str = "I think about this for a long time and never stop";

#[tokio::test(flavor = "multi_thread")]
async fn a_limit_of_thinking_holds_in_every_dialect() {
    let hive = TestHive::start().await;
    write_model_that_says(&hive.models_dir(), "thinks", SENTENCE);
    let template = hive.models_dir().with_file_name("thinks.jinja");
    std::fs::write(&template, "{{ messages[0].content }}<think>").expect("a template");
    let settings = json!({ "chat_template": template });
    hive.succeed(&json!({ "ModelSettingsSet": { "id": "thinks", "settings": settings } })).await;
    let base = json!({ "model": "thinks", "messages": [{ "role": "user", "content": "Hello?" }],
                       "max_tokens": 99, "temperature": 0 });
    let chat = json!({ "stream": false });
    let dialect = ["/choices/0/message/reasoning_content", "/choices/0/message/content"];
    let of_ollama = ["/message/thinking", "/message/content"];
    let budget = |tokens: u64| json!({ "thinking": { "type": "enabled", "budget_tokens": tokens } });
    for (route, more, [thought, text], thinks) in [
        ("/v1/chat/completions", merged(chat.clone(), json!({ "thinking_budget_tokens": 3 })), dialect, true),
        ("/v1/chat/completions", merged(chat.clone(), json!({ "reasoning_effort": "none" })), dialect, false),
        ("/v1/messages", budget(3), ["/content/0/thinking", "/content/1/text"], true),
        ("/v1/messages", json!({ "thinking": { "type": "disabled" } }), ["/none", "/content/0/text"], false),
        ("/api/chat", merged(chat, json!({ "think": false })), of_ollama, false),
    ] {
        let answer = hive.post(route, &merged(base.clone(), more.clone())).await;
        let (status, body) = (answer.status(), answer.text().await.expect("a body"));
        assert_eq!(status, 200, "{route} {more}: {body}");
        let answer: Value = serde_json::from_str(&body).expect("JSON");
        let of = |place| answer.pointer(place).and_then(Value::as_str).unwrap_or_default();
        let expected = if thinks { "I think about" } else { "" };
        assert_eq!((of(thought), of(text)), (expected, SENTENCE), "{route} {more}: {answer}");
    }
    hive.stop().await;
}
