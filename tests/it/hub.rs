//! Models from the Hugging Face Hub and the Ollama registry: names, refusals, and the hub cache that is
//! shared with other tools.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use rbee_hive::models::gguf::{TensorType, Value as Gguf, Writer};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::support::hub::{Access, FakeHub, TOKEN, hex};
use crate::support::{
    TestHive, command, files_beneath, nowhere, program, projector, python_with, soon, unknown_model, until,
    write_model,
};

/// A hive that uses this hub, with the hub's token if `has_token`.
async fn hive(hub: &FakeHub, has_token: bool) -> TestHive {
    hive_in(tempfile::tempdir().expect("a temporary folder"), hub, has_token).await
}

async fn hive_in(dir: tempfile::TempDir, hub: &FakeHub, has_token: bool) -> TestHive {
    let (cache, token) = (dir.path().join("cache"), dir.path().join("token"));
    fs::write(&token, format!("{TOKEN}\n")).expect("a token file");
    TestHive::start_in(dir, |config| {
        config.hub.endpoint = Some(hub.url.clone());
        config.hub_cache = Some(cache);
        if has_token {
            config.hub.token_file = Some(token);
        }
    })
    .await
}

/// The bytes of a small model that a worker can run.
fn model(stem: &str) -> Vec<u8> {
    let dir = tempfile::tempdir().expect("a temporary folder");
    fs::read(write_model(dir.path(), stem)).expect("the model")
}

fn sha256(bytes: &[u8]) -> String {
    hex(&Sha256::digest(bytes))
}

fn folder(hive: &TestHive, repo: &str) -> PathBuf {
    hive.dir().join("cache").join(format!("models--{}", repo.replace('/', "--")))
}

fn download(name: &str) -> Value {
    json!({ "ModelDownload": { "model": name } })
}

/// The files and links beneath a folder, without those for locking and the cache's tag.
fn contents(folder: &Path) -> Vec<PathBuf> {
    let mut files = files_beneath(folder);
    files.retain(|path| !path.components().any(|part| part.as_os_str() == ".locks"));
    files.retain(|path| !path.ends_with("CACHEDIR.TAG"));
    files
}

#[tokio::test]
async fn a_downloaded_model_is_in_the_hub_cache_runs_and_can_be_deleted() {
    let hub = FakeHub::start().await;
    let (small, large) = (model("tiny-q8"), model("tiny-f16"));
    let files: [(&str, &[u8]); 3] =
        [("README.md", b"read me"), ("tiny-Q8_0.gguf", &small), ("tiny-F16.gguf", &large)];
    let commit = hub.commit("org/tiny-GGUF", "main", &files);
    let hive = hive(&hub, true).await;

    let got = hive.succeed(&download("org/tiny-GGUF:q8_0")).await;
    assert_eq!(got["id"], "org/tiny-GGUF:Q8_0");
    assert_eq!((&got["revision"], &got["sha256"]), (&json!(commit), &json!(sha256(&small))));
    assert_eq!(got["source"], "hf:org/tiny-GGUF");
    let folder = folder(&hive, "org/tiny-GGUF");
    let pointer = folder.join("snapshots").join(&commit).join("tiny-Q8_0.gguf");
    assert_eq!(got["path"], json!(pointer));
    assert_eq!(fs::read_link(&pointer).unwrap(), Path::new("../../blobs").join(sha256(&small)));
    assert_eq!(fs::read_to_string(folder.join("refs/main")).unwrap(), commit);
    assert!(hive.dir().join("cache/.locks/models--org--tiny-GGUF").is_dir());
    assert_eq!(contents(&folder).len(), 3, "nothing else is left: {:?}", contents(&folder));

    // The token goes to the hub and nowhere else.
    let bearer = Some(format!("Bearer {TOKEN}"));
    let seen = hub.seen();
    assert!(seen.iter().filter(|seen| seen.server == "hub").all(|seen| seen.authorization == bearer));
    let cdn: Vec<_> = seen.iter().filter(|seen| seen.server == "cdn").collect();
    assert!(!cdn.is_empty() && cdn.iter().all(|seen| seen.authorization.is_none()), "{cdn:?}");
    let asked: Vec<_> = seen.iter().map(|seen| (seen.method.as_str(), seen.path.as_str())).collect();
    assert_eq!(asked[0], ("GET", "/api/models/org/tiny-GGUF/revision/main"));
    assert_eq!(asked[1], ("HEAD", &*format!("/org/tiny-GGUF/resolve/{commit}/tiny-Q8_0.gguf")));

    // A second download fetches nothing.
    let sent = hub.sent();
    let stream = hive.run(&download("hf:org/tiny-GGUF/tiny-Q8_0.gguf@main")).await;
    assert!(stream.ends_with("data: [DONE]\n\n"), "{stream}");
    assert_eq!(hub.sent(), sent);

    let worker = hive.load("org/tiny-GGUF:Q8_0").await;
    assert_eq!(worker["model"], "org/tiny-GGUF:Q8_0");
    hive.succeed(&json!({ "ModelUnload": { "id": "org/tiny-GGUF:Q8_0" } })).await;

    // After a restart the hive still knows that it fetched the model, and may delete it.
    let hive = hive_in(hive.stop().await, &hub, true).await;
    let deleted = hive.succeed(&json!({ "ModelDelete": { "id": "org/tiny-GGUF:Q8_0" } })).await;
    assert_eq!(deleted["freed_bytes"], small.len());
    assert!(contents(&hive.dir().join("cache")).is_empty());
    assert!(contents(&hive.dir().join("data/hub")).is_empty());
    hive.stop().await;
}

