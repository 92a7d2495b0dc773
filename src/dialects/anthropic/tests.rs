use serde_json::{Value, json};

use super::*;
use crate::dialects::answer::{Answer, Finish, Piece, Usage};
use crate::dialects::chat::Chat;
use crate::dialects::engine;
use crate::dialects::trouble::Trouble;
use crate::dialects::writer::Writer;

/// Exchanges as Anthropic's documentation has them: its fields, its events and their order.
const DOCUMENTED: &str = include_str!("../../../tests/fixtures/dialects/anthropic.json");

fn documented(kind: &str) -> Vec<Value> {
    let all: Value = serde_json::from_str(DOCUMENTED).unwrap();
    let cases = all[kind].as_array().unwrap().clone();
    assert!(!cases.is_empty());
    cases
}

fn asked(body: &Value) -> Chat {
    let mut request = json!({"model": "m", "messages": [{"role": "user", "content": "Hi"}]});
    request.as_object_mut().unwrap().extend(body.as_object().unwrap().clone());
    read(&request).unwrap()
}

fn refused(body: &Value) -> String {
    let mut request = json!({"model": "m", "messages": [{"role": "user", "content": "Hi"}]});
    request.as_object_mut().unwrap().extend(body.as_object().unwrap().clone());
    read(&request).unwrap_err().to_string()
}

/// A writer with the id of the documented exchanges.
fn writer(thinking: &Value) -> MessageWriter {
    MessageWriter::with_id("msg_1".to_owned(), &asked(&json!({"thinking": thinking})))
}

/// The data of the events of a stream, without pings, which may come anywhere.
fn events(stream: &str) -> Vec<Value> {
    let events = stream.split("\n\n").filter(|event| !event.is_empty());
    let events = events.map(|event| {
        let field = |name: &str| event.lines().find_map(|line| line.strip_prefix(name)).unwrap();
        let data: Value = serde_json::from_str(field("data: ")).unwrap();
        assert_eq!(data["type"], field("event: "));
        data
    });
    events.filter(|data| data["type"] != "ping").collect()
}

fn streamed(mut writer: MessageWriter, pieces: Vec<Piece>) -> Vec<Value> {
    let mut stream = writer.begin().to_vec();
    for piece in pieces {
        stream.extend(writer.pieces(vec![piece]));
    }
    stream.extend(writer.end());
    events(&String::from_utf8(stream).unwrap())
}

/// The content of a message, as the client libraries put it together from its events.
fn put_together(events: &[Value]) -> Vec<Value> {
    let mut content: Vec<Value> = Vec::new();
    let mut inputs: Vec<String> = Vec::new();
    let mut open = None;
    for event in events {
        let index = event["index"].as_u64().map(|index| usize::try_from(index).unwrap());
        match event["type"].as_str().unwrap() {
            "content_block_start" => {
                assert_eq!((open, index), (None, Some(content.len())), "one open block at a time");
                content.push(event["content_block"].clone());
                inputs.push(String::new());
                open = index;
            }
            "content_block_delta" => {
                assert_eq!(open, index);
                let (block, delta) = (&mut content[open.unwrap()], &event["delta"]);
                for name in ["text", "thinking", "signature"] {
                    if let Some(more) = delta[name].as_str() {
                        block[name] = format!("{}{more}", block[name].as_str().unwrap()).into();
                    }
                }
                inputs[open.unwrap()] += delta["partial_json"].as_str().unwrap_or_default();
            }
            "content_block_stop" => {
                assert_eq!(open.take(), index);
                let text = &inputs[index.unwrap()];
                if !text.is_empty() {
                    content[index.unwrap()]["input"] = serde_json::from_str(text).unwrap();
                }
            }
            _ => assert_eq!(open, None),
        }
    }
    content
}

/// Whether a value has all that the documented one has, and of the same kinds where they are no constants.
fn has(value: &Value, documented: &Value, path: &str) {
    match documented {
        Value::Object(fields) => {
            for (name, field) in fields {
                has(&value[name], field, &format!("{path}.{name}"));
            }
        }
        _ => assert_eq!(value, documented, "{path}"),
    }
}

#[test]
fn documented_requests_are_read_and_written_for_an_engine() {
    for case in documented("requests") {
        let chat = read(&case["request"]).unwrap_or_else(|error| panic!("{}: {error}", case["name"]));
        assert_eq!(engine::request(&chat), case["engine"], "{}", case["name"]);
        assert_eq!(json!(chat.ignored), case["ignored"], "{}", case["name"]);
    }
}

