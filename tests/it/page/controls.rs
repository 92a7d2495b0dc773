//! Controls of the page that the other tests do not use.

use std::sync::Arc;

use futures::FutureExt;
use rbee_hive::config::Faults;
use serde_json::{Value, json};
use tokio::sync::Semaphore;

use super::{capture, check_console, has_toast, record_toasts};
use crate::contract::{has_tools, shell};
use crate::support::{Browser, TestHive, unknown_model, write_bert, write_foreign_model, write_model};

/// Selects an option of a list.
pub(super) async fn choose(browser: &Browser, selector: &str, value: &str) {
    let (selector, value) = (json!(selector), json!(value));
    let there =
        format!("[...(document.querySelector({selector})?.options ?? [])].some((o) => o.value === {value})");
    browser.until("the choice", &there).await;
    // The page draws what has changed in the next frame.
    let script = format!(
        "const done = arguments[0]; const list = document.querySelector({selector}); list.value = {value};\
         list.dispatchEvent(new Event('change')); requestAnimationFrame(() => requestAnimationFrame(done));"
    );
    browser.run_async(&script).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_is_started_with_options_and_stopped_and_its_log_searched() {
    let Some(browser) = Browser::start().await else { return };
    let hive = TestHive::start().await;
    for stem in ["one", "two"] {
        write_model(&hive.models_dir(), stem);
    }
    record_toasts(&browser).await;
    browser.open(&format!("{}/#/workers", hive.url)).await;
    browser.click("main .page-head", "Start a worker").await;
    choose(&browser, "#spawn-model", "two").await;
    choose(&browser, "#spawn-engine", "builtin").await;
    browser.fill("#spawn-context", "256").await;
    browser.fill("#spawn-slots", "3").await;
    capture(&browser, "workers-spawn").await;
    browser.click("dialog", "Start").await;
    browser.shows(".worker", "ready").await;
    let workers = hive.succeed(&json!({ "WorkerProcessList": {} })).await;
    assert_eq!((&workers[0]["model"], &workers[0]["slots"]), (&json!("two"), &json!(3)), "{workers}");

    browser.click(".worker", "Log").await;
    browser.shows("virtual-list", "listening").await;
    browser.fill("[aria-label='Search the log']", "listening").await;
    browser.until("one line", "document.querySelectorAll('.log-line').length === 1").await;
    choose(&browser, "[aria-label='Level']", "error").await;
    browser.until("no line", "document.querySelectorAll('.log-line').length === 0").await;
    choose(&browser, "[aria-label='Level']", "all").await;
    browser.shows("virtual-list", "listening").await;
    browser.click(".worker", "Stop").await;
    browser.until("the worker to go", "!document.querySelector('.worker')").await;
    has_toast(&browser, "Stop worker").await;
    check_console(&browser).await;
    drop(browser);
    hive.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_is_cancelled_run_again_and_copied_as_a_command_that_works() {
    let Some(browser) = Browser::start().await else { return };
    let gate = Arc::new(Semaphore::new(0));
    let opened = Arc::clone(&gate);
    let faults = Faults::new(move |name| {
        let gate = Arc::clone(&opened);
        async move {
            if name == "model_unload" {
                gate.acquire().await.expect("the gate stays").forget();
            }
            Ok(())
        }
        .boxed()
    });
    let hive = TestHive::start_with(|config| config.faults = faults).await;
    let first = hive.submit(&json!({ "ModelUnload": { "id": "nothing" } })).await;
    record_toasts(&browser).await;
    browser.open(&format!("{}/#/jobs/{first}", hive.url)).await;
    browser.click("main .page-head", "Cancel").await;
    browser.shows("main .page-head", "Cancelled").await;
    gate.add_permits(1);
    browser.click("main .page-head", "Run again").await;
    browser.shows("main", "What to do").await;
    let again = browser.eval("location.hash").await;
    assert_ne!(again, json!(format!("#/jobs/{first}")));

    // Characters that a shell would interpret.
    let download = json!({ "ModelDownload": { "model": "file:/nowhere/it's $HOME `here`.gguf" } });
    let first = hive.submit(&download).await;
    browser.open(&format!("{}/#/jobs/{first}", hive.url)).await;
    browser.click("main .page-head", "Copy as curl").await;
    has_toast(&browser, "Copied").await;
    let is_open = "const done = arguments[0]; const details = document.querySelector('details'); details.open = true;\
        document.querySelector('hive-job').update(); requestAnimationFrame(() => requestAnimationFrame(() => done(details.open)));";
    assert_eq!(
        browser.run_async(is_open).await,
        json!(true),
        "a section stays open when the page is redrawn"
    );
    let command = browser.eval("[...document.querySelectorAll('.code pre')].map((e) => e.innerText).find((text) => text.startsWith('curl'))").await;
    let command = command.as_str().expect("a command");

    if has_tools().await {
        let answer: Value = serde_json::from_str(&shell(&hive, command).await).expect("JSON");
        let job = hive.job(answer["job_id"].as_str().expect("a job's id")).await;
        assert_eq!(job["request"], hive.job(&first).await["request"], "{command}");
    }
    check_console(&browser).await;
    drop(browser);
    hive.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_model_that_no_engine_runs_does_not_fit() {
    let Some(browser) = Browser::start().await else { return };
    let hive = TestHive::start().await;
    write_foreign_model(&hive.models_dir(), "other");
    browser.open(&format!("{}/#/models/other", hive.url)).await;
    browser.click("aside", "Load").await;
    browser.shows("dialog .verdict.bad", "Engine 'builtin' cannot run it").await;
    browser.shows("dialog .verdict", "gemma").await;
    let text = browser.eval("document.querySelector('dialog').innerText").await;
    assert!(!text.as_str().expect("text").contains("Fits"), "{text}");
    let is_blocked = "document.querySelector('dialog [type=submit]').disabled";
    assert_eq!(browser.eval(is_blocked).await, json!(true));
    capture(&browser, "models-load-obstacle").await;
    check_console(&browser).await;
    drop(browser);
    hive.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_model_of_an_unknown_type_can_be_loaded_and_a_broken_one_says_why_not() {
    let Some(browser) = Browser::start().await else { return };
    let hive = TestHive::start().await;
    let path = |stem: &str| hive.models_dir().join(format!("{stem}.gguf"));
    std::fs::write(path("new"), unknown_model()).expect("a file");
    browser.open(&format!("{}/#/", hive.url)).await;
    browser.shows("main", "This hive does not know its type").await;
    browser.shows("main .steps", "Load new").await;
    let sound = std::fs::read(write_model(&hive.models_dir(), "sound")).expect("a model");
    std::fs::write(path("cut"), &sound[..sound.len() / 2]).expect("a file");
    std::fs::write(path("words"), "no model at all").expect("a file");
    hive.succeed(&json!({ "ModelList": {} })).await;

    browser.open(&format!("{}/#/models", hive.url)).await;
    browser.shows("table tbody", "unknown").await;
    let buttons = "[...document.querySelectorAll('table tbody tr')].map((row) => row.querySelector('button')?.innerText ?? '').join()";
    browser.until("what can be done with each", &format!("{buttons} === ',Load,Load,Delete'")).await;
    browser.click("table tbody", "Load new").await;
    browser.shows("dialog .verdict.bad", "This hive does not know its type").await;
    browser.shows("dialog .verdict.bad", "144").await;
    capture(&browser, "models-load-unknown").await;
    browser.click("dialog", "Close").await;
    for (id, detail) in [("new", "144"), ("cut", "ends"), ("words", "magic")] {
        browser.run(&format!("location.hash = '#/models/{id}'")).await;
        browser.shows("aside", detail).await;
    }
    for (page, list) in [("chat", "[aria-label='Model']"), ("workers", "#spawn-model")] {
        browser.run(&format!("location.hash = '#/{page}'")).await;
        if page == "workers" {
            browser.click("main .page-head", "Start a worker").await;
        }
        let choices =
            format!("[...document.querySelector(\"{list}\").options].map((choice) => choice.value)");
        browser.until("both models", &format!("{choices}.join() === 'sound,new'")).await;
        browser.shows(list, "of an unknown type").await;
    }
    check_console(&browser).await;
    drop(browser);
    hive.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_model_can_do_is_shown_and_only_those_that_chat_are_offered_for_it() {
    let Some(browser) = Browser::start().await else { return };
    let hive = TestHive::start().await;
    write_model(&hive.models_dir(), "talks");
    write_bert(&hive.models_dir(), "embeds", Some(1), false);
    browser.open(&format!("{}/#/models", hive.url)).await;
    browser.shows("table tbody", "Embeddings").await;
    let rows = "[...document.querySelectorAll('table tbody tr')].map((row) => \
                [...row.querySelectorAll('.row-actions a, .row-actions button')].map((one) => one.innerText).join('+'))";
    browser.until("a chat with one of them", &format!("{rows}.join() === 'Load,Chat+Load'")).await;
    capture(&browser, "models-capabilities").await;
    browser.run("location.hash = '#/models/talks'").await;
    browser.shows("aside .abilities", "JSON").await;
    browser.shows("aside", "builtin").await;
    browser.run("location.hash = '#/models/embeds'").await;
    browser.shows("aside", "none that is installed runs it").await;
    browser.run("location.hash = '#/chat'").await;
    let choices =
        "[...document.querySelector(\"[aria-label='Model']\").options].map((choice) => choice.value)";
    browser.until("the model that chats", &format!("{choices}.join() === 'talks'")).await;
    check_console(&browser).await;
    drop(browser);
    hive.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn running_a_deletion_again_asks_first() {
    let Some(browser) = Browser::start().await else { return };
    let hive = TestHive::start().await;
    write_model(&hive.models_dir(), "tiny");
    let deletion = json!({ "ModelDelete": { "id": "tiny", "force": true } });
    let job = hive.submit(&deletion).await;
    hive.stream(&job).await;
    let file = write_model(&hive.models_dir(), "tiny");
    browser.open(&format!("{}/#/jobs/{job}", hive.url)).await;
    browser.shows("#connection", "Live").await;
    browser.click("main .page-head", "Run again").await;
    browser.shows("dialog", "Delete tiny?").await;
    browser.click("dialog", "Keep it").await;
    assert!(file.exists(), "nothing was deleted");
    let jobs: Value = hive.get("/v1/jobs?operation=model_delete").await.json().await.expect("JSON");
    assert_eq!(jobs["jobs"].as_array().map(Vec::len), Some(1), "{jobs}");
    check_console(&browser).await;
    drop(browser);
    hive.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_filter_of_jobs_finds_old_ones_and_a_change_redraws_one_row() {
    let Some(browser) = Browser::start().await else { return };
    let hive = TestHive::start().await;
    let elsewhere = hive.dir().join("elsewhere");
    std::fs::create_dir(&elsewhere).expect("a folder");
    let file = write_model(&elsewhere, "old");
    hive.succeed(&json!({ "ModelDownload": { "model": format!("file:{}", file.display()) } })).await;
    // More failures than a page of the list.
    for _ in 0..110 {
        let job = hive.submit(&json!({ "ModelUnload": { "id": "nothing" } })).await;
        hive.stream(&job).await;
    }
    browser.open(&format!("{}/#/jobs", hive.url)).await;
    browser.shows(".job-list", "Unload nothing").await;
    let rows = "document.querySelectorAll('.job-list li').length";
    browser.until("a page of rows", &format!("{rows} === 100")).await;
    choose(&browser, "[aria-label='State']", "succeeded").await;
    browser.shows(".job-list", "Download old.gguf").await;
    choose(&browser, "[aria-label='State']", "cancelled").await;
    browser.shows("main", "Nothing matches").await;
    browser.click("main", "Clear the filter").await;
    browser.until("the rows again", &format!("{rows} >= 100")).await;
    browser.fill("[aria-label='Filter jobs']", "no such job").await;
    browser.shows("main", "older ones may").await;
    browser.click("main", "Clear the filter").await;
    browser.until("the rows again", &format!("{rows} >= 100")).await;
    // It is there again once the page has the hive's answer, with which it draws the list.
    browser.shows("main", "Older jobs").await;

    let count = "const make = document.createElement.bind(document); window.made = 0;\
        document.createElement = (tag) => { if (tag === 'li') window.made += 1; return make(tag); };";
    browser.run(count).await;
    let last = hive.submit(&json!({ "ModelUnload": { "id": "last" } })).await;
    hive.stream(&last).await;
    browser.shows(".job-list li:first-child", "Failed").await;
    let made = browser.eval("window.made").await.as_u64().expect("a number");
    assert!(made < 10, "{made} rows were made for one that changed");
    check_console(&browser).await;
    drop(browser);
    hive.stop().await;
}

/// Answers the stream of a job with one that has lost its oldest reports of progress.
const ELIDED: &str = "const fetched = window.fetch; window.fetch = async (path, options) => {\
        const response = await fetched(path, options);\
        if (!/[/]stream[?]/.test(path)) return response;\
        const text = await response.text();\
        const cut = text.indexOf('\\n\\n') + 2;\
        const elision = 'event: elision\\ndata: {\"from\":2,\"to\":9000,\"count\":8999}\\n\\n';\
        return new Response(text.slice(0, cut) + elision + text.slice(cut), {status: response.status});\
    };";

#[tokio::test(flavor = "multi_thread")]
async fn a_job_that_has_lost_reports_of_progress_keeps_its_times() {
    let Some(browser) = Browser::start().await else { return };
    let hive = TestHive::start().await;
    write_model(&hive.models_dir(), "tiny");
    hive.load("tiny").await;
    let jobs: Value = hive.get("/v1/jobs?operation=model_load").await.json().await.expect("JSON");
    let job = jobs["jobs"][0]["job_id"].as_str().expect("an id");
    browser.cdp("Page.addScriptToEvaluateOnNewDocument", &json!({ "source": ELIDED })).await;
    browser.open(&format!("{}/#/jobs/{job}", hive.url)).await;
    browser.shows(".timeline", "8,999 earlier progress reports are no longer kept").await;
    browser.shows("main", "Where the time went").await;
    let text = browser.eval("document.querySelector('main').innerText").await;
    assert!(!text.as_str().expect("text").contains("NaN"), "{text}");
    let widths = "[...document.querySelectorAll('.phase-bar')].map((bar) => bar.style.inlineSize)";
    let full = browser.eval(&format!("{widths}.filter((width) => !width || width === '100%').length")).await;
    assert_eq!(full, json!(0), "every bar has a length of its own");
    check_console(&browser).await;
    drop(browser);
    hive.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn lists_keep_their_filters_and_their_order() {
    let Some(browser) = Browser::start().await else { return };
    let hive = TestHive::start().await;
    for stem in ["alpha", "beta", "gamma"] {
        write_model(&hive.models_dir(), stem);
    }
    hive.load("beta").await;
    browser.open(&format!("{}/#/models", hive.url)).await;
    let names = "[...document.querySelectorAll('table tbody tr')].map((row) => row.innerText.trim().split(/\\s/)[0]).join()";
    browser.until("all of them", &format!("{names} === 'alpha,beta,gamma'")).await;
    browser
        .run("[...document.querySelectorAll('thead button')].find((e) => e.innerText.startsWith('Name')).click()")
        .await;
    browser.until("them the other way round", &format!("{names} === 'gamma,beta,alpha'")).await;
    browser.fill("[aria-label='Filter models']", "a q8").await;
    choose(&browser, "[aria-label='State']", "loaded").await;
    browser.until("one of them", &format!("{names} === 'beta'")).await;
    browser.reload().await;
    browser.until("the same one", &format!("{names} === 'beta'")).await;
    assert_eq!(browser.eval("document.querySelector('[aria-label=State]').value").await, json!("loaded"));
    hive.succeed(&json!({ "ModelUnload": { "id": "beta" } })).await;
    browser.click("main", "Clear the filter").await;
    browser.until("all of them, as they were sorted", &format!("{names} === 'gamma,beta,alpha'")).await;

    browser.run("location.hash = '#/jobs'").await;
    browser.fill("[aria-label='Filter jobs']", "unload").await;
    browser.until("one job", "document.querySelectorAll('.job-list li').length === 1").await;
    browser.run("location.hash = '#/'").await;
    browser.back().await;
    browser.until("one job still", "document.querySelectorAll('.job-list li').length === 1").await;
    check_console(&browser).await;
    drop(browser);
    hive.stop().await;
}