#[tokio::test]
async fn a_model_of_an_unknown_type_is_fetched_once_and_kept() {
    let hub = FakeHub::start().await;
    let bytes = unknown_model();
    hub.commit("org/new-GGUF", "main", &[("new-IQ4_KS.gguf", &*bytes)]);
    let hive = hive(&hub, false).await;

    let stream = hive.run(&download("org/new-GGUF")).await;
    assert!(stream.contains("this hive does not know this kind of file (tensor output.weight"), "{stream}");
    let listed = hive.succeed(&json!({ "ModelGet": { "id": "org/new-GGUF:IQ4_KS" } })).await;
    assert_eq!((&listed["status"], &listed["architecture"]), (&json!("unknown"), &json!("llama")));
    let sent = hub.sent();
    assert_eq!(hive.succeed(&download("org/new-GGUF")).await, listed);
    assert_eq!(hub.sent(), sent, "what is here is not fetched again");

    let failure = hive.fail(&json!({ "ModelLoad": { "id": "org/new-GGUF:IQ4_KS" } })).await;
    assert_eq!(failure["code"], "model_unsupported", "{failure}");
    let hint = failure["hint"].as_str().unwrap();
    assert!(hint.contains("llama-server") && !hint.contains("download"), "{failure}");
    hive.stop().await;
}

#[tokio::test]
async fn a_file_that_is_no_model_is_refused_by_its_beginning() {
    let hub = FakeHub::start().await;
    let weights = vec![1; 40 << 20];
    let file = |metadata: &[(&str, Gguf)], offset_of_weights: u64| {
        let mut writer = Writer::default();
        for (key, value) in metadata {
            writer.metadata(*key, value.clone());
        }
        writer.tensor("a.weight", &[8], TensorType::F32, vec![1; 32]);
        writer.tensor("b.weight", &[weights.len() as u64 / 4], TensorType::F32, weights.clone());
        let mut file = Vec::new();
        writer.write(&mut file).expect("a file can be written");
        let at = file.windows(8).position(|window| window == b"b.weight").expect("its name") + 24;
        file[at..at + 8].copy_from_slice(&offset_of_weights.to_le_bytes());
        file
    };
    let adapter = [("general.type", Gguf::String("adapter".to_owned()))];
    hub.commit("org/adapter", "main", &[("m.gguf", &file(&adapter, 32))]);
    hub.commit("org/overlap", "main", &[("m.gguf", &file(&[], 0))]);
    // At this speed a few seconds pass before the whole file would be here.
    let hive = TestHive::start_with(|config| {
        config.hub.endpoint = Some(hub.url.clone());
        config.downloads.bytes_per_second = 8 << 20;
    })
    .await;
    for (repo, code, says) in
        [("org/adapter", "model_unsupported", "adapter"), ("org/overlap", "model_corrupt", "inside another")]
    {
        let id = hive.submit(&download(repo)).await;
        let stream = hive.stream(&id).await;
        let failure = hive.job(&id).await["failure"].clone();
        assert_eq!((&failure["code"], &failure["stage"]), (&json!(code), &json!("verify")), "{failure}");
        assert!(failure["message"].as_str().unwrap().contains(says), "{failure}");
        assert!(stream.contains("it is of no use"), "{stream}");
        let typed = hive.get(&format!("/v1/jobs/{id}/stream?format=json")).await.text().await.expect("text");
        let received =
            typed.split("\"done\":").skip(1).filter_map(|rest| rest.split(',').next()?.parse().ok());
        assert!(received.max() < Some(weights.len() / 2), "{repo} was fetched further: {typed}");
        assert!(contents(&hive.dir().join("data/hub-cache")).is_empty(), "{repo} leaves a file");
    }
    hive.stop().await;
}

#[tokio::test]
async fn a_redirect_of_the_hub_to_an_address_that_is_refused_is_refused() {
    let hub = FakeHub::start().await;
    hub.commit("org/m", "main", &[("m-Q8_0.gguf", &model("m"))]);
    let hive = hive(&hub, false).await;
    hive.succeed(&download("org/m")).await;
    hub.move_api("http://169.254.169.254/latest/meta-data");
    let failure = hive.fail(&download("org/m")).await;
    assert_eq!(failure["code"], "source_refused", "the cache does not hide it: {failure}");
    hive.stop().await;
}

#[tokio::test]
async fn a_name_may_be_copied_from_the_hub_and_written_in_any_case() {
    let hub = FakeHub::start().await;
    let bytes = model("m");
    hub.commit("Org/Tiny-GGUF", "main", &[("tiny-Q8_0.gguf", &*bytes), ("tiny-F16.gguf", b"GGUF")]);
    let hive = hive(&hub, false).await;
    let page = format!("{}/Org/Tiny-GGUF/blob/main/tiny-Q8_0.gguf", hub.url);
    let got = hive.succeed(&download(&page)).await;
    assert_eq!((&got["id"], &got["source"]), (&json!("Org/Tiny-GGUF:Q8_0"), &json!("hf:Org/Tiny-GGUF")));
    let sent = hub.sent();
    for name in [
        "hf.co/Org/Tiny-GGUF:Q8_0",
        "https://huggingface.co/org/tiny-gguf/resolve/main/tiny-Q8_0.gguf",
        "org/tiny-gguf:q8_0",
        "hf://Org/Tiny-GGUF/tiny-Q8_0.gguf",
    ] {
        assert_eq!(hive.succeed(&download(name)).await["id"], "Org/Tiny-GGUF:Q8_0", "{name}");
        assert_eq!(hub.sent(), sent, "{name} is here already");
    }
    let worker = hive.load("hf.co/org/tiny-gguf:q8_0").await;
    assert_eq!(worker["model"], "Org/Tiny-GGUF:Q8_0");
    hive.stop().await;
}

