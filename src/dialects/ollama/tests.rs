use bytes::Bytes;
use serde_json::{Map, Value, json};

use super::*;
use crate::dialects::answer::{Answer, Finish, Piece, Usage};
use crate::dialects::chat::{Chat, Message, Output, Part, Role, Thinking, Tool, ToolCall};
use crate::dialects::trouble::Trouble;
use crate::dialects::writer::Writer;

const PNG: &str = "iVBORw0KGgoAAAANSUhEUg";

fn chat_of(asked: Asked) -> Chat {
    match asked.work {
        Work::Chat(chat) => *chat,
        other => panic!("no chat: {other:?}"),
    }
}

#[test]
fn a_chat_with_everything_is_read() {
    let body = json!({
        "model": "m", "stream": false, "keep_alive": "5m", "think": "low", "shift": true, "colour": "red",
        "format": {"type": "object"}, "logprobs": true, "top_logprobs": 2,
        "options": {"temperature": 0, "num_predict": 9, "num_ctx": 8192, "stop": "x", "seed": 1, "num_gpu": 99},
        "tools": [{"type": "function", "function": {"name": "add", "description": "adds",
                   "parameters": {"type": "object"}}}],
        "messages": [
            {"role": "system", "content": "Be kind."},
            {"role": "user", "content": "What is it?", "images": [PNG]},
            {"role": "assistant", "content": "", "thinking": "I add.", "tool_calls": [
                {"function": {"name": "add", "arguments": {"a": 1}}},
                {"function": {"name": "mul", "arguments": {}}}]},
            {"role": "tool", "tool_name": "mul", "content": "0"},
            {"role": "tool", "tool_name": "add", "content": "2"},
        ],
    });
    let asked = chat(&body).unwrap();
    assert_eq!((&asked.keep_alive, asked.context_length), (&Some(json!("5m")), Some(8192)));
    let call = |id: &str, name: &str, arguments: &str| ToolCall {
        id: id.into(),
        name: name.into(),
        arguments: arguments.into(),
    };
    let result = |id: &str, name: &str, text: &str| Message {
        tool_call_id: Some(id.into()),
        name: Some(name.into()),
        ..Message::text(Role::Tool, text)
    };
    let image = Part::Image(format!("data:image/png;base64,{PNG}"));
    let expected = Chat {
        model: "m".into(),
        messages: vec![
            Message::text(Role::System, "Be kind."),
            Message { content: vec![Part::Text("What is it?".into()), image], ..Message::default() },
            Message {
                role: Role::Assistant,
                reasoning: Some("I add.".into()),
                tool_calls: vec![call("call_0", "add", r#"{"a":1}"#), call("call_1", "mul", "{}")],
                ..Message::default()
            },
            result("call_1", "mul", "0"),
            result("call_0", "add", "2"),
        ],
        tools: vec![Tool {
            name: "add".into(),
            description: Some("adds".into()),
            parameters: Some(json!({"type": "object"})),
            strict: None,
        }],
        output: Output::Schema { name: None, schema: json!({"type": "object"}), strict: Some(true) },
        thinking: Thinking { enabled: Some(true), effort: Some("low".into()), budget_tokens: None },
        max_tokens: Some(9),
        stop: vec!["x".into()],
        options: Map::from_iter([
            ("logprobs".to_owned(), json!(true)),
            ("top_logprobs".to_owned(), json!(2)),
            ("temperature".to_owned(), json!(0)),
            ("seed".to_owned(), json!(1)),
        ]),
        ignored: vec!["shift".into(), "colour".into(), "options.num_gpu".into()],
        ..Chat::default()
    };
    assert_eq!(chat_of(asked), expected);
}

#[test]
fn a_result_answers_the_first_open_call_of_its_tool() {
    let calls = |names: &[&str]| {
        let calls: Vec<Value> = names.iter().map(|name| json!({"function": {"name": name}})).collect();
        json!({"role": "assistant", "tool_calls": calls})
    };
    let result = |fields: Value| {
        let mut message = json!({"role": "tool", "content": "1"});
        message.as_object_mut().unwrap().extend(fields.as_object().cloned().unwrap());
        message
    };
    let messages = json!([
        calls(&["a", "b", "a"]),
        result(json!({"tool_name": "b"})),
        result(json!({"tool_call_id": "call_0"})),
        result(json!({"tool_name": "a"})),
        result(json!({})),
        calls(&["a"]),
        result(json!({"tool_name": "unknown"})),
    ]);
    let read = chat_of(chat(&json!({"model": "m", "messages": messages})).unwrap());
    let results = read.messages.iter().filter(|message| message.role == Role::Tool);
    let ids: Vec<Option<&str>> = results.map(|message| message.tool_call_id.as_deref()).collect();
    assert_eq!(ids, [Some("call_1"), Some("call_0"), Some("call_2"), None, Some("call_3")]);
}

#[test]
fn defaults_are_ollamas() {
    for no_limit in [-2, -1, 0] {
        let asked = chat(&json!({"model": "m", "messages": [{"role": "user", "content": "Hi"}],
                                 "format": "", "options": {"num_predict": no_limit}}));
        let read = chat_of(asked.unwrap());
        assert!(read.streams && read.output == Output::Text && read.ignored.is_empty());
        assert_eq!(read.max_tokens, None, "{no_limit}");
    }
    let generated = generate(&json!({"model": "m", "prompt": "Hi", "system": "Be kind.", "context": [1, 2]}));
    let read = chat_of(generated.unwrap());
    assert_eq!(read.messages, [Message::text(Role::System, "Be kind."), Message::text(Role::User, "Hi")]);
    assert_eq!(read.ignored, ["context"]);
}

#[test]
fn a_request_without_a_prompt_only_loads() {
    let nothing = Work::Nothing { model: "m".into(), streams: true, ignored: Vec::new() };
    assert_eq!(chat(&json!({"model": "m", "messages": []})).unwrap().work, nothing);
    let asked = generate(&json!({"model": "m", "keep_alive": 0})).unwrap();
    assert_eq!((asked.work, asked.keep_alive), (nothing, Some(json!(0))));
}

#[test]
fn a_raw_prompt_is_a_completion() {
    let body = json!({"model": "m", "prompt": "1, 2,", "raw": true, "format": "", "think": false,
                      "options": {"num_predict": 3, "top_k": 1}});
    let Work::Raw { body, ignored, .. } = generate(&body).unwrap().work else { panic!("it is raw") };
    let expected = json!({"model": "m", "prompt": "1, 2,", "max_tokens": 3, "top_k": 1, "stream": true,
                          "stream_options": {"include_usage": true}});
    assert_eq!((body, ignored.len()), (expected, 0));
}

#[test]
fn what_cannot_be_done_is_refused_by_its_name() {
    let user = json!([{"role": "user", "content": "Hi"}]);
    for (body, name) in [
        (json!({"messages": user}), "model"),
        (json!({"model": "m", "messages": [{"role": "robot"}]}), "messages[0].role"),
        (json!({"model": "m", "messages": [{"role": "user", "images": ["AAAA"]}]}), "messages[0].images[0]"),
        (json!({"model": "m", "messages": user, "format": "xml"}), "format"),
        (json!({"model": "m", "messages": user, "think": 3}), "think"),
        (json!({"model": "m", "messages": user, "tools": [{"type": "function"}]}), "tools[0].function"),
        (json!({"model": "m", "messages": user, "options": {"top_k": "a"}}), "options.top_k"),
        (json!({"model": "m", "messages": user, "options": {"stop": [1]}}), "options.stop"),
        (json!({"model": "m", "messages": user, "options": {"num_predict": "a"}}), "options.num_predict"),
    ] {
        assert_eq!(chat(&body).unwrap_err().field, name, "{body}");
    }
    for (field, value) in [
        ("suffix", json!("x")),
        ("template", json!("{{ .Prompt }}")),
        ("prompt", json!(1)),
        ("system", json!(1)),
    ] {
        let mut body = json!({"model": "m", "prompt": "Hi"});
        body[field] = value;
        assert_eq!(generate(&body).unwrap_err().field, field);
    }
    let raw = json!({"model": "m", "prompt": "Hi", "raw": true, "system": "Be kind."});
    assert_eq!(generate(&raw).unwrap_err().field, "system");
}

/// The lines, without the time at which each was written.
fn lines(bytes: &Bytes) -> Vec<Value> {
    let text = std::str::from_utf8(bytes).unwrap();
    let read = |line: &str| {
        let mut value: Value = serde_json::from_str(line).unwrap();
        value.as_object_mut().unwrap().remove("created_at");
        value
    };
    text.lines().map(read).collect()
}

fn usage() -> Usage {
    Usage {
        prompt_tokens: 7,
        completion_tokens: 5,
        prompt_ms: Some(1.5),
        completion_ms: Some(2.0),
        ..Usage::default()
    }
}

#[test]
fn a_stream_has_a_line_for_each_piece_and_ends_with_the_counts() {
    let mut writer = OllamaWriter::new(Form::Chat, "m");
    assert_eq!(lines(&writer.waiting("x").unwrap())[0]["message"]["content"], "");
    let pieces = vec![
        Piece::Reasoning("hm".into()),
        Piece::Logprobs(vec![json!({"token": "Hi"})]),
        Piece::Text("Hi".into()),
        Piece::Call { index: 0, id: Some("a".into()), name: Some("add".into()), arguments: r#"{"a""#.into() },
        Piece::Call { index: 0, id: None, name: None, arguments: ":1}".into() },
        Piece::Finish(Finish::ToolCalls),
    ];
    let told = lines(&writer.pieces(pieces));
    let said = |message: Value| json!({"model": "m", "message": message, "done": false});
    let mut text = said(json!({"role": "assistant", "content": "Hi"}));
    text["logprobs"] = json!([{"token": "Hi"}]);
    assert_eq!(told, [said(json!({"role": "assistant", "content": "", "thinking": "hm"})), text]);
    assert!(writer.pieces(vec![Piece::Usage(usage())]).is_empty());
    let mut last = lines(&writer.end());
    let call = json!({"id": "a", "function": {"index": 0, "name": "add", "arguments": {"a": 1}}});
    assert_eq!(last[0], said(json!({"role": "assistant", "content": "", "tool_calls": [call]})));
    let end = last.remove(1);
    assert_eq!((&end["done"], &end["done_reason"]), (&json!(true), &json!("stop")));
    assert_eq!((&end["prompt_eval_count"], &end["eval_count"]), (&json!(7), &json!(5)));
    assert_eq!((&end["prompt_eval_duration"], &end["eval_duration"]), (&json!(1_500_000), &json!(2_000_000)));
    assert!(end["total_duration"].is_u64() && end["load_duration"].is_u64());
    let trouble = Trouble { status: 503, code: "x".into(), message: "no: try again".into(), param: None };
    assert_eq!(lines(&writer.fail(&trouble)), [json!({"error": "no: try again"})]);
}

#[test]
fn all_log_probabilities_of_a_text_are_told() {
    let tokens = |token: &str| Piece::Logprobs(vec![json!({"token": token})]);
    let mut writer = OllamaWriter::new(Form::Chat, "m");
    let text = |text: &str| Piece::Text(text.to_owned());
    let told =
        lines(&writer.pieces(vec![tokens("H"), tokens("i"), text("Hi"), tokens("."), text("."), tokens("")]));
    assert_eq!(told[0]["logprobs"], json!([{"token": "H"}, {"token": "i"}]));
    assert_eq!(told[1]["logprobs"], json!([{"token": "."}]));
    assert_eq!(lines(&writer.end())[0]["logprobs"], json!([{"token": ""}]), "the last ones may have no text");
}

#[test]
fn a_gap_in_the_calls_is_no_call() {
    let call = |index, name: &str| Piece::Call {
        index,
        id: None,
        name: Some(name.into()).filter(|name: &String| !name.is_empty()),
        arguments: String::new(),
    };
    let mut writer = OllamaWriter::new(Form::Chat, "m");
    assert!(writer.pieces(vec![call(1, "add"), call(3, "")]).is_empty());
    let calls = lines(&writer.end())[0]["message"]["tool_calls"].clone();
    assert_eq!(calls.as_array().unwrap().len(), 1, "{calls}");
    let answer = [call(1, "add"), call(3, "")].into_iter().collect();
    let whole = OllamaWriter::new(Form::Chat, "m").whole(answer);
    assert_eq!(whole["message"]["tool_calls"], calls);
}

#[test]
fn a_whole_answer_has_the_same_members() {
    let answer = Answer {
        text: "Hi".into(),
        reasoning: "hm".into(),
        finish: Finish::Length,
        usage: Some(usage()),
        ..Answer::default()
    };
    let whole = OllamaWriter::new(Form::Generate, "m").whole(answer);
    assert_eq!((&whole["response"], &whole["thinking"]), (&json!("Hi"), &json!("hm")));
    assert_eq!((&whole["done"], &whole["done_reason"]), (&json!(true), &json!("length")));
    assert_eq!((&whole["eval_count"], &whole["eval_duration"]), (&json!(5), &json!(2_000_000)));
    let loaded = idle_answer(Form::Generate, "m", "load");
    assert_eq!((&loaded["done"], &loaded["done_reason"]), (&json!(true), &json!("load")));
}

#[test]
fn arguments_that_are_no_object_are_kept() {
    let call = |arguments: &str| {
        let calls = vec![ToolCall { name: "f".into(), arguments: arguments.into(), ..ToolCall::default() }];
        let whole = OllamaWriter::new(Form::Chat, "m").whole(Answer { calls, ..Answer::default() });
        whole["message"]["tool_calls"][0]["function"]["arguments"].clone()
    };
    assert_eq!(call(""), json!({}));
    assert_eq!(call("[1"), json!({"arguments": "[1"}));
}

#[test]
fn embeddings_are_in_the_order_of_the_texts_and_as_long_as_asked() {
    let asked =
        Embed::read(&json!({"model": "m", "input": ["a", "b"], "dimensions": 2, "truncate": true})).unwrap();
    assert_eq!(asked.ignored, ["truncate"]);
    assert_eq!(asked.for_engine()["input"], json!(["a", "b"]));
    let engines = json!({"data": [{"index": 1, "embedding": [0.0, 1.0, 0.0]},
                                  {"index": 0, "embedding": [3.0, 4.0, 12.0]}], "usage": {"prompt_tokens": 4}});
    let answer = asked.answer(&engines, 9);
    assert_eq!(answer["embeddings"], json!([[0.6, 0.8], [0.0, 1.0]]));
    assert_eq!((&answer["prompt_eval_count"], &answer["total_duration"]), (&json!(4), &json!(9)));
    let single = Embed::read_single(&json!({"model": "m", "prompt": "a"})).unwrap();
    assert_eq!(single.answer(&engines, 9), json!({"embedding": [3.0, 4.0, 12.0]}));
    assert!(Embed::read(&json!({"model": "m", "input": []})).unwrap().is_empty());
    assert_eq!(Embed::read(&json!({"model": "m"})).unwrap_err().field, "input");
}

#[test]
fn an_image_is_known_by_its_first_bytes() {
    for (base64, kind) in
        [(PNG, "png"), ("/9j/4AAQ", "jpeg"), ("R0lGODlh", "gif"), ("UklGRgAA", "webp"), ("Qk0AAAAA", "bmp")]
    {
        let asked = generate(&json!({"model": "m", "prompt": "What is it?", "images": [base64]}));
        let image = Part::Image(format!("data:image/{kind};base64,{base64}"));
        assert_eq!(chat_of(asked.unwrap()).messages[0].content[1], image);
    }
}

#[test]
fn what_only_a_chat_can_have_is_refused_with_a_raw_prompt() {
    for (field, value) in [
        ("images", json!([PNG])),
        ("think", json!(true)),
        ("think", json!("low")),
        ("format", json!("json")),
        ("logprobs", json!(true)),
    ] {
        let mut body = json!({"model": "m", "prompt": "Hi", "raw": true});
        body[field] = value;
        assert_eq!(generate(&body).unwrap_err().field, field);
    }
}

#[test]
fn the_times_of_an_answer_add_up_where_the_engine_tells_none() {
    let whole = OllamaWriter::new(Form::Chat, "m").whole(Answer { text: "Hi".into(), ..Answer::default() });
    let time = |name: &str| whole[name].as_u64().unwrap();
    let parts = ["load_duration", "prompt_eval_duration", "eval_duration"].map(time);
    assert_eq!(parts.iter().sum::<u64>(), time("total_duration"), "{whole}");
}
