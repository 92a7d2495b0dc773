//! Engines that the hive installs, over TLS from a stand-in of GitHub: installed, used, updated, gone back to, removed;
//! and installs that are stopped, killed, refused or have no room, after which what was there before is as it was.

use std::path::PathBuf;

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::support::builds::{HANGS, crashing_build, hanging_build, working_build, wrong_build};
use crate::support::github::{Asked, Digests, FakeGitHub, archive_name, engine_archive, hostile_archive};
use crate::support::{
    Daemon, Gpus, Scripted, SmallDisk, TestHive, check_of, client, data_lines, files_beneath, folder,
    has_chunk, process_runs, skipped, until, write_foreign_model, write_model, write_model_that_says,
};

const CPU: &str = "llama-server-cpu";
/// Settings for builds that tell the test things by files elsewhere.
const BY_FILES: &str = "[workers]\nsandbox = \"off\"\n";
/// What clients take for a failure.
const FAILING: [&str; 5] = ["❌", "✗", "failed:", "error details:", "error:"];

/// What a hive installs engines from, and its folder.
struct Place {
    dir: TempDir,
    github: FakeGitHub,
}

impl Place {
    async fn new() -> Self {
        let dir = folder();
        let github = FakeGitHub::start_over_tls(&dir.path().join("authority.pem")).await;
        // One connection and small chunks, so that a part of an archive is kept, and not all of it.
        let settings = format!(
            "[engine_builds]\nreleases = {:?}\n[downloads]\nchunk_bytes = 65536\nconnections = 1\n",
            github.releases
        );
        std::fs::write(dir.path().join("hive.toml"), settings).expect("settings");
        Self { dir, github }
    }

    /// A place where the version b1001 was installed.
    async fn with_engine() -> (Self, Daemon) {
        let place = Self::new().await;
        place.publish("b1001", &working_build("b1001"), 0);
        let hive = place.start().await;
        hive.succeed(&install("latest")).await;
        (place, hive)
    }

    /// Starts the hive, which trusts the stand-in's certificate.
    async fn start(&self) -> Daemon {
        self.start_with(&[]).await
    }

    /// The same, with more in its environment.
    async fn start_with(&self, more: &[(&str, String)]) -> Daemon {
        let of = |name: &str| self.dir.path().join(name).to_str().expect("UTF-8").to_owned();
        let (settings, authority) = (of("hive.toml"), of("authority.pem"));
        let more = more.iter().map(|(name, value)| (*name, value.as_str()));
        let environment: Vec<_> = more.chain([("SSL_CERT_FILE", authority.as_str())]).collect();
        Daemon::start_with(self.dir.path(), &["--config", &settings], &environment).await
    }

    /// Adds to the settings.
    fn set(&self, settings: &str) {
        let path = self.dir.path().join("hive.toml");
        let before = std::fs::read_to_string(&path).expect("settings");
        std::fs::write(path, before + settings).expect("settings");
    }

    /// Publishes a release with this program in its archive, and with so many bytes that cannot be compressed.
    fn publish(&self, tag: &str, program: &[u8], filler: usize) {
        self.github.publish(tag, &[(&archive_name(tag), &engine_archive(tag, program, filler))]);
    }

    fn engines(&self) -> PathBuf {
        self.dir.path().join("data/engines")
    }

    /// The requests for archives from the `skip`ped one on.
    fn fetches(&self, skip: usize) -> Vec<Asked> {
        let asked = self.github.asked().into_iter();
        asked.filter(|asked| asked.server == "storage").skip(skip).collect()
    }

    /// Waits until a part of an archive is stored.
    async fn part_of(&self, tag: &str) {
        let journal = self.engines().join(format!("downloads/{}.partial.journal", archive_name(tag)));
        until("a chunk", || async { has_chunk(&journal) }).await;
    }

    /// Checks that the version b1001 is in use and whole, and that nothing half-done lies beside it. Gives what did
    /// not prove itself.
    async fn still_has_the_first(&self, hive: &Daemon) -> Value {
        self.still_has(hive, &working_build("b1001")).await
    }

