//! Answers in each notation, in pieces of every size.

use serde_json::json;

use super::style::tests::{NOTATIONS, style};
use super::*;

fn tools() -> Vec<Tool> {
    let number = || json!({"type": "integer"});
    let schemas = [
        ("weather", json!({"properties": {"city": {"type": "string"}, "unit": {"enum": ["C", "F", 1]}}})),
        ("add", json!({"properties": {"a": number(), "b": number(), "note": {"type": ["string", "null"]}}})),
    ];
    schemas.map(|(name, schema)| Tool { name: name.to_owned(), parameters: Some(schema) }).to_vec()
}

/// The parts of an answer that arrives in pieces of so many characters; neighbours of a kind are joined.
fn parts(style: Style, opened: bool, answer: &str, size: usize) -> Vec<Part> {
    let mut reader = AnswerReader::new(style, opened, tools());
    let characters: Vec<char> = answer.chars().collect();
    let pieces = characters.chunks(size).map(|piece| piece.iter().collect::<String>());
    let mut parts: Vec<Part> = pieces.flat_map(|piece| reader.push(&piece)).collect();
    parts.extend(reader.finish());
    let mut joined: Vec<Part> = Vec::new();
    for part in parts {
        match (joined.last_mut(), part) {
            (Some(Part::Text(text)), Part::Text(more)) => text.push_str(&more),
            (Some(Part::Reasoning(text)), Part::Reasoning(more)) => text.push_str(&more),
            (_, part) => joined.push(part),
        }
    }
    joined
}

fn assert_parts(style: Style, opened: bool, answer: &str, expected: &[Part]) {
    for size in 1..=answer.chars().count().max(1) {
        assert_eq!(parts(style, opened, answer, size), expected, "{answer:?} in pieces of {size}");
    }
}

fn text(text: &str) -> Part {
    Part::Text(text.to_owned())
}

fn thought(text: &str) -> Part {
    Part::Reasoning(text.to_owned())
}

fn call(name: &str, arguments: &str) -> Part {
    Part::Call(Call { name: name.to_owned(), arguments: arguments.to_owned() })
}

