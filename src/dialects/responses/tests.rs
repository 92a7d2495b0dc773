use std::sync::{Arc, Mutex};

use serde_json::{Value, json};

use super::request::Request;
use super::{Ids, ResponsesWriter, read};
use crate::dialects::answer::{Answer, Finish, Piece, Usage};
use crate::dialects::chat::{Message, Output, Part, Role, ToolChoice};
use crate::dialects::trouble::Trouble;
use crate::dialects::writer::Writer;

fn request(body: &Value) -> Request {
    read(body, &[], &|_| None).unwrap()
}

fn hello() -> Request {
    request(&json!({"model": "m", "input": "Hello"}))
}

/// The events of a stream.
fn events(stream: &str) -> Vec<Value> {
    let event = |text: &str| {
        let (name, data) = text.split_once('\n').unwrap();
        let data: Value = serde_json::from_str(data.strip_prefix("data: ").unwrap()).unwrap();
        assert_eq!(name.strip_prefix("event: "), data["type"].as_str());
        data
    };
    stream.split_terminator("\n\n").map(event).collect()
}

fn names(events: &[Value]) -> Vec<&str> {
    events.iter().map(|event| event["type"].as_str().unwrap()).collect()
}

fn stream(writer: &mut ResponsesWriter, batches: Vec<Vec<Piece>>) -> Vec<Value> {
    let mut stream = String::from_utf8(writer.begin().into()).unwrap();
    for batch in batches {
        stream += &String::from_utf8(writer.pieces(batch).into()).unwrap();
    }
    stream += &String::from_utf8(writer.end().into()).unwrap();
    events(&stream)
}

fn call(index: usize, id: Option<&str>, arguments: &str) -> Piece {
    let name = id.map(|_| "look".to_owned());
    Piece::Call { index, id: id.map(str::to_owned), name, arguments: arguments.to_owned() }
}

#[test]
fn a_conversation_of_items_is_read_as_messages() {
    let request = request(&json!({
        "model": "m", "instructions": "Be brief.",
        "input": [
            {"role": "user", "content": "What is it?"},
            {"type": "message", "role": "developer", "content": [{"type": "input_text", "text": "Look."}]},
            {"type": "reasoning", "id": "rs_1", "summary": [], "content": [{"type": "reasoning_text", "text": "Hm."}]},
            {"type": "message", "id": "msg_1", "role": "assistant", "status": "completed",
             "content": [{"type": "output_text", "text": "I look.", "annotations": []}]},
            {"type": "function_call", "call_id": "c1", "name": "look", "arguments": "{}"},
            {"type": "function_call", "call_id": "c2", "name": "look", "arguments": "{\"a\":1}"},
            {"type": "function_call_output", "call_id": "c1", "output": "a cat"},
            {"type": "function_call_output", "call_id": "c2", "output": [
                {"type": "input_image", "image_url": "data:image/png;base64,AA", "detail": "auto"}]},
            {"type": "reasoning", "summary": [], "encrypted_content": "xyz"},
            {"role": "assistant", "content": "A cat."},
            {"role": "assistant", "content": "Or a dog."},
            {"role": "user", "content": [
                {"type": "input_image", "image_url": "https://example.com/a.png", "detail": "low"},
                {"type": "input_file", "filename": "a.txt", "file_data": "data:text/plain;base64,AA"}]},
        ],
    }));
    let messages = &request.chat.messages;
    assert_eq!(messages[0], Message::text(Role::System, "Be brief."));
    assert_eq!(messages[1], Message::text(Role::User, "What is it?"));
    assert_eq!(messages[2], Message::text(Role::System, "Look."));
    let turn = &messages[3];
    assert_eq!((turn.role, turn.reasoning.as_deref()), (Role::Assistant, Some("Hm.")));
    assert_eq!((turn.content.len(), turn.tool_calls.len()), (1, 2));
    assert_eq!(turn.tool_calls[1].arguments, "{\"a\":1}");
    assert_eq!((messages[4].role, messages[4].tool_call_id.as_deref()), (Role::Tool, Some("c1")));
    assert_eq!(messages[5].content, [Part::Image("data:image/png;base64,AA".into())]);
    assert_eq!(messages[6], Message::text(Role::Assistant, "A cat."));
    assert_eq!(messages[7], Message::text(Role::Assistant, "Or a dog."));
    assert!(matches!(&messages[8].content[..], [Part::Image(_), Part::Other(_)]));
    assert_eq!(messages.len(), 9);
    assert_eq!(request.chat.ignored, ["input[11].content[0].detail"]);
    for item in &request.input {
        assert!(item["id"].is_string() && item["type"].is_string(), "{item}");
    }
    assert_eq!(request.input[0]["content"], json!([{"type": "input_text", "text": "What is it?"}]));
}

