//! The page's connection for events: the page misses nothing while it is lost.

use serde_json::{Value, json};

use super::capture;
use crate::support::{Browser, Relay, StallingServer, TestHive, write_model};

/// Runs a script that has the page's store as `hive` and passes its value to `done`.
async fn with_store(browser: &Browser, script: &str) -> Value {
    let store = "import(new URL('lib/hive.js', document.querySelector('script').src))";
    browser
        .run_async(&format!("const done = arguments[0]; {store}.then(({{hive}}) => {{ {script} }});"))
        .await
}

/// Opens the page of the jobs and, once it is live, starts to count the snapshots that it takes.
async fn watch_jobs(browser: &Browser, url: &str) {
    browser.open(&format!("{url}/#/jobs")).await;
    browser.shows("#connection", "Live").await;
    browser.shows("main", "No jobs yet").await;
    let count = "const apply = hive.applySnapshot.bind(hive); window.snapshots = 0;\
        hive.applySnapshot = (snapshot) => { window.snapshots += 1; apply(snapshot); }; done(true);";
    with_store(browser, count).await;
}

async fn check_resumed(browser: &Browser) {
    assert_eq!(browser.eval("window.snapshots").await, json!(0), "snapshots after the first one");
}

/// Holds back all events of streams until `window.release()` is called, and records the state of the
/// connection as each arrives.
const HOLD_EVENTS: &str = "const listen = EventSource.prototype.addEventListener; window.held = []; window.states = [];\
    EventSource.prototype.addEventListener = function (name, take) {\
        listen.call(this, name, (event) => {\
            window.states.push(document.documentElement.dataset.connection);\
            if (window.held) window.held.push(() => take(event)); else take(event);\
        });\
    };\
    window.release = () => { const events = window.held; window.held = null; for (const take of events) take(); };";

#[tokio::test(flavor = "multi_thread")]
async fn a_page_is_live_only_once_it_has_its_state() {
    let Some(browser) = Browser::start().await else { return };
    let hive = TestHive::start().await;
    browser.cdp("Page.addScriptToEvaluateOnNewDocument", &json!({ "source": HOLD_EVENTS })).await;
    browser.open(&format!("{}/#/models", hive.url)).await;
    browser.until("the stream to open and to bring events", "window.held.length > 1").await;
    let states = browser.eval("window.states").await;
    assert!(states.as_array().is_some_and(|states| !states.contains(&json!("live"))), "{states}");
    browser.shows("main", "Waiting for the hive").await;
    browser.run("window.release()").await;
    browser.shows("#connection", "Live").await;
    browser.shows("main", "No models yet").await;
    drop(browser);
    hive.stop().await;
}

