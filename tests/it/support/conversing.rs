//! An engine that can do everything, and does what the conversation says, so that a test knows each answer before
//! it comes. It runs as a real process: this test binary, which runs [`serve`].
//!
//! - It says how many messages it got, and what the last one was; an image in it is `[image/png]`.
//! - It calls each of the tools once, unless it is told to call none.
//! - It fills in schemas, and the parameters of tools: every text is the last word of the last message of the user,
//!   every number 1.
//! - Where it is to think, it thinks about the last message.
//! - It continues a text with that text.
//!
//! Its tokens end at spaces and commas.

use std::io::Read;

use axum::Json;
use axum::Router;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rbee_hive::config::Config;
use serde_json::{Map, Value, json};

use super::scripted::this_program;

/// Makes this the engine of a hive.
pub(crate) fn converse_for(config: &mut Config) {
    let port = ("CONVERSING_PORT".to_owned(), "{port}".to_owned());
    let settings = this_program("support::conversing::serve", [port].into());
    config.engines.insert("conversing".to_owned(), settings);
}

/// What it says to the last of so many messages.
pub(crate) fn said(text: &str, messages: usize) -> String {
    format!("{messages} messages, the last: {text}")
}

/// Not a test: hives run it as an engine.
#[test]
#[ignore = "runs as an engine of other tests"]
fn serve() {
    let Ok(port) = std::env::var("CONVERSING_PORT") else { return };
    let routes = Router::new()
        .route("/health", get(async || Json(json!({ "status": "ok", "slots": 4 }))))
        .route("/v1/chat/completions", post(async |Json(request): Json<Value>| chat(&request)))
        .route("/v1/completions", post(async |Json(request): Json<Value>| completions(&request)))
        .route("/v1/embeddings", post(async |Json(request): Json<Value>| Json(embeddings(&request))))
        .route("/v1/rerank", post(async |Json(request): Json<Value>| Json(rerank(&request))))
        // As large as the hive's own limit.
        .layer(axum::extract::DefaultBodyLimit::max(64 << 20));
    // It ends with its hive.
    std::thread::spawn(|| {
        while std::io::stdin().read(&mut [0]).is_ok_and(|read| read > 0) {}
        std::process::exit(0);
    });
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    runtime.block_on(async {
        let listener = tokio::net::TcpListener::bind(format!("127.0.0.1:{port}")).await.expect("its port");
        axum::serve(listener, routes).await.expect("it serves");
    });
}

/// What it answers.
#[derive(Default)]
struct Answer {
    reasoning: String,
    tokens: Vec<String>,
    /// The name and the arguments of a tool.
    call: Option<(String, Value)>,
    is_cut: bool,
}

fn chat(request: &Value) -> Response {
    let messages = request["messages"].as_array().map(Vec::as_slice).unwrap_or_default();
    let Some(last) = messages.last().map(text_of) else {
        let error = json!({ "code": 400, "type": "invalid_request_error", "message": "'messages' is empty" });
        return (StatusCode::BAD_REQUEST, Json(json!({ "error": error }))).into_response();
    };
    let mut answer = Answer::default();
    if request["chat_template_kwargs"]["enable_thinking"] == true
        || request["reasoning_effort"].as_str().is_some_and(|effort| effort != "none")
    {
        answer.reasoning = format!("I think about: {last}");
    }
    answer.call = next_call(request, messages);
    if answer.call.is_none() {
        let format = &request["response_format"];
        let text = match format["type"].as_str() {
            Some("json_schema") => {
                let schema = &format["json_schema"]["schema"];
                filled_in(schema, schema, &word(messages)).to_string()
            }
            Some("json_object") => json!({ "answer": word(messages) }).to_string(),
            _ => said(&last, messages.len()),
        };
        write(&mut answer, &text, request);
    }
    let prompt_tokens = messages.iter().map(|message| tokens(&text_of(message)).len()).sum::<usize>();
    respond(request, &answer, "chat.completion", prompt_tokens)
}

fn completions(request: &Value) -> Response {
    let prompt = match &request["prompt"] {
        Value::Array(prompts) => prompts[0].as_str().unwrap_or_default(),
        prompt => prompt.as_str().unwrap_or_default(),
    };
    let mut answer = Answer::default();
    write(&mut answer, &format!(" and then {prompt}"), request);
    respond(request, &answer, "text_completion", tokens(prompt).len())
}

/// The text and the kinds of images of a message.
fn text_of(message: &Value) -> String {
    let Some(parts) = message["content"].as_array() else {
        return message["content"].as_str().unwrap_or_default().to_owned();
    };
    let part = |part: &Value| match part["image_url"]["url"].as_str() {
        Some(url) => format!("[{}]", url.trim_start_matches("data:").split(';').next().unwrap_or_default()),
        None => part["text"].as_str().unwrap_or_default().to_owned(),
    };
    parts.iter().map(part).collect::<Vec<_>>().join(" ")
}

