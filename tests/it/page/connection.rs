//! The page's one connection: what happens while it is lost is there once it is back.

use serde_json::{Value, json};

use super::look_at;
use crate::support::{Browser, Relay, StallingServer, TestHive, write_model};

/// Runs a script with the page's own store, `hive`, and `done` for its answer.
async fn with_store(browser: &Browser, script: &str) -> Value {
    let store = "import(new URL('lib/hive.js', document.querySelector('script').src))";
    browser
        .run_async(&format!("const done = arguments[0]; {store}.then(({{hive}}) => {{ {script} }});"))
        .await
}

/// Opens the page with the jobs, and counts the snapshots that it takes once it is live.
async fn watch_jobs(browser: &Browser, url: &str) {
    browser.open(&format!("{url}/#/jobs")).await;
    browser.shows("#connection", "Live").await;
    browser.shows("main", "No jobs yet").await;
    let count = "const take = hive.take.bind(hive); window.snapshots = 0;\
        hive.take = (snapshot) => { window.snapshots += 1; take(snapshot); }; done(true);";
    with_store(browser, count).await;
}

async fn has_resumed(browser: &Browser) {
    assert_eq!(browser.eval("window.snapshots").await, json!(0), "it resumed after its last event");
}

/// Imports a model of that name.
async fn bring(hive: &TestHive, stem: &str) {
    let file = write_model(&hive.dir().join("elsewhere"), stem);
    hive.succeed(&json!({"ModelDownload": {"model": format!("file:{}", file.display())}})).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_happens_behind_its_back_is_told_to_a_page_that_resumes() {
    let Some(browser) = Browser::start().await else { return };
    let hive = TestHive::start().await;
    std::fs::create_dir(hive.dir().join("elsewhere")).expect("a folder");
    let relay = Relay::to(&hive.url).await;
    watch_jobs(&browser, &relay.url).await;

    relay.cut();
    browser.shows("#banner", "The hive does not answer").await;
    look_at(&browser, "connection-cut").await;
    // Three jobs, a model that comes and a model that goes, of which no snapshot could tell.
    for stem in ["first", "second"] {
        bring(&hive, stem).await;
    }
    hive.succeed(&json!({"ModelDelete": {"id": "first"}})).await;
    relay.mend();

    browser.shows("#connection", "Live").await;
    for job in ["Download first.gguf", "Download second.gguf", "Delete first"] {
        browser.shows(".job-list", job).await;
    }
    browser.until("the banner to go", "!document.querySelector('.banner')").await;
    has_resumed(&browser).await;
    assert_eq!(with_store(&browser, "done([...hive.models.keys()]);").await, json!(["second"]));
    drop(browser);
    hive.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_that_fell_silent_is_given_up_and_nothing_is_lost() {
    let Some(browser) = Browser::start().await else { return };
    let hive = TestHive::start().await;
    std::fs::create_dir(hive.dir().join("elsewhere")).expect("a folder");
    let relay = Relay::to(&hive.url).await;
    watch_jobs(&browser, &relay.url).await;
    // No end of the connection tells of it, as after a machine has slept.
    relay.silence();
    bring(&hive, "meanwhile").await;
    browser.shows("#banner", "The hive does not answer").await;
    relay.mend();
    browser.shows("#connection", "Live").await;
    browser.shows(".job-list", "Download meanwhile.gguf").await;
    browser.until("the banner to go", "!document.querySelector('.banner')").await;
    has_resumed(&browser).await;
    drop(browser);
    hive.stop().await;
}

/// Counts the connections that the page gives back, from now on.
const COUNT_CLOSED: &str = "const close = EventSource.prototype.close; window.givenBack = 0;\
    EventSource.prototype.close = function () { window.givenBack += 1; close.call(this); };";

/// Puts the page out of sight or back into it; a headless browser shows all its pages.
fn hide(is_hidden: bool) -> String {
    format!(
        "Object.defineProperty(document, 'hidden', {{value: {is_hidden}, configurable: true}});\
         document.dispatchEvent(new Event('visibilitychange'));"
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn a_page_out_of_sight_gives_its_connection_back_and_misses_nothing() {
    let Some(browser) = Browser::start().await else { return };
    let hive = TestHive::start().await;
    std::fs::create_dir(hive.dir().join("elsewhere")).expect("a folder");
    watch_jobs(&browser, &hive.url).await;
    browser.run(COUNT_CLOSED).await;
    browser.run(&hide(true)).await;
    browser.until("the connection to be given back", "window.givenBack === 1").await;
    bring(&hive, "meanwhile").await;
    browser.run(&hide(false)).await;
    browser.shows(".job-list", "Download meanwhile.gguf").await;
    has_resumed(&browser).await;
    // A glance elsewhere is too short for that.
    browser.run(&hide(true)).await;
    browser.run(&hide(false)).await;
    bring(&hive, "after").await;
    browser.shows(".job-list", "Download after.gguf").await;
    assert_eq!(browser.eval("window.givenBack").await, json!(1));
    drop(browser);
    hive.stop().await;
}

/// Counts the streams of jobs that go on after an event, the logs of workers that are asked for, and
/// those of both that the page gives back.
const COUNT_FOLLOWED: &str = "const fetched = window.fetch; window.resumed = window.logs = window.cut = 0;\
    window.fetch = (path, options) => {\
        if (options.headers['Last-Event-ID']) window.resumed += 1;\
        if (path.includes('/log?')) window.logs += 1;\
        if (/[/](stream|log)[?]/.test(path)) options.signal.addEventListener('abort', () => { window.cut += 1; });\
        return fetched(path, options);\
    };";

#[tokio::test(flavor = "multi_thread")]
async fn out_of_sight_no_job_and_no_log_holds_a_connection() {
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
    browser.until("the stream to be given back", "window.cut === 1").await;
    assert_eq!(hive.delete(&format!("/v1/jobs/{job}")).await.status(), 200);
    browser.run(&hide(false)).await;
    browser.shows(".timeline", "Cancelling").await;
    browser.shows("main .page-head", "Cancelled").await;
    let told = "[...document.querySelectorAll('.timeline [role=listitem]')].filter((e) => e.innerText.includes('Downloading')).length";
    assert_eq!(browser.eval(told).await, json!(1), "it went on where it was");
    assert_eq!(browser.eval("window.resumed").await, json!(1));

    browser.run(&format!("location.hash = '#/workers/{}'", worker["pid"])).await;
    browser.shows("virtual-list", "listening").await;
    browser.run("window.cut = 0").await;
    browser.run(&hide(true)).await;
    browser.until("the log to be given back", "window.cut === 1").await;
    browser.run(&hide(false)).await;
    browser.until("the log to be asked for again", "window.logs === 2").await;
    browser.shows("virtual-list", "listening").await;
    drop(browser);
    hive.stop().await;
}
