//! The chat: answers that fail, break off or have no text, and conversations that stay.

use serde_json::{Value, json};

use super::connection::hide;
use super::controls::choose;
use super::{ENTER, capture, check_console, has_toast, record_toasts};
use crate::support::{Browser, TestHive, write_model};

/// Answers the page's requests for completions with the bodies in `replies`, in turn, and keeps what
/// was asked in `asked`.
const STUB: &str = "const fetched = window.fetch; window.replies = []; window.asked = []; window.renderings = 0;\
    window.fetch = (path, options) => {\
        if (path === '/v1/markdown') window.renderings += 1;\
        if (path !== '/v1/chat/completions' || window.replies.length === 0) return fetched(path, options);\
        window.asked.push(JSON.parse(options.body));\
        const {status = 200, body} = window.replies.shift();\
        return Promise.resolve(new Response(body, {status}));\
    };";

/// A hive with loaded models `one` and `two`, and its chat with `one`.
async fn chat(browser: &Browser) -> TestHive {
    let hive = TestHive::start().await;
    for stem in ["one", "two"] {
        write_model(&hive.models_dir(), stem);
        hive.load(stem).await;
    }
    browser.cdp("Page.addScriptToEvaluateOnNewDocument", &json!({ "source": STUB })).await;
    record_toasts(browser).await;
    browser.open(&format!("{}/#/chat/one", hive.url)).await;
    browser.shows("main", "Send a message").await;
    hive
}

/// A stream of these chunks.
fn stream(chunks: &[Value]) -> Value {
    let events: String = chunks.iter().map(|chunk| format!("data: {chunk}\n\n")).collect();
    json!({ "body": events })
}

/// A complete answer of these deltas.
fn answer(deltas: &[Value], finish: &str) -> Value {
    let mut chunks: Vec<_> =
        deltas.iter().map(|delta| json!({"choices": [{"index": 0, "delta": delta}]})).collect();
    chunks.push(json!({"choices": [{"index": 0, "delta": {}, "finish_reason": finish}]}));
    let mut reply = stream(&chunks);
    let events = reply["body"].as_str().expect("events").to_owned() + "data: [DONE]\n\n";
    reply["body"] = json!(events);
    reply
}

async fn reply(browser: &Browser, reply: &Value) {
    browser.run(&format!("window.replies.push({reply})")).await;
}

async fn send(browser: &Browser, text: &str) {
    browser.fill("#draft", text).await;
    browser.keys(ENTER).await;
}