#[tokio::test]
async fn a_projector_comes_and_goes_with_its_models() {
    let hub = FakeHub::start().await;
    let (small, large, projector) = (model("v-q8"), model("v-f16"), projector());
    let files: [(&str, &[u8]); 4] = [
        ("v-Q8_0.gguf", &small),
        ("v-F16.gguf", &large),
        ("mmproj-F16.gguf", &projector),
        ("v-draft-Q4_K_M.gguf", &small),
    ];
    hub.commit("org/v-GGUF", "main", &files);
    let hive = hive(&hub, false).await;
    let refused = hive.fail(&download("org/v-GGUF")).await;
    assert!(!refused["message"].as_str().unwrap().contains("draft"), "{refused}");

    let dry_run = json!({ "ModelDownload": { "model": "org/v-GGUF:Q8_0", "dry_run": true } });
    let plan = hive.succeed(&dry_run).await;
    let names: Vec<_> = plan["files"].as_array().unwrap().iter().map(|file| &file["name"]).collect();
    assert_eq!(names, ["v-Q8_0.gguf", "mmproj-F16.gguf"]);
    let got = hive.succeed(&download("org/v-GGUF:Q8_0")).await;
    let path = got["projector"].as_str().expect("a projector").to_owned();
    assert_eq!(fs::read(&path).unwrap(), projector);
    assert_eq!(hive.succeed(&download("org/v-GGUF:F16")).await["projector"], path, "both have the same");
    let listed = hive.succeed(&json!({ "ModelList": {} })).await;
    assert_eq!(listed.as_array().unwrap().len(), 2, "a projector is no model: {listed}");

    let delete = |id: &str| json!({ "ModelDelete": { "id": id } });
    let first = hive.succeed(&delete("org/v-GGUF:Q8_0")).await;
    assert_eq!(first["freed_bytes"], small.len(), "the other model still has the projector");
    assert!(Path::new(&path).exists());
    let last = hive.succeed(&delete("org/v-GGUF:F16")).await;
    assert_eq!(last["freed_bytes"], large.len() + projector.len());
    assert!(contents(&hive.dir().join("cache")).is_empty());

    let failure = hive.fail(&download("org/v-GGUF/mmproj-F16.gguf")).await;
    assert_eq!(failure["code"], "model_unsupported", "{failure}");
    assert!(failure["message"].as_str().unwrap().contains("a projector"), "{failure}");
    hive.stop().await;
}

#[tokio::test]
async fn what_is_left_out_of_a_model_of_ollamas_library_is_said() {
    let hub = FakeHub::start().await;
    let (bytes, projector) = (model("m"), projector());
    for name in ["plain", "seen", "said", "adapted"] {
        hub.push(&format!("library/{name}:latest"), &bytes);
    }
    hub.push_layers("library/seen:latest", &[("projector", &projector)]);
    hub.push_layers(
        "library/said:latest",
        &[("template", b"t"), ("system", b"s"), ("params", b"{}"), ("license", b"l")],
    );
    hub.push_layers("library/adapted:latest", &[("adapter", b"a")]);
    let url = hub.url.clone();
    let hive = TestHive::start_with(|config| config.ollama.endpoint = url).await;

    let plain = hive.succeed(&download("ollama:plain")).await;
    assert!(plain["left_out"].is_null() && plain["projector"].is_null(), "{plain}");
    let stream = hive.run(&download("ollama:said")).await;
    assert!(
        stream.contains("Left out of ollama:said:latest: its template, system prompt, parameters"),
        "{stream}"
    );
    let said = hive.succeed(&json!({ "ModelGet": { "id": "said-latest" } })).await;
    assert_eq!(said["left_out"], json!(["template", "system prompt", "parameters"]));

    let seen = hive.succeed(&download("ollama:seen")).await;
    let path = seen["projector"].as_str().expect("a projector").to_owned();
    assert_eq!(fs::read(&path).unwrap(), projector);
    let sent = hub.sent();
    assert_eq!(hive.succeed(&download("ollama:seen")).await, seen);
    assert_eq!(hub.sent(), sent);
    let deleted = hive.succeed(&json!({ "ModelDelete": { "id": "seen-latest" } })).await;
    assert_eq!(deleted["freed_bytes"], bytes.len() + projector.len());
    assert!(!Path::new(&path).exists());
    // Of the same size, it could be taken for the projector.
    for mine in [b"mine".to_vec(), vec![7; projector.len()]] {
        fs::write(&path, &mine).expect("a file of the user's own");
        for force in [false, true] {
            let request = json!({ "ModelDownload": { "model": "ollama:seen", "force": force } });
            let failure = hive.fail(&request).await;
            assert_eq!(failure["code"], "model_exists", "{failure}");
            assert_eq!(fs::read(&path).unwrap(), mine);
        }
    }

    let failure = hive.fail(&download("ollama:adapted")).await;
    assert_eq!(failure["code"], "model_unsupported");
    assert!(failure["message"].as_str().unwrap().contains("adapter"), "{failure}");
    hive.stop().await;
}

#[tokio::test]
async fn a_missing_or_wrong_choice_lists_the_models_with_their_sizes() {
    let hub = FakeHub::start().await;
    let bytes = model("m");
    let names = ["m-Q2_K.gguf", "m-Q4_K_M.gguf", "sub/m-Q8_0.gguf", "mmproj-m-F16.gguf", "README.md"];
    hub.commit("org/m", "main", &names.map(|name| (name, &*bytes)));
    hub.commit("org/none", "main", &[("model.safetensors", b"x")]);
    let hive = hive(&hub, false).await;

    let failure = hive.fail(&download("org/m")).await;
    assert_eq!(failure["code"], "model_ambiguous");
    let message = failure["message"].as_str().unwrap();
    for expected in ["Q2_K (", "Q4_K_M (", "recommended", "Q8_0 ("] {
        assert!(message.contains(expected), "{message}");
    }
    assert!(!message.contains("mmproj"), "{message}");
    assert_eq!(failure["hint"], "choose one, such as org/m:Q4_K_M");
    assert_eq!(failure["stage"], "preflight");

    let failure = hive.fail(&download("org/m:Q6_K")).await;
    assert_eq!(failure["code"], "source_not_found");
    assert!(failure["message"].as_str().unwrap().contains("Q8_0 ("), "{failure}");
    let failure = hive.fail(&download("org/m/m-Q4_K_S.gguf")).await;
    assert_eq!(failure["code"], "source_not_found");
    assert!(failure["hint"].as_str().unwrap().contains("m-Q4_K_M.gguf"), "{failure}");
    let failure = hive.fail(&download("org/none")).await;
    assert!(failure["message"].as_str().unwrap().contains("no GGUF file"), "{failure}");
    assert_eq!(hub.sent(), 0);
    assert!(!hive.dir().join("cache").exists(), "nothing was chosen, nothing was made");
    hive.stop().await;
}

