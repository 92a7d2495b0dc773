//! A Hugging Face Hub and an Ollama registry over real sockets, close enough to the real ones that the
//! Python client huggingface_hub downloads from them.
//!
//! Like the real ones, the hub does not serve large files itself: it redirects by a signed URL to a second
//! server, the CDN. Every request is recorded with its token.

use std::collections::{BTreeMap, HashMap};
use std::io::Cursor;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use axum::Router;
use axum::body::Body;
use axum::extract::Request;
use axum::http::{Method, StatusCode, header};
use axum::response::Response;
use parking_lot::Mutex;
use rbee_hive::models::gguf::{Arrays, Header};
use serde_json::json;
use sha2::{Digest, Sha256};
use tokio::net::TcpListener;

/// The valid token of the hub.
pub(crate) const TOKEN: &str = "hf_itIsATestsOwnToken";

/// The account that it belongs to.
pub(crate) const ACCOUNT: &str = "a-test";

/// A running hub, registry and CDN.
pub(crate) struct FakeHub {
    pub(crate) url: String,
    state: Arc<State>,
    tasks: Vec<tokio::task::JoinHandle<()>>,
}

/// The kind and the contents of a layer of a model of the registry.
type Layer = (&'static str, Vec<u8>);

/// A recorded request.
#[derive(Clone, Debug)]
pub(crate) struct Seen {
    /// `hub` or `cdn`.
    pub(crate) server: &'static str,
    pub(crate) method: Method,
    pub(crate) path: String,
    pub(crate) authorization: Option<String>,
    /// Bytes of the response's body.
    pub(crate) bytes: u64,
}

/// Who may access a repository.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Access {
    #[default]
    Public,
    /// Visible to all; its files need the token.
    Gated,
    /// Visible to all; nobody may download its files.
    GatedAndClosed,
    /// Visible only with the token.
    Private,
}

/// A repository.
#[derive(Clone, Debug, Default)]
pub(crate) struct Repo {
    pub(crate) access: Access,
    /// Names of branches and tags -> commits.
    refs: HashMap<String, String>,
    /// Commits -> paths -> files.
    commits: HashMap<String, BTreeMap<String, Arc<Vec<u8>>>>,
}

#[derive(Default)]
struct State {
    repos: Mutex<HashMap<String, Repo>>,
    /// The registry's models, by `namespace/name:tag`.
    ollama: Mutex<HashMap<String, Arc<Vec<u8>>>>,
    /// Further layers of those models: their kinds and contents.
    layers: Mutex<HashMap<String, Vec<Layer>>>,
    blobs: Mutex<HashMap<String, Arc<Vec<u8>>>>,
    seen: Mutex<Vec<Seen>>,
    /// How many further requests to the hub get a 503.
    busy: Mutex<u32>,
    /// Where the hub redirects requests to its API.
    api_moved_to: Mutex<Option<String>>,
    /// The URL of the CDN.
    cdn: Mutex<String>,
    /// The number of signed URLs so far.
    signed: AtomicUsize,
}

impl Drop for FakeHub {
    fn drop(&mut self) {
        for task in &self.tasks {
            task.abort();
        }
    }
}

impl FakeHub {
    pub(crate) async fn start() -> Self {
        let state = Arc::new(State::default());
        let (hub, hub_task) = serve(&state, "hub").await;
        let (cdn, cdn_task) = serve(&state, "cdn").await;
        *state.cdn.lock() = format!("http://{cdn}");
        Self { url: format!("http://{hub}"), state, tasks: vec![hub_task, cdn_task] }
    }

    /// Adds files to a repository as a new commit of a branch. Returns the commit.
    pub(crate) fn commit(&self, repo: &str, branch: &str, files: &[(&str, &[u8])]) -> String {
        let mut hash = Sha256::new();
        let mut tree = BTreeMap::new();
        for (path, contents) in files {
            hash.update(path);
            hash.update(contents);
            let contents = Arc::new(contents.to_vec());
            self.state.blobs.lock().insert(hex(&Sha256::digest(&*contents)), Arc::clone(&contents));
            tree.insert((*path).to_owned(), contents);
        }
        let commit = hex(&hash.finalize())[..40].to_owned();
        let mut repos = self.state.repos.lock();
        let repo = repos.entry(repo.to_owned()).or_default();
        repo.refs.insert(branch.to_owned(), commit.clone());
        repo.commits.insert(commit.clone(), tree);
        commit
    }

    pub(crate) fn set_access(&self, repo: &str, access: Access) {
        self.state.repos.lock().get_mut(repo).expect("a repository").access = access;
    }

