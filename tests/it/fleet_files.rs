//! Models across the hives of a fleet: real hives, a real nats-server, and a hub that counts what it sends.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use tempfile::TempDir;

use crate::fleet::{in_fleet, in_fleet_of, sees, stop};
use crate::support::hub::{FakeHub, hex};
use crate::support::{
    Daemon, FaultServer, NatsServer, Served, TestHive, data_lines, read_until, until, write_model,
};

/// Bytes after the last tensor, which are allowed.
const MORE: usize = 8 << 20;

/// The bytes of a model that a worker can run, with so many more.
fn model(more: usize) -> Vec<u8> {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let mut bytes = fs::read(write_model(dir.path(), "m")).expect("the model");
    bytes.extend((0..more).map(|at| (at * 7 + at / 251) as u8));
    bytes
}

fn sha256(bytes: &[u8]) -> String {
    hex(&Sha256::digest(bytes))
}

/// A hub with the model `org/m`.
async fn hub(bytes: &[u8]) -> FakeHub {
    let hub = FakeHub::start().await;
    hub.commit("org/m", "main", &[("m-Q8_0.gguf", bytes)]);
    hub
}

async fn hive(name: &str, nats: &NatsServer, hub: &FakeHub) -> TestHive {
    TestHive::start_with(|config| {
        in_fleet(config, name, &nats.url());
        config.hub.endpoint = Some(hub.url.clone());
        config.downloads.chunk_bytes = 64 << 10;
    })
    .await
}

/// Hives of these names that know each other.
async fn hives<const N: usize>(names: [&str; N], nats: &NatsServer, hub: &FakeHub) -> [TestHive; N] {
    let hives = futures::future::join_all(names.map(|name| hive(name, nats, hub))).await;
    for hive in &hives {
        sees(hive, &names).await;
    }
    hives.try_into().unwrap_or_else(|_| unreachable!("as many as there are names"))
}

fn download() -> Value {
    json!({ "ModelDownload": { "model": "org/m" } })
}

/// The plain stream of a job that must succeed.
async fn succeed(hive: &TestHive, operation: &Value) -> String {
    let stream = hive.run(operation).await;
    assert_eq!(data_lines(&stream).last().map(String::as_str), Some("[DONE]"), "{stream}");
    stream
}