#[tokio::test]
async fn each_refusal_of_the_hub_has_its_own_code_and_hint() {
    let hub = FakeHub::start().await;
    let bytes = model("m");
    for (repo, access) in [
        ("org/gated", Access::Gated),
        ("org/closed", Access::GatedAndClosed),
        ("org/private", Access::Private),
        ("org/public", Access::Public),
    ] {
        hub.commit(repo, "main", &[("m-Q8_0.gguf", &bytes)]);
        hub.set_access(repo, access);
    }
    let without_token = hive(&hub, false).await;
    for (name, code, hint) in [
        ("org/gated", "source_gated", "ask for access on"),
        ("org/private", "source_unauthorized", "HF_TOKEN"),
        ("org/missing", "source_unauthorized", "check the name"),
        ("org/public@no-such", "revision_not_found", "main"),
        ("org/public/other.gguf", "source_not_found", "give org/public alone"),
    ] {
        let failure = without_token.fail(&download(name)).await;
        assert_eq!(failure["code"], code, "{name}: {failure}");
        assert!(failure["hint"].as_str().unwrap().contains(hint), "{name}: {failure}");
    }
    without_token.stop().await;

    let with_token = hive(&hub, true).await;
    for (name, code, hint) in [
        ("org/closed", "source_gated", "ask for access on"),
        ("org/missing", "repository_not_found", "check its name"),
    ] {
        let failure = with_token.fail(&download(name)).await;
        assert_eq!(failure["code"], code, "{name}: {failure}");
        assert!(failure["hint"].as_str().unwrap().contains(hint), "{name}: {failure}");
    }
    for (name, gated) in [("org/gated", true), ("org/public", false)] {
        let plan = json!({ "ModelDownload": { "model": name, "dry_run": true } });
        assert_eq!(with_token.succeed(&plan).await["gated"], gated, "{name}");
    }
    for name in ["org/gated", "org/private"] {
        assert_eq!(with_token.succeed(&download(name)).await["status"], "available");
    }
    with_token.stop().await;
}

#[tokio::test]
async fn a_token_that_the_hub_rejects_is_reported() {
    let hub = FakeHub::start().await;
    hub.commit("org/m", "main", &[("m-Q8_0.gguf", &model("m"))]);
    let dir = tempfile::tempdir().unwrap();
    let token = dir.path().join("token");
    fs::write(&token, "hf_anotherOne").unwrap();
    let hive = TestHive::start_in(dir, |config| {
        config.hub.endpoint = Some(hub.url.clone());
        config.hub.token_file = Some(token);
    })
    .await;
    let stream = hive.run(&download("org/m")).await;
    assert!(stream.contains("does not accept the token"), "{stream}");
    assert!(!stream.contains("anotherOne"));
    hive.stop().await;
}

#[tokio::test]
async fn a_split_model_is_listed_downloaded_and_deleted_as_one() {
    let hub = FakeHub::start().await;
    let parts = [model("part-1"), model("part-2"), model("part-3")];
    let names: Vec<_> = (1..=3).map(|n| format!("Q4_K_M/big-Q4_K_M-0000{n}-of-00003.gguf")).collect();
    let files: Vec<_> = names.iter().zip(&parts).map(|(name, part)| (name.as_str(), &**part)).collect();
    let commit = hub.commit("org/big", "main", &files);
    let hive = hive(&hub, false).await;
    let got = hive.succeed(&download("org/big:q4_k_m")).await;
    let total: usize = parts.iter().map(Vec::len).sum();
    assert_eq!((&got["id"], &got["size_bytes"]), (&json!("org/big:Q4_K_M"), &json!(total)));
    assert_eq!((&got["status"], &got["revision"]), (&json!("available"), &json!(commit)));
    assert_eq!(hub.sent(), total as u64);

    // After one part is removed, only that part is downloaded again.
    let blob = folder(&hive, "org/big").join("blobs").join(sha256(&parts[1]));
    fs::remove_file(&blob).unwrap();
    let listed = hive.succeed(&json!({ "ModelGet": { "id": "org/big:Q4_K_M" } })).await;
    assert_eq!(listed["status"], "incomplete");
    hive.succeed(&download("org/big")).await;
    assert_eq!(hub.sent(), (total + parts[1].len()) as u64);

    let deleted = hive.succeed(&json!({ "ModelDelete": { "id": "org/big:Q4_K_M" } })).await;
    assert_eq!(deleted["freed_bytes"], total);
    assert!(contents(&hive.dir().join("cache")).is_empty());
    hive.stop().await;
}

#[tokio::test]
async fn files_of_other_tools_in_the_cache_are_used_and_deleted_only_by_force() {
    let hub = FakeHub::start().await;
    let bytes = model("m");
    let commit = hub.commit("org/m", "main", &[("m-Q8_0.gguf", &bytes)]);
    let hive = hive(&hub, false).await;
    let blob = folder(&hive, "org/m").join("blobs").join(sha256(&bytes));
    fs::create_dir_all(blob.parent().unwrap()).unwrap();
    fs::write(&blob, &bytes).unwrap();

    // The blob is there, though no snapshot links to it yet.
    let got = hive.succeed(&download("org/m")).await;
    assert_eq!((&got["id"], &got["revision"]), (&json!("org/m:Q8_0"), &json!(commit)));
    assert_eq!(hub.sent(), 0);
    let failure = hive.fail(&json!({ "ModelDelete": { "id": "org/m:Q8_0" } })).await;
    assert_eq!(failure["code"], "not_owned");
    let deleted = hive.succeed(&json!({ "ModelDelete": { "id": "org/m:Q8_0", "force": true } })).await;
    assert_eq!(deleted["freed_bytes"], bytes.len());

    // A damaged blob is fetched again.
    fs::create_dir_all(blob.parent().unwrap()).unwrap();
    fs::write(&blob, &bytes[..bytes.len() - 1]).unwrap();
    hive.succeed(&download("org/m")).await;
    assert_eq!((fs::read(&blob).unwrap(), hub.sent()), (bytes.clone(), bytes.len() as u64));
    hive.stop().await;
}

