//! Compares the page's types with the hive's responses.

use std::collections::BTreeMap;
use std::time::Duration;

use rbee_hive::config::DeviceKind;
use rbee_hive::engine_store::{Build, EngineId, EngineStore, Provenance, Trouble};
use rbee_hive::error::Choice;
use rbee_hive::narration::Progress;
use serde_json::{Value, json};

use super::residency::gated;
use crate::gpus::machine;
use crate::support::{TestHive, nats_server, read_all, soon, typed, until, write_model};

const TYPES: &str = concat!(include_str!("../../../ui/client.js"), include_str!("../../../ui/lib/types.js"));

/// The required properties of each type of the page, with their types.
fn declared() -> BTreeMap<&'static str, Vec<(&'static str, &'static str)>> {
    let mut types: BTreeMap<_, Vec<_>> = BTreeMap::new();
    let mut of = "";
    for line in TYPES.lines() {
        if let Some(name) = line.strip_prefix(" * @typedef {object} ") {
            of = name;
            types.insert(of, Vec::new());
        } else if let Some((kind, name)) =
            line.strip_prefix(" * @property {").and_then(|line| line.rsplit_once("} "))
        {
            let name = name.split(' ').next().expect("a name");
            if !name.starts_with('[') {
                types.get_mut(of).expect("a type before its properties").push((name, kind));
            }
        }
    }
    types
}

/// The names of properties that an example of a type lacks.
fn absent(properties: &[(&str, &str)], example: &Value) -> Vec<String> {
    let mut absent = Vec::new();
    for (name, kind) in properties {
        let Some(value) = example.get(name) else {
            absent.push((*name).to_owned());
            continue;
        };
        // The type of a list describes its entries.
        if let Some(entry) = kind.strip_prefix("Array<{").and_then(|kind| kind.strip_suffix("}>")) {
            let first = value.get(0).unwrap_or_else(|| panic!("an example without {name}: {example}"));
            let names = entry.split(", ").filter_map(|pair| Some(pair.split_once(':')?.0));
            absent.extend(names.filter(|key| first.get(key).is_none()).map(|key| format!("{name}[].{key}")));
        }
    }
    absent
}

/// What waits while a request loads its model.
async fn waiting() -> Value {
    let (hive, gate) = gated().await;
    let ask = json!({ "model": "one", "messages": [{ "role": "user", "content": "Hello" }] });
    let answer = rbee_hive::spawn::task(
        hive.client.post(format!("{}/v1/chat/completions", hive.url)).json(&ask).send(),
    );
    let residency = until("the load to be listed", async || {
        let residency = hive.succeed(&json!({ "ResidencyGet": {} })).await;
        (!residency["loads"][0].is_null() && !residency["queue"][0].is_null()).then_some(residency)
    })
    .await;
    gate.add_permits(1);
    answer.await.expect("no panic").expect("an answer");
    hive.stop().await;
    residency
}

/// What the hive tells of an engine that is installed, with a version before it and one that failed.
async fn installed_engines() -> Value {
    let hive = TestHive::start_with(|config| {
        let (store, id) = (EngineStore::open(config.engines_dir()), EngineId { kind: DeviceKind::Cpu });
        let from = Provenance::Release;
        for version in ["b1001", "b1002"] {
            let draft = store.draft(id).expect("a draft");
            let program = draft.path().join("llama-server");
            std::fs::write(&program, "#!/bin/sh\nexit 3\n").expect("a file");
            let build = Build::new(version.to_owned(), program, from);
            store.promote(draft, id, build).expect("it is installed");
        }
        let trouble =
            Trouble { version: "b1003".to_owned(), from, reason: "a test".to_owned(), log: Vec::new() };
        store.set_aside(store.draft(id).expect("a draft"), id, trouble).expect("it is set aside");
    })
    .await;
    let listed = hive.succeed(&json!({ "WorkerListInstalled": {} })).await;
    hive.stop().await;
    listed
}

