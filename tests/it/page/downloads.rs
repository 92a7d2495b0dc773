//! Bringing a model from the page: the plan, the transfer as it goes, pause, resume, discard, a
//! choice among several, and a hive that dies in the middle of it.

use serde_json::json;

use super::{look_at, no_complaints};
use crate::support::hub::FakeHub;
use crate::support::{Browser, Daemon, FaultServer, Served, TestHive, program, until, write_model};

/// Bytes that are checksummed and kept together: small, so that a part of a small model is kept.
const CHUNK: u32 = 16 << 10;
/// Bytes a second and connection of a transfer that there is time to look at, on a busy machine too.
const SLOW: u64 = 8 << 10;

/// A model that really loads, as bytes.
fn model() -> Vec<u8> {
    let dir = tempfile::tempdir().expect("a temporary folder");
    std::fs::read(write_model(dir.path(), "slow")).expect("a model")
}

/// Asks for the plan of a source, which must come.
async fn plan(browser: &Browser, source: &str) {
    browser.press(".page-head", "Download a model").await;
    browser.fill("#dl-source", source).await;
    browser.press("dialog", "Show the plan").await;
    browser.shows("dialog .plan", "To transfer").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_transfer_is_planned_watched_paused_resumed_and_discarded() {
    let Some(browser) = Browser::start().await else { return };
    let hive = TestHive::start_with(|config| {
        config.downloads.chunk_bytes = CHUNK;
        config.downloads.connections = 2;
    })
    .await;
    let server = FaultServer::start().await;
    let bytes = model();
    let url = server.serve("slow.gguf", Served { pace: SLOW, ..Served::well(bytes.clone()) });
    browser.open(&format!("{}/#/models", hive.url)).await;

    // The plan, before anything is fetched: what, how much, and the room for it.
    plan(&browser, &url).await;
    browser.shows("dialog .plan .files", "slow.gguf").await;
    browser.shows("dialog .plan", "after it").await;
    assert_eq!(hive.succeed(&json!({"ModelList": {}})).await, json!([]), "a plan changes nothing");
    look_at(&browser, "download-plan").await;

    // The transfer, in the dialog that it was started from.
    browser
        .until(
            "the button that says how much",
            "document.querySelector('dialog button[type=submit]').innerText.startsWith('Download ')",
        )
        .await;
    browser
        .until("it to be pressed", "(document.querySelector('dialog button[type=submit]').click(), true)")
        .await;
    browser.shows("dialog .transfer", "Downloading").await;
    browser.shows("dialog .transfer", "/s").await;
    browser
        .until(
            "both connections",
            "/Connections\\s*2/.test(document.querySelector('dialog .transfer').innerText)",
        )
        .await;
    browser
        .until("its progress", "Number(document.querySelector('dialog [role=progressbar]').ariaValueNow) > 3")
        .await;
    look_at(&browser, "download-running").await;

    // Paused: what came is kept and said, here, in the list, and after a reload.
    browser.press("dialog", "Pause").await;
    browser.shows("dialog .transfer", "resuming goes on from there").await;
    browser.shows("dialog .transfer", "Paused").await;
    look_at(&browser, "download-paused").await;
    browser.press("dialog", "Close").await;
    browser.reload().await;
    browser.shows(".downloads", "Paused").await;
    browser.shows("main", "No models yet").await;

    // Resumed from the list, paused again, and thrown away.
    let sent = server.sent();
    browser.press(".downloads", "Resume").await;
    browser.shows(".downloads", "Downloading").await;
    until("bytes of the resumed transfer", async || (server.sent() > sent).then_some(())).await;
    look_at(&browser, "models-downloading").await;
    browser.press(".downloads", "Pause").await;
    browser.press(".downloads", "Discard").await;
    browser.shows("dialog", "begins from nothing").await;
    look_at(&browser, "download-discard").await;
    browser.press("dialog", "Discard").await;
    browser.until("the downloads to be gone", "!document.querySelector('.downloads')").await;
    let left: Vec<_> = std::fs::read_dir(hive.dir().join("data/models"))
        .expect("the store")
        .map(|entry| entry.expect("an entry").path())
        .filter(|path| path.is_file())
        .collect();
    assert!(left.is_empty(), "nothing is left of it: {left:?}");

    // The whole of it, from a server that is quick by now; what to do next is one press away.
    server.serve("slow.gguf", Served::well(bytes));
    plan(&browser, &url).await;
    browser
        .until("the download", "(document.querySelector('dialog button[type=submit]').click(), true)")
        .await;
    browser.shows("dialog", "It is here").await;
    look_at(&browser, "download-done").await;
    browser.press("dialog", "Load it").await;
    browser.shows("dialog", "Load slow").await;
    no_complaints(&browser).await;
    drop(browser);
    hive.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_name_that_fits_several_offers_them() {
    let Some(browser) = Browser::start().await else { return };
    let hub = FakeHub::start().await;
    let bytes = model();
    let files = [("m-Q2_K.gguf", &*bytes), ("m-Q4_K_M.gguf", &*bytes), ("m-Q8_0.gguf", &*bytes)];
    hub.commit("org/several", "main", &files);
    let endpoint = hub.url.clone();
    let hive = TestHive::start_with(|config| {
        config.hub.endpoint = Some(endpoint);
        config.hub_cache = Some(config.data_dir.with_file_name("cache"));
    })
    .await;
    browser.open(&format!("{}/#/models", hive.url)).await;
    browser.press(".page-head", "Download a model").await;
    for source in ["org/repo:Q4_K_M", "ollama:name:tag", "https://host/model.gguf", "file:/path/model.gguf"] {
        browser.fill("#dl-source", "").await;
        browser.shows("dialog .sources", source).await;
    }
    browser.fill("#dl-source", "org/several").await;
    browser.shows("dialog .help", "Hugging Face").await;
    browser.press("dialog", "Show the plan").await;
    browser.shows("dialog .choices", "Which one?").await;
    browser.shows("dialog .choices .recommended", "Q4_K_M").await;
    look_at(&browser, "download-choices").await;
    browser.until("the choice", "(document.querySelector('.choices .recommended').click(), true)").await;
    browser.shows("dialog .plan .files", "m-Q4_K_M.gguf").await;
    assert_eq!(browser.eval("document.querySelector('#dl-source').value").await, json!("org/several:Q4_K_M"));
    browser
        .until("the download", "(document.querySelector('dialog button[type=submit]').click(), true)")
        .await;
    browser.shows("dialog", "It is here").await;
    browser.press("dialog", "Close").await;
    browser.shows("table tbody", "org/several:Q4_K_M").await;
    no_complaints(&browser).await;
    drop(browser);
    hive.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hive_that_is_killed_in_the_middle_of_a_download_goes_on_with_it() {
    let Some(browser) = Browser::start().await else { return };
    let dir = tempfile::tempdir().expect("a temporary folder");
    std::fs::create_dir(dir.path().join("models")).expect("a folder");
    let settings = dir.path().join("hive.toml");
    std::fs::write(&settings, format!("[downloads]\nchunk_bytes = {CHUNK}\nconnections = 2\n"))
        .expect("a file");
    let settings = settings.to_str().expect("a path of text");
    let server = FaultServer::start().await;
    let bytes = model();
    let url = server.serve("slow.gguf", Served { pace: SLOW, ..Served::well(bytes.clone()) });
    let daemon = Daemon::start(dir.path(), &["--config", settings]).await;
    let address = daemon.url.clone();
    let port = address.rsplit(':').next().expect("a port");
    browser.open(&format!("{address}/#/models")).await;
    browser.shows("#connection", "Live").await;
    daemon.submit(&json!({"ModelDownload": {"model": url}})).await;
    browser
        .until(
            "its progress",
            "Number(document.querySelector('.downloads [role=progressbar]').ariaValueNow) > 5",
        )
        .await;

    daemon.kill().await;
    browser.shows("#banner", "The hive does not answer").await;
    browser.shows(".downloads", "Not heard of").await;
    look_at(&browser, "download-connection-lost").await;

    let mut again = program();
    again.args(["serve", "--config", settings, "--port", port, "--data-dir"]).arg(dir.path().join("data"));
    again.arg("--models-dir").arg(dir.path().join("models"));
    let daemon = Daemon::run(again).await;
    browser.shows("#toasts", "The hive was restarted").await;
    browser.shows(".downloads", "Interrupted").await;
    browser.shows(".downloads", "resuming goes on from there").await;
    look_at(&browser, "download-interrupted").await;
    server.serve("slow.gguf", Served::well(bytes.clone()));
    browser.press(".downloads", "Resume").await;
    browser.shows("table tbody", "slow").await;
    browser.until("the download to leave the list", "!document.querySelector('.downloads')").await;
    let jobs = daemon.json("/v1/jobs?operation=model_download&state=succeeded&limit=1").await;
    let stream = jobs["jobs"][0]["sse_url"].as_str().expect("a stream");
    let told = daemon.get(stream).await.text().await.expect("its narration");
    assert!(told.contains("Going on with slow.gguf"), "it began anew:\n{told}");
    no_other_complaints(&browser).await;
    daemon.stop().await;
}

/// What the browser itself says of a connection that was refused is no defect of the page.
async fn no_other_complaints(browser: &Browser) {
    let of_the_page = |text: &String| !text.contains("net::ERR_");
    let said: Vec<_> = browser.complaints().await.into_iter().filter(of_the_page).collect();
    assert_eq!(said, Vec::<String>::new());
}