/// Imports a model of that name.
async fn import(hive: &TestHive, stem: &str) {
    let file = write_model(&hive.dir().join("elsewhere"), stem);
    hive.succeed(&json!({"ModelDownload": {"model": format!("file:{}", file.display())}})).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_page_that_reconnects_gets_the_events_it_missed() {
    let Some(browser) = Browser::start().await else { return };
    let hive = TestHive::start().await;
    std::fs::create_dir(hive.dir().join("elsewhere")).expect("a folder");
    let relay = Relay::to(&hive.url).await;
    watch_jobs(&browser, &relay.url).await;

    relay.cut();
    browser.shows("#banner", "The hive does not answer").await;
    capture(&browser, "connection-cut").await;
    // Three jobs, and a model that is gone again: a snapshot would not mention it.
    for stem in ["first", "second"] {
        import(&hive, stem).await;
    }
    hive.succeed(&json!({"ModelDelete": {"id": "first"}})).await;
    relay.mend();

    browser.shows("#connection", "Live").await;
    for job in ["Download first.gguf", "Download second.gguf", "Delete first"] {
        browser.shows(".job-list", job).await;
    }
    browser.until("the banner to go", "!document.querySelector('.banner')").await;
    check_resumed(&browser).await;
    assert_eq!(with_store(&browser, "done([...hive.models.keys()]);").await, json!(["second"]));
    drop(browser);
    hive.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_silent_connection_is_replaced_and_no_event_is_lost() {
    let Some(browser) = Browser::start().await else { return };
    let hive = TestHive::start().await;
    std::fs::create_dir(hive.dir().join("elsewhere")).expect("a folder");
    let relay = Relay::to(&hive.url).await;
    watch_jobs(&browser, &relay.url).await;
    // The connection stays open, as after a machine has slept.
    relay.silence();
    import(&hive, "meanwhile").await;
    browser.shows("#banner", "The hive does not answer").await;
    relay.mend();
    browser.shows("#connection", "Live").await;
    browser.shows(".job-list", "Download meanwhile.gguf").await;
    browser.until("the banner to go", "!document.querySelector('.banner')").await;
    check_resumed(&browser).await;
    drop(browser);
    hive.stop().await;
}

/// Counts the event streams that the page closes, from now on.
const COUNT_CLOSED: &str = "const close = EventSource.prototype.close; window.closedStreams = 0;\
    EventSource.prototype.close = function () { window.closedStreams += 1; close.call(this); };";

/// Tells the page that it is hidden or visible. A headless browser treats all its pages as visible.
pub(super) fn hide(is_hidden: bool) -> String {
    format!(
        "Object.defineProperty(document, 'hidden', {{value: {is_hidden}, configurable: true}});\
         document.dispatchEvent(new Event('visibilitychange'));"
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hidden_page_closes_its_connection_and_misses_nothing() {
    let Some(browser) = Browser::start().await else { return };
    let hive = TestHive::start().await;
    std::fs::create_dir(hive.dir().join("elsewhere")).expect("a folder");
    watch_jobs(&browser, &hive.url).await;
    browser.run(COUNT_CLOSED).await;
    browser.run(&hide(true)).await;
    browser.until("the connection to be closed", "window.closedStreams === 1").await;
    import(&hive, "meanwhile").await;
    browser.run(&hide(false)).await;
    browser.shows(".job-list", "Download meanwhile.gguf").await;
    check_resumed(&browser).await;
    // A page that is hidden for a moment keeps its connection.
    browser.run(&(hide(true) + &hide(false))).await;
    import(&hive, "after").await;
    browser.shows(".job-list", "Download after.gguf").await;
    assert_eq!(browser.eval("window.closedStreams").await, json!(1));
    drop(browser);
    hive.stop().await;
}

/// Counts the streams of jobs that resume after an event, the requests for logs of workers, and the
/// streams and logs that the page closes.
const COUNT_FOLLOWED: &str = "const fetched = window.fetch; window.resumed = window.logs = window.cut = 0;\
    window.fetch = (path, options) => {\
        if (options.headers['Last-Event-ID']) window.resumed += 1;\
        if (path.includes('/log?')) window.logs += 1;\
        if (/[/](stream|log)[?]/.test(path)) options.signal.addEventListener('abort', () => { window.cut += 1; });\
        return fetched(path, options);\
    };";

#[tokio::test(flavor = "multi_thread")]
async fn a_hidden_page_closes_the_streams_of_jobs_and_logs() {
    let Some(browser) = Browser::start().await else { return };
    let hive = TestHive::start().await;
    write_model(&hive.models_dir(), "tiny");
    let worker = hive.load("tiny").await;
    let server = StallingServer::start().await;
    let job = hive.submit(&json!({ "ModelDownload": { "model": server.model("slow") } })).await;
    server.connections(1).await;
    browser.open(&format!("{}/#/jobs", hive.url)).await;
    browser.shows("#connection", "Live").await;
    browser.run(COUNT_FOLLOWED).await;

    browser.run(&format!("location.hash = '#/jobs/{job}'")).await;
    browser.shows(".timeline", "Downloading").await;
    browser.run(&hide(true)).await;
    browser.until("the stream to be closed", "window.cut === 1").await;
    assert_eq!(hive.delete(&format!("/v1/jobs/{job}")).await.status(), 200);
    browser.run(&hide(false)).await;
    browser.shows(".timeline", "Cancelling").await;
    browser.shows("main .page-head", "Cancelled").await;
    let rows = "[...document.querySelectorAll('.timeline [role=listitem]')].filter((e) => e.innerText.includes('Downloading')).length";
    assert_eq!(browser.eval(rows).await, json!(1), "the stream resumes after the last event");
    assert_eq!(browser.eval("window.resumed").await, json!(1));

    browser.run(&format!("location.hash = '#/workers/{}'", worker["pid"])).await;
    browser.shows("virtual-list", "listening").await;
    browser.run("window.cut = 0").await;
    browser.run(&hide(true)).await;
    browser.until("the log to be closed", "window.cut === 1").await;
    browser.run(&hide(false)).await;
    browser.until("the log to be asked for again", "window.logs === 2").await;
    browser.shows("virtual-list", "listening").await;
    drop(browser);
    hive.stop().await;
}
