//! A hive on a disk that is full: what frees space and what stops something works; what needs space is
//! refused with words.

use std::fs::{self, File};
use std::io::Write;
use std::path::Path;

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::support::{FaultServer, Served, SmallDisk, TestHive, read_all, typed, write_model};

/// Fills the disk of `folder` to its last byte.
fn fill(folder: &Path) {
    let mut filler = File::options().create(true).append(true).open(folder.join("filler")).expect("a file");
    for piece in [1 << 20, 4096, 1] {
        while filler.write_all(&vec![b'x'; piece]).is_ok() {}
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_frees_and_what_stops_works_on_a_full_disk() {
    let root = tempfile::tempdir().expect("a folder");
    let data = root.path().join("data");
    let Some(disk) = SmallDisk::mount(&data).await else { return };
    let server = FaultServer::start().await;
    let model = fs::read(write_model(root.path(), "fetched")).expect("a model");
    let url = server.serve("fetched.gguf", Served::correct(model));
    let start_in =
        async |dir: TempDir| TestHive::start_in(dir, |config| config.data_dir.clone_from(&data)).await;
    let hive = start_in(tempfile::tempdir().expect("a folder")).await;
    write_model(&hive.models_dir(), "tiny");
    hive.succeed(&json!({ "ModelDownload": { "model": url } })).await;
    let pid = hive.load("tiny").await["pid"].clone();
    let other = hive.succeed(&json!({ "WorkerSpawn": { "model": "tiny", "worker": "cpu" } })).await;
    disk.resize("24m").await;
    fill(&data);

    let refused = hive.post("/v1/jobs", &json!({ "ModelLoad": { "id": "tiny" } })).await;
    assert_eq!(refused.status(), 507);
    let problem: Value = refused.json().await.expect("JSON");
    assert_eq!(problem["code"], "disk_full", "{problem}");
    assert!(problem["hint"].as_str().expect("a hint").contains("free some space"), "{problem}");

    let ended = hive.submit(&json!({ "WorkerProcessDelete": { "pid": other["pid"] } })).await;
    let unloaded = hive.submit(&json!({ "ModelUnload": { "id": "tiny" } })).await;
    for id in [ended, unloaded] {
        let stream = hive.typed_stream(&id).await;
        let events = typed(&stream);
        let warned = events
            .iter()
            .any(|event| event.data["action"] == "job_not_journalled" && event.data["level"] == "warn");
        assert!(warned && events.last().is_some_and(|end| end.event == "done"), "{stream}");
    }
    assert_ne!(pid, other["pid"]);

    // The hive starts on the full disk, too.
    let hive = start_in(hive.stop().await).await;
    let delete = hive.submit(&json!({ "ModelDelete": { "id": "fetched" } })).await;
    let stream = read_all(hive.get(&format!("/v1/jobs/{delete}/stream")).await).await;
    assert!(stream.ends_with("data: [DONE]\n\n"), "{stream}");

    // It freed the room for its own journal.
    let hive = start_in(hive.stop().await).await;
    assert_eq!(hive.job(&delete).await["state"], "succeeded");
    hive.stop().await;
    drop(disk);
}
