//! Downloads over real sockets: from a server with every fault of [`Fault`], and by a hive that is
//! killed at random bytes.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use futures::future::join_all;
use rbee_hive::config::Config;
use rbee_hive::models::gguf::{TensorType, Value as Gguf, Writer};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::support::hub::{FakeHub, TOKEN};
use crate::support::{
    Daemon, Fault, FaultServer, PATIENCE, Served, SmallDisk, TestHive, When, check_of, data_lines, rounds,
    soon, typed, until,
};

const CHUNK: u32 = 16 << 10;

/// A valid GGUF file of about `bytes` bytes, filled from a random generator.
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

/// Settings under which a failed download fails soon. No connection counts as stalled because the
/// machine is busy: see [`stalling_after`].
fn hasty(config: &mut Config) {
    config.downloads.chunk_bytes = CHUNK;
    config.downloads.connections = 4;
    config.downloads.retries = 3;
    config.timers.stall = PATIENCE.into();
    // A cancelled download may take long to write what it has received.
    config.timers.cancel_grace = PATIENCE.into();
    config.timers.retry = Duration::from_millis(5).into();
    config.timers.retry_after = Duration::from_millis(50).into();
}

/// [`hasty`] settings for servers that stop sending. On a busy machine a healthy connection may count
/// as stalled too, so a download that must succeed needs many retries.
fn stalling_after(stall: Duration, retries: u32) -> impl Fn(&mut Config) {
    move |config| {
        hasty(config);
        config.timers.stall = stall.into();
        config.downloads.retries = retries;
        config.jobs.concurrent_downloads = 1000;
    }
}

/// A stall timer that only a server that stops sending runs out, as a rule.
const STALL: Duration = Duration::from_secs(3);

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

/// Whether a download must succeed although this fault occurs once, in the middle. `may_redirect` says
/// whether a redirect to another server of this machine is allowed; that server has no files.
fn is_overcome(fault: Fault, may_redirect: bool) -> bool {
    // The download asks the first URL again after a redirect to a server without the file.
    let is_redirect_refused = fault == Fault::RedirectPort && !may_redirect;
    !is_redirect_refused
        && !matches!(
            fault,
            // These are final answers about the file or its address.
            Fault::Html | Fault::Gzip | Fault::RedirectLoop | Fault::Empty | Fault::FlippedByte
        )
}

/// One download with a fault.
struct Trial {
    fault: Fault,
    when: When,
    /// Whether the hash of the file is known before the download.
    promised: bool,
    seed: u64,
    /// Unique among the trials of a test.
    number: u64,
}

impl Trial {
    /// The trials of all seeds whose fault is [`Self::is_stall`], or those whose fault is not.
    fn of_all_seeds(unpromised: bool, is_stall: bool) -> impl Iterator<Item = Self> {
        let seeds = 0..rounds(1).min(20) as u64;
        let trials = seeds.flat_map(move |seed| Self::all(seed, unpromised));
        let numbered = trials.enumerate().map(|(number, trial)| Self { number: number as u64, ..trial });
        numbered.filter(move |trial| trial.is_stall() == is_stall)
    }

    /// Every fault, at every request and at one request in the middle; of files with a promised hash
    /// and, where `unpromised`, of others.
    fn all(seed: u64, unpromised: bool) -> impl Iterator<Item = Self> {
        let once = When::At(1 + (seed as usize % 5), 1);
        let times = move |fault| {
            // Only the hash shows a byte that changed on the way.
            let must_promise = !unpromised || fault == Fault::FlippedByte;
            let promised = [false, true].into_iter().filter(move |promised| *promised || !must_promise);
            let always = promised.map(|promised| (When::Always, promised));
            always.chain([(once, must_promise || seed % 2 == 1)])
        };
        Fault::ALL.into_iter().flat_map(move |fault| {
            times(fault).map(move |(when, promised)| Self { fault, when, promised, seed, number: 0 })
        })
    }

    /// Whether only the hive's stall timer ends the fault.
    fn is_stall(&self) -> bool {
        matches!(self.fault, Fault::Hangs | Fault::Drip)
    }

    fn is_once(&self) -> bool {
        matches!(self.when, When::At(..))
    }

    fn what(&self) -> String {
        let Self { fault, when, promised, seed, .. } = self;
        format!("{fault:?} {when:?}, promised: {promised}, seed {seed}")
    }

    #[expect(clippy::print_stdout, reason = "a test that fails must say on which trial")]
    fn announce(&self) {
        println!("{}", self.what());
    }