/// The last word of the last message of the user.
fn word(messages: &[Value]) -> String {
    let last =
        messages.iter().rev().find(|message| message["role"] == "user").map(text_of).unwrap_or_default();
    let mut words = last.split(|c: char| !c.is_alphanumeric());
    words.rfind(|word| !word.is_empty()).unwrap_or_default().to_owned()
}

/// The call of the tool that it is told to call, or of the first that the conversation has not called.
fn next_call(request: &Value, messages: &[Value]) -> Option<(String, Value)> {
    let tools = request["tools"].as_array()?;
    let choice = &request["tool_choice"];
    let name = |tool: &Value| tool["function"]["name"].clone();
    let is_called = |tool: &Value| {
        let calls = messages.iter().filter_map(|message| message["tool_calls"].as_array()).flatten();
        calls.into_iter().any(|call| call["function"]["name"] == name(tool))
    };
    let tool = match choice["function"]["name"].as_str() {
        _ if choice == "none" => None,
        Some(named) => tools.iter().find(|tool| name(tool) == named),
        None => {
            let next = tools.iter().find(|tool| !is_called(tool));
            next.or_else(|| tools.first().filter(|_| choice == "required"))
        }
    }?;
    let parameters = &tool["function"]["parameters"];
    Some((name(tool).as_str()?.to_owned(), filled_in(parameters, parameters, &word(messages))))
}

/// A value of the schema.
fn filled_in(schema: &Value, root: &Value, word: &str) -> Value {
    if let Some(target) = schema["$ref"].as_str() {
        return filled_in(root.pointer(target.trim_start_matches('#')).unwrap_or(&Value::Null), root, word);
    }
    for some in [&schema["anyOf"], &schema["oneOf"], &schema["allOf"]] {
        if let Some(first) = some.get(0) {
            return filled_in(first, root, word);
        }
    }
    if let Some(constant) = schema.get("const").or_else(|| schema["enum"].get(0)) {
        return constant.clone();
    }
    match schema["type"].as_str() {
        Some("string") => word.into(),
        Some("integer" | "number") => 1.into(),
        Some("boolean") => true.into(),
        Some("array") => json!([filled_in(&schema["items"], root, word)]),
        Some("null") => Value::Null,
        _ => {
            let properties = schema["properties"].as_object().into_iter().flatten();
            properties
                .map(|(name, schema)| (name.clone(), filled_in(schema, root, word)))
                .collect::<Map<_, _>>()
                .into()
        }
    }
}

fn tokens(text: &str) -> Vec<String> {
    text.split_inclusive([' ', ',']).map(str::to_owned).collect()
}

/// Writes the text up to a stop string or to the limit.
fn write(answer: &mut Answer, text: &str, request: &Value) {
    let stops = match &request["stop"] {
        Value::Array(stops) => stops.iter().filter_map(Value::as_str).collect(),
        stop => stop.as_str().into_iter().collect::<Vec<_>>(),
    };
    let end = stops.iter().filter_map(|stop| text.find(stop)).min().unwrap_or(text.len());
    answer.tokens = tokens(&text[..end]);
    let limit =
        ["max_completion_tokens", "max_tokens", "n_predict"].iter().find_map(|name| request[name].as_u64());
    let limit = limit.and_then(|limit| usize::try_from(limit).ok()).unwrap_or(usize::MAX);
    answer.is_cut = answer.tokens.len() > limit;
    answer.tokens.truncate(limit);
}

impl Answer {
    fn finish_reason(&self) -> &'static str {
        match self.call {
            Some(_) => "tool_calls",
            None if self.is_cut => "length",
            None => "stop",
        }
    }

    fn tool_calls(&self) -> Option<Value> {
        let (name, arguments) = self.call.as_ref()?;
        let function = json!({ "name": name, "arguments": arguments.to_string() });
        Some(json!([{ "index": 0, "id": format!("call_{name}"), "type": "function", "function": function }]))
    }

    fn usage(&self, prompt_tokens: usize) -> Value {
        let count = self.tokens.len() + tokens(&self.reasoning).len() + usize::from(self.call.is_some());
        json!({
            "prompt_tokens": prompt_tokens, "completion_tokens": count, "total_tokens": prompt_tokens + count,
        })
    }
}

