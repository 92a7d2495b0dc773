//! The metrics of a hive that has done something, as Prometheus gets them, and what is written about them.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use rbee_hive::config::KeepAlive;
use reqwest::header::{ACCEPT, CONTENT_TYPE};
use serde_json::{Value, json};

use crate::support::{Daemon, TestHive, document, folder, read_until, serve, soon, until, write_model};

/// What `GET /metrics` answers.
struct Scrape(String);

impl Scrape {
    async fn of(url: &str) -> Self {
        let answer = soon("a scrape", reqwest::get(format!("{url}/metrics"))).await.expect("an answer");
        assert_eq!(answer.status(), 200);
        let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
        assert_eq!(answer.headers()[CONTENT_TYPE], kind);
        let text = answer.text().await.expect("text");
        assert!(text.ends_with("\n# EOF\n"), "{text}");
        Self(text)
    }

    /// The value of a sample, named as in the scrape.
    fn value(&self, sample: &str) -> f64 {
        let value = self.0.lines().find_map(|line| line.strip_prefix(sample)?.strip_prefix(' '));
        value.and_then(|value| value.parse().ok()).unwrap_or_else(|| panic!("no {sample} in\n{}", self.0))
    }

    /// The metrics that it describes and the samples that each may have, with the types.
    fn described(&self) -> BTreeMap<String, &str> {
        let types = self.0.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split_once(' '));
        types
            .map(|(name, kind)| match kind {
                "counter" => (format!("{name}_total"), kind),
                "info" => (format!("{name}_info"), kind),
                _ => (name.to_owned(), kind),
            })
            .collect()
    }
}

