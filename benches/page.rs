//! Measures the page in a real browser: the time from the response to the first and to the largest
//! contentful paint, the layout shift while a page loads, and the frames while a job of ten thousand
//! narrations scrolls.
//!
//! `cargo bench --bench page`; needs chromium and chromedriver. A name after `--`, such as `models`,
//! measures only that page and does not scroll. The browser draws without a GPU and on the same processor
//! as the hive, so each load alternates with a page of one sentence, which shows the browser's own share.

#![expect(clippy::disallowed_methods, reason = "a bench reads the files that it names")]
#![expect(clippy::print_stdout, reason = "a benchmark prints its results")]

#[expect(dead_code, reason = "this benchmark compares no builds")]
mod paired;
#[expect(dead_code, unused_imports, reason = "the benchmark uses only a part of the tests' support")]
#[path = "../tests/it/support/mod.rs"]
mod support;

use futures::FutureExt;
use paired::Spread;
use rbee_hive::config::Faults;
use rbee_hive::n;
use serde_json::{Value, json};
use support::{Browser, TestHive, write_model};

/// Serves a page of one sentence and returns its URL.
async fn bare_page() -> String {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = listener.local_addr().expect("an address");
    let page = || async { axum::response::Html("<!doctype html><title>bare</title><p>One sentence.") };
    let app = axum::Router::new().route("/", axum::routing::get(page));
    drop(rbee_hive::spawn::detached(async move {
        // The server ends with the process.
        let _ = axum::serve(listener, app).await;
    }));
    format!("http://{address}/")
}

const NARRATIONS: usize = 9_900;
/// What the browser has recorded of a load 1.5 s after it, in milliseconds.
const LOAD: &str = "const done = arguments[0]; const found = {lcp: 0, shift: 0};\
    new PerformanceObserver((list) => { for (const e of list.getEntries()) found.lcp = e.startTime; }).observe({type: 'largest-contentful-paint', buffered: true});\
    new PerformanceObserver((list) => { for (const e of list.getEntries()) found.shift += e.value; }).observe({type: 'layout-shift', buffered: true});\
    setTimeout(() => { const [page] = performance.getEntriesByType('navigation'); const [paint] = performance.getEntriesByName('first-contentful-paint');\
    done({...found, fcp: paint.startTime, response: page.responseEnd}); }, 1500);";

#[tokio::main]
async fn main() {
    let rounds = if paired::for_figures() { 5 } else { 1 };
    let Some(browser) = Browser::start().await else { return };
    let faults = Faults::new(|operation| {
        async move {
            if operation == "worker_process_list" {
                for i in 0..NARRATIONS {
                    n!("talk", "line {i} of many, {}", "and longer than it must be ".repeat(i % 7));
                }
            }
            Ok(())
        }
        .boxed()
    });
    let hive = TestHive::start_with(|config| config.faults = faults).await;
    for stem in ["one", "two", "three", "four", "five", "six"] {
        write_model(&hive.models_dir(), stem);
    }
    hive.load("one").await;
    let job = hive.submit(&json!({"WorkerProcessList": {}})).await;
    hive.stream(&job).await;

    let bare = bare_page().await;
    println!(
        "milliseconds after the response: first contentful paint, largest contentful paint; layout shift"
    );
    let job_page = format!("jobs/{job}");
    let only = std::env::args().skip(1).find(|argument| !argument.starts_with('-'));
    let is_wanted = |page: &&str| only.as_ref().is_none_or(|only| only == page);
    for page in ["", "models", "workers", "jobs", "chat", &job_page].into_iter().filter(is_wanted) {
        for is_cold in [true, false] {
            let (mut loads, mut bares) = (Vec::new(), Vec::new());
            for _ in 0..rounds {
                for (url, into) in [(&format!("{}/#/{page}", hive.url), &mut loads), (&bare, &mut bares)] {
                    if is_cold {
                        browser.cdp("Network.clearBrowserCache", &json!({})).await;
                    }
                    browser.open("about:blank").await;
                    browser.open(url).await;
                    into.push(browser.run_async(LOAD).await);
                }
            }
            let spread = |loads: &[Value], name: &str, from: &str| {
                let number = |load: &Value, name: &str| load[name].as_f64().expect("a number");
                Spread::of(loads.iter().map(|load| number(load, name) - load[from].as_f64().unwrap_or(0.0)))
            };
            let name = if page == job_page { "jobs/…" } else { page };
            let cache = if is_cold { "nothing cached" } else { "revalidated" };
            println!("#/{name}, {cache}: fcp {}", spread(&loads, "fcp", "response"));
            println!("  a bare page beside it: fcp {}", spread(&bares, "fcp", "response"));
            println!("#/{name}, {cache}: lcp {}", spread(&loads, "lcp", "response"));
            println!("#/{name}, {cache}: shift {}", spread(&loads, "shift", ""));
        }
    }

    if only.is_none() {
        scroll(&browser, &format!("{}/#/{job_page}", hive.url), rounds).await;
    }
    drop(browser);
    hive.stop().await;
}

/// Measures the frames while the page of the long job scrolls.
async fn scroll(browser: &Browser, url: &str, rounds: usize) {
    browser.open(url).await;
    browser.shows(".timeline", "line 0 of many").await;
    println!("milliseconds between frames while {NARRATIONS} narrations scroll by, one step for each frame");
    for _ in 0..rounds {
        let scrolled = browser.scroll(".timeline").await;
        let frames = scrolled["frames"].as_array().expect("frames");
        let frames = Spread::of(frames.iter().map(|ms| ms.as_f64().expect("a number")));
        println!("frames {frames}, 95 % under {:.1}; at most {} rows", frames.at(0.95), scrolled["most"]);
    }
}
