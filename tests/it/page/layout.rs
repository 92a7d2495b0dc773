//! The layout at every width: nothing covers what can be pressed, and nothing leaves the window.

use serde_json::{Value, json};

use super::check_console;
use crate::support::{Browser, TestHive, write_model};

/// The windows, in pixels of the screen, and how far the page is zoomed.
const WINDOWS: [(u32, u32); 9] =
    [(320, 1), (375, 1), (760, 1), (900, 1), (1024, 1), (1440, 1), (760, 2), (1024, 2), (1440, 2)];

/// Returns what is wrong with the page as it is shown.
const CHECK: &str = include_str!("layout.js");

/// Shows a note and a problem below the page, as long as the page may show.
const TOASTS: &str = "const done = arguments[0];\
    import(new URL('parts/toasts.js', document.querySelector('script').src)).then(({showNote, showProblem}) => {\
        showNote('A note of a moderate length'); showProblem(new Error('z'.repeat(200))); done(true); });";

/// Fails if a layout of what the page shows is wrong in any of the windows.
async fn check(browser: &Browser, what: &str) {
    for (width, zoom) in WINDOWS {
        let height = if width > 800 { 900 } else { 812 };
        // A page that is zoomed has fewer pixels of its own, each of several pixels of the screen.
        let metrics = json!({
            "width": width / zoom, "height": height / zoom, "deviceScaleFactor": zoom, "mobile": false,
        });
        browser.cdp("Emulation.setDeviceMetricsOverride", &metrics).await;
        browser.until("the new width", &format!("innerWidth === {}", width / zoom)).await;
        // Two frames: in the first one, elements that watch their size learn of it.
        let frames = "const done = arguments[0]; requestAnimationFrame(() => requestAnimationFrame(done));";
        browser.run_async(frames).await;
        let found = browser.run(CHECK).await;
        assert_eq!(found, json!([]), "{what} at {width} px, zoomed {zoom} times: {found:#}");
    }
    browser.resize(1440, "light").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_covers_what_can_be_pressed_and_nothing_leaves_the_window() {
    let Some(browser) = Browser::start().await else { return };
    let hive = TestHive::start().await;
    let long = ["x".repeat(200), "a-name-of-words-".repeat(12) + "at-last"];
    write_model(&hive.models_dir(), &long[0]);
    browser.open(&hive.url).await;
    browser.shows("main", "Load xxx").await;
    check(&browser, "the overview before the first load").await;
    for stem in ["abc", &long[1], "one-that-is-not-loaded"] {
        write_model(&hive.models_dir(), stem);
    }
    let mut worker = Value::Null;
    for stem in ["abc", &long[0]] {
        worker = hive.load(stem).await;
    }
    let missing = json!({ "ModelDownload": { "model": format!("file:/nowhere/{}.gguf", long[0]) } });
    let failed = hive.submit(&missing).await;
    hive.stream(&failed).await;
    let jobs: Value = hive.get("/v1/jobs?operation=model_load").await.json().await.expect("JSON");
    let loaded = jobs["jobs"][0]["job_id"].as_str().expect("an id");

    for (page, shown) in [
        (String::new(), "All workers"),
        ("models".to_owned(), "loaded"),
        ("models/abc".to_owned(), "Architecture"),
        (format!("models/{}", long[1]), "Architecture"),
        ("workers".to_owned(), "Tokens/s"),
        (format!("workers/{}", worker["pid"]), "listening"),
        ("jobs".to_owned(), "Failed"),
        (format!("jobs/{loaded}"), "Where the time went"),
        (format!("jobs/{failed}"), "What to do"),
        ("chat/abc".to_owned(), "Send a message"),
        (format!("chat/{}", long[1]), "Send a message"),
        ("nothing".to_owned(), "There is no such page"),
    ] {
        browser.open("about:blank").await;
        browser.open(&format!("{}/#/{page}", hive.url)).await;
        browser.shows("main", shown).await;
        check(&browser, &format!("#/{page}")).await;
        if matches!(page.as_str(), "models" | "chat/abc") {
            browser.run_async(TOASTS).await;
            browser.shows("#toasts", "zzzz").await;
            check(&browser, &format!("#/{page} with toasts")).await;
        }
    }

    let names = ["abc", &long[0]];
    for name in names {
        browser.open("about:blank").await;
        browser.open(&format!("{}/#/models/{name}", hive.url)).await;
        browser.click("aside", "Delete").await;
        browser.shows("dialog", "Size").await;
        check(&browser, &format!("the dialog that deletes {name}")).await;
    }
    for name in ["one-that-is-not-loaded", &long[1]] {
        browser.open("about:blank").await;
        browser.open(&format!("{}/#/models/{name}", hive.url)).await;
        browser.click("aside", "Load").await;
        browser.shows("dialog .estimate", "are free").await;
        check(&browser, &format!("the dialog that loads {name}")).await;
    }
    browser.open("about:blank").await;
    browser.open(&format!("{}/#/models", hive.url)).await;
    browser.click(".page-head", "Download a model").await;
    browser.shows("dialog", "Source").await;
    check(&browser, "the dialog that downloads").await;

    let code = "```\n".to_owned() + &long[0] + "\n```\n\n" + &long[0];
    let said =
        |role: &str, text: &str| json!({ "role": role, "text": text, "finish": "length", "model": long[0] });
    let messages = [said("user", &long[0]), said("assistant", &code), said("user", "abc")];
    let chats = json!([{ "id": "a", "at": "2026-01-01T00:00:00Z", "model": "abc", "messages": messages }]);
    browser.run(&format!("localStorage['rbee.chats'] = JSON.stringify({chats})")).await;
    browser.open("about:blank").await;
    browser.open(&format!("{}/#/chat", hive.url)).await;
    browser.shows(".message.assistant", "Cut off").await;
    browser.shows(".message.assistant .code", "xxx").await;
    browser.click(".chat", "Parameters").await;
    check(&browser, "a conversation with its parameters").await;

    browser.open(&format!("{}/#/workers", hive.url)).await;
    browser.reload().await;
    browser.click("main .page-head", "Start a worker").await;
    browser.shows("dialog", "Slots").await;
    check(&browser, "the dialog that starts a worker").await;
    check_console(&browser).await;
    drop(browser);
    hive.stop().await;
}