/// The file of a hive's model of the hub.
fn blob(data: &Path, bytes: &[u8]) -> PathBuf {
    data.join("data/hub-cache/models--org--m/blobs").join(sha256(bytes))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_download_comes_from_the_hives_that_have_it() {
    let Some(nats) = NatsServer::start().await else { return };
    let bytes = model(MORE);
    let hub = hub(&bytes).await;
    let hives = hives(["a", "b", "c"], &nats, &hub).await;
    let [a, b, c] = &hives;
    let stream = succeed(a, &download()).await;
    assert!(stream.contains("downloading it for all of them"), "{stream}");
    let sent = hub.sent();
    let stream = succeed(b, &download()).await;
    assert!(stream.contains("hive 'a' has m-Q8_0.gguf"), "{stream}");
    let stream = succeed(c, &download()).await;
    assert!(stream.contains("hive 'a' and hive 'b' have m-Q8_0.gguf"), "{stream}");
    assert!(
        stream.contains("from hive 'a'") && stream.contains("from hive 'b' came from the fleet"),
        "{stream}"
    );
    assert_eq!(hub.sent(), sent, "the hub sends it once");
    for hive in &hives {
        assert!(fs::read(blob(hive.dir(), &bytes)).expect("the file") == bytes, "the same bytes");
        let listed = hive.succeed(&json!({ "ModelGet": { "id": "org/m:Q8_0" } })).await;
        assert_eq!((&listed["sha256"], &listed["status"]), (&json!(sha256(&bytes)), &json!("available")));
    }
    stop(hives).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn of_hives_that_want_one_file_at_once_one_downloads_it() {
    let Some(nats) = NatsServer::start().await else { return };
    let bytes = model(MORE);
    let hub = hub(&bytes).await;
    let cdn = FaultServer::start().await;
    cdn.serve(&format!("blobs/{}", sha256(&bytes)), Served::correct(bytes.clone()));
    hub.set_cdn(&format!("http://{}", cdn.address));
    let hives = hives(["a", "b", "c"], &nats, &hub).await;
    // Until all of them have asked, the hub sends a part alone.
    cdn.hold_after(1 << 20);
    let mut jobs = Vec::new();
    for hive in &hives {
        let job = hive.submit(&download()).await;
        let said = if jobs.is_empty() {
            "downloading it for all of them"
        } else {
            "is downloading m-Q8_0.gguf already"
        };
        read_until(&mut hive.get(&format!("/v1/jobs/{job}/stream")).await, &mut String::new(), said).await;
        jobs.push(job);
    }
    cdn.release();
    let mut led = 0;
    for (hive, job) in hives.iter().zip(&jobs) {
        let stream = hive.stream(job).await;
        assert_eq!(data_lines(&stream).last().map(String::as_str), Some("[DONE]"), "{stream}");
        led += usize::from(stream.contains("downloading it for all of them"));
        assert!(fs::read(blob(hive.dir(), &bytes)).expect("the file") == bytes, "the same bytes");
    }
    assert_eq!(led, 1);
    assert!(cdn.sent() < bytes.len() as u64 * 11 / 10, "{} of {} bytes", cdn.sent(), bytes.len());
    stop(hives).await;
}

/// A hive as a process, which can be killed.
async fn daemon(dir: &TempDir, name: &str, nats: &NatsServer, hub: &FakeHub) -> Daemon {
    let config = dir.path().join("hive.toml");
    let text = format!(
        "hub_cache = \"{}\"\n[fleet]\nnats = \"{}\"\nheartbeat = \"500ms\"\ngone_after = \"60s\"\n\
         [hub]\nendpoint = \"{}\"\ntoken_file = \"\"\n[downloads]\nchunk_bytes = 65536\n",
        dir.path().join("data/hub-cache").display(),
        nats.url(),
        hub.url
    );
    fs::write(&config, text).expect("a file");
    let config = config.to_str().expect("UTF-8").to_owned();
    let daemon = Daemon::start(dir.path(), &["--config", &config, "--hive-id", name]).await;
    in_fleet_of(&daemon).await;
    daemon
}

#[tokio::test(flavor = "multi_thread")]
async fn where_the_leader_dies_another_one_goes_on() {
    let Some(nats) = NatsServer::start().await else { return };
    let bytes = model(MORE);
    let hub = hub(&bytes).await;
    let cdn = FaultServer::start().await;
    cdn.serve(&format!("blobs/{}", sha256(&bytes)), Served::correct(bytes.clone()));
    hub.set_cdn(&format!("http://{}", cdn.address));
    let dir = tempfile::tempdir().expect("a temporary folder");
    let leader = daemon(&dir, "a", &nats, &hub).await;
    let [b, c] = [hive("b", &nats, &hub).await, hive("c", &nats, &hub).await];
    sees(&b, &["a", "b", "c"]).await;
    sees(&c, &["a", "b", "c"]).await;
    cdn.hold_after(3 << 20);
    leader.submit(&download()).await;
    let partial = dir.path().join("data/hub-cache/models--org--m/blobs");
    until("the leader to have a part", || async {
        let partial = partial.join(format!("{}.rbee-hive.partial.journal", sha256(&bytes)));
        (fs::metadata(partial).ok()?.len() > 1000).then_some(())
    })
    .await;
    let jobs = [b.submit(&download()).await, c.submit(&download()).await];
    for (hive, job) in [&b, &c].into_iter().zip(&jobs) {
        let mut stream = hive.get(&format!("/v1/jobs/{job}/stream")).await;
        let mut seen = String::new();
        read_until(&mut stream, &mut seen, "hive 'a' is downloading m-Q8_0.gguf already").await;
    }
    leader.kill().await;
    cdn.release();
    let mut streams = Vec::new();
    for (hive, job) in [&b, &c].into_iter().zip(&jobs) {
        let stream = hive.stream(job).await;
        assert_eq!(data_lines(&stream).last().map(String::as_str), Some("[DONE]"), "{stream}");
        assert!(stream.contains("without hive 'a'"), "{stream}");
        assert!(fs::read(blob(hive.dir(), &bytes)).expect("the file") == bytes, "the same bytes");
        streams.push(stream);
    }
    let led = streams.iter().filter(|stream| stream.contains("downloading it for all of them")).count();
    assert_eq!(led, 1, "{streams:?}");
    let most = bytes.len() as u64 * 13 / 10 + (3 << 20);
    assert!(cdn.sent() < most, "{} of {} bytes", cdn.sent(), bytes.len());
    stop([b, c]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hive_whose_file_is_damaged_is_not_believed() {
    let Some(nats) = NatsServer::start().await else { return };
    let bytes = model(MORE);
    let hub = hub(&bytes).await;
    let hives = hives(["a", "b"], &nats, &hub).await;
    let [a, b] = &hives;
    succeed(a, &download()).await;
    let mut damaged = bytes.clone();
    *damaged.last_mut().expect("a byte") ^= 1;
    fs::write(blob(a.dir(), &bytes), damaged).expect("a file");
    let stream = succeed(b, &download()).await;
    assert!(stream.contains("starting over without other hives"), "{stream}");
    assert!(fs::read(blob(b.dir(), &bytes)).expect("the file") == bytes, "the right bytes");
    stop(hives).await;
}

/// A model in a folder of the user's, which is nowhere on the internet.
fn put_own(hive: &TestHive, bytes: &[u8]) {
    fs::write(hive.models_dir().join("own.gguf"), bytes).expect("a file");
}

fn copy(model: &str, from: &str, to: &str) -> Value {
    json!({ "ModelCopy": { "model": model, "from": from, "hive_id": to } })
}

#[tokio::test(flavor = "multi_thread")]
async fn a_model_is_copied_wherever_it_came_from() {
    let Some(nats) = NatsServer::start().await else { return };
    let bytes = model(MORE);
    let hub = hub(&bytes).await;
    let hives = hives(["a", "b", "c"], &nats, &hub).await;
    let [a, b, c] = &hives;
    // One of the user's own, whose hash nobody has told, asked for by way of a third hive.
    let own = model(1 << 20);
    put_own(a, &own);
    let stream = succeed(c, &copy("own", "a", "b")).await;
    assert!(stream.contains("Hive 'a' reads own.gguf for its SHA-256"), "{stream}");
    assert!(
        stream.contains("hive 'a' has own.gguf") && stream.contains("from hive 'a' came from the fleet"),
        "{stream}"
    );
    let (there, here) = (json!({ "ModelGet": { "id": "own" } }), json!({ "ModelGet": { "id": "own" } }));
    let (there, here) = (a.succeed(&there).await, b.succeed(&here).await);
    for field in ["id", "name", "source", "size_bytes", "architecture", "revision"] {
        assert_eq!(there[field], here[field], "{field}");
    }
    assert_eq!(here["sha256"], sha256(&own));
    assert!(fs::read(here["path"].as_str().expect("a path")).expect("the file") == own, "the same bytes");
    assert_eq!(b.load("own").await["status"], "ready");
    // An alias names it too.
    a.succeed(&json!({ "ModelSettingsSet": { "id": "own", "settings": { "aliases": ["mine"] } } })).await;
    let stream = succeed(b, &copy("mine", "a", "b")).await;
    assert!(stream.contains("is here already"), "{stream}");
    // Both have it now.
    let stream = succeed(c, &copy("own", "b", "c")).await;
    assert!(stream.contains("hive 'a' and hive 'b' have own.gguf"), "{stream}");

    // One of the Hub becomes one of the Hub, and the Hub is not asked.
    succeed(a, &download()).await;
    let asked = hub.seen().len();
    let copied = b.succeed(&copy("org/m:Q8_0", "a", "b")).await;
    assert_eq!(hub.seen().len(), asked);
    let original = a.succeed(&json!({ "ModelGet": { "id": "org/m:Q8_0" } })).await;
    for field in ["id", "name", "source", "revision", "sha256", "size_bytes"] {
        assert_eq!(copied[field], original[field], "{field}");
    }
    assert!(fs::read(blob(b.dir(), &bytes)).expect("the file") == bytes, "the same bytes");

    for (model, from, code) in [
        ("own", "nobody", "unknown_hive"),
        ("own", "b", "invalid_field"),
        ("nothing", "a", "model_not_found"),
    ] {
        assert_eq!(b.fail(&copy(model, from, "b")).await["code"], code, "{model} from {from}");
    }
    stop(hives).await;
}

/// The hives that have a model that is kept, as soon as there are so many.
async fn kept_on(hive: &TestHive, copies: usize) -> Vec<String> {
    until(&format!("{copies} copies"), || async {
        let status = hive.succeed(&json!({ "FleetStatus": {} })).await;
        let hives: Vec<String> = serde_json::from_value(status["places"][0]["hives"].clone()).ok()?;
        (hives.len() == copies).then_some(hives)
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_model_is_kept_on_as_many_hives_as_it_is_to_be() {
    let Some(nats) = NatsServer::start().await else { return };
    let hub = FakeHub::start().await;
    let [a, b, c] = hives(["a", "b", "c"], &nats, &hub).await;
    let bytes = model(0);
    put_own(&b, &bytes);
    let place = |copies: usize| json!({ "ModelPlace": { "model": "own", "copies": copies } });
    // Whichever hive is asked, the one on duty does it.
    let placed = c.succeed(&place(2)).await;
    assert_eq!((&placed["hives"], &placed["lacking"]), (&json!(["b"]), &Value::Null), "{placed}");
    let target = placed["copying"][0]["hive"].as_str().expect("a hive").to_owned();
    assert_eq!(placed["copying"].as_array().map(Vec::len), Some(1), "{placed}");
    let job = placed["copying"][0]["job_id"].as_str().expect("a job").to_owned();
    assert!(data_lines(&b.stream(&job).await).contains(&"[DONE]".to_owned()));
    assert_eq!(kept_on(&b, 2).await, if target == "a" { ["a", "b"] } else { ["b", "c"] });
    // The hive that has the copy goes: the third one gets another.
    let (gone, left) = if target == "a" { (a, c) } else { (c, a) };
    gone.stop().await;
    let third = if target == "a" { "c" } else { "a" };
    assert!(kept_on(&b, 2).await.contains(&third.to_owned()));
    let path = left.succeed(&json!({ "ModelGet": { "id": "own" } })).await["path"].clone();
    assert!(fs::read(path.as_str().expect("a path")).expect("the file") == bytes, "the same bytes");
    // More than there are hives; and the end of it.
    let placed = left.succeed(&place(5)).await;
    assert_eq!(placed["hives"].as_array().map(Vec::len), Some(2), "{placed}");
    assert!(placed["lacking"].as_str().is_some_and(|why| why.contains("no further hives")), "{placed}");
    left.succeed(&place(0)).await;
    assert_eq!(b.succeed(&json!({ "FleetStatus": {} })).await["places"], json!([]));
    let failure = b.fail(&json!({ "ModelPlace": { "model": "nothing", "copies": 1 } })).await;
    assert_eq!(failure["code"], "model_not_found");
    stop([b, left]).await;
}