#[tokio::test]
async fn a_dry_run_returns_the_plan_and_writes_nothing() {
    let hub = FakeHub::start().await;
    let bytes = model("m");
    hub.commit("org/m", "main", &[("m-Q8_0.gguf", &bytes), ("m-Q4_0.gguf", &model("n"))]);
    let hive = hive(&hub, false).await;
    let plan = hive.succeed(&json!({ "ModelDownload": { "model": "org/m:Q8_0", "dry_run": true } })).await;
    assert_eq!(plan["model"], "org/m:Q8_0");
    assert_eq!(plan["files"][0]["size_bytes"], bytes.len());
    assert_eq!((&plan["total_bytes"], &plan["already_present"]), (&json!(bytes.len()), &json!(false)));
    assert!(!hive.dir().join("cache").exists());
    hive.succeed(&download("org/m:Q8_0")).await;
    let plan = hive.succeed(&json!({ "ModelDownload": { "model": "org/m:Q8_0", "dry_run": true } })).await;
    assert_eq!((&plan["transfer_bytes"], &plan["already_present"]), (&json!(0), &json!(true)));
    hive.stop().await;
}

#[tokio::test]
async fn a_revision_is_a_branch_a_tag_a_reference_or_a_commit() {
    let hub = FakeHub::start().await;
    let (old, new) = (model("old"), model("new"));
    let first = hub.commit("org/m", "v1", &[("m-Q8_0.gguf", &old)]);
    let second = hub.commit("org/m", "main", &[("m-Q8_0.gguf", &new)]);
    hub.commit("org/m", "refs/pr/1", &[("m-Q8_0.gguf", &old)]);
    let hive = hive(&hub, false).await;
    let get = async |request: Value| hive.succeed(&json!({ "ModelDownload": request })).await;
    assert_eq!(get(json!({ "model": "org/m" })).await["revision"], second);
    assert_eq!(get(json!({ "model": "org/m", "revision": "v1" })).await["revision"], first);
    let sent = hub.sent();
    assert_eq!(get(json!({ "model": "org/m@refs/pr/1" })).await["revision"], first);
    // For a commit that is in the cache, the hub is not asked.
    let seen = hub.seen().len();
    assert_eq!(get(json!({ "model": format!("org/m:Q8_0@{first}") })).await["revision"], first);
    assert_eq!((hub.seen().len(), hub.sent()), (seen, sent));
    let refs = folder(&hive, "org/m").join("refs");
    assert_eq!(fs::read_to_string(refs.join("refs/pr/1")).unwrap(), first);
    assert_eq!(fs::read_to_string(refs.join("v1")).unwrap(), first);
    let failure = hive.fail(&json!({ "ModelDownload": { "model": "org/m@v1", "revision": "v2" } })).await;
    assert_eq!(failure["code"], "invalid_field");

    // Deleting one snapshot keeps the blob of the other.
    let models = hive.succeed(&json!({ "ModelList": {} })).await;
    assert_eq!(models.as_array().unwrap().len(), 2, "{models}");
    let of_old = models.as_array().unwrap().iter().find(|model| model["revision"] == first).unwrap();
    let deleted = hive.succeed(&json!({ "ModelDelete": { "id": of_old["id"] } })).await;
    assert_eq!(deleted["freed_bytes"], old.len());
    assert!(!refs.join("refs").exists() && refs.join("main").exists());
    hive.stop().await;
}

#[tokio::test]
async fn offline_only_the_cache_is_used() {
    let hub = FakeHub::start().await;
    let bytes = model("m");
    hub.commit("org/m", "main", &[("m-Q8_0.gguf", &bytes)]);
    let online = hive(&hub, false).await;
    online.succeed(&download("org/m")).await;
    let dir = online.stop().await;
    let (cache, seen) = (dir.path().join("cache"), hub.seen().len());

    let offline = TestHive::start_in(dir, |config| {
        config.hub.endpoint = Some(hub.url.clone());
        config.hub.offline = Some(true);
        config.hub_cache = Some(cache.clone());
    })
    .await;
    assert_eq!(offline.succeed(&download("org/m:Q8_0")).await["id"], "org/m:Q8_0");
    for name in ["org/m:Q4_0", "org/other", "org/m@v2"] {
        let failure = offline.fail(&download(name)).await;
        assert_eq!(failure["code"], "source_offline", "{name}: {failure}");
        assert!(failure["hint"].as_str().unwrap().contains("HF_HUB_OFFLINE"));
    }
    assert_eq!(hub.seen().len(), seen, "nobody was asked");

    // Not set to offline, but the hub cannot be reached.
    let dir = offline.stop().await;
    let alone = TestHive::start_in(dir, |config| config.hub_cache = Some(cache)).await;
    let stream = alone.run(&download("org/m")).await;
    assert!(stream.contains("The Hub did not answer"), "{stream}");
    assert!(stream.ends_with("data: [DONE]\n\n"), "{stream}");
    let failure = alone.fail(&download("org/other")).await;
    assert_eq!(failure["code"], "server_unreachable", "{failure}");
    assert!(
        failure["message"].as_str().is_some_and(|text| text.contains("refused the connection")),
        "{failure}"
    );
    alone.stop().await;
}

