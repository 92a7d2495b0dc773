//! Listing, importing, downloading and deleting models: folders, the hub cache, files and URLs.

use std::net::{Ipv4Addr, SocketAddr};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use rbee_hive::models::gguf::{TensorType, Value as Gguf, Writer};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use crate::support::{TestHive, data_lines, projector, read_until, soon, typed, until, write_model};

/// A small GGUF file that the catalog accepts; `filler` is the number of bytes to add.
fn gguf(name: &str, filler: usize) -> Vec<u8> {
    let mut writer = Writer::default();
    writer
        .metadata("general.architecture", Gguf::String("llama".to_owned()))
        .metadata("general.name", Gguf::String(name.to_owned()))
        .metadata("llama.context_length", Gguf::U32(4096))
        .tensor(
            "output.weight",
            &[32, 2 + filler as u64 / 128],
            TensorType::F32,
            vec![0; 256 + filler / 128 * 128],
        );
    let mut bytes = Vec::new();
    writer.write(&mut bytes).expect("memory takes it");
    bytes
}

fn put(path: &Path, bytes: &[u8]) {
    std::fs::create_dir_all(path.parent().expect("a folder")).expect("a folder");
    std::fs::write(path, bytes).expect("a file");
}

fn hex_sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

async fn list(hive: &TestHive) -> Vec<Value> {
    hive.succeed(&json!({ "ModelList": {} })).await.as_array().expect("an array").clone()
}

fn ids(models: &[Value]) -> Vec<&str> {
    models.iter().map(|model| model["id"].as_str().expect("an id")).collect()
}

