//! `run`: answers for scripts, and conversations in a terminal.

use std::os::unix::fs::PermissionsExt;
use std::process::Stdio;

use rbee_hive::config::Config;
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt;

use super::terminal::{CTRL_C, Terminal};
use super::{Ran, succeed, verb, verb_at};
use crate::support::hub::FakeHub;
use crate::support::{Scripted, TestHive, soon, until, write_model, write_model_that_says};

/// A hive whose model `m` does what the script says.
async fn scripted(script: &Scripted, change: impl FnOnce(&mut Config)) -> TestHive {
    let hive = TestHive::start_with(|config| {
        script.serve_for(config, 2);
        change(config);
    })
    .await;
    write_model(&hive.models_dir(), "m");
    hive
}

/// The chunks of an answer.
fn chunks(deltas: &[Value]) -> Value {
    let mut all: Vec<Value> =
        deltas.iter().map(|delta| json!({ "choices": [{ "index": 0, "delta": delta }] })).collect();
    all.push(json!({ "choices": [{ "index": 0, "delta": {}, "finish_reason": "stop" }] }));
    all.push("[DONE]".into());
    all.into()
}

/// A conversation in a terminal.
struct Chat {
    terminal: Terminal,
    /// How many lines it has read.
    lines: usize,
}

impl Chat {
    fn start(hive: &TestHive) -> Self {
        let state = hive.dir().to_str().expect("text");
        Self { terminal: Terminal::run(hive, &["run", "m"], &[("XDG_STATE_HOME", state)]), lines: 0 }
    }

    /// Waits until it reads keys: then it asks the terminal to mark what is pasted.
    async fn reads(&self) {
        let marks = self.lines + 1;
        let reads = async || (self.terminal.seen().matches("\x1b[?2004h").count() == marks).then_some(());
        until("the next prompt", reads).await;
    }

    /// Presses keys at its prompt, the last of which end the line.
    async fn press(&mut self, keys: &[u8]) {
        self.reads().await;
        self.terminal.press(keys);
        self.lines += 1;
    }

    /// Types a line.
    async fn say(&mut self, line: &str) {
        self.press(format!("{line}\r").as_bytes()).await;
    }

    /// Ends it with Ctrl-D.
    async fn end(mut self) -> String {
        self.press(b"\x04").await;
        assert_eq!(self.terminal.ended().await, 0, "{}", self.terminal.seen());
        self.terminal.seen()
    }
}

