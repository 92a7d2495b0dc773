//! Worker processes: their start, their service and their end, and that a failed one leaves nothing
//! behind.

use std::path::{Path, PathBuf};
use std::time::Duration;

use rbee_hive::engine::sample_model::SampleModel;
use rbee_hive::models::gguf::{Arrays, Header, TensorType, Value as Gguf, Writer};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

use crate::support::{
    TestHive, command, data_lines, process_exists, read_until, soon, typed, until, write_foreign_model,
    write_model,
};

async fn workers(hive: &TestHive) -> Vec<Value> {
    hive.succeed(&json!({ "WorkerProcessList": {} })).await.as_array().expect("an array").clone()
}

fn pid(worker: &Value) -> u32 {
    worker["pid"].as_u64().and_then(|pid| u32::try_from(pid).ok()).expect("a process id")
}

fn raw_pid(worker: &Value) -> Pid {
    Pid::from_raw(pid(worker).cast_signed()).expect("a process id")
}

/// No process of the worker's group runs any more.
fn assert_gone(pid: u32) {
    assert!(!process_exists(pid), "process {pid} still exists");
    #[cfg(target_os = "linux")]
    {
        let left: Vec<_> = processes()
            .filter_map(|process| process.stat().ok())
            .filter(|stat| stat.pgrp == pid.cast_signed() && stat.state != 'Z')
            .collect();
        assert!(left.is_empty(), "the group of {pid} still has {left:?}");
    }
}

#[cfg(target_os = "linux")]
fn processes() -> impl Iterator<Item = procfs::process::Process> {
    procfs::process::all_processes().expect("the processes").filter_map(Result::ok)
}

/// The command lines of this hive's processes that still run. Each names the hive's folder.
#[cfg(target_os = "linux")]
fn processes_of(hive: &TestHive) -> Vec<Vec<String>> {
    let folder = hive.dir().to_str().expect("text").to_owned();
    let names_folder = |words: &Vec<String>| words.iter().any(|word| word.contains(&folder));
    processes().filter_map(|process| process.cmdline().ok()).filter(names_folder).collect()
}

