//! Downloads over real sockets from a server with every fault there is, and under every kill.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rbee_hive::config::Config;
use rbee_hive::models::gguf::{TensorType, Value as Gguf, Writer};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::support::hub::{FakeHub, TOKEN};
use crate::support::{
    Daemon, Fault, FaultServer, Served, TestHive, When, data_lines, rounds, soon, typed, until,
};

const CHUNK: u32 = 16 << 10;

/// A sound GGUF file of about that many bytes, no two stretches of which are alike.
fn gguf(bytes: usize, seed: u64) -> Vec<u8> {
    let mut state = seed | 1;
    let data: Vec<u8> = (0..bytes / 4 * 4)
        .map(|_| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            (state >> 32) as u8
        })
        .collect();
    let mut writer = Writer::default();
    writer.metadata("general.architecture", Gguf::String("llama".to_owned()));
    writer.tensor("output.weight", &[data.len() as u64 / 4], TensorType::F32, data);
    let mut file = Vec::new();
    writer.write(&mut file).expect("a small file can be written");
    file
}

fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Timers under which a failed download fails soon.
fn hasty(config: &mut Config) {
    config.downloads.chunk_bytes = CHUNK;
    config.downloads.connections = 4;
    config.downloads.retries = 3;
    config.timers.stall = Duration::from_millis(300).into();
    config.timers.retry = Duration::from_millis(5).into();
    config.timers.retry_after = Duration::from_millis(50).into();
}

fn download(url: &str) -> Value {
    json!({ "ModelDownload": { "model": url } })
}

/// The files of a hive's store that are not models or their records.
fn left_in(store: &Path) -> Vec<PathBuf> {
    let is_left = |path: &PathBuf| {
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        !(name.ends_with(".gguf") || name.ends_with(".gguf.json"))
    };
    fs::read_dir(store)
        .expect("a store")
        .map(|entry| entry.expect("an entry").path())
        .filter(is_left)
        .collect()
}

/// What a fault that strikes once, in the middle, must not keep from succeeding. `is_far` says whether
/// another server of this machine may be asked, which has nothing.
fn is_overcome(fault: Fault, is_far: bool) -> bool {
    // An address that has nothing is asked for again.
    let is_redirected_in_vain = fault == Fault::RedirectPort && !is_far;
    !is_redirected_in_vain
        && !matches!(
            fault,
            // These say something final about the file, or about where it is.
            Fault::Html | Fault::Gzip | Fault::RedirectLoop | Fault::Empty | Fault::FlippedByte
        )
}

/// One fault, when it strikes, and what the file is.
struct Trial {
    fault: Fault,
    when: When,
    promised: bool,
    seed: u64,
}

impl Trial {
    /// Every fault, at every request and at one in the middle; of files whose hash is promised, and,
    /// where `unpromised`, of others.
    fn all(seed: u64, unpromised: bool) -> impl Iterator<Item = Self> {
        let once = When::At(1 + (seed as usize % 5), 1);
        let times = move |fault| {
            // A byte that is wrong on the way is seen by its hash alone.
            let must_promise = !unpromised || fault == Fault::FlippedByte;
            let promised = [false, true].into_iter().filter(move |promised| *promised || !must_promise);
            let always = promised.map(|promised| (When::Always, promised));
            always.chain([(once, must_promise || seed % 2 == 1)])
        };
        Fault::ALL.into_iter().flat_map(move |fault| {
            times(fault).map(move |(when, promised)| Self { fault, when, promised, seed })
        })
    }

    fn what(&self) -> String {
        let Self { fault, when, promised, seed } = self;
        format!("{fault:?} {when:?}, promised: {promised}, seed {seed}")
    }

    fn body(&self) -> Vec<u8> {
        gguf(300_000, self.seed + 1)
    }

    fn served(&self) -> Served {
        let Self { fault, when, seed, .. } = *self;
        Served { bytes: self.body().into(), fault, when, pace: 0, seed }
    }

