//! The hive's web page: its files over HTTP, and the page in a real browser.

mod axe;
mod callers;
mod chat;
mod client;
mod connection;
mod controls;
mod downloads;
mod engines;
mod fleet;
#[cfg(target_os = "linux")]
mod gpus;
mod layout;
mod proxy;
mod residency;
#[cfg(target_os = "linux")]
mod types;

use std::os::unix::fs::PermissionsExt;

use futures::FutureExt;
use rbee_hive::config::Faults;
use rbee_hive::engine::sample_model::{SampleModel, SampleWeights};
use rbee_hive::n;
use serde_json::{Value, json};

use crate::support::{Browser, Daemon, Relay, TestHive, folder, soon, write_model};

/// `WebDriver`'s codes of keys.
const TAB: &str = "\u{E004}";
const ENTER: &str = "\u{E007}";
const ESCAPE: &str = "\u{E00C}";

/// Checks the page for barriers to access and sideways scrolling, and takes screenshots for people to
/// look at: in two widths and both colour schemes.
async fn capture(browser: &Browser, name: &str) {
    for (width, scheme) in [(1440, "light"), (1440, "dark"), (375, "light"), (375, "dark")] {
        browser.resize(width, scheme).await;
        // Colours have transitions.
        browser.until("the end of the transitions", "document.getAnimations().every((a) => a.playState !== 'running' || a.effect.getTiming().iterations === Infinity)").await;
        axe::check(browser, &format!("{name} at {width} px, {scheme}")).await;
        let wide = browser.eval("document.scrollingElement.scrollWidth > innerWidth").await;
        assert_eq!(wide, json!(false), "{name} at {width} px scrolls sideways");
        browser.screenshot(&format!("{name}-{width}-{scheme}")).await;
    }
    browser.resize(1440, "light").await;
}

/// Records the texts of all toasts from the next page on: a toast is shown for a few seconds only.
async fn record_toasts(browser: &Browser) {
    let record = "addEventListener('DOMContentLoaded', () => {\
        const toasts = document.getElementById('toasts'); window.toasts = '';\
        new MutationObserver(() => { window.toasts += toasts.textContent; }).observe(toasts, {childList: true, subtree: true, characterData: true});\
    });";
    browser.cdp("Page.addScriptToEvaluateOnNewDocument", &json!({ "source": record })).await;
}

/// Waits until a toast of the page has had that text.
async fn has_toast(browser: &Browser, text: &str) {
    browser.until(&format!("the toast '{text}'"), &format!("window.toasts.includes({})", json!(text))).await;
}

async fn check_console(browser: &Browser) {
    assert_eq!(browser.console_problems().await, Vec::<String>::new(), "messages on the page's console");
}