/// The contents of the messages of the last request.
async fn asked(browser: &Browser) -> Value {
    browser.eval("window.asked.at(-1).messages.map(({content}) => content)").await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failed_answer_says_why_and_can_be_asked_of_another_model() {
    let Some(browser) = Browser::start().await else { return };
    let hive = chat(&browser).await;
    for (body, shown) in [
        (
            json!({"error": {"message": "the prompt is too long", "type": "invalid_request_error"}}),
            "the prompt is too long",
        ),
        (json!({"error": "a plain reason"}), "a plain reason"),
        (json!({"detail": "the model is gone", "hint": "load it"}), "load it"),
        (json!("nothing"), "status 400, without a reason"),
    ] {
        reply(&browser, &json!({"status": 400, "body": body.to_string()})).await;
        send(&browser, "Hello").await;
        browser.shows(".talk .failure", shown).await;
        browser.click("main", "New").await;
    }
    let error = json!({"error": {"message": "the worker is gone", "code": "worker_unreachable"}});
    reply(&browser, &stream(&[error])).await;
    send(&browser, "Hello").await;
    browser.shows(".talk .failure", "the worker is gone").await;
    choose(&browser, "[aria-label='Model']", "two").await;
    browser.until("the failure to go", "!document.querySelector('.talk .failure')").await;
    reply(&browser, &answer(&[json!({"content": "At last"})], "stop")).await;
    browser.click(".talk", "Ask two").await;
    browser.shows(".message.assistant", "At last").await;
    assert_eq!(browser.eval("window.asked.at(-1).model").await, json!("two"));
    assert_eq!(asked(&browser).await, json!(["Hello"]));
    drop(browser);
    hive.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broken_answer_is_told_and_replaced_by_the_next() {
    let Some(browser) = Browser::start().await else { return };
    let hive = chat(&browser).await;
    reply(&browser, &stream(&[json!({"choices": [{"delta": {"content": "Half of"}}]})])).await;
    send(&browser, "Hello").await;
    browser.shows(".message.assistant", "Half of").await;
    browser.shows(".message.assistant", "Broke off").await;
    browser.shows(".talk .failure", "the answer broke off").await;
    capture(&browser, "chat-broken").await;
    reply(&browser, &answer(&[json!({"content": "All "}), json!({"content": "of it"})], "stop")).await;
    browser.click(".talk .failure", "Try again").await;
    browser.shows(".message.assistant", "All of it").await;
    assert_eq!(asked(&browser).await, json!(["Hello"]), "the half is not a part of what is asked");
    browser.until("one answer", "document.querySelectorAll('.message.assistant').length === 1").await;
    browser.shows("[role=status][aria-live=polite]", "one has answered. All of it").await;

    // An answer that cannot be made anew stays.
    reply(&browser, &json!({"status": 503, "body": json!({"error": "busy"}).to_string()})).await;
    browser.click(".message.assistant", "Regenerate").await;
    browser.shows(".talk .failure", "busy").await;
    browser.shows(".message.assistant", "All of it").await;
    drop(browser);
    hive.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_answer_is_shown_with_how_it_ended() {
    let Some(browser) = Browser::start().await else { return };
    let hive = chat(&browser).await;
    let call =
        json!({"tool_calls": [{"index": 0, "function": {"name": "weather", "arguments": "{\"city\":"}}]});
    let rest = json!({"tool_calls": [{"index": 0, "function": {"arguments": "\"Bern\"}"}}]});
    let thought = json!({"reasoning_content": "Hm, let me see"});
    for (deltas, finish, shown) in [
        (vec![json!({"content": "It goes on"})], "length", "Cut off at a limit"),
        (vec![thought], "stop", "The answer has no text"),
        (vec![call, rest], "tool_calls", "The model calls the tool weather"),
        (vec![], "length", "The answer has no text"),
    ] {
        reply(&browser, &answer(&deltas, finish)).await;
        send(&browser, "Hello").await;
        browser.shows(".message.assistant:last-of-type", shown).await;
        browser.until("the end", "!document.querySelector('[aria-busy]')").await;
    }
    browser.shows(".message.assistant .code", r#"{"city":"Bern"}"#).await;
    let thought =
        "[...document.querySelectorAll('.thoughts')].some((e) => e.textContent.includes('let me see'))";
    assert_eq!(browser.eval(thought).await, json!(true));
    capture(&browser, "chat-endings").await;
    browser.reload().await;
    browser.shows(".message.assistant", "The model calls the tool weather").await;
    check_console(&browser).await;
    drop(browser);
    hive.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deleted_conversation_comes_back_and_none_is_dropped() {
    let Some(browser) = Browser::start().await else { return };
    let hive = chat(&browser).await;
    browser
        .run("localStorage['rbee.chats'] = JSON.stringify(Array.from({length: 60}, (_, i) => ({id: `c${i}`, at: new Date(1e12 - i * 1e9).toISOString(), model: 'one', messages: [{role: 'user', text: `Number ${i}`}]})))")
        .await;
    browser.reload().await;
    browser.shows(".message.user", "Number 0").await;
    reply(&browser, &answer(&[json!({"content": "Yes"})], "stop")).await;
    browser.click(".talk", "Ask one").await;
    browser.shows(".message.assistant", "Yes").await;
    let kept = "JSON.parse(localStorage['rbee.chats']).length";
    assert_eq!(browser.eval(kept).await, json!(60), "no conversation is dropped");
    browser.click("main", "Delete this conversation").await;
    has_toast(&browser, "“Number 0” was deleted").await;
    browser.shows(".message.user", "Number 1").await;
    assert_eq!(browser.eval(kept).await, json!(59));
    browser.click("#toasts", "Undo").await;
    browser.shows(".message.assistant", "Yes").await;
    assert_eq!(browser.eval(kept).await, json!(60));

    // A browser without room says so.
    browser.run("Storage.prototype.setItem = () => { throw new Error('full'); }").await;
    reply(&browser, &answer(&[json!({"content": "More"})], "stop")).await;
    send(&browser, "And now?").await;
    browser.shows(".talk", "no room left for conversations").await;
    drop(browser);
    hive.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn markdown_is_rendered_by_the_hive_and_only_once() {
    let Some(browser) = Browser::start().await else { return };
    let hive = chat(&browser).await;
    let text = "# Title\n\n1. Run\n\n   ```rust\n   fn main() {\n       // none\n   }\n   ```\n\n\
        | a | b |\n|---|---|\n| 1 \\| 2 | $x^2$ |\n\n<img src=x onerror=alert(1)> [bad](javascript:alert(1))";
    let deltas: Vec<_> = text.split_inclusive(' ').map(|piece| json!({ "content": piece })).collect();
    reply(&browser, &answer(&deltas, "stop")).await;
    send(&browser, "Hello").await;
    for (selector, shown) in [
        (".prose h2", "Title"),
        (".prose .code figcaption", "rust"),
        (".prose .code .hl-comment", "// none"),
        (".prose td", "1 | 2"),
        (".prose p", "<img src=x onerror=alert(1)> bad"),
    ] {
        browser.shows(selector, shown).await;
    }
    assert_eq!(
        browser.eval("document.querySelectorAll('.prose img, .prose a[href]').length").await,
        json!(0)
    );
    let namespace = browser.eval("document.querySelector('.prose math msup').namespaceURI").await;
    assert_eq!(namespace, json!("http://www.w3.org/1998/Math/MathML"));
    let copied = "const done = arguments[0]; Object.defineProperty(navigator, 'clipboard', {value: {writeText: async (text) => done(text)}});\
        document.querySelector('.prose .code button').click();";
    assert_eq!(browser.run_async(copied).await, json!("fn main() {\n    // none\n}"));
    capture(&browser, "chat-markdown").await;

    // Typing and further answers leave the old ones as they are.
    browser.run("window.renderings = 0").await;
    reply(&browser, &answer(&[json!({"content": "*Short*"})], "stop")).await;
    send(&browser, "And a longer question, key by key").await;
    browser.shows(".prose em", "Short").await;
    assert_eq!(browser.eval("window.renderings").await, json!(1));
    check_console(&browser).await;
    drop(browser);
    hive.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_that_waits_for_a_load_is_sent_in_a_hidden_tab_too() {
    let Some(browser) = Browser::start().await else { return };
    let hive = TestHive::start().await;
    write_model(&hive.models_dir(), "tiny");
    browser.open(&format!("{}/#/chat", hive.url)).await;
    browser.shows("main", "the model is loaded first").await;
    let closed = "const close = EventSource.prototype.close; window.isClosed = false;\
        EventSource.prototype.close = function () { window.isClosed = true; close.call(this); };";
    browser.run(&(closed.to_owned() + &hide(true))).await;
    browser.until("the page to rest", "window.isClosed").await;
    send(&browser, "Hello").await;
    let kept = "JSON.parse(localStorage['rbee.chats'])[0].messages.map(({text}) => text).join(' / ')";
    browser.until("the answer", &format!("{kept} === 'Hello / Hello from a small model.'")).await;
    browser.run(&hide(false)).await;
    browser.shows(".message.assistant", "Hello from a small model.").await;
    check_console(&browser).await;
    drop(browser);
    hive.stop().await;
}
