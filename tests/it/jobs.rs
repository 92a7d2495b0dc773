//! Jobs: listing, cancelling, repeating, queueing and pruning, and what remains after a restart or a kill.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::slice;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use futures::FutureExt;
use futures::future::join_all;
use rbee_hive::config::{Config, Faults};
use rbee_hive::error::Failure;
use rbee_hive::events::Hub;
use rbee_hive::jobs::{JobId, JobState, OperationKind, Registry};
use rbee_hive::n;
use rbee_hive::ops::TABLE;
use reqwest::Response;
use serde_json::{Value, json};
use tokio::sync::Semaphore;

use crate::support::{
    Daemon, StallingServer, TestHive, Typed, client, data_lines, folder, process_runs, quick, rounds, soon,
    typed, until, write_model,
};

const UNKNOWN: &str = "job-00000000-0000-7000-8000-000000000000";

/// A read.
fn list() -> Value {
    json!({ "ModelList": {} })
}

/// An act. It fails, because there is no such model.
fn act() -> Value {
    json!({ "ModelUnload": { "id": "nothing" } })
}

/// A hook that blocks every act until a permit is added to the gate; the gate; the count of blocked acts.
fn block_acts() -> (Faults, Arc<Semaphore>, Arc<AtomicUsize>) {
    block(|name| TABLE.iter().any(|row| row.wire_name == name && row.kind == OperationKind::Act))
}

/// The same for the operations that `is_blocked` selects.
fn block(is_blocked: fn(&str) -> bool) -> (Faults, Arc<Semaphore>, Arc<AtomicUsize>) {
    let (gate, begun) = (Arc::new(Semaphore::new(0)), Arc::new(AtomicUsize::new(0)));
    let (opened, count) = (Arc::clone(&gate), Arc::clone(&begun));
    let faults = Faults::new(move |name| {
        let (gate, count) = (Arc::clone(&opened), Arc::clone(&count));
        async move {
            if is_blocked(name) {
                count.fetch_add(1, Ordering::SeqCst);
                gate.acquire().await.expect("the gate stays").forget();
            }
            Ok::<(), Failure>(())
        }
        .boxed()
    });
    (faults, gate, begun)
}

async fn has_begun(begun: &AtomicUsize, times: usize) {
    until("an act to begin", async || (begun.load(Ordering::SeqCst) >= times).then_some(())).await;
}

/// Waits until a job has ended, without reading its stream. Gives the job.
async fn ended(hive: &TestHive, id: &str) -> Value {
    until("a job to end", async || {
        let job = hive.job(id).await;
        (!["queued", "running"].contains(&job["state"].as_str().expect("a state"))).then_some(job)
    })
    .await
}

fn ids(page: &Value) -> Vec<String> {
    let jobs = page["jobs"].as_array().expect("jobs");
    jobs.iter().map(|job| job["job_id"].as_str().expect("an id").to_owned()).collect()
}

async fn page(hive: &TestHive, query: &str) -> Value {
    let answer = hive.get(&format!("/v1/jobs{query}")).await;
    assert_eq!(answer.status(), 200, "{query}");
    answer.json().await.expect("JSON")
}

async fn problem(answer: Response, status: u16, code: &str) -> Value {
    assert_eq!(answer.status(), status);
    assert_eq!(answer.headers()["content-type"], "application/problem+json");
    let text = answer.text().await.expect("a body");
    assert!(!text.contains("job_id"), "existing clients would take it for a success: {text}");
    let problem: Value = serde_json::from_str(&text).expect("JSON");
    assert_eq!(problem["code"], code, "{problem}");
    assert!(problem["hint"].is_string(), "{problem}");
    problem
}

async fn post_with_key(hive: &TestHive, operation: &Value, key: &str) -> Response {
    let request = hive.client.post(format!("{}/v1/jobs", hive.url)).header("Idempotency-Key", key);
    soon("an answer", request.json(operation).send()).await.expect("an answer")
}

async fn job_id(answer: Response) -> String {
    assert_eq!(answer.status(), 201);
    answer.json::<Value>().await.expect("JSON")["job_id"].as_str().expect("a job_id").to_owned()
}