#[test]
fn the_fields_of_a_request_are_applied_repeated_or_told() {
    let request = request(&json!({
        "model": "m", "input": "Hi", "stream": true, "store": false,
        "tools": [
            {"type": "function", "name": "a", "description": "A.", "parameters": {"type": "object"}, "strict": true},
            {"type": "function", "name": "b", "parameters": {}, "strict": null, "output_schema": {}},
        ],
        "tool_choice": {"type": "allowed_tools", "mode": "required", "tools": [{"type": "function", "name": "a"}]},
        "parallel_tool_calls": false,
        "text": {"format": {"type": "json_schema", "name": "n", "schema": {}, "strict": true}, "verbosity": "low"},
        "reasoning": {"effort": "low", "summary": "auto"},
        "max_output_tokens": 9, "temperature": 0.5, "top_k": 3, "top_logprobs": 2,
        "include": ["reasoning.encrypted_content", "unheard_of"], "metadata": {"a": "b"}, "user": "u", "truncation": "auto",
        "service_tier": "auto", "background": false, "unheard_of": 1, "max_tool_calls": 1, "safety_identifier": "s",
        "stream_options": {"include_obfuscation": true},
    }));
    let chat = &request.chat;
    assert!(chat.streams && !request.stores);
    assert_eq!((chat.tools.len(), &chat.tool_choice), (1, &ToolChoice::Required));
    assert_eq!(chat.parallel_tool_calls, Some(false));
    assert!(matches!(&chat.output, Output::Schema { strict: Some(true), .. }));
    assert_eq!((chat.thinking.enabled, chat.thinking.effort.as_deref()), (Some(true), Some("low")));
    assert_eq!(chat.max_tokens, Some(9));
    let options = json!({"temperature": 0.5, "top_k": 3, "logprobs": true, "top_logprobs": 2});
    assert_eq!(Value::Object(chat.options.clone()), options);
    assert_eq!(
        chat.ignored,
        [
            "truncation",
            "unheard_of",
            "stream_options",
            "tools[1].output_schema",
            "text.verbosity",
            "reasoning.summary",
            "include[1]",
        ]
    );
    assert_eq!(request.asked["safety_identifier"], "s");
    let quiet = json!({"model": "m", "input": "Hi", "stream_options": {"include_obfuscation": false}});
    assert_eq!(read(&quiet, &[], &|_| None).unwrap().chat.ignored, [""; 0]);
    assert_eq!(request.asked["tools"].as_array().unwrap().len(), 2);
    assert_eq!(request.asked["metadata"], json!({"a": "b"}));
    assert_eq!(request.asked["text"]["format"]["type"], "json_schema");
}

