//! Downloads from a real server on loopback, with good and bad answers.

use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use super::*;
use crate::config::Config;
use crate::models::Status;
use crate::models::testing::{config, gguf};
use crate::narration::{Entry, NarrationContext, with_narration_context};
use crate::spawn;

/// What a server does with a request.
enum Reply {
    /// Sends these bytes and closes.
    Bytes(Vec<u8>),
    /// Sends these bytes and then nothing, and keeps the connection open.
    Hang(Vec<u8>),
}

struct Server {
    address: SocketAddr,
    requests: Arc<AtomicUsize>,
    task: JoinHandle<()>,
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Server {
    /// A server that answers each request by its path.
    async fn start(reply: impl Fn(&str) -> Reply + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let requests = Arc::new(AtomicUsize::new(0));
        let (count, reply) = (Arc::clone(&requests), Arc::new(reply));
        let task = spawn::detached(async move {
            let mut held = Vec::new();
            while let Ok((mut stream, _)) = listener.accept().await {
                count.fetch_add(1, Ordering::SeqCst);
                let path = path_of_request(&mut stream).await;
                let (Reply::Bytes(bytes) | Reply::Hang(bytes)) = reply(&path);
                // A client that refuses the answer may have hung up.
                let _ = stream.write_all(&bytes).await;
                if matches!(reply(&path), Reply::Hang(_)) {
                    held.push(stream);
                }
            }
        });
        Self { address, requests, task }
    }

    fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    fn requests(&self) -> usize {
        self.requests.load(Ordering::SeqCst)
    }
}

/// The path of a request, and nothing for bytes that are no request, as a handshake of TLS.
async fn path_of_request(stream: &mut TcpStream) -> String {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        match stream.read_u8().await {
            Ok(byte) => head.push(byte),
            Err(_) => break,
        }
        if !head[0].is_ascii_uppercase() {
            return String::new();
        }
    }
    String::from_utf8_lossy(&head).split(' ').nth(1).unwrap_or_default().to_owned()
}

fn answer(head: &str, body: &[u8]) -> Vec<u8> {
    [format!("HTTP/1.1 {head}\r\n\r\n").as_bytes(), body].concat()
}

fn ok(body: &[u8]) -> Vec<u8> {
    answer(&format!("200 OK\r\nContent-Length: {}", body.len()), body)
}

fn redirect(location: &str) -> Reply {
    Reply::Bytes(answer(&format!("302 Found\r\nLocation: {location}\r\nContent-Length: 0"), b""))
}

async fn download(config: &Config, url: &str) -> Result<Downloaded> {
    let catalog = Catalog::new(config).unwrap();
    catalog.download(&Source::parse(url)?, &DownloadRequest::default(), &CancellationToken::new()).await
}

fn expect_model(downloaded: Downloaded) -> Model {
    match downloaded {
        Downloaded::Model(model) => *model,
        Downloaded::Plan(plan) => panic!("{plan:?}"),
    }
}

fn assert_store_is_empty(root: &Path) {
    let left: Vec<_> =
        fs::read_dir(root.join("data/models")).unwrap().map(|entry| entry.unwrap().path()).collect();
    assert!(left.is_empty(), "{left:?}");
}

