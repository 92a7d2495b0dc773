//! A stand-in of GitHub: its API of releases, and the servers of their files. Its answers have the shape of the real
//! ones, as far as the hive reads them.
//!
//! Like the real one, the API asks again by `ETag`, and a file of a release is a redirect to another server, which
//! serves ranges.

use std::collections::HashMap;
use std::io::Write;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::Request;
use axum::http::{StatusCode, header};
use axum::response::Response;
use flate2::Compression;
use flate2::write::GzEncoder;
use parking_lot::Mutex;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use tokio::net::TcpListener;
use tokio::sync::watch;

use super::hub::hex;
use super::tls::{TlsListener, tls_acceptor};

/// The repository of the releases.
const REPOSITORY: &str = "ggml-org/llama.cpp";
/// The pieces in which a file is sent.
const PIECE: usize = 16 << 10;

/// The files of a release: names and contents.
type Files = Vec<(String, Bytes)>;

/// A running GitHub.
pub(crate) struct FakeGitHub {
    /// What `[engine_builds] releases` is to be.
    pub(crate) releases: String,
    state: Arc<State>,
    tasks: Vec<tokio::task::JoinHandle<()>>,
}

/// A recorded request.
#[derive(Clone, Debug)]
pub(crate) struct Asked {
    /// `api`, `files` (which redirects) or `storage`.
    pub(crate) server: &'static str,
    pub(crate) status: u16,
    /// The `Range` that was asked for.
    pub(crate) range: Option<String>,
}

/// What the API says of the hashes of files.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Digests {
    #[default]
    Right,
    /// As before GitHub had them.
    Missing,
    Wrong,
}

struct State {
    /// The releases, the newest last: tag, and names with contents.
    published: Mutex<Vec<(String, Files)>>,
    digests: Mutex<Digests>,
    /// The base URLs of the servers.
    bases: Mutex<HashMap<&'static str, String>>,
    asked: Mutex<Vec<Asked>>,
    /// How many further answers of the API are a 503.
    busy: AtomicU32,
    /// In how many seconds the API may be asked again, where it may not now.
    limited: Mutex<Option<u64>>,
    /// How many further answers of the storage end early.
    cut: AtomicU32,
    /// After how many bytes they do.
    cut_after: AtomicUsize,
    /// After how many bytes an answer of the storage waits.
    held_at: watch::Sender<Option<usize>>,
}

impl Drop for FakeGitHub {
    fn drop(&mut self) {
        for task in &self.tasks {
            task.abort();
        }
    }
}

impl FakeGitHub {
    /// Starts it over plain HTTP.
    pub(crate) async fn start() -> Self {
        Self::start_on(None).await
    }

    /// Starts it over TLS, as `localhost`, with certificates from an authority that is written to `authority`.
    pub(crate) async fn start_over_tls(authority: &Path) -> Self {
        Self::start_on(Some(authority)).await
    }

    async fn start_on(authority: Option<&Path>) -> Self {
        let state = Arc::new(State {
            published: Mutex::default(),
            digests: Mutex::default(),
            bases: Mutex::default(),
            asked: Mutex::default(),
            busy: AtomicU32::new(0),
            limited: Mutex::default(),
            cut: AtomicU32::new(0),
            cut_after: AtomicUsize::new(0),
            held_at: watch::Sender::new(None),
        });
        let acceptor = authority.map(tls_acceptor);
        let mut tasks = Vec::new();
        for server in ["api", "files", "storage"] {
            let tcp = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
            let address: SocketAddr = tcp.local_addr().expect("an address");
            let base = match acceptor {
                None => format!("http://{address}"),
                Some(_) => format!("https://localhost:{}", address.port()),
            };
            state.bases.lock().insert(server, base);
            let of_server = Arc::clone(&state);
            let app = Router::new().fallback(move |request: Request| {
                let state = Arc::clone(&of_server);
                async move { state.answer(server, &request) }
            });
            let acceptor = acceptor.clone();
            tasks.push(rbee_hive::spawn::detached(async move {
                // The server ends with the test.
                let _ended = match acceptor {
                    None => axum::serve(tcp, app).await,
                    Some(acceptor) => axum::serve(TlsListener { tcp, acceptor }, app).await,
                };
            }));
        }
        let releases = format!("{}/repos/{REPOSITORY}/releases", state.base("api"));
        Self { releases, state, tasks }
    }

    /// Publishes a release, or replaces one; it is the latest.
    pub(crate) fn publish(&self, tag: &str, files: &[(&str, &[u8])]) {
        let files = files.iter().map(|(name, bytes)| ((*name).to_owned(), Bytes::copy_from_slice(bytes)));
        let mut published = self.state.published.lock();
        published.retain(|(other, _)| other != tag);
        published.push((tag.to_owned(), files.collect()));
    }

    /// What the API says of hashes from now on.
    pub(crate) fn tell(&self, digests: Digests) {
        *self.state.digests.lock() = digests;
    }

    /// Makes the API answer its next requests with 503.
    pub(crate) fn be_busy(&self, times: u32) {
        self.state.busy.store(times, Ordering::SeqCst);
    }