#[test]
fn what_the_hive_has_not_is_refused_by_its_name() {
    let with = |field: &str, value: Value| {
        let mut body = json!({"model": "m", "input": "Hi"});
        body[field] = value;
        body
    };
    for (body, field) in [
        (json!({"model": "m"}), "input"),
        (with("input", json!(7)), "input"),
        (with("input", json!([{"role": "judge", "content": ""}])), "input[0].role"),
        (with("input", json!([{"type": "computer_call"}])), "input[0].type"),
        (with("input", json!([{"type": "item_reference", "id": "msg_1"}])), "input[0].id"),
        (with("input", json!([{"id": "msg_1"}])), "input[0].id"),
        (
            with("input", json!([{"role": "user", "content": [{"type": "input_video"}]}])),
            "input[0].content[0].type",
        ),
        (
            with("input", json!([{"role": "user", "content": [{"type": "input_image", "file_id": "f"}]}])),
            "input[0].content[0].file_id",
        ),
        (with("tools", json!([{"type": "web_search"}])), "tools[0].type"),
        (with("tool_choice", json!({"type": "code_interpreter"})), "tool_choice.type"),
        (with("tool_choice", json!("perhaps")), "tool_choice"),
        (with("text", json!({"format": {"type": "grammar"}})), "text.format.type"),
        (with("conversation", json!("conv_1")), "conversation"),
        (with("prompt", json!({"id": "p"})), "prompt"),
        (with("background", json!(true)), "background"),
        (with("temperature", json!(3)), "temperature"),
        (with("top_logprobs", json!(21)), "top_logprobs"),
        (with("max_output_tokens", json!(0)), "max_output_tokens"),
    ] {
        let error = read(&body, &[], &|_| None).unwrap_err();
        assert_eq!(error.field, field, "{body}");
    }
}

#[test]
fn a_conversation_goes_on_with_what_was_said_and_without_the_earlier_instructions() {
    let first = request(&json!({"model": "m", "instructions": "Be rude.", "input": "Hello"}));
    let answer = Answer { text: "Go away.".into(), ..Answer::default() };
    let response = ResponsesWriter::new(&first, None).whole(answer);
    let mut history = first.input;
    history.extend(response["output"].as_array().unwrap().iter().cloned());
    let body = json!({"model": "m", "previous_response_id": response["id"], "input": "Why?"});
    let second = read(&body, &history, &|_| None).unwrap();
    assert_eq!(
        second.chat.messages,
        [
            Message::text(Role::User, "Hello"),
            Message::text(Role::Assistant, "Go away."),
            Message::text(Role::User, "Why?"),
        ]
    );
    assert_eq!(second.asked["previous_response_id"], response["id"]);
    assert_eq!(second.input.len(), 1);
}

#[test]
fn a_reference_stands_for_the_item_and_tells_whose_it_is() {
    let first = hello();
    let response =
        ResponsesWriter::new(&first, None).whole(Answer { text: "Hi".into(), ..Answer::default() });
    let id = response["output"][0]["id"].as_str().unwrap();
    assert_eq!(Ids::response_of(id).as_deref(), response["id"].as_str());
    assert_eq!(Ids::response_of(first.input[0]["id"].as_str().unwrap()).as_deref(), response["id"].as_str());
    assert!(Ids::response_of("msg_1").is_none() && Ids::response_of("").is_none());
    let find = |wanted: &str| (wanted == id).then(|| response["output"][0].clone());
    let body = json!({"model": "m", "input": [{"type": "item_reference", "id": id}, {"role": "user", "content": "?"}]});
    let second = read(&body, &[], &find).unwrap();
    assert_eq!(second.chat.messages[0], Message::text(Role::Assistant, "Hi"));
}

