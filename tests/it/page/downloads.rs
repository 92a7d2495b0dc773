//! Downloads in the page: the plan, a running transfer, pause, resume, discard, an ambiguous name, and a
//! hive that is killed during a transfer.

use serde_json::json;

use super::{capture, check_console, has_toast, record_toasts};
use rbee_hive::engine::sample_model::SampleModel;

use crate::support::hub::FakeHub;
use crate::support::{Browser, Daemon, FaultServer, PATIENCE, Relay, Served, TestHive, folder, until};

/// Bytes of a chunk: small, so that a paused download of a small model has complete chunks.
const CHUNK: u32 = 16 << 10;

/// A complete model of several MiB, as bytes.
fn model() -> Vec<u8> {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let file = dir.path().join("slow.gguf");
    let model = SampleModel { name: "slow".to_owned(), layers: 8, ..SampleModel::default() };
    model.write(&file).expect("a small model can be written");
    std::fs::read(file).expect("a model")
}

/// Serves a model so slowly that the transfer does not end while a busy machine looks at it. An eighth
/// of it comes at once, so that there is progress to show.
fn slow(model: &[u8]) -> Served {
    Served { burst: model.len() as u64 / 8, pace: 8 << 10, ..Served::correct(model.to_vec()) }
}

/// Shows the plan of a source.
async fn plan(browser: &Browser, source: &str) {
    browser.click(".page-head", "Download a model").await;
    browser.fill("#dl-source", source).await;
    browser.click("dialog", "Show the plan").await;
    browser.shows("dialog .plan", "To transfer").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_transfer_is_planned_watched_paused_resumed_and_discarded() {
    let Some(browser) = Browser::start().await else { return };
    let hive = TestHive::start_with(|config| {
        config.downloads.chunk_bytes = CHUNK;
        config.downloads.connections = 2;
        config.timers.cancel_grace = PATIENCE.into();
    })
    .await;
    let server = FaultServer::start().await;
    let bytes = model();
    let url = server.serve("slow.gguf", slow(&bytes));
    browser.open(&format!("{}/#/models", hive.url)).await;

    // The plan: which files, how many bytes, and the free space.
    plan(&browser, &url).await;
    browser.shows("dialog .plan .files", "slow.gguf").await;
    browser.shows("dialog .plan", "after the download").await;
    assert_eq!(hive.succeed(&json!({"ModelList": {}})).await, json!([]), "a plan changes nothing");
    capture(&browser, "download-plan").await;

    // The running transfer, in the same dialog.
    browser
        .until(
            "the button with the size",
            "document.querySelector('dialog button[type=submit]').innerText.startsWith('Download ')",
        )
        .await;
    browser
        .until("a click on it", "(document.querySelector('dialog button[type=submit]').click(), true)")
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
    capture(&browser, "download-running").await;

    // Paused: the dialog, the list, and the list after a reload show the bytes that are kept.
    browser.click("dialog", "Pause").await;
    browser.shows("dialog .transfer", "resuming continues from there").await;
    browser.shows("dialog .transfer", "Paused").await;
    capture(&browser, "download-paused").await;
    browser.click("dialog", "Close").await;
    browser.reload().await;
    browser.shows(".downloads", "Paused").await;
    browser.shows("main", "No models yet").await;

    // Resumed from the list, paused again, and discarded.
    let sent = server.sent();
    browser.click(".downloads", "Resume").await;
    browser.shows(".downloads", "Downloading").await;
    until("bytes of the resumed transfer", async || (server.sent() > sent).then_some(())).await;
    capture(&browser, "models-downloading").await;
    browser.click(".downloads", "Pause").await;
    browser.click(".downloads", "Discard").await;
    browser.shows("dialog", "starts from the beginning").await;
    capture(&browser, "download-discard").await;
    browser.click("dialog", "Discard").await;
    browser.until("the downloads to be gone", "!document.querySelector('.downloads')").await;
    let left: Vec<_> = std::fs::read_dir(hive.dir().join("data/models"))
        .expect("the store")
        .map(|entry| entry.expect("an entry").path())
        .filter(|path| path.is_file())
        .collect();
    assert!(left.is_empty(), "nothing is left of it: {left:?}");

    // The complete download, from a server that is fast now; then the next step.
    server.serve("slow.gguf", Served::correct(bytes));
    plan(&browser, &url).await;
    browser
        .until("the download", "(document.querySelector('dialog button[type=submit]').click(), true)")
        .await;
    browser.shows("dialog", "Download complete").await;
    capture(&browser, "download-done").await;
    browser.click("dialog", "Load it").await;
    browser.shows("dialog", "Load slow").await;
    check_console(&browser).await;
    drop(browser);
    hive.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_ambiguous_name_offers_the_models_it_matches() {
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
    browser.click(".page-head", "Download a model").await;
    for source in ["org/repo:Q4_K_M", "ollama:name:tag", "https://host/model.gguf", "file:/path/model.gguf"] {
        browser.fill("#dl-source", "").await;
        browser.shows("dialog .sources", source).await;
    }
    browser.fill("#dl-source", "org/several").await;
    browser.shows("dialog .help", "Hugging Face").await;
    browser.click("dialog", "Show the plan").await;
    browser.shows("dialog .choices", "Which one?").await;
    browser.shows("dialog .choices .recommended", "Q4_K_M").await;
    capture(&browser, "download-choices").await;
    browser.until("the choice", "(document.querySelector('.choices .recommended').click(), true)").await;
    browser.shows("dialog .plan .files", "m-Q4_K_M.gguf").await;
    assert_eq!(browser.eval("document.querySelector('#dl-source').value").await, json!("org/several:Q4_K_M"));
    browser
        .until("the download", "(document.querySelector('dialog button[type=submit]').click(), true)")
        .await;
    browser.shows("dialog", "Download complete").await;
    browser.click("dialog", "Close").await;
    browser.shows("table tbody", "org/several:Q4_K_M").await;
    check_console(&browser).await;
    drop(browser);
    hive.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_download_can_be_resumed_after_the_hive_was_killed() {
    let Some(browser) = Browser::start().await else { return };
    let dir = folder();
    let settings = dir.path().join("hive.toml");
    std::fs::write(&settings, format!("[downloads]\nchunk_bytes = {CHUNK}\nconnections = 2\n"))
        .expect("a file");
    let settings = settings.to_str().expect("a path of text");
    let server = FaultServer::start().await;
    let bytes = model();
    let url = server.serve("slow.gguf", slow(&bytes));
    let daemon = Daemon::start(dir.path(), &["--config", settings]).await;
    // The page keeps its address, while each daemon listens on a free port.
    let relay = Relay::to(&daemon.url).await;
    record_toasts(&browser).await;
    browser.open(&format!("{}/#/models", relay.url)).await;
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
    browser.shows(".downloads", "Unknown").await;
    capture(&browser, "download-connection-lost").await;

    let daemon = Daemon::start(dir.path(), &["--config", settings]).await;
    relay.lead_to(&daemon.url);
    has_toast(&browser, "The hive was restarted").await;
    browser.shows(".downloads", "Interrupted").await;
    browser.shows(".downloads", "resuming continues from there").await;
    capture(&browser, "download-interrupted").await;
    server.serve("slow.gguf", Served::correct(bytes.clone()));
    browser.click(".downloads", "Resume").await;
    browser.shows("table tbody", "slow").await;
    browser.until("the download to leave the list", "!document.querySelector('.downloads')").await;
    let jobs = daemon.json("/v1/jobs?operation=model_download&state=succeeded&limit=1").await;
    let stream = jobs["jobs"][0]["sse_url"].as_str().expect("a stream");
    let narration = daemon.get(stream).await.text().await.expect("its narration");
    assert!(narration.contains("Resuming slow.gguf"), "it began anew:\n{narration}");
    check_console_except_network(&browser).await;
    daemon.stop().await;
}

/// Fails for messages on the page's console, except those of the browser about broken connections.
async fn check_console_except_network(browser: &Browser) {
    let mut problems = browser.console_problems().await;
    problems.retain(|text| !text.contains("net::ERR_"));
    assert_eq!(problems, Vec::<String>::new());
}
