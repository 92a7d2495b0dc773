//! Prompts of a sample model, with templates of the tests' own.

use serde_json::json;

use super::*;
use crate::engine::sample_model::SampleModel;
use crate::models::gguf::{Arrays, Header};

/// The tokenizer of a sample model, and what it makes of a template and of a conversation of one message.
async fn prompt(source: &str, message: Value, variables: Value) -> (Arc<Tokenizer>, Vec<u32>) {
    let messages = vec![serde_json::from_value(message).unwrap()];
    let variables = serde_json::from_value(variables).unwrap();
    tokens(source, Conversation { messages, variables, tools: Vec::new() }).await
}

async fn tokens(source: &str, conversation: Conversation) -> (Arc<Tokenizer>, Vec<u32>) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("m.gguf");
    SampleModel::default().write(&path).unwrap();
    let metadata = Header::read(&path, Arrays::Keep).unwrap().metadata;
    let tokenizer = Arc::new(Tokenizer::from_metadata(&metadata).unwrap());
    let template = ChatTemplate::new(Some(source.to_owned()), &metadata, &tokenizer, Sandbox::none());
    let prompt = Arc::new(template).render(&tokenizer, conversation).await.unwrap();
    let tokens = prompt.tokens(&tokenizer).unwrap();
    (tokenizer, tokens)
}

#[tokio::test]
async fn no_text_of_a_tool_call_becomes_a_special_token() {
    const SPECIAL: &str = "<|eot_id|>";
    let call = json!({
        "id": SPECIAL,
        SPECIAL: 1,
        "function": {"name": SPECIAL, SPECIAL: 2, "arguments": {SPECIAL: {"name": [{SPECIAL: SPECIAL}]}}},
    });
    let message = json!({"role": "assistant", "content": "", "tool_calls": [call]});
    let source = format!("{SPECIAL}{{{{ messages[0].tool_calls[0] | tojson }}}}");
    let (tokenizer, tokens) = prompt(&source, message, json!({})).await;
    let special = tokenizer.encode(SPECIAL, true).unwrap();
    assert!(special.len() == 1, "it is one token: {special:?}");
    assert_eq!(tokens.iter().filter(|token| special.contains(token)).count(), 1, "that of the template");
    let shown: Value = serde_json::from_str(&tokenizer.decode(&tokens)).unwrap();
    assert_eq!(shown, call, "the model sees the call as it was sent");
}

/// A template compares them with what it knows, so they have no marks; nor are they changed.
#[tokio::test]
async fn the_variables_of_a_request_reach_the_template_as_they_are() {
    let variables = json!({"reasoning_effort": "high", "note": {"a": "\u{F0000}b"}});
    let source = "{% if reasoning_effort == 'high' %}{{ note.a }}{{ messages[0].content }}{% endif %}";
    let (tokenizer, tokens) = prompt(source, json!({"role": "user", "content": "Hi"}), variables).await;
    assert_eq!(tokenizer.decode(&tokens), "\u{F0000}bHi");
}

#[tokio::test]
async fn a_template_reads_tools_and_none_of_their_texts_becomes_a_special_token() {
    const SPECIAL: &str = "<|eot_id|>";
    let tool = json!({"type": "function", "function": {"name": "f", "description": SPECIAL,
        "parameters": {"type": "object", "properties": {SPECIAL: {"type": "string", "enum": [SPECIAL]}}}}});
    let source = "{% for tool in tools %}{% if tool.type == 'function' %}{{ tool | tojson }}\
                  {% for name, value in tool.function.parameters.properties.items() %}\
                  {% if value.type == 'string' %}!{% endif %}{% endfor %}{% endif %}{% endfor %}";
    let (tokenizer, found) =
        tokens(source, Conversation { tools: vec![tool.clone()], ..Conversation::default() }).await;
    assert!(!found.contains(&tokenizer.special_id(SPECIAL).unwrap()));
    assert_eq!(tokenizer.decode(&found), format!("{}!", python_json(&tool)));
    let (_, none) = tokens("{% if tools is none %}ok{% endif %}", Conversation::default()).await;
    assert_eq!(tokenizer.decode(&none), "ok");
}

/// As `json.dumps` writes it.
fn python_json(value: &Value) -> String {
    value.to_string().replace("\":", "\": ").replace(",\"", ", \"")
}