    /// The same, where its program is this one.
    async fn still_has(&self, hive: &Daemon, contents: &[u8]) -> Value {
        let listed = hive.succeed(&json!({ "WorkerListInstalled": {} })).await;
        assert_eq!(listed["workers"][0]["version"], "b1001", "{listed}");
        let program = listed["workers"][0]["path"].as_str().expect("a path");
        assert!(std::fs::read(program).expect("a program") == contents, "{program} is another one");
        let drafts = std::fs::read_dir(self.engines().join("drafts"));
        assert_eq!(drafts.map_or(0, Iterator::count), 0, "no draft is left");
        listed["failed"].clone()
    }
}

fn install(version: &str) -> Value {
    json!({ "WorkerInstall": { "worker_id": CPU, "version": version } })
}

/// Cancels a job, and gives its stream.
async fn cancel(hive: &Daemon, job: &str) -> String {
    let cancelled = client().delete(format!("{}/v1/jobs/{job}", hive.url)).send().await;
    assert!(cancelled.expect("an answer").status().is_success());
    let stream = hive.stream(job).await;
    assert_eq!(hive.json(&format!("/v1/jobs/{job}")).await["state"], "cancelled", "{stream}");
    stream
}

async fn chat(hive: &Daemon) -> Value {
    let message = json!({ "role": "user", "content": "Hi" });
    let request = json!({ "model": "m", "messages": [message], "max_tokens": 32, "temperature": 0 });
    let answer = hive.try_post("/v1/chat/completions", &request).await.expect("an answer");
    let answer: Value = answer.json().await.expect("JSON");
    answer["choices"][0]["message"]["content"].clone()
}