#[test]
fn calls_are_found_in_each_notation() {
    let rain = || call("weather", r#"{"city":"Genève"}"#);
    let sum = || call("add", r#"{"a":1,"b":2}"#);
    for (notation, answer, expected) in [
        (
            "hermes",
            "<tool_call>\n{\"name\": \"weather\", \"arguments\": {\"city\": \"Genève\"}}\n</tool_call>",
            vec![rain()],
        ),
        (
            "hermes",
            "I look.\n<tool_call>{\"name\":\"weather\",\"arguments\":{\"city\":\"Genève\"}}</tool_call>\n<tool_call>{\"name\":\"add\",\"arguments\":\"{\\\"a\\\":1,\\\"b\\\":2}\"}</tool_call>\n",
            vec![text("I look."), rain(), sum()],
        ),
        // Models forget the last mark.
        (
            "hermes",
            "<tool_call>\n{\"name\": \"weather\", \"arguments\": {\"city\": \"Genève\"}}",
            vec![rain()],
        ),
        // Qwen3-Coder, as its template shows it.
        (
            "hermes",
            "I look.\n\n<tool_call>\n<function=weather>\n<parameter=city>\nGenève\n</parameter>\n</function>\n</tool_call>",
            vec![text("I look."), rain()],
        ),
        (
            "hermes",
            "<tool_call>\n<function=add>\n<parameter=a>\n1\n</parameter>\n<parameter=note>\n7\n8\n</parameter>\n<parameter=other>\n[true]\n</parameter>\n</function>\n</tool_call>",
            vec![call("add", r#"{"a":1,"note":"7\n8","other":[true]}"#)],
        ),
        (
            "hermes",
            "<tool_call><function=weather><parameter=unit>C</parameter></function></tool_call>",
            vec![call("weather", r#"{"unit":"C"}"#)],
        ),
        (
            "smollm",
            "<tool_call>[{\"name\": \"weather\", \"arguments\": {\"city\": \"Genève\"}}, {\"name\": \"add\", \"arguments\": {\"a\": 1, \"b\": 2}}]</tool_call> Done.",
            vec![rain(), sum(), text("Done.")],
        ),
        (
            "mistral",
            "[TOOL_CALLS][{\"name\": \"weather\", \"arguments\": {\"city\": \"Genève\"}}]",
            vec![rain()],
        ),
        (
            "mistral",
            "[TOOL_CALLS]weather[ARGS]{\"city\": \"Genève\"}[TOOL_CALLS]add{\"a\": 1, \"b\": 2}",
            vec![rain(), sum()],
        ),
        ("llama", "{\"name\": \"weather\", \"parameters\": {\"city\": \"Genève\"}}", vec![rain()]),
        (
            "llama",
            "<|python_tag|>{\"name\": \"add\", \"parameters\": {\"a\": 1, \"b\": 2}}; {\"name\": \"weather\", \"parameters\": {\"city\": \"Genève\"}}",
            vec![sum(), rain()],
        ),
        ("told", " {\"name\": \"weather\", \"arguments\": {\"city\": \"Genève\"}}\n", vec![rain()]),
        (
            "told",
            "<tool_call>\n{\"name\": \"add\", \"arguments\": {\"a\": 1, \"b\": 2}}\n</tool_call>",
            vec![sum()],
        ),
    ] {
        assert_parts(style(notation), false, answer, &expected);
    }
}

#[test]
fn what_looks_like_a_call_and_is_none_stays_text() {
    for (notation, answer) in [
        ("hermes", "<tool_call>{\"name\": \"rm\", \"arguments\": {}}</tool_call>"),
        ("hermes", "a <tool_call> b"),
        ("hermes", "<tool_call><function=rm><parameter=a>1</parameter></function></tool_call>"),
        ("hermes", "<tool_call><function=add><parameter=a>1"),
        ("hermes", "1 < 2 <tool\n "),
        ("hermes", "<tool_call>{\"name\": \"add\", \"arguments\": [1]}</tool_call>, see?"),
        ("mistral", "[TOOL_CALLS]weather in Rome"),
        ("llama", "{\"city\": \"Rome\", \"name\": \"weather\"}"),
        ("llama", "{\"name\": \"Rome\"} is a city"),
        ("told", "[1, 2, 3]"),
        ("told", "  "),
    ] {
        assert_parts(style(notation), false, answer, &[text(answer)]);
    }
}

#[test]
fn json_that_is_no_call_leaves_before_it_is_complete() {
    let mut reader = AnswerReader::new(style("llama"), false, tools());
    assert_eq!(reader.push("{\"na"), []);
    assert_eq!(reader.push("tion\": "), [text("{\"nation\":")]);
    assert_eq!(reader.push("\"x"), [text(" \"x")]);
}

#[test]
fn reasoning_is_told_from_the_answer() {
    let style = Style { thinks: true, ..style("hermes") };
    for (opened, answer, expected) in [
        (false, "<think>\nOne\n\ntwo.\n</think>\n\nThree.", vec![thought("One\n\ntwo."), text("Three.")]),
        (true, "\nOne < two</think>Three <think>", vec![thought("One < two"), text("Three <think>")]),
        (true, "Cut off </thi", vec![thought("Cut off </thi")]),
        (false, "\n<think></think>\nThree.", vec![text("Three.")]),
        (false, " <b>Three.", vec![text(" <b>Three.")]),
        (
            true,
            "I add.\n</think>\n\n<tool_call>{\"name\": \"add\", \"arguments\": {}}</tool_call>",
            vec![thought("I add."), call("add", "{}")],
        ),
    ] {
        assert_parts(style, opened, answer, &expected);
    }
    assert_parts(Style { thinks: false, ..style }, false, "<think>x</think>", &[text("<think>x</think>")]);
    assert_eq!(NOTATIONS.len(), 5);
}