    /// Adds a model to the registry, as `library/name:tag`.
    pub(crate) fn push(&self, name: &str, contents: &[u8]) {
        let contents = Arc::new(contents.to_vec());
        self.state.blobs.lock().insert(hex(&Sha256::digest(&*contents)), Arc::clone(&contents));
        self.state.ollama.lock().insert(name.to_owned(), contents);
    }

    /// Adds layers of these kinds, beside its model, to a model of the registry.
    pub(crate) fn push_layers(&self, name: &str, layers: &[(&'static str, &[u8])]) {
        for (_, contents) in layers {
            self.state.blobs.lock().insert(hex(&Sha256::digest(contents)), Arc::new(contents.to_vec()));
        }
        let layers = layers.iter().map(|(kind, contents)| (*kind, contents.to_vec())).collect();
        self.state.layers.lock().insert(name.to_owned(), layers);
    }

    /// Makes the hub answer its next requests with 503.
    pub(crate) fn be_busy(&self, times: u32) {
        *self.state.busy.lock() = times;
    }

    /// Makes the hub redirect requests to its API to this URL.
    pub(crate) fn move_api(&self, url: &str) {
        *self.state.api_moved_to.lock() = Some(url.to_owned());
    }

    /// Damages the CDN's file with these contents: one byte no longer matches its hash.
    pub(crate) fn damage(&self, contents: &[u8]) {
        let mut bad = contents.to_vec();
        *bad.last_mut().expect("a byte") ^= 1;
        self.state.blobs.lock().insert(hex(&Sha256::digest(contents)), Arc::new(bad));
    }

    /// Makes another server the CDN. It must have the files at `/blobs/SHA256`.
    pub(crate) fn set_cdn(&self, url: &str) {
        url.clone_into(&mut self.state.cdn.lock());
    }

    /// Every request so far.
    pub(crate) fn seen(&self) -> Vec<Seen> {
        self.state.seen.lock().clone()
    }

    /// Bytes of files that were sent so far.
    pub(crate) fn sent(&self) -> u64 {
        self.seen().iter().filter(|seen| seen.server == "cdn").map(|seen| seen.bytes).sum()
    }
}

async fn serve(state: &Arc<State>, server: &'static str) -> (SocketAddr, tokio::task::JoinHandle<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = listener.local_addr().expect("an address");
    let state = Arc::clone(state);
    let app = Router::new().fallback(move |request: Request| {
        let state = Arc::clone(&state);
        async move { state.answer(server, &request) }
    });
    let task = rbee_hive::spawn::detached(async move {
        // The server ends with the test.
        let _ = axum::serve(listener, app).await;
    });
    (address, task)
}

impl State {
    /// The URL of a file on the CDN, with a new signature each time.
    fn cdn_url(&self, sha256: &str) -> String {
        let signature = self.signed.fetch_add(1, Ordering::SeqCst);
        format!("{}/blobs/{sha256}?signature={signature}", self.cdn.lock())
    }

    fn answer(&self, server: &'static str, request: &Request) -> Response {
        let header =
            |name| request.headers().get(name).and_then(|value| value.to_str().ok()).map(str::to_owned);
        let authorization = header(header::AUTHORIZATION);
        let path = request.uri().path().to_owned();
        let (mut response, bytes) = match server {
            "hub" => self.hub(request.method(), &path, authorization.as_deref()),
            _ => self.cdn(&path, header(header::RANGE).as_deref()),
        };
        if request.method() == Method::HEAD {
            *response.body_mut() = Body::empty();
        }
        let seen = Seen { server, method: request.method().clone(), path, authorization, bytes };
        self.seen.lock().push(seen);
        response
    }

    fn hub(&self, method: &Method, path: &str, authorization: Option<&str>) -> (Response, u64) {
        {
            let mut busy = self.busy.lock();
            if *busy > 0 {
                *busy -= 1;
                return (status(503, &[("Retry-After", "0")]), 0);
            }
        }
        let parts: Vec<_> = path.trim_start_matches('/').split('/').map(decoded).collect();
        let parts: Vec<_> = parts.iter().map(String::as_str).collect();
        let moved = self.api_moved_to.lock().clone();
        let response = match &parts[..] {
            ["api", ..] if moved.is_some() => status(302, &[("Location", &moved.unwrap_or_default())]),
            ["api", "whoami-v2"] => whoami(authorization),
            ["api", "models", org, repo] => self.model(&format!("{org}/{repo}"), "main", authorization),
            ["api", "models", org, repo, "revision", revision] => {
                self.model(&format!("{org}/{repo}"), revision, authorization)
            }
            [org, repo, "resolve", revision, file @ ..] => {
                let repo = format!("{org}/{repo}");
                self.resolve(method, &repo, revision, &file.join("/"), authorization)
            }
            ["v2", namespace, name, "manifests", tag] => self.manifest(&format!("{namespace}/{name}:{tag}")),
            ["v2", _, _, "blobs", digest] => {
                let digest = digest.trim_start_matches("sha256:");
                let location = self.cdn_url(digest);
                status(307, &[("Location", &location)])
            }
            _ => status(404, &[]),
        };
        (response, 0)
    }

    /// The repository and its commit, or the hub's error response.
    fn look_up(
        &self,
        repo: &str,
        revision: &str,
        authorization: Option<&str>,
        wants_file: bool,
    ) -> Result<(Repo, String), Response> {
        let known = authorization == Some(&format!("Bearer {TOKEN}"));
        let error = |code, name: &str, message: &str| {
            Err(status(code, &[("X-Error-Code", name), ("X-Error-Message", message)]))
        };
        if authorization.is_some() && !known {
            return error(401, "", "Invalid credentials in Authorization header");
        }
        let repos = self.repos.lock();
        // As on the Hub, the case of letters does not matter.
        let spelled = repos.keys().find(|name| name.eq_ignore_ascii_case(repo));
        let found =
            spelled.and_then(|name| repos.get(name)).filter(|repo| known || repo.access != Access::Private);
        let Some(found) = found else {
            // Without a token the response does not reveal whether the repository exists.
            return if known {
                error(404, "RepoNotFound", "Repository not found")
            } else {
                error(401, "RepoNotFound", "Invalid username or password.")
            };
        };
        match found.access {
            Access::Gated if wants_file && !known => {
                return error(401, "GatedRepo", "Access to this model is restricted");
            }
            Access::GatedAndClosed if wants_file => {
                return error(403, "GatedRepo", "Access to this model is restricted");
            }
            _ => {}
        }
        let commit = found.refs.get(revision).map_or(revision, String::as_str).to_owned();
        if !found.commits.contains_key(&commit) {
            return error(404, "RevisionNotFound", "Invalid rev id");
        }
        Ok((found.clone(), commit))
    }

    fn model(&self, repo: &str, revision: &str, authorization: Option<&str>) -> Response {
        let (found, commit) = match self.look_up(repo, revision, authorization, false) {
            Ok(found) => found,
            Err(response) => return response,
        };
        let siblings: Vec<_> = found.commits[&commit]
            .iter()
            .map(|(path, contents)| {
                let mut file = json!({
                    "rfilename": path, "size": contents.len(), "blobId": git_hash(contents),
                });
                if is_large(path) {
                    let sha256 = hex(&Sha256::digest(&**contents));
                    file["lfs"] = json!({ "sha256": sha256, "size": contents.len(), "pointerSize": 134 });
                }
                file
            })
            .collect();
        let gated = match found.access {
            Access::Gated | Access::GatedAndClosed => json!("manual"),
            _ => json!(false),
        };
        // As the Hub reads it of one of the files.
        let read = |contents: &Arc<Vec<u8>>| {
            let size = contents.len() as u64;
            Header::from_reader(Cursor::new(&***contents), size, Arrays::Skip).ok()
        };
        let header = found.commits[&commit].values().find_map(read);
        let gguf = header.map(|header| json!({ "architecture": header.architecture() }));
        let repos = self.repos.lock();
        let repo = repos.keys().find(|name| name.eq_ignore_ascii_case(repo)).map_or(repo, String::as_str);
        let body = json!({
            "_id": "0", "id": repo, "modelId": repo, "sha": commit, "private": found.access == Access::Private,
            "gated": gated, "disabled": false, "tags": ["gguf"], "downloads": 1, "likes": 0, "siblings": siblings,
            "gguf": gguf,
        });
        let mut response = Response::new(Body::from(body.to_string()));
        response.headers_mut().insert(header::CONTENT_TYPE, "application/json".parse().expect("a type"));
        response
    }

    fn resolve(
        &self,
        method: &Method,
        repo: &str,
        revision: &str,
        path: &str,
        authorization: Option<&str>,
    ) -> Response {
        let (found, commit) = match self.look_up(repo, revision, authorization, true) {
            Ok(found) => found,
            Err(response) => return response,
        };
        let Some(contents) = found.commits[&commit].get(path) else {
            let message = [("X-Error-Code", "EntryNotFound"), ("X-Error-Message", "Entry not found")];
            return status(404, &[message[0], message[1], ("X-Repo-Commit", &commit)]);
        };
        let length = contents.len().to_string();
        if !is_large(path) {
            let etag = format!("\"{}\"", git_hash(contents));
            let mut response = status(200, &[("X-Repo-Commit", &commit), ("ETag", &etag)]);
            response.headers_mut().insert(header::CONTENT_LENGTH, length.parse().expect("a number"));
            if method != Method::HEAD {
                *response.body_mut() = Body::from(contents.to_vec());
            }
            return response;
        }
        let sha256 = hex(&Sha256::digest(&**contents));
        let location = self.cdn_url(&sha256);
        status(
            302,
            &[
                ("Location", &location),
                ("X-Repo-Commit", &commit),
                ("X-Linked-Size", &length),
                ("X-Linked-ETag", &format!("\"{sha256}\"")),
                ("ETag", &format!("\"{}\"", git_hash(contents))),
                ("Accept-Ranges", "bytes"),
            ],
        )
    }

    fn manifest(&self, name: &str) -> Response {
        let models = self.ollama.lock();
        let Some(contents) = models.get(name) else { return status(404, &[]) };
        let descriptor = |kind: &str, digest: String, size: usize| json!({ "mediaType": kind, "digest": format!("sha256:{digest}"), "size": size });
        let digest = hex(&Sha256::digest(&**contents));
        let mut layers = vec![descriptor("application/vnd.ollama.image.model", digest, contents.len())];
        for (kind, contents) in self.layers.lock().get(name).into_iter().flatten() {
            let kind = format!("application/vnd.ollama.image.{kind}");
            layers.push(descriptor(&kind, hex(&Sha256::digest(contents)), contents.len()));
        }
        let body = json!({
            "schemaVersion": 2,
            "mediaType": "application/vnd.docker.distribution.manifest.v2+json",
            "config": descriptor("application/vnd.docker.container.image.v1+json", "0".repeat(64), 2),
            "layers": layers,
        });
        Response::new(Body::from(body.to_string()))
    }

    fn cdn(&self, path: &str, range: Option<&str>) -> (Response, u64) {
        let name = path.trim_start_matches("/blobs/");
        let Some(contents) = self.blobs.lock().get(name).cloned() else { return (status(404, &[]), 0) };
        let all = contents.len();
        let etag = format!("\"{name}\"");
        let span = range.and_then(|range| {
            let (from, to) = range.strip_prefix("bytes=")?.split_once('-')?;
            let from: usize = from.parse().ok()?;
            let to = to.parse::<usize>().map_or(all, |to| to.saturating_add(1)).min(all);
            Some((from, to))
        });
        let (mut response, bytes) = match span {
            Some((from, to)) if from < to => {
                let range = format!("bytes {from}-{}/{all}", to - 1);
                (status(206, &[("Content-Range", &range), ("ETag", &etag)]), contents[from..to].to_vec())
            }
            Some(_) => return (status(416, &[("Content-Range", &format!("bytes */{all}"))]), 0),
            None => (status(200, &[("ETag", &etag)]), contents.to_vec()),
        };
        let sent = bytes.len() as u64;
        response.headers_mut().insert(header::ACCEPT_RANGES, "bytes".parse().expect("a word"));
        response.headers_mut().insert(header::CONTENT_LENGTH, sent.to_string().parse().expect("a number"));
        *response.body_mut() = Body::from(bytes);
        (response, sent)
    }
}

/// Who a token belongs to (<https://huggingface.co/docs/hub/api>).
fn whoami(authorization: Option<&str>) -> Response {
    if authorization != Some(&format!("Bearer {TOKEN}")) {
        return status(401, &[("X-Error-Message", "Invalid credentials in Authorization header")]);
    }
    let token =
        json!({ "displayName": "of a test", "role": "read", "createdAt": "2026-01-01T00:00:00.000Z" });
    let body = json!({
        "type": "user", "id": "0", "name": ACCOUNT, "fullname": "A Test", "isPro": false, "orgs": [],
        "auth": { "type": "access_token", "accessToken": token },
    });
    let mut response = Response::new(Body::from(body.to_string()));
    response.headers_mut().insert(header::CONTENT_TYPE, "application/json".parse().expect("a type"));
    response
}

fn status(code: u16, headers: &[(&str, &str)]) -> Response {
    let mut response = Response::builder().status(StatusCode::from_u16(code).expect("a status"));
    for (name, value) in headers.iter().filter(|(_, value)| !value.is_empty()) {
        response = response.header(*name, *value);
    }
    response.body(Body::empty()).expect("a response")
}

/// Whether the hub stores a file outside of git, as `.gitattributes` would say.
fn is_large(path: &str) -> bool {
    path.ends_with(".gguf")
}

/// A stand-in for git's hash of a file: 40 digits.
fn git_hash(contents: &[u8]) -> String {
    hex(&Sha256::digest([b"blob ", contents].concat()))[..40].to_owned()
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Decodes percent-encoding.
fn decoded(text: &str) -> String {
    reqwest::Url::parse(&format!("http://h/?{}", text.replace('+', "%2B")))
        .ok()
        .and_then(|url| url.query_pairs().next().map(|(name, _)| name.into_owned()))
        .unwrap_or_default()
}