#[test]
fn answers_have_the_documented_events_in_their_order() {
    for case in documented("streams") {
        let mut reader = engine::Reader::default();
        let chunks = case["engine"].as_array().unwrap().iter().map(|chunk| format!("data: {chunk}\n\n"));
        let pieces = reader.read(chunks.collect::<String>().as_bytes());
        let events = streamed(writer(&case["thinking"]), pieces);
        let expected = case["events"].as_array().unwrap();
        let kinds = |events: &[Value]| events.iter().map(|event| event["type"].clone()).collect::<Vec<_>>();
        assert_eq!(kinds(&events), kinds(expected), "{}", case["name"]);
        for (event, documented) in events.iter().zip(expected) {
            has(event, documented, &case["name"].to_string());
        }
    }
}

#[test]
fn whole_answers_have_the_documented_form() {
    for case in documented("messages") {
        let answer = engine::answer(&case["engine"]).unwrap();
        assert_eq!(writer(&case["thinking"]).whole(answer), case["message"], "{}", case["name"]);
    }
}

#[test]
fn what_only_anthropics_service_can_do_is_refused_by_name() {
    let in_message = |block: Value| json!({"messages": [{"role": "user", "content": [block]}]});
    for (body, named) in [
        (json!({"mcp_servers": [{"type": "url"}]}), "`mcp_servers` asks"),
        (json!({"container": {"skills": [{}]}}), "`container` asks"),
        (json!({"thread": {"type": "create"}}), "`thread` asks"),
        (json!({"tools": [{"type": "web_search_20250305", "name": "web_search"}]}), "web_search_20250305"),
        (json!({"tools": [{"type": "bash_20250124", "name": "bash"}]}), "`tools[0].type`"),
        (
            in_message(
                json!({"type": "document", "source": {"type": "base64", "media_type": "application/pdf", "data": ""}}),
            ),
            "`messages[0].content[0].source.type` is \"base64\", and the hive reads no PDF",
        ),
        (in_message(json!({"type": "image", "source": {"type": "file", "file_id": "f"}})), "is \"file\""),
        (in_message(json!({"type": "server_tool_use", "id": "x"})), "is \"server_tool_use\""),
    ] {
        let problem = refused(&body);
        assert!(problem.contains(named), "{problem}");
    }
}

#[test]
fn a_field_that_is_not_valid_is_refused_by_name() {
    let in_message = |message: Value| json!({"messages": [message]});
    for (body, named) in [
        (json!({"model": ""}), "`model`"),
        (json!({"messages": []}), "`messages`"),
        (in_message(json!({"role": "tool", "content": ""})), "`messages[0].role`"),
        (in_message(json!({"role": "user"})), "`messages[0].content`"),
        (in_message(json!({"role": "user", "content": ["Hi"]})), "`messages[0].content[0]`"),
        (in_message(json!({"role": "user", "content": [{"type": "text"}]})), "`messages[0].content[0].text`"),
        (json!({"system": 7}), "`system`"),
        (json!({"max_tokens": 0}), "`max_tokens`"),
        (json!({"temperature": 3}), "`temperature`"),
        (json!({"stop_sequences": [""]}), "`stop_sequences`"),
        (json!({"thinking": {"type": "much"}}), "`thinking.type`"),
        (json!({"output_config": {"effort": "some"}}), "`output_config.effort`"),
        (json!({"output_config": {"format": {"type": "json_schema"}}}), "`output_config.format.schema`"),
        (json!({"output_format": {"type": "xml"}}), "`output_format.type`"),
        (json!({"tools": [{"name": "f"}]}), "`tools[0].input_schema`"),
        (json!({"tool_choice": {"type": "tool", "name": "f"}}), "`tool_choice.name`"),
    ] {
        let problem = refused(&body);
        assert!(problem.starts_with(named), "{problem}");
    }
}

#[test]
fn what_has_no_effect_is_told_once_and_what_asks_for_nothing_is_not() {
    let tool = json!({"name": "f", "input_schema": {}, "input_examples": [{}], "allowed_callers": [], "strict": true});
    let body = json!({
        "unheard_of": 1, "mcp_servers": [], "container": null, "speed": "fast", "tools": [tool, tool],
        "thinking": {"type": "enabled", "budget_tokens": 9, "display": "omitted"},
    });
    assert_eq!(asked(&body).ignored, ["unheard_of", "speed", "tools.input_examples", "thinking.display"]);
}