#[tokio::test]
async fn a_busy_hub_is_asked_again_and_a_damaged_file_is_not_kept() {
    let hub = FakeHub::start().await;
    let (good, bad) = (model("good"), model("bad"));
    hub.commit("org/good", "main", &[("m-Q8_0.gguf", &good)]);
    hub.commit("org/bad", "main", &[("m-Q8_0.gguf", &bad)]);
    hub.damage(&bad);
    let hive = hive(&hub, false).await;
    hub.be_busy(2);
    let stream = hive.run(&download("org/good")).await;
    assert!(stream.contains("is busy (503); asking again"), "{stream}");
    assert!(stream.ends_with("data: [DONE]\n\n"), "{stream}");

    let failure = hive.fail(&download("org/bad")).await;
    assert_eq!(failure["code"], "download_failed", "{failure}");
    let blob = folder(&hive, "org/bad").join("blobs").join(sha256(&bad));
    assert!(!blob.exists());
    assert!(!folder(&hive, "org/bad").join("snapshots").exists());
    hive.stop().await;
}

#[tokio::test]
async fn a_download_waits_for_the_lock_of_huggingface_hub() {
    let hub = FakeHub::start().await;
    let bytes = model("m");
    hub.commit("org/m", "main", &[("m-Q8_0.gguf", &bytes)]);
    let hive = hive(&hub, false).await;
    let lock = hive.dir().join("cache/.locks/models--org--m").join(format!("{}.lock", sha256(&bytes)));
    fs::create_dir_all(lock.parent().unwrap()).unwrap();
    let held = fs::File::create(&lock).unwrap();
    held.lock().unwrap();
    let job = hive.submit(&download("org/m")).await;
    let (mut text, mut stream) = (String::new(), hive.get(&format!("/v1/jobs/{job}/stream")).await);
    while !text.contains("Another process is writing") {
        let piece = soon("word of the lock", stream.chunk()).await.unwrap().expect("more of the stream");
        text += &String::from_utf8_lossy(&piece);
    }
    assert_eq!(hub.sent(), 0);
    drop(held);
    let stream = hive.stream(&job).await;
    assert!(stream.ends_with("data: [DONE]\n\n"), "{stream}");
    assert!(lock.exists(), "a lock file that goes away protects nobody");
    hive.stop().await;
}

#[tokio::test]
async fn a_cancelled_download_is_listed_and_can_be_resumed() {
    let hub = FakeHub::start().await;
    let mut bytes = model("m");
    // Bytes after the last tensor are allowed; they make the transfer long enough to be cancelled.
    bytes.resize(bytes.len() + (24 << 20), 7);
    hub.commit("org/m", "main", &[("eight/m-Q8_0.gguf", &bytes)]);
    let dir = tempfile::tempdir().unwrap();
    let cache = dir.path().join("cache");
    let hive = TestHive::start_in(dir, |config| {
        config.hub.endpoint = Some(hub.url.clone());
        config.hub_cache = Some(cache);
        config.downloads.bytes_per_second = 8 << 20;
        config.downloads.chunk_bytes = 256 << 10;
    })
    .await;
    let job = hive.submit(&download("org/m")).await;
    let listed = until("some bytes", async || {
        let listed = hive.succeed(&json!({ "ModelList": {} })).await[0].clone();
        listed["size_bytes"].as_u64().filter(|bytes| *bytes > 1 << 20).map(|_| listed)
    })
    .await;
    assert_eq!(
        (&listed["status"], &listed["id"]),
        (&json!("downloading"), &json!("org/m/eight/m-Q8_0.gguf"))
    );
    assert_eq!(hive.delete(&format!("/v1/jobs/{job}")).await.status(), 200);
    let hive = hive_in(hive.stop().await, &hub, false).await;
    let listed = hive.succeed(&json!({ "ModelGet": { "id": "org/m/eight/m-Q8_0.gguf" } })).await;
    assert_eq!(
        (&listed["status"], &listed["source"]),
        (&json!("incomplete"), &json!("hf:org/m/eight/m-Q8_0.gguf"))
    );
    let before = hub.sent();
    let source = listed["source"].as_str().unwrap();
    assert_eq!(hive.succeed(&download(source)).await["status"], "available", "its source is what goes on");
    assert!(hub.sent() - before < bytes.len() as u64, "what was there was used");
    hive.succeed(&json!({ "ModelDelete": { "id": "org/m:Q8_0" } })).await;
    assert!(contents(&hive.dir().join("cache")).is_empty());
    hive.stop().await;
}

