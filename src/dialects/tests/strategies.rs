//! Chats and answers that every dialect can say.

use std::collections::VecDeque;

use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;
use serde_json::{Map, Value, json};

use crate::dialects::answer::{Answer, Finish, Piece, Usage};
use crate::dialects::chat::{Chat, Message, Output, Part, Role, Thinking, Tool, ToolCall, ToolChoice};

/// An image that Ollama's form knows by its first bytes.
const IMAGE: &str = "data:image/png;base64,iVBORw0KGgoAAA==";

/// Text that is not empty, with what may trip an encoding.
pub(super) fn text() -> impl Strategy<Value = String> {
    let piece = prop_oneof![
        "[a-z]{1,8}",
        Just(" ".to_owned()),
        Just("\n\n".to_owned()),
        Just("data: [DONE]\n".to_owned()),
        Just("\"}]\\".to_owned()),
        Just("日本語🦀é".to_owned()),
        Just("\u{2028}".to_owned()),
    ];
    vec(piece, 1..5).prop_map(|pieces| pieces.concat())
}

/// JSON text of an object.
fn arguments() -> impl Strategy<Value = String> {
    vec(("[a-z]{1,4}", text()), 0..3).prop_map(|fields| {
        let fields = fields.into_iter().map(|(name, text)| (name, Value::from(text)));
        Value::Object(fields.collect()).to_string()
    })
}

pub(super) fn chat() -> impl Strategy<Value = Chat> {
    let asked = (option::of(text()), vec(turn(), 0..3), text(), any::<bool>());
    let tools = vec((text(), any::<bool>()), 0..3);
    let choice = prop_oneof![
        Just(ToolChoice::Auto),
        Just(ToolChoice::Never),
        Just(ToolChoice::Required),
        Just(ToolChoice::Named("tool_0".to_owned())),
    ];
    let output = prop_oneof![
        Just(Output::Text),
        Just(Output::Json),
        Just(Output::Schema { name: None, schema: json!({"type": "object"}), strict: Some(true) }),
    ];
    let thinking = prop_oneof![
        Just(Thinking { enabled: Some(false), ..Thinking::default() }),
        prop_oneof![Just("low"), Just("medium"), Just("high")].prop_map(|effort| Thinking {
            enabled: Some(true),
            effort: Some(effort.to_owned()),
            budget_tokens: None,
        }),
    ];
    let limits = (option::of(1..5000_u64), vec(text(), 0..3), options(), any::<bool>());
    (asked, tools, choice, output, thinking, limits).prop_map(
        |((system, turns, last, has_image), tools, choice, output, thinking, limits)| {
            let (max_tokens, stop, options, streams) = limits;
            let mut messages: Vec<Message> =
                system.map(|text| Message::text(Role::System, text)).into_iter().collect();
            messages.extend(turns.into_iter().flatten());
            let mut question = Message::text(Role::User, last);
            question.content.extend(has_image.then(|| Part::Image(IMAGE.to_owned())));
            messages.push(question);
            number_calls(&mut messages);
            let tools: Vec<Tool> = tools.into_iter().enumerate().map(tool).collect();
            let tool_choice = if tools.is_empty() { ToolChoice::Auto } else { choice };
            Chat {
                model: "m".to_owned(),
                messages,
                tools,
                tool_choice,
                output,
                thinking,
                max_tokens,
                stop,
                options,
                streams,
                ..Chat::default()
            }
        },
    )
}

fn tool((at, (description, is_described)): (usize, (String, bool))) -> Tool {
    Tool {
        name: format!("tool_{at}"),
        description: is_described.then_some(description),
        parameters: Some(json!({"type": "object", "properties": {}})),
        strict: None,
    }
}

fn options() -> impl Strategy<Value = Map<String, Value>> {
    (option::of(0..20_u32), option::of(1..10_u32), option::of(1..100_u64)).prop_map(
        |(temperature, top_p, top_k)| {
            let named = [
                ("temperature", temperature.map(|tenths| f64::from(tenths) / 10.0).map(Value::from)),
                ("top_p", top_p.map(|tenths| f64::from(tenths) / 10.0).map(Value::from)),
                ("top_k", top_k.map(Value::from)),
            ];
            named.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?))).collect()
        },
    )
}