fn call(index: usize, name: Option<&str>, arguments: &str) -> Piece {
    let id = name.map(|name| format!("id-{name}"));
    Piece::Call { index, id, name: name.map(str::to_owned), arguments: arguments.to_owned() }
}

#[test]
fn a_stream_says_the_same_as_a_whole_answer_however_an_engine_mixes_it() {
    let think = |text: &str| Piece::Reasoning(text.to_owned());
    let say = |text: &str| Piece::Text(text.to_owned());
    let (f, g) = (Some("f"), Some("g"));
    let mixtures = [
        // In order.
        vec![
            think("hm"),
            say("a"),
            say("b"),
            call(0, f, ""),
            call(0, None, "{\"x\""),
            call(0, None, ":1}"),
            call(1, g, "{}"),
        ],
        // Two calls at once, whose arguments end late, and a text between them.
        vec![
            think("hm"),
            call(0, f, ""),
            call(1, g, ""),
            say("a"),
            call(1, None, "{"),
            call(0, None, "{\"x\":"),
            call(1, None, "}"),
            call(0, None, "1}"),
            say("b"),
        ],
        // As a whole.
        vec![think("hm"), say("ab"), call(0, f, "{\"x\":1}"), call(1, g, "{}")],
    ];
    for pieces in mixtures {
        let whole = writer(&json!({"type": "adaptive"})).whole(pieces.iter().cloned().collect());
        let events = streamed(writer(&json!({"type": "adaptive"})), pieces);
        let content = put_together(&events);
        for kind in ["thinking", "tool_use"] {
            let of_kind = |content: &[Value]| {
                content.iter().filter(|block| block["type"] == kind).cloned().collect::<Vec<_>>()
            };
            assert_eq!(of_kind(&content), of_kind(whole["content"].as_array().unwrap()));
        }
        let text: String = content.iter().filter_map(|block| block["text"].as_str()).collect();
        assert_eq!(text, "ab");
        let last = &events[events.len() - 2];
        assert_eq!(last["delta"]["stop_reason"], "tool_use", "though the engine did not say so");
    }
}

#[test]
fn arguments_that_are_no_object_are_told_as_they_are() {
    for (arguments, input) in [
        ("", json!({})),
        (" ", json!({})),
        ("{}", json!({})),
        (" {\"a\":1}", json!({"a": 1})),
        ("location=Rome", json!("location=Rome")),
        ("[1]", json!([1])),
        ("\"x\"", json!("x")),
    ] {
        let pieces = |cut: usize| {
            vec![
                call(0, Some("f"), &arguments[..cut]),
                call(0, None, &arguments[cut..]),
                call(1, Some("g"), "{}"),
            ]
        };
        for cut in 0..=arguments.len() {
            let content = put_together(&streamed(writer(&Value::Null), pieces(cut)));
            assert_eq!((content.len(), &content[0]["input"]), (2, &input), "{arguments}");
        }
        let whole = writer(&Value::Null).whole(pieces(0).into_iter().collect());
        assert_eq!(whole["content"][0]["input"], input, "{arguments}");
    }
}

#[test]
fn a_call_without_an_id_gets_one() {
    let answer: Answer = [call(0, None, "{}"), call(1, None, "{}")].into_iter().collect();
    let ids = |content: &[Value]| content.iter().map(|call| call["id"].clone()).collect::<Vec<_>>();
    let whole = writer(&Value::Null).whole(answer);
    assert_eq!(ids(whole["content"].as_array().unwrap()), ["toolu_1_0", "toolu_1_1"]);
    let events = streamed(writer(&Value::Null), vec![call(0, None, "{}"), call(1, None, "{}")]);
    assert_eq!(ids(&put_together(&events)), ["toolu_1_0", "toolu_1_1"]);
}

#[test]
fn thinking_is_shown_to_those_who_ask_for_it() {
    let pieces = || {
        vec![Piece::Reasoning("hm".to_owned()), Piece::Text("yes".to_owned()), Piece::Finish(Finish::Stop)]
    };
    for (thinking, shown) in [
        (Value::Null, false),
        (json!({"type": "disabled"}), false),
        (json!({"type": "enabled"}), true),
        (json!({"type": "adaptive"}), true),
    ] {
        let content = put_together(&streamed(writer(&thinking), pieces()));
        let whole = writer(&thinking).whole(pieces().into_iter().collect());
        assert_eq!((content.len() == 2, json!(content)), (shown, whole["content"].clone()), "{thinking}");
    }
}