#[tokio::test(flavor = "multi_thread")]
async fn files_have_a_content_type_a_strict_policy_and_an_etag() {
    let hive = TestHive::start().await;
    for (path, content_type) in [
        ("/", "text/html; charset=utf-8"),
        ("/ui/index.html", "text/html; charset=utf-8"),
        ("/ui/main.js", "text/javascript; charset=utf-8"),
        ("/ui/client.js", "text/javascript; charset=utf-8"),
        ("/ui/views/models.js", "text/javascript; charset=utf-8"),
        ("/ui/base.css", "text/css; charset=utf-8"),
        ("/ui/icon.svg", "image/svg+xml"),
    ] {
        let response = hive.get(path).await;
        assert_eq!(response.status(), 200, "{path}");
        let headers = response.headers().clone();
        let header = |name: &str| headers[name].to_str().expect("text").to_owned();
        assert_eq!(header("content-type"), content_type, "{path}");
        assert_eq!(header("x-content-type-options"), "nosniff");
        assert_eq!(header("cache-control"), "no-cache");
        let policy = header("content-security-policy");
        assert!(policy.contains("default-src 'none'") && policy.contains("script-src 'self'"), "{policy}");
        assert!(policy.contains("require-trusted-types-for 'script'"), "{policy}");
        assert!(!policy.contains("unsafe"), "{policy}");

        let tag = header("etag");
        let again = |given: String| {
            let request = hive.client.get(format!("{}{path}", hive.url)).header("if-none-match", given);
            async { soon(path, request.send()).await.expect("an answer") }
        };
        assert!(tag.starts_with("W/\""), "a compressed answer has other bytes: {tag}");
        let same = again(format!("\"other\", {}", tag.trim_start_matches("W/"))).await;
        assert_eq!((same.status().as_u16(), &same.headers()["etag"]), (304, &headers["etag"]), "{path}");
        assert!(same.headers().contains_key("content-security-policy"));
        assert_eq!(same.bytes().await.expect("a body").len(), 0);
        assert_eq!(again("\"other\"".to_owned()).await.status(), 200, "{path}");

        let head =
            soon(path, hive.client.head(format!("{}{path}", hive.url)).send()).await.expect("an answer");
        assert_eq!((head.status().as_u16(), &head.headers()["etag"]), (200, &headers["etag"]), "{path}");
    }
    let page = hive.get("/").await.text().await.expect("text");
    let start = page.split("src=\"").nth(1).and_then(|rest| rest.split('"').next()).expect("a script");
    assert!(start.starts_with("ui/") && start.ends_with("/start.js"), "{start}");
    let start = format!("/{start}");
    let response = hive.get(&start).await;
    assert_eq!(response.status(), 200, "{start}");
    assert_eq!(response.headers()["cache-control"], "public, max-age=31536000, immutable");
    let other = start.replace("/start.js", "0/start.js");
    assert_eq!(hive.get(&other).await.status(), 404, "a file of another build");
    hive.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn unknown_paths_answer_with_a_problem_and_not_with_the_page() {
    let hive = TestHive::start().await;
    for path in [
        "/v1/nothing",
        "/ui/",
        "/ui/nothing.js",
        "/ui/lib/types.js",
        "/ui/../Cargo.toml",
        "/ui/%2e%2e/Cargo.toml",
        "/models",
    ] {
        let response = hive.get(path).await;
        assert_eq!(response.status(), 404, "{path}");
        assert_eq!(response.headers()["content-type"], "application/problem+json", "{path}");
        let problem: Value = response.json().await.expect("JSON");
        assert_eq!(problem["code"], "route_not_found", "{path}");
    }
    let refused = hive.post("/", &json!({})).await;
    assert_eq!(refused.status(), 405);
    hive.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn from_an_empty_hive_to_a_chat_answer_and_back() {
    let Some(browser) = Browser::start().await else { return };
    let hive = TestHive::start().await;
    let elsewhere = hive.dir().join("elsewhere");
    std::fs::create_dir(&elsewhere).expect("a folder");
    let file = write_model(&elsewhere, "tiny");

    // Without models each page says so and names the next step.
    record_toasts(&browser).await;
    browser.open(&hive.url).await;
    browser.shows("main h2", "This hive has no models yet").await;
    browser.shows("main", "All checks passed").await;
    browser.shows("#connection", "Live").await;
    capture(&browser, "overview-empty").await;
    for (page, text) in [
        ("workers", "No workers"),
        ("jobs", "No jobs yet"),
        ("chat", "No model to chat with yet"),
        ("models", "No models yet"),
    ] {
        browser.open(&format!("{}/#/{page}", hive.url)).await;
        browser.shows("main", text).await;
        capture(&browser, &format!("{page}-empty")).await;
    }

    // A download: first the plan, then the transfer.
    browser.click(".page-head", "Download a model").await;
    browser.fill("#dl-source", "not a source").await;
    browser.click("dialog", "Show the plan").await;
    browser.shows("dialog .failure", "What to do").await;
    browser.fill("#dl-source", &format!("file:{}", file.display())).await;
    browser.click("dialog", "Show the plan").await;
    browser.shows("dialog .plan", "tiny.gguf").await;
    capture(&browser, "models-plan").await;
    browser.click("dialog", "Add it").await;
    browser.shows("table tbody", "tiny").await;
    has_toast(&browser, "Download tiny.gguf").await;

    // Details and loading.
    browser.click("table tbody", "tiny").await;
    browser.shows("aside", "Architecture").await;
    capture(&browser, "models-details").await;
    browser.click("aside", "Load").await;
    browser.shows("dialog .estimate", "are free").await;
    capture(&browser, "models-load").await;
    browser.click("dialog", "Load").await;
    browser.shows("table tbody", "loaded").await;
    browser.open(&format!("{}/#/workers", hive.url)).await;
    browser.shows(".worker", "ready").await;
    browser.click(".worker", "Log").await;
    browser.shows("virtual-list", "listening").await;
    capture(&browser, "workers").await;

    // A chat answer, streamed; it is still there after a reload.
    browser.open(&format!("{}/#/chat/tiny", hive.url)).await;
    browser.fill("#draft", "Who are you?").await;
    browser.keys(ENTER).await;
    browser.shows(".message.assistant", "Hello from a small model.").await;
    browser.shows(".message.assistant", "tokens").await;
    browser.click(".message.assistant", "Regenerate").await;
    browser.until("the answer made again", "document.querySelectorAll('.message.assistant').length === 1 && !document.querySelector('[aria-busy]') && document.querySelector('.message-foot')").await;
    capture(&browser, "chat").await;
    browser.reload().await;
    browser.shows(".message.assistant", "Hello from a small model.").await;
    browser.open(&format!("{}/#/", hive.url)).await;
    browser.shows("main", "Load tiny").await;
    browser.shows("main", "All checks passed").await;
    capture(&browser, "overview").await;

    // Unload and delete. The address of the model still leads to its details.
    browser.open(&format!("{}/#/models/tiny", hive.url)).await;
    browser.click("aside", "Unload").await;
    browser.shows("aside", "available").await;
    browser.click("aside", "Delete").await;
    browser.shows("dialog", "Size").await;
    capture(&browser, "models-delete").await;
    browser.click("dialog", "Delete").await;
    browser.shows("main", "No model has the id tiny").await;
    browser.click("aside", "Close the details").await;
    browser.shows("main", "No models yet").await;
    browser.back().await;
    browser.shows("main", "No model has the id tiny").await;

    // Every action was a job.
    browser.open(&format!("{}/#/jobs", hive.url)).await;
    for job in ["Download tiny.gguf", "Load tiny", "Unload tiny", "Delete tiny"] {
        browser.shows(".job-list", job).await;
    }
    capture(&browser, "jobs").await;
    browser.click(".job-list", "Load tiny").await;
    browser.shows(".timeline", "Loading model 'tiny'").await;
    browser.shows("main", "Where the time went").await;
    capture(&browser, "job").await;
    browser.click("main", "JSON").await;
    browser.shows(".code", "\"worker_id\"").await;
    check_console(&browser).await;
    assert!(file.exists(), "an import leaves the source file in place");
    drop(browser);
    hive.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_chat_loads_a_model_that_is_not_loaded_and_says_so() {
    let Some(browser) = Browser::start().await else { return };
    let hive = TestHive::start().await;
    write_model(&hive.models_dir(), "tiny");
    browser.open(&format!("{}/#/chat", hive.url)).await;
    browser.shows("main", "the model is loaded first").await;
    browser.fill("#draft", "Hello").await;
    browser.click(".composer", "Send").await;
    browser.shows(".message.assistant", "Hello from a small model.").await;
    let jobs: Value = hive.get("/v1/jobs?operation=model_load").await.json().await.expect("JSON");
    assert_eq!(jobs["jobs"].as_array().map(Vec::len), Some(1));
    check_console(&browser).await;
    drop(browser);
    hive.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_goes_on_while_another_page_is_shown_and_tabs_keep_each_others_chats() {
    let Some(browser) = Browser::start().await else { return };
    let hive = TestHive::start().await;
    write_model(&hive.models_dir(), "tiny");
    hive.load("tiny").await;
    let relay = Relay::to(&hive.url).await;
    browser.open(&format!("{}/#/chat", relay.url)).await;
    browser.shows("main", "Send a message").await;
    browser.fill("#draft", "Hello").await;
    relay.silence();
    browser.click(".composer", "Send").await;
    browser.shows(".talk", "Waiting for the first word").await;
    browser.run("location.hash = '#/jobs'").await;
    browser.shows("main h1", "Jobs").await;
    relay.mend();
    let kept = "JSON.parse(localStorage['rbee.chats']).map(({messages}) => messages.map(({text}) => text).join(' / '))";
    browser
        .until("the answer to be kept", &format!("{kept}[0] === 'Hello / Hello from a small model.'"))
        .await;
    browser.run("location.hash = '#/chat'").await;
    browser.shows(".message.assistant", "Hello from a small model.").await;
    // The button says "Copied" for a moment only.
    let copied = "const done = arguments[0]; const button = [...document.querySelectorAll('.message.assistant button')].find((e) => e.innerText.trim() === 'Copy');\
        new MutationObserver(() => done(button.innerText.trim())).observe(button, {childList: true, subtree: true, characterData: true}); button.click();";
    assert_eq!(browser.run_async(copied).await, json!("Copied"));

    // What another tab does.
    browser.run("localStorage['rbee.chats'] = JSON.stringify([{id: 'another', at: new Date().toISOString(), model: 'tiny', messages: [{role: 'user', text: 'From another tab'}]}, ...JSON.parse(localStorage['rbee.chats'])])").await;
    browser.click("main", "New").await;
    browser.fill("#draft", "Once more").await;
    browser.click(".composer", "Send").await;
    browser.shows(".message.assistant", "Hello from a small model.").await;
    browser.click("main", "Delete this conversation").await;
    browser
        .until(
            "all but the deleted to be kept",
            &format!("{kept}.join() === 'From another tab,Hello / Hello from a small model.'"),
        )
        .await;
    check_console(&browser).await;
    drop(browser);
    hive.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_worker_is_explained() {
    let Some(browser) = Browser::start().await else { return };
    let hive = TestHive::start().await;
    write_model(&hive.models_dir(), "tiny");
    let worker = hive.load("tiny").await;
    browser.open(&format!("{}/#/workers", hive.url)).await;
    browser.shows(".worker", "ready").await;
    let pid = worker["pid"].as_i64().and_then(|pid| i32::try_from(pid).ok()).expect("a process id");
    let pid = rustix::process::Pid::from_raw(pid).expect("a process id");
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).expect("it runs");
    browser.shows(".worker", "crashed").await;
    browser.shows(".worker .failure", "SIGKILL").await;
    browser.click(".worker", "Log").await;
    browser.shows("virtual-list", "listening").await;
    capture(&browser, "workers-crashed").await;
    browser.click(".worker", "Start again").await;
    browser.shows(".worker", "ready").await;
    check_console(&browser).await;
    drop(browser);
    hive.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_page_notices_when_the_hive_dies_and_when_it_is_back() {
    let Some(browser) = Browser::start().await else { return };
    let dir = folder();
    write_model(&dir.path().join("models"), "tiny");
    let daemon = Daemon::start(dir.path(), &[]).await;
    // The page keeps its address, while each daemon listens on a free port.
    let relay = Relay::to(&daemon.url).await;
    record_toasts(&browser).await;
    browser.open(&format!("{}/#/models", relay.url)).await;
    browser.shows("#connection", "Live").await;
    browser.shows("table tbody", "tiny").await;
    daemon.kill().await;
    browser.shows("#banner", "The hive does not answer").await;
    browser.shows("#banner", "Try now").await;
    browser.shows("table tbody", "tiny").await;
    capture(&browser, "connection-lost").await;
    write_model(&dir.path().join("models"), "second");
    let daemon = Daemon::start(dir.path(), &[]).await;
    relay.lead_to(&daemon.url);
    browser.shows("#connection", "Live").await;
    has_toast(&browser, "The hive was restarted").await;
    browser.shows("table tbody", "second").await;
    browser.until("the banner to go", "!document.querySelector('.banner')").await;
    daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_page_asks_for_a_token_once_for_all_tabs_and_keeps_it_while_they_are_open() {
    let Some(browser) = Browser::start().await else { return };
    let hive = TestHive::start_with(|config| {
        let file = config.data_dir.with_file_name("token");
        std::fs::write(&file, "correct-horse-battery-staple-0123456789\n").expect("a file");
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o600)).expect("permissions");
        config.token_file = Some(file);
    })
    .await;
    browser.open(&hive.url).await;
    browser.shows("dialog", "This hive asks for a token").await;
    capture(&browser, "token").await;
    browser.keys(ESCAPE).await;
    browser.fill("#token", "wrong").await;
    browser.click("dialog", "Continue").await;
    browser.shows("dialog", "The hive refused that token").await;
    browser.fill("#token", "correct-horse-battery-staple-0123456789").await;
    browser.click("dialog", "Continue").await;
    browser.shows("#connection", "Live").await;
    browser.shows("main", "All checks passed").await;
    let kept = browser.eval("JSON.stringify([{...localStorage}, document.cookie, location.href])").await;
    assert!(!kept.as_str().expect("text").contains("horse"), "{kept}");
    browser.reload().await;
    browser.shows("#connection", "Live").await;
    assert_eq!(browser.eval("!document.querySelector('dialog')").await, json!(true), "it does not ask again");

    // Another tab asks this one.
    let token = "correct-horse-battery-staple-0123456789";
    let asks = "const done = arguments[0]; const tabs = new BroadcastChannel('rbee.token');\
        tabs.onmessage = ({data}) => data.token && done(data.token); tabs.postMessage({asks: true});";
    assert_eq!(browser.run_async(asks).await, json!(token));
    // A new tab is answered by another one, before it asks or while it does.
    let offers = format!(
        "const tabs = new BroadcastChannel('rbee.token'); window.offer = () => tabs.postMessage({{token: '{token}'}});\
         tabs.onmessage = ({{data}}) => data.asks && !sessionStorage.isSlow && window.offer();\
         const timeout = setTimeout; window.setTimeout = (run, ms) => ms === 150 ? (window.late = run, 0) : timeout(run, ms);\
         const show = HTMLDialogElement.prototype.showModal; window.dialogs = 0;\
         HTMLDialogElement.prototype.showModal = function () {{ window.dialogs += 1; show.call(this); }};"
    );
    browser.cdp("Page.addScriptToEvaluateOnNewDocument", &json!({ "source": offers })).await;
    browser.run("sessionStorage.clear()").await;
    browser.reload().await;
    browser.shows("#connection", "Live").await;
    browser.run("window.late()").await;
    assert_eq!(browser.eval("window.dialogs").await, json!(0), "it does not ask at all");
    browser.run("sessionStorage.clear(); sessionStorage.isSlow = true").await;
    browser.reload().await;
    browser.until("the end of its patience", "window.late").await;
    browser.run("window.late()").await;
    browser.shows("dialog", "This hive asks for a token").await;
    browser.run("window.offer()").await;
    browser.shows("#connection", "Live").await;
    browser.until("no question", "!document.querySelector('dialog')").await;
    drop(browser);
    hive.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn names_logs_and_answers_are_text_and_never_markup() {
    let Some(browser) = Browser::start().await else { return };
    let hive = TestHive::start().await;
    let evil = "<img src=x onerror=document.title='pwned'>";
    let model = SampleModel {
        name: evil.to_owned(),
        weights: SampleWeights::Sentence("Hi <b>there</b> &amp; hello".to_owned()),
        ..SampleModel::default()
    };
    model.write(&hive.models_dir().join(format!("{evil}.gguf"))).expect("a model");
    let listed = hive.succeed(&json!({"ModelList": {}})).await;
    let id = listed[0]["id"].as_str().expect("an id").to_owned();
    let worker = hive.load(&id).await;
    let failed =
        hive.submit(&json!({"ModelDownload": {"model": format!("https://127.0.0.1:1/{evil}")}})).await;
    hive.stream(&failed).await;

    let harmless = "!document.querySelector('main img, dialog img, #toasts img, main b') && document.title.includes('rbee hive')";
    let encoded: String = id.bytes().map(|byte| format!("%{byte:02X}")).collect();
    for (place, shown) in [
        (format!("models/{encoded}"), evil),
        (format!("workers/{}", worker["pid"]), evil),
        (format!("jobs/{failed}"), "onerror"),
        ("jobs".to_owned(), "onerror"),
        ("%3Cimg%20src=x%3E".to_owned(), "There is no such page"),
    ] {
        browser.open(&format!("{}/#/{place}", hive.url)).await;
        browser.reload().await;
        browser.shows("main", shown).await;
        assert_eq!(browser.eval(harmless).await, json!(true), "{place}");
    }
    browser.open(&format!("{}/#/chat/{encoded}", hive.url)).await;
    browser.fill("#draft", evil).await;
    browser.keys(ENTER).await;
    browser.shows(".message.user", evil).await;
    browser.shows(".message.assistant", "<b>there</b>").await;
    browser.until("the answer's end", "document.querySelector('.message-foot')").await;
    assert_eq!(browser.eval(harmless).await, json!(true));
    check_console(&browser).await;
    drop(browser);
    hive.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn ten_thousand_narrations_scroll_with_few_rows_in_the_page() {
    let Some(browser) = Browser::start().await else { return };
    let faults = Faults::new(|operation| {
        async move {
            if operation == "worker_process_list" {
                for i in 0..9_900 {
                    n!("talk", "line {i} of many, {}", "and longer than it must be ".repeat(i % 7));
                }
            }
            Ok(())
        }
        .boxed()
    });
    let hive = TestHive::start_with(|config| config.faults = faults).await;
    let id = hive.submit(&json!({"WorkerProcessList": {}})).await;
    hive.stream(&id).await;
    browser.open(&format!("{}/#/jobs/{id}", hive.url)).await;
    browser.shows(".timeline", "line 0 of many").await;
    browser.shows("main", "9,90").await;
    let scrolled = browser.scroll(".timeline").await;
    assert!(scrolled["most"].as_u64().is_some_and(|rows| rows < 120), "{scrolled}");
    browser.until("the end", "(document.querySelector('.timeline').scrollTop = 1e9, [...document.querySelectorAll('.timeline .row')].some((r) => r.innerText.includes('line 9899 of many')))").await;
    browser.fill(".card-head input[type=search]", "line 4242 of").await;
    browser.shows(".timeline", "line 4242 of many").await;
    check_console(&browser).await;
    drop(browser);
    hive.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_animated_for_a_person_who_prefers_reduced_motion() {
    let Some(browser) = Browser::start().await else { return };
    // The mark of a running job is animated.
    let hive =
        TestHive::start_with(|config| config.faults = Faults::new(|_| std::future::pending().boxed())).await;
    let job = hive.submit(&json!({"ModelList": {}})).await;
    browser.open(&format!("{}/#/jobs/{job}", hive.url)).await;
    let is_moving = "document.getAnimations().some((a) => a.playState === 'running')";
    browser.emulate(1440, &[("prefers-reduced-motion", "no-preference")]).await;
    browser.until("something that moves", is_moving).await;
    browser.emulate(1440, &[("prefers-reduced-motion", "reduce")]).await;
    browser.until("nothing that moves", &format!("!{is_moving}")).await;
    for page in ["", "models", "workers", "jobs", "chat"] {
        browser.open(&format!("{}/#/{page}", hive.url)).await;
        browser.until("the page", "document.querySelector('main h1')").await;
        assert_eq!(browser.eval(is_moving).await, json!(false), "{page}");
    }
    drop(browser);
    hive.stop().await;
}

/// The layout shifts since the page began to load, where they exceed a twentieth of what counts as good
/// (web.dev/cls): each with what moved, from where and to where.
const SHIFTS: &str = "const done = arguments[0]; const found = [];\
    new PerformanceObserver((list) => found.push(...list.getEntries())).observe({type: 'layout-shift', buffered: true});\
    const rect = ({x, y, width, height}) => [x, y, width, height].map(Math.round);\
    const source = ({node, previousRect, currentRect}) => `${rect(previousRect)} -> ${rect(currentRect)} ${(node?.outerHTML ?? node?.textContent)?.slice(0, 200)}`;\
    requestAnimationFrame(() => setTimeout(() => done(found.reduce((sum, { value }) => sum + value, 0) < 0.005 ? [] : found.map(({value, sources}) => [value, ...sources.map(source)])), 50));";

/// Loads pages, each given with a text that it shows in the end, and fails if anything in them moves.
async fn check_for_shifts(browser: &Browser, hive: &TestHive, pages: &[(&str, &str)]) {
    for width in [1440, 375] {
        browser.resize(width, "light").await;
        for (page, shown) in pages {
            browser.open("about:blank").await;
            browser.open(&format!("{}/#/{page}", hive.url)).await;
            browser.shows("main", shown).await;
            let shifts = browser.run_async(SHIFTS).await;
            assert_eq!(shifts, json!([]), "#/{page} at {width} px: {shifts:#}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_moves_while_a_page_loads() {
    let Some(browser) = Browser::start().await else { return };
    let hive = TestHive::start().await;
    write_model(&hive.models_dir(), "tiny");
    write_model(&hive.models_dir(), "other");
    let worker = hive.load("tiny").await;
    let loads: Value = hive.get("/v1/jobs?operation=model_load").await.json().await.expect("JSON");
    let job = format!("jobs/{}", loads["jobs"][0]["job_id"].as_str().expect("an id"));
    let worker = format!("workers/{}", worker["pid"]);
    let overview = ("", "All checks passed");
    let job = (job.as_str(), "Where the time went");
    let others = [
        ("models", "tiny"),
        ("models/tiny", "Architecture"),
        ("workers", "Tokens/s"),
        (&worker, "listening"),
        ("jobs", "Load tiny"),
        ("chat", "Send a message"),
        ("callers", "asks nobody for a token"),
    ];
    check_for_shifts(&browser, &hive, &[overview, job]).await;
    check_for_shifts(&browser, &hive, &others).await;
    // Over a slow connection these pages show what they have before the rest arrives.
    browser.slow_down(200, 20_000).await;
    check_for_shifts(&browser, &hive, &[overview, job]).await;
    drop(browser);
    hive.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_page_can_be_used_with_the_keyboard_alone() {
    let Some(browser) = Browser::start().await else { return };
    let hive = TestHive::start().await;
    write_model(&hive.models_dir(), "tiny");
    browser.open(&format!("{}/#/", hive.url)).await;
    browser.shows("#connection", "Live").await;
    let focused = "document.activeElement.getAttribute('aria-label') || document.activeElement.innerText || document.activeElement.id";
    // Presses Tab until the element of that name has the focus. The focused element is always visible.
    let tab_to = async |wanted: &str| {
        for _ in 0..60 {
            browser.keys(TAB).await;
            let seen = browser.eval("document.activeElement === document.body || document.activeElement.matches(':focus-visible') && document.activeElement.getBoundingClientRect().width > 0").await;
            assert_eq!(seen, json!(true), "the focus is visible on the way to {wanted}");
            let at = browser.eval(focused).await;
            if at.as_str().is_some_and(|at| at.trim() == wanted) {
                return;
            }
        }
        panic!("Tab never reaches {wanted}");
    };
    tab_to("Skip to the content").await;
    browser.keys(ENTER).await;
    assert_eq!(browser.eval("document.activeElement.id").await, json!("main"));
    browser.open(&format!("{}/#/models", hive.url)).await;
    browser.reload().await;
    browser.shows("table tbody", "tiny").await;
    tab_to("Download a model").await;
    browser.keys(ENTER).await;
    browser.shows("dialog", "Source").await;
    assert_eq!(browser.eval("document.activeElement.id").await, json!("dl-source"));
    browser.keys(ESCAPE).await;
    browser.until("the dialog to close", "!document.querySelector('dialog')").await;
    assert_eq!(
        browser.eval(focused).await.as_str().map(str::trim),
        Some("Download a model"),
        "the focus comes back"
    );
    tab_to("Load tiny").await;
    browser.keys(ENTER).await;
    browser.shows("dialog .estimate", "are free").await;
    tab_to("Load").await;
    browser.keys(ENTER).await;
    browser.shows("table tbody", "loaded").await;
    let row = browser.eval("Boolean(document.activeElement.closest('tbody tr'))").await;
    assert_eq!(row, json!(true), "the focus stays in the row, although its button is gone");
    drop(browser);
    hive.stop().await;
}