    fn body(&self) -> Vec<u8> {
        gguf(300_000, self.number + 1)
    }

    fn served(&self) -> Served {
        let Self { fault, when, seed, .. } = *self;
        Served { fault, when, seed, ..Served::correct(self.body()) }
    }

    /// Downloads the model `source` and checks how the job ends; `placed` reads the file that then has
    /// the model's name.
    async fn run(
        &self,
        hive: &TestHive,
        source: &str,
        may_redirect: bool,
        placed: impl Fn() -> Option<Vec<u8>>,
    ) {
        let Self { fault, promised, .. } = *self;
        let what = self.what();
        let id = hive.submit(&download(source)).await;
        let stream = hive.stream(&id).await;
        match data_lines(&stream).last().map(String::as_str) {
            Some("[DONE]") => {
                let body = self.body();
                let mut other = body.clone();
                *other.last_mut().expect("a byte") ^= 0xff;
                let file = placed().unwrap_or_else(|| panic!("{what}: there is no file:\n{stream}"));
                let is_right = file == body || (!promised && file == other);
                assert!(is_right, "{what}: the file differs from the served one:\n{stream}");
            }
            Some(end) if end.starts_with("[ERROR] ") => {
                let failure = hive.job(&id).await["failure"].clone();
                let known = [
                    "download_failed",
                    "source_refused",
                    "source_not_found",
                    "model_corrupt",
                    "model_incomplete",
                ];
                let code = failure["code"].as_str().unwrap_or_default();
                assert!(known.contains(&code), "{what}: {failure}\n{stream}");
                assert!(!failure.to_string().contains("private"), "{what}: {failure}");
                assert!(placed().is_none(), "{what}: there is a file after a failure:\n{stream}");
                let is_lost = fault == Fault::ChangesOnce && promised;
                assert!(
                    !(self.is_once() && is_overcome(fault, may_redirect) && !is_lost),
                    "{what} was not overcome:\n{stream}"
                );
            }
            end => panic!("{what} ended with {end:?}:\n{stream}"),
        }
    }
}

/// Deletes every listed model: each listed model can be deleted.
async fn delete_all(hive: &TestHive, after: &str) {
    for model in hive.succeed(&json!({ "ModelList": {} })).await.as_array().expect("models") {
        let delete = hive.run(&json!({ "ModelDelete": { "id": model["id"] } })).await;
        assert!(delete.ends_with("data: [DONE]\n\n"), "after {after}: {model}\n{delete}");
    }
}

/// The names of a folder's entries.
fn entries(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).expect("a folder").map(|entry| entry.expect("an entry").file_name());
    entries.map(|name| name.to_string_lossy().into_owned()).collect()
}

/// A hive that downloads from a [`FaultServer`] by URL.
struct ByUrl {
    hive: TestHive,
    server: FaultServer,
}

impl ByUrl {
    async fn start(settings: impl Fn(&mut Config)) -> Self {
        Self { hive: TestHive::start_with(settings).await, server: FaultServer::start().await }
    }

    async fn run(&self, trial: &Trial) {
        trial.announce();
        let name = format!("m{}.gguf", trial.number);
        let mut url = self.server.serve(&name, trial.served());
        if trial.promised {
            url += &format!("#sha256={}", sha256(&trial.body()));
        }
        trial.run(&self.hive, &url, false, || fs::read(self.store().join(&name)).ok()).await;
    }

    fn store(&self) -> PathBuf {
        self.hive.dir().join("data/models")
    }

    /// Deletes all models, after which the store is empty.
    async fn clear(&self, after: &str) {
        delete_all(&self.hive, after).await;
        assert_eq!(entries(&self.store()), [""; 0], "files left by {after}");
    }

