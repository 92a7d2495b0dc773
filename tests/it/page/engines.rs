//! What the page says of a model that no engine here runs, and the list of engines.

use serde_json::{Value, json};

use super::{capture, check_console};
use crate::support::hub::FakeHub;
use crate::support::{Browser, TestHive, write_foreign_model};

#[tokio::test(flavor = "multi_thread")]
async fn a_model_that_needs_another_engine_says_which_and_offers_to_install_it() {
    let Some(browser) = Browser::start().await else { return };
    let hub = FakeHub::start().await;
    let folder = tempfile::tempdir().expect("a folder");
    let bytes = std::fs::read(write_foreign_model(folder.path(), "new")).expect("a model");
    hub.commit("org/new-GGUF", "main", &[("new-Q8_0.gguf", &*bytes)]);
    let hive = TestHive::start_with(|config| {
        config.hub.endpoint = Some(hub.url.clone());
        config.hub_cache = Some(folder.path().join("cache"));
        config.llama_server.enabled = true;
        // Whatever the machine has.
        config.llama_server.program = Some("/no/such/llama-server".into());
    })
    .await;
    write_foreign_model(&hive.models_dir(), "other");
    hive.succeed(&json!({ "ModelList": {} })).await;
    let offers = "No engine here runs other; llama-server runs it.";

    browser.open(&format!("{}/#/models", hive.url)).await;
    browser.shows("table tbody", "Needs llama-server, which can be installed").await;
    browser.open(&format!("{}/#/models/other", hive.url)).await;
    browser.shows("aside .advice", offers).await;
    let capabilities: Value = hive.get("/v1/capabilities").await.json().await.expect("JSON");
    let operations = capabilities["operations"].as_array().expect("names");
    if operations.contains(&json!("WorkerInstall")) {
        browser.shows("aside .advice button", "Install llama-server-").await;
    }
    capture(&browser, "models-needs-engine").await;

    // In the plan of a load.
    browser.click("aside", "Load").await;
    browser.shows("dialog .verdict.bad", "Engine 'builtin' cannot run it").await;
    browser.shows("dialog .advice", offers).await;
    capture(&browser, "load-needs-engine").await;
    browser.keys(super::ESCAPE).await;

    // Of a load that failed for it.
    hive.fail(&json!({ "ModelLoad": { "id": "other" } })).await;
    let job = hive.submit(&json!({ "ModelLoad": { "id": "other" } })).await;
    hive.stream(&job).await;
    browser.open(&format!("{}/#/jobs/{job}", hive.url)).await;
    browser.shows("main .failure", "no engine here can run 'other'").await;
    browser.shows("main .advice", offers).await;

    // In the plan of a download, which goes on all the same.
    browser.open(&format!("{}/#/models", hive.url)).await;
    browser.click("main .page-head", "Download a model").await;
    browser.fill("#dl-source", "org/new-GGUF").await;
    browser.click("dialog", "Show the plan").await;
    browser.shows("dialog .advice", "No engine here runs org/new-GGUF:Q8_0; llama-server runs it.").await;
    browser.shows("dialog .notes", "no engine here can run it").await;
    capture(&browser, "download-needs-engine").await;
    browser.until("the button to download", "[...document.querySelectorAll('dialog [type=submit]')].some((e) => e.innerText.startsWith('Download'))").await;
    browser.eval("document.querySelector('dialog [type=submit]').click()").await;
    browser.shows("dialog", "Download complete").await;
    check_console(&browser).await;
    drop(browser);
    hive.stop().await;
}