#[tokio::test]
async fn what_is_here_of_a_projector_belongs_to_its_model() {
    let hub = FakeHub::start().await;
    let (bytes, mut projector) = (model("v"), projector());
    projector.resize(24 << 20, 7);
    hub.commit("org/v", "main", &[("v-Q8_0.gguf", &bytes), ("mmproj-F16.gguf", &projector)]);
    let dir = tempfile::tempdir().unwrap();
    let cache = dir.path().join("cache");
    let hive = TestHive::start_in(dir, |config| {
        config.hub.endpoint = Some(hub.url.clone());
        config.hub_cache = Some(cache);
        config.downloads.bytes_per_second = 8 << 20;
        config.downloads.chunk_bytes = 256 << 10;
    })
    .await;
    let the_model = async || {
        let listed = hive.succeed(&json!({ "ModelList": {} })).await;
        assert!(listed.as_array().unwrap().len() < 2, "there is one model: {listed}");
        listed[0].clone()
    };
    let begun = async || {
        let job = hive.submit(&download("org/v")).await;
        until("some of the projector", async || {
            let model = the_model().await;
            let is_told = |text: &Value| text.as_str().is_some_and(|text| text.contains("mmproj-F16.gguf"));
            let is_begun = is_told(&model["status_detail"]) || is_told(&model["left_out"][0]);
            let partials = contents(&folder(&hive, "org/v").join("blobs")).into_iter();
            let mut partials = partials.filter(|path| path.to_string_lossy().ends_with(".partial.journal"));
            let has_chunks =
                partials.any(|path| fs::metadata(path).is_ok_and(|journal| journal.len() > 1000));
            (is_begun && has_chunks).then_some(model)
        })
        .await;
        job
    };
    let cancel = async |job: String| {
        assert_eq!(hive.delete(&format!("/v1/jobs/{job}")).await.status(), 200);
        the_model().await
    };
    let delete = |id: &Value| json!({ "ModelDelete": { "id": id } });

    // The model's own file is complete, and waits for the projector.
    let job = begun().await;
    let running = the_model().await;
    assert_eq!(
        (&running["status"], &running["name"]),
        (&json!("downloading"), &json!("v-Q8_0")),
        "{running}"
    );
    assert_eq!(running["size_bytes"], bytes.len());
    let listed = cancel(job).await;
    assert_eq!((&listed["status"], &listed["id"]), (&json!("incomplete"), &running["id"]), "{listed}");
    assert_eq!(listed["source"], "hf:org/v/v-Q8_0.gguf");
    let before = hub.sent();
    let got = hive.succeed(&download("hf:org/v/v-Q8_0.gguf")).await;
    assert!(got["projector"].is_string() && got["left_out"].is_null(), "{got}");
    assert!(hub.sent() - before < projector.len() as u64, "what was there was used");
    hive.succeed(&delete(&got["id"])).await;

    let listed = cancel(begun().await).await;
    let freed = hive.succeed(&delete(&listed["id"])).await["freed_bytes"].as_u64().unwrap();
    assert!(freed > bytes.len() as u64, "the model's own file went, too: {freed}");
    let cache = hive.dir().join("cache");
    assert!(contents(&cache).is_empty(), "{:?}", contents(&cache));

    // The model is here, and gets a projector later.
    hub.commit("org/v", "main", &[("v-Q8_0.gguf", &bytes)]);
    hive.succeed(&download("org/v")).await;
    hub.commit("org/v", "main", &[("v-Q8_0.gguf", &bytes), ("mmproj-F16.gguf", &projector)]);
    let job = begun().await;
    let running = the_model().await;
    assert_eq!(running["status"], "available", "{running}");
    assert_eq!(hive.fail(&delete(&running["id"])).await["code"], "model_in_use");
    let listed = cancel(job).await;
    assert!(listed["left_out"][0].as_str().unwrap().contains("mmproj-F16.gguf"), "{listed}");
    hive.succeed(&delete(&listed["id"])).await;
    assert!(contents(&cache).is_empty(), "{:?}", contents(&cache));
    hive.stop().await;
}

#[tokio::test]
async fn an_unfinished_projector_in_the_store_goes_with_its_model() {
    let hub = FakeHub::start().await;
    let mut projector = projector();
    projector.resize(24 << 20, 7);
    hub.push("library/seen:latest", &model("seen"));
    hub.push_layers("library/seen:latest", &[("projector", &projector)]);
    let hive = TestHive::start_with(|config| {
        config.ollama.endpoint.clone_from(&hub.url);
        config.downloads.bytes_per_second = 8 << 20;
        config.downloads.chunk_bytes = 256 << 10;
    })
    .await;
    let store = hive.dir().join("data/models");
    let journal = store.join("mmproj-seen-latest.gguf.partial.journal");
    let job = hive.submit(&download("ollama:seen")).await;
    until("some of the projector", async || {
        fs::metadata(&journal).is_ok_and(|journal| journal.len() > 1000).then_some(())
    })
    .await;
    assert_eq!(hive.delete(&format!("/v1/jobs/{job}")).await.status(), 200);
    let listed = hive.succeed(&json!({ "ModelList": {} })).await;
    assert_eq!(listed.as_array().unwrap().len(), 1, "{listed}");
    assert_eq!((&listed[0]["id"], &listed[0]["status"]), (&json!("seen-latest"), &json!("available")));
    assert!(listed[0]["left_out"][0].as_str().unwrap().contains("mmproj"), "{listed}");
    assert!(journal.exists());
    hive.succeed(&json!({ "ModelDelete": { "id": "seen-latest" } })).await;
    assert_eq!(contents(&store), Vec::<PathBuf>::new());
    hive.stop().await;
}

#[tokio::test]
async fn deleting_a_blob_that_is_a_link_keeps_the_links_target() {
    let hub = FakeHub::start().await;
    let bytes = model("m");
    let commit = hub.commit("org/m", "main", &[("m-Q8_0.gguf", &bytes)]);
    let hive = hive(&hub, false).await;
    let (shared, folder) = (hive.dir().join("shared"), folder(&hive, "org/m"));
    fs::write(&shared, &bytes).unwrap();
    let snapshot = folder.join("snapshots").join(&commit);
    fs::create_dir_all(&snapshot).unwrap();
    fs::create_dir_all(folder.join("blobs")).unwrap();
    symlink(&shared, folder.join("blobs").join(sha256(&bytes))).unwrap();
    symlink(Path::new("../../blobs").join(sha256(&bytes)), snapshot.join("m-Q8_0.gguf")).unwrap();
    let id = hive.succeed(&json!({ "ModelList": {} })).await[0]["id"].clone();
    let deleted = hive.succeed(&json!({ "ModelDelete": { "id": id, "force": true } })).await;
    assert_eq!(deleted["freed_bytes"], 0);
    assert!(shared.exists() && !folder.exists());
    hive.stop().await;
}