/// Other systems use the hive's own list.
#[cfg(not(target_os = "linux"))]
fn processes_of(hive: &TestHive) -> Vec<Vec<String>> {
    hive.app.workers.list().iter().map(|worker| vec![worker.pid.to_string()]).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_process_of_an_unloaded_worker_is_gone() {
    let hive = TestHive::start().await;
    write_model(&hive.models_dir(), "tiny");
    let worker = hive.load("tiny").await;
    assert_eq!(
        (&worker["status"], &worker["model"], &worker["device"]),
        (&json!("ready"), &json!("tiny"), &json!("cpu"))
    );
    assert!(process_exists(pid(&worker)));
    assert_eq!(processes_of(&hive).len(), 1);
    let model = hive.succeed(&json!({ "ModelGet": { "id": "tiny" } })).await;
    assert_eq!(model["loaded"], true);
    let stream = hive.run(&json!({ "ModelUnload": { "id": "tiny" } })).await;
    assert_gone(pid(&worker));
    assert!(stream.contains(&format!("Worker {} is gone", worker["pid"])), "{stream}");
    assert!(processes_of(&hive).is_empty() && workers(&hive).await.is_empty());
    assert_eq!(hive.succeed(&json!({ "ModelGet": { "id": "tiny" } })).await["loaded"], false);
    let again = hive.fail(&json!({ "ModelUnload": { "id": "tiny" } })).await;
    assert_eq!(again["code"], "model_not_loaded");
    hive.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn spawned_workers_are_listed_and_deleted_one_by_one() {
    let hive = TestHive::start().await;
    write_model(&hive.models_dir(), "tiny");
    let spawn =
        json!({ "WorkerSpawn": { "model": "tiny", "worker": "cpu", "slots": 2, "context_length": 256 } });
    let one = hive.succeed(&spawn).await;
    let other = hive
        .succeed(&json!({ "WorkerSpawn": { "model": "tiny", "worker": "builtin", "device": "cpu" } }))
        .await;
    assert_ne!(one["pid"], other["pid"]);
    assert_ne!(one["worker_id"], other["worker_id"]);
    let listed = workers(&hive).await;
    let pids: Vec<_> = listed.iter().map(|worker| &worker["pid"]).collect();
    assert_eq!(pids, [&one["pid"], &other["pid"]]);
    let keys: Vec<_> = listed[0].as_object().expect("an object").keys().map(String::as_str).collect();
    let contract = "worker_id pid model device port url engine status started_at uptime_seconds cpu_percent \
                    rss_bytes vram_bytes context_length slots requests tokens_generated last_exit";
    let added = "queue_ms time_to_first_token_ms tokens_per_second prompt_tokens cached_tokens trial";
    let fields = contract.split_whitespace().chain(added.split_whitespace());
    assert_eq!(keys, fields.collect::<Vec<_>>());
    assert_eq!((&listed[0]["slots"], &listed[0]["context_length"]), (&json!(2), &json!(256)));
    assert!(listed[0]["rss_bytes"].as_u64() > Some(1 << 20), "{listed:?}");

    let delete = json!({ "WorkerProcessDelete": { "pid": one["pid"], "grace_seconds": 30 } });
    let stopped = hive.succeed(&delete).await;
    assert_eq!(stopped["pid"], one["pid"]);
    assert_eq!(
        (&stopped["exit_code"], &stopped["signal"]),
        (&json!(0), &Value::Null),
        "it had time to end by itself"
    );
    assert!(stopped["freed_bytes"].as_u64() > Some(1 << 20), "{stopped}");
    assert_gone(pid(&one));
    assert!(process_exists(pid(&other)), "the other worker still serves");
    assert_eq!(hive.fail(&delete).await["code"], "worker_not_found");

    // A suspended process cannot react to SIGTERM.
    kill_process(raw_pid(&other), Signal::STOP).expect("it lives");
    let delete = json!({ "WorkerProcessDelete": { "pid": other["pid"], "grace_seconds": 0 } });
    let stopped = hive.succeed(&delete).await;
    assert_eq!((&stopped["exit_code"], &stopped["signal"]), (&Value::Null, &json!("SIGKILL")));
    assert_gone(pid(&other));
    hive.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn processes_that_are_not_workers_are_never_touched() {
    let hive = TestHive::start().await;
    let mut other = command("sleep").arg("600").spawn().expect("a process");
    let foreign = other.id().expect("it runs");
    for pid in [0, 1, std::process::id(), foreign, u32::MAX] {
        for operation in [
            json!({ "WorkerProcessDelete": { "pid": pid, "grace_seconds": 0 } }),
            json!({ "WorkerProcessGet": { "pid": pid } }),
        ] {
            let failure = hive.fail(&operation).await;
            assert_eq!(failure["code"], "worker_not_found");
            let message = failure["message"].as_str().expect("a message");
            assert!(message.contains(&format!("process {pid} ")), "{failure}");
            assert!(
                failure["hint"].as_str().is_some_and(|hint| hint.contains("WorkerProcessList")),
                "{failure}"
            );
        }
    }
    assert!(process_exists(1) && other.try_wait().expect("its state").is_none(), "unharmed");
    other.kill().await.expect("it runs");
    hive.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_crash_is_reported_and_differs_from_a_stop() {
    let hive = TestHive::start().await;
    write_model(&hive.models_dir(), "tiny");
    let mut events = hive.get("/v1/events").await;
    let mut seen = String::new();
    read_until(&mut events, &mut seen, "event: snapshot").await;
    let worker = hive.load("tiny").await;
    kill_process(raw_pid(&worker), Signal::KILL).expect("it lives");
    read_until(&mut events, &mut seen, "killed by SIGKILL").await;
    let crash = seen.lines().find(|line| line.contains("killed by SIGKILL")).expect("a line");
    let crash: Value = serde_json::from_str(crash.strip_prefix("data: ").expect("data")).expect("JSON");
    assert_eq!(crash["worker"]["status"], "crashed");
    let [listed] = &workers(&hive).await[..] else { panic!("it stays in the list") };
    assert_eq!((&listed["pid"], &listed["status"]), (&worker["pid"], &json!("crashed")));
    assert_eq!(listed["last_exit"], "killed by SIGKILL");
    assert_gone(pid(&worker));
    assert_eq!(hive.succeed(&json!({ "ModelGet": { "id": "tiny" } })).await["loaded"], false);
    read_until(&mut events, &mut seen, r#""status":"degraded""#).await;
    // The next load replaces it.
    let next = hive.load("tiny").await;
    assert_ne!(next["worker_id"], worker["worker_id"]);
    let [listed] = &workers(&hive).await[..] else { panic!("the crashed one has left") };
    assert_eq!(listed["pid"], next["pid"]);
    drop(events);
    hive.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn missing_engines_and_devices_are_refused_with_a_list_of_those_here() {
    let hive = TestHive::start().await;
    write_model(&hive.models_dir(), "tiny");
    let load = |device: Value| json!({ "ModelLoad": { "id": "tiny", "device": device } });
    let spawn = |worker: &str, device: Value| json!({ "WorkerSpawn": { "model": "tiny", "worker": worker, "device": device } });
    for (operation, code, says) in [
        (load(json!(0)), "device_unavailable", "no GPU 0"),
        (load(json!("0")), "device_unavailable", "no GPU 0"),
        (load(json!("cuda:0")), "device_unavailable", "cuda:0"),
        (load(json!("metal")), "device_unavailable", "metal"),
        (spawn("cpu", json!(7)), "device_unavailable", "'7'"),
        (spawn("cuda", json!(0)), "engine_unavailable", "'cuda'"),
        (spawn("vllm", json!(0)), "engine_unavailable", "'vllm'"),
        (spawn("/bin/sh", json!(0)), "engine_unavailable", "'/bin/sh'"),
    ] {
        let failure = hive.fail(&operation).await;
        assert_eq!(failure["code"], code, "{operation}: {failure}");
        let message = failure["message"].as_str().expect("a message");
        let here =
            if code == "engine_unavailable" { "installed: builtin (cpu)" } else { "this hive has: cpu" };
        assert!(message.contains(says) && message.contains(here), "{operation}: {failure}");
        assert_eq!(failure["stage"], "preflight");
        assert!(failure["hint"].is_string());
    }
    assert!(workers(&hive).await.is_empty() && processes_of(&hive).is_empty());
    hive.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dry_run_reports_what_a_load_would_do_and_starts_nothing() {
    let hive = TestHive::start().await;
    write_model(&hive.models_dir(), "tiny");
    // No machine has enough memory for the KV cache of this context.
    SampleModel { name: "vast".to_owned(), context_length: u32::MAX, ..SampleModel::default() }
        .write(&hive.models_dir().join("vast.gguf"))
        .expect("a model");
    let plan = async |operation: Value| hive.succeed(&json!({ "ModelLoad": operation })).await;
    let number = |plan: &Value, key: &str| plan[key].as_u64().unwrap_or_else(|| panic!("{key}: {plan}"));

    let small = plan(json!({ "id": "tiny", "dry_run": true, "context_length": 512 })).await;
    let keys: Vec<_> = small.as_object().expect("an object").keys().map(String::as_str).collect();
    let documented = "model worker engine device reason fits obstacle engine_advice required_bytes free_bytes \
                      capacity_bytes missing_bytes source_of_estimate formula_bytes formula_error_bytes parts split slowdown \
                      context_length slots stoppable_workers foreign_processes evictions waits_for";
    assert_eq!(keys, documented.split_whitespace().collect::<Vec<_>>());
    assert_eq!(
        (&small["model"], &small["worker"], &small["engine"], &small["device"], &small["fits"]),
        (&json!("tiny"), &Value::Null, &json!("builtin"), &json!("cpu"), &json!(true))
    );
    assert_eq!((number(&small, "context_length"), number(&small, "slots")), (512, 1));
    assert_eq!(number(&small, "missing_bytes"), 0);
    assert_eq!(small["obstacle"], Value::Null);
    write_foreign_model(&hive.models_dir(), "other");
    let dry = json!({ "id": "other", "dry_run": true });
    let told = hive.run(&json!({ "ModelLoad": dry })).await;
    assert!(told.contains("Engine 'builtin' does not run 'other': general.architecture"), "{told}");
    let foreign = plan(dry).await;
    let wanted = "general.architecture is \"gemma\"; the built-in engine runs only these: ";
    assert!(foreign["obstacle"].as_str().is_some_and(|told| told.starts_with(wanted)), "{foreign}");
    assert_eq!((&foreign["fits"], number(&foreign, "missing_bytes")), (&json!(false), 0), "{foreign}");
    let refused = hive.fail(&json!({ "ModelLoad": { "id": "other" } })).await;
    assert_eq!((&refused["code"], &refused["stage"]), (&json!("model_unsupported"), &json!("preflight")));
    let forced = hive.fail(&json!({ "ModelLoad": { "id": "other", "force": true } })).await;
    assert_eq!(
        (&forced["code"], &forced["stage"]),
        (&json!("model_unsupported"), &json!("load")),
        "{forced}"
    );
    assert!(number(&small, "free_bytes") <= number(&small, "capacity_bytes"), "{small}");
    let parts = |plan: &Value| -> Vec<(String, u64)> {
        let parts = plan["parts"].as_array().expect("an array").iter();
        parts.map(|part| (part["name"].as_str().expect("a name").to_owned(), number(part, "bytes"))).collect()
    };
    let names: Vec<_> = parts(&small).into_iter().map(|(name, _)| name).collect();
    assert_eq!(names, ["weights", "kv_cache", "overhead"]);
    assert_eq!(parts(&small).iter().map(|(_, bytes)| bytes).sum::<u64>(), number(&small, "required_bytes"));

    let vast = json!({ "id": "vast", "context_length": u32::MAX });
    let mut dry = vast.clone();
    dry["dry_run"] = json!(true);
    let vast_plan = plan(dry).await;
    assert_eq!(vast_plan["fits"], false);
    assert!(number(&vast_plan, "missing_bytes") > 1 << 30, "{vast_plan}");
    let refused = hive.fail(&json!({ "ModelLoad": vast })).await;
    assert_eq!(refused["code"], "out_of_memory", "as planned");
    assert!(workers(&hive).await.is_empty() && processes_of(&hive).is_empty(), "nothing was started");

    let worker = hive.load("tiny").await;
    let again = plan(json!({ "id": "tiny", "dry_run": true })).await;
    assert_eq!((&again["worker"]["pid"], &again["fits"]), (&worker["pid"], &json!(true)));
    assert_eq!((number(&again, "required_bytes"), parts(&again)), (0, Vec::new()));
    let stoppable = again["stoppable_workers"].as_array().expect("an array");
    assert_eq!((&stoppable[0]["pid"], &stoppable[0]["status"]), (&worker["pid"], &json!("ready")));
    assert!(number(&stoppable[0], "held_bytes") > 1 << 20, "{again}");
    assert_eq!(workers(&hive).await.len(), 1);
    assert_eq!(
        hive.fail(&json!({ "ModelLoad": { "id": "nothing", "dry_run": true } })).await["code"],
        "model_not_found"
    );
    hive.stop().await;
}

/// Copies a valid model with other metadata and tensors. A key or tensor for which the function returns
/// `None` is left out.
fn rewrite(
    from: &Path,
    to: &Path,
    metadata: impl Fn(&str, &Gguf) -> Option<Gguf>,
    tensor: impl Fn(&str, TensorType, Vec<u8>) -> Option<(TensorType, Vec<u8>)>,
) {
    let header = Header::read(from, Arrays::Keep).expect("a valid file");
    let bytes = std::fs::read(from).expect("its bytes");
    let mut writer = Writer::default();
    for (key, value) in header.metadata.iter() {
        if let Some(value) = metadata(key, value) {
            writer.metadata(key, value);
        }
    }
    for info in &header.tensors {
        let start = usize::try_from(header.data_offset + info.offset).expect("a small file");
        let data = bytes[start..start + usize::try_from(info.bytes).expect("a small file")].to_vec();
        if let Some((kind, data)) = tensor(&info.name, info.kind, data) {
            writer.tensor(&info.name, &info.shape, kind, data);
        }
    }
    let mut file = std::fs::File::create(to).expect("a file");
    writer.write(&mut file).expect("it is written");
}

fn same_metadata(_: &str, value: &Gguf) -> Option<Gguf> {
    Some(value.clone())
}

/// Replaces the value of one key; `None` removes the key.
fn with_value(key: &'static str, value: Option<Gguf>) -> impl Fn(&str, &Gguf) -> Option<Gguf> {
    move |other, own| if other == key { value.clone() } else { Some(own.clone()) }
}

fn text(text: &str) -> Option<Gguf> {
    Some(Gguf::String(text.to_owned()))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_or_unsupported_file_is_named_and_leaves_no_process() {
    let hive = TestHive::start().await;
    let dir = hive.models_dir();
    let sound = write_model(tempfile::tempdir_in(hive.dir()).expect("a folder").keep().as_path(), "sound");
    let bytes = std::fs::read(&sound).expect("its bytes");
    let header = Header::read(&sound, Arrays::Keep).expect("a sound file");
    let data_offset = usize::try_from(header.data_offset).expect("a small file");

    // The file's stem, the failure's code, and the field that the failure names.
    let mut cases: Vec<(&str, &str, &str)> = Vec::new();
    let truncated = [
        ("cut-0", 0, "magic"),
        ("cut-3", 3, "magic"),
        ("cut-9", 9, "count"),
        ("cut-metadata", data_offset / 4, "metadata"),
        ("cut-tensors", data_offset - 64, "tensor"),
        ("cut-data", data_offset + 1000, "tensor"),
        ("cut-end", bytes.len() - 64, "tensor"),
    ];
    for (stem, length, field) in truncated {
        std::fs::write(dir.join(format!("{stem}.gguf")), &bytes[..length]).expect("a file");
        cases.push((stem, "model_incomplete", field));
    }
    std::fs::write(dir.join("words.gguf"), "This is a README, in the end. ".repeat(100)).expect("a file");
    cases.push(("words", "model_corrupt", "magic"));
    let mut version = bytes.clone();
    version[4] = 9;
    std::fs::write(dir.join("version.gguf"), version).expect("a file");
    cases.push(("version", "model_unsupported", "version"));

    let same = |_: &str, kind, data| Some((kind, data));
    let variant = |stem: &str| dir.join(format!("{stem}.gguf"));
    let metadata: [(&str, &str, &'static str, Option<Gguf>); 8] = [
        ("mamba", "model_unsupported", "general.architecture", text("mamba")),
        ("nameless", "model_corrupt", "general.architecture", None),
        ("tokenizer", "model_unsupported", "tokenizer.ggml.model", text("rwkv")),
        ("pretokenizer", "model_unsupported", "tokenizer.ggml.pre", text("unheard-of")),
        ("tokenless", "model_corrupt", "tokenizer.ggml.tokens", None),
        ("headless", "model_corrupt", "llama.attention.head_count", Some(Gguf::U32(0))),
        ("wide", "model_corrupt", "token_embd.weight", Some(Gguf::U32(512))),
        ("scaled", "model_unsupported", "llama.rope.scaling.type", text("yarn")),
    ];
    for (stem, code, field, value) in metadata {
        let key = if stem == "wide" { "llama.embedding_length" } else { field };
        if stem == "scaled" {
            // The valid file does not have this key.
            rewrite(&sound, &variant(stem), same_metadata, same);
            let mut writer = Writer::default();
            for (key, value) in header.metadata.iter() {
                writer.metadata(key, value.clone());
            }
            writer.metadata(key, value.clone().expect("a value"));
            for info in &header.tensors {
                let start = data_offset + usize::try_from(info.offset).expect("small");
                let data = bytes[start..start + usize::try_from(info.bytes).expect("small")].to_vec();
                writer.tensor(&info.name, &info.shape, info.kind, data);
            }
            writer.write(&mut std::fs::File::create(variant(stem)).expect("a file")).expect("it is written");
        } else {
            rewrite(&sound, &variant(stem), with_value(key, value), same);
        }
        cases.push((stem, code, field));
    }
    rewrite(&sound, &variant("missing"), same_metadata, |name, kind, data| {
        (name != "blk.1.ffn_up.weight").then_some((kind, data))
    });
    cases.push(("missing", "model_corrupt", "blk.1.ffn_up.weight"));
    rewrite(&sound, &variant("type"), same_metadata, |name, kind, data| {
        let blocks = data.len() / 34 * 32 / 256;
        Some(if name == "blk.0.attn_q.weight" {
            (TensorType::Iq2Xs, vec![0; blocks * 74])
        } else {
            (kind, data)
        })
    });
    cases.push(("type", "model_unsupported", "blk.0.attn_q.weight"));

    for (stem, code, field) in cases {
        for operation in [
            json!({ "ModelLoad": { "id": stem } }),
            json!({ "WorkerSpawn": { "model": stem, "worker": "cpu" } }),
        ] {
            let id = hive.submit(&operation).await;
            let stream = hive.stream(&id).await;
            let failure = hive.job(&id).await["failure"].clone();
            assert_eq!(failure["code"], code, "{stem}: {failure}");
            let message = failure["message"].as_str().expect("a message");
            assert!(message.contains(&format!("{stem}.gguf")), "{stem}: the file is not named: {failure}");
            assert!(message.contains(field), "{stem}: {field} is not named: {failure}");
            assert!(failure["hint"].as_str().is_some_and(|hint| hint.len() > 10), "{stem}: {failure}");
            assert!(failure["stage"].is_string(), "{stem}: {failure}");
            assert!(stream.contains(&format!("[ERROR] {message}")), "{stem}: {stream}");
            assert!(workers(&hive).await.is_empty(), "{stem} leaves a worker");
            assert!(processes_of(&hive).is_empty(), "{stem} leaves a process");
        }
    }
    hive.stop().await;
}

/// Makes a program out of a shell script. Another process writes it: if this process had the file open
/// for writing while it started a child elsewhere, the file could not be executed.
async fn script(dir: &Path, text: &str) -> PathBuf {
    let path = dir.join("worker.sh");
    let mut write = command("sh");
    write.args(["-c", "printf '%s' \"$1\" > \"$0\" && chmod 700 \"$0\""]).arg(&path).arg(text);
    assert!(write.status().await.expect("a shell").success());
    path
}

/// A hive whose worker is a script.
async fn scripted(text: &str, readiness: Duration) -> TestHive {
    let dir = tempfile::tempdir().expect("a folder");
    let program = script(dir.path(), text).await;
    let hive = TestHive::start_in(dir, |config| {
        config.worker_program = Some(program);
        config.timers.readiness = readiness.into();
    })
    .await;
    write_model(&hive.models_dir(), "tiny");
    hive
}

const LONG: Duration = Duration::from_secs(600);

#[tokio::test(flavor = "multi_thread")]
async fn a_cancelled_load_leaves_no_process() {
    let hive = scripted("#!/bin/sh\necho here I am\nsleep 600 &\nsleep 600\n", LONG).await;
    let id = hive.submit(&json!({ "ModelLoad": { "id": "tiny" } })).await;
    let worker = until("the worker to start", async || workers(&hive).await.pop()).await;
    assert_eq!(worker["status"], "starting");
    assert_eq!(hive.delete(&format!("/v1/jobs/{id}")).await.status(), 200);
    assert_gone(pid(&worker));
    let stream = hive.stream(&id).await;
    assert!(stream.ends_with("data: [CANCELLED]\n\n"), "{stream}");
    assert!(stream.contains("Nothing is left of worker"), "{stream}");
    assert!(workers(&hive).await.is_empty());
    hive.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cancelled_load_of_a_worker_that_ignores_sigterm_leaves_no_process() {
    let hive = scripted("#!/bin/sh\ntrap '' TERM\nwhile :; do sleep 1; done\n", LONG).await;
    let id = hive.submit(&json!({ "ModelLoad": { "id": "tiny" } })).await;
    let worker = until("the worker to start", async || workers(&hive).await.pop()).await;
    assert_eq!(hive.delete(&format!("/v1/jobs/{id}")).await.status(), 200);
    // The job may end first; the worker's owner still ends the process.
    until("the worker to go", async || (!process_exists(pid(&worker))).then_some(())).await;
    until("the list to be empty", async || workers(&hive).await.is_empty().then_some(())).await;
    assert_gone(pid(&worker));
    hive.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_never_reports_times_out() {
    let hive = scripted("#!/bin/sh\necho thinking\nsleep 600\n", Duration::from_millis(500)).await;
    let failure = hive.fail(&json!({ "ModelLoad": { "id": "tiny" } })).await;
    assert_eq!((&failure["code"], &failure["stage"]), (&json!("timeout"), &json!("start")), "{failure}");
    assert!(failure["message"].as_str().is_some_and(|text| text.contains("0.5 s")), "{failure}");
    assert!(failure["hint"].as_str().is_some_and(|text| text.contains("readiness")), "{failure}");
    assert_eq!(failure["log_tail"], json!(["thinking"]));
    assert!(workers(&hive).await.is_empty());
    hive.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_early_end_of_a_worker_is_reported_with_its_exit_and_log() {
    let hive = scripted("#!/bin/sh\necho one\necho 'two [DONE]' >&2\nexit 42\n", LONG).await;
    let id = hive.submit(&json!({ "ModelLoad": { "id": "tiny" } })).await;
    let stream = hive.stream(&id).await;
    assert!(stream.contains("two (DONE)"), "its log is narrated, with the marker defused: {stream}");
    let failure = hive.job(&id).await["failure"].clone();
    assert_eq!((&failure["code"], &failure["exit_code"]), (&json!("worker_failed"), &json!(42)), "{failure}");
    assert_eq!(failure["log_tail"], json!(["one", "two [DONE]"]));
    assert!(failure["message"].as_str().is_some_and(|text| text.contains("exit code 42")), "{failure}");
    let events = typed(&hive.typed_stream(&id).await);
    assert_eq!(events[events.len() - 1].data["exit_code"], 42);
    assert!(workers(&hive).await.is_empty());
    hive.stop().await;

    let hive = scripted("#!/bin/sh\necho last words\nkill -SEGV $$\n", LONG).await;
    let failure = hive.fail(&json!({ "WorkerSpawn": { "model": "tiny", "worker": "cpu" } })).await;
    assert_eq!(
        (&failure["code"], &failure["signal"]),
        (&json!("worker_failed"), &json!("SIGSEGV")),
        "{failure}"
    );
    assert_eq!(failure["log_tail"], json!(["last words"]));
    assert!(failure.get("exit_code").is_none(), "{failure}");
    hive.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_floods_its_log_and_has_children_leaves_no_process() {
    let script = "#!/bin/sh\n(trap '' TERM HUP; sleep 600) &\ni=0\n\
                  while [ $i -lt 2000 ]; do echo \"line $i of a flood that goes on and on\"; i=$((i+1)); done\nexit 3\n";
    let hive = scripted(script, LONG).await;
    let id = hive.submit(&json!({ "ModelLoad": { "id": "tiny" } })).await;
    let stream = hive.stream(&id).await;
    let lines = stream.lines().filter(|line| line.contains("of a flood")).count();
    assert!((1..1000).contains(&lines), "{lines} lines");
    let failure = hive.job(&id).await["failure"].clone();
    assert_eq!(failure["exit_code"], 3, "{failure}");
    assert_eq!(
        failure["log_tail"].as_array().and_then(|tail| tail.last()),
        Some(&json!("line 1999 of a flood that goes on and on"))
    );
    assert!(workers(&hive).await.is_empty());
    hive.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_workers_secret_reaches_no_client_and_no_log() {
    let hive = TestHive::start().await;
    write_model(&hive.models_dir(), "tiny");
    let mut events = hive.get("/v1/events").await;
    let mut heartbeats = hive.get("/v1/heartbeats/stream").await;
    let id = hive.submit(&json!({ "ModelLoad": { "id": "tiny" } })).await;
    let mut seen = hive.stream(&id).await + &hive.typed_stream(&id).await;
    let worker = workers(&hive).await.pop().expect("a worker");
    let secret = hive.app.workers.secret(pid(&worker)).expect("a worker");
    let secret = secret.expose();
    assert_eq!(secret.len(), 64);

    #[cfg(target_os = "linux")]
    {
        let process = procfs::process::Process::new(pid(&worker).cast_signed()).expect("its process");
        let words = process.cmdline().expect("its command line");
        assert!(words.len() > 3 && !words.iter().any(|word| word.contains(secret)), "{words:?}");
    }
    // Without the secret, the worker refuses requests.
    let url = worker["url"].as_str().expect("a URL");
    let chat = json!({ "model": "tiny", "messages": [{ "role": "user", "content": "Hi" }] });
    let direct = hive.client.post(format!("{url}/v1/chat/completions")).json(&chat).send();
    let direct = soon("an answer", direct).await.expect("an answer");
    assert_eq!(direct.status(), 401);
    seen += &direct.text().await.expect("a body");
    let answer = hive.post("/v1/chat/completions", &chat).await;
    assert_eq!(answer.status(), 200);
    seen += &format!("{:?}", answer.headers());
    seen += &answer.text().await.expect("a body");

    for path in ["/v1/jobs", "/v1/capabilities", "/v1/models", &format!("/v1/workers/{}/log", worker["pid"])]
    {
        seen += &hive.get(path).await.text().await.expect("a body");
    }
    for operation in [
        json!({ "WorkerProcessList": {} }),
        json!({ "WorkerProcessGet": { "pid": worker["pid"] } }),
        json!({ "HiveCheck": {} }),
        json!({ "ModelUnload": { "id": "tiny" } }),
    ] {
        let id = hive.submit(&operation).await;
        seen += &(hive.stream(&id).await + &hive.typed_stream(&id).await + &hive.job(&id).await.to_string());
    }
    read_until(&mut events, &mut seen, r#""change":"removed""#).await;
    read_until(&mut heartbeats, &mut seen, "event: heartbeat").await;
    assert!(!seen.contains(secret), "a client saw it");
    let mut files = 0;
    for entry in walkdir::WalkDir::new(hive.dir().join("data")) {
        let entry = entry.expect("an entry");
        if entry.file_type().is_file() {
            files += 1;
            let bytes = std::fs::read(entry.path()).expect("a file");
            let text = String::from_utf8_lossy(&bytes);
            assert!(!text.contains(secret), "{} has it", entry.path().display());
        }
    }
    assert!(files > 3, "the log, the report and the journals were searched");
    drop((events, heartbeats));
    hive.stop().await;
}

/// Settings with engines that are shell scripts.
fn with_scripts(config: &mut rbee_hive::config::Config) {
    let settings = r#"
        [engines.fails]
        command = ["sh", "-c", "echo 'reading {model}'; echo 'the reason' >&2; exit 3", "{port}"]
        devices = ["cpu"]
        [engines.absent]
        command = ["/no/such/program", "{model}", "{port}"]
        devices = ["cpu"]
    "#;
    let parsed: rbee_hive::config::Config = toml::from_str(settings).expect("settings");
    config.engines = parsed.engines;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_plain_stream_tells_why_a_load_failed() {
    let hive = TestHive::start_with(with_scripts).await;
    write_model(&hive.models_dir(), "tiny");
    let stream = hive.run(&json!({ "WorkerSpawn": { "model": "tiny", "worker": "fails" } })).await;
    let lines = data_lines(&stream);
    let [.., title, reading, reason, error] = &lines[..] else { panic!("{stream}") };
    assert_eq!((title.as_str(), reason.as_str()), ("The end of its log:", "  the reason"), "{stream}");
    assert!(reading.starts_with("  reading ") && reading.ends_with("tiny.gguf"), "{stream}");
    assert!(error.starts_with("[ERROR] ") && error.contains("exit code 3"), "{stream}");

    let failure = hive.fail(&json!({ "WorkerSpawn": { "model": "tiny", "worker": "absent" } })).await;
    assert_eq!(failure["code"], "engine_unavailable");
    let why = "/no/such/program is not there, or may not be executed (setting: [engines.absent] command)";
    assert_eq!(failure["message"], format!("engine 'absent' cannot be used: {why}"));
    hive.stop().await;
}

/// An empty template would drop what the user says.
#[tokio::test(flavor = "multi_thread")]
async fn a_model_without_a_chat_template_gets_chatml_and_the_load_says_so() {
    let hive = TestHive::start().await;
    let folder = tempfile::tempdir().expect("a folder");
    let source = write_model(folder.path(), "source");
    let same = |_: &str, kind, data| Some((kind, data));
    for (id, template) in [("empty", text(" ")), ("none", None)] {
        let path = hive.models_dir().join(format!("{id}.gguf"));
        rewrite(&source, &path, with_value("tokenizer.chat_template", template), same);
        let job = hive.submit(&json!({ "ModelLoad": { "id": id } })).await;
        let stream = hive.typed_stream(&job).await;
        let warns =
            |event: &str| event.contains("\"warn\"") && event.contains("\"no chat template: using ChatML, ");
        assert!(stream.lines().any(warns), "{stream}");
        let tokens = |content: &'static str| {
            let body =
                json!({ "model": id, "max_tokens": 1, "messages": [{ "role": "user", "content": content }] });
            let hive = &hive;
            async move {
                let answer: Value =
                    hive.post("/v1/chat/completions", &body).await.json().await.expect("JSON");
                answer["usage"]["prompt_tokens"].as_u64().expect("a count")
            }
        };
        assert!(tokens("one two three four five six seven").await > tokens("one").await, "the text counts");
    }
    hive.stop().await;
}
