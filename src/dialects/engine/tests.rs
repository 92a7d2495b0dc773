use serde_json::{Map, Value, json};

use super::*;
use crate::dialects::answer::{Answer, Finish, Piece, Usage};
use crate::dialects::chat::{Chat, Message, Output, Part, Role, Thinking, Tool, ToolCall, ToolChoice};

#[test]
fn a_chat_with_everything_is_written_in_openais_form() {
    let call = ToolCall { id: "c1".into(), name: "add".into(), arguments: r#"{"a":1}"#.into() };
    let chat = Chat {
        model: "m".into(),
        messages: vec![
            Message::text(Role::System, "Be kind."),
            Message {
                content: vec![
                    Part::Text("What is it?".into()),
                    Part::Image("data:image/png;base64,AA".into()),
                ],
                ..Message::default()
            },
            Message {
                role: Role::Assistant,
                reasoning: Some("I add.".into()),
                tool_calls: vec![call],
                ..Message::default()
            },
            Message { tool_call_id: Some("c1".into()), ..Message::text(Role::Tool, "2") },
        ],
        tools: vec![Tool {
            name: "add".into(),
            parameters: Some(json!({"type": "object"})),
            ..Tool::default()
        }],
        tool_choice: ToolChoice::Named("add".into()),
        output: Output::Schema { name: None, schema: json!({"type": "object"}), strict: Some(true) },
        thinking: Thinking { enabled: Some(false), effort: Some("low".into()), budget_tokens: Some(9) },
        max_tokens: Some(5),
        stop: vec!["x".into()],
        options: Map::from_iter([("top_k".to_owned(), json!(7))]),
        streams: true,
        ..Chat::default()
    };
    assert_eq!(
        request(&chat),
        json!({
            "top_k": 7, "model": "m",
            "messages": [
                {"role": "system", "content": "Be kind."},
                {"role": "user", "content": [
                    {"type": "text", "text": "What is it?"},
                    {"type": "image_url", "image_url": {"url": "data:image/png;base64,AA"}},
                ]},
                {"role": "assistant", "content": null, "reasoning_content": "I add.", "tool_calls": [
                    {"id": "c1", "type": "function", "function": {"name": "add", "arguments": "{\"a\":1}"}},
                ]},
                {"role": "tool", "content": "2", "tool_call_id": "c1"},
            ],
            "tools": [{"type": "function", "function": {"name": "add", "parameters": {"type": "object"}}}],
            "tool_choice": {"type": "function", "function": {"name": "add"}},
            "response_format": {"type": "json_schema", "json_schema": {
                "name": "answer", "schema": {"type": "object"}, "strict": true}},
            "max_tokens": 5, "stop": ["x"], "stream": true, "stream_options": {"include_usage": true},
            "chat_template_kwargs": {"enable_thinking": false}, "reasoning_effort": "low",
            "thinking_budget_tokens": 9,
        })
    );
}

#[test]
fn an_answer_is_the_same_whole_or_streamed_and_however_the_stream_is_cut() {
    let whole = json!({
        "choices": [{"index": 0, "finish_reason": "tool_calls", "message": {
            "reasoning_content": "hm hm", "content": "Grüße", "tool_calls": [
                {"id": "a", "type": "function", "function": {"name": "f", "arguments": "{\"x\":1}"}},
                {"id": "b", "type": "function", "function": {"name": "g", "arguments": "{}"}},
            ]}}],
        "usage": {"prompt_tokens": 7, "completion_tokens": 5, "prompt_tokens_details": {"cached_tokens": 3}},
        "timings": {"prompt_ms": 1.5, "predicted_ms": 2.5},
    });
    let delta = |delta| json!({"choices": [{"index": 0, "delta": delta}]});
    let chunks = [
        delta(json!({"role": "assistant", "content": null})),
        delta(json!({"reasoning_content": "hm "})),
        delta(json!({"reasoning_content": "hm"})),
        delta(json!({"content": "Grü"})),
        delta(json!({"content": "ße"})),
        delta(json!({"tool_calls": [{"index": 0, "id": "a", "function": {"name": "f", "arguments": ""}}]})),
        delta(json!({"tool_calls": [{"index": 0, "function": {"arguments": "{\"x\":"}}]})),
        delta(json!({"tool_calls": [{"index": 0, "function": {"arguments": "1}"}}]})),
        delta(json!({"tool_calls": [{"index": 1, "id": "b", "function": {"name": "g", "arguments": {}}}]})),
        json!({"choices": [{"index": 0, "delta": {}, "finish_reason": "tool_calls"}]}),
        json!({"choices": [], "usage": whole["usage"], "timings": whole["timings"]}),
    ];
    let mut stream = String::from(": comment\n\n");
    stream.extend(chunks.iter().map(|chunk| format!("data: {chunk}\r\n\r\n")));
    stream.push_str("data: [DONE]\n\n");
    let expected = answer(&whole).unwrap();
    assert_eq!((expected.calls.len(), expected.finish), (2, Finish::ToolCalls));
    let usage = expected.usage.unwrap();
    assert_eq!((usage.prompt_tokens, usage.cached_tokens, usage.completion_ms), (7, Some(3), Some(2.5)));
    for cut in 0..stream.len() {
        let mut reader = Reader::default();
        let (first, second) = stream.as_bytes().split_at(cut);
        let pieces = reader.read(first).into_iter().chain(reader.read(second));
        assert_eq!(pieces.collect::<Answer>(), expected, "cut at {cut}");
    }
}

#[test]
fn what_is_no_chunk_is_skipped() {
    let mut reader = Reader::default();
    let stream = b"event: x\ndata: {\"error\": {}}\ndata: 7\ndata: {\"choices\": 7}\ndata: \ndata: {\"choices\": [{\"delta\": null}]}\n";
    assert_eq!(reader.read(stream), []);
    let only_usage = br#"data: {"usage": {"prompt_tokens": 2}}"#;
    assert_eq!(reader.read(only_usage), []);
    assert_eq!(reader.read(b"\n"), [Piece::Usage(Usage { prompt_tokens: 2, ..Usage::default() })]);
    assert!(answer(&json!({"choices": []})).is_none() && answer(&json!({"error": 1})).is_none());
}

#[test]
fn the_stop_string_is_known_where_the_engine_tells_it() {
    let stopped = |reason| {
        let choice = json!({"delta": {}, "finish_reason": "stop", "stop_reason": reason});
        answer(&json!({"choices": [choice]})).unwrap().stop_string
    };
    assert_eq!(stopped(json!("END")), Some("END".to_owned()));
    assert_eq!((stopped(json!(null)), stopped(json!(151_645))), (None, None));
}

#[test]
fn an_index_out_of_all_bounds_takes_no_memory() {
    let call = json!({"choices": [{"delta": {"tool_calls": [{"index": u64::MAX, "function": {}}]}}]});
    assert!(answer(&call).unwrap().calls.len() <= 1024);
}

#[test]
fn parts_of_calls_without_an_index_are_told_apart_by_their_ids() {
    let part = |id: Value, name: Value, arguments: &str| {
        let call = json!({"id": id, "function": {"name": name, "arguments": arguments}});
        format!("data: {}\n\n", json!({"choices": [{"delta": {"tool_calls": [call]}}]}))
    };
    let stream = [
        part(json!("a"), json!("f"), "{\"x\""),
        part(json!(null), json!(null), ":1}"),
        part(json!("b"), json!("g"), "{"),
        part(json!("b"), json!(null), "}"),
        part(json!(null), json!("h"), "{}"),
    ];
    let answer: Answer = Reader::default().read(stream.concat().as_bytes()).into_iter().collect();
    let calls: Vec<_> = answer.calls.iter().map(|call| (&*call.name, &*call.arguments)).collect();
    assert_eq!(calls, [("f", "{\"x\":1}"), ("g", "{}"), ("h", "{}")]);
}

#[test]
fn only_the_first_choice_is_read() {
    let chunk =
        |index: u64| format!("data: {}\n", json!({"choices": [{"index": index, "delta": {"content": "a"}}]}));
    let pieces = Reader::default().read((chunk(1) + &chunk(0)).as_bytes());
    assert_eq!(pieces, [Piece::Text("a".into())]);
}

#[test]
fn what_engines_write_otherwise_is_read() {
    // OpenRouter's name of the thoughts, and an event without a space.
    let stream = b"data:{\"choices\":[{\"delta\":{\"reasoning\":\"hm\"}}]}\n";
    assert_eq!(Reader::default().read(stream), [Piece::Reasoning("hm".into())]);
    let counts = json!({"choices": [{"message": {}}], "usage": {"completion_tokens_details": {"reasoning_tokens": 3}}});
    assert_eq!(answer(&counts).unwrap().usage.unwrap().reasoning_tokens, Some(3));
}

#[test]
fn little_things_are_written_too() {
    let chat = Chat {
        messages: vec![
            Message { name: Some("Ada".into()), ..Message::default() },
            Message { role: Role::Assistant, reasoning: Some("hm".into()), ..Message::default() },
        ],
        tools: vec![Tool { name: "f".into(), strict: Some(true), ..Tool::default() }],
        ..Chat::default()
    };
    let body = request(&chat);
    // Templates take no `null` where there are no calls.
    assert_eq!(body["messages"][0], json!({"role": "user", "content": "", "name": "Ada"}));
    assert_eq!(body["messages"][1]["content"], "");
    assert_eq!(body["tools"][0]["function"], json!({"name": "f", "strict": true}));
}
