//! A machine with simulated GPUs: what the hive reports of them, where it loads a model, and when it
//! counts their memory as free again.

use std::os::unix::fs::PermissionsExt;

use serde_json::{Value, json};

use crate::support::{
    Daemon, Gpus, check_of, data_lines, merged, process_runs, read_all, read_until, typed, until, write_model,
};

const BIG: &str = "gpu 24564 1000 37 NVIDIA GeForce RTX 4090\n";
const SMALL: &str = "gpu 8192 8100 0 NVIDIA GeForce RTX 3070\n";
const MIB: u64 = 1 << 20;

pub(crate) struct Machine {
    gpus: Gpus,
    pub(crate) hive: Daemon,
    _dir: tempfile::TempDir,
}

/// A hive with two models, `tiny` and `other`, on a machine with two GPUs; the second GPU is full.
pub(crate) async fn machine() -> Machine {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let models = dir.path().join("models");
    std::fs::create_dir(&models).expect("a folder");
    write_model(&models, "tiny");
    write_model(&models, "other");
    let full = format!("{BIG}{SMALL}held 1 {} 8000\n", std::process::id());
    let gpus = Gpus::new(dir.path(), &full);
    let hive = gpus.hive().await;
    Machine { gpus, hive, _dir: dir }
}

impl Machine {
    /// Loads `tiny` on the first GPU. Its worker then holds 700 MiB of it, beside a process that is not
    /// the hive's. Returns the worker's process id once the hive has measured that.
    pub(crate) async fn load(&self) -> u32 {
        let load = json!({ "ModelLoad": { "id": "tiny", "device": "cuda:0" } });
        let worker = self.hive.succeed(&load).await;
        assert_eq!(
            (&worker["device"], &worker["engine"]),
            (&json!("cuda:0"), &json!("stand-in")),
            "{worker}"
        );
        let pid = u32::try_from(worker["pid"].as_u64().expect("a number")).expect("a process id");
        let other = std::process::id();
        self.gpus.tell(&format!("{BIG}{SMALL}held 0 {pid} 700\nheld 0 {other} 100\n"));
        let get = json!({ "WorkerProcessGet": { "pid": pid } });
        until("the worker's memory to be measured", async || {
            (self.hive.succeed(&get).await["vram_bytes"] == 700 * MIB).then_some(())
        })
        .await;
        pid
    }

    /// The worker now holds nearly all of the first GPU.
    pub(crate) async fn fill(&self, pid: u32) {
        let full = BIG.replacen("24564 1000", "24564 24500", 1);
        self.gpus.tell(&format!("{full}{SMALL}held 0 {pid} 23400\n"));
        let get = json!({ "WorkerProcessGet": { "pid": pid } });
        until("the worker's memory to be measured", async || {
            (self.hive.succeed(&get).await["vram_bytes"] == 23_400 * MIB).then_some(())
        })
        .await;
    }