/// A question, and what the assistant did about it: perhaps calls with their results, then a text.
fn turn() -> impl Strategy<Value = Vec<Message>> {
    let calls = vec((arguments(), text()), 0..3);
    (text(), option::of(text()), option::of(text()), calls, text()).prop_map(
        |(question, reasoning, before, calls, answer)| {
            let mut messages = vec![Message::text(Role::User, question)];
            let assistant = Message { role: Role::Assistant, reasoning, ..Message::default() };
            let said = |text: String| vec![Part::Text(text)];
            if calls.is_empty() {
                messages.push(Message { content: said(answer), ..assistant });
                return messages;
            }
            let (calls, results): (Vec<_>, Vec<_>) = calls.into_iter().unzip();
            let tool_calls = calls.into_iter().map(|arguments| ToolCall {
                name: "tool_0".to_owned(),
                arguments,
                ..ToolCall::default()
            });
            let tool_calls = tool_calls.collect();
            messages.push(Message { content: before.map(said).unwrap_or_default(), tool_calls, ..assistant });
            messages.extend(results.into_iter().map(|result| Message::text(Role::Tool, result)));
            messages.push(Message::text(Role::Assistant, answer));
            messages
        },
    )
}

/// Gives each call an id, and each result the id of its call.
fn number_calls(messages: &mut [Message]) {
    let (mut calls, mut results) = (0, 0);
    for message in messages {
        for call in &mut message.tool_calls {
            call.id = format!("call_{calls}");
            calls += 1;
        }
        if message.role == Role::Tool {
            message.tool_call_id = Some(format!("call_{results}"));
            results += 1;
        }
    }
}

/// An answer, and how its stream is cut: into pieces of so many characters, so many at once, and mixed.
pub(super) fn answer() -> impl Strategy<Value = (Answer, Vec<Vec<Piece>>)> {
    let usage = (1..1000_u64, 1..1000_u64, 0..1000_u64).prop_map(|(prompt, completion, cached)| Usage {
        prompt_tokens: prompt,
        completion_tokens: completion,
        cached_tokens: Some(cached.min(prompt)),
        ..Usage::default()
    });
    let said = (option::of(text()), option::of(text()), vec(arguments(), 0..3));
    let turns = vec(0..4_usize, 0..60);
    (said, usage, any::<bool>(), 1..9_usize, 1..4_usize, turns).prop_map(
        |((reasoning, text, calls), usage, is_long, characters, at_once, turns)| {
            let calls: Vec<ToolCall> = calls.into_iter().enumerate().map(call).collect();
            let finish = match (is_long, calls.is_empty()) {
                (true, _) => Finish::Length,
                (false, true) => Finish::Stop,
                (false, false) => Finish::ToolCalls,
            };
            let answer = Answer {
                reasoning: reasoning.unwrap_or_default(),
                text: text.unwrap_or_default(),
                calls,
                finish,
                usage: Some(usage),
                ..Answer::default()
            };
            let pieces = cut(&answer, characters, turns);
            let batches = pieces.chunks(at_once).map(<[Piece]>::to_vec).collect();
            (answer, batches)
        },
    )
}

fn call((at, arguments): (usize, String)) -> ToolCall {
    ToolCall { id: format!("call_{at}"), name: format!("tool_{at}"), arguments }
}

/// The pieces of an answer. Those of its calls and its text take turns: the next piece is of the one of that place
/// among those that have begun and the next one.
fn cut(answer: &Answer, characters: usize, turns: Vec<usize>) -> Vec<Piece> {
    let parts = |text: &str| {
        let characters_of: Vec<char> = text.chars().collect();
        characters_of.chunks(characters).map(String::from_iter).collect::<Vec<String>>()
    };
    let mut said: VecDeque<Piece> = parts(&answer.reasoning).into_iter().map(Piece::Reasoning).collect();
    said.extend(parts(&answer.text).into_iter().map(Piece::Text));
    let calls = answer.calls.iter().enumerate().map(|(index, call)| {
        let part = |id, name, arguments| Piece::Call { index, id, name, arguments };
        let first = part(Some(call.id.clone()), Some(call.name.clone()), String::new());
        let more = parts(&call.arguments).into_iter().map(|arguments| part(None, None, arguments));
        [first].into_iter().chain(more).collect()
    });
    let mut blocks: Vec<VecDeque<Piece>> = [said].into_iter().chain(calls).collect();
    let (mut pieces, mut begun) = (Vec::new(), 0);
    for turn in turns {
        let block = turn.min(begun).min(blocks.len() - 1);
        begun = begun.max(block + 1);
        pieces.extend(blocks[block].pop_front());
    }
    pieces.extend(blocks.into_iter().flatten());
    pieces.push(Piece::Finish(answer.finish));
    pieces.extend(answer.usage.map(Piece::Usage));
    pieces
}