/// Answers as a stream if the request asks for one.
fn respond(request: &Value, answer: &Answer, object: &str, prompt_tokens: usize) -> Response {
    let choices = request["n"].as_u64().unwrap_or(1);
    let is_chat = object == "chat.completion";
    let usage = answer.usage(prompt_tokens);
    let base = |object: &str, choices: Vec<Value>| json!({ "id": "chatcmpl-1", "object": object, "created": 1, "model": "conversing", "choices": choices });
    let logprobs = |tokens: &[String]| {
        let token = |token: &String| {
            let this = json!({ "token": token, "logprob": -0.5, "bytes": token.as_bytes() });
            let mut with_others = this.clone();
            with_others["top_logprobs"] = json!([this]);
            with_others
        };
        (request["logprobs"] == true)
            .then(|| json!({ "content": tokens.iter().map(token).collect::<Value>() }))
    };
    if request["stream"] != true {
        let text = answer.tokens.concat();
        let choice = |index| {
            let mut choice = json!({ "index": index, "finish_reason": answer.finish_reason() });
            if !is_chat {
                choice["text"] = text.as_str().into();
                return choice;
            }
            choice["message"] =
                json!({ "role": "assistant", "content": answer.call.is_none().then_some(&text) });
            if let Some(calls) = answer.tool_calls() {
                choice["message"]["tool_calls"] = calls;
            }
            if !answer.reasoning.is_empty() {
                choice["message"]["reasoning_content"] = answer.reasoning.as_str().into();
            }
            choice["logprobs"] = logprobs(&answer.tokens).unwrap_or_default();
            choice
        };
        let mut body = base(object, (0..choices).map(choice).collect());
        body["usage"] = usage;
        body["timings"] = json!({ "prompt_ms": 2.5, "predicted_ms": 4.0 });
        return Json(body).into_response();
    }
    let mut deltas = Vec::new();
    if is_chat {
        deltas.push(json!({ "delta": { "role": "assistant", "content": null } }));
        deltas.extend(
            tokens(&answer.reasoning).iter().map(|text| json!({ "delta": { "reasoning_content": text } })),
        );
        deltas.extend(answer.tool_calls().map(|calls| json!({ "delta": { "tool_calls": calls } })));
    }
    deltas.extend(answer.tokens.iter().map(|token| match is_chat {
        true => json!({ "delta": { "content": token }, "logprobs": logprobs(std::slice::from_ref(token)) }),
        false => json!({ "text": token }),
    }));
    let mut last = if is_chat { json!({ "delta": {} }) } else { json!({ "text": "" }) };
    last["finish_reason"] = answer.finish_reason().into();
    deltas.push(last);
    let object = if is_chat { "chat.completion.chunk" } else { object };
    let mut stream = String::new();
    for index in 0..choices {
        for delta in &deltas {
            let mut choice = json!({ "index": index, "finish_reason": null });
            choice.as_object_mut().expect("an object").extend(delta.as_object().expect("an object").clone());
            stream.push_str(&format!("data: {}\n\n", base(object, vec![choice])));
        }
    }
    if request["stream_options"]["include_usage"] == true {
        let mut chunk = base(object, Vec::new());
        chunk["usage"] = usage;
        stream.push_str(&format!("data: {chunk}\n\n"));
    }
    stream.push_str("data: [DONE]\n\n");
    ([("content-type", "text/event-stream")], stream).into_response()
}

/// One text or several.
fn texts(input: &Value) -> Vec<String> {
    match input {
        Value::Array(texts) => {
            texts.iter().map(|text| text.as_str().unwrap_or_default().to_owned()).collect()
        }
        text => vec![text.as_str().unwrap_or_default().to_owned()],
    }
}

fn embeddings(request: &Value) -> Value {
    let texts = texts(&request["input"]);
    let data = texts.iter().enumerate().map(|(index, text)| {
        let mut vector = [1_f32; 8];
        for (at, byte) in text.bytes().enumerate() {
            vector[at % 8] += f32::from(byte);
        }
        let length = vector.iter().map(|x| x * x).sum::<f32>().sqrt();
        let vector = vector.map(|x| x / length);
        let embedding = match request["encoding_format"].as_str() {
            Some("base64") => json!(STANDARD.encode(vector.map(f32::to_le_bytes).concat())),
            _ => json!(vector),
        };
        json!({ "object": "embedding", "index": index, "embedding": embedding })
    });
    let count: usize = texts.iter().map(|text| tokens(text).len()).sum();
    json!({
        "object": "list", "model": "conversing", "data": data.collect::<Value>(),
        "usage": { "prompt_tokens": count, "total_tokens": count },
    })
}

/// A document is worth the number of its words that are in the question.
fn rerank(request: &Value) -> Value {
    let query = request["query"].as_str().unwrap_or_default();
    let documents = texts(&request["documents"]);
    let worth =
        |text: &String| text.split(' ').filter(|word| query.split(' ').any(|asked| asked == *word)).count();
    let mut results: Vec<_> = documents.iter().map(worth).enumerate().collect();
    results.sort_by_key(|(_, worth)| std::cmp::Reverse(*worth));
    let most = request["top_n"].as_u64().and_then(|most| usize::try_from(most).ok()).unwrap_or(usize::MAX);
    let results =
        results.iter().take(most).map(|(index, worth)| json!({ "index": index, "relevance_score": worth }));
    json!({
        "object": "list", "model": "conversing", "results": results.collect::<Value>(),
        "usage": { "prompt_tokens": 1, "total_tokens": 1 },
    })
}