#[tokio::test]
async fn a_download_is_verified_and_recorded_and_not_repeated() {
    let root = tempfile::tempdir().unwrap();
    let config = config(root.path());
    let catalog = Catalog::new(&config).unwrap();
    let body = gguf("llama");
    let server = Server::start({
        let body = body.clone();
        move |path| match path {
            "/a/tiny.gguf?signature=secret" => redirect("../b/c"),
            _ => Reply::Bytes(ok(&body)),
        }
    })
    .await;
    let sha256 = crate::text::hex(&<sha2::Sha256 as sha2::Digest>::digest(&body));
    let url = server.url(&format!("/a/tiny.gguf?signature=secret#sha256={sha256}"));
    let source = Source::parse(&url).unwrap();
    let stop = CancellationToken::new();

    let dry = DownloadRequest { dry_run: true, ..DownloadRequest::default() };
    let Downloaded::Plan(plan) = catalog.download(&source, &dry, &stop).await.unwrap() else { panic!() };
    assert_eq!((plan.total_bytes, plan.already_present, plan.fits), (Some(body.len() as u64), false, true));
    assert_eq!((plan.model.as_str(), plan.files[0].name.as_str()), ("tiny", "tiny.gguf"));
    assert_store_is_empty(root.path());

    let (sender, mut entries) = mpsc::unbounded_channel();
    let context = NarrationContext::new("job-1".into(), "model_download", sender);
    let request = DownloadRequest::default();
    let model = expect_model(
        with_narration_context(context, catalog.download(&source, &request, &stop)).await.unwrap(),
    );
    assert_eq!(model.id, "tiny");
    assert_eq!(model.source, server.url("/a/tiny.gguf"), "the signature is not recorded");
    assert_eq!(model.sha256.as_deref(), Some(&*sha256));
    assert_eq!(fs::read(&model.path).unwrap(), body);
    let mut last_progress = None;
    while let Some(Entry::Narration(narration)) = entries.recv().await {
        assert!(!narration.message.contains("secret"), "{}", narration.message);
        last_progress = narration.progress.or(last_progress);
    }
    assert_eq!(last_progress.unwrap().done, body.len() as u64);

    let before = server.requests();
    assert_eq!(expect_model(catalog.download(&source, &request, &stop).await.unwrap()), model);
    let Downloaded::Plan(plan) = catalog.download(&source, &dry, &stop).await.unwrap() else { panic!() };
    assert!(plan.already_present && plan.transfer_bytes == Some(0));
    assert_eq!(server.requests(), before, "a model that exists is not requested");

    let other = Source::parse(&server.url("/other/tiny.gguf")).unwrap();
    let failure = catalog.download(&other, &request, &stop).await.unwrap_err();
    assert_eq!(failure.code, Code::ModelExists);
    let forced = DownloadRequest { force: true, ..DownloadRequest::default() };
    let replaced = expect_model(catalog.download(&other, &forced, &stop).await.unwrap());
    assert_eq!(replaced.source, server.url("/other/tiny.gguf"));
    assert_eq!(catalog.delete(&replaced, false).await.unwrap(), body.len() as u64);
    assert_store_is_empty(root.path());
}