#[test]
fn a_stream_has_the_documented_events_in_their_order() {
    let kept = Arc::new(Mutex::new(None));
    let keep = {
        let kept = Arc::clone(&kept);
        move |response: &Value| *kept.lock().unwrap() = Some(response.clone())
    };
    let mut writer = ResponsesWriter::new(&hello(), Some(Box::new(keep)));
    let token = |text: &str| json!({"token": text, "logprob": -0.1, "bytes": [], "top_logprobs": []});
    let events = stream(
        &mut writer,
        vec![
            vec![Piece::Reasoning("Hm".into())],
            vec![Piece::Reasoning(".".into())],
            // Several chunks at once.
            vec![
                Piece::Logprobs(vec![token("I ")]),
                Piece::Text("I ".into()),
                Piece::Logprobs(vec![token("look")]),
                Piece::Text("look".into()),
            ],
            vec![call(0, Some("c1"), "")],
            vec![call(0, None, "{\"a\""), call(0, None, ":1}")],
            vec![call(1, Some("c2"), "{}"), Piece::Finish(Finish::ToolCalls)],
            vec![Piece::Usage(Usage { prompt_tokens: 7, completion_tokens: 5, ..Usage::default() })],
        ],
    );
    assert_eq!(
        names(&events),
        [
            "response.created",
            "response.in_progress",
            "response.output_item.added",
            "response.content_part.added",
            "response.reasoning_text.delta",
            "response.reasoning_text.delta",
            "response.reasoning_text.done",
            "response.content_part.done",
            "response.output_item.done",
            "response.output_item.added",
            "response.content_part.added",
            "response.output_text.delta",
            "response.output_text.delta",
            "response.output_text.done",
            "response.content_part.done",
            "response.output_item.done",
            "response.output_item.added",
            "response.function_call_arguments.delta",
            "response.function_call_arguments.delta",
            "response.function_call_arguments.done",
            "response.output_item.done",
            "response.output_item.added",
            "response.function_call_arguments.delta",
            "response.function_call_arguments.done",
            "response.output_item.done",
            "response.completed",
        ]
    );
    for (number, event) in events.iter().enumerate() {
        assert_eq!(event["sequence_number"], number);
    }
    assert_eq!(events[11]["logprobs"], json!([token("I ")]));
    assert_eq!(events[12]["logprobs"], json!([token("look")]));
    let response = &events[25]["response"];
    assert_eq!((&response["status"], &response["usage"]["total_tokens"]), (&json!("completed"), &json!(12)));
    let done = events.iter().filter(|event| event["type"] == "response.output_item.done");
    let done: Vec<&Value> = done.map(|event| &event["item"]).collect();
    assert_eq!(done, response["output"].as_array().unwrap().iter().collect::<Vec<_>>());
    assert_eq!(response["output"][2]["arguments"], "{\"a\":1}");
    assert_eq!(kept.lock().unwrap().as_ref(), Some(response));
}

#[test]
fn an_answer_that_ends_early_or_breaks_off_does_not_look_complete() {
    let events = stream(
        &mut ResponsesWriter::new(&hello(), None),
        vec![vec![Piece::Text("Once upon".into()), Piece::Finish(Finish::Length)]],
    );
    let last = events.last().unwrap();
    assert_eq!(last["type"], "response.incomplete");
    assert_eq!(last["response"]["incomplete_details"], json!({"reason": "max_output_tokens"}));
    assert_eq!(last["response"]["output"][0]["status"], "incomplete");

    let keep = Box::new(|_: &Value| panic!("it is not complete"));
    let mut writer = ResponsesWriter::new(&hello(), Some(keep));
    let trouble =
        Trouble { status: 502, code: "worker_lost".into(), message: "It is gone".into(), param: None };
    let mut stream = String::from_utf8(writer.begin().into()).unwrap();
    stream += &String::from_utf8(writer.pieces(vec![Piece::Text("Once".into())]).into()).unwrap();
    stream += &String::from_utf8(writer.fail(&trouble).into()).unwrap();
    let events = self::events(&stream);
    let [.., failed, error] = &events[..] else { panic!("{events:?}") };
    assert_eq!(
        (&failed["type"], &failed["response"]["status"]),
        (&json!("response.failed"), &json!("failed"))
    );
    assert_eq!(failed["response"]["error"], json!({"code": "worker_lost", "message": "It is gone"}));
    assert_eq!(failed["response"]["output"][0]["status"], "incomplete");
    // Client libraries look for the second of these, and the documentation has the first.
    assert_eq!((&error["type"], &error["message"]), (&json!("error"), &json!("It is gone")));
    assert_eq!((&error["error"]["code"], &error["code"]), (&json!("worker_lost"), &json!("worker_lost")));

    let before = ResponsesWriter::new(&hello(), None).fail(&trouble);
    assert_eq!(names(&self::events(std::str::from_utf8(&before).unwrap())), ["error"]);
}

#[test]
fn an_answer_of_nothing_has_a_message() {
    let response = ResponsesWriter::new(&hello(), None).whole(Answer::default());
    assert_eq!(response["output"][0]["content"][0]["text"], "");
    assert_eq!(stream(&mut ResponsesWriter::new(&hello(), None), vec![]).len(), 9);
}