    /// Downloads `name`, which is served so, and looks at how it ends; `placed` is what then has the
    /// model's name.
    async fn run(&self, hive: &TestHive, name: &str, is_far: bool, placed: impl Fn() -> Option<Vec<u8>>) {
        let Self { fault, when, promised, .. } = *self;
        let what = self.what();
        let id = hive.submit(&download(name)).await;
        let stream = hive.stream(&id).await;
        match data_lines(&stream).last().map(String::as_str) {
            Some("[DONE]") => {
                let body = self.body();
                let mut other = body.clone();
                *other.last_mut().expect("a byte") ^= 0xff;
                let file = placed().unwrap_or_else(|| panic!("{what}: there is no file:\n{stream}"));
                let is_right = file == body || (!promised && file == other);
                assert!(is_right, "{what}: another file than was served:\n{stream}");
            }
            Some(end) if end.starts_with("[ERROR] ") => {
                let failure = hive.job(&id).await["failure"].clone();
                let known = ["download_failed", "source_refused", "source_not_found", "model_corrupt"];
                let code = failure["code"].as_str().unwrap_or_default();
                assert!(known.contains(&code), "{what}: {failure}\n{stream}");
                assert!(!failure.to_string().contains("private"), "{what}: {failure}");
                assert!(placed().is_none(), "{what}: promoted all the same:\n{stream}");
                let is_once = matches!(when, When::At(..));
                let is_lost = fault == Fault::ChangesOnce && promised;
                assert!(
                    !(is_once && is_overcome(fault, is_far) && !is_lost),
                    "{what} was not overcome:\n{stream}"
                );
            }
            end => panic!("{what} ended with {end:?}:\n{stream}"),
        }
        // Whatever is listed can be deleted.
        for model in hive.succeed(&json!({ "ModelList": {} })).await.as_array().expect("models") {
            let delete = hive.run(&json!({ "ModelDelete": { "id": model["id"] } })).await;
            assert!(delete.ends_with("data: [DONE]\n\n"), "{what}: {model}\n{delete}\nafter\n{stream}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_fault_ends_in_the_right_file_or_in_a_typed_failure() {
    let hive = TestHive::start_with(hasty).await;
    let store = hive.dir().join("data/models");
    let server = FaultServer::start().await;
    for seed in 0..rounds(1).min(20) as u64 {
        for trial in Trial::all(seed, true) {
            println!("{}", trial.what());
            let mut url = server.serve("m.gguf", trial.served());
            if trial.promised {
                url += &format!("#sha256={}", sha256(&trial.body()));
            }
            trial.run(&hive, &url, false, || fs::read(store.join("m.gguf")).ok()).await;
            let left: Vec<_> = fs::read_dir(&store).expect("a store").flatten().collect();
            assert!(left.is_empty(), "{} leaves {left:?}", trial.what());
        }
    }
    assert_eq!((server.tokens(), server.strayed()), (0, 0));
    hive.stop().await;
}

/// The same behind a hub, which sends to its CDN by addresses that it signs: into the shared cache.
#[tokio::test(flavor = "multi_thread")]
async fn every_fault_behind_a_hub_leaves_the_cache_right_or_as_it_was() {
    let (hub, server) = (FakeHub::start().await, FaultServer::start().await);
    hub.set_cdn(&format!("http://{}", server.address));
    let dir = tempfile::tempdir().expect("a folder");
    let (cache, token) = (dir.path().join("cache"), dir.path().join("token"));
    fs::write(&token, TOKEN).expect("a token file");
    let hive = TestHive::start_in(dir, |config| {
        hasty(config);
        config.hub.endpoint = Some(hub.url.clone());
        config.hub.token_file = Some(token);
        config.hub_cache = Some(cache.clone());
    })
    .await;
    for seed in 0..rounds(1).min(20) as u64 {
        let body = gguf(300_000, seed + 1);
        hub.commit("org/m", "main", &[("m-Q8_0.gguf", &body)]);
        let blob = cache.join("models--org--m/blobs").join(sha256(&body));
        for trial in Trial::all(seed, false) {
            println!("{}", trial.what());
            server.serve(&format!("blobs/{}", sha256(&body)), trial.served());
            trial.run(&hive, "org/m", true, || fs::read(&blob).ok()).await;
            let left: Vec<_> = fs::read_dir(&cache).expect("a cache").flatten().collect();
            let left: Vec<_> = left.iter().map(fs::DirEntry::file_name).collect();
            assert!(
                left.iter().all(|name| name == ".locks" || name == "CACHEDIR.TAG"),
                "{} leaves {left:?}",
                trial.what()
            );
        }
    }
    // Not even the other port of this machine, which a hub on loopback may send to, sees the token.
    assert_eq!(server.tokens(), 0);
    assert!(server.strayed() > 0);
    hive.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stall_is_narrated_and_its_connection_replaced() {
    let hive = TestHive::start_with(hasty).await;
    let server = FaultServer::start().await;
    for fault in [Fault::Hangs, Fault::Drip] {
        let served = Served { fault, when: When::At(2, 2), ..Served::well(gguf(300_000, 5)) };
        let stream = hive.run(&download(&server.serve("m.gguf", served))).await;
        assert!(stream.ends_with("data: [DONE]\n\n"), "{stream}");
        assert!(stream.contains("replacing the connection (1 of 3)"), "{stream}");
        hive.succeed(&json!({ "ModelDelete": { "id": "m" } })).await;
    }
    // One byte a second is nothing; and what is shown while it lasts is a rate of 0.
    let served = Served { fault: Fault::Drip, when: When::Always, ..Served::well(gguf(300_000, 5)) };
    let stream = hive.run(&download(&server.serve("m.gguf", served))).await;
    assert!(stream.contains("sent only 1 bytes in 300 ms: the transfer has stalled"), "{stream}");
    assert!(stream.contains("given up after 3 retries"), "{stream}");
    hive.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn cancelling_keeps_what_is_here_and_downloading_again_goes_on_from_there() {
    let hive = TestHive::start_with(hasty).await;
    let server = FaultServer::start().await;
    let body = gguf(2_000_000, 9);
    let url = server.serve("m.gguf", Served { pace: 400_000, ..Served::well(body.clone()) });
    let half = body.len() as u64 / 2;
    let id = hive.submit(&download(&url)).await;
    until("half of the file", async || (server.sent() > half).then_some(())).await;
    let models = hive.succeed(&json!({ "ModelList": {} })).await;
    assert_eq!((&models[0]["id"], &models[0]["status"]), (&json!("m"), &json!("downloading")), "{models}");
    assert_eq!(
        hive.fail(&json!({ "ModelDelete": { "id": "m", "force": true } })).await["code"],
        "model_in_use"
    );
    assert_eq!(hive.delete(&format!("/v1/jobs/{id}")).await.status(), 200);
    let stream = hive.stream(&id).await;
    assert!(stream.contains("data: Kept ") && stream.ends_with("[CANCELLED]\n\n"), "{stream}");
    let model = hive.succeed(&json!({ "ModelGet": { "id": "m" } })).await;
    assert_eq!(model["status"], "incomplete");
    assert!(model["status_detail"].as_str().expect("a reason").contains("ended early"), "{model}");

    // Across a restart, with one byte of the partial flipped meanwhile.
    let folder = hive.stop().await;
    let partial = folder.path().join("data/models/m.gguf.partial");
    let mut bytes = fs::read(&partial).expect("a partial");
    bytes[100] ^= 1;
    fs::write(&partial, bytes).expect("a partial");
    let hive = TestHive::start_in(folder, hasty).await;
    let check = hive.run(&json!({ "HiveCheck": {} })).await;
    assert!(check.contains("not loadable: m"), "{check}");
    let plan = hive.succeed(&json!({ "ModelDownload": { "model": url, "dry_run": true } })).await;
    let missing = plan["transfer_bytes"].as_u64().expect("a number");
    assert!(missing < half + 100_000, "{plan}");
    let before = server.sent();
    let url = server.serve("m.gguf", Served::well(body.clone()));
    let stream = hive.run(&download(&url)).await;
    assert!(stream.contains("Going on with m.gguf"), "{stream}");
    assert!(stream.contains("were damaged on the disk: fetching them again"), "{stream}");
    assert!(stream.contains("could not be verified"), "{stream}");
    let sent = server.sent() - before;
    // The damaged chunk and the probe; and what was on its way of a span that another connection took
    // the back of, which is 16 chunks at the most.
    let twice = u64::from(CHUNK) * 17 + 1;
    assert!(sent <= missing + twice, "{sent} bytes were sent where {missing} were missing");
    assert_eq!(fs::read(hive.dir().join("data/models/m.gguf")).expect("a file"), body);
    hive.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_cancelled_download_kept_can_be_deleted() {
    let hive = TestHive::start_with(hasty).await;
    let server = FaultServer::start().await;
    let url = server.serve("m.gguf", Served { pace: 400_000, ..Served::well(gguf(2_000_000, 9)) });
    let id = hive.submit(&download(&url)).await;
    until("some of the file", async || (server.sent() > 500_000).then_some(())).await;
    assert_eq!(hive.delete(&format!("/v1/jobs/{id}")).await.status(), 200);
    let deleted = hive.succeed(&json!({ "ModelDelete": { "id": "m" } })).await;
    assert!(deleted["freed_bytes"].as_u64() > Some(200_000), "{deleted}");
    assert_eq!(fs::read_dir(hive.dir().join("data/models")).expect("a store").count(), 0);
    hive.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn jobs_for_one_file_share_its_transfer_and_leave_it_one_by_one() {
    let hive = TestHive::start_with(|config| {
        hasty(config);
        config.jobs.concurrent_downloads = 4;
    })
    .await;
    let server = FaultServer::start().await;
    let body = gguf(2_000_000, 3);
    let url = server.serve("m.gguf", Served { pace: 400_000, ..Served::well(body.clone()) });
    let first = hive.submit(&download(&url)).await;
    until("the transfer", async || (server.sent() > 100_000).then_some(())).await;
    let second = hive.submit(&download(&url)).await;
    let third = hive.submit(&download(&url)).await;
    for id in [&second, &third] {
        until("the job to join", async || {
            let job = hive.get(&format!("/v1/jobs/{id}/stream?format=json")).await;
            let mut job = job;
            let mut seen = String::new();
            while let Ok(Some(piece)) = job.chunk().await {
                seen += &String::from_utf8_lossy(&piece);
                if seen.contains("joined it") && seen.contains("model_download_progress") {
                    return Some(());
                }
            }
            None
        })
        .await;
    }
    // The job that began it leaves; the others do not notice.
    assert_eq!(hive.delete(&format!("/v1/jobs/{first}")).await.status(), 200);
    let stream = hive.stream(&first).await;
    assert!(stream.contains("2 other job(s) go on with it"), "{stream}");
    let (one, two) = (hive.stream(&second).await, hive.stream(&third).await);
    for stream in [&one, &two] {
        assert!(stream.contains("joined it") && stream.ends_with("[DONE]\n\n"), "{stream}");
    }
    let progress = |stream: &str| {
        let events = typed(stream).into_iter();
        events.filter_map(|event| event.data["progress"]["done"].as_u64()).collect::<Vec<_>>()
    };
    let (one, two) = (hive.typed_stream(&second).await, hive.typed_stream(&third).await);
    let shown = progress(&two);
    assert!(progress(&one).ends_with(&shown[1..]), "both show the same progress");
    assert!(server.sent() <= body.len() as u64 + 10, "the file was sent once: {}", server.sent());
    hive.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_shared_rate_limit_holds() {
    let hive = TestHive::start_with(|config| {
        hasty(config);
        config.downloads.bytes_per_second = 1_000_000;
    })
    .await;
    let server = FaultServer::start().await;
    let url = server.serve("m.gguf", Served::well(gguf(500_000, 3)));
    let begin = Instant::now();
    let stream = hive.run(&download(&url)).await;
    assert!(stream.ends_with("[DONE]\n\n"), "{stream}");
    assert!(begin.elapsed() >= Duration::from_millis(400), "{:?}", begin.elapsed());
    hive.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn another_process_that_writes_the_file_is_waited_for() {
    let hive = TestHive::start_with(hasty).await;
    let server = FaultServer::start().await;
    let url = server.serve("m.gguf", Served::well(gguf(100_000, 3)));
    let partial = hive.dir().join("data/models/m.gguf.partial");
    let holder = fs::File::create(&partial).expect("a file");
    holder.lock().expect("a lock");
    let id = hive.submit(&download(&url)).await;
    let mut stream = hive.get(&format!("/v1/jobs/{id}/stream")).await;
    let mut seen = String::new();
    while !seen.contains("Another process is writing") {
        let piece = soon("the wait to be narrated", stream.chunk()).await.expect("a stream");
        seen += &String::from_utf8_lossy(&piece.expect("more"));
    }
    drop(holder);
    assert!(hive.stream(&id).await.ends_with("[DONE]\n\n"));
    hive.stop().await;
}

/// Kills a real daemon at random bytes of a download, again and again, until the file is whole.
#[tokio::test(flavor = "multi_thread")]
async fn no_kill_costs_a_byte_that_was_recorded() {
    let kills = rounds(3).min(50);
    let folder = tempfile::tempdir().expect("a folder");
    let server = FaultServer::start().await;
    let size = 24 << 20;
    let body = gguf(size, 77);
    fs::create_dir_all(folder.path().join("models")).expect("a folder");
    let config = folder.path().join("hive.toml");
    fs::write(&config, "[downloads]\nchunk_bytes = 16384\nconnections = 4\n").expect("a file");
    let flags = ["--config", config.to_str().expect("a path")];
    let store = folder.path().join("data/models");
    let client = reqwest::Client::builder().no_proxy().build().expect("a client");

    let mut killed = 0;
    let mut run = 0;
    let mut random = 0x9e37_79b9_u64;
    let (mut sent, mut needed) = (0, 0);
    while killed < kills {
        // So slow that a kill hits the middle of it, and nothing lies in buffers.
        let name = format!("m{run}.gguf");
        let url = server.serve(&name, Served { pace: 3_000_000, ..Served::well(body.clone()) });
        run += 1;
        needed += body.len() as u64;
        let begin = server.sent();
        loop {
            let daemon = Daemon::start(folder.path(), &flags).await;
            let answer = client.post(format!("{}/v1/jobs", daemon.url)).json(&download(&url)).send();
            let job: Value = soon("a job", answer).await.expect("an answer").json().await.expect("JSON");
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            let until_killed = server.sent() + (random >> 33) % (body.len() as u64 / 2);
            let is_done = || store.join(&name).exists();
            let stop = until("the byte of the kill", async || {
                (is_done() || (killed < kills && server.sent() >= until_killed)).then(is_done)
            })
            .await;
            if !stop {
                killed += 1;
            } else {
                let stream =
                    client.get(format!("{}{}", daemon.url, job["sse_url"].as_str().expect("a path")));
                let stream = soon("the end", stream.send()).await.expect("a stream").text().await;
                assert!(stream.expect("a stream").ends_with("[DONE]\n\n"));
            }
            daemon.signal(rustix::process::Signal::KILL);
            daemon.ended().await;
            if stop {
                break;
            }
        }
        sent += server.sent() - begin;
        assert_eq!(fs::read(store.join(&name)).expect("the file"), body, "after {killed} kills");
    }
    let reused = 1.0 - (sent.saturating_sub(needed)) as f64 / needed as f64;
    println!(
        "{killed} kills, {run} files of {size} bytes, {sent} bytes sent: {:.2} % reused",
        reused * 100.0
    );
    assert!(reused >= 0.95, "{sent} bytes were sent for {needed}");

    // What the last start finds is whole: nothing corrupt, nothing half, nothing orphaned.
    let daemon = Daemon::start(folder.path(), &flags).await;
    let answer = client.post(format!("{}/v1/jobs", daemon.url)).json(&json!({ "ModelList": {} })).send();
    let job: Value = soon("a job", answer).await.expect("an answer").json().await.expect("JSON");
    let stream = client.get(format!("{}{}", daemon.url, job["sse_url"].as_str().expect("a path"))).send();
    let stream = soon("the list", stream).await.expect("a stream").text().await.expect("a stream");
    let lines = data_lines(&stream);
    let models: Value = serde_json::from_str(&lines[lines.len() - 2]).expect("a list");
    let models = models.as_array().expect("models");
    assert_eq!(models.len(), run);
    assert!(models.iter().all(|model| model["status"] == "available"), "{stream}");
    assert_eq!(left_in(&store), [""; 0].map(PathBuf::from));
    daemon.signal(rustix::process::Signal::TERM);
    daemon.ended().await;
}

/// A disk of memory of a size that can be changed. It goes when this is dropped.
struct SmallDisk(PathBuf);

impl SmallDisk {
    /// `None` where this machine lets nobody mount one, which is said.
    async fn mount(at: &Path) -> Option<Self> {
        fs::create_dir_all(at).expect("a folder");
        let mounted = mount("size=1g", at).await;
        if !mounted {
            skipped("no disk of memory can be mounted here (that takes root, on Linux)");
        }
        mounted.then(|| Self(at.to_owned()))
    }

    async fn resize(&self, size: &str) {
        assert!(mount(&format!("remount,size={size}"), &self.0).await, "{size}");
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        #[expect(clippy::disallowed_methods, reason = "a test runs another program, and waits for it")]
        let unmounted = std::process::Command::new("umount").arg("--lazy").arg(&self.0).status();
        assert!(unmounted.is_ok_and(|status| status.success()) || std::thread::panicking());
    }
}

async fn mount(options: &str, at: &Path) -> bool {
    #[expect(clippy::disallowed_methods, reason = "a test runs another program from outside")]
    let mut command = tokio::process::Command::new("mount");
    let command = command.args(["-t", "tmpfs", "-o", options, "rbee-hive-test"]).arg(at).kill_on_drop(true);
    command.output().await.is_ok_and(|output| output.status.success())
}

#[expect(clippy::print_stderr, reason = "who runs the tests must know what they did not show")]
fn skipped(why: &str) {
    eprintln!("skipped: {why}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disk_that_really_fills_fails_the_download_and_what_came_is_used() {
    let root = tempfile::tempdir().expect("a folder");
    let store = root.path().join("data/models");
    let Some(disk) = SmallDisk::mount(&store).await else { return };
    let server = FaultServer::start().await;
    let body = gguf(8 << 20, 21);
    // Seen at a glance now and then; and seen by nothing but the write that fails.
    for (name, glance, says) in [
        ("seen.gguf", Duration::from_millis(20), "nearly full"),
        ("unseen.gguf", Duration::from_secs(3600), "could not write"),
    ] {
        let hive = TestHive::start_with(|config| {
            hasty(config);
            config.data_dir = root.path().join("data");
            config.timers.progress = glance.into();
        })
        .await;
        let before = server.sent();
        let url = server.serve(name, Served { pace: 2_000_000, ..Served::well(body.clone()) });
        let id = hive.submit(&download(&url)).await;
        until("some of the file", async || (server.sent() - before > 300_000).then_some(())).await;
        disk.resize("5m").await;
        let stream = hive.stream(&id).await;
        let failure = hive.job(&id).await["failure"].clone();
        assert_eq!(failure["code"], "disk_full", "{failure}\n{stream}");
        assert!(failure["message"].as_str().is_some_and(|text| text.contains(says)), "{failure}");
        assert!(stream.contains("data: Kept ") && !store.join(name).exists(), "{stream}");

        disk.resize("1g").await;
        let url = server.serve(name, Served::well(body.clone()));
        let stream = hive.run(&download(&url)).await;
        assert!(stream.contains("Going on with") && stream.ends_with("data: [DONE]\n\n"), "{stream}");
        assert_eq!(fs::read(store.join(name)).expect("a file"), body);
        let sent = server.sent() - before;
        assert!(sent < body.len() as u64 * 3 / 2, "{sent} bytes were sent for {}", body.len());
        let id = name.trim_end_matches(".gguf");
        hive.succeed(&json!({ "ModelDelete": { "id": id } })).await;
        assert_eq!(fs::read_dir(&store).expect("a store").count(), 0);
        hive.stop().await;
    }
}
