//! The page's one connection: what happens while it is lost is there once it is back.

use serde_json::json;

use super::look_at;
use crate::support::{Browser, Relay, TestHive, write_model};

/// Counts the snapshots that the page's store takes, from now on.
const COUNT_SNAPSHOTS: &str = "const done = arguments[0]; import(new URL('lib/hive.js', document.querySelector('script').src)).then(({hive}) => {\
    const take = hive.take.bind(hive); window.snapshots = 0;\
    hive.take = (snapshot) => { window.snapshots += 1; take(snapshot); }; done(true); });";

#[tokio::test(flavor = "multi_thread")]
async fn what_happens_behind_its_back_is_told_to_a_page_that_resumes() {
    let Some(browser) = Browser::start().await else { return };
    let hive = TestHive::start().await;
    let elsewhere = hive.dir().join("elsewhere");
    std::fs::create_dir(&elsewhere).expect("a folder");
    let relay = Relay::to(&hive.url).await;
    browser.open(&format!("{}/#/jobs", relay.url)).await;
    browser.shows("#connection", "Live").await;
    browser.shows("main", "No jobs yet").await;
    browser.run_async(COUNT_SNAPSHOTS).await;

    relay.cut();
    browser.shows("#banner", "The hive does not answer").await;
    look_at(&browser, "connection-cut").await;
    // Three jobs, a model that comes and a model that goes, of which no snapshot could tell.
    for stem in ["first", "second"] {
        let file = write_model(&elsewhere, stem);
        hive.succeed(&json!({"ModelDownload": {"model": format!("file:{}", file.display())}})).await;
    }
    hive.succeed(&json!({"ModelDelete": {"id": "first"}})).await;
    relay.mend();

    browser.shows("#connection", "Live").await;
    for job in ["Download first.gguf", "Download second.gguf", "Delete first"] {
        browser.shows(".job-list", job).await;
    }
    browser.until("the banner to go", "!document.querySelector('.banner')").await;
    assert_eq!(browser.eval("window.snapshots").await, json!(0), "it resumed after its last event");
    let models = "const done = arguments[0]; import(new URL('lib/hive.js', document.querySelector('script').src)).then(({hive}) => done([...hive.models.keys()]));";
    assert_eq!(browser.run_async(models).await, json!(["second"]));
    drop(browser);
    hive.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_that_fell_silent_is_given_up_and_nothing_is_lost() {
    let Some(browser) = Browser::start().await else { return };
    let hive = TestHive::start().await;
    let elsewhere = hive.dir().join("elsewhere");
    std::fs::create_dir(&elsewhere).expect("a folder");
    let relay = Relay::to(&hive.url).await;
    browser.open(&format!("{}/#/jobs", relay.url)).await;
    browser.shows("#connection", "Live").await;
    browser.run_async(COUNT_SNAPSHOTS).await;
    // No end of the connection tells of it, as after a machine has slept.
    relay.silence();
    let file = write_model(&elsewhere, "meanwhile");
    hive.succeed(&json!({"ModelDownload": {"model": format!("file:{}", file.display())}})).await;
    browser.shows("#banner", "The hive does not answer").await;
    relay.mend();
    browser.shows("#connection", "Live").await;
    browser.shows(".job-list", "Download meanwhile.gguf").await;
    browser.until("the banner to go", "!document.querySelector('.banner')").await;
    assert_eq!(browser.eval("window.snapshots").await, json!(0), "it resumed after its last event");
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
    let elsewhere = hive.dir().join("elsewhere");
    std::fs::create_dir(&elsewhere).expect("a folder");
    browser.open(&format!("{}/#/jobs", hive.url)).await;
    browser.shows("#connection", "Live").await;
    browser.run_async(COUNT_SNAPSHOTS).await;
    browser.run(COUNT_CLOSED).await;
    browser.run(&hide(true)).await;
    browser.until("the connection to be given back", "window.givenBack === 1").await;
    let file = write_model(&elsewhere, "meanwhile");
    hive.succeed(&json!({"ModelDownload": {"model": format!("file:{}", file.display())}})).await;
    browser.run(&hide(false)).await;
    browser.shows(".job-list", "Download meanwhile.gguf").await;
    assert_eq!(browser.eval("window.snapshots").await, json!(0), "it resumed after its last event");
    // A glance elsewhere is too short for that.
    browser.run(&hide(true)).await;
    browser.run(&hide(false)).await;
    let file = write_model(&elsewhere, "after");
    hive.succeed(&json!({"ModelDownload": {"model": format!("file:{}", file.display())}})).await;
    browser.shows(".job-list", "Download after.gguf").await;
    assert_eq!(browser.eval("window.givenBack").await, json!(1));
    drop(browser);
    hive.stop().await;
}