#[test]
fn parts_of_calls_that_an_engine_mixes_come_before_the_call_is_done() {
    let pieces =
        vec![call(0, Some("a"), "{"), call(1, Some("b"), "{"), call(0, None, "}"), call(1, None, "}")];
    let events = stream(&mut ResponsesWriter::new(&hello(), None), vec![pieces]);
    let done = events.iter().filter(|event| event["type"] == "response.function_call_arguments.done");
    let done: Vec<_> = done.map(|event| (&event["output_index"], &event["arguments"])).collect();
    assert_eq!(done, [(&json!(0), &json!("{}")), (&json!(1), &json!("{}"))]);
}

/// The fields and the events that OpenAI documents, and their order.
const DOCUMENTED: &str = include_str!("../../../tests/fixtures/dialects/openai-responses.json");

fn has_all(documented: &Value, name: &str, object: &Value) {
    for field in documented[name].as_array().unwrap_or_else(|| panic!("{name} is not documented")) {
        assert!(object.get(field.as_str().unwrap()).is_some(), "{name} lacks {field}: {object}");
    }
}

/// A piece as the fixture has it.
fn piece(told: &Value) -> Piece {
    let text = |value: &Value| value.as_str().map(str::to_owned);
    if let Some(call) = told.get("call") {
        let arguments = text(&call[3]).unwrap();
        return Piece::Call {
            index: call[0].as_u64().unwrap() as usize,
            id: text(&call[1]),
            name: text(&call[2]),
            arguments,
        };
    }
    match (text(&told["reasoning"]), text(&told["text"]), told["finish"].as_str()) {
        (Some(reasoning), ..) => Piece::Reasoning(reasoning),
        (_, Some(text), _) => Piece::Text(text),
        (.., Some("length")) => Piece::Finish(Finish::Length),
        (.., Some("tool_calls")) => Piece::Finish(Finish::ToolCalls),
        _ => Piece::Finish(Finish::Stop),
    }
}

#[test]
fn streams_and_objects_are_as_documented() {
    let documented: Value = serde_json::from_str(DOCUMENTED).unwrap();
    let objects = &documented["objects"];
    for case in documented["streams"].as_array().unwrap() {
        let mut pieces: Vec<Vec<Piece>> =
            case["pieces"].as_array().unwrap().iter().map(|told| vec![piece(told)]).collect();
        pieces.push(vec![Piece::Usage(Usage::default())]);
        let events = stream(&mut ResponsesWriter::new(&hello(), None), pieces);
        assert_eq!(json!(names(&events)), case["events"], "{}", case["name"]);
        for event in &events {
            has_all(&documented["events"], event["type"].as_str().unwrap(), event);
        }
        let response = &events.last().unwrap()["response"];
        has_all(objects, "response", response);
        has_all(objects, "usage", &response["usage"]);
        for details in ["input_tokens_details", "output_tokens_details"] {
            has_all(objects, details, &response["usage"][details]);
        }
        for item in response["output"].as_array().unwrap() {
            has_all(objects, item["type"].as_str().unwrap(), item);
            if item["type"] == "message" {
                has_all(objects, "output_text", &item["content"][0]);
            }
        }
    }
    let trouble = Trouble { status: 500, code: "x".into(), message: "y".into(), param: None };
    let mut writer = ResponsesWriter::new(&hello(), None);
    writer.begin();
    let events = events(std::str::from_utf8(&writer.fail(&trouble)).unwrap());
    has_all(&documented["events"], "response.failed", &events[0]);
    has_all(objects, "error", &events[0]["response"]["error"]);
    has_all(&documented["events"], "error", &events[1]);
}

