//! Reads an answer as the clients of each dialect do.

use std::collections::BTreeMap;

use serde_json::Value;

use crate::dialects::answer::{Answer, Finish, Usage};
use crate::dialects::chat::ToolCall;

/// The data of the events of a stream.
fn events(stream: &str) -> impl Iterator<Item = Value> {
    let data = stream.lines().filter_map(|line| line.strip_prefix("data: "));
    data.map(|data| serde_json::from_str(data).expect("JSON"))
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

fn add_to(said: &mut BTreeMap<u64, String>, index: &Value, more: &Value) {
    said.entry(index.as_u64().expect("an index")).or_default().push_str(more.as_str().expect("text"));
}

/// Responses: the object.
pub(super) fn response(object: &Value) -> Answer {
    let mut answer = Answer::default();
    for item in object["output"].as_array().expect("items") {
        match item["type"].as_str() {
            Some("reasoning") => answer.reasoning += &text(&item["content"][0]["text"]),
            Some("message") => answer.text += &text(&item["content"][0]["text"]),
            Some("function_call") => answer.calls.push(ToolCall {
                id: text(&item["call_id"]),
                name: text(&item["name"]),
                arguments: text(&item["arguments"]),
            }),
            other => panic!("{other:?}"),
        }
    }
    answer.finish = match (object["status"].as_str(), object["incomplete_details"]["reason"].as_str()) {
        (Some("completed"), None) if answer.calls.is_empty() => Finish::Stop,
        (Some("completed"), None) => Finish::ToolCalls,
        (Some("incomplete"), Some("max_output_tokens")) => Finish::Length,
        other => panic!("{other:?}"),
    };
    let count = |value: &Value| value.as_u64().expect("a count");
    answer.usage = Some(Usage {
        prompt_tokens: count(&object["usage"]["input_tokens"]),
        completion_tokens: count(&object["usage"]["output_tokens"]),
        cached_tokens: Some(count(&object["usage"]["input_tokens_details"]["cached_tokens"])),
        ..Usage::default()
    });
    answer
}

/// Responses: the events. What the deltas say must be what the last event has.
pub(super) fn response_events(stream: &str) -> Answer {
    let mut said: BTreeMap<u64, String> = BTreeMap::new();
    let (mut last, mut done) = (Value::Null, 0);
    for event in events(stream) {
        let kind = event["type"].as_str().expect("a type");
        if kind == "response.output_item.done" {
            assert_eq!(event["output_index"], done, "one item after the other");
            done += 1;
        }
        if kind.ends_with(".delta") {
            assert_eq!(event["output_index"], done, "the item that grows");
            add_to(&mut said, &event["output_index"], &event["delta"]);
        }
        last = event;
    }
    let response = &last["response"];
    for (index, item) in (0..).zip(response["output"].as_array().expect("items")) {
        let whole = item.get("arguments").unwrap_or(&item["content"][0]["text"]);
        assert_eq!(said.remove(&index).unwrap_or_default(), text(whole), "item {index} of {response}");
    }
    self::response(response)
}

/// Anthropic: the message.
pub(super) fn message(object: &Value) -> Answer {
    let mut answer = Answer::default();
    for block in object["content"].as_array().expect("blocks") {
        match block["type"].as_str() {
            Some("thinking") => answer.reasoning += &text(&block["thinking"]),
            Some("text") => answer.text += &text(&block["text"]),
            Some("tool_use") => answer.calls.push(ToolCall {
                id: text(&block["id"]),
                name: text(&block["name"]),
                arguments: block["input"].to_string(),
            }),
            other => panic!("{other:?}"),
        }
    }
    answer.finish = match object["stop_reason"].as_str() {
        Some("end_turn") => Finish::Stop,
        Some("tool_use") => Finish::ToolCalls,
        Some("max_tokens") => Finish::Length,
        other => panic!("{other:?}"),
    };
    let count = |name: &str| object["usage"][name].as_u64().expect("a count");
    let cached = count("cache_read_input_tokens");
    answer.usage = Some(Usage {
        prompt_tokens: count("input_tokens") + cached,
        completion_tokens: count("output_tokens"),
        cached_tokens: Some(cached),
        ..Usage::default()
    });
    answer
}

/// Anthropic: the events.
pub(super) fn message_events(stream: &str) -> Answer {
    let (mut object, mut blocks, mut said) = (Value::Null, Vec::new(), BTreeMap::new());
    for event in events(stream) {
        match event["type"].as_str().expect("a type") {
            "message_start" => object = event["message"].clone(),
            "content_block_start" => blocks.push(event["content_block"].clone()),
            "content_block_delta" => {
                let delta = &event["delta"];
                let more = ["thinking", "text", "partial_json"].iter().find_map(|name| delta.get(*name));
                if let Some(more) = more {
                    assert_eq!(event["index"], blocks.len() - 1, "the block that grows");
                    add_to(&mut said, &event["index"], more);
                }
            }
            "message_delta" => {
                object["stop_reason"] = event["delta"]["stop_reason"].clone();
                object["usage"] = event["usage"].clone();
            }
            _ => {}
        }
    }
    for (index, block) in (0..).zip(&mut blocks) {
        let Some(said) = said.remove(&index) else { continue };
        let kind = text(&block["type"]);
        let (name, value) = match kind.as_str() {
            "tool_use" => ("input", serde_json::from_str(&said).expect("JSON")),
            kind => (kind, said.into()),
        };
        block[name] = value;
    }
    object["content"] = blocks.into();
    message(&object)
}

/// Ollama: the whole answer, which tells neither what was in the cache nor how calls are written.
pub(super) fn ollama(object: &Value) -> Answer {
    let message = &object["message"];
    let calls = message["tool_calls"].as_array().into_iter().flatten();
    let calls: Vec<_> = calls
        .map(|call| ToolCall {
            id: text(&call["id"]),
            name: text(&call["function"]["name"]),
            arguments: call["function"]["arguments"].to_string(),
        })
        .collect();
    assert_eq!(object["done"], true);
    let finish = match (object["done_reason"].as_str(), calls.is_empty()) {
        (Some("length"), _) => Finish::Length,
        (Some("stop"), true) => Finish::Stop,
        (Some("stop"), false) => Finish::ToolCalls,
        other => panic!("{other:?}"),
    };
    let count = |name: &str| object[name].as_u64().expect("a count");
    Answer {
        reasoning: text(&message["thinking"]),
        text: text(&message["content"]),
        calls,
        finish,
        usage: Some(Usage {
            prompt_tokens: count("prompt_eval_count"),
            completion_tokens: count("eval_count"),
            ..Usage::default()
        }),
        ..Answer::default()
    }
}

/// Ollama: the lines.
pub(super) fn ollama_lines(stream: &str) -> Answer {
    let lines = stream.lines().map(|line| serde_json::from_str::<Value>(line).expect("JSON"));
    let mut lines: Vec<Value> = lines.collect();
    let mut last = lines.pop().expect("a last line");
    for line in &lines {
        assert_eq!(line["done"], false);
        for name in ["thinking", "content"] {
            let so_far = text(&last["message"][name]);
            // The last line has no text of its own.
            last["message"][name] = (so_far + &text(&line["message"][name])).into();
        }
        if line["message"]["tool_calls"].is_array() {
            last["message"]["tool_calls"] = line["message"]["tool_calls"].clone();
        }
    }
    ollama(&last)
}
