//! This machine's models for other programs and other hives, in the forms of the Hub and of Ollama's registry.

use std::fs;
use std::path::Path;

use reqwest::{Method, Response};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::callers::{holder, managed, secret};
use crate::ollama::put_into_store;
use crate::support::hub::{FakeHub, hex};
use crate::support::installed::PYTHON;
use crate::support::{TestHive, client, command, problem, projector, soon, write_model};

fn sha256(bytes: &[u8]) -> String {
    hex(&Sha256::digest(bytes))
}

/// The bytes of a small model that a worker can run.
fn model(stem: &str) -> Vec<u8> {
    let dir = tempfile::tempdir().expect("a temporary folder");
    fs::read(write_model(dir.path(), stem)).expect("the model")
}

/// A hive whose Hub and whose library are at these addresses.
async fn hive(hub: &str, library: &str) -> TestHive {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let cache = dir.path().join("cache");
    TestHive::start_in(dir, |config| {
        config.hub.endpoint = Some(hub.to_owned());
        config.hub_cache = Some(cache);
        config.ollama.endpoint = library.to_owned();
    })
    .await
}

fn download(name: &str) -> Value {
    json!({ "ModelDownload": { "model": name } })
}

async fn ask(client: &reqwest::Client, hive: &TestHive, path: &str, headers: &[(&str, &str)]) -> Response {
    ask_by(Method::GET, client, hive, path, headers).await
}

async fn ask_by(
    method: Method,
    client: &reqwest::Client,
    hive: &TestHive,
    path: &str,
    headers: &[(&str, &str)],
) -> Response {
    let request = client.request(method, format!("{}{path}", hive.url));
    let request = headers.iter().fold(request, |request, (name, value)| request.header(*name, *value));
    soon(path, request.send()).await.expect("an answer")
}

fn header<'a>(answer: &'a Response, name: &str) -> &'a str {
    answer.headers().get(name).map(|value| value.to_str().expect("text")).unwrap_or_default()
}