    /// Lets nobody ask the API for so many seconds, as it says; `None` ends that.
    pub(crate) fn limit(&self, seconds: Option<u64>) {
        *self.state.limited.lock() = seconds;
    }

    /// Breaks off the next `times` files after so many bytes.
    pub(crate) fn cut(&self, times: u32, after: usize) {
        self.state.cut_after.store(after, Ordering::SeqCst);
        self.state.cut.store(times, Ordering::SeqCst);
    }

    /// Lets every file wait after so many bytes, until this is set to `None`.
    pub(crate) fn hold(&self, at: Option<usize>) {
        self.state.held_at.send_replace(at);
    }

    /// Every request so far.
    pub(crate) fn asked(&self) -> Vec<Asked> {
        self.state.asked.lock().clone()
    }

    /// How often a server was asked.
    pub(crate) fn count(&self, server: &str) -> usize {
        self.asked().iter().filter(|asked| asked.server == server).count()
    }
}

impl State {
    fn base(&self, server: &str) -> String {
        self.bases.lock()[server].clone()
    }

    fn answer(self: &Arc<Self>, server: &'static str, request: &Request) -> Response {
        let header = |name| request.headers().get(name).and_then(|value| value.to_str().ok());
        let (path, range) = (request.uri().path(), header(header::RANGE));
        let response = match server {
            "api" => self.api(path, header(header::IF_NONE_MATCH)),
            "files" => match path.strip_prefix(&format!("/{REPOSITORY}/releases/download/")) {
                Some(file) => {
                    let location = format!("{}/{file}?signature=1", self.base("storage"));
                    answer(302, &[("Location", &location)], Body::empty())
                }
                None => answer(404, &[], Body::empty()),
            },
            _ => self.storage(path, range),
        };
        self.asked.lock().push(Asked {
            server,
            status: response.status().as_u16(),
            range: range.map(str::to_owned),
        });
        response
    }

    fn api(&self, path: &str, known: Option<&str>) -> Response {
        let one_less = |left: u32| left.checked_sub(1);
        if self.busy.fetch_update(Ordering::SeqCst, Ordering::SeqCst, one_less).is_ok() {
            return answer(503, &[], Body::empty());
        }
        if let Some(seconds) = *self.limited.lock() {
            let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("a time");
            let reset = (now.as_secs() + seconds).to_string();
            let headers =
                [("x-ratelimit-limit", "60"), ("x-ratelimit-remaining", "0"), ("x-ratelimit-reset", &reset)];
            let body = json!({ "message": "API rate limit exceeded for 127.0.0.1." });
            return answer(403, &headers, body.to_string().into());
        }
        let published = self.published.lock();
        let asked = path.strip_prefix(&format!("/repos/{REPOSITORY}/releases/")).unwrap_or_default();
        let found = match asked.strip_prefix("tags/") {
            Some(tag) => published.iter().find(|(other, _)| other == tag),
            None if asked == "latest" => published.last(),
            None => None,
        };
        let Some((tag, files)) = found else {
            return answer(404, &[], json!({ "message": "Not Found", "status": "404" }).to_string().into());
        };
        let body = self.release(tag, files).to_string();
        let etag = format!("W/\"{}\"", hex(&Sha256::digest(&body)));
        if known == Some(&etag) {
            return answer(304, &[("ETag", &etag)], Body::empty());
        }
        answer(200, &[("ETag", &etag), ("Content-Type", "application/json; charset=utf-8")], body.into())
    }

    fn release(&self, tag: &str, files: &[(String, Bytes)]) -> Value {
        let (api, digests) = (self.base("api"), *self.digests.lock());
        let assets = files.iter().enumerate().map(|(number, (name, contents))| {
            let digest = match digests {
                Digests::Right => json!(format!("sha256:{}", hex(&Sha256::digest(contents)))),
                Digests::Missing => Value::Null,
                Digests::Wrong => json!(format!("sha256:{}", "0".repeat(64))),
            };
            json!({
                "url": format!("{api}/repos/{REPOSITORY}/releases/assets/{number}"), "id": number, "name": name,
                "label": "", "content_type": "application/gzip", "state": "uploaded", "size": contents.len(),
                "digest": digest, "download_count": 1,
                "browser_download_url":
                    format!("{}/{REPOSITORY}/releases/download/{tag}/{name}", self.base("files")),
            })
        });
        json!({
            "url": format!("{api}/repos/{REPOSITORY}/releases/1"), "tag_name": tag, "name": tag, "draft": false,
            "prerelease": true, "published_at": "2026-11-20T07:17:57Z",
            "tarball_url": format!("{}/{REPOSITORY}/releases/download/{tag}/sources.tar.gz", self.base("files")),
            "assets": assets.collect::<Vec<_>>(), "body": "A release.",
        })
    }