    async fn stop(self) {
        assert_eq!((self.server.tokens(), self.server.redirected()), (0, 0));
        self.hive.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_fault_ends_in_the_right_file_or_in_a_typed_failure() {
    let downloads = ByUrl::start(hasty).await;
    for trial in Trial::of_all_seeds(true, false) {
        downloads.run(&trial).await;
        downloads.clear(&trial.what()).await;
    }
    downloads.stop().await;
}

/// The stall timer takes real time, so these downloads run side by side.
#[tokio::test(flavor = "multi_thread")]
async fn every_stall_ends_in_the_right_file_or_in_a_typed_failure() {
    for (is_once, retries) in [(true, 20), (false, 1)] {
        let downloads = ByUrl::start(stalling_after(STALL, retries)).await;
        let trials: Vec<_> =
            Trial::of_all_seeds(true, true).filter(|trial| trial.is_once() == is_once).collect();
        join_all(trials.iter().map(|trial| downloads.run(trial))).await;
        downloads.clear("all trials").await;
        downloads.stop().await;
    }
}

/// A hive that downloads from a hub, which redirects to a [`FaultServer`] as its CDN by signed URLs;
/// the files go into the shared hub cache.
struct ByHub {
    hive: TestHive,
    hub: FakeHub,
    server: FaultServer,
    cache: PathBuf,
}

impl ByHub {
    async fn start(settings: impl Fn(&mut Config)) -> Self {
        let (hub, server) = (FakeHub::start().await, FaultServer::start().await);
        hub.set_cdn(&format!("http://{}", server.address));
        let dir = tempfile::tempdir().expect("a folder");
        let (cache, token) = (dir.path().join("cache"), dir.path().join("token"));
        fs::write(&token, TOKEN).expect("a token file");
        let hive = TestHive::start_in(dir, |config| {
            settings(config);
            config.hub.endpoint = Some(hub.url.clone());
            config.hub.token_file = Some(token);
            config.hub_cache = Some(cache.clone());
        })
        .await;
        Self { hive, hub, server, cache }
    }

    async fn run(&self, trial: &Trial) {
        trial.announce();
        let body = trial.body();
        let (name, hash) = (format!("m{}", trial.number), sha256(&body));
        self.hub.commit(&format!("org/{name}"), "main", &[("m-Q8_0.gguf", &body)]);
        self.server.serve(&format!("blobs/{hash}"), trial.served());
        let blob = self.cache.join(format!("models--org--{name}/blobs")).join(hash);
        trial.run(&self.hive, &format!("org/{name}"), true, || fs::read(&blob).ok()).await;
    }

    /// Deletes all models, after which only the cache's own files are left.
    async fn clear(&self, after: &str) {
        delete_all(&self.hive, after).await;
        let mut left = entries(&self.cache);
        left.retain(|name| name != ".locks" && name != "CACHEDIR.TAG");
        assert_eq!(left, [""; 0], "files left by {after}");
    }

    async fn stop(self) {
        // Even the other port of this machine, to which a hub on loopback may redirect, gets no token.
        assert_eq!(self.server.tokens(), 0);
        self.hive.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_fault_behind_a_hub_leaves_the_cache_complete_or_unchanged() {
    let downloads = ByHub::start(hasty).await;
    for trial in Trial::of_all_seeds(false, false) {
        downloads.run(&trial).await;
        downloads.clear(&trial.what()).await;
    }
    assert!(downloads.server.redirected() > 0);
    downloads.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_stall_behind_a_hub_leaves_the_cache_complete_or_unchanged() {
    for (is_once, retries) in [(true, 20), (false, 1)] {
        let downloads = ByHub::start(stalling_after(STALL, retries)).await;
        let trials: Vec<_> =
            Trial::of_all_seeds(false, true).filter(|trial| trial.is_once() == is_once).collect();
        join_all(trials.iter().map(|trial| downloads.run(trial))).await;
        downloads.clear("all trials").await;
        downloads.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stall_is_narrated_and_its_connection_replaced() {
    let stall = Duration::from_millis(300);
    let hive = TestHive::start_with(stalling_after(stall, 50)).await;
    let server = FaultServer::start().await;
    for fault in [Fault::Hangs, Fault::Drip] {
        let served = Served { fault, when: When::At(2, 2), ..Served::correct(gguf(300_000, 5)) };
        let stream = hive.run(&download(&server.serve("m.gguf", served))).await;
        assert!(stream.ends_with("data: [DONE]\n\n"), "{stream}");
        assert!(stream.contains("replacing the connection (1 of 50)"), "{stream}");
        hive.succeed(&json!({ "ModelDelete": { "id": "m" } })).await;
    }
    hive.stop().await;

    // One byte a second is below the least rate.
    let hive = TestHive::start_with(stalling_after(stall, 3)).await;
    let served = Served { fault: Fault::Drip, when: When::Always, ..Served::correct(gguf(300_000, 5)) };
    let stream = hive.run(&download(&server.serve("m.gguf", served))).await;
    assert!(stream.contains("bytes in 300 ms: the transfer has stalled"), "{stream}");
    assert!(stream.contains("given up after 3 retries"), "{stream}");
    hive.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wait_that_the_server_asks_for_is_told_and_no_rate_of_nothing() {
    let hive = TestHive::start_with(|config| {
        hasty(config);
        config.timers.retry_after = Duration::from_millis(400).into();
        config.timers.silence = Duration::from_millis(100).into();
    })
    .await;
    let server = FaultServer::start().await;
    let served =
        Served { fault: Fault::AbsurdRetryAfter, when: When::At(1, 1), ..Served::correct(gguf(100_000, 5)) };
    let stream = hive.run(&download(&server.serve("m.gguf", served))).await;
    let lines = data_lines(&stream);
    let asked =
        lines.iter().position(|line| line.contains("asks to wait 8760 h 0 min: trying again in 400 ms"));
    let next = &lines[asked.unwrap_or_else(|| panic!("{stream}")) + 1];
    assert!(next.starts_with("Still waiting for the next try, which comes after 400 ms ("), "{stream}");
    assert!(stream.ends_with("data: [DONE]\n\n"), "{stream}");
    hive.stop().await;
}

/// What the check of the models says, which passes or not.
async fn catalog_check(hive: &TestHive, passes: bool) -> String {
    let report = hive.succeed(&json!({ "HiveCheck": {} })).await;
    let check = check_of(&report, "catalog");
    assert_eq!(check["ok"], passes, "{check}");
    check["detail"].as_str().expect("a text").to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_download_that_a_kill_of_the_hive_ends_tells_what_it_kept() {
    let folder = tempfile::tempdir().expect("a folder");
    let config = folder.path().join("hive.toml");
    fs::write(&config, "[downloads]\nchunk_bytes = 16384\n[timers]\nprogress = \"20ms\"\n").expect("a file");
    fs::create_dir(folder.path().join("models")).expect("a folder");
    let flags = ["--config", config.to_str().expect("a path")];
    let server = FaultServer::start().await;
    let url = server.serve("m.gguf", Served::correct(gguf(2_000_000, 9)));
    server.hold_after(1_000_000);
    let daemon = Daemon::start(folder.path(), &flags).await;
    let id = daemon.submit(&download(&url)).await;
    let mut stream = daemon.get(&format!("/v1/jobs/{id}/stream?format=json")).await;
    let mut text = String::new();
    let keeps = |text: &str| {
        text.split(r#""kept":"#).skip(1).any(|count| count.starts_with(|c| ('1'..='9').contains(&c)))
    };
    while !keeps(&text) {
        let chunk = soon("a progress", stream.chunk()).await.expect("a stream").expect("no end");
        text += &String::from_utf8_lossy(&chunk);
    }
    daemon.signal(rustix::process::Signal::KILL);
    daemon.ended().await;

    let daemon = Daemon::start(folder.path(), &flags).await;
    let failure = daemon.json(&format!("/v1/jobs/{id}")).await["failure"].clone();
    assert_eq!(failure["code"], "interrupted", "{failure}");
    let message = failure["message"].as_str().expect("a message");
    assert!(message.contains(": at least ") && message.ends_with(" of 1.9 MiB are kept"), "{message}");
    assert_eq!(failure["hint"], "submit model_download again: it goes on from there");
    server.release();
    daemon.succeed(&download(&url)).await;
    daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_download_whose_journal_is_damaged_says_that_it_starts_over() {
    let hive = TestHive::start_with(hasty).await;
    let server = FaultServer::start().await;
    let body = gguf(2_000_000, 9);
    let url = server.serve("m.gguf", Served::correct(body.clone()));
    let half = body.len() as u64 / 2;
    server.hold_after(half);
    let id = hive.submit(&download(&url)).await;
    until("half of the file", async || (server.sent() >= half).then_some(())).await;
    assert_eq!(hive.delete(&format!("/v1/jobs/{id}")).await.status(), 200);
    server.release();
    let folder = hive.stop().await;
    let journal = folder.path().join("data/models/m.gguf.partial.journal");
    let mut bytes = fs::read(&journal).expect("a journal");
    bytes[30] ^= 1;
    fs::write(&journal, &bytes).expect("a journal");

    let hive = TestHive::start_in(folder, hasty).await;
    assert_eq!(fs::read(&journal).expect("a journal"), bytes, "it is left as it was found");
    let detail = catalog_check(&hive, true).await;
    assert!(detail.contains("damaged and left as they are: m.gguf.partial.journal"), "{detail}");
    let stream = hive.run(&download(&url)).await;
    assert!(
        stream.contains("data: The journal of the partial file of m.gguf is damaged: starting over\n"),
        "{stream}"
    );
    assert_eq!(fs::read(hive.dir().join("data/models/m.gguf")).expect("a file"), body);
    assert_eq!(left_in(&hive.dir().join("data/models")), [""; 0].map(PathBuf::from));
    hive.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_download_that_a_stop_of_the_hive_ends_tells_what_it_kept() {
    let hive = TestHive::start_with(hasty).await;
    let server = FaultServer::start().await;
    let body = gguf(2_000_000, 9);
    let url = server.serve("m.gguf", Served::correct(body.clone()));
    let half = body.len() as u64 / 2;
    server.hold_after(half);
    let id = hive.submit(&download(&url)).await;
    until("half of the file", async || (server.sent() >= half).then_some(())).await;
    let folder = hive.stop().await;
    let hive = TestHive::start_in(folder, hasty).await;
    let failure = hive.job(&id).await["failure"].clone();
    assert_eq!(failure["code"], "interrupted", "{failure}");
    let message = failure["message"].as_str().expect("a message");
    assert!(
        message.contains("the download was cancelled, after ") && message.contains(" of 1.9 MiB"),
        "{message}"
    );
    assert!(failure["hint"].as_str().is_some_and(|hint| hint.contains("goes on from there")), "{failure}");
    hive.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cancelled_download_keeps_its_bytes_and_resumes() {
    let hive = TestHive::start_with(hasty).await;
    let server = FaultServer::start().await;
    let body = gguf(2_000_000, 9);
    let url = server.serve("m.gguf", Served::correct(body.clone()));
    let half = body.len() as u64 / 2;
    server.hold_after(half);
    let id = hive.submit(&download(&url)).await;
    until("half of the file", async || (server.sent() >= half).then_some(())).await;
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
    assert!(model["status_detail"].as_str().expect("a reason").contains("was interrupted"), "{model}");

    // Resumes after a restart, although one byte of the partial has changed.
    server.release();
    let folder = hive.stop().await;
    let partial = folder.path().join("data/models/m.gguf.partial");
    let mut bytes = fs::read(&partial).expect("a partial");
    bytes[100] ^= 1;
    fs::write(&partial, bytes).expect("a partial");
    let hive = TestHive::start_in(folder, hasty).await;
    let detail = catalog_check(&hive, true).await;
    assert!(
        detail.contains("ModelDownload resumes") && detail.contains(&format!("m (of {url})")),
        "{detail}"
    );
    let folder = hive.dir().join("models");
    fs::create_dir_all(&folder).expect("a folder");
    fs::write(folder.join("short.gguf"), &body[..body.len() - 1]).expect("a file");
    assert!(catalog_check(&hive, false).await.ends_with("not usable: short"));
    fs::remove_file(folder.join("short.gguf")).expect("a file");
    let plan = hive.succeed(&json!({ "ModelDownload": { "model": url, "dry_run": true } })).await;
    let missing = plan["transfer_bytes"].as_u64().expect("a number");
    assert!(missing < half + 100_000, "{plan}");
    let before = server.sent();
    let url = server.serve("m.gguf", Served::correct(body.clone()));
    let stream = hive.run(&download(&url)).await;
    assert!(stream.contains("Resuming m.gguf"), "{stream}");
    assert!(stream.contains("were damaged on the disk: fetching them again"), "{stream}");
    assert!(stream.contains("could not be verified"), "{stream}");
    let sent = server.sent() - before;
    // The damaged chunk, the probe, and the bytes in flight of a span whose end another connection
    // took over, which are 16 chunks at most.
    let twice = u64::from(CHUNK) * 17 + 1;
    assert!(sent <= missing + twice, "{sent} bytes were sent where {missing} were missing");
    assert_eq!(fs::read(hive.dir().join("data/models/m.gguf")).expect("a file"), body);
    hive.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_partial_of_a_cancelled_download_can_be_deleted() {
    let hive = TestHive::start_with(hasty).await;
    let server = FaultServer::start().await;
    let url = server.serve("m.gguf", Served::correct(gguf(2_000_000, 9)));
    server.hold_after(500_000);
    let id = hive.submit(&download(&url)).await;
    until("some of the file", async || (server.sent() >= 500_000).then_some(())).await;
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
    let url = server.serve("m.gguf", Served::correct(body.clone()));
    server.hold_after(100_000);
    let first = hive.submit(&download(&url)).await;
    until("the transfer", async || (server.sent() >= 100_000).then_some(())).await;
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
    // The job that started the transfer leaves it; the others go on.
    assert_eq!(hive.delete(&format!("/v1/jobs/{first}")).await.status(), 200);
    let stream = hive.stream(&first).await;
    assert!(stream.contains("2 other job(s) go on with it"), "{stream}");
    server.release();
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
    let url = server.serve("m.gguf", Served::correct(gguf(500_000, 3)));
    let begin = Instant::now();
    let stream = hive.run(&download(&url)).await;
    assert!(stream.ends_with("[DONE]\n\n"), "{stream}");
    assert!(begin.elapsed() >= Duration::from_millis(400), "{:?}", begin.elapsed());
    hive.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_download_waits_for_another_process_that_writes_the_file() {
    let hive = TestHive::start_with(hasty).await;
    let server = FaultServer::start().await;
    let url = server.serve("m.gguf", Served::correct(gguf(100_000, 3)));
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

/// Kills a real daemon at random bytes of a download, again and again, until the file is complete.
#[tokio::test(flavor = "multi_thread")]
async fn a_killed_hive_does_not_fetch_recorded_bytes_again() {
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
        // Slow enough that a kill hits the middle of it and that few bytes lie in socket buffers.
        let name = format!("m{run}.gguf");
        let url = server.serve(&name, Served { pace: 3_000_000, ..Served::correct(body.clone()) });
        run += 1;
        needed += body.len() as u64;
        let begin = server.sent();
        let mut missing = body.len() as u64;
        loop {
            let daemon = Daemon::start(folder.path(), &flags).await;
            let plan = json!({ "ModelDownload": { "model": url, "dry_run": true } });
            let plan = daemon.succeed(&plan).await;
            let before = missing;
            missing = plan["transfer_bytes"].as_u64().expect("a number");
            assert!(missing <= before, "a recorded byte was lost: {missing} are missing, were {before}");
            let begin = server.sent();
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
                // More than the missing bytes are sent only for spans that two connections shared.
                let sent = server.sent() - begin;
                assert!(sent <= missing + body.len() as u64 / 10, "{sent} sent, {missing} missing");
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
    // Bytes in flight are lost in a kill. How many those are depends on the machine: on an idle one
    // less than 5 % in all.
    assert!(reused >= 0.5, "{sent} bytes were sent for {needed}");

    // The last start finds complete models only, and no other files.
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

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_fails_the_download_and_the_next_one_resumes() {
    let root = tempfile::tempdir().expect("a folder");
    let store = root.path().join("data/models");
    let Some(disk) = SmallDisk::mount(&store).await else { return };
    let server = FaultServer::start().await;
    let body = gguf(8 << 20, 21);
    // Found by the regular check of the free space, and by a write that fails.
    for (name, check, says) in [
        ("seen.gguf", Duration::from_millis(20), "nearly full"),
        ("unseen.gguf", Duration::from_secs(3600), "could not write"),
    ] {
        let hive = TestHive::start_with(|config| {
            hasty(config);
            config.data_dir = root.path().join("data");
            config.timers.progress = check.into();
        })
        .await;
        let before = server.sent();
        let url = server.serve(name, Served::correct(body.clone()));
        server.hold_after(300_000);
        let id = hive.submit(&download(&url)).await;
        until("some of the file", async || (server.sent() - before >= 300_000).then_some(())).await;
        disk.resize("5m").await;
        // The regular check needs no further byte; a write that fails does.
        if says == "could not write" {
            server.release();
        }
        let stream = hive.stream(&id).await;
        server.release();
        let failure = hive.job(&id).await["failure"].clone();
        assert_eq!(failure["code"], "disk_full", "{failure}\n{stream}");
        assert!(failure["message"].as_str().is_some_and(|text| text.contains(says)), "{failure}");
        assert!(stream.contains("data: Kept ") && !store.join(name).exists(), "{stream}");

        disk.resize("1g").await;
        let url = server.serve(name, Served::correct(body.clone()));
        let stream = hive.run(&download(&url)).await;
        assert!(stream.contains("Resuming ") && stream.ends_with("data: [DONE]\n\n"), "{stream}");
        assert_eq!(fs::read(store.join(name)).expect("a file"), body);
        let sent = server.sent() - before;
        assert!(sent < body.len() as u64 * 3 / 2, "{sent} bytes were sent for {}", body.len());
        let id = name.trim_end_matches(".gguf");
        hive.succeed(&json!({ "ModelDelete": { "id": id } })).await;
        assert_eq!(fs::read_dir(&store).expect("a store").count(), 0);
        hive.stop().await;
    }
}
