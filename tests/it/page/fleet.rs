//! The fleet on the page: its hives, and the models, workers and jobs of all of them.

use std::time::Duration;

use rbee_hive::config::Config;
use rbee_hive::engine::sample_model::SampleModel;
use serde_json::{Value, json};

use super::controls::choose;
use super::{ENTER, capture, check_console, has_toast, layout, record_toasts};
use crate::fleet_setup::named;
use crate::support::{Browser, NatsServer, TestHive, nats_server, no_process_mentions, until, write_model};

/// As long as the name of a host may well be.
const LONG: &str =
    "a-hive-with-a-name-that-is-as-long-as.the-name-of-a-host-in-a-large-company.example.internal";

/// Settings of a hive in the fleet of that server.
fn in_fleet(name: &str, nats: &NatsServer) -> impl FnOnce(&mut Config) {
    move |config| {
        crate::fleet::in_fleet(config, name, &nats.url());
        config.fleet.gone_after = Duration::from_secs(60).into();
    }
}

/// Waits until a hive is in its fleet with that many hives.
async fn knows(hive: &TestHive, count: usize) {
    until(&format!("a fleet of {count}"), || async {
        let status = hive.succeed(&json!({ "FleetStatus": {} })).await;
        let all = status["hives"].as_array()?.len();
        (status["is_in"] == true && all == count).then_some(())
    })
    .await;
}

async fn go(browser: &Browser, page: &str, title: &str) {
    browser.run(&format!("location.hash = {}", json!(format!("#/{page}")))).await;
    browser.shows("main h1", title).await;
}

/// Waits until the row of a model has, or has not, those texts.
async fn row(browser: &Browser, model: &str, has: &[&str], lacks: &[&str]) {
    let expression = format!(
        "(() => {{ const row = [...document.querySelectorAll('main tbody tr')].find((e) => e.querySelector('th a').innerText === {}).innerText;\
         return {}.every((text) => row.includes(text)) && !{}.some((text) => row.includes(text)); }})()",
        json!(model),
        json!(has),
        json!(lacks)
    );
    browser.until(&format!("{has:?} and not {lacks:?} of {model}"), &expression).await;
}