/// What a hive tells of its fleet; `None` where there is no nats-server.
async fn fleet() -> Option<[(&'static str, Value); 4]> {
    let server = nats_server()?;
    let hive = TestHive::start_with(|config| {
        config.hive_ids = vec!["one".to_owned()];
        config.fleet.server = Some(server);
        config.fleet.heartbeat = Duration::from_millis(200).into();
    })
    .await;
    let sha256 = "2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824";
    let up = json!({ "FleetUp": {
        "listen": "127.0.0.1:0", "join_listen": "127.0.0.1:0", "advertise": "127.0.0.1", "sha256": sha256,
    } });
    let made = hive.succeed(&up).await;
    write_model(&hive.models_dir(), "kept");
    let place = json!({ "ModelPlace": { "model": "kept", "copies": 1 } });
    until("a model that is kept", async || hive.run(&place).await.contains("[DONE]").then_some(())).await;
    let status = until("the hive in its fleet", async || {
        let status = hive.succeed(&json!({ "FleetStatus": {} })).await;
        (!status["hives"][0]["devices"][0].is_null()).then_some(status)
    })
    .await;
    hive.stop().await;
    Some([
        ("FleetHive", status["hives"][0].clone()),
        ("FleetPlacement", status["places"][0].clone()),
        ("FleetStatus", status),
        ("FleetInvitation", made["invitation"].clone()),
    ])
}

/// What the hive tells of a token.
async fn named_token() -> Value {
    let hive = crate::callers::managed(|_| {}).await;
    let listed = hive.succeed(&json!({ "TokenList": {} })).await;
    hive.stop().await;
    listed[0].clone()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_types_of_the_page_match_the_responses_of_the_hive() {
    let machine = machine().await;
    let hive = &machine.hive;
    let mut news = hive.get("/v1/events").await;
    let pid = machine.load().await;
    let failed = hive.submit(&json!({ "ModelGet": { "id": "nothing" } })).await;
    let stream = hive.get(&format!("/v1/jobs/{failed}/stream?format=json")).await;
    let stream = typed(&read_all(stream).await);
    let mut text = String::new();
    // Telemetry that was measured after the worker started has entries in all its lists.
    let is_example = |event: &&str| {
        event.contains("event: telemetry\n") && event.contains("\"workers\":[{") && event.ends_with("\n\n")
    };
    let measured = soon("telemetry with a worker", async {
        loop {
            if let Some(event) = text.split_inclusive("\n\n").find(is_example) {
                return event.to_owned();
            }
            let piece = news.chunk().await.expect("a chunk").expect("the stream goes on");
            text += &String::from_utf8_lossy(&piece);
        }
    })
    .await;
    let measured = measured.lines().find_map(|line| line.strip_prefix("data: ")).expect("data");
    let telemetry: Value = serde_json::from_str(measured).expect("JSON");
    let plan = json!({ "ModelLoad": { "id": "other", "device": "cuda:0", "dry_run": true } });
    let source = hive.succeed(&json!({ "ModelGet": { "id": "tiny" } })).await["path"].clone();
    let download = json!({ "ModelDownload": { "model": format!("file:{}", source.as_str().expect("a path")), "dry_run": true } });
    let job = hive.json(&format!("/v1/jobs/{failed}")).await;
    let capabilities = hive.json("/v1/capabilities").await;
    let residency = hive.succeed(&json!({ "ResidencyGet": {} })).await;
    let waiting = waiting().await;
    let fits = hive.succeed(&plan).await;
    let ask = json!({ "model": "tiny", "messages": [{ "role": "user", "content": "Hello" }] });
    hive.try_post("/v1/chat/completions", &ask).await.expect("an answer").text().await.expect("text");
    let diagnosis = hive.succeed(&json!({ "ModelDiagnose": { "id": "tiny" } })).await;
    let offers = hive.succeed(&json!({ "WorkerCatalogList": {} })).await;
    let engines = installed_engines().await;
    let used = hive.succeed(&json!({ "UsageReport": {} })).await;
    let token = named_token().await;
    machine.fill(pid).await;
    let evicting = hive.succeed(&plan).await;
    let mut examples = BTreeMap::from([
        ("Model", hive.succeed(&json!({ "ModelGet": { "id": "tiny" } })).await),
        ("Worker", hive.succeed(&json!({ "WorkerProcessGet": { "pid": pid } })).await),
        ("Progress", serde_json::to_value(Progress::default()).expect("JSON")),
        ("Failure", job["failure"].clone()),
        (
            "Choice",
            serde_json::to_value(Choice { model: String::new(), size_bytes: None, recommended: true })
                .expect("JSON"),
        ),
        ("Job", job),
        ("Narration", stream[0].data.clone()),
        ("Gpu", telemetry["system"]["gpus"][0].clone()),
        ("System", telemetry["system"].clone()),
        ("HiveInfo", telemetry["hive_info"].clone()),
        ("Telemetry", telemetry),
        ("DeviceMemory", residency["memory"][0].clone()),
        ("Resident", residency["residents"][0].clone()),
        ("ResidentLoad", waiting["loads"][0].clone()),
        ("WaitingLine", waiting["queue"][0].clone()),
        ("Residency", residency),
        ("ModelSettings", hive.succeed(&json!({ "ModelSettingsGet": { "id": "tiny" } })).await),
        ("Times", diagnosis["times"].clone()),
        ("Diagnosis", diagnosis),
        ("Eviction", evicting["evictions"][0].clone()),
        ("Plan", hive.succeed(&download).await),
        ("LoadPlan", fits),
        ("EngineOffer", offers["workers"][0].clone()),
        ("InstalledEngine", engines["workers"][0].clone()),
        ("EngineBuild", engines["workers"][0]["previous"].clone()),
        ("FailedBuild", engines["failed"][0].clone()),
        ("Device", capabilities["devices"][0].clone()),
        ("Capabilities", capabilities),
        ("Token", token),
        ("UsageSums", used["total"].clone()),
        ("UsageReport", used),
    ]);
    let fleet = fleet().await;
    let has_fleet = fleet.is_some();
    examples.extend(fleet.into_iter().flatten());
    for (name, properties) in declared() {
        // The page builds these types from the lines of an event.
        if matches!(name, "JobEvent" | "StreamEvent") || (name.starts_with("Fleet") && !has_fleet) {
            continue;
        }
        let example = examples.remove(name).unwrap_or_else(|| panic!("no example of {name}"));
        assert_eq!(absent(&properties, &example), Vec::<String>::new(), "{name}: {example}");
    }
    assert_eq!(examples.keys().count(), 0, "the page has no type for {examples:?}");
    machine.hive.stop().await;
}