/// Tools as Codex offers them, reduced.
fn of_codex() -> Value {
    let function = |name: &str| {
        json!({"type": "function", "name": name, "strict": false,
                                       "parameters": {"type": "object", "properties": {}}})
    };
    json!([
        function("exec_command"),
        {"type": "custom", "name": "apply_patch", "description": "Edits files.",
         "format": {"type": "grammar", "syntax": "lark", "definition": "start: hunk+"}},
        {"type": "namespace", "name": "agents", "description": "Other agents.", "tools": [
            {"type": "function", "name": "spawn", "description": "Starts one.", "defer_loading": true,
             "parameters": {"type": "object"}},
            function("close")]},
        {"type": "web_search", "external_web_access": false},
    ])
}

#[test]
fn custom_tools_and_those_of_namespaces_are_functions_to_engines() {
    let request = request(&json!({
        "model": "m", "tools": of_codex(), "client_metadata": {"session_id": "s"},
        "input": [
            {"role": "user", "content": "Go on"},
            {"type": "web_search_call", "id": "ws_1", "status": "completed", "action": {"type": "search"}},
            {"type": "custom_tool_call", "call_id": "c1", "name": "apply_patch", "input": "*** \"a\"\n"},
            {"type": "function_call", "call_id": "c2", "namespace": "agents", "name": "spawn", "arguments": "{}"},
            {"type": "custom_tool_call_output", "call_id": "c1", "output": "Done"},
            {"type": "function_call_output", "call_id": "c2", "output": "1"},
        ],
        "tool_choice": {"type": "allowed_tools", "mode": "required", "tools": [
            {"type": "custom", "name": "apply_patch"}, {"type": "namespace", "name": "agents"}]},
    }));
    let chat = &request.chat;
    let names: Vec<&str> = chat.tools.iter().map(|tool| tool.name.as_str()).collect();
    assert_eq!(names, ["apply_patch", "agents__spawn", "agents__close"]);
    assert_eq!(chat.tool_choice, ToolChoice::Required);
    let descriptions: Vec<_> = chat.tools.iter().map(|tool| tool.description.as_deref()).collect();
    assert_eq!(
        descriptions,
        [
            Some("Edits files.\n\nThe input follows this lark grammar:\nstart: hunk+"),
            Some("Other agents.\n\nStarts one."),
            None
        ]
    );
    assert_eq!(chat.tools[0].parameters.as_ref().unwrap()["required"], json!(["input"]));
    let calls = &chat.messages[1].tool_calls;
    assert_eq!(
        (calls[0].name.as_str(), calls[0].arguments.as_str()),
        ("apply_patch", r#"{"input":"*** \"a\"\n"}"#)
    );
    assert_eq!((calls[1].name.as_str(), calls[1].arguments.as_str()), ("agents__spawn", "{}"));
    assert_eq!(chat.messages[2].tool_call_id.as_deref(), Some("c1"));
    assert_eq!(chat.ignored, ["input[1].type", "tools[1].format", "tools[3](web_search)"]);
    let kinds = request.asked["tools"].as_array().unwrap().iter().map(|tool| tool["type"].clone());
    assert_eq!(kinds.collect::<Vec<_>>(), ["function", "custom", "namespace"], "those that the model gets");
}

#[test]
fn items_add_tools() {
    let added = |tools: Value| json!({"type": "additional_tools", "role": "developer", "tools": tools});
    let input = json!([added(of_codex()), {"role": "user", "content": "Hello"}]);
    let request = request(&json!({"model": "m", "input": input}));
    assert_eq!(request.chat.tools.len(), 4);
    assert_eq!(request.chat.messages.len(), 1);
    assert_eq!(request.chat.ignored, ["input[0].tools[1].format", "input[0].tools[3](web_search)"]);
    // They stay for the requests that go on with the conversation.
    let again = read(&json!({"model": "m", "input": "Go on"}), &request.input, &|_| None).unwrap();
    assert_eq!(again.chat.tools, request.chat.tools);
    let only = added(json!([{"type": "web_search"}]));
    let refused = read(&json!({"model": "m", "input": [only]}), &[], &|_| None).unwrap_err();
    assert_eq!(refused.field, "input[0].tools[0].type");
}

#[test]
fn a_call_goes_back_as_the_client_knows_the_tool() {
    let request = request(&json!({"model": "m", "input": "Hello", "tools": of_codex()}));
    let call = |index, name: &str, arguments: &str| Piece::Call {
        index,
        id: Some(format!("c{index}")),
        name: Some(name.to_owned()),
        arguments: arguments.to_owned(),
    };
    let more =
        |index, arguments: &str| Piece::Call { index, id: None, name: None, arguments: arguments.to_owned() };
    let pieces = vec![
        vec![call(0, "apply_patch", "{\"inp"), more(0, "ut\":\"a\\n"), more(0, "b\"}")],
        vec![call(1, "agents__spawn", "{}")],
        vec![call(2, "exec_command", "{}")],
        // A model that writes the text itself, and one that calls what nobody offered.
        vec![call(3, "apply_patch", "a")],
        vec![call(4, "agents__nobody", "{}"), Piece::Finish(Finish::ToolCalls)],
    ];
    let seen = stream(&mut ResponsesWriter::new(&request, None), pieces);
    let events = |index: usize| -> Vec<&Value> {
        seen.iter().filter(|event| event["output_index"] == index).collect()
    };
    let patch = events(0);
    let names: Vec<&str> = patch.iter().map(|event| event["type"].as_str().unwrap()).collect();
    assert_eq!(
        names,
        [
            "response.output_item.added",
            "response.custom_tool_call_input.delta",
            "response.custom_tool_call_input.done",
            "response.output_item.done"
        ]
    );
    assert_eq!(patch[0]["item"]["input"], "");
    assert_eq!((&patch[1]["delta"], &patch[2]["input"]), (&json!("a\nb"), &json!("a\nb")));
    let items: Vec<Value> = seen.last().unwrap()["response"]["output"].as_array().unwrap().clone();
    let told = |item: &Value| {
        ["type", "namespace", "name", "input", "arguments"].map(|name| item[name].as_str().map(str::to_owned))
    };
    let expected = [
        ["custom_tool_call", "", "apply_patch", "a\nb", "-"],
        ["function_call", "agents", "spawn", "-", "{}"],
        ["function_call", "", "exec_command", "-", "{}"],
        ["custom_tool_call", "", "apply_patch", "a", "-"],
        ["function_call", "", "agents__nobody", "-", "{}"],
    ];
    for (item, expected) in items.iter().zip(expected) {
        let expected =
            expected.map(|text| Some(text.to_owned()).filter(|text| !["", "-"].contains(&text.as_str())));
        assert_eq!(told(item), expected);
    }
    assert!(items[0]["id"].as_str().unwrap().starts_with("ctc_"));
    // What it said is what the next request may send back.
    let again = read(&json!({"model": "m", "input": "Go on"}), &items, &|_| None).unwrap();
    let calls = &again.chat.messages[0].tool_calls;
    assert_eq!(
        (calls[0].arguments.as_str(), calls[1].name.as_str()),
        (r#"{"input":"a\nb"}"#, "agents__spawn")
    );
}

#[test]
fn the_last_item_of_an_answer_that_ends_early_is_not_complete() {
    let pieces =
        vec![Piece::Reasoning("hm".into()), Piece::Text("Once".into()), Piece::Finish(Finish::Length)];
    let events = stream(&mut ResponsesWriter::new(&hello(), None), vec![pieces]);
    let done = events.iter().filter(|event| event["type"] == "response.output_item.done");
    let statuses: Vec<&Value> = done.map(|event| &event["item"]["status"]).collect();
    assert_eq!(statuses, ["completed", "incomplete"]);
}

#[test]
fn a_summary_stands_for_thoughts_that_are_not_there() {
    let thoughts = |fields: Value| {
        let mut item = json!({"type": "reasoning", "summary": [{"type": "summary_text", "text": "Sum."}]});
        item.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
        request(&json!({"model": "m", "input": [item]})).chat.messages[0].reasoning.clone()
    };
    assert_eq!(thoughts(json!({})).as_deref(), Some("Sum."));
    let content = json!({"content": [{"type": "reasoning_text", "text": "Hm."}]});
    assert_eq!(thoughts(content).as_deref(), Some("Hm."));
}