/// The names of the files in the hive's store.
fn stored(hive: &TestHive) -> Vec<String> {
    let entries = std::fs::read_dir(hive.dir().join("data/models")).expect("the store");
    let mut names: Vec<_> =
        entries.map(|entry| entry.expect("an entry").file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    names
}

fn download(source: &str) -> Value {
    json!({ "ModelDownload": { "model": source } })
}

fn file(path: &Path) -> Value {
    download(&format!("file:{}", path.display()))
}

/// Writes a repository of the hub cache in huggingface_hub's layout. Returns the snapshot's folder.
fn hub_repository(hub: &Path, repo: &str, revision: &str, files: &[(&str, &[u8])]) -> PathBuf {
    let folder = hub.join(format!("models--{}", repo.replace('/', "--")));
    let snapshot = folder.join("snapshots").join(revision);
    put(&folder.join("refs/main"), revision.as_bytes());
    for (name, bytes) in files {
        let blob = folder.join("blobs").join(hex_sha256(bytes));
        put(&blob, bytes);
        let link = snapshot.join(name);
        std::fs::create_dir_all(link.parent().expect("a folder")).expect("a folder");
        symlink(&blob, &link).expect("a link");
    }
    snapshot
}

#[tokio::test(flavor = "multi_thread")]
async fn models_in_folders_and_in_the_hub_cache_are_listed_in_place() {
    let outside = tempfile::tempdir().expect("a folder");
    let hub = outside.path().join("hub");
    let quantized = gguf("q4", 0);
    let projector = projector();
    let snapshot = hub_repository(
        &hub,
        "acme/small-GGUF",
        "0123456789abcdef",
        &[
            ("small-Q4_K_M.gguf", &quantized),
            ("small-Q8_0.gguf", &gguf("q8", 0)),
            // Two files share this tag, so neither can be named by it.
            ("a/small-F16.gguf", &gguf("f16 a", 0)),
            ("b/small-F16.gguf", &gguf("f16 b", 0)),
            ("README.md", b"# words"),
            ("mmproj-small-F16.gguf", &projector),
        ],
    );
    let other = outside.path().join("more");
    let hive = TestHive::start_with(|config| {
        config.hub_cache = Some(hub.clone());
        config.models_dirs.push(other.clone());
        config.models_dirs.push(outside.path().join("not-there"));
    })
    .await;
    let mine = hive.models_dir();
    put(&mine.join("chat.gguf"), &gguf("one", 0));
    put(&other.join("deeper/chat.gguf"), &gguf("two", 0));
    put(&mine.join("naïve model (1).gguf"), &gguf("odd", 0));
    put(&mine.join("notes.txt"), b"no model");
    put(&mine.join("broken.gguf"), b"GGML");

    let models = list(&hive).await;
    let names = ids(&models);
    for id in [
        "acme/small-GGUF:Q4_K_M",
        "acme/small-GGUF:Q8_0",
        "acme/small-GGUF/a/small-F16.gguf",
        "acme/small-GGUF/b/small-F16.gguf",
        "chat",
        "naïve-model--1-",
        "broken",
    ] {
        assert!(names.contains(&id), "{id} is missing: {names:?}");
    }
    // Which of two newcomers with the same name has it as its id depends on the folders' paths.
    assert!(names.contains(&"deeper/chat") || names.contains(&"models/chat"), "{names:?}");
    assert_eq!(names.len(), 8, "{names:?}");
    assert_eq!(ids(&list(&hive).await), names, "ids are stable");

    let hubs = hive.succeed(&json!({ "ModelGet": { "id": "acme/small-GGUF:Q4_K_M" } })).await;
    assert_eq!(hubs["path"], snapshot.join("small-Q4_K_M.gguf").to_str().expect("text"));
    assert_eq!(
        (&hubs["source"], &hubs["revision"]),
        (&json!("hf:acme/small-GGUF"), &json!("0123456789abcdef"))
    );
    assert_eq!(hubs["sha256"], hex_sha256(&quantized));
    assert_eq!(hubs["size_bytes"], quantized.len());
    assert_eq!((&hubs["architecture"], &hubs["context_length"]), (&json!("llama"), &json!(4096)));
    assert_eq!(
        (&hubs["format"], &hubs["status"], &hubs["loaded"]),
        (&json!("gguf"), &json!("available"), &json!(false))
    );
    let broken = hive.succeed(&json!({ "ModelGet": { "id": "broken" } })).await;
    assert_eq!(broken["status"], "corrupt", "{broken}");
    assert!(broken["status_detail"].is_string(), "{broken}");
    // A name that two models have is ambiguous; a name that one model has is enough.
    let both = hive.fail(&json!({ "ModelGet": { "id": "small-F16" } })).await;
    assert_eq!(both["code"], "model_ambiguous");
    assert!(both["message"].as_str().is_some_and(|text| text.contains("a/small-F16.gguf, acme")), "{both}");
    let named = hive.succeed(&json!({ "ModelGet": { "id": "small-Q8_0" } })).await;
    assert_eq!(named["id"], "acme/small-GGUF:Q8_0");

    // A file that the hive did not put there is deleted only by force.
    let delete = |id: &str, force: bool| json!({ "ModelDelete": { "id": id, "force": force } });
    for (id, path) in
        [("acme/small-GGUF:Q4_K_M", snapshot.join("small-Q4_K_M.gguf")), ("chat", mine.join("chat.gguf"))]
    {
        let failure = hive.fail(&delete(id, false)).await;
        assert_eq!(failure["code"], "not_owned");
        let text = failure["message"].as_str().expect("a message");
        let path = models
            .iter()
            .find(|model| model["id"] == id)
            .and_then(|model| model["path"].as_str())
            .unwrap_or(path.to_str().expect("text"));
        assert!(text.contains(path), "{failure}");
        assert!(failure["hint"].as_str().is_some_and(|text| text.contains("force")), "{failure}");
        assert!(Path::new(path).exists());
        let size = models.iter().find(|model| model["id"] == id).map(|model| model["size_bytes"].clone());
        assert_eq!(Some(hive.succeed(&delete(id, true)).await["freed_bytes"].clone()), size);
        assert!(!Path::new(path).exists());
    }
    assert!(snapshot.join("small-Q8_0.gguf").exists(), "its neighbours stay");
    assert_eq!(list(&hive).await.len(), 6);
    hive.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_import_is_a_link_and_deleting_it_keeps_the_file() {
    let hive = TestHive::start().await;
    let outside = tempfile::tempdir().expect("a folder");
    let original = outside.path().join("guest.gguf");
    put(&original, &gguf("guest", 0));
    let plan = hive
        .succeed(
            &json!({ "ModelDownload": { "model": format!("file:{}", original.display()), "dry_run": true } }),
        )
        .await;
    assert_eq!((&plan["model"], &plan["transfer_bytes"]), (&json!("guest"), &json!(0)));
    assert_eq!(plan["already_present"], false);
    assert!(stored(&hive).is_empty(), "a dry run does nothing");

    let model = hive.succeed(&file(&original)).await;
    assert_eq!(model["id"], "guest");
    let link = PathBuf::from(model["path"].as_str().expect("a path"));
    assert!(link.starts_with(hive.dir().join("data")));
    assert_eq!(std::fs::read_link(&link).expect("a link"), original.canonicalize().expect("a path"));
    assert_eq!(stored(&hive), ["guest.gguf", "guest.gguf.json"]);
    assert_eq!(hive.succeed(&file(&original)).await["id"], "guest", "twice is once");

    // Another file of that name replaces it only by force.
    let namesake = outside.path().join("elsewhere/guest.gguf");
    put(&namesake, &gguf("namesake", 0));
    let taken = hive.fail(&file(&namesake)).await;
    assert_eq!(taken["code"], "model_exists");
    let force =
        json!({ "ModelDownload": { "model": format!("file:{}", namesake.display()), "force": true } });
    hive.succeed(&force).await;
    assert_eq!(std::fs::read_link(&link).expect("a link"), namesake.canonicalize().expect("a path"));

    let deleted = hive.succeed(&json!({ "ModelDelete": { "id": "guest" } })).await;
    assert_eq!(deleted, json!({ "id": "guest", "freed_bytes": 0 }));
    assert!(original.exists() && namesake.exists() && stored(&hive).is_empty());

    let missing = outside.path().join("missing.gguf");
    let words = outside.path().join("words.gguf");
    put(&words, b"no model at all");
    let text = outside.path().join("notes.txt");
    put(&text, b"words");
    for (source, code) in [
        (format!("file:{}", missing.display()), "source_not_found"),
        (format!("file:{}", words.display()), "model_corrupt"),
        (format!("file:{}", text.display()), "source_unsupported"),
        (format!("file:{}", outside.path().display()), "model_ambiguous"),
        ("file:relative.gguf".to_owned(), "invalid_field"),
        (original.display().to_string(), "invalid_field"),
        ("file:/dev/zero".to_owned(), "source_unsupported"),
        ("ftp://localhost/x.gguf".to_owned(), "source_unsupported"),
        ("http://169.254.169.254/x.gguf".to_owned(), "source_refused"),
        ("https://127.0.0.1.example@10.0.0.1/x.gguf".to_owned(), "invalid_field"),
        ("https://10.0.0.1/x.gguf".to_owned(), "source_refused"),
    ] {
        let failure = hive.fail(&download(&source)).await;
        assert_eq!(failure["code"], code, "{source}: {failure}");
        assert!(failure["hint"].is_string(), "{failure}");
    }
    assert!(stored(&hive).is_empty());
    hive.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_model_in_use_is_deleted_only_by_force_which_stops_its_worker() {
    let hive = TestHive::start().await;
    let path = write_model(&hive.models_dir(), "busy");
    let worker = hive.load("busy").await;
    let failure = hive.fail(&json!({ "ModelDelete": { "id": "busy" } })).await;
    assert_eq!(failure["code"], "model_in_use");
    assert!(
        failure["message"].as_str().is_some_and(|text| text.contains(&worker["pid"].to_string())),
        "{failure}"
    );
    assert!(failure["hint"].as_str().is_some_and(|text| text.contains("ModelUnload")), "{failure}");
    assert!(path.exists());
    let stream = hive.run(&json!({ "ModelDelete": { "id": "busy", "force": true } })).await;
    assert!(stream.ends_with("data: [DONE]\n\n"), "{stream}");
    assert!(stream.contains("Stopping worker") && stream.contains("not the hive's own"), "{stream}");
    assert!(!path.exists());
    assert_eq!(hive.succeed(&json!({ "WorkerProcessList": {} })).await, json!([]));
    hive.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_loaded_model_stays_itself_when_a_namesake_comes() {
    let hive = TestHive::start().await;
    let folder = |name: &str| {
        let folder = hive.models_dir().join(name).join("repo");
        std::fs::create_dir_all(&folder).expect("a folder");
        folder
    };
    let mine = write_model(&folder("lmstudio-community"), "model");
    let worker = hive.load("model").await;
    let namesake = write_model(&folder("bartowski"), "model");

    let models = list(&hive).await;
    let [plain, suffixed] = &models[..] else { panic!("{models:?}") };
    assert_eq!((&plain["id"], &plain["loaded"]), (&json!("model"), &json!(true)));
    assert_eq!(plain["path"], *mine.to_string_lossy());
    assert_eq!((&suffixed["name"], &suffixed["loaded"]), (&json!("model"), &json!(false)));
    // The newcomer is deleted as itself, and the worker of the other goes on.
    let delete = |id: &Value| json!({ "ModelDelete": { "id": id, "force": true } });
    hive.succeed(&delete(&suffixed["id"])).await;
    assert!(mine.exists() && !namesake.exists());
    assert_eq!(hive.load("model").await["pid"], worker["pid"]);

    // Other contents in the same place are the same model, which the worker has not read.
    let draft = write_model(&hive.models_dir(), "draft");
    std::fs::rename(draft, &mine).expect("it is replaced");
    let stream = hive.run(&json!({ "ModelLoad": { "id": "model" } })).await;
    assert!(stream.contains("changed since then") && stream.contains("[DONE]"), "{stream}");

    // Even the id of a file that is gone stays with the worker that serves it.
    std::fs::remove_file(&mine).expect("it was there");
    let namesake = write_model(&folder("bartowski"), "model");
    let models = list(&hive).await;
    let [newcomer] = &models[..] else { panic!("{models:?}") };
    assert_ne!(newcomer["id"], "model");
    assert_eq!(newcomer["loaded"], false);
    let gone = hive.fail(&json!({ "ModelDelete": { "id": "model", "force": true } })).await;
    assert_eq!(gone["code"], "model_not_found", "{gone}");
    let unloaded = hive.succeed(&json!({ "ModelUnload": { "id": "model" } })).await;
    assert_eq!(unloaded["workers"], json!([worker["pid"]]));
    hive.succeed(&delete(&newcomer["id"])).await;
    assert!(!namesake.exists());
    hive.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_model_whose_name_is_not_text_is_listed_shown_and_loaded() {
    use std::os::unix::ffi::OsStringExt;

    let hive = TestHive::start().await;
    let plain = write_model(&hive.models_dir(), "模型");
    let odd = hive.models_dir().join(std::ffi::OsString::from_vec(b"mod\xe8le.gguf".to_vec()));
    std::fs::rename(plain, &odd).expect("any bytes are a name");
    write_model(&hive.models_dir(), "模型");
    let models = list(&hive).await;
    assert_eq!(ids(&models), ["mod-le", "模型"]);
    assert!(
        models[0]["path"].as_str().is_some_and(|path| path.ends_with("/mod\u{fffd}le.gguf")),
        "{models:?}"
    );

    let worker = hive.load("mod-le").await;
    assert_eq!((&worker["model"], &worker["status"]), (&json!("mod-le"), &json!("ready")));
    hive.load("模型").await;
    let card: Value = hive.get("/v1/models/%E6%A8%A1%E5%9E%8B").await.json().await.expect("JSON");
    assert_eq!(card["id"], "模型", "{card}");
    let mut snapshot = String::new();
    read_until(&mut hive.get("/v1/events").await, &mut snapshot, "\n\n").await;
    assert!(snapshot.contains("\"mod-le\"") && snapshot.contains("模型"), "{snapshot}");
    hive.succeed(&json!({ "ModelUnload": { "id": "mod-le" } })).await;
    hive.succeed(&json!({ "ModelDelete": { "id": "mod-le", "force": true } })).await;
    assert!(!odd.exists());
    hive.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn files_that_are_not_regular_hold_up_nothing() {
    let outside = tempfile::tempdir().expect("a folder");
    let hub = outside.path().join("hub");
    let snapshot = hub_repository(&hub, "acme/m", "0123456789abcdef", &[("m-Q8_0.gguf", &gguf("m", 0))]);
    let repository = snapshot.ancestors().nth(2).expect("a repository").to_owned();
    let fifo = |path: &Path| {
        rustix::fs::mkfifoat(rustix::fs::CWD, path, rustix::fs::Mode::RWXU).expect("a FIFO");
    };
    std::fs::remove_file(repository.join("refs/main")).expect("it was there");
    fifo(&repository.join("refs/main"));
    fifo(&repository.join("blobs/pipe"));
    symlink("../../blobs/pipe", snapshot.join("pipe-Q4_0.gguf")).expect("a link");
    let hive = TestHive::start_with(|config| config.hub_cache = Some(hub.clone())).await;
    let mine = hive.models_dir();
    put(&mine.join("sound.gguf"), &gguf("sound", 0));
    fifo(&mine.join("fifo.gguf"));
    symlink("/dev/zero", mine.join("zero.gguf")).expect("a link");
    fifo(&hive.dir().join("data/models/stored.gguf"));
    fifo(&hive.dir().join("data/models/sound.gguf.json"));
    symlink("/dev/zero", hive.dir().join("data/models/endless.gguf")).expect("a link");

    let models = list(&hive).await;
    let status =
        |id: &str| models.iter().find(|model| model["id"] == id).map(|model| model["status"].clone());
    for id in ["acme/m:Q8_0", "sound"] {
        assert_eq!(status(id), Some("available".into()), "{models:?}");
    }
    for id in ["acme/m:Q4_0", "stored", "endless"] {
        assert_eq!(status(id), Some("unreadable".into()), "{models:?}");
        let failure = hive.fail(&json!({ "ModelLoad": { "id": id } })).await;
        assert!(failure["message"].as_str().is_some_and(|text| text.contains("regular file")), "{failure}");
    }
    for path in [mine.join("fifo.gguf"), "/dev/zero".into()] {
        hive.fail(&file(&path)).await;
    }
    hive.succeed(&json!({ "HiveCheck": {} })).await;
    hive.succeed(&json!({ "ModelDelete": { "id": "acme/m:Q8_0", "force": true } })).await;
    hive.stop().await;
}

/// How the download server answers for a path.
#[derive(Clone)]
enum Answer {
    /// The complete file.
    Whole(Vec<u8>),
    /// The length of a larger file, these bytes of it, and the end of the connection.
    Short(Vec<u8>, usize),
    /// The length of a larger file, these bytes of it, and then nothing, on an open connection.
    Hang(Vec<u8>, usize),
    /// An HTML page with status 200.
    Page,
    /// This status, with a body that must not be shown to users.
    Status(&'static str),
    /// A redirect to this location.
    Redirect(String),
}

const PRIVATE: &str = "internal words of another server";

/// A server on loopback.
struct Server {
    address: SocketAddr,
    /// How many requests have arrived.
    requests: Arc<AtomicUsize>,
    serving: tokio::task::JoinHandle<()>,
}

impl Server {
    async fn start(answers: impl Fn(SocketAddr, &str) -> Answer + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let requests = Arc::new(AtomicUsize::new(0));
        let (count, answers) = (Arc::clone(&requests), Arc::new(answers));
        let serving = rbee_hive::spawn::detached(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let (count, answers) = (Arc::clone(&count), Arc::clone(&answers));
                rbee_hive::spawn::detached(async move {
                    let mut head = Vec::new();
                    while !head.ends_with(b"\r\n\r\n") {
                        let Ok(byte) = stream.read_u8().await else { return };
                        head.push(byte);
                    }
                    count.fetch_add(1, Ordering::SeqCst);
                    let head = String::from_utf8(head).expect("ASCII");
                    let path = head.split(' ').nth(1).expect("a path").to_owned();
                    let (head, body, hangs) = response(answers(address, &path));
                    let _gone = stream
                        .write_all(format!("HTTP/1.1 {head}\r\nConnection: close\r\n\r\n").as_bytes())
                        .await;
                    let _gone = stream.write_all(&body).await;
                    if hangs {
                        // Until the client closes the connection.
                        let _closed = stream.read_u8().await;
                    }
                });
            }
        });
        Self { address, requests, serving }
    }

    fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

/// The head, the body, and whether the connection stays open after it.
fn response(answer: Answer) -> (String, Vec<u8>, bool) {
    let ok = |length: usize| {
        format!("200 OK\r\nContent-Type: application/octet-stream\r\nContent-Length: {length}")
    };
    match answer {
        Answer::Whole(bytes) => (ok(bytes.len()), bytes, false),
        Answer::Short(bytes, length) => (ok(length), bytes, false),
        Answer::Hang(bytes, length) => (ok(length), bytes, true),
        Answer::Page => {
            let page = format!("<html>{PRIVATE}</html>");
            (
                format!("200 OK\r\nContent-Type: text/html; charset=utf-8\r\nContent-Length: {}", page.len()),
                page.into(),
                false,
            )
        }
        Answer::Status(status) => {
            (format!("{status}\r\nContent-Length: {}", PRIVATE.len()), PRIVATE.into(), false)
        }
        Answer::Redirect(location) => {
            (format!("302 Found\r\nLocation: {location}\r\nContent-Length: 0"), Vec::new(), false)
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_download_is_planned_performed_and_deleted() {
    let hive = TestHive::start().await;
    let bytes = gguf("far", 300_000);
    let body = bytes.clone();
    let server = Server::start(move |address, path| match path {
        "/moved/far.gguf" => Answer::Redirect(format!("http://{address}/files/far.gguf")),
        _ => Answer::Whole(body.clone()),
    })
    .await;
    let url = server.url("/moved/far.gguf?signature=sesame");
    let plan = hive.succeed(&json!({ "ModelDownload": { "model": url, "dry_run": true } })).await;
    assert_eq!((&plan["model"], &plan["total_bytes"]), (&json!("far"), &json!(bytes.len())));
    assert_eq!((&plan["transfer_bytes"], &plan["fits"]), (&json!(bytes.len()), &json!(true)));
    assert!(stored(&hive).is_empty() && list(&hive).await.is_empty(), "a dry run does nothing");

    let id = hive.submit(&download(&format!("{url}#sha256={}", hex_sha256(&bytes).to_uppercase()))).await;
    let stream = hive.stream(&id).await;
    let lines = data_lines(&stream);
    let model: Value = serde_json::from_str(&lines[lines.len() - 2]).expect("a result");
    assert_eq!((&model["id"], &model["size_bytes"]), (&json!("far"), &json!(bytes.len())), "{stream}");
    assert_eq!(model["sha256"], hex_sha256(&bytes));
    assert!(!stream.contains("sesame"), "what signs a URL is not shown where it need not be: {stream}");
    let last = typed(&hive.typed_stream(&id).await)
        .into_iter()
        .filter_map(|event| event.data.get("progress").cloned())
        .next_back()
        .expect("progress");
    assert_eq!((&last["done"], &last["total"]), (&json!(bytes.len()), &json!(bytes.len())));
    assert_eq!(std::fs::read(model["path"].as_str().expect("a path")).expect("the file"), bytes);
    assert_eq!(stored(&hive), ["far.gguf", "far.gguf.json"]);

    let requests = server.requests.load(Ordering::SeqCst);
    assert_eq!(hive.succeed(&download(&url)).await["id"], "far");
    assert_eq!(server.requests.load(Ordering::SeqCst), requests, "what is here is not fetched again");
    let plan = hive.succeed(&json!({ "ModelDownload": { "model": url, "dry_run": true } })).await;
    assert_eq!((&plan["already_present"], &plan["transfer_bytes"]), (&json!(true), &json!(0)));
    let deleted = hive.succeed(&json!({ "ModelDelete": { "id": "far" } })).await;
    assert_eq!(deleted, json!({ "id": "far", "freed_bytes": bytes.len() }));
    assert!(stored(&hive).is_empty());
    hive.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failed_download_leaves_no_file() {
    let hive = TestHive::start().await;
    let sound = gguf("far", 100_000);
    let body = sound.clone();
    let server = Server::start(move |_, path| match path {
        "/short.gguf" => Answer::Short(body[..50_000].to_vec(), body.len()),
        "/cut.gguf" => Answer::Whole(body[..50_000].to_vec()),
        "/page.gguf" => Answer::Page,
        "/words.gguf" => Answer::Whole(PRIVATE.into()),
        "/empty.gguf" => Answer::Whole(Vec::new()),
        "/missing.gguf" => Answer::Status("404 Not Found"),
        "/locked.gguf" => Answer::Status("401 Unauthorized"),
        "/busy.gguf" => Answer::Status("503 Service Unavailable"),
        "/broken.gguf" => Answer::Status("500 Oops"),
        "/loop.gguf" => Answer::Redirect("/loop.gguf".to_owned()),
        "/inward.gguf" => Answer::Redirect("http://10.0.0.1/x.gguf".to_owned()),
        "/outward.gguf" => Answer::Redirect("file:///etc/passwd".to_owned()),
        _ => Answer::Whole(body.clone()),
    })
    .await;
    let wrong = "0".repeat(64);
    for (path, code, says) in [
        ("/short.gguf", "download_failed", "broke off"),
        ("/cut.gguf", "model_incomplete", "not a usable model"),
        ("/page.gguf", "download_failed", "web page"),
        ("/words.gguf", "download_failed", "not a GGUF file"),
        ("/empty.gguf", "model_corrupt", "empty file"),
        ("/missing.gguf", "source_not_found", "404"),
        ("/locked.gguf", "download_failed", "401"),
        ("/busy.gguf", "download_failed", "503"),
        ("/broken.gguf", "download_failed", "500"),
        ("/loop.gguf", "download_failed", "redirect"),
        ("/inward.gguf", "source_refused", "10.0.0.1"),
        ("/outward.gguf", "source_refused", ""),
        (&format!("/far.gguf#sha256={wrong}"), "download_failed", &wrong),
        ("/far.gguf#sha256=12", "invalid_field", "#"),
        ("/page.html", "source_unsupported", "page.html"),
    ] {
        let id = hive.submit(&download(&server.url(path))).await;
        let stream = hive.stream(&id).await;
        let failure = hive.job(&id).await["failure"].clone();
        assert_eq!(failure["code"], code, "{path}: {failure}");
        assert!(failure["message"].as_str().is_some_and(|text| text.contains(says)), "{path}: {failure}");
        assert!(failure["hint"].as_str().is_some_and(|text| !text.is_empty()), "{path}: {failure}");
        assert!(!stream.contains(PRIVATE), "{path} passes on what another server wrote: {stream}");
        assert!(stored(&hive).is_empty(), "{path} leaves {:?}", stored(&hive));
    }
    assert!(list(&hive).await.is_empty());
    // The valid file can still be downloaded.
    hive.succeed(&download(&server.url("/far.gguf"))).await;
    hive.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cancelled_download_that_cannot_be_resumed_removes_its_partial() {
    let hive = TestHive::start().await;
    let bytes = gguf("far", 400_000);
    let server = Server::start(move |_, _| Answer::Hang(bytes[..200_000].to_vec(), bytes.len())).await;
    let url = server.url("/far.gguf");
    let id = hive.submit(&download(&url)).await;
    let partial = until("half of the file", async || {
        let models = list(&hive).await;
        models.into_iter().find(|model| model["size_bytes"] == 200_000)
    })
    .await;
    assert_eq!((&partial["id"], &partial["status"]), (&json!("far"), &json!("downloading")));
    // Until it ends, the model can be neither loaded nor deleted, and a second download joins it.
    assert_eq!(hive.fail(&json!({ "ModelLoad": { "id": "far" } })).await["code"], "model_in_use");
    assert_eq!(
        hive.fail(&json!({ "ModelDelete": { "id": "far", "force": true } })).await["code"],
        "model_in_use"
    );
    let second = hive.submit(&download(&url)).await;
    let mut joining = hive.get(&format!("/v1/jobs/{second}/stream")).await;
    let mut text = String::new();
    while !text.contains("joined it") {
        let piece = soon("the second job to join", joining.chunk()).await.expect("a stream");
        text += &String::from_utf8_lossy(&piece.expect("more"));
    }
    drop(joining);
    assert_eq!(hive.delete(&format!("/v1/jobs/{second}")).await.status(), 200);
    assert_eq!(stored(&hive), ["far.gguf.partial"], "one who only waited takes nothing along");

    assert_eq!(hive.delete(&format!("/v1/jobs/{id}")).await.status(), 200);
    let stream = hive.stream(&id).await;
    assert!(stream.ends_with("data: [CANCELLED]\n\n"), "{stream}");
    assert!(stream.contains("Removed the partial file"), "it says what was kept: {stream}");
    assert!(stored(&hive).is_empty() && list(&hive).await.is_empty());
    assert_eq!(hive.job(&id).await["state"], "cancelled");
    hive.stop().await;
}

/// A sound model of exactly so many bytes. Bytes after the last tensor are allowed.
fn gguf_of(size_bytes: &Value) -> Vec<u8> {
    let mut bytes = gguf("tiny", 0);
    let size = size_bytes.as_u64().and_then(|size| usize::try_from(size).ok()).expect("a size");
    assert!(bytes.len() <= size, "{} bytes are more than {size}", bytes.len());
    bytes.resize(size, 0);
    bytes
}

/// The files in a folder of `tests/fixtures/records`: their names, and their contents where the folder
/// of the hive that wrote them, `/srv/hive`, is `root`.
fn records(folder: &str, root: &Path) -> Vec<(String, String)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/records").join(folder);
    let read = |entry: std::io::Result<std::fs::DirEntry>| {
        let path = entry.expect("an entry").path();
        let text = std::fs::read_to_string(&path).expect("a record");
        let name = path.file_name().expect("a name").to_string_lossy().into_owned();
        (name, text.replace("/srv/hive", root.to_str().expect("text")))
    };
    std::fs::read_dir(folder).expect("fixtures").map(read).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn records_without_a_version_are_read() {
    let dir = tempfile::tempdir().expect("a folder");
    let root = dir.path().canonicalize().expect("a path");
    let store = root.join("data/models");
    let mut expected = Vec::new();
    for (name, text) in records("store/without-version", &root) {
        put(&store.join(name), text.as_bytes());
        let record: Value = serde_json::from_str(&text).expect("JSON");
        for file in record["files"].as_array().expect("files") {
            let path = store.join(file["name"].as_str().expect("a name"));
            match file["link"].as_str() {
                Some(target) => {
                    put(Path::new(target), &gguf_of(&file["size_bytes"]));
                    symlink(target, path).expect("a link");
                }
                None => put(&path, &gguf_of(&file["size_bytes"])),
            }
        }
        expected.push(record);
    }
    let repository = root.join("cache/models--org--tiny-GGUF");
    for (name, text) in records("hub/without-version/models--org--tiny-GGUF", &root) {
        put(&root.join("data/hub/models--org--tiny-GGUF").join(name), text.as_bytes());
        let note: Value = serde_json::from_str(&text).expect("JSON");
        let blob = Path::new(note["blob"].as_str().expect("a path"));
        put(blob, &gguf_of(&note["size_bytes"]));
        let snapshot = repository.join("snapshots/0123456789abcdef0123456789abcdef01234567");
        std::fs::create_dir_all(&snapshot).expect("a folder");
        let target = Path::new("../../blobs").join(blob.file_name().expect("a name"));
        symlink(target, snapshot.join("tiny-Q8_0.gguf")).expect("a link");
        expected.push(json!({ "source": "hf:org/tiny-GGUF", "sha256": blob.file_name().unwrap().to_str() }));
    }
    assert_eq!(expected.len(), 5);

    let hive = TestHive::start_in(dir, |config| config.hub_cache = Some(root.join("cache"))).await;
    let models = list(&hive).await;
    for expected in &expected {
        let is_it = |model: &&Value| model["source"] == expected["source"] && model["status"] == "available";
        let model = models.iter().find(is_it).unwrap_or_else(|| panic!("{expected} of {models:#?}"));
        assert_eq!(model["sha256"], expected["sha256"], "{model}");
        if let Some(revision) = expected.get("revision") {
            assert_eq!(&model["revision"], revision, "{model}");
        }
        // Without force: the record says that it is the hive's own.
        hive.succeed(&json!({ "ModelDelete": { "id": model["id"] } })).await;
    }
    assert!(stored(&hive).is_empty() && !repository.exists());
    hive.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_model_with_a_record_of_a_newer_version_is_listed_and_left_alone() {
    let dir = tempfile::tempdir().expect("a folder");
    let (path, record) = (dir.path().join("data/models/m.gguf"), dir.path().join("data/models/m.gguf.json"));
    let text = r#"{"version":2,"origin":{"url":"https://host/m.gguf"}}"#;
    put(&path, &gguf("m", 0));
    put(&record, text.as_bytes());
    put(&record.with_file_name("gone.gguf.json"), text.as_bytes());
    let hive = TestHive::start_in(dir, |_| {}).await;
    let check = hive.succeed(&json!({ "HiveCheck": {} })).await.to_string();
    assert!(check.contains("gone.gguf.json, m.gguf.json"), "it is reported: {check}");
    let model = hive.succeed(&json!({ "ModelGet": { "id": "m" } })).await;
    assert_eq!(model["status"], "available");

    let failure = hive.fail(&json!({ "ModelDelete": { "id": "m" } })).await;
    assert_eq!(failure["code"], "not_owned");
    assert!(failure["hint"].as_str().is_some_and(|text| text.contains("force")), "{failure}");
    let other = tempfile::tempdir().expect("a folder");
    for name in ["m.gguf", "gone.gguf"] {
        put(&other.path().join(name), &gguf("other", 0));
        let source = format!("file:{}", other.path().join(name).display());
        let failure = hive.fail(&json!({ "ModelDownload": { "model": source, "force": true } })).await;
        assert_eq!(failure["code"], "model_exists");
        assert!(
            failure["message"].as_str().is_some_and(|text| text.contains(&format!("{name}.json"))),
            "{failure}"
        );
    }

    let dir = hive.stop().await;
    let hive = TestHive::start_in(dir, |_| {}).await;
    assert_eq!(std::fs::read_to_string(&record).expect("a record"), text);
    hive.succeed(&json!({ "ModelDelete": { "id": "m", "force": true } })).await;
    assert_eq!(stored(&hive), ["gone.gguf.json"]);
    hive.stop().await;
}