#[tokio::test]
async fn every_bad_answer_gives_its_error_code_and_leaves_no_file() {
    let root = tempfile::tempdir().unwrap();
    // Only answers that never come are given up soon: on a busy machine the others may take a while.
    let config = config(root.path());
    let mut impatient = config.clone();
    impatient.timers.stall = Duration::from_millis(300).into();
    let server = Server::start(|path| {
        let body = gguf("llama");
        let cut = &body[..body.len() - 100];
        Reply::Bytes(match path {
            "/cut-always.gguf" | "/truncated.gguf" => {
                answer(&format!("200 OK\r\nContent-Length: {}", body.len()), cut)
            }
            "/damaged.gguf" => ok(cut),
            "/sound.gguf" => ok(&body),
            "/html.gguf" => {
                answer("200 OK\r\nContent-Type: text/html; charset=utf-8", b"<html>private</html>")
            }
            "/octets.gguf" => ok(b"<html>private</html>"),
            "/empty.gguf" => ok(b""),
            "/gone.gguf" => answer("404 Not Found\r\nContent-Length: 7", b"private"),
            "/locked.gguf" => answer("401 Unauthorized\r\nContent-Length: 7", b"private"),
            "/busy.gguf" => {
                answer("503 Service Unavailable\r\nRetry-After: 9999999\r\nContent-Length: 7", b"private")
            }
            "/part.gguf" => answer(&format!("206 Partial Content\r\nContent-Length: {}", body.len()), &body),
            "/zipped.gguf" => answer("200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 4", b"GGUF"),
            "/noise.gguf" => b"private\r\n\r\n".to_vec(),
            "/huge.gguf" => answer("200 OK\r\nContent-Length: 9000000000000000000", b"GGUF"),
            "/stall.gguf" => {
                return Reply::Hang(answer(
                    &format!("200 OK\r\nContent-Length: {}", body.len()),
                    &body[..50],
                ));
            }
            "" => Vec::new(),
            "/silent.gguf" => return Reply::Hang(Vec::new()),
            "/loop.gguf" => return redirect("/loop.gguf"),
            "/nowhere.gguf" => answer("302 Found\r\nContent-Length: 0", b""),
            "/private.gguf" => return redirect("http://10.0.0.1/x.gguf"),
            "/metadata.gguf" => return redirect("https://169.254.169.254/x.gguf"),
            "/loopback.gguf" => return redirect("http://127.0.0.1:9/x.gguf"),
            "/file.gguf" => return redirect("file:///etc/passwd"),
            other => panic!("{other}"),
        })
    })
    .await;
    for (path, code, says) in [
        ("/truncated.gguf", Code::DownloadFailed, "broke off"),
        ("/damaged.gguf", Code::ModelIncomplete, "not a usable model"),
        ("/cut-always.gguf", Code::DownloadFailed, "given up after 2 retries"),
        ("/html.gguf", Code::DownloadFailed, "web page"),
        ("/octets.gguf", Code::DownloadFailed, "not a GGUF file"),
        ("/empty.gguf", Code::ModelCorrupt, "127.0.0.1"),
        ("/gone.gguf", Code::SourceNotFound, "404"),
        ("/locked.gguf", Code::DownloadFailed, "401"),
        ("/busy.gguf", Code::DownloadFailed, "503"),
        ("/part.gguf", Code::DownloadFailed, "did not say which"),
        ("/zipped.gguf", Code::DownloadFailed, "encoding"),
        ("/noise.gguf", Code::WrongProtocol, "does not speak http"),
        ("/huge.gguf", Code::DiskFull, "free"),
        (
            "/stall.gguf",
            Code::DownloadFailed,
            "sent nothing for 300 ms: the transfer has stalled (given up after 2 retries), after 50 bytes of",
        ),
        ("/silent.gguf", Code::DownloadFailed, "did not answer within 300 ms"),
        ("/loop.gguf", Code::DownloadFailed, "redirects"),
        ("/nowhere.gguf", Code::DownloadFailed, "no valid address"),
        ("/private.gguf", Code::SourceRefused, "plain http"),
        ("/metadata.gguf", Code::SourceRefused, "not of the public internet"),
        ("/loopback.gguf", Code::SourceRefused, "plain http"),
        ("/file.gguf", Code::SourceRefused, "not allowed"),
    ] {
        let config = if says.contains("300 ms") { &impatient } else { &config };
        let failure = download(config, &server.url(path)).await.unwrap_err();
        assert_eq!(failure.code, code, "{path}: {failure:?}");
        assert!(failure.message.contains(says), "{path}: {failure}");
        let public = serde_json::to_string(&failure).unwrap();
        assert!(!public.contains("private"), "another server's body is never shown: {public}");
        assert_store_is_empty(root.path());
    }
    // This server speaks no TLS; and a machine without root certificates fails alike.
    let failure = download(&config, &server.url("/x.gguf").replace("http:", "https:")).await.unwrap_err();
    assert_eq!(failure.code, Code::DownloadFailed, "{failure:?}");
    let failure =
        download(&config, &server.url(&format!("/sound.gguf#sha256={}", "0".repeat(64)))).await.unwrap_err();
    assert_eq!(
        (failure.code, failure.stage.as_deref()),
        (Code::DownloadFailed, Some("verify")),
        "{failure:?}"
    );
    assert_store_is_empty(root.path());
}

#[tokio::test]
async fn a_hive_that_others_can_reach_asks_no_server_of_this_machine() {
    let root = tempfile::tempdir().unwrap();
    let mut config = config(root.path());
    config.bind = "0.0.0.0".parse().unwrap();
    let server = Server::start(|_| Reply::Bytes(ok(&gguf("llama")))).await;
    let url = server.url("/m.gguf");
    assert_eq!(download(&config, &url).await.unwrap_err().code, Code::SourceRefused);
    assert_eq!(server.requests(), 0);
    config.downloads.allow_hosts = vec![server.address.to_string()];
    expect_model(download(&config, &url).await.unwrap());
}