fn journals(hive: &TestHive) -> BTreeSet<String> {
    std::fs::read_dir(hive.dir().join("data/jobs"))
        .expect("a folder of journals")
        .map(|entry| entry.expect("an entry").file_name().into_string().expect("UTF-8"))
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn jobs_are_listed_newest_first_by_filter_and_page() {
    let hive = TestHive::start().await;
    assert_eq!(page(&hive, "").await, json!({ "jobs": [], "next_cursor": null }));
    let mut all = Vec::new();
    for i in 0..7 {
        let id = hive.submit(&if i % 2 == 0 { list() } else { act() }).await;
        ended(&hive, &id).await;
        all.insert(0, id);
    }
    let reads: Vec<_> = all.iter().step_by(2).cloned().collect();
    let acts: Vec<_> = all.iter().skip(1).step_by(2).cloned().collect();
    assert_eq!(ids(&page(&hive, "").await), all);
    assert_eq!(ids(&page(&hive, "?state=succeeded").await), reads);
    assert_eq!(ids(&page(&hive, "?state=failed").await), acts);
    assert_eq!(ids(&page(&hive, "?operation=model_list").await), reads);
    assert_eq!(ids(&page(&hive, "?operation=model_unload&state=failed&limit=2").await), acts[..2]);
    for nothing in ["?state=running", "?state=queued", "?state=cancelled", "?operation=hive_check"] {
        assert_eq!(ids(&page(&hive, nothing).await), Vec::<String>::new(), "{nothing}");
    }
    // Pages of every size, while new jobs are added at the front.
    for limit in 1..=8 {
        let (mut seen, mut cursor) = (Vec::new(), String::new());
        loop {
            let page = page(&hive, &format!("?limit={limit}{cursor}")).await;
            assert!(ids(&page).len() <= limit);
            seen.extend(ids(&page));
            match page["next_cursor"].as_str() {
                Some(next) => cursor = format!("&cursor={next}"),
                None => break,
            }
            let newer = hive.submit(&list()).await;
            ended(&hive, &newer).await;
        }
        assert!(seen.ends_with(&all), "nothing is lost or doubled: {seen:?}");
        assert_eq!(seen.iter().collect::<BTreeSet<_>>().len(), seen.len());
    }
    for query in [
        "?state=ended",
        "?state=Failed",
        "?state=",
        "?limit=0",
        "?limit=1001",
        "?limit=-1",
        "?limit=x",
        "?cursor=x",
        "?cursor=job-1",
        "?unknown=1",
    ] {
        problem(hive.get(&format!("/v1/jobs{query}")).await, 400, "invalid_request").await;
    }
    hive.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_has_its_request_its_state_and_its_outcome() {
    let (faults, gate, begun) = block_acts();
    let hive = TestHive::start_with(|config| {
        config.faults = faults;
        config.jobs.concurrent_acts = 1;
    })
    .await;
    let read = ended(&hive, &hive.submit(&list()).await).await;
    assert_eq!(
        (&read["state"], &read["operation"], &read["kind"]),
        (&json!("succeeded"), &json!("model_list"), &json!("read"))
    );
    assert_eq!(read["request"], json!({ "operation": "model_list", "hive_id": "localhost" }));
    assert_eq!((&read["result"], &read["failure"]), (&json!([]), &Value::Null));

    let first = hive.submit(&act()).await;
    has_begun(&begun, 1).await;
    let second = hive.submit(&act()).await;
    let running = until("a job to run", async || {
        let job = hive.job(&first).await;
        (job["state"] == "running").then_some(job)
    })
    .await;
    let queued = hive.job(&second).await;
    assert_eq!(queued["state"], "queued");
    assert!(running["started_at"].is_string() && running["ended_at"].is_null(), "{running}");
    assert!(queued["started_at"].is_null() && queued["created_at"].is_string(), "{queued}");
    assert_eq!(ids(&page(&hive, "?state=running").await), slice::from_ref(&first));
    assert_eq!(ids(&page(&hive, "?state=queued").await), slice::from_ref(&second));
    gate.add_permits(2);
    for id in [first, second] {
        let job = ended(&hive, &id).await;
        assert_eq!((&job["state"], &job["result"]), (&json!("failed"), &Value::Null));
        assert_eq!(job["failure"]["code"], "model_not_found", "{job}");
        assert_eq!(job["sse_url"], format!("/v1/jobs/{id}/stream"));
        let (job, keys) = (&job, ["created_at", "started_at", "ended_at"]);
        let instants = keys.map(|key| job[key].as_str().expect("an instant"));
        assert!(instants.is_sorted(), "{job}");
        assert!(instants.iter().all(|instant| instant.len() == 24 && instant.ends_with('Z')), "{job}");
    }
    for id in [UNKNOWN, "nonsense", "job-..%2f..%2fetc"] {
        problem(hive.get(&format!("/v1/jobs/{id}")).await, 404, "job_not_found").await;
        problem(hive.delete(&format!("/v1/jobs/{id}")).await, 404, "job_not_found").await;
    }
    problem(
        hive.delete(&format!("/v1/jobs/{}", read["job_id"].as_str().expect("an id"))).await,
        409,
        "job_ended",
    )
    .await;
    hive.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_repeated_submission_finds_the_first_job() {
    let (faults, gate, begun) = block_acts();
    let hive = TestHive::start_with(|config| {
        config.faults = faults;
        config.jobs.concurrent_acts = 1;
        config.jobs.queue = 0;
    })
    .await;
    let first = post_with_key(&hive, &act(), "key-1").await;
    assert!(!first.headers().contains_key("idempotency-replayed"));
    let first = job_id(first).await;
    has_begun(&begun, 1).await;
    // In the other spelling, and while the queue has no room for a new job.
    let snake = json!({ "operation": "model_unload", "hive_id": "localhost", "id": "nothing" });
    let again = post_with_key(&hive, &snake, "key-1").await;
    assert_eq!(again.headers()["idempotency-replayed"], "true");
    assert_eq!(again.headers()["location"], format!("/v1/jobs/{first}"));
    assert_eq!(job_id(again).await, first);
    let other = json!({ "ModelUnload": { "id": "something" } });
    problem(post_with_key(&hive, &other, "key-1").await, 422, "idempotency_conflict").await;
    for key in ["", &"k".repeat(256)] {
        problem(post_with_key(&hive, &act(), key).await, 400, "invalid_request").await;
    }
    gate.add_permits(100);
    ended(&hive, &first).await;
    assert_eq!(job_id(post_with_key(&hive, &act(), "key-1").await).await, first, "after its end, too");

    let operation = list();
    for round in 0..rounds(5) {
        let key = format!("race-{round}");
        let answers = join_all((0..16).map(|_| post_with_key(&hive, &operation, &key))).await;
        let replayed = |answer: &&Response| answer.headers().contains_key("idempotency-replayed");
        assert_eq!(answers.iter().filter(replayed).count(), 15, "exactly one made the job");
        let ids: BTreeSet<_> = join_all(answers.into_iter().map(job_id)).await.into_iter().collect();
        assert_eq!(ids.len(), 1, "{ids:?}");
    }
    let read = job_id(post_with_key(&hive, &list(), "read-1").await).await;

    let dir = hive.stop().await;
    let hive = TestHive::start_in(dir, |_| {}).await;
    let again = post_with_key(&hive, &act(), "key-1").await;
    assert_eq!(again.headers()["idempotency-replayed"], "true");
    assert_eq!(job_id(again).await, first, "an act's key survives a restart");
    problem(post_with_key(&hive, &other, "key-1").await, 422, "idempotency_conflict").await;
    assert_ne!(job_id(post_with_key(&hive, &list(), "read-1").await).await, read, "a read's does not");
    hive.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_submission_that_a_full_queue_refuses_leaves_no_trace() {
    let (faults, gate, begun) = block_acts();
    let hive = TestHive::start_with(|config| {
        config.faults = faults;
        config.jobs.concurrent_acts = 1;
        config.jobs.concurrent_downloads = 1;
        config.jobs.queue = 2;
    })
    .await;
    let first = hive.submit(&act()).await;
    has_begun(&begun, 1).await;
    let waiting = [hive.submit(&act()).await, hive.submit(&act()).await];
    let before = journals(&hive);
    for _ in 0..3 {
        let answer = hive.post("/v1/jobs", &act()).await;
        assert!(answer.headers().contains_key("retry-after"));
        problem(answer, 429, "queue_full").await;
    }
    assert_eq!(journals(&hive), before, "a refused submission is not journalled");
    assert_eq!(page(&hive, "").await["jobs"].as_array().map(Vec::len), Some(3));
    // Each class has a queue of its own.
    let download = hive.submit(&json!({ "ModelDownload": { "model": "file:/nowhere/x.gguf" } })).await;
    // A cancelled one makes room.
    assert_eq!(hive.delete(&format!("/v1/jobs/{}", waiting[0])).await.status(), 200);
    let last = hive.submit(&act()).await;
    problem(hive.post("/v1/jobs", &act()).await, 429, "queue_full").await;
    gate.add_permits(100);
    for id in [&first, &waiting[1], &last, &download] {
        assert_eq!(ended(&hive, id).await["state"], "failed");
    }
    let line = data_lines(&hive.stream(&waiting[1]).await)[0].clone();
    assert!(
        line.starts_with("Waiting for a free place: 1 job(s) like this one may run at once, 1 wait"),
        "{line}"
    );
    // In the order in which they were submitted.
    let started = join_all([&first, &waiting[1], &last].map(|id| hive.job(id))).await;
    assert!(started.iter().map(|job| job["started_at"].to_string()).is_sorted());
    hive.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn reads_never_wait_behind_acts() {
    let (faults, gate, begun) = block_acts();
    let hive = TestHive::start_with(|config| {
        config.faults = faults;
        config.jobs.concurrent_acts = 1;
        config.jobs.concurrent_loads = 1;
        config.jobs.concurrent_downloads = 1;
    })
    .await;
    let mut acts = Vec::new();
    for _ in 0..3 {
        acts.push(hive.submit(&act()).await);
        acts.push(hive.submit(&json!({ "ModelLoad": { "id": "nothing" } })).await);
        acts.push(hive.submit(&json!({ "ModelDownload": { "model": "file:/nowhere/x.gguf" } })).await);
    }
    has_begun(&begun, 3).await;
    for read in [list(), json!({ "WorkerProcessList": {} }), json!({ "HiveCheck": {} })] {
        hive.succeed(&read).await;
    }
    assert_eq!(begun.load(Ordering::SeqCst), 3, "one of each class, and no more");
    gate.add_permits(100);
    for id in acts {
        ended(&hive, &id).await;
    }
    hive.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_runs_with_and_without_readers() {
    let gate = Arc::new(Semaphore::new(0));
    let opened = Arc::clone(&gate);
    let hive = TestHive::start_with(|config| {
        config.faults = Faults::new(move |_| {
            let gate = Arc::clone(&opened);
            async move {
                n!("talk", "before the gate");
                gate.acquire().await.expect("the gate stays").forget();
                (0..1000).for_each(|i| n!("talk", "line {i}"));
                Ok(())
            }
            .boxed()
        });
    })
    .await;
    // One job without a reader, and one whose only reader disconnects in the middle.
    let (unread, left) = (hive.submit(&list()).await, hive.submit(&list()).await);
    let mut reader = hive.get(&format!("/v1/jobs/{left}/stream")).await;
    soon("the first line", reader.chunk()).await.expect("a chunk").expect("a line");
    drop(reader);
    gate.add_permits(2);
    for id in [unread, left] {
        assert_eq!(ended(&hive, &id).await["state"], "succeeded");
        assert_eq!(data_lines(&hive.stream(&id).await).len(), 1 + 1000 + 4);
    }
    hive.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn acts_are_kept_by_count_and_age() {
    let (faults, gate, begun) = block(|name| name == "model_download");
    let hive = TestHive::start_with(|config| {
        config.faults = faults;
        config.jobs.keep_acts = 3;
    })
    .await;
    // The oldest act still runs: it is neither pruned nor counted.
    let running = hive.submit(&json!({ "ModelDownload": { "model": "file:/nowhere/x.gguf" } })).await;
    has_begun(&begun, 1).await;
    let mut acts = Vec::new();
    for i in 0..6 {
        let id = job_id(post_with_key(&hive, &act(), &format!("key-{i}")).await).await;
        ended(&hive, &id).await;
        acts.insert(0, id);
    }
    let read = hive.submit(&list()).await;
    ended(&hive, &read).await;
    hive.app.jobs.prune();
    let kept = [slice::from_ref(&read), &acts[..3], slice::from_ref(&running)].concat();
    assert_eq!(ids(&page(&hive, "").await), kept);
    for id in &acts[3..] {
        problem(hive.get(&format!("/v1/jobs/{id}")).await, 404, "job_not_found").await;
        problem(hive.get(&format!("/v1/jobs/{id}/stream")).await, 404, "job_not_found").await;
    }
    let files: BTreeSet<_> = kept[1..].iter().map(|id| format!("{id}.jsonl")).collect();
    assert_eq!(journals(&hive), files, "the journals of forgotten acts are gone");
    // The key of a forgotten act is free again.
    let answer = post_with_key(&hive, &act(), "key-0").await;
    assert!(!answer.headers().contains_key("idempotency-replayed"));
    ended(&hive, &job_id(answer).await).await;
    gate.add_permits(1);
    ended(&hive, &running).await;

    // A restart with a shorter age: every act is pruned.
    let dir = hive.stop().await;
    let hive =
        TestHive::start_in(dir, |config| config.jobs.keep_acts_for = Duration::from_millis(1).into()).await;
    until("acts to be forgotten", async || {
        hive.app.jobs.prune();
        ids(&page(&hive, "").await).is_empty().then_some(())
    })
    .await;
    assert_eq!(journals(&hive), BTreeSet::new());
    hive.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn reads_are_kept_by_age_and_memory() {
    let hive =
        TestHive::start_with(|config| config.jobs.keep_reads_for = Duration::from_millis(1).into()).await;
    let read = hive.submit(&list()).await;
    ended(&hive, &read).await;
    let act_id = hive.submit(&act()).await;
    ended(&hive, &act_id).await;
    until("reads to be forgotten", async || {
        hive.app.jobs.prune();
        (ids(&page(&hive, "").await) == [act_id.clone()]).then_some(())
    })
    .await;
    problem(hive.get(&format!("/v1/jobs/{read}")).await, 404, "job_not_found").await;
    hive.stop().await;

    let hive = TestHive::start_with(|config| config.jobs.reads_memory_bytes = 20_000).await;
    let act_id = hive.submit(&act()).await;
    ended(&hive, &act_id).await;
    let mut reads = Vec::new();
    for _ in 0..30 {
        let id = hive.submit(&list()).await;
        ended(&hive, &id).await;
        reads.insert(0, id);
    }
    hive.app.jobs.prune();
    let kept = ids(&page(&hive, "").await);
    let (last, kept) = kept.split_last().expect("jobs");
    assert_eq!(*last, act_id, "reads do not evict acts");
    assert!((2..20).contains(&kept.len()), "{} reads are kept", kept.len());
    assert_eq!(*kept, reads[..kept.len()], "the newest are kept");
    hive.stop().await;
}

/// Acts with every end: succeeded, failed, cancelled.
async fn acts_of_every_end(hive: &TestHive) -> Vec<String> {
    let elsewhere = tempfile::tempdir().expect("a folder");
    let import = write_model(elsewhere.path(), "guest");
    let import = json!({ "ModelDownload": { "model": format!("file:{}", import.display()) } });
    let (succeeded, failed) = (hive.submit(&import).await, hive.submit(&act()).await);
    let server = StallingServer::start().await;
    let cancelled = hive.submit(&json!({ "ModelDownload": { "model": server.model("slow") } })).await;
    server.connections(1).await;
    assert_eq!(hive.delete(&format!("/v1/jobs/{cancelled}")).await.status(), 200);
    for (id, state) in [(&succeeded, "succeeded"), (&failed, "failed"), (&cancelled, "cancelled")] {
        assert_eq!(ended(hive, id).await["state"], state);
    }
    vec![succeeded, failed, cancelled]
}

#[tokio::test(flavor = "multi_thread")]
async fn after_a_restart_acts_are_unchanged_and_reads_are_gone() {
    let hive = TestHive::start().await;
    let acts = acts_of_every_end(&hive).await;
    let read = hive.submit(&list()).await;
    ended(&hive, &read).await;
    let mut before = Vec::new();
    for id in &acts {
        before.push((hive.job(id).await, hive.typed_stream(id).await, hive.stream(id).await));
    }
    let mut dir = hive.stop().await;
    // The second time no log stays in memory: all are read from journals.
    for memory in [64 << 20, 0] {
        let hive = TestHive::start_in(dir, |config| config.jobs.acts_memory_bytes = memory).await;
        hive.app.jobs.prune();
        for (id, before) in acts.iter().zip(&before) {
            assert_eq!((hive.job(id).await, hive.typed_stream(id).await, hive.stream(id).await), *before);
        }
        problem(hive.get(&format!("/v1/jobs/{read}")).await, 404, "job_not_found").await;
        problem(hive.get(&format!("/v1/jobs/{read}/stream")).await, 404, "job_not_found").await;
        assert_eq!(ids(&page(&hive, "").await), acts.iter().rev().cloned().collect::<Vec<_>>());
        // New jobs are newer than the old ones.
        let newer = hive.submit(&list()).await;
        assert_eq!(ids(&page(&hive, "?limit=1").await), slice::from_ref(&newer));
        ended(&hive, &newer).await;
        dir = hive.stop().await;
    }
}

/// The state of a job and its events as JSON, as a hive reads them back.
async fn recalled(registry: &Registry, id: &str) -> Result<(JobState, Vec<Value>), Failure> {
    let job = registry.get(id)?;
    let mut cursor = registry.log(&job).await.expect("a log").follow(0);
    let mut events = Vec::new();
    while let Some(batch) = cursor.next().await {
        for event in batch.events {
            let json = event.to_json(&job.header().operation);
            events.push(json!([event.kind().name(), serde_json::from_str::<Value>(&json).expect("JSON")]));
        }
    }
    Ok((job.state(), events))
}

/// A folder of damaged journals.
struct Damaged {
    dir: tempfile::TempDir,
    config: Config,
}

impl Damaged {
    fn new() -> Self {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let mut config = quick(dir.path());
        config.jobs.keep_acts = usize::MAX;
        std::fs::create_dir_all(config.jobs_dir()).expect("a folder");
        Self { dir, config }
    }

    /// Adds a copy of the journal of `id`, changed by `damage`, as another job. Gives that job's id.
    fn add(&self, whole: &[u8], id: &str, damage: impl FnOnce(&mut Vec<u8>)) -> String {
        let copy = JobId::new().to_string();
        let mut journal = std::str::from_utf8(whole).expect("UTF-8").replace(id, &copy).into_bytes();
        damage(&mut journal);
        std::fs::write(self.path(&copy), journal).expect("a journal");
        copy
    }

    fn path(&self, id: &str) -> PathBuf {
        self.config.jobs_dir().join(format!("{id}.jsonl"))
    }

    /// Opens a registry on it.
    fn open(&self) -> Registry {
        Registry::open(&self.config, Arc::new(Hub::new(8))).expect("a registry")
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_incomplete_journal_is_read_up_to_its_last_complete_line() {
    let hive = TestHive::start().await;
    let acts = acts_of_every_end(&hive).await;
    let dir = hive.stop().await;
    for id in &acts {
        let whole = std::fs::read(dir.path().join(format!("data/jobs/{id}.jsonl"))).expect("a journal");
        let lines: Vec<_> = whole.split_inclusive(|byte| *byte == b'\n').map(<[u8]>::len).collect();
        let damaged = Damaged::new();
        let sound = damaged.add(&whole, id, |_| {});
        // Cuts at every byte of the last line; in long runs at every byte after the first line, otherwise
        // once in the middle of each line.
        let tail = if rounds(1) > 1 { lines.len() - 1 } else { 1 };
        let mut end = 0;
        let cuts = lines.iter().enumerate().flat_map(|(i, length)| {
            let start = end;
            end += length;
            if i == 0 {
                0..0
            } else if i + tail >= lines.len() {
                start..end
            } else {
                start + length / 2..start + length / 2 + 1
            }
        });
        let torn: Vec<_> =
            cuts.map(|cut| (cut, damaged.add(&whole, id, |journal| journal.truncate(cut)))).collect();
        // Garbage after the terminal event is ignored.
        let trailed = [&b"\0\0\0\0"[..], b"{\"event\":", b"\xff\xfe\n", &whole[lines[0]..]]
            .map(|garbage| damaged.add(&whole, id, |journal| journal.extend(garbage)));
        // Of a journal with an incomplete first line nothing can be read.
        // Their folder is another one, as only so many damaged journals are kept.
        let beheaded = Damaged::new();
        let headless: Vec<_> = (0..lines[0] - 1)
            .step_by(lines[0] / 50 + 1)
            .map(|cut| (cut, beheaded.add(&whole, id, |journal| journal.truncate(cut))))
            .collect();

        let registry = damaged.open();
        let (state, events) = recalled(&registry, &sound).await.expect("a whole journal");
        assert_eq!(lines.len(), 1 + events.len());
        let mut mended = Vec::new();
        for (cut, id) in &torn {
            let found = recalled(&registry, id).await.expect("a torn journal");
            let (last, kept) = found.1.split_last().expect("an end");
            // A line that lacks only its line end is complete.
            let complete = whole[..=*cut].iter().filter(|byte| **byte == b'\n').count() - 1;
            let result_is_there = complete > 0 && events[complete - 1][0] == "result";
            if complete == events.len() || result_is_there {
                // A result was written together with its end.
                assert_eq!(found, (state, events.clone()), "cut at {cut} of {}", whole.len());
            } else {
                assert_eq!(*kept, events[..complete], "cut at {cut} of {}", whole.len());
                assert_eq!((found.0, &last[0]), (JobState::Failed, &json!("failed")));
                assert_eq!(last[1]["code"], "interrupted");
                assert_eq!(last[1]["seq"], complete + 1, "the end takes the next number");
            }
            mended.push((id, found, std::fs::read(damaged.path(id)).expect("a journal")));
        }
        for id in &trailed {
            assert_eq!(recalled(&registry, id).await.expect("a whole journal"), (state, events.clone()));
        }
        let of_heads = beheaded.open();
        for (cut, id) in &headless {
            let (state, events) = recalled(&of_heads, id).await.expect("a job of which nothing is known");
            let end = &events.last().expect("an end")[1];
            assert_eq!((state, &end["code"]), (JobState::Failed, &json!("outcome_unknown")), "cut at {cut}");
            let kept = beheaded.path(id).with_extension("jsonl.damaged");
            assert_eq!(std::fs::read(kept).expect("it is set aside").len(), *cut);
        }
        drop(of_heads);
        beheaded.dir.close().expect("it goes");
        drop(registry);

        // The journals keep these ends.
        let registry = damaged.open();
        for (id, found, journal) in mended {
            assert_eq!(recalled(&registry, id).await.expect("a mended journal"), found);
            assert_eq!(std::fs::read(damaged.path(id)).expect("a journal"), journal);
        }
        damaged.dir.close().expect("it goes");
    }
}

/// The events of a stream that may have been cut off, without an incomplete last one.
fn complete_events(bytes: &[u8]) -> Vec<Typed> {
    let end = bytes.windows(2).rposition(|pair| pair == b"\n\n").map_or(0, |at| at + 2);
    typed(std::str::from_utf8(&bytes[..end]).expect("UTF-8"))
}

async fn read_after(daemon: &Daemon, id: &str, after: u64) -> Response {
    let request = client()
        .get(format!("{}/v1/jobs/{id}/stream?format=json", daemon.url))
        .header("Last-Event-ID", after.to_string());
    soon("an answer", request.send()).await.expect("an answer")
}

fn write_settings(dir: &Path) -> String {
    let path = dir.join("hive.toml");
    std::fs::write(&path, "[timers]\nprogress = \"2ms\"\n[jobs]\nconcurrent_downloads = 1\n")
        .expect("a file");
    path.to_str().expect("UTF-8").to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn events_that_a_killed_hive_published_keep_their_numbers() {
    let dir = folder();
    let settings = write_settings(dir.path());
    let server = StallingServer::start().await;
    for round in 0..rounds(3) {
        let daemon = Daemon::start(dir.path(), &["--config", &settings]).await;
        let download = |stem: String| json!({ "ModelDownload": { "model": server.model(&stem) } });
        let running = daemon.submit(&download(format!("running-{round}"))).await;
        server.connections(1).await;
        let queued = daemon.submit(&download(format!("queued-{round}"))).await;
        let read = daemon.submit(&list()).await;
        // Killed after a number of events that differs from round to round.
        let mut stream = daemon.get(&format!("/v1/jobs/{running}/stream?format=json")).await;
        let (wanted, mut seen) = (3 + round * 37 % 101, Vec::new());
        soon("events", async {
            while complete_events(&seen).len() < wanted {
                seen.extend(stream.chunk().await.expect("a chunk").expect("it goes on"));
            }
        })
        .await;
        daemon.kill().await;
        // The rest of what it sent before it died.
        while let Ok(Some(chunk)) = soon("the rest", stream.chunk()).await {
            seen.extend(chunk);
        }
        let published = complete_events(&seen);

        let daemon = Daemon::start(dir.path(), &["--config", &settings]).await;
        let whole = daemon.get(&format!("/v1/jobs/{running}/stream?format=json")).await;
        let whole = typed(&soon("the end", whole.text()).await.expect("a whole stream"));
        assert_eq!(whole[..published.len()], published, "round {round}: nothing is renumbered");
        assert!(whole.iter().map(|event| event.id).eq((1..=whole.len() as u64).map(Some)));
        let last = &whole[whole.len() - 1];
        assert_eq!((&*last.event, &last.data["code"]), ("failed", &json!("interrupted")));
        let job = daemon.json(&format!("/v1/jobs/{running}")).await;
        assert_eq!((&job["state"], &job["failure"]["code"]), (&json!("failed"), &json!("interrupted")));
        assert!(job["started_at"].is_string() && job["failure"]["hint"].is_string(), "{job}");

        let rest = read_after(&daemon, &running, published.len() as u64).await;
        assert_eq!(typed(&rest.text().await.expect("a stream")), whole[published.len()..]);
        let beyond = read_after(&daemon, &running, 1 << 40).await;
        assert_eq!(typed(&beyond.text().await.expect("a stream")), whole[whole.len() - 1..]);
        assert_eq!(read_after(&daemon, &running, whole.len() as u64).await.status(), 204);

        let job = daemon.json(&format!("/v1/jobs/{queued}")).await;
        assert_eq!((&job["failure"]["code"], &job["started_at"]), (&json!("interrupted"), &Value::Null));
        assert_eq!(daemon.get(&format!("/v1/jobs/{read}")).await.status(), 404);
        let models = daemon.succeed(&list()).await;
        let available = |model: &&Value| model["status"] == "available";
        assert_eq!(models.as_array().expect("models").iter().filter(available).count(), 0, "{models}");
        daemon.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn cancelling_a_download_closes_its_connection() {
    let server = StallingServer::start().await;
    let hive = TestHive::start().await;
    let id = hive.submit(&json!({ "ModelDownload": { "model": server.model("slow") } })).await;
    server.connections(1).await;
    let answer = hive.delete(&format!("/v1/jobs/{id}")).await;
    assert_eq!(answer.status(), 200);
    assert_eq!(answer.json::<Value>().await.expect("JSON"), json!({ "job_id": id, "status": "cancelled" }));
    server.connections(0).await;
    let lines = data_lines(&hive.stream(&id).await);
    assert_eq!(lines.last().map(String::as_str), Some("[CANCELLED]"));
    assert!(lines.contains(&"Cancelling".to_owned()), "{lines:?}");
    let models = hive.succeed(&list()).await;
    assert!(
        models.as_array().expect("models").iter().all(|model| model["status"] != "available"),
        "{models}"
    );
    problem(hive.delete(&format!("/v1/jobs/{id}")).await, 409, "job_ended").await;
    hive.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn cancelling_a_load_ends_the_worker_that_was_starting() {
    let hive = TestHive::start_with(|config| {
        // It never becomes ready if its model is called "silent".
        let program = concat!(env!("CARGO_MANIFEST_DIR"), "/src/workers/fixtures/fake-worker.sh");
        config.worker_program = Some(program.into());
    })
    .await;
    write_model(&hive.models_dir(), "silent");
    let id = hive.submit(&json!({ "ModelLoad": { "id": "silent" } })).await;
    let worker =
        until("the worker to be there", async || hive.app.workers.list().first().map(|w| w.pid)).await;
    assert!(process_runs(worker));
    assert_eq!(hive.delete(&format!("/v1/jobs/{id}")).await.status(), 200);
    assert!(!process_runs(worker), "it was gone before the answer");
    assert_eq!(hive.app.workers.list().len(), 0);
    assert_eq!(data_lines(&hive.stream(&id).await).last().map(String::as_str), Some("[CANCELLED]"));
    hive.stop().await;
}
