//! The page of a machine with GPUs.

use serde_json::json;

use super::controls::choose;
use super::{capture, check_console};
use crate::gpus::machine;
use crate::support::Browser;

#[tokio::test(flavor = "multi_thread")]
async fn each_gpu_is_shown_and_a_load_is_compared_with_its_free_memory() {
    let Some(browser) = Browser::start().await else { return };
    let machine = machine().await;
    browser.open(&machine.hive.url).await;
    for (name, value, held) in [
        ("cuda:0 GeForce RTX 4090", "37 %", "1000 MiB of 24 GiB"),
        ("cuda:1 GeForce RTX 3070", "0 %", "7.91 GiB of 8 GiB"),
    ] {
        let shown = format!(
            "(() => {{ const tile = [...document.querySelectorAll('.tile')].find((e) => e.innerText.includes({})); return tile.innerText.includes({}) && tile.innerText.includes({}); }})()",
            json!(name),
            json!(value),
            json!(held)
        );
        browser.until(&format!("the tile of {name}"), &shown).await;
    }
    browser
        .until(
            "a line of two measurements",
            "/L/.test(document.querySelectorAll('.tile .beside')[3].getAttribute('d'))",
        )
        .await;
    browser.shows("main", "All checks passed").await;
    capture(&browser, "overview-gpus").await;

    browser.open(&format!("{}/#/models/tiny", machine.hive.url)).await;
    browser.click("aside", "Load").await;
    browser.shows("dialog .estimate", "cuda:0").await;
    browser.shows("dialog .verdict", "Fits").await;
    browser
        .until("the GPUs among the devices", "document.querySelectorAll('#load-device option').length === 4")
        .await;
    choose(&browser, "#load-device", "1").await;
    browser.shows("dialog .verdict", "Does not fit").await;
    browser.shows("dialog .estimate", &format!("pid {}", std::process::id())).await;
    browser
        .until("the button to be disabled", "document.querySelector('dialog [type=submit]').disabled")
        .await;
    capture(&browser, "models-load-over").await;
    browser.keys("\u{E00C}").await;

    // The other GPU has room.
    machine.load().await;
    browser.open(&format!("{}/#/workers", machine.hive.url)).await;
    browser.shows(".worker", "700 MiB").await;
    capture(&browser, "workers-gpus").await;

    // Another worker: the GPU is a choice only for an engine that uses GPUs.
    browser.click("main .page-head", "Start a worker").await;
    choose(&browser, "#spawn-engine", "builtin").await;
    browser.until("no choice of a GPU", "!document.querySelector('#spawn-device')").await;
    choose(&browser, "#spawn-engine", "stand-in").await;
    choose(&browser, "#spawn-device", "cuda:0").await;
    capture(&browser, "workers-spawn-gpus").await;
    browser.click("dialog", "Start").await;
    browser
        .until("both to be ready", "[...document.querySelectorAll('.worker')].filter((e) => e.innerText.includes('ready') && e.innerText.includes('cuda:0')).length === 2")
        .await;
    check_console(&browser).await;
    drop(browser);
    machine.hive.stop().await;
}