    fn storage(&self, path: &str, range: Option<&str>) -> Response {
        let published = self.published.lock();
        let found = path.trim_start_matches('/').split_once('/').and_then(|(tag, name)| {
            let (_, files) = published.iter().find(|(other, _)| other == tag)?;
            files.iter().find(|(other, _)| other == name)
        });
        let Some((_, contents)) = found else { return answer(404, &[], Body::empty()) };
        let all = contents.len();
        let etag = format!("\"{}\"", &hex(&Sha256::digest(contents))[..16]);
        let span = range.and_then(|range| {
            let (from, to) = range.strip_prefix("bytes=")?.split_once('-')?;
            let to = to.parse::<usize>().map_or(all, |to| to.saturating_add(1)).min(all);
            Some((from.parse::<usize>().ok()?, to))
        });
        let (from, to) = span.unwrap_or((0, all));
        if from >= to {
            return answer(416, &[("Content-Range", &format!("bytes */{all}"))], Body::empty());
        }
        let one_less = |left: u32| left.checked_sub(1);
        let is_cut = self.cut.fetch_update(Ordering::SeqCst, Ordering::SeqCst, one_less).is_ok();
        let cut = is_cut.then(|| self.cut_after.load(Ordering::SeqCst));
        let body = self.body(contents.slice(from..to), cut);
        let (range, length) = (format!("bytes {from}-{}/{all}", to - 1), (to - from).to_string());
        let mut headers =
            vec![("ETag", etag.as_str()), ("Accept-Ranges", "bytes"), ("Content-Length", &length)];
        if span.is_some() {
            headers.push(("Content-Range", &range));
        }
        answer(if span.is_some() { 206 } else { 200 }, &headers, body)
    }

    /// The contents piece by piece: they wait where they are to be held, and break off where they are cut.
    fn body(&self, contents: Bytes, cut: Option<usize>) -> Body {
        let held_at = self.held_at.subscribe();
        Body::from_stream(futures::stream::unfold((0, held_at), move |(at, mut held_at)| {
            let contents = contents.clone();
            async move {
                drop(held_at.wait_for(|held| held.is_none_or(|held| at < held)).await);
                if cut.is_some_and(|cut| at >= cut) {
                    let broken = std::io::Error::other("the connection breaks");
                    return Some((Err(broken), (usize::MAX, held_at)));
                }
                if at >= contents.len() {
                    return None;
                }
                let to = (at + PIECE).min(contents.len());
                Some((Ok(contents.slice(at..to)), (to, held_at)))
            }
        }))
    }
}

fn answer(code: u16, headers: &[(&str, &str)], body: Body) -> Response {
    let mut response = Response::builder().status(StatusCode::from_u16(code).expect("a status"));
    for (name, value) in headers {
        response = response.header(*name, *value);
    }
    response.body(body).expect("a response")
}

/// The name of the archive for this machine's processor in a release.
pub(crate) fn archive_name(tag: &str) -> String {
    let os = if cfg!(target_os = "macos") { "macos" } else { "ubuntu" };
    let arch = if cfg!(target_arch = "aarch64") { "arm64" } else { "x64" };
    format!("llama-{tag}-bin-{os}-{arch}.tar.gz")
}

/// An archive as llama.cpp's releases have it, with this program as its llama-server and `filler` bytes besides that
/// cannot be compressed.
pub(crate) fn engine_archive(tag: &str, program: &[u8], filler: usize) -> Vec<u8> {
    let mut builder = tar::Builder::new(GzEncoder::new(Vec::new(), Compression::fast()));
    let mut add = |name: &str, mode: u32, contents: &[u8]| {
        let mut header = tar::Header::new_gnu();
        header.set_mode(mode);
        header.set_size(contents.len() as u64);
        builder.append_data(&mut header, format!("llama-{tag}/{name}"), contents).expect("an entry");
    };
    add("LICENSE", 0o644, b"MIT");
    add("llama-server", 0o755, program);
    let mut random = 1_u64;
    let filler: Vec<u8> = std::iter::repeat_with(|| {
        // A generator of numbers that look random (xorshift).
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        random.to_le_bytes()[3]
    })
    .take(filler)
    .collect();
    add("libllama.so.0.1", 0o755, &filler);
    let mut header = tar::Header::new_gnu();
    header.set_entry_type(tar::EntryType::Symlink);
    header.set_size(0);
    builder.append_link(&mut header, format!("llama-{tag}/libllama.so"), "libllama.so.0.1").expect("a link");
    let mut encoder = builder.into_inner().expect("an archive");
    encoder.flush().expect("an archive");
    encoder.finish().expect("an archive")
}

/// An archive with this program as its llama-server, and with a file whose place is outside the folder into which it
/// is unpacked.
pub(crate) fn hostile_archive(tag: &str, program: &[u8]) -> Vec<u8> {
    let mut builder = tar::Builder::new(GzEncoder::new(Vec::new(), Compression::fast()));
    for (name, contents) in [("llama-server", program), ("../../escaped", b"out")] {
        let name = format!("llama-{tag}/{name}");
        let mut header = tar::Header::new_gnu();
        // As bytes: the library writes no such path.
        header.as_old_mut().name[..name.len()].copy_from_slice(name.as_bytes());
        header.set_mode(0o755);
        header.set_size(contents.len() as u64);
        header.set_cksum();
        builder.append(&header, contents).expect("an entry");
    }
    builder.into_inner().expect("an archive").finish().expect("an archive")
}