    async fn first_heartbeat(&self) -> Value {
        let mut answer = self.hive.get("/v1/heartbeats/stream").await;
        let mut text = String::new();
        read_until(&mut answer, &mut text, "\n\n").await;
        typed(&text)[0].data.clone()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn capabilities_checks_and_heartbeats_describe_the_gpus() {
    let machine = machine().await;
    let devices = machine.hive.json("/v1/capabilities").await["devices"].clone();
    let gpu = |id, name, vram_gb| json!({ "id": id, "name": name, "device_type": "gpu", "vram_gb": vram_gb, "compute_capability": "8.9" });
    assert_eq!(devices[0], gpu("GPU-0", "NVIDIA GeForce RTX 4090", 24));
    assert_eq!(devices[1], gpu("GPU-1", "NVIDIA GeForce RTX 3070", 8));
    assert_eq!((&devices[2]["id"], devices.as_array().map(Vec::len)), (&json!("CPU-0"), Some(3)));

    let check = machine.hive.succeed(&json!({ "HiveCheck": {} })).await;
    let detail = check_of(&check, "devices")["detail"].to_string();
    assert!(detail.contains("cuda:0 NVIDIA GeForce RTX 4090, 23.0 GiB free"), "{detail}");
    assert!(detail.contains("cuda:1 NVIDIA GeForce RTX 3070, 92.0 MiB free"), "{detail}");
    assert!(detail.contains("NVIDIA driver 570.86.15, 2 GPU(s)"), "{detail}");

    let gpus = machine.first_heartbeat().await["system"]["gpus"].clone();
    assert_eq!(
        gpus[0],
        json!({
            "id": "cuda:0", "name": "NVIDIA GeForce RTX 4090", "memory_total_bytes": 24564 * MIB,
            "memory_used_bytes": 1000 * MIB, "utilization_percent": 37, "compute_capability": "8.9",
            "driver": "NVIDIA 570.86.15"
        })
    );
    machine.hive.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_model_is_loaded_where_it_fits_and_a_refusal_names_who_holds_the_memory() {
    let machine = machine().await;
    let load = |device: &str, dry_run| json!({ "ModelLoad": { "id": "tiny", "device": device, "dry_run": dry_run } });
    let plan = machine.hive.succeed(&load("auto", true)).await;
    assert_eq!((&plan["device"], &plan["fits"]), (&json!("cuda:0"), &json!(true)), "{plan}");
    assert_eq!(plan["capacity_bytes"], 24564 * MIB, "{plan}");

    let plan = machine.hive.succeed(&load("cuda:1", true)).await;
    assert_eq!((&plan["device"], &plan["fits"]), (&json!("cuda:1"), &json!(false)), "{plan}");
    assert_eq!(plan["free_bytes"], 92 * MIB, "{plan}");
    assert!(plan["missing_bytes"].as_u64() > Some(0), "{plan}");
    let holder = &plan["foreign_processes"][0];
    assert_eq!((&holder["pid"], &holder["held_bytes"]), (&json!(std::process::id()), &json!(8000 * MIB)));

    let id = machine.hive.submit(&load("cuda:1", false)).await;
    let stream = machine.hive.stream(&id).await;
    let failure = machine.hive.json(&format!("/v1/jobs/{id}")).await["failure"].clone();
    assert_eq!(
        (&failure["code"], &failure["stage"]),
        (&json!("out_of_memory"), &json!("preflight")),
        "{stream}"
    );
    assert!(failure["causes"].to_string().contains(&std::process::id().to_string()), "{failure}");
    machine.hive.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_diagnosis_names_who_else_is_on_the_gpu_and_why_its_clocks_are_held_back() {
    let machine = machine().await;
    let pid = machine.load().await;
    let diagnose = json!({ "ModelDiagnose": { "id": "tiny" } });
    let kinds = |diagnosis: &Value| diagnosis["findings"].as_array().expect("findings").clone();
    let calm = machine.hive.succeed(&diagnose).await;
    assert!(!calm.to_string().contains("throttled") && !calm.to_string().contains("\"processor\""), "{calm}");
    // Too hot, and at its limit of power.
    let other = std::process::id();
    let values = format!("{BIG}{SMALL}held 0 {pid} 700\nheld 0 {other} 100\nthrottled 0 {}\n", 0x20 | 0x4);
    machine.gpus.tell(&values);
    let diagnosis = machine.hive.succeed(&diagnose).await;
    let message = |kind: &str| {
        let found = kinds(&diagnosis).into_iter().find(|finding| finding["kind"] == kind);
        found.unwrap_or_else(|| panic!("no {kind}: {diagnosis}"))["message"].to_string()
    };
    assert!(message("throttled").contains("it is too hot, it has reached its limit of power"), "{diagnosis}");
    assert!(
        message("gpu_shared").contains(&format!("hold 100.0 MiB of cuda:0, the most of it process {other}"))
    );
    machine.gpus.tell(BIG);
    machine.hive.stop().await;
}

/// A server that tells of two GPUs, and serves nothing: only how it is called matters.
const LLAMA_SERVER: &str = r#"#!/bin/sh
case "$1" in
--version) echo "version: 1 (a)" ;;
--list-devices) [ "$CUDA_DEVICE_ORDER" = PCI_BUS_ID ] && printf 'Available devices:\n  CUDA0: NVIDIA (1 MiB)\n  CUDA1: NVIDIA (1 MiB)\n' ;;
*) echo "counted by $CUDA_DEVICE_ORDER"; exit 3 ;;
esac
"#;

#[tokio::test(flavor = "multi_thread")]
async fn a_model_larger_than_a_gpu_is_split_by_layers_over_gpus_and_the_processor() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let models = dir.path().join("models");
    std::fs::create_dir(&models).expect("a folder");
    write_model(&models, "tiny");
    let program = dir.path().join("llama-server");
    std::fs::write(&program, LLAMA_SERVER).expect("a file");
    std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).expect("a program");
    let gpus = Gpus::new(dir.path(), "gpu 663 0 0 Small\ngpu 663 0 0 Small\n");
    let hive = gpus.hive_with(&["--llama-server", program.to_str().expect("UTF-8")]).await;
    // Each of the two blocks has a cache of 32 MiB, and a GPU takes 623 MiB besides layers.
    let load = |device: &str, dry_run: bool| {
        let more = json!({ "id": "tiny", "device": device, "context_length": 2048, "slots": 32 });
        json!({ "ModelLoad": merged(more, json!({ "dry_run": dry_run })) })
    };
    let layers = |plan: &Value| -> Vec<(String, u64)> {
        let share = |share: &Value| {
            (
                share["device"].as_str().expect("a device").to_owned(),
                share["layers"].as_u64().expect("a number"),
            )
        };
        plan["split"].as_array().expect("a split").iter().map(share).collect()
    };
    let over_both = hive.succeed(&load("auto", true)).await;
    assert_eq!(layers(&over_both), [("cuda:0".to_owned(), 1), ("cuda:1".to_owned(), 2)], "{over_both}");
    assert_eq!((&over_both["slowdown"], &over_both["fits"]), (&json!(1.0), &json!(true)), "{over_both}");
    let with_processor = hive.succeed(&load("cuda:1", true)).await;
    assert_eq!(
        layers(&with_processor),
        [("cuda:1".to_owned(), 1), ("cpu".to_owned(), 2)],
        "{with_processor}"
    );
    assert!(with_processor["slowdown"].as_f64() > Some(1.0), "{with_processor}");
    assert_eq!(with_processor["source_of_estimate"], "formula", "{with_processor}");

    for (device, words) in [
        ("auto", "--device CUDA0,CUDA1 --n-gpu-layers 3 --tensor-split 1,2 "),
        ("cuda:1", "--device CUDA1 --n-gpu-layers 1 "),
        ("cpu", "--device none --n-gpu-layers 0 "),
    ] {
        let id = hive.submit(&load(device, false)).await;
        let stream = hive.stream(&id).await;
        assert!(stream.contains(words), "{words}: {stream}");
        assert_eq!(stream.contains("--tensor-split"), device == "auto", "{stream}");
    }
    hive.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unload_ends_only_when_the_driver_has_taken_the_memory_back() {
    let machine = machine().await;
    let pid = machine.load().await;
    until("the worker's memory in a heartbeat", async || {
        let worker = machine.first_heartbeat().await["workers"][0].clone();
        (worker["vram_mb"] == 700 && worker["gpu_util_pct"] == 37.0 && worker["total_vram_mb"] == 24564)
            .then_some(())
    })
    .await;

    let id = machine.hive.submit(&json!({ "ModelUnload": { "id": "tiny" } })).await;
    let mut answer = machine.hive.get(&format!("/v1/jobs/{id}/stream")).await;
    let waits = "waiting for the driver to take its GPU memory back";
    let mut stream = String::new();
    read_until(&mut answer, &mut stream, waits).await;
    assert!(!process_runs(pid) && !stream.contains("is gone"), "{stream}");
    machine.gpus.tell(BIG);
    stream.push_str(&read_all(answer).await);
    assert!(stream.contains(&format!("Worker {pid} is gone")), "{stream}");
    assert!(stream.contains("Unloaded 'tiny': 1 worker(s) gone"), "{stream}");
    assert_eq!(data_lines(&stream).pop().as_deref(), Some("[DONE]"), "{stream}");
    machine.hive.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn memory_that_the_driver_keeps_is_not_reported_as_free() {
    let machine = machine().await;
    let pid = machine.load().await;
    let id = machine.hive.submit(&json!({ "ModelUnload": { "id": "tiny" } })).await;
    let stream = machine.hive.stream(&id).await;
    assert!(!process_runs(pid), "{stream}");
    assert!(stream.contains("its GPU's driver still counts memory as its own"), "{stream}");
    assert!(stream.contains("only 0 of 1 worker(s) were seen to be gone"), "{stream}");
    let result = machine.hive.json(&format!("/v1/jobs/{id}")).await["result"].clone();
    assert!(result["freed_bytes"].as_u64().is_some_and(|freed| freed < 700 * MIB), "{result}");
    machine.hive.stop().await;
}