/// The whole life of an engine, whose versions have the programs that `build` makes.
async fn live_and_die(build: impl Fn(&str) -> Vec<u8>) {
    let place = Place::new().await;
    place.publish("b1001", &build("b1001"), 4096);
    let hive = place.start().await;
    let models = place.dir.path().join("models");
    let offers = hive.succeed(&json!({ "WorkerCatalogList": {} })).await;
    let cpu = offers["workers"].as_array().expect("offers").iter().find(|offer| offer["id"] == CPU);
    let cpu = cpu.expect("an offer for the processor");
    assert_eq!(
        (&cpu["version"], &cpu["installed"], &cpu["problem"]),
        (&json!("b1001"), &Value::Null, &Value::Null)
    );

    let job = hive.submit(&install("latest")).await;
    let stream = hive.stream(&job).await;
    assert_eq!(data_lines(&stream).last().map(String::as_str), Some("[DONE]"), "{stream}");
    for failing in FAILING {
        assert!(!stream.contains(failing), "clients take {failing} for a failure: {stream}");
    }
    let listed = hive.succeed(&json!({ "WorkerListInstalled": {} })).await;
    assert_eq!(
        (&listed["workers"][0]["version"], &listed["failed"]),
        (&json!("b1001"), &json!([])),
        "{listed}"
    );
    let check = hive.succeed(&json!({ "HiveCheck": {} })).await;
    let sandbox = check_of(&check, "sandbox")["detail"].as_str().expect("a detail");
    assert!(!sandbox.contains("but for"), "its script names what it runs: {sandbox}");
    let again = hive.succeed(&install("latest")).await;
    assert_eq!((&again["version"], &again["previous"]), (&json!("b1001"), &Value::Null));
    write_model(&models, "m");
    let load = json!({ "ModelLoad": { "id": "m" } });
    let worker = hive.succeed(&load).await;
    assert_eq!(worker["engine"], CPU, "{worker}");
    let answer = chat(&hive).await;
    assert!(answer.as_str().is_some_and(|text| text.contains("Hello from a small model.")), "{answer}");
    let remove = json!({ "WorkerRemove": { "worker_id": CPU } });
    let refused = hive.fail(&remove).await;
    assert_eq!(refused["code"], "engine_in_use");
    assert!(refused["message"].as_str().is_some_and(|told| told.contains(&worker["pid"].to_string())));

    // With no model to compare the versions with: no test depends on the speed of the machine.
    std::fs::rename(models.join("m.gguf"), place.dir.path().join("m.gguf")).expect("it moves");
    place.publish("b1002", &build("b1002"), 4096);
    let updated = hive.succeed(&install("latest")).await;
    assert_eq!(
        (&updated["version"], &updated["previous"]["version"]),
        (&json!("b1002"), &json!("b1001")),
        "{updated}"
    );
    std::fs::rename(place.dir.path().join("m.gguf"), models.join("m.gguf")).expect("it moves");
    assert_eq!(hive.succeed(&json!({ "WorkerProcessList": {} })).await[0]["pid"], worker["pid"]);
    let back = hive.succeed(&install("b1001")).await;
    assert_eq!(
        (&back["version"], &back["previous"]["version"]),
        (&json!("b1001"), &json!("b1002")),
        "{back}"
    );

    place.publish("b1003", &crashing_build(), 0);
    assert_eq!(hive.fail(&install("b1003")).await["code"], "engine_unproven");
    let failed = place.still_has(&hive, &build("b1001")).await;
    assert_eq!(failed[0]["version"], "b1003", "{failed}");
    assert_eq!(chat(&hive).await, answer, "the same worker serves on");

    hive.succeed(&json!({ "ModelUnload": { "id": "m" } })).await;
    assert!(hive.succeed(&remove).await["freed_bytes"].as_u64() > Some(0));
    let gone = hive.fail(&json!({ "WorkerInstalledGet": { "worker_id": CPU } })).await;
    assert_eq!(gone["code"], "engine_not_found");
    assert_eq!(hive.succeed(&load).await["engine"], "builtin");
    hive.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_engine_is_installed_used_updated_gone_back_to_and_removed() {
    live_and_die(working_build).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_real_llama_server_is_installed_used_updated_gone_back_to_and_removed() {
    let named = std::env::var("RBEE_TEST_LLAMA_SERVER").ok().filter(|program| !program.is_empty());
    let Some(program) = named else {
        skipped("RBEE_TEST_LLAMA_SERVER names no llama-server; .ci/llama-server builds one");
        return;
    };
    live_and_die(|_| format!("#!/bin/sh\nexec '{program}' \"$@\"\n").into_bytes()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_version_that_is_slower_than_the_one_before_is_told_and_not_used() {
    let place = Place::new().await;
    place.set(BY_FILES);
    let [old, slow, fast] = std::array::from_fn(|_| Scripted::new());
    let first = old.build("b1001", 50);
    place.publish("b1001", &first, 0);
    let hive = place.start().await;
    write_model(&place.dir.path().join("models"), "m");
    let speed = |installed: &Value| {
        assert_eq!(installed["measured"]["model"], "m", "{installed}");
        installed["measured"]["tokens_per_second"].as_f64().map(f64::round)
    };
    assert_eq!(speed(&hive.succeed(&install("latest")).await), Some(50.0));

    place.publish("b1002", &slow.build("b1002", 20), 0);
    let refused = hive.fail(&install("latest")).await;
    assert_eq!((&refused["code"], &refused["stage"]), (&json!("engine_unproven"), &json!("speed")));
    let told = refused["message"].as_str().expect("a message");
    for part in [
        "with 'm' it writes 20.0 tokens a second, the version before 50.0",
        "; b1001 stays in use; its log is ",
    ] {
        assert!(told.contains(part), "{told}");
    }
    let failed = place.still_has(&hive, &first).await;
    assert_eq!(failed[0]["version"], "b1002", "{failed}");
    let log = std::fs::read_to_string(failed[0]["log"].as_str().expect("a path")).expect("a log");
    assert!(log.contains("it writes 20.0 tokens a second"), "{log}");
    assert_eq!(hive.succeed(&json!({ "ModelLoad": { "id": "m" } })).await["engine"], CPU);
    assert!(old.log().contains(&"start m".to_owned()) && !slow.log().contains(&"start m".to_owned()));

    place.publish("b1003", &fast.build("b1003", 80), 0);
    let updated = hive.succeed(&install("latest")).await;
    assert_eq!((speed(&updated), &updated["previous"]["version"]), (Some(80.0), &json!("b1001")));
    let listed = hive.succeed(&json!({ "WorkerListInstalled": {} })).await;
    assert_eq!(listed["failed"], json!([]), "something better came");
    hive.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_engine_is_not_removed_while_a_load_on_it_has_begun() {
    let place = Place::new().await;
    place.set(BY_FILES);
    let scripted = Scripted::new();
    place.publish("b1001", &scripted.build("b1001", 50), 0);
    let hive = place.start().await;
    hive.succeed(&install("latest")).await;
    write_model(&place.dir.path().join("models"), "m");
    scripted.set("m.loading");
    let load = hive.submit(&json!({ "ModelLoad": { "id": "m" } })).await;
    until("the load", async || scripted.log().contains(&"start m".to_owned()).then_some(())).await;
    let remove = json!({ "WorkerRemove": { "worker_id": CPU } });
    let refused = hive.fail(&remove).await;
    let listed = hive.succeed(&json!({ "WorkerProcessList": {} })).await;
    let pid = listed[0]["pid"].to_string();
    assert_eq!(refused["code"], "engine_in_use", "{refused}");
    assert!(refused["message"].as_str().is_some_and(|told| told.ends_with(&pid)), "{pid}: {refused}");
    scripted.clear("m.loading");
    hive.stream(&load).await;
    hive.succeed(&json!({ "ModelUnload": { "id": "m" } })).await;
    hive.succeed(&remove).await;
    assert_eq!(files_beneath(&place.engines().join(CPU)), [] as [PathBuf; 0]);
    hive.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_engine_whose_program_somebody_has_removed_is_installed_anew() {
    let (place, hive) = Place::with_engine().await;
    let get = json!({ "WorkerInstalledGet": { "worker_id": CPU } });
    let path = hive.succeed(&get).await["path"].clone();
    std::fs::remove_file(path.as_str().expect("a path")).expect("it is there");
    let installed = hive.succeed(&install("latest")).await;
    assert_eq!((&installed["version"], &installed["previous"]), (&json!("b1001"), &Value::Null));
    place.still_has_the_first(&hive).await;
    hive.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_releases_are_asked_anew_where_somebody_says_so_and_it_is_told_where_they_cannot_be() {
    let place = Place::new().await;
    place.publish("b1001", b"#!/bin/sh\n", 0);
    let hive = place.start().await;
    let list = |refresh: bool| json!({ "WorkerCatalogList": { "refresh": refresh } });
    let version = |offers: &Value| offers["workers"][0]["version"].clone();
    assert_eq!(version(&hive.succeed(&list(false)).await), "b1001");
    place.publish("b1002", b"#!/bin/sh\n", 0);
    assert_eq!(version(&hive.succeed(&list(false)).await), "b1001");
    assert_eq!(place.github.count("api"), 1);
    assert_eq!(version(&hive.succeed(&list(true)).await), "b1002");
    place.github.limit(Some(600));
    let job = hive.submit(&list(true)).await;
    let stream = hive.stream(&job).await;
    for part in
        ["lets this address ask for no more releases for now: going on with release b1002", "\"b1002\""]
    {
        assert!(stream.contains(part), "{stream}");
    }
    hive.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_model_is_advised_what_the_catalog_recommends_once_that_was_asked() {
    let place = Place::new().await;
    place.set("[llama_server]\nprogram = \"/no/such/llama-server\"\n");
    // A release for the processor alone.
    place.publish("b1001", b"#!/bin/sh\n", 0);
    let gpus = Gpus::new(place.dir.path(), "gpu 24564 1000 37 NVIDIA GeForce RTX 4090\n");
    let hive = place.start_with(&gpus.environment()).await;
    write_foreign_model(&place.dir.path().join("models"), "other");
    let advised = async || {
        let model = hive.succeed(&json!({ "ModelGet": { "id": "other" } })).await;
        model["engine_advice"]["worker_id"].clone()
    };
    assert_eq!(advised().await, "llama-server-cuda", "nobody knows yet what can be had");
    let offers = hive.succeed(&json!({ "WorkerCatalogList": {} })).await;
    let best = &offers["workers"][0];
    // Where CUDA's compiler is, it can be built.
    assert!(best["recommended"] == true && best["problem"].is_null(), "{offers}");
    assert_eq!(advised().await, best["id"]);
    hive.stop().await;
}

/// A hive whose settings name the archive at that URL.
async fn hive_with_archive(url: String) -> TestHive {
    TestHive::start_with(|config| {
        config.engine_builds.archive = Some(url);
        config.engine_builds.archive_sha256 = Some("0".repeat(64));
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn an_archive_by_url_is_planned_with_its_size_and_for_its_kind_of_device_alone() {
    let github = FakeGitHub::start().await;
    let archive = engine_archive("b1001", b"#!/bin/sh\n", 4096);
    let for_cuda = "llama-b1001-bin-ubuntu-cuda-12.8-x64.tar.gz";
    github.publish("b1001", &[(&archive_name("b1001"), &archive), (for_cuda, &archive)]);
    let asked = client().get(format!("{}/latest", github.releases)).send().await.expect("an answer");
    let release: Value = asked.json().await.expect("JSON");
    let url =
        |index: usize| release["assets"][index]["browser_download_url"].as_str().expect("a URL").to_owned();
    let dry_run = json!({ "WorkerInstall": { "worker_id": CPU, "dry_run": true } });
    let offer = async |hive: &TestHive| {
        let offers = hive.succeed(&json!({ "WorkerCatalogList": {} })).await;
        let workers = offers["workers"].as_array().expect("offers");
        workers.iter().find(|offer| offer["id"] == CPU).expect("one for the processor").clone()
    };

    let hive = hive_with_archive(url(0)).await;
    let plan = hive.succeed(&dry_run).await;
    assert_eq!((&plan["version"], &plan["from"]), (&json!("b1001"), &json!("archive")), "{plan}");
    assert_eq!(plan["transfer_bytes"], archive.len(), "{plan}");
    assert!(plan["needed_bytes"].as_u64() > Some(archive.len() as u64), "{plan}");
    let it = offer(&hive).await;
    assert_eq!((&it["version"], &it["problem"]), (&json!("b1001"), &Value::Null), "{it}");
    hive.stop().await;

    let hive = hive_with_archive(format!("{}.missing", url(0))).await;
    let failure = hive.fail(&dry_run).await;
    assert_eq!((&failure["code"], &failure["stage"]), (&json!("source_not_found"), &json!("preflight")));
    hive.stop().await;

    let hive = hive_with_archive(url(1)).await;
    let failure = hive.fail(&dry_run).await;
    assert_eq!(failure["code"], "engine_unavailable", "{failure}");
    let told = format!("the settings name {for_cuda}, which is for cuda");
    assert!(failure["message"].as_str().is_some_and(|message| message.ends_with(&told)), "{failure}");
    assert!(offer(&hive).await["problem"].as_str().is_some_and(|problem| problem.contains(&told)));
    hive.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dry_run_of_an_install_tells_the_plan_and_fetches_nothing() {
    let place = Place::new().await;
    place.publish("b1001", b"#!/bin/sh\n", 4096);
    let hive = place.start().await;
    let plan = json!({ "WorkerInstall": { "worker_id": CPU, "dry_run": true } });
    let plan = hive.succeed(&plan).await;
    assert_eq!(
        (&plan["version"], &plan["from"], &plan["fits"]),
        (&json!("b1001"), &json!("release"), &json!(true))
    );
    assert_eq!(place.github.count("storage"), 0, "{plan}");
    let unknown = json!({ "WorkerInstall": { "worker_id": "vllm" } });
    assert_eq!(hive.fail(&unknown).await["code"], "engine_not_found");
    hive.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_install_that_is_cancelled_or_killed_while_it_fetches_goes_on_where_it_was() {
    let (place, hive) = Place::with_engine().await;
    // So large that it does not end by itself before the hive is killed: each answer has a part of it.
    place.publish("b1002", &working_build("b1002"), 2_000_000);
    place.github.hold(Some(200_000));
    let job = hive.submit(&install("latest")).await;
    place.part_of("b1002").await;
    let stream = cancel(&hive, &job).await;
    assert!(stream.contains("data: Kept "), "{stream}");
    assert_eq!(place.still_has_the_first(&hive).await, json!([]));

    // It goes on, and is killed.
    let before = place.fetches(0).len();
    hive.submit(&install("latest")).await;
    until("the next request", || async { (!place.fetches(before).is_empty()).then_some(()) }).await;
    hive.kill().await;
    let hive = place.start().await;
    assert_eq!(place.still_has_the_first(&hive).await, json!([]));

    place.github.hold(None);
    let installed = hive.succeed(&install("latest")).await;
    assert_eq!(
        (&installed["version"], &installed["previous"]["version"]),
        (&json!("b1002"), &json!("b1001"))
    );
    let again = place.fetches(before);
    let starts_over = |asked: &Asked| asked.range.as_ref().is_none_or(|range| range.starts_with("bytes=0-"));
    assert!(!again.iter().any(starts_over), "{again:?}");
    assert_eq!(files_beneath(&place.engines().join("downloads")), [] as [PathBuf; 0]);
    hive.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hive_that_is_killed_while_it_tries_a_build_leaves_nothing_of_it() {
    let (place, hive) = Place::with_engine().await;
    // The build's process id, and the file that has it.
    let hangs = async || {
        let is_it = |path: &PathBuf| path.file_name().is_some_and(|name| name == HANGS);
        let file = until("the build to be tried", async || {
            files_beneath(&place.dir.path().join("data/workers")).into_iter().find(is_it)
        });
        let file = file.await;
        let pid =
            std::fs::read_to_string(&file).expect("a file").trim().parse::<u32>().expect("a process id");
        (pid, file)
    };
    place.publish("b1002", &hanging_build("b1002"), 4096);
    hive.submit(&install("latest")).await;
    let (pid, file) = hangs().await;
    assert!(process_runs(pid));
    hive.kill().await;
    let hive = place.start().await;
    until("the build's end", || async { (!process_runs(pid)).then_some(()) }).await;
    assert_eq!(place.still_has_the_first(&hive).await, json!([]), "nobody knows whether it works");
    assert_eq!(hive.succeed(&json!({ "WorkerProcessList": {} })).await, json!([]));

    // A try that is cancelled leaves as little.
    std::fs::remove_file(&file).expect("it is there");
    let job = hive.submit(&install("latest")).await;
    let (pid, _) = hangs().await;
    cancel(&hive, &job).await;
    assert!(!process_runs(pid));
    assert_eq!(place.still_has_the_first(&hive).await, json!([]));
    hive.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_may_not_be_installed_is_refused_and_the_version_before_stays() {
    let (place, hive) = Place::with_engine().await;
    place.publish("b1002", &working_build("b1002"), 4096);
    for (digests, code) in [(Digests::Missing, "engine_refused"), (Digests::Wrong, "download_failed")] {
        place.github.tell(digests);
        let refused = hive.fail(&install("latest")).await;
        assert_eq!(refused["code"], code, "{refused}");
        assert_eq!(place.still_has_the_first(&hive).await, json!([]));
    }
    place.github.tell(Digests::Right);
    let hostile = hostile_archive("b1003", &working_build("b1003"));
    place.github.publish("b1003", &[(&archive_name("b1003"), &hostile)]);
    let refused = hive.fail(&install("latest")).await;
    assert_eq!(refused["code"], "engine_refused", "{refused}");
    assert_eq!(place.still_has_the_first(&hive).await, json!([]));
    let files = files_beneath(place.dir.path());
    assert!(!files.iter().any(|file| file.ends_with("escaped")), "{files:?}");
    assert_eq!(files_beneath(&place.engines().join("downloads")), [] as [PathBuf; 0]);

    // What computes wrongly is kept aside with its log.
    let other = write_model_that_says(place.dir.path(), "other", "Nothing is well.");
    place.publish("b1004", &wrong_build("b1004", &other), 4096);
    let refused = hive.fail(&install("latest")).await;
    assert_eq!(refused["code"], "engine_unproven", "{refused}");
    assert!(refused["message"].as_str().is_some_and(|told| told.contains("Nothing is well")), "{refused}");
    let failed = place.still_has_the_first(&hive).await;
    assert_eq!(failed[0]["version"], "b1004", "{failed}");
    let log = std::fs::read_to_string(failed[0]["log"].as_str().expect("a path")).expect("a log");
    assert!(log.contains("answers wrongly"), "{log}");
    hive.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_engine_that_has_no_room_is_refused_before_it_is_fetched_and_leaves_nothing_where_it_grows() {
    let place = Place::new().await;
    let Some(disk) = SmallDisk::mount(&place.dir.path().join("data")).await else { return };
    place.publish("b1001", &working_build("b1001"), 0);
    let hive = place.start().await;
    hive.succeed(&install("latest")).await;
    disk.resize("12m").await;

    place.publish("b1002", &working_build("b1002"), 4 << 20);
    let before = place.fetches(0).len();
    let plan = json!({ "WorkerInstall": { "worker_id": CPU, "dry_run": true } });
    assert_eq!(hive.succeed(&plan).await["fits"], false);
    let refused = hive.fail(&install("latest")).await;
    assert_eq!(
        (&refused["code"], &refused["stage"]),
        (&json!("disk_full"), &json!("preflight")),
        "{refused}"
    );
    assert_eq!(place.fetches(before).len(), 0);

    // It is much larger than its archive lets expect.
    let mut large = working_build("b1003");
    large.resize(15 << 20, b'\n');
    place.publish("b1003", &large, 0);
    let refused = hive.fail(&install("latest")).await;
    assert_eq!(refused["code"], "disk_full", "{refused}");
    assert_eq!(place.still_has_the_first(&hive).await, json!([]));
    hive.stop().await;
    drop(disk);
}