#[tokio::test]
async fn a_download_is_listed_while_it_runs_and_removed_when_it_is_cancelled_and_cannot_be_resumed() {
    let root = tempfile::tempdir().unwrap();
    let catalog = Catalog::new(&config(root.path())).unwrap();
    let body = gguf("llama");
    let server = Server::start(move |_| {
        Reply::Hang(answer(&format!("200 OK\r\nContent-Length: {}", body.len()), &body[..50]))
    })
    .await;
    let source = Source::parse(&server.url("/m.gguf")).unwrap();
    let stop = CancellationToken::new();
    let (sender, mut entries) = mpsc::unbounded_channel();
    let context = NarrationContext::new("job-1".into(), "model_download", sender);
    let job = spawn::detached(with_narration_context(context, {
        let (catalog, stop) = (catalog.clone(), stop.clone());
        async move { catalog.download(&source, &DownloadRequest::default(), &stop).await }
    }));

    // Progress is narrated after the partial file was made.
    while let Some(Entry::Narration(narration)) = entries.recv().await {
        if narration.progress.is_some_and(|progress| progress.done == 50) {
            break;
        }
    }
    let model = catalog.find("m").await.unwrap();
    assert_eq!(model.status, Status::Downloading);
    assert_eq!(catalog.delete(&model, true).await.unwrap_err().code, Code::ModelInUse);
    stop.cancel();
    assert_eq!(job.await.unwrap().unwrap_err().code, Code::Cancelled);
    assert_store_is_empty(root.path());
    let mut said = Vec::new();
    while let Some(Entry::Narration(narration)) = entries.recv().await {
        said.push(narration.message);
    }
    assert!(
        said.iter().any(|text| text.starts_with("Removed the partial file of m.gguf (50 bytes)")),
        "{said:?}"
    );
    assert!(catalog.list().await.unwrap().is_empty());
}

#[tokio::test]
async fn two_jobs_for_one_file_share_one_transfer() {
    let root = tempfile::tempdir().unwrap();
    let catalog = Catalog::new(&config(root.path())).unwrap();
    let server = Server::start(|_| Reply::Bytes(ok(&gguf("llama")))).await;
    let source = Source::parse(&server.url("/m.gguf")).unwrap();
    let (request, stop) = (DownloadRequest::default(), CancellationToken::new());
    let (one, two) =
        tokio::join!(catalog.download(&source, &request, &stop), catalog.download(&source, &request, &stop));
    assert_eq!(one.unwrap(), two.unwrap());
    assert!(server.requests() <= 3, "each asks for the size, and one for the file");
}

#[tokio::test]
async fn a_revision_of_a_url_is_an_invalid_field() {
    let root = tempfile::tempdir().unwrap();
    let catalog = Catalog::new(&config(root.path())).unwrap();
    let request = DownloadRequest { revision: "v2".into(), ..DownloadRequest::default() };
    let source = Source::parse("https://h.example/m.gguf").unwrap();
    let failure = catalog.download(&source, &request, &CancellationToken::new()).await.unwrap_err();
    assert_eq!(failure.code, Code::InvalidField);
}

#[tokio::test]
async fn a_download_whose_job_is_dropped_leaves_no_file() {
    let root = tempfile::tempdir().unwrap();
    let catalog = Catalog::new(&config(root.path())).unwrap();
    let server = Server::start(|_| Reply::Hang(answer("200 OK\r\nContent-Length: 900", b"GGUF"))).await;
    let source = Source::parse(&server.url("/m.gguf")).unwrap();
    let job = spawn::detached({
        let catalog = catalog.clone();
        async move { catalog.download(&source, &DownloadRequest::default(), &CancellationToken::new()).await }
    });
    while catalog.list().await.unwrap().is_empty() {
        tokio::task::yield_now().await;
    }
    job.abort();
    assert!(job.await.unwrap_err().is_cancelled());
    // The transfer outlives its job by the moment that it takes to tidy up.
    while !catalog.list().await.unwrap().is_empty() {
        tokio::task::yield_now().await;
    }
    assert_store_is_empty(root.path());
}