/// Runs a verb with that standard input.
async fn piped(hive: &TestHive, arguments: &[&str], input: &str) -> Ran {
    let mut child = verb_at(&hive.url, arguments).stdin(Stdio::piped()).spawn().expect("it starts");
    let mut stdin = child.stdin.take().expect("a pipe");
    // One that refuses its arguments reads nothing.
    stdin.write_all(input.as_bytes()).await.ok();
    drop(stdin);
    let output = soon("its end", child.wait_with_output()).await.expect("an end");
    let text = |bytes| String::from_utf8(bytes).expect("text");
    Ran { status: output.status.code().unwrap_or(-1), out: text(output.stdout), err: text(output.stderr) }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_is_printed_and_a_load_told_on_standard_error() {
    let hive = TestHive::start().await;
    write_model_that_says(&hive.models_dir(), "tiny", "Hello from a small model.");
    let first = verb(&hive, &["run", "tiny", "Hello,", "who are you?", "--temperature", "0"]).await;
    assert_eq!((first.status, &*first.out), (0, "Hello from a small model.\n"), "{}", first.err);
    assert!(first.err.contains("loading 'tiny'") && !first.err.contains("x-rbee-job-id"), "{}", first.err);

    let second = verb(&hive, &["run", "tiny", "Again", "--verbose", "--max-tokens", "2", "--quiet"]).await;
    assert_eq!(second.status, 0, "{}", second.err);
    for told in ["total duration:", "prompt tokens:", "answer tokens:     2", "answer rate:"] {
        assert!(second.err.contains(told), "{told}:\n{}", second.err);
    }
    assert!(!second.err.contains("waiting"), "{}", second.err);

    let document: Value =
        serde_json::from_str(&succeed(&hive, &["run", "tiny", "Hi", "--temperature", "0", "--json"]).await)
            .expect("one document");
    assert_eq!(document["choices"][0]["message"]["content"], "Hello from a small model.");
    assert_eq!(document["choices"][0]["finish_reason"], "stop");
    assert!(document["usage"]["completion_tokens"].as_u64().is_some_and(|count| count > 2), "{document}");
    let cut = verb(&hive, &["run", "tiny", "Hi", "--max-tokens", "1"]).await;
    assert!(cut.err.contains("--max-tokens"), "{}", cut.err);
    hive.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_asked_reaches_the_model() {
    let script = Scripted::new();
    let hive = scripted(&script, |_| {}).await;
    let image = hive.dir().join("picture");
    std::fs::write(&image, b"\x89PNG\r\n\x1a\nrest").expect("a file");
    let schema = hive.dir().join("schema.json");
    std::fs::write(&schema, r#"{"type":"object"}"#).expect("a file");
    let [image, schema] = [&image, &schema].map(|path| path.to_str().expect("text"));
    let arguments = [
        &["run", "m", "Summarise", "this.", "--system", "Be brief.", "--image", image, "--format", schema][..],
        &["--max-tokens", "9", "--temperature", "0.5", "--keep-alive", "-1", "--no-think"],
    ];
    let ran = piped(&hive, &arguments.concat(), "The text.\n").await;
    assert_eq!(ran.status, 0, "{}", ran.err);
    let request = script.last_request();
    assert_eq!(
        request["messages"],
        json!([{ "role": "system", "content": "Be brief." },
               { "role": "user", "content": [
                   { "type": "image_url", "image_url": { "url": "data:image/png;base64,iVBORw0KGgpyZXN0" } },
                   { "type": "text", "text": "The text.\n\nSummarise this." }] }])
    );
    assert_eq!((&request["max_tokens"], &request["temperature"]), (&json!(9), &json!(0.5)));
    assert_eq!(request["chat_template_kwargs"], json!({ "enable_thinking": false }));
    assert_eq!(request["response_format"]["json_schema"]["schema"], json!({ "type": "object" }));
    let residency = hive.residency().await;
    assert_eq!(residency["residents"][0]["keep"], "until_needed", "{residency}");

    // Standard input alone is a prompt too.
    assert_eq!(piped(&hive, &["run", "m", "--format", "json"], "Alone\n").await.status, 0);
    let request = script.last_request();
    assert_eq!(request["messages"], json!([{ "role": "user", "content": "Alone" }]));
    assert_eq!(request["response_format"], json!({ "type": "json_object" }));
    hive.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_usable_is_refused_before_anything_is_asked() {
    let script = Scripted::new();
    let hive = scripted(&script, |_| {}).await;
    let text = hive.dir().join("no-image");
    std::fs::write(&text, "text").expect("a file");
    let text = text.to_str().expect("text");
    for (arguments, what) in [
        (&["run", "m"][..], "no prompt"),
        (&["run", "m", "--json"], "no prompt"),
        (&["run", "m", "x", "--image", text], "is no image"),
        (&["run", "m", "x", "--format", text], "is no JSON"),
        (&["run", "m", "x", "--format", "/nonexistent"], "/nonexistent"),
    ] {
        let ran = verb(&hive, arguments).await;
        assert!(
            ran.status == 2 && ran.err.contains(what) && ran.err.contains("hint: "),
            "{arguments:?}: {}",
            ran.err
        );
    }
    assert_eq!(script.asked(), [""; 0]);
    hive.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_model_that_is_missing_is_4_and_says_how_to_get_it() {
    let hub = FakeHub::start().await;
    let dir = tempfile::tempdir().expect("a temporary folder");
    let model =
        std::fs::read(write_model_that_says(dir.path(), "small", "I came from the Hub.")).expect("a model");
    hub.commit("org/small-GGUF", "main", &[("small-Q8_0.gguf", &model)]);
    let url = hub.url.clone();
    let hive = TestHive::start_with(|config| config.hub.endpoint = Some(url)).await;
    write_model(&hive.models_dir(), "tiny");
    for (name, said) in [
        ("tny", &["the nearest: tiny", "`rbee-hive pull ollama:tny`"][..]),
        ("org/small-GGUF:Q8_0", &["`rbee-hive pull org/small-GGUF:Q8_0`"]),
        ("no such", &["`rbee-hive list`", "`rbee-hive pull`"]),
    ] {
        for verb_name in ["run", "embed"] {
            let ran = verb(&hive, &[verb_name, name, "Hi"]).await;
            assert_eq!((ran.status, &*ran.out), (4, ""), "{}", ran.err);
            for said in said {
                assert!(ran.err.contains(said), "{said}:\n{}", ran.err);
            }
        }
    }
    let pulled = verb(&hive, &["run", "org/small-GGUF:Q8_0", "Hi", "--pull", "--temperature", "0"]).await;
    assert_eq!((pulled.status, &*pulled.out), (0, "I came from the Hub.\n"), "{}", pulled.err);
    assert!(pulled.err.contains("Downloading 'org/small-GGUF:Q8_0'"), "{}", pulled.err);
    hive.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_load_that_fails_ends_it_with_its_code_and_names_its_job() {
    let script = Scripted::new();
    let hive = scripted(&script, |_| {}).await;
    script.set("m.broken");
    let ran = verb(&hive, &["run", "m", "Hi"]).await;
    assert_eq!((ran.status, &*ran.out), (1, ""), "{}", ran.err);
    assert!(ran.err.contains("error: ") && ran.err.contains("`rbee-hive watch job-"), "{}", ran.err);
    hive.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn thoughts_are_dimmed_in_a_terminal_and_not_in_a_pipe() {
    let script = Scripted::new();
    let hive = scripted(&script, |_| {}).await;
    let deltas = [json!({ "reasoning_content": "I wonder." }), json!({ "content": "Yes\u{1b}[2J." })];
    script.answer_with("m", &chunks(&deltas));
    assert_eq!(verb(&hive, &["run", "m", "Hi"]).await.out, "Yes\u{1b}[2J.\n");
    let document = succeed(&hive, &["run", "m", "Hi", "--json"]).await;
    let document: Value = serde_json::from_str(&document).expect("one document");
    assert_eq!(document["choices"][0]["message"]["reasoning_content"], "I wonder.");

    let mut chat = Chat::start(&hive);
    chat.say("Hi").await;
    // The model cannot clear the terminal.
    chat.terminal.shows("Yes\u{fffd}[2J.").await;
    let seen = chat.end().await;
    assert!(seen.contains("\u{1b}[2mThinking…\r\nI wonder.\r\n…done thinking.\u{1b}[0m"), "{seen:?}");
    hive.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_conversation_remembers_obeys_and_ends() {
    let script = Scripted::new();
    let hive = scripted(&script, |_| {}).await;
    let mut chat = Chat::start(&hive);
    chat.terminal.shows("This is 'm'").await;
    script.answer_with("m", &chunks(&[json!({ "content": "First answer." })]));
    chat.say("One?").await;
    chat.terminal.shows("First answer.\r\n").await;
    script.answer_with("m", &chunks(&[json!({ "content": "Second answer." })]));
    chat.say("/system Be brief.").await;
    chat.say("\"\"\"Two").await;
    chat.say("lines?\"\"\"").await;
    chat.terminal.shows("Second answer.\r\n").await;
    assert!(chat.terminal.seen().contains("... "), "{}", chat.terminal.seen());
    assert_eq!(
        script.last_request()["messages"],
        json!([{ "role": "system", "content": "Be brief." }, { "role": "user", "content": "One?" },
               { "role": "assistant", "content": "First answer." }, { "role": "user", "content": "Two\nlines?" }])
    );
    script.answer_with("m", &chunks(&[json!({ "content": "Third answer." })]));
    chat.say("/clear").await;
    chat.say("Three?").await;
    chat.terminal.shows("Third answer.\r\n").await;
    assert_eq!(script.last_request()["messages"].as_array().map(Vec::len), Some(2));
    // A failure ends the answer, not the conversation.
    let half = json!({ "choices": [{ "index": 0, "delta": { "content": "Half an" } }] });
    script.answer_with("m", &json!([half, { "error": { "message": "it is tired", "code": 500 } }]));
    chat.say("Four?").await;
    chat.terminal.shows("it is tired").await;
    chat.say("/nonsense").await;
    chat.terminal.shows("/help lists them").await;
    chat.say("/bye").await;
    assert_eq!(chat.terminal.ended().await, 0, "{}", chat.terminal.seen());

    // The next one has its lines.
    let mut next = Chat::start(&hive);
    next.reads().await;
    next.terminal.press(b"\x1b[A\x1b[A");
    next.terminal.shows("/nonsense").await;
    next.press(CTRL_C).await;
    next.terminal.shows("Ctrl-D or /bye ends").await;
    next.end().await;
    let history = std::fs::metadata(hive.dir().join("rbee-hive/chat-history")).expect("a history");
    assert_eq!(history.permissions().mode() & 0o777, 0o600);
    hive.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn ctrl_c_stops_an_answer_and_not_the_conversation() {
    let script = Scripted::new();
    let hive = scripted(&script, |_| {}).await;
    let mut chat = Chat::start(&hive);
    script.set("m.halfway");
    chat.say("Endless?").await;
    // The answer is the engine's process id, and then nothing more comes.
    until("the engine to be asked", async || (!script.asked().is_empty()).then_some(())).await;
    let pid = hive.residency().await["residents"][0]["pid"].to_string();
    chat.terminal.shows(&pid).await;
    chat.terminal.press(CTRL_C);
    chat.terminal.shows("Stopped").await;
    let left = async || script.log().iter().any(|line| line == "left Endless?").then_some(());
    until("the engine to be left", left).await;
    script.clear("m.halfway");
    chat.say("Again?").await;
    until("the next question", async || (script.asked().len() == 2).then_some(())).await;
    // What had come of it stays said.
    assert_eq!(script.last_request()["messages"][1], json!({ "role": "assistant", "content": pid }));
    chat.end().await;

    // Of a single question, Ctrl-C is the end.
    script.set("m.halfway");
    let mut single = Terminal::run(&hive, &["run", "m", "Endless?"], &[]);
    single.shows(&pid).await;
    single.press(CTRL_C);
    assert_eq!(single.ended().await, 130, "{}", single.seen());
    script.clear("m.halfway");
    hive.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn sigterm_ends_a_conversation_and_gives_the_terminal_back() {
    let script = Scripted::new();
    let hive = scripted(&script, |_| {}).await;
    let mut chat = Chat::start(&hive);
    chat.reads().await;
    let before = chat.terminal.shows_what_is_typed();
    chat.terminal.terminate();
    assert_eq!(chat.terminal.ended().await, 130, "{}", chat.terminal.seen());
    assert_eq!((before, chat.terminal.shows_what_is_typed()), (false, true));
    hive.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_load_is_one_line_of_a_terminal_that_goes_away() {
    let script = Scripted::new();
    let hive = scripted(&script, |_| {}).await;
    script.set("m.loading");
    let mut terminal = Terminal::run(&hive, &["run", "m", "Hi"], &[]);
    terminal.shows("loading 'm'").await;
    terminal.shows("41 %").await;
    script.answer_with("m", &chunks(&[json!({ "content": "Here I am." })]));
    script.clear("m.loading");
    terminal.shows("Here I am.").await;
    assert_eq!(terminal.ended().await, 0, "{}", terminal.seen());
    let seen = terminal.seen();
    let line = seen.split("Here I am.").next().and_then(|before| before.rsplit('\n').next()).expect("a line");
    assert!(line.ends_with("\u{1b}[2K"), "the line of the load is cleared: {line:?}");
    hive.stop().await;
}