#[test]
fn a_stream_that_breaks_off_ends_with_an_error() {
    let trouble =
        Trouble { status: 503, code: "worker_unresponsive".into(), message: "gone".into(), param: None };
    let mut broken = writer(&Value::Null);
    let mut stream = broken.waiting("waiting: 1 of 2\nor so").unwrap().to_vec();
    stream.extend(broken.begin());
    stream.extend(broken.pieces(vec![Piece::Text("Hel".to_owned())]));
    stream.extend(broken.fail(&trouble));
    let stream = String::from_utf8(stream).unwrap();
    assert!(
        stream.starts_with(": waiting: 1 of 2 or so\nevent: ping\ndata: {\"type\":\"ping\"}\n\n"),
        "{stream}"
    );
    let events = events(stream.split_once('\n').unwrap().1);
    assert_eq!(
        events.last().unwrap(),
        &json!({"type": "error", "error": {"type": "overloaded_error", "message": "gone"}})
    );
    assert!(!stream.contains("message_stop"));
}

#[test]
fn the_names_of_fields_without_effect_are_bounded() {
    let body: Value = (0..200)
        .map(|at| (format!("{at}{}", "x".repeat(200)), json!(1)))
        .collect::<serde_json::Map<_, _>>()
        .into();
    let ignored = asked(&body).ignored;
    assert_eq!(ignored.len(), 64);
    assert!(ignored.iter().all(|name| name.len() == 64));
}

#[test]
fn turns_of_the_assistant_that_follow_each_other_lose_nothing() {
    let turn = |thought: &str, id: &str| {
        json!({"role": "assistant", "content": [
            {"type": "thinking", "thinking": thought, "signature": ""}, {"type": "text", "text": id},
            {"type": "tool_use", "id": id, "name": "f", "input": {}}]})
    };
    let messages = asked(&json!({"messages": [turn("a", "1"), turn("b", "2")]})).messages;
    let [message] = messages.as_slice() else { panic!("{messages:?}") };
    let ids: Vec<&str> = message.tool_calls.iter().map(|call| call.id.as_str()).collect();
    assert_eq!(
        (message.reasoning.as_deref(), message.content.len(), &*ids),
        (Some("ab"), 2, &["1", "2"][..])
    );
}

#[test]
fn thoughts_that_are_not_wanted_have_no_budget() {
    let budget =
        |kind: &str| asked(&json!({"thinking": {"type": kind, "budget_tokens": 9}})).thinking.budget_tokens;
    assert_eq!(["enabled", "adaptive", "disabled"].map(budget), [Some(9), Some(9), None]);
}

#[test]
fn a_client_hears_that_an_answer_goes_on_where_it_is_shown_nothing() {
    let ping = "event: ping\ndata: {\"type\":\"ping\"}\n\n";
    assert_eq!(writer(&Value::Null).pieces(vec![Piece::Reasoning("hm".to_owned())]), ping);
}

#[test]
fn the_end_tells_the_stop_string_and_the_tokens() {
    let usage = Usage { prompt_tokens: 7, cached_tokens: Some(9), completion_tokens: 2, ..Usage::default() };
    let pieces = vec![
        Piece::Text("a".to_owned()),
        Piece::StopString("END".to_owned()),
        Piece::Finish(Finish::Stop),
        // An engine may count the cache's tokens otherwise than the prompt's.
        Piece::Usage(usage),
    ];
    let whole = writer(&Value::Null).whole(pieces.iter().cloned().collect());
    let events = streamed(writer(&Value::Null), pieces);
    let end = &events[events.len() - 2];
    for (told, usage) in [(&whole, &whole["usage"]), (&end["delta"], &end["usage"])] {
        assert_eq!((&told["stop_reason"], &told["stop_sequence"]), (&json!("stop_sequence"), &json!("END")));
        let counts =
            ["input_tokens", "cache_read_input_tokens", "output_tokens"].map(|name| usage[name].clone());
        assert_eq!(counts, [json!(0), json!(7), json!(2)]);
    }
}