#[tokio::test]
async fn a_model_of_the_ollama_registry_is_downloaded_into_the_store() {
    let registry = FakeHub::start().await;
    let bytes = model("smollm");
    registry.push("library/smollm:135m", &bytes);
    registry.push("user/own:latest", &bytes);
    let hive = TestHive::start_with(|config| config.ollama.endpoint = registry.url.clone()).await;
    let got = hive.succeed(&download("ollama:smollm:135m")).await;
    assert_eq!((&got["id"], &got["source"]), (&json!("smollm-135m"), &json!("ollama:smollm:135m")));
    assert_eq!(got["sha256"], sha256(&bytes));
    assert!(got["revision"].as_str().unwrap().starts_with("sha256:"));
    let sent = registry.sent();
    hive.succeed(&download("ollama:smollm:135m")).await;
    assert_eq!(registry.sent(), sent, "it is here already");
    assert_eq!(hive.succeed(&download("ollama:user/own")).await["id"], "user-own-latest");
    let failure = hive.fail(&download("ollama:smollm:7b")).await;
    assert_eq!(failure["code"], "source_not_found");
    assert!(failure["hint"].as_str().unwrap().contains("library/smollm/tags"), "{failure}");
    let newer = model("newer");
    registry.push("library/smollm:135m", &newer);
    assert_eq!(hive.succeed(&download("ollama:smollm:135m")).await["sha256"], sha256(&newer));
    let deleted = hive.succeed(&json!({ "ModelDelete": { "id": "smollm-135m" } })).await;
    assert_eq!(deleted["freed_bytes"], newer.len());
    hive.stop().await;
}

/// Runs `rbee-hive quickstart` with this hub and returns its output.
async fn quickstart(dir: &Path, endpoint: &str) -> String {
    let mut command = program();
    command.args(["quickstart", "--exit", "--port", "0", "--data-dir"]).arg(dir.join("data"));
    for variable in ["HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "HF_HUB_OFFLINE", "RUST_LOG"] {
        command.env_remove(variable);
    }
    command.env("HF_ENDPOINT", endpoint).env("HF_HUB_CACHE", dir.join("cache")).env("HF_HOME", dir);
    let output = soon("the quickstart", command.output()).await.expect("an end");
    let shown = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{shown}\n{}", String::from_utf8_lossy(&output.stderr));
    shown
}

#[tokio::test]
async fn the_quickstart_downloads_a_model_or_makes_one_without_a_hub() {
    let hub = FakeHub::start().await;
    let repo = "HuggingFaceTB/SmolLM2-360M-Instruct-GGUF";
    hub.commit(
        repo,
        "main",
        &[("smollm2-360m-instruct-q8_0.gguf", &model("smol")), ("other-Q4_0.gguf", b"x")],
    );
    let dir = tempfile::tempdir().unwrap();
    let shown = quickstart(dir.path(), &hub.url).await;
    assert!(shown.contains(&format!("{{\"ModelLoad\":{{\"id\":\"{repo}:Q8_0\"}}}}")), "{shown}");
    assert!(!shown.contains("generates a model instead"), "{shown}");

    let dir = tempfile::tempdir().unwrap();
    let shown = quickstart(dir.path(), &nowhere()).await;
    assert!(shown.contains("generates a model instead"), "{shown}");
    assert!(shown.contains("{\"ModelLoad\":{\"id\":\"rbee-quickstart\"}}"), "{shown}");
}

/// Runs the Hub's real client, if this machine has it. It downloads from the test's hub, finds the
/// hive's files in the cache, and the hive finds its files.
#[tokio::test]
async fn huggingface_hub_and_the_hive_share_one_cache() {
    let Some(python) = python_with("huggingface_hub", "RBEE_TEST_PYTHON").await else { return };
    let hub = FakeHub::start().await;
    let (ours, theirs) = (model("ours"), model("theirs"));
    let ours_commit = hub.commit("org/ours", "main", &[("sub/m-Q8_0.gguf", &ours), ("README.md", b"hi")]);
    hub.commit("org/theirs", "main", &[("m-Q8_0.gguf", &theirs), ("README.md", b"hi")]);
    hub.set_access("org/theirs", Access::Gated);
    let hive = hive(&hub, true).await;
    hive.succeed(&download("org/ours")).await;
    let sent = hub.sent();
    let script = r#"
import huggingface_hub as h, os
found = h.try_to_load_from_cache("org/ours", "sub/m-Q8_0.gguf")
assert isinstance(found, str), found
again = h.hf_hub_download("org/ours", "sub/m-Q8_0.gguf")
assert again == found, (again, found)
print("found", found)
print("got", h.hf_hub_download("org/theirs", "m-Q8_0.gguf"))
print("read", open(h.hf_hub_download("org/theirs", "README.md")).read())
cache = h.scan_cache_dir()
assert not cache.warnings, cache.warnings
print("scanned", sorted(repo.repo_id for repo in cache.repos))
"#;
    let output = run_python(&python, script, &hub, hive.dir()).await;
    assert!(output.contains(&format!("snapshots/{ours_commit}/sub/m-Q8_0.gguf")), "{output}");
    assert!(output.contains("read hi") && output.contains("['org/ours', 'org/theirs']"), "{output}");
    assert_eq!(hub.sent() - sent, theirs.len() as u64, "it fetched its own file only");

    // The hive uses the client's file in place, without a transfer.
    let sent = hub.sent();
    let got = hive.succeed(&download("org/theirs:Q8_0")).await;
    assert_eq!((&got["status"], hub.sent()), (&json!("available"), sent));
    assert_eq!(hive.fail(&json!({ "ModelDelete": { "id": got["id"] } })).await["code"], "not_owned");
    hive.stop().await;
}

async fn run_python(python: &str, script: &str, hub: &FakeHub, dir: &Path) -> String {
    let output = command(python)
        .args(["-c", script])
        .env("HF_ENDPOINT", &hub.url)
        .env("HF_HUB_CACHE", dir.join("cache"))
        .env("HF_HOME", dir.join("home"))
        .env("HF_TOKEN", TOKEN)
        .env("HF_HUB_DISABLE_TELEMETRY", "1")
        .env("NO_PROXY", "*")
        .output();
    let output = soon("the Python client", output).await.expect("an end");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{text}\n{}", String::from_utf8_lossy(&output.stderr));
    text
}
