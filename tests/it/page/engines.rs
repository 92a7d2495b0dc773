//! What the page says of a model that no engine here runs, and the list of engines.

use serde_json::{Value, json};

use super::{capture, check_console};
use crate::support::github::{FakeGitHub, archive_name, engine_archive};
use crate::support::hub::FakeHub;
use crate::support::{Browser, TestHive, check_of, llama_server_script, write_foreign_model};

const CPU: &str = "llama-server-cpu";

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

/// A hive for which one release of this program is published.
async fn hive_with_release(github: &FakeGitHub, tag: &str, program: &[u8]) -> TestHive {
    github.publish(tag, &[(&archive_name(tag), &engine_archive(tag, program, 0))]);
    TestHive::start_with(|config| config.engine_builds.releases.clone_from(&github.releases)).await
}

#[tokio::test(flavor = "multi_thread")]
async fn an_engine_that_does_not_prove_itself_is_shown_with_the_reason() {
    let Some(browser) = Browser::start().await else { return };
    let github = FakeGitHub::start().await;
    let hive = hive_with_release(&github, "b1001", b"#!/bin/sh\necho 'version: 1'\nexit 3\n").await;
    browser.open(&format!("{}/#/workers", hive.url)).await;
    browser.shows(".engines", CPU).await;
    browser.shows(".engines", "b1001").await;
    capture(&browser, "workers-engines").await;
    browser.click(".engines", &format!("Install {CPU}")).await;
    browser.shows(".engines .strip[data-state='failed']", "Failed").await;
    browser.shows(".engines details", "Version b1001 did not prove itself").await;
    capture(&browser, "workers-engines-failed").await;
    check_console(&browser).await;
    drop(browser);
    hive.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_engine_is_updated_gone_back_to_removed_and_installed_on_the_page() {
    let Some(program) = llama_server_script() else { return };
    let Some(browser) = Browser::start().await else { return };
    let github = FakeGitHub::start().await;
    github.publish("b1001", &[(&archive_name("b1001"), &engine_archive("b1001", &program, 0))]);
    let hive = hive_with_release(&github, "b1002", &program).await;
    write_foreign_model(&hive.models_dir(), "other");
    hive.succeed(&json!({ "ModelList": {} })).await;
    let install = json!({ "WorkerInstall": { "worker_id": CPU, "version": "b1001" } });
    hive.succeed(&install).await;

    let is_version = |version: &str| {
        let version = json!(format!("{version} ·"));
        format!("document.querySelector('.engines .num').innerText.startsWith({version})")
    };
    browser.open(&format!("{}/#/workers", hive.url)).await;
    browser.shows(".engines", "Installed").await;
    browser.shows(".engines", "Version b1002 is there").await;
    capture(&browser, "workers-engines-installed").await;
    browser.click(".engines", &format!("Update {CPU}")).await;
    browser.until("the new version", &is_version("b1002")).await;
    browser.shows(".toast .strip-text", "b1002").await;
    browser.click(".toast", "Install llama-server-cpu").await;
    browser.shows("main .facts", "from a release").await;
    browser.shows("main .facts", "The one before").await;
    browser.back().await;
    browser.shows(".engines", "The version before, b1001, is still here.").await;
    capture(&browser, "workers-engines-updated").await;
    let capabilities: Value = hive.get("/v1/capabilities").await.json().await.expect("JSON");
    let build = json!({ "version": "b1002", "from": "release", "previous": "b1001" });
    let engines = capabilities["engines"].as_array().expect("engines");
    assert!(engines.iter().any(|engine| engine["build"] == build), "{capabilities}");
    let report = hive.succeed(&json!({ "HiveCheck": {} })).await;
    let detail = check_of(&report, "engines")["detail"].as_str().expect("a detail");
    assert!(detail.contains("build b1002 from a release, before it b1001"), "{detail}");

    browser.click(".engines", &format!("Go back with {CPU}")).await;
    browser.until("the old version", &is_version("b1001")).await;
    browser.click(".engines", &format!("Remove {CPU}")).await;
    browser.shows("dialog", "b1001").await;
    browser.click("dialog", "Remove").await;
    browser.until("no engine", "!document.querySelector('.engines').innerText.includes('Installed')").await;

    // Where a model needs it.
    browser.open(&format!("{}/#/models/other", hive.url)).await;
    browser.shows("aside .advice button", "Install llama-server-").await;
    let id = "document.querySelector('aside .advice button').innerText.trim().split(' ')[1]";
    let id = browser.eval(id).await.as_str().expect("an id").to_owned();
    browser.eval("document.querySelector('aside .advice button').click()").await;
    browser.until("a model that needs nothing", "!document.querySelector('aside .advice')").await;
    browser.shows("aside .facts", &id).await;
    check_console(&browser).await;
    drop(browser);
    hive.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_install_under_way_is_shown_with_its_progress_and_can_be_cancelled() {
    let Some(browser) = Browser::start().await else { return };
    let github = FakeGitHub::start().await;
    let tag = "b1001";
    github.publish(tag, &[(&archive_name(tag), &engine_archive(tag, b"#!/bin/sh\nexit 3\n", 6_000_000))]);
    github.hold(Some(200_000));
    let hive =
        TestHive::start_with(|config| config.engine_builds.releases.clone_from(&github.releases)).await;
    browser.open(&format!("{}/#/workers", hive.url)).await;
    browser.click(".engines", &format!("Install {CPU}")).await;
    browser.shows(".engines .strip[data-state='running']", "Running").await;
    browser.until("its progress", "document.querySelector('.engines .strip [role=progressbar]')").await;
    let buttons = "[...document.querySelectorAll('.engine-head button')].every((button) => button.disabled)";
    browser.until("no second install of it", buttons).await;
    capture(&browser, "workers-engines-installing").await;
    // The list shows it; other pages say it at their end, in windows of any width.
    browser.until("no second note of it", "!document.querySelector('.toast')").await;
    browser.open(&format!("{}/#/jobs", hive.url)).await;
    browser.resize(375, "light").await;
    let fits = "document.querySelector('.toast .strip').scrollWidth <= document.querySelector('.toast job-strip').clientWidth";
    browser.until("a note that fits", fits).await;
    browser.resize(1440, "light").await;
    browser.open(&format!("{}/#/workers", hive.url)).await;
    browser.click(".engines", "Cancel").await;
    browser.until("no install", "!document.querySelector('.engines .strip')").await;
    let jobs: Value = hive.get("/v1/jobs").await.json().await.expect("JSON");
    let jobs = jobs["jobs"].as_array().expect("jobs");
    let install = jobs.iter().find(|job| job["operation"] == "worker_install").expect("the install");
    assert_eq!(install["state"], "cancelled", "{install}");
    check_console(&browser).await;
    drop(browser);
    hive.stop().await;
}
