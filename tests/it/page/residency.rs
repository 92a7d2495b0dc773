//! What is in memory and what waits: the overview, the plan of a load, the settings of a model, and a chat with
//! a model that is not loaded.

use std::sync::Arc;

use futures::FutureExt;
use rbee_hive::config::Faults;
use serde_json::{Value, json};
use tokio::sync::Semaphore;

use super::controls::choose;
use super::{ENTER, capture, check_console};
use crate::support::{Browser, TestHive, until, write_model};

/// A hive with the models `one` and `two`. Each load waits for a permit.
pub(super) async fn gated() -> (TestHive, Arc<Semaphore>) {
    let gate = Arc::new(Semaphore::new(0));
    let opened = Arc::clone(&gate);
    let faults = Faults::new(move |operation| {
        let gate = Arc::clone(&opened);
        async move {
            if operation == "model_load" {
                gate.acquire().await.expect("the gate stays").forget();
            }
            Ok(())
        }
        .boxed()
    });
    let hive = TestHive::start_with(|config| config.faults = faults).await;
    for stem in ["one", "two"] {
        write_model(&hive.models_dir(), stem);
    }
    (hive, gate)
}

/// The states of the loads, the newest first.
async fn loads(hive: &TestHive) -> Vec<Value> {
    let jobs: Value = hive.get("/v1/jobs?operation=model_load").await.json().await.expect("JSON");
    jobs["jobs"].as_array().expect("jobs").iter().map(|job| job["state"].clone()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_overview_shows_who_is_in_memory_and_what_waits() {
    let Some(browser) = Browser::start().await else { return };
    let (hive, gate) = gated().await;
    gate.add_permits(1);
    hive.load("one").await;
    browser.open(&hive.url).await;
    browser.shows(".device-bar", "cpu").await;
    browser.shows(".residents", "one").await;
    browser.shows(".residents", "It stays until its room is needed").await;

    let ask = json!({ "model": "two", "messages": [{ "role": "user", "content": "Hello" }] });
    let answers: Vec<_> = (0..2)
        .map(|_| {
            let request = hive.client.post(format!("{}/v1/chat/completions", hive.url)).json(&ask);
            rbee_hive::spawn::task(request.send())
        })
        .collect();
    for text in ["Load two", "2 requests wait", "127.0.0.1 2", "2 of "] {
        browser.shows("main", text).await;
    }
    capture(&browser, "overview-residency").await;
    gate.add_permits(1);
    for answer in answers {
        assert_eq!(answer.await.expect("no panic").expect("an answer").status(), 200);
    }
    browser.until("nothing that waits", "!document.querySelector('#waiting-title')").await;
    browser.shows(".residents", "two").await;
    browser.shows(".residents", "unloads in").await;
    check_console(&browser).await;
    drop(browser);
    hive.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_chat_waits_for_a_model_that_is_not_loaded_and_says_what_for() {
    let Some(browser) = Browser::start().await else { return };
    let (hive, gate) = gated().await;
    browser.open(&format!("{}/#/models", hive.url)).await;
    browser.click("tbody tr:last-child", "Chat with two").await;
    browser.shows("main", "Send a message; the model is loaded first").await;
    browser.fill("#draft", "Hello").await;
    browser.keys(ENTER).await;
    browser.shows(".talk .wait", "Waiting for two").await;
    browser.shows(".talk .wait", "Place 1 of 1").await;
    browser.shows(".talk .wait", "The job of the load").await;
    capture(&browser, "chat-waiting").await;
    gate.add_permits(1);
    browser.shows(".message.assistant", "Hello from a small model.").await;

    // Who leaves the queue as the last one ends the load.
    browser.click("main", "New").await;
    choose(&browser, "[aria-label='Model']", "one").await;
    browser.fill("#draft", "Hello").await;
    browser.keys(ENTER).await;
    browser.shows(".talk .wait", "Place 1 of 1").await;
    browser.click(".talk .wait", "Stop").await;
    browser.shows(".talk", "Ask one").await;
    until("the load to be cancelled", async || {
        (loads(&hive).await == ["cancelled", "succeeded"]).then_some(())
    })
    .await;
    check_console(&browser).await;
    drop(browser);
    hive.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_settings_of_a_model_and_of_its_variants_are_changed() {
    let Some(browser) = Browser::start().await else { return };
    let hive = TestHive::start().await;
    write_model(&hive.models_dir(), "tiny");
    let worker = hive.load("tiny").await;
    let settings = async |id: &str| hive.succeed(&json!({ "ModelSettingsGet": { "id": id } })).await;
    browser.open(&format!("{}/#/models/tiny", hive.url)).await;
    browser.click("aside", "Settings").await;
    browser.shows("dialog", "The default").await;
    browser.fill("#set-aliases", "short, other").await;
    browser.fill("#set-sampling-temperature", "0.2").await;
    browser.fill("#set-slots", "3").await;
    choose(&browser, "#set-pinned", "true").await;
    capture(&browser, "models-settings").await;
    browser.click("dialog", "Save").await;
    browser
        .shows("dialog", &format!("Worker {} (tiny) is loaded again once it is idle", worker["pid"]))
        .await;
    let set = json!({ "aliases": ["short", "other"], "sampling": { "temperature": 0.2 }, "slots": 3, "pinned": true });
    assert_eq!(settings("tiny").await["set"], set);

    // What is cleared is as it was before.
    browser.fill("#set-slots", "").await;
    browser.click("dialog", "Save").await;
    browser.shows("dialog [role=status]", "Saved").await;
    assert_eq!(settings("tiny").await["set"].get("slots"), None);
    browser.fill("#set-slots", "0").await;
    browser.click("dialog", "Save").await;
    browser.shows("dialog .failure", "slots cannot be 0").await;

    choose(&browser, "#set-of", " ").await;
    browser.until("a name to be asked for", "document.querySelector('#set-name')").await;
    browser.fill("#set-name", "long").await;
    browser.fill("#set-context_length", "64").await;
    browser.click("dialog", "Save").await;
    browser.shows("dialog [role=status]", "Saved").await;
    let variant = settings("tiny@long").await;
    assert_eq!(
        (&variant["set"], &variant["settings"]["sampling"]["temperature"]),
        (&json!({ "context_length": 64 }), &json!(0.2))
    );
    browser.click("dialog", "Chat with it").await;
    browser.shows("main", "tiny@long").await;
    browser.fill("#draft", "Hello").await;
    browser.keys(ENTER).await;
    browser.shows(".message.assistant", "Hello from a small model.").await;

    browser.open(&format!("{}/#/models/tiny", hive.url)).await;
    browser.shows("aside", "Served by").await;
    browser.click("aside", "Settings").await;
    choose(&browser, "#set-of", "tiny@long").await;
    browser.click("dialog", "Remove the variant").await;
    browser.shows("dialog [role=status]", "Saved").await;
    assert_eq!(settings("tiny").await["variants"], json!([]));
    check_console(&browser).await;
    drop(browser);
    hive.stop().await;
}

#[cfg(target_os = "linux")]
#[tokio::test(flavor = "multi_thread")]
async fn a_plan_says_who_would_go_to_make_room() {
    let Some(browser) = Browser::start().await else { return };
    let machine = crate::gpus::machine().await;
    let pid = machine.load().await;
    machine.fill(pid).await;
    browser.open(&format!("{}/#/models/other", machine.hive.url)).await;
    browser.click("aside", "Load").await;
    choose(&browser, "#load-device", "0").await;
    browser.shows("dialog .verdict", "cuda:0").await;
    browser.until("the plan of that device", "!document.querySelector('.estimate[aria-busy]')").await;
    browser.shows("dialog .verdict", "Fits once room is made").await;
    for text in ["Goes to make room", "tiny", &format!("worker {pid}"), "Idle for", "a formula"] {
        browser.shows("dialog .estimate", text).await;
    }
    capture(&browser, "models-load-evicts").await;
    check_console(&browser).await;
    drop(browser);
    machine.hive.stop().await;
}