/// Every name of a metric in a text.
fn names_in(text: &str) -> BTreeSet<&str> {
    let begin = text.match_indices("rbee_hive_").map(|(at, _)| &text[at..]);
    begin
        .map(|rest| rest.split(|c: char| !c.is_ascii_alphanumeric() && c != '_').next().unwrap_or(rest))
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_hive_does_is_counted_and_every_name_that_is_written_down_is_there() {
    let dir = folder();
    write_model(&dir.path().join("models"), "tiny");
    let hive = Daemon::run(serve(dir.path(), &[])).await;
    hive.succeed(&json!({ "ModelLoad": { "id": "tiny" } })).await;
    hive.fail(&json!({ "ModelGet": { "id": "none" } })).await;
    let chat = json!({ "model": "tiny", "messages": [{ "role": "user", "content": "Hi" }] });
    let answer = hive.try_post("/v1/chat/completions", &chat).await.expect("an answer");
    let usage = answer.json::<Value>().await.expect("JSON")["usage"].clone();

    let scrape = until("the end of the answer", async || {
        let scrape = Scrape::of(&hive.url).await;
        (scrape.value("rbee_hive_workers{status=\"ready\"}") == 1.0).then_some(scrape)
    })
    .await;
    let usage = |name: &str| usage[name].as_f64().expect("a number");
    for (sample, value) in [
        ("jobs_total{operation=\"model_load\",outcome=\"succeeded\"}", 1.0),
        ("jobs_total{operation=\"model_get\",outcome=\"failed\"}", 1.0),
        ("jobs_total{operation=\"hive_check\",outcome=\"succeeded\"}", 0.0),
        ("job_duration_seconds_count{operation=\"model_load\"}", 1.0),
        ("job_duration_seconds_bucket{le=\"+Inf\",operation=\"model_load\"}", 1.0),
        ("jobs_under_way{state=\"running\"}", 0.0),
        ("narrations_outside_jobs_total", 0.0),
        ("requests_total{model=\"tiny\",outcome=\"completed\"}", 1.0),
        ("requests_total{model=\"tiny\",outcome=\"failed\"}", 0.0),
        ("requests_under_way", 0.0),
        ("caller_requests_total{caller=\"127.0.0.1\",outcome=\"completed\"}", 1.0),
        ("prompt_tokens_total{model=\"tiny\"}", usage("prompt_tokens")),
        ("completion_tokens_total{model=\"tiny\"}", usage("completion_tokens")),
        ("caller_completion_tokens_total{caller=\"127.0.0.1\"}", usage("completion_tokens")),
        ("time_to_first_token_seconds_count{model=\"tiny\"}", 1.0),
        ("request_duration_seconds_count{model=\"tiny\"}", 1.0),
        ("workers{status=\"ready\"}", 1.0),
        ("workers{status=\"crashed\"}", 0.0),
        ("worker_events_total{cause=\"crash\"}", 0.0),
        ("evictions_total{reason=\"idle\"}", 0.0),
        ("downloaded_bytes_total", 0.0),
        (concat!("build_info{version=\"", env!("CARGO_PKG_VERSION"), "\"}"), 1.0),
    ] {
        assert_eq!(scrape.value(&format!("rbee_hive_{sample}")), value, "{sample} in\n{}", scrape.0);
    }
    let pid = hive.succeed(&json!({ "WorkerProcessList": {} })).await[0]["pid"].clone();
    for (sample, least, most) in [
        (format!("worker_memory_bytes{{pid=\"{pid}\",model=\"tiny\",device=\"cpu\"}}"), 1e6, 1e10),
        (format!("worker_memory_expected_bytes{{pid=\"{pid}\",model=\"tiny\",device=\"cpu\"}}"), 1e6, 1e10),
        (format!("worker_slots{{pid=\"{pid}\",model=\"tiny\"}}"), 1.0, 100.0),
        ("narrations_total{level=\"info\"}".to_owned(), 5.0, 100.0),
        ("job_duration_seconds_sum{operation=\"model_load\"}".to_owned(), 0.001, 600.0),
        ("device_memory_bytes{device=\"cpu\"}".to_owned(), 1e8, 1e15),
        ("device_memory_free_bytes{device=\"cpu\"}".to_owned(), 1.0, 1e15),
        ("disk_free_bytes".to_owned(), 1.0, 1e18),
        ("process_resident_memory_bytes".to_owned(), 1e6, 1e10),
        ("process_cpu_seconds_total".to_owned(), 0.0, 1e6),
        ("process_open_fds".to_owned(), 3.0, 1e5),
        // 2026 and a century later.
        ("process_start_time_seconds".to_owned(), 1.76e9, 5e9),
    ] {
        let value = scrape.value(&format!("rbee_hive_{sample}"));
        assert!((least..=most).contains(&value), "{sample} is {value}");
    }

    let described = scrape.described();
    let rows = document("docs/METRICS.md");
    let rows = rows.lines().filter(|line| line.starts_with("| `rbee_hive_"));
    let rows = rows.filter_map(|line| line.strip_prefix("| `")?.split_once("` | "));
    let documented: BTreeMap<_, _> =
        rows.map(|(name, rest)| (name.to_owned(), rest.split(' ').next().unwrap_or_default())).collect();
    assert_eq!(described, documented);
    let may_be_named: BTreeSet<_> = described
        .iter()
        .flat_map(|(name, kind)| match *kind {
            "histogram" => ["_bucket", "_count", "_sum"].map(|suffix| format!("{name}{suffix}")).to_vec(),
            _ => vec![name.clone()],
        })
        .collect();
    for path in ["docs/metrics/dashboard.json", "docs/metrics/alerts.yml"] {
        let text = document(path);
        let named = names_in(&text);
        assert!(named.len() > 10, "{path} names {named:?}");
        let unknown: Vec<_> = named.iter().filter(|name| !may_be_named.contains(**name)).collect();
        assert!(unknown.is_empty(), "{path} names {unknown:?}, which a scrape does not have");
    }
    hive.stop().await;
}

#[test]
fn every_panel_of_the_dashboard_asks_for_something_and_has_a_place_of_its_own() {
    let dashboard: Value = serde_json::from_str(&document("docs/metrics/dashboard.json")).expect("JSON");
    let panels = dashboard["panels"].as_array().expect("panels");
    let mut taken = BTreeSet::new();
    for panel in panels {
        let side = |name: &str| panel["gridPos"][name].as_u64().expect("a number");
        for x in side("x")..side("x") + side("w") {
            for y in side("y")..side("y") + side("h") {
                assert!(x < 24 && taken.insert((x, y)), "{} covers another panel", panel["title"]);
            }
        }
        let targets = panel["targets"].as_array().map_or(&[][..], Vec::as_slice);
        assert_eq!(targets.is_empty(), panel["type"] == "row", "{panel}");
        assert!(
            targets.iter().all(|target| !names_in(target["expr"].as_str().expect("text")).is_empty()),
            "{panel}"
        );
    }
    let ids: BTreeSet<_> = panels.iter().map(|panel| panel["id"].as_u64().expect("a number")).collect();
    assert_eq!(ids.len(), panels.len());
}

#[test]
fn every_alert_is_documented() {
    let rules = document("docs/metrics/alerts.yml");
    let alerts: BTreeSet<_> =
        rules.lines().filter_map(|line| line.trim().strip_prefix("- alert: ")).collect();
    let document = document("docs/METRICS.md");
    let documented: BTreeSet<_> = document.split('`').filter(|word| word.starts_with("Hive")).collect();
    assert_eq!(alerts, documented);
}

#[tokio::test(flavor = "multi_thread")]
async fn readers_of_streams_are_counted_while_they_read() {
    let hive = TestHive::start().await;
    let readers = async |stream: &str| {
        Scrape::of(&hive.url).await.value(&format!("rbee_hive_stream_readers{{stream=\"{stream}\"}}"))
    };
    let mut events = hive.get("/v1/events").await;
    read_until(&mut events, &mut String::new(), "event: snapshot").await;
    let heartbeats = [hive.get("/v1/heartbeats/stream").await, hive.get("/v1/heartbeats/stream").await];
    assert_eq!([readers("events").await, readers("heartbeats").await, readers("job").await], [1.0, 2.0, 0.0]);
    drop((events, heartbeats));
    until("the end of the readers", async || {
        ([readers("events").await, readers("heartbeats").await] == [0.0, 0.0]).then_some(())
    })
    .await;
    hive.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn workers_that_go_by_themselves_are_counted_by_the_reason() {
    let hive = TestHive::start_with(|config| {
        config.residency.idle = KeepAlive::For(Duration::from_millis(50));
        config.residency.min_stay = Duration::ZERO.into();
    })
    .await;
    write_model(&hive.models_dir(), "tiny");
    let chat = json!({ "model": "tiny", "messages": [{ "role": "user", "content": "Hi" }] });
    assert_eq!(hive.post("/v1/chat/completions", &chat).await.status(), 200);
    until("an idle worker's end", async || {
        let scrape = Scrape::of(&hive.url).await;
        (scrape.value("rbee_hive_evictions_total{reason=\"idle\"}") == 1.0).then_some(())
    })
    .await;
    hive.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_knows_only_plain_text_gets_it() {
    let hive = TestHive::start().await;
    let request = hive.client.get(format!("{}/metrics", hive.url)).header(ACCEPT, "text/plain;version=0.0.4");
    let answer = soon("a scrape", request.send()).await.expect("an answer");
    assert_eq!(answer.headers()[CONTENT_TYPE], "text/plain; version=0.0.4; charset=utf-8");
    let text = answer.text().await.expect("text");
    assert!(text.contains("# TYPE rbee_hive_jobs_total counter\n") && !text.contains("# EOF"), "{text}");
    hive.stop().await;
}