async fn body(answer: Response) -> Vec<u8> {
    soon("a body", answer.bytes()).await.expect("a body").into()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hive_downloads_from_another_one_as_from_the_hub() {
    let hub = FakeHub::start().await;
    let (small, large, eyes) = (model("small"), model("large"), projector());
    let files: [(&str, &[u8]); 3] =
        [("m-Q8_0.gguf", &small), ("m-Q4_0.gguf", &large), ("mmproj-F16.gguf", &eyes)];
    let commit = hub.commit("Org/Repo", "main", &files);
    let first = hive(&hub.url, &hub.url).await;
    let had = first.succeed(&download("org/repo:Q8_0")).await;
    let sent = hub.sent();

    let second = hive(&format!("{}/hub", first.url), &hub.url).await;
    let got = second.succeed(&download("org/repo:Q8_0")).await;
    assert_eq!(hub.sent(), sent, "nothing came from the internet");
    for field in ["id", "source", "revision", "sha256", "size_bytes"] {
        assert_eq!(got[field], had[field], "{field}");
    }
    assert_eq!((&got["revision"], &got["sha256"]), (&json!(commit), &json!(sha256(&small))));
    let brought =
        |model: &Value, field: &str| fs::read(model[field].as_str().expect("a path")).expect("a file");
    assert!(brought(&got, "path") == small && brought(&got, "projector") == eyes);
    // What the first one does not have is not there.
    for (name, code) in [
        ("Org/Repo:Q4_0", "source_not_found"),
        ("Org/Repo@v9", "revision_not_found"),
        ("org/other", "repository_not_found"),
    ] {
        let failure = second.fail(&download(name)).await;
        assert_eq!(failure["code"], code, "{name}: {failure}");
    }
    assert_eq!(hub.sent(), sent);
    second.stop().await;
    first.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hive_pulls_from_another_one_as_from_ollamas_library() {
    let library = FakeHub::start().await;
    let (bytes, eyes, of_hub) = (model("seen"), projector(), model("of-hub"));
    library.push("library/seen:2b", &bytes);
    library.push_layers("library/seen:2b", &[("projector", &eyes)]);
    library.commit("org/repo", "main", &[("m-Q8_0.gguf", &of_hub)]);
    let first = hive(&library.url, &library.url).await;
    let had = first.succeed(&download("ollama:seen:2b")).await;
    first.succeed(&download("org/repo:Q8_0")).await;
    let sent = library.sent();

    let second = hive(&library.url, &first.url).await;
    let got = second.succeed(&download("ollama:seen:2b")).await;
    for field in ["id", "source", "sha256", "size_bytes"] {
        assert_eq!(got[field], had[field], "{field}");
    }
    assert_eq!(fs::read(got["projector"].as_str().expect("a projector")).expect("it"), eyes);
    // The usual one of a repository, by the name that Ollama gives those of the Hub.
    let got = second.succeed(&download("ollama:org/repo")).await;
    assert_eq!(got["sha256"], sha256(&of_hub));
    assert_eq!(second.fail(&download("ollama:seen:7b")).await["code"], "source_not_found");
    assert_eq!(library.sent(), sent, "nothing came from the internet");
    second.stop().await;
    first.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_ollamas_store_has_is_given_as_ollama_wrote_it() {
    let dir = tempfile::tempdir().expect("a folder");
    let (bytes, template) = (model("m"), b"{{ .Prompt }}");
    let store = dir.path().join("ollama");
    let layers: [(&str, &[u8]); 2] = [("model", &bytes), ("template", template)];
    let blob = put_into_store(&store, "library/small/135m", &layers);
    put_into_store(&store, "library/small/latest", &layers);
    let hive = TestHive::start_with(|config| config.models_dirs.push(store.clone())).await;
    let anybody = client();
    let version = ask(&anybody, &hive, "/v2/", &[]).await;
    assert_eq!(
        (version.status().as_u16(), header(&version, "docker-distribution-api-version")),
        (200, "registry/2.0")
    );
    for tag in ["135m", "latest"] {
        let manifest = ask(&anybody, &hive, &format!("/v2/library/small/manifests/{tag}"), &[]).await;
        assert!(header(&manifest, "content-type").contains("manifest.v2+json"));
        let told = header(&manifest, "docker-content-digest").to_owned();
        let written =
            fs::read(store.join("manifests/registry.ollama.ai/library/small").join(tag)).expect("it");
        assert_eq!(body(manifest).await, written);
        assert_eq!(told, format!("sha256:{}", sha256(&written)));
    }
    let blobs = |digest: &str| format!("/v2/library/small/blobs/sha256:{digest}");
    let of_template = ask(&anybody, &hive, &blobs(&sha256(template)), &[]).await;
    assert_eq!(body(of_template).await, template);
    let head = ask_by(Method::HEAD, &anybody, &hive, &blobs(&sha256(&bytes)), &[]).await;
    assert_eq!((head.status().as_u16(), header(&head, "content-length")), (200, &*bytes.len().to_string()));
    assert_eq!(header(&head, "location"), format!("./sha256:{}", sha256(&bytes)), "Ollama asks there");
    let part = ask(&anybody, &hive, &blobs(&sha256(&bytes)), &[("range", "bytes=4-7")]).await;
    assert_eq!(part.status(), 206);
    assert_eq!(body(part).await, bytes[4..8]);

    // Only what is a model's, and by its own name.
    fs::write(store.join("blobs").join(format!("sha256-{}", sha256(b"other"))), "other").expect("a blob");
    for path in [
        blobs(&sha256(b"other")),
        blobs("../../manifests"),
        blobs(""),
        format!("/v2/library/other/blobs/sha256:{}", sha256(&bytes)),
    ] {
        let refused = ask(&anybody, &hive, &path, &[]).await;
        assert_eq!(refused.status(), 404, "{path}");
    }
    for path in
        ["library/small/manifests/7b", "library/sm%2Fall/manifests/latest", "..%2f../small/manifests/latest"]
    {
        problem(ask(&anybody, &hive, &format!("/v2/{path}"), &[]).await, 404, "model_not_found").await;
    }
    fs::remove_file(blob).expect("it was there");
    assert_eq!(ask(&anybody, &hive, &blobs(&sha256(&bytes)), &[]).await.status(), 404);
    hive.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_manifest_that_the_hive_makes_names_what_it_has() {
    let library = FakeHub::start().await;
    let bytes = model("m");
    library.commit("org/repo", "main", &[("sub/m-Q8_0.gguf", &bytes), ("mmproj-F16.gguf", &projector())]);
    library.push("library/plain:latest", &bytes);
    let hive = hive(&library.url, &library.url).await;
    hive.succeed(&download("org/repo:Q8_0")).await;
    hive.succeed(&download("ollama:plain")).await;
    write_model(&hive.models_dir(), "of-unknown-hash");
    let anybody = client();
    let get = async |path: &str| ask(&anybody, &hive, path, &[]).await;
    for name in
        ["v2/org/repo/manifests/Q8_0", "v2/Org/REPO/manifests/latest", "v2/library/plain/manifests/latest"]
    {
        let text = body(get(&format!("/{name}")).await).await;
        let manifest: Value = serde_json::from_slice(&text).unwrap_or_else(|_| panic!("{name}"));
        let (place, _) = name.split_once("/manifests").expect("a manifest");
        let layers = manifest["layers"].as_array().expect("layers").iter();
        for named in layers.chain([&manifest["config"]]) {
            let digest = named["digest"].as_str().expect("a digest");
            let contents = body(get(&format!("/{place}/blobs/{digest}")).await).await;
            assert_eq!(digest, format!("sha256:{}", sha256(&contents)), "{name}");
            assert_eq!(named["size"], contents.len(), "{name}");
        }
        assert_eq!(manifest["layers"][0]["digest"], format!("sha256:{}", sha256(&bytes)));
        assert_eq!(manifest["layers"][0]["mediaType"], "application/vnd.ollama.image.model");
    }
    // As llama.cpp asks before it asks for the files.
    let manifest: Value = get("/hub/v2/org/repo/manifests/Q8_0").await.json().await.expect("JSON");
    assert_eq!(manifest["ggufFile"]["rfilename"], "sub/m-Q8_0.gguf");
    assert_eq!(manifest["mmprojFile"]["rfilename"], "mmproj-F16.gguf");
    for path in ["/hub/v2/org/repo/manifests/Q4_0", "/hub/v2/library/plain/manifests/latest"] {
        problem(get(path).await, 404, "repository_not_found").await;
    }
    problem(get("/v2/library/of-unknown-hash/manifests/latest").await, 404, "model_not_found").await;
    hive.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn files_of_the_hub_are_given_with_what_its_clients_look_for() {
    let hub = FakeHub::start().await;
    let bytes = model("m");
    let commit = hub.commit("org/repo", "main", &[("sub/a b-Q8_0.gguf", &bytes)]);
    let hive = hive(&hub.url, &hub.url).await;
    hive.succeed(&download("org/repo")).await;
    let anybody = client();
    let path = "/hub/org/repo/resolve/main/sub/a%20b-Q8_0.gguf";
    let head = ask_by(Method::HEAD, &anybody, &hive, path, &[]).await;
    assert_eq!(head.status(), 200);
    let tag = format!("\"{}\"", sha256(&bytes));
    for (name, value) in [
        ("etag", &*tag),
        ("x-linked-etag", &tag),
        ("x-linked-size", &bytes.len().to_string()),
        ("content-length", &bytes.len().to_string()),
        ("x-repo-commit", &commit),
        ("accept-ranges", "bytes"),
    ] {
        assert_eq!(header(&head, name), value, "{name}");
    }
    let at_commit = path.replace("main", &commit);
    let end = format!("bytes={}-", bytes.len() - 3);
    for (headers, status, wanted) in [
        (&[][..], 200, &bytes[..]),
        (&[("range", "bytes=0-3")], 206, b"GGUF"),
        (&[("range", "bytes=0-3"), ("if-range", &tag)], 206, b"GGUF"),
        (&[("range", "bytes=0-3"), ("if-range", "\"another\"")], 200, &bytes[..]),
        (&[("range", &end)], 206, &bytes[bytes.len() - 3..]),
        (&[("range", "bytes=99999999-")], 416, b""),
        (&[("if-none-match", &tag)], 304, b""),
        (&[("accept-encoding", "gzip")], 200, &bytes[..]),
    ] {
        let answer = ask(&anybody, &hive, &at_commit, headers).await;
        assert_eq!(answer.status(), status, "{headers:?}");
        assert!(body(answer).await == wanted, "{headers:?}");
    }
    for (path, status, word) in [
        ("/hub/org/repo/resolve/main/other.gguf", 404, "EntryNotFound"),
        ("/hub/org/repo/resolve/main/..%2F..%2F..%2Frefs%2Fmain", 404, "EntryNotFound"),
        ("/hub/org/repo/resolve/v1/sub/a%20b-Q8_0.gguf", 404, "RevisionNotFound"),
        ("/hub/org/other/resolve/main/m.gguf", 404, "RepoNotFound"),
        ("/hub/..%2F../repo/resolve/main/m.gguf", 404, "RepoNotFound"),
        ("/hub/api/models/org/repo/revision/v1", 404, "RevisionNotFound"),
        ("/hub/api/models/org/repo/tree/main/nothing", 404, "EntryNotFound"),
        ("/hub/api/models/org/other", 404, "RepoNotFound"),
        ("/hub/api/models/org/other/refs", 404, "RepoNotFound"),
        ("/hub/nothing", 404, ""),
    ] {
        let refused = ask(&anybody, &hive, path, &[]).await;
        assert_eq!((refused.status().as_u16(), header(&refused, "x-error-code")), (status, word), "{path}");
        assert_eq!(header(&refused, "x-error-message").is_empty(), word.is_empty(), "{path}");
    }
    let post = anybody.post(format!("{}{path}", hive.url)).json(&json!({})).send();
    problem(soon("a POST", post).await.expect("an answer"), 405, "method_not_allowed").await;
    // Another page cannot load it, as an image or otherwise.
    let foreign = ask(&anybody, &hive, path, &[("sec-fetch-site", "cross-site")]).await;
    problem(foreign, 403, "origin_refused").await;
    let rebound = ask(&anybody, &hive, path, &[("host", "evil.example")]).await;
    problem(rebound, 403, "host_refused").await;
    hive.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn files_are_for_who_may_read_and_of_the_models_that_a_token_is_for() {
    let hub = FakeHub::start().await;
    let bytes = model("m");
    hub.commit("org/repo", "main", &[("m-Q8_0.gguf", &bytes), ("m-Q4_0.gguf", &bytes)]);
    hub.push("library/plain:latest", &model("plain"));
    let hive = managed(|config| {
        config.hub.endpoint = Some(hub.url.clone());
        config.hub_cache = Some(config.data_dir.join("cache"));
        config.ollama.endpoint.clone_from(&hub.url);
    })
    .await;
    hive.succeed(&download("org/repo:Q8_0")).await;
    hive.succeed(&download("ollama:plain")).await;
    let of_hub = "/hub/org/repo/resolve/main/m-Q8_0.gguf";
    let paths = [
        of_hub,
        "/hub/api/models/org/repo",
        "/hub/api/models/org/repo/tree/main",
        "/hub/api/models/org/repo/refs",
        "/hub/v2/org/repo/manifests/latest",
        "/v2/org/repo/manifests/Q8_0",
        "/v2/library/plain/manifests/latest",
    ];
    let anybody = client();
    let reader = holder(&hive, "reader", json!({ "role": "read" })).await;
    for path in paths.into_iter().chain(["/v2/"]) {
        problem(ask(&anybody, &hive, path, &[]).await, 401, "unauthorized").await;
        assert_eq!(ask(&reader, &hive, path, &[]).await.status(), 200, "{path}");
    }
    let all = holder(&hive, "all-of-it", json!({ "models": ["org/repo:*"] })).await;
    let one = holder(&hive, "one-of-it", json!({ "models": ["org/repo:Q8_0"] })).await;
    let other = holder(&hive, "other", json!({ "models": ["plain*"] })).await;
    let statuses = async |client: &reqwest::Client| {
        let mut statuses = Vec::new();
        for path in paths {
            statuses.push(ask(client, &hive, path, &[]).await.status().as_u16());
        }
        statuses
    };
    assert_eq!(statuses(&all).await, [200, 200, 200, 200, 200, 200, 404]);
    // Of a repository all or nothing: its other files tell of all of its models.
    assert_eq!(statuses(&one).await, [404, 404, 404, 404, 404, 200, 404]);
    assert_eq!(statuses(&other).await, [404, 404, 404, 404, 404, 404, 200]);
    let blob = format!("/v2/org/repo/blobs/sha256:{}", sha256(&bytes));
    assert_eq!(ask(&one, &hive, &blob, &[]).await.status(), 200);
    assert_eq!(ask(&other, &hive, &blob, &[]).await.status(), 404);
    hive.stop().await;
}

/// What the Hub's own client for Python finds at a hive.
const SCRIPT: &str = r#"
import os, subprocess, sys
import huggingface_hub as h
from huggingface_hub import errors

path = h.hf_hub_download("org/repo", "sub/m-Q8_0.gguf")
print("file", open(path, "rb").read(4))
print("again", h.hf_hub_download("org/repo", "sub/m-Q8_0.gguf") == path)
folder = h.snapshot_download("Org/Repo", revision=os.environ["COMMIT"], local_dir="local")
print("snapshot", sorted(os.listdir(folder)))
print("info", h.model_info("org/repo", files_metadata=True).siblings[-1].lfs.sha256 == os.environ["SHA256"])
print("files", sorted(h.list_repo_files("org/repo")))
print("refs", [branch.name for branch in h.list_repo_refs("org/repo").branches])
print("exists", h.repo_exists("org/repo"), h.file_exists("org/repo", "config.json"), h.file_exists("org/repo", "x"))
print("system", sorted(h.HfFileSystem().ls("org/repo", detail=False)))
for error, repo, file, revision in [
    (errors.RepositoryNotFoundError, "org/other", "m.gguf", None),
    (errors.RevisionNotFoundError, "org/repo", "config.json", "v9"),
    (errors.EntryNotFoundError, "org/repo", "other.gguf", None),
]:
    try:
        h.hf_hub_download(repo, file, revision=revision)
    except error as found:
        print("refused", type(found).__name__)
hf = os.path.join(os.path.dirname(sys.executable), "hf")
said = subprocess.run([hf, "download", "org/repo", "config.json", "--local-dir", "by-hf"], capture_output=True, text=True)
print("hf", said.returncode, open("by-hf/config.json").read() if said.returncode == 0 else said.stderr)
"#;

#[tokio::test(flavor = "multi_thread")]
async fn huggingface_hub_downloads_from_a_hive_with_its_token() {
    let Some(python) = PYTHON.folder().await else { return };
    let hub = FakeHub::start().await;
    let bytes = model("m");
    let files: [(&str, &[u8]); 3] =
        [("sub/m-Q8_0.gguf", &bytes), ("config.json", b"{}"), (".gitattributes", b"* text")];
    let commit = hub.commit("org/repo", "main", &files);
    let hive = managed(|config| config.hub_cache = Some(config.data_dir.join("cache"))).await;
    holder(&hive, "reader", json!({ "role": "read" })).await;
    let run = async |script: &str, endpoint: &str, token: &str, cache: &Path| {
        let home = cache.join("home");
        fs::create_dir_all(&home).expect("a folder");
        let output = command(python.join("bin/python"))
            .args(["-c", script])
            .env("HF_ENDPOINT", endpoint)
            .env("HF_HUB_CACHE", cache)
            .env("HF_HOME", &home)
            .env("HF_TOKEN", token)
            .env("HF_HUB_DISABLE_TELEMETRY", "1")
            .env("NO_PROXY", "*")
            .env("COMMIT", &commit)
            .env("SHA256", sha256(&bytes))
            .current_dir(&home)
            .output();
        let output = soon("the Python client", output).await.expect("an end");
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(output.status.success(), "{text}\n{}", String::from_utf8_lossy(&output.stderr));
        text
    };
    // The same client brings the files into the cache that the hive uses, and takes them from there into another.
    let cache = hive.dir().join("data/cache");
    let fetch = "import huggingface_hub as h\nfor file in ['sub/m-Q8_0.gguf', 'config.json', '.gitattributes']:\n    \
                 h.hf_hub_download('org/repo', file)";
    run(fetch, &hub.url, crate::support::hub::TOKEN, &cache).await;
    let sent = hub.seen().len();
    let shown = run(SCRIPT, &format!("{}/hub", hive.url), &secret("reader"), &hive.dir().join("other")).await;
    let files = "['.gitattributes', 'config.json', 'sub/m-Q8_0.gguf']";
    for line in [
        "file b'GGUF'",
        "again True",
        "snapshot ['.cache', '.gitattributes', 'config.json', 'sub']",
        "info True",
        &format!("files {files}"),
        "refs ['main']",
        "exists True True False",
        "system ['org/repo/.gitattributes', 'org/repo/config.json', 'org/repo/sub']",
        "refused RepositoryNotFoundError",
        "refused RevisionNotFoundError",
        "refused RemoteEntryNotFoundError",
        "hf 0 {}",
    ] {
        assert!(shown.lines().any(|shown| shown == line), "{line}:\n{shown}");
    }
    assert_eq!(hub.seen().len(), sent, "nothing was asked of the internet");
    hive.stop().await;
}