async fn jobs(hive: &TestHive, operation: &str) -> Vec<Value> {
    let page: Value = hive.get(&format!("/v1/jobs?operation={operation}")).await.json().await.expect("JSON");
    page["jobs"].as_array().expect("jobs").clone()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fleet_is_made_and_used_on_the_page() {
    let Some(server) = nats_server() else { return };
    let Some(browser) = Browser::start().await else { return };
    let one = TestHive::start_with(named("one", &server)).await;
    let two = TestHive::start_with(named(LONG, &server)).await;
    let both = write_model(&one.models_dir(), "both");
    std::fs::copy(both, two.models_dir().join("both.gguf")).expect("a copy");
    write_model(&one.models_dir(), "other");
    let larger = SampleModel::default();
    let larger = SampleModel { vocabulary: larger.vocabulary * 2, ..larger };
    larger.write(&two.models_dir().join("other.gguf")).expect("a model");
    write_model(&two.models_dir(), "theirs");

    // A hive that stands alone shows nothing of fleets, and asks for nothing of them.
    record_toasts(&browser).await;
    browser.open(&one.url).await;
    browser.shows("main", "Load both").await;
    let link = "document.getElementById('fleet-link')";
    browser.until("no link to the fleet", &format!("{link}.hidden")).await;
    go(&browser, "models", "Models").await;
    row(&browser, "both", &["available"], &[]).await;
    browser.shows("main thead", "Device").await;
    for (page, title) in [("workers", "Workers"), ("chat", "Chat"), ("jobs", "Jobs"), ("fleet", "Fleet")] {
        go(&browser, page, title).await;
    }
    browser.shows("main", "This hive stands alone").await;
    capture(&browser, "fleet-none").await;
    for operation in ["fleet_status", "worker_process_list"] {
        assert_eq!(jobs(&one, operation).await, Vec::<Value>::new(), "{operation}");
    }

    // The page learns by itself that there is one, and invites the next machine.
    one.succeed(&json!({ "FleetUp": {
        "listen": "127.0.0.1:0", "join_listen": "127.0.0.1:0", "advertise": "127.0.0.1",
    } }))
    .await;
    browser.shows("main", "home · 1 hive").await;
    browser.until("the link to the fleet", &format!("!{link}.hidden")).await;
    browser.click("main", "Invite a machine").await;
    browser.shows("dialog", "invite machines that you trust").await;
    capture(&browser, "fleet-invite").await;
    browser.click("dialog", "Make the line").await;
    browser.shows("dialog", "Run this on the machine that is to join").await;
    assert_eq!(browser.eval("document.activeElement.innerText.trim()").await, json!("Copy"));
    capture(&browser, "fleet-invited").await;
    layout::check(&browser, "the dialog with the invitation").await;
    let line = browser.eval("document.querySelector('dialog pre').innerText").await;
    let words: Vec<_> = line.as_str().expect("text").split_whitespace().collect();
    assert_eq!((&words[..3], words.len()), (&["rbee-hive", "fleet", "join"][..], 5), "{line}");
    browser.click("dialog", "Done").await;
    two.succeed(&json!({ "FleetJoin": { "address": words[3], "code": words[4] } })).await;
    browser.shows("main", "home · 2 hives").await;
    browser.shows(&format!("[aria-label='Hive {LONG}']"), "reachable").await;
    browser.shows("[aria-label='Hive one']", "(this one)").await;
    let link = format!(
        "document.querySelector(\"[aria-label='Hive {LONG}'] a\").href === {}",
        json!(format!("{}/", two.url))
    );
    browser.until("the other's address", &link).await;
    capture(&browser, "fleet").await;
    layout::check(&browser, "the fleet").await;

    models(&browser).await;
    workers_and_jobs(&browser, &one, &two).await;
    chat(&browser).await;
    expelled(&browser, &one).await;
    check_console(&browser).await;
    drop(browser);
    let settings = one.dir().join("data/fleet/nats-server.conf");
    two.stop().await;
    let _dir = one.stop().await;
    assert!(no_process_mentions(settings.to_str().expect("text")), "a nats-server outlived its hive");
}

/// A chat with a model that only the other hive has.
async fn chat(browser: &Browser) {
    browser.run("location.hash = '#/chat/theirs'").await;
    browser
        .until("a draft", "document.querySelector('#draft') && !document.querySelector('#draft').disabled")
        .await;
    browser.fill("#draft", "Hi").await;
    browser.keys(ENTER).await;
    browser.shows("main", "Hello from a small model.").await;
    capture(browser, "fleet-chat").await;
}

/// One list of models, and what is done with them where they are.
async fn models(browser: &Browser) {
    go(browser, "models", "Models").await;
    browser.shows("main thead", "Where").await;
    row(browser, "both", &["one", LONG, "available"], &["differs"]).await;
    row(browser, "other", &["one", &format!("{LONG} · differs")], &[]).await;
    row(browser, "theirs", &[LONG], &["one"]).await;
    capture(browser, "models-fleet").await;
    layout::check(browser, "the models of a fleet").await;
    browser.fill("[aria-label='Filter models']", "large-company").await;
    browser.until("those of the other hive", "document.querySelectorAll('main tbody tr').length === 3").await;
    browser.fill("[aria-label='Filter models']", "").await;

    // The fleet finds the one that has it.
    browser.click("main tbody", "Load theirs").await;
    browser.shows("dialog .estimate", &format!("hive '{LONG}' does it")).await;
    browser.shows("dialog .estimate", "are free").await;
    assert_eq!(browser.eval("document.querySelector('#load-where').value").await, json!("any"));
    capture(browser, "models-load-any").await;
    browser.click("dialog", "Load").await;
    has_toast(browser, "Load theirs").await;
    row(browser, "theirs", &["loaded", &format!("{LONG} · cpu")], &[]).await;
    browser.click("main tbody", "Unload theirs").await;
    row(browser, "theirs", &["available"], &["cpu"]).await;

    // What is here too is loaded here, unless the user says otherwise.
    go(browser, "models/both", "Models").await;
    browser.shows("aside", "On 2 hives").await;
    browser.click("aside", "Load").await;
    browser.shows("dialog .estimate", "are free").await;
    assert_eq!(browser.eval("document.querySelector('#load-where').value").await, json!("one"));
    choose(browser, "#load-where", LONG).await;
    browser.shows("dialog .estimate", "are free").await;
    browser.until("its devices", "document.querySelector('#load-device').innerText.includes('cpu')").await;
    browser.click("dialog", "Load").await;
    browser.shows("aside", "loaded").await;
    capture(browser, "models-places").await;
    layout::check(browser, "the places of a model").await;
    // In what the hives' settings differ is shown, and can be changed from here.
    browser.click("aside", &format!("Settings both on {LONG}")).await;
    browser.shows("dialog", &format!("on {LONG}")).await;
    browser.fill("#set-sampling-temperature", "0.2").await;
    browser.fill("#set-aliases", "quick").await;
    browser.click("dialog", "Save").await;
    browser.shows("dialog", "Saved. No worker has to be loaded again.").await;
    capture(browser, "models-settings-there").await;
    layout::check(browser, "the settings of a model on another hive").await;
    browser.click("dialog", "Close").await;
    browser.shows("aside", "Temperature: 0.2 (on one: 0.8)").await;
    browser.shows("aside", "Aliases: quick (on one: not set)").await;
    capture(browser, "models-differ").await;
    layout::check(browser, "in what the hives' settings differ").await;
    go(browser, "models/other", "Models").await;
    browser.shows("aside", "another file").await;

    // Kept on both from now on: the fleet copies it.
    go(browser, "models/theirs", "Models").await;
    browser.shows("aside", "On 1 hive").await;
    choose(browser, "#keep-on", "2").await;
    browser.shows("aside", "On 2 hives").await;
    browser.shows("aside", "2 of 2 have it").await;
    capture(browser, "models-kept").await;
    layout::check(browser, "a model that is kept on several hives").await;
    go(browser, "fleet", "Fleet").await;
    browser.shows("[aria-labelledby='kept-title']", "2 of 2 have it").await;
    capture(browser, "fleet-kept").await;
    layout::check(browser, "the models that are kept on several hives").await;
    // A page that is opened later knows it too.
    browser.run("location.reload()").await;
    browser.shows("[aria-labelledby='kept-title']", "2 of 2 have it").await;
    go(browser, "models/theirs", "Models").await;
    choose(browser, "#keep-on", "0").await;
    browser.shows("aside", "The fleet copies it").await;
    browser.click("aside .actions", "Delete").await;
    browser.run("document.querySelector('dialog .check input')?.click()").await;
    browser.click("dialog", "Delete").await;
    browser.shows("aside", "On 1 hive").await;

    // Deleted there, and there alone.
    go(browser, "models/other", "Models").await;
    browser.click("aside", &format!("Delete other on {LONG}")).await;
    browser.shows("dialog", LONG).await;
    capture(browser, "models-delete-there").await;
    browser.run("document.querySelector('dialog .check input').click()").await;
    browser.click("dialog", "Delete").await;
    go(browser, "models", "Models").await;
    row(browser, "other", &["one"], &[LONG, "differs"]).await;
}

/// The workers and the jobs of the other hive.
async fn workers_and_jobs(browser: &Browser, one: &TestHive, two: &TestHive) {
    go(browser, "workers", "Workers").await;
    let section = format!("[aria-label='Workers on {LONG}']");
    browser.shows(&section, "both").await;
    browser.shows(&section, "its page shows them").await;
    capture(browser, "workers-fleet").await;
    layout::check(browser, "the workers of a fleet").await;
    let pid = two.succeed(&json!({ "WorkerProcessList": {} })).await[0]["pid"].clone();
    browser.click(&section, &format!("Stop: worker {pid} on {LONG}")).await;
    browser.shows("main", &format!("No worker on {LONG}.")).await;

    go(browser, "jobs", "Jobs").await;
    browser
        .until("this hive's alone", "!document.querySelector('.job-list')?.innerText.includes('Load theirs')")
        .await;
    choose(browser, "[aria-label='Hive']", "all").await;
    browser.shows(".job-list", "Load theirs").await;
    browser.shows(".job-list", "Invite a machine into the fleet").await;
    capture(browser, "jobs-fleet").await;
    layout::check(browser, "the jobs of a fleet").await;
    choose(browser, "[aria-label='Hive']", LONG).await;
    browser
        .until("the other's alone", "!document.querySelector('.job-list').innerText.includes('Invite')")
        .await;
    // One that another hive runs comes in by itself.
    one.succeed(&json!({ "ModelLoad": { "id": "theirs", "hive_id": LONG } })).await;
    browser
        .until(
            "the new job",
            "[...document.querySelectorAll('.job-list a')].filter((e) => e.innerText === 'Load theirs').length === 2",
        )
        .await;
    browser.click(".job-list", "Load theirs").await;
    browser.shows("main", &format!("on {LONG}")).await;
    browser.shows(".timeline", "Loading model 'theirs'").await;
    capture(browser, "job-elsewhere").await;
}

/// The other hive is expelled, and nobody shows it any more.
async fn expelled(browser: &Browser, one: &TestHive) {
    go(browser, "fleet", "Fleet").await;
    browser.click("main", &format!("Expel {LONG}")).await;
    browser.shows("dialog", "Only another invitation lets it in again").await;
    capture(browser, "fleet-expel").await;
    browser.click("dialog", "Expel").await;
    browser.shows("main", "home · 1 hive").await;
    browser.shows(&format!("[aria-label='Hive {LONG}']"), "left").await;
    until("the end of the job", async || {
        (jobs(one, "fleet_expel").await[0]["state"] == "succeeded").then_some(())
    })
    .await;
    go(browser, "models", "Models").await;
    browser.until("its models to go", "!document.querySelector('main').innerText.includes('theirs')").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_page_says_that_the_hive_has_lost_its_fleet() {
    let Some(mut nats) = NatsServer::start().await else { return };
    let Some(browser) = Browser::start().await else { return };
    let (a, b) =
        (TestHive::start_with(in_fleet("a", &nats)).await, TestHive::start_with(in_fleet("b", &nats)).await);
    knows(&a, 2).await;
    browser.open(&format!("{}/#/fleet", a.url)).await;
    browser.shows("main", "connected").await;
    browser.shows("[aria-label='Hive b']", "reachable").await;
    nats.kill().await;
    // Nothing tells the page: it sees that no hive gives a sign of life.
    browser.shows("main", "not connected").await;
    browser.shows("main .failure", "fleet_unreachable").await;
    capture(&browser, "fleet-lost").await;
    go(&browser, "models", "Models").await;
    browser.shows("main", "The list lacks the models of other hives").await;
    go(&browser, "fleet", "Fleet").await;
    nats.start_again().await;
    browser.until("the end of the trouble", "!document.querySelector('main .failure')").await;
    browser.shows("main", "home · 2 hives").await;
    // One that leaves is shown as such.
    b.stop().await;
    browser.shows("[aria-label='Hive b']", "left").await;
    browser.shows("main", "home · 1 hive").await;
    drop(browser);
    a.stop().await;
}
