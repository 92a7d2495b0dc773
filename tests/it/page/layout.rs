//! The layout at every width: nothing covers what can be pressed, and nothing leaves the window.

use serde_json::{Value, json};

use super::{ESCAPE, check_console};
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

/// Shows loads, requests that wait and leases of models of these names, until the page is left.
const RESIDENCY: &str = "const [names, done] = arguments;\
    import(new URL('lib/hive.js', document.querySelector('script').src)).then(({hive}) => {\
        const at = new Date(Date.now() - 60_000).toISOString();\
        const load = (model, state) => ({job_id: `job-${state}`, model, state, since: at, because: `12 requests of ${model} wait for it`,\
            waits_for: `worker 1 of ${model} to finish`, progress: {done: 1e9, total: 4e9, unit: 'bytes', rate_per_second: 1e8, eta_seconds: 30}, eta_seconds: 30});\
        const line = (model) => ({model, waiting: 900, oldest_since: at, job_id: null, callers: [{caller: model.slice(0, 60), waiting: 899}, {caller: '127.0.0.1', waiting: 1}]});\
        const lease = (holder, state) => ({lease_id: state, device: 'cuda:0', bytes: 6e9, state, holder, expires_at: state === 'held' ? at : null, restores: names});\
        const memory = ['cuda:0', 'cpu'].map((device) => ({device, capacity_bytes: 24e9, free_bytes: 11e9, reserve_bytes: 1e9, leased_bytes: 6e9}));\
        const resident = {device: 'cuda:0', held_bytes: 5e9, in_flight: 1, slots: 4, ready_at: at, last_used_at: at, keep: 'idle', unload_at: at, draining: 'for model x', outdated: true, why: `it is to go: ${names[1]} needs its room`};\
        const residents = [...hive.workers.values()].map(({pid, model}) => ({...resident, pid, model}));\
        hive.applyResidency({memory, residents, queue_limit: 1024, loads: [load(names[0], 'waiting'), load(names[1], 'loading')], queue: names.map(line), leases: [lease(names[0], 'waiting'), lease(names[1], 'held')]});\
        hive.applyResidency = () => {};\
        done(true);\
    });";

/// Fails if a layout of what the page shows is wrong in any of the windows.
pub(super) async fn check(browser: &Browser, what: &str) {
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
    let ask = json!({ "model": long[0], "max_tokens": 1, "messages": [{ "role": "user", "content": "Hi" }] });
    assert_eq!(hive.post("/v1/chat/completions", &ask).await.status(), 200);
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
        ("callers".to_owned(), "By day"),
        ("nothing".to_owned(), "There is no such page"),
    ] {
        browser.open("about:blank").await;
        browser.open(&format!("{}/#/{page}", hive.url)).await;
        browser.shows("main", shown).await;
        check(&browser, &format!("#/{page}")).await;
        if page.is_empty() {
            let show =
                RESIDENCY.replace("arguments", &format!("[{}, arguments[0]]", json!(["abc", long[1]])));
            browser.run_async(&show).await;
            browser.shows("main", "Leased to other programs").await;
            check(&browser, "the overview with much that waits").await;
        }
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
    for name in names {
        browser.open("about:blank").await;
        browser.open(&format!("{}/#/models/{name}", hive.url)).await;
        browser.click("aside", "Settings").await;
        browser.shows("dialog", "The default").await;
        check(&browser, &format!("the dialog of the settings of {name}")).await;
        browser.keys(ESCAPE).await;
        browser.click("aside", "Why is it slow?").await;
        browser.shows("dialog", "What to do").await;
        check(&browser, &format!("the dialog that diagnoses {name}")).await;
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
