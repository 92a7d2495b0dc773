use serde_json::json;

use super::read;
use crate::dialects::chat::{Message, Output, Part, Role, ToolChoice};

#[test]
fn a_request_of_a_client_library_says_what_it_needs() {
    let chat = read(&json!({
        "model": "m", "stream": true, "stream_options": {"include_usage": true},
        "messages": [
            {"role": "developer", "content": "Be brief."},
            {"role": "user", "content": [
                {"type": "text", "text": "What is this?"},
                {"type": "image_url", "image_url": {"url": "data:image/png;base64,AA"}},
                {"type": "input_audio", "input_audio": {"data": "AA", "format": "wav"}},
            ]},
            {"role": "assistant", "content": null, "tool_calls": [
                {"id": "c1", "type": "function", "function": {"name": "look", "arguments": "{}"}}]},
            {"role": "tool", "tool_call_id": "c1", "content": "a cat"},
        ],
        "tools": [{"type": "function", "function": {"name": "look", "parameters": {"type": "object"}}}],
        "tool_choice": {"type": "function", "function": {"name": "look"}},
        "response_format": {"type": "json_schema", "json_schema": {"name": "n", "schema": {}, "strict": true}},
        "max_tokens": 5, "max_completion_tokens": 7, "stop": "END", "temperature": 0.5, "n": 2,
        "reasoning_effort": "none", "chat_template_kwargs": {"enable_thinking": false, "x": 1},
        "user": null,
    }))
    .unwrap();
    assert_eq!((chat.model.as_str(), chat.streams, chat.max_tokens), ("m", true, Some(7)));
    assert_eq!(chat.messages[0], Message::text(Role::System, "Be brief."));
    let [Part::Text(_), Part::Image(url), Part::Other(audio)] = &chat.messages[1].content[..] else {
        panic!("{:?}", chat.messages[1])
    };
    assert_eq!((url.as_str(), &audio["type"]), ("data:image/png;base64,AA", &json!("input_audio")));
    assert_eq!((chat.messages[2].tool_calls[0].name.as_str(), chat.messages[2].content.len()), ("look", 0));
    assert_eq!(chat.messages[3].tool_call_id.as_deref(), Some("c1"));
    assert_eq!((chat.tools.len(), &chat.tool_choice), (1, &ToolChoice::Named("look".into())));
    assert!(matches!(chat.output, Output::Schema { strict: Some(true), .. }));
    assert_eq!((chat.thinking.enabled, chat.thinking.effort), (Some(false), None));
    assert_eq!(chat.stop, ["END"]);
    let options = json!({"temperature": 0.5, "n": 2, "chat_template_kwargs": {"x": 1}});
    assert_eq!(serde_json::Value::Object(chat.options), options);
}

#[test]
fn what_is_wrong_is_named_with_its_path() {
    for (body, field) in [
        (json!([]), "body"),
        (json!({}), "messages"),
        (json!({"messages": [{"role": "judge"}]}), "messages[0].role"),
        (json!({"messages": [{"role": "user", "content": 7}]}), "messages[0].content"),
        (json!({"messages": [], "tools": [{"type": "function"}]}), "tools[0].function"),
        (json!({"messages": [], "tool_choice": "perhaps"}), "tool_choice"),
        (json!({"messages": [], "stop": [7]}), "stop"),
        (json!({"messages": [], "response_format": {"type": "xml"}}), "response_format.type"),
    ] {
        assert_eq!(read(&body).unwrap_err().field, field, "{body}");
    }
}
