//! Transfers onto a disk that fails at every place where it can, and from partial files of other versions
//! of the hive.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};

use futures::FutureExt;
use futures::future::BoxFuture;
use parking_lot::Mutex;
use reqwest::header::HeaderMap;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::config::Config;
use crate::error::{Code, Result};
use crate::models::testing::{config, gguf_of};
use crate::models::transfer::disk::Disk;
use crate::models::transfer::neighbours::{Found, Holder, Neighbours, WantedFile};
use crate::models::transfer::partial::unfinished_at;
use crate::models::transfer::purpose::Purpose;
use crate::models::transfer::remote::{RemoteFile, Trust, Verdict};
use crate::models::{Catalog, DownloadRequest, Downloaded, Source, Status};
use crate::spawn;
use crate::text;

/// A disk with room for so many more bytes, on which a write may be cut short before it fails.
#[derive(Debug)]
struct SmallDisk {
    room: AtomicI64,
    syncs: AtomicI64,
    renames: AtomicI64,
}

impl SmallDisk {
    fn with(room: i64) -> Arc<Self> {
        let plenty = || AtomicI64::new(1000);
        Arc::new(Self { room: AtomicI64::new(room), syncs: plenty(), renames: plenty() })
    }

    fn full() -> io::Error {
        io::ErrorKind::StorageFull.into()
    }
}

impl Disk for SmallDisk {
    fn write_at(&self, file: &File, bytes: &[u8], offset: u64) -> io::Result<usize> {
        let wanted = i64::try_from(bytes.len()).unwrap();
        let room = self.room.fetch_sub(wanted, Ordering::SeqCst).clamp(0, wanted);
        match file.write_at(&bytes[..usize::try_from(room).unwrap()], offset)? {
            0 if wanted > 0 => Err(Self::full()),
            written => Ok(written),
        }
    }

    fn sync(&self, file: &File) -> io::Result<()> {
        if self.syncs.fetch_sub(1, Ordering::SeqCst) <= 0 {
            return Err(Self::full());
        }
        file.sync_all()
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        if self.renames.fetch_sub(1, Ordering::SeqCst) <= 0 {
            return Err(Self::full());
        }
        fs::rename(from, to)
    }
}

/// The first byte and the `If-Range` of each request.
type Requests = Arc<Mutex<Vec<(usize, Option<String>)>>>;

/// A server of one file and of ranges of it.
struct Server {
    url: String,
    requests: Requests,
    task: JoinHandle<()>,
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Server {
    async fn start(body: Vec<u8>, etag: &'static str) -> Self {
        Self::start_sending(body, etag, usize::MAX).await
    }

    /// One that breaks each answer off after so many bytes.
    async fn start_sending(body: Vec<u8>, etag: &'static str, most: usize) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/m.gguf", listener.local_addr().unwrap());
        let requests = Requests::default();
        let (body, seen) = (Arc::new(body), Arc::clone(&requests));
        let task = spawn::detached(async move {
            while let Ok((stream, _)) = listener.accept().await {
                spawn::detached(converse(stream, Arc::clone(&body), etag, Arc::clone(&seen), most));
            }
        });
        Self { url, requests, task }
    }
}

async fn converse(mut stream: TcpStream, body: Arc<Vec<u8>>, etag: &str, requests: Requests, most: usize) {
    let mut head = Vec::new();
    while let Ok(byte) = stream.read_u8().await {
        head.push(byte);
        if !head.ends_with(b"\r\n\r\n") {
            continue;
        }
        let text = String::from_utf8_lossy(&head).to_ascii_lowercase();
        let header = |name: &str| text.lines().find_map(|line| line.strip_prefix(name)).map(str::to_owned);
        let range = header("range: bytes=").expect("every request is for a range");
        let (first, last) = range.split_once('-').unwrap();
        let (first, last): (usize, usize) = (first.parse().unwrap(), last.parse().unwrap());
        requests.lock().push((first, header("if-range: ")));
        let part = &body[first..body.len().min(last + 1)];
        let answer = format!(
            "HTTP/1.1 206 Partial Content\r\nETag: {etag}\r\nContent-Length: {}\r\nContent-Range: bytes \
             {first}-{}/{}\r\n\r\n",
            part.len(),
            first + part.len() - 1,
            body.len()
        );
        let sent = [answer.as_bytes(), &part[..part.len().min(most)]].concat();
        if stream.write_all(&sent).await.is_err() || part.len() > most {
            return;
        }
        head.clear();
    }
}

fn settings(root: &Path) -> Config {
    let mut config = config(root);
    config.downloads.chunk_bytes = 4096;
    config.downloads.connections = 2;
    config
}

async fn attempt(root: &Path, disk: Arc<dyn Disk>, url: &str) -> Result<Downloaded> {
    let catalog = Catalog::on_disk(&settings(root), disk).unwrap();
    let listed = catalog.list().await.unwrap();
    assert!(listed.iter().all(|model| model.status != Status::Corrupt), "{listed:?}");
    download(&catalog, url).await
}

async fn download(catalog: &Catalog, url: &str) -> Result<Downloaded> {
    let source = Source::parse(url).unwrap();
    catalog.download(&source, &DownloadRequest::default(), &CancellationToken::new()).await
}

#[tokio::test]
async fn a_disk_that_fills_at_any_write_fails_the_download_and_keeps_complete_chunks() {
    let body = gguf_of(20_000);
    let server = Server::start(body.clone(), "\"1\"").await;
    // Every byte at which a write begins or ends, and one within; the head of the journal first.
    let mut rooms: Vec<i64> = vec![0, 1, 100, 300];
    for written in (0..body.len() as i64 + 1000).step_by(4096) {
        rooms.extend([written + 350, written + 4096, written + 4100]);
    }
    for room in rooms {
        let root = tempfile::tempdir().unwrap();
        match attempt(root.path(), SmallDisk::with(room), &server.url).await {
            Ok(_) => assert!(room > body.len() as i64, "{room} bytes are not enough"),
            Err(failure) => {
                assert_eq!(failure.code, Code::DiskFull, "{room}: {failure:?}");
                assert!(!root.path().join("data/models/m.gguf").exists());
            }
        }
        // With room again, it goes on from whatever is there.
        attempt(root.path(), SmallDisk::with(i64::MAX), &server.url).await.unwrap();
        assert_eq!(fs::read(root.path().join("data/models/m.gguf")).unwrap(), body, "{room}");
        let names = fs::read_dir(root.path().join("data/models")).unwrap().count();
        assert_eq!(names, 2, "the model and its record, after {room}");
    }
}

#[tokio::test]
async fn a_disk_that_cannot_be_synced_promotes_nothing() {
    let body = gguf_of(20_000);
    let server = Server::start(body.clone(), "\"1\"").await;
    for fails in ["sync", "rename"] {
        let root = tempfile::tempdir().unwrap();
        let disk = SmallDisk::with(i64::MAX);
        let counter = if fails == "sync" { &disk.syncs } else { &disk.renames };
        counter.store(0, Ordering::SeqCst);
        let failure = attempt(root.path(), disk, &server.url).await.unwrap_err();
        assert_eq!(failure.code, Code::DiskFull, "{fails}: {failure:?}");
        assert!(!root.path().join("data/models/m.gguf").exists(), "{fails}");
        attempt(root.path(), SmallDisk::with(i64::MAX), &server.url).await.unwrap();
        assert_eq!(fs::read(root.path().join("data/models/m.gguf")).unwrap(), body, "{fails}");
    }
}

/// A disk that panics at every write but the first, which is that of the journal's head.
#[derive(Debug, Default)]
struct PanickingDisk(AtomicI64);

impl Disk for PanickingDisk {
    fn write_at(&self, file: &File, bytes: &[u8], offset: u64) -> io::Result<usize> {
        assert_eq!(self.0.fetch_add(1, Ordering::SeqCst), 0, "as a test");
        file.write_at(bytes, offset)
    }

    fn sync(&self, _file: &File) -> io::Result<()> {
        unreachable!("the file is never complete")
    }

    fn rename(&self, _from: &Path, _to: &Path) -> io::Result<()> {
        unreachable!("the file is never complete")
    }
}

#[tokio::test]
async fn a_writer_that_panics_fails_the_download() {
    let root = tempfile::tempdir().unwrap();
    let server = Server::start(gguf_of(200_000), "\"1\"").await;
    let failure = attempt(root.path(), Arc::new(PanickingDisk::default()), &server.url).await.unwrap_err();
    assert_eq!(failure.code, Code::Internal);
}

#[tokio::test]
async fn every_request_but_the_first_names_the_version_of_the_file() {
    let root = tempfile::tempdir().unwrap();
    let server = Server::start(gguf_of(200_000), "\"1\"").await;
    attempt(root.path(), SmallDisk::with(i64::MAX), &server.url).await.unwrap();
    let requests = server.requests.lock();
    // The source asks for the size before the transfer begins.
    let (before, after) = requests.split_at(2);
    assert_eq!(before, [(0, None), (0, None)]);
    assert!(after.len() > 2, "{requests:?}");
    assert!(after.iter().all(|(_, if_range)| if_range.as_deref() == Some("\"1\"")), "{requests:?}");
}

/// Puts the files of a fixture into the store of a hive with this folder.
fn put_fixture(root: &Path, names: &[&str]) {
    let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/records/partials/format-1");
    let store = root.join("data/models");
    fs::create_dir_all(&store).unwrap();
    for name in names {
        for name in [format!("{name}.gguf.partial"), format!("{name}.gguf.partial.journal")] {
            fs::copy(fixtures.join(&name), store.join(&name)).unwrap();
        }
    }
}

#[tokio::test]
async fn partial_files_of_the_first_format_are_resumed() {
    let root = tempfile::tempdir().unwrap();
    put_fixture(root.path(), &["promised", "unpromised"]);
    let catalog = Catalog::new(&settings(root.path())).unwrap();
    let listed = catalog.list().await.unwrap();
    let listed: Vec<_> = listed.iter().map(|model| (&*model.id, model.status, model.size_bytes)).collect();
    let expected = ["promised", "unpromised"].map(|id| (id, Status::Incomplete, 10_000));
    assert_eq!(listed, expected);

    let body = gguf_of(20_000);
    let server = Server::start(body.clone(), "\"one\"").await;
    let sha256 = text::hex(&<sha2::Sha256 as sha2::Digest>::digest(&body));
    let url = server.url.replace("/m.gguf", &format!("/promised.gguf#sha256={sha256}"));
    download(&catalog, &url).await.unwrap();
    assert_eq!(fs::read(root.path().join("data/models/promised.gguf")).unwrap(), body);
    let requests = server.requests.lock();
    assert!(requests[1..].iter().all(|(first, _)| *first >= 10_000), "{requests:?}");
    assert!(requests[1..].iter().all(|(_, if_range)| if_range.as_deref() == Some("\"one\"")));
}

#[test]
fn a_partial_file_without_a_promised_hash_is_resumed_from_its_own_url_alone() {
    let root = tempfile::tempdir().unwrap();
    put_fixture(root.path(), &["unpromised"]);
    let partial = root.path().join("data/models/unpromised.gguf.partial");
    let done = |url: &str| {
        let file = RemoteFile {
            purpose: Purpose::Model,
            name: "unpromised.gguf".to_owned(),
            source: url.to_owned(),
            url: reqwest::Url::parse(url).unwrap(),
            credentials: None,
            size: None,
            sha256: None,
            version: None,
            companion_of: None,
            magic: b"",
            vet: |_, _, _| Verdict::Usable { warning: None, header: None },
            trust: Trust::Named,
        };
        unfinished_at(&partial, Some(&file)).map(|unfinished| unfinished.done)
    };
    assert_eq!(done("http://127.0.0.1:36751/unpromised.gguf"), Some(10_000));
    assert_eq!(done("http://127.0.0.1:36751/other.gguf"), None);
}

#[tokio::test]
async fn a_partial_file_of_a_newer_format_is_left_alone_and_named() {
    let root = tempfile::tempdir().unwrap();
    put_fixture(root.path(), &["promised"]);
    let store = root.path().join("data/models");
    let server = Server::start(gguf_of(20_000), "\"one\"").await;
    // A partial file with its journal, and a journal without its partial file.
    let partial = store.join("promised.gguf.partial");
    let journals = [store.join("promised.gguf.partial.journal"), store.join("m.gguf.partial.journal")];
    journals.iter().for_each(|journal| fs::write(journal, "rbee-partial 2 of a later hive").unwrap());
    let before = fs::read(&partial).unwrap();
    let catalog = Catalog::new(&settings(root.path())).unwrap();
    let tidied = catalog.tidy().await.unwrap();
    assert!(tidied.contains("newer version"), "{tidied}");
    assert!(catalog.list().await.unwrap().is_empty());
    for (name, partial) in [("promised", &partial), ("m", &store.join("m.gguf.partial"))] {
        let url = server.url.replace("m.gguf", &format!("{name}.gguf"));
        let failure = download(&catalog, &url).await.unwrap_err();
        assert_eq!(failure.code, Code::NotOwned);
        assert!(
            failure.message.contains(&*partial.to_string_lossy()) && failure.hint.is_some(),
            "{failure:?}"
        );
    }
    // A link is drafted at the path of a partial file.
    let own = root.path().join("models/promised.gguf");
    fs::write(&own, gguf_of(100)).unwrap();
    let failure = download(&catalog, &format!("file:{}", own.display())).await.unwrap_err();
    assert_eq!(failure.code, Code::NotOwned);
    assert_eq!(fs::read(&partial).unwrap(), before);
    assert!(journals.iter().all(|journal| fs::read(journal).unwrap().starts_with(b"rbee-partial 2")));
    assert_eq!(fs::read_dir(&store).unwrap().count(), 3);
}

/// Hives that have the file, by name and URL.
#[derive(Debug)]
struct FakeFleet {
    hives: Vec<(&'static str, String)>,
    /// What was asked.
    asked: Mutex<Vec<WantedFile>>,
}

impl Neighbours for FakeFleet {
    fn find(self: Arc<Self>, wanted: WantedFile) -> BoxFuture<'static, Found> {
        let holder = |(hive, url): &(&'static str, String)| Holder {
            hive: (*hive).to_owned(),
            url: reqwest::Url::parse(url).unwrap(),
            client: crate::outgoing::for_workers(std::time::Duration::from_secs(5)).unwrap(),
            headers: HeaderMap::new(),
            is_complete: true,
            received: AtomicU64::new(0),
        };
        let is_wanted = |(hive, _): &&(&'static str, String)| !wanted.without.iter().any(|out| out == hive);
        let holders = self.hives.iter().filter(is_wanted).map(holder).collect();
        self.asked.lock().push(wanted);
        async { Found { holders, lead: None } }.boxed()
    }
}

/// Downloads a file whose hash is known, in a fleet where these have it. Returns what the fleet was asked, and the
/// requests for the file to its source.
async fn download_in_fleet(
    body: &[u8],
    hives: Vec<(&'static str, String)>,
) -> (Result<Downloaded>, Vec<WantedFile>, Vec<usize>) {
    let root = tempfile::tempdir().unwrap();
    let catalog = Catalog::new(&settings(root.path())).unwrap();
    let fleet = Arc::new(FakeFleet { hives, asked: Mutex::default() });
    catalog.transfers().ask(Arc::clone(&fleet) as Arc<dyn Neighbours>);
    let source = Server::start(body.to_vec(), "\"1\"").await;
    let sha256 = text::hex(&<sha2::Sha256 as sha2::Digest>::digest(body));
    let downloaded = download(&catalog, &format!("{}#sha256={sha256}", source.url)).await;
    if downloaded.is_ok() {
        assert_eq!(fs::read(root.path().join("data/models/m.gguf")).unwrap(), body);
    }
    // The first asks for the size.
    let requests = source.requests.lock()[1..].iter().map(|(first, _)| *first).collect();
    let asked = std::mem::take(&mut *fleet.asked.lock());
    assert!(asked.iter().all(|asked| asked.sha256 == sha256 && asked.can_lead));
    (downloaded, asked, requests)
}

#[tokio::test]
async fn a_file_comes_from_all_hives_that_have_it_and_not_from_its_source() {
    let body = gguf_of(2_000_000);
    // Other hives name the version in another way.
    let (b, c) = (Server::start(body.clone(), "\"b\"").await, Server::start(body.clone(), "\"c\"").await);
    let hives = vec![("b", b.url.clone()), ("c", c.url.clone())];
    let (downloaded, asked, from_source) = download_in_fleet(&body, hives).await;
    downloaded.unwrap();
    assert_eq!((asked.len(), from_source.len()), (1, 0));
    for hive in [b, c] {
        let requests = hive.requests.lock();
        assert!(!requests.is_empty(), "both send something");
        assert!(requests.iter().all(|(_, if_range)| if_range.is_none()), "its hash names the file");
    }
}

#[tokio::test]
async fn a_hive_that_breaks_off_costs_what_it_was_asked_for() {
    let body = gguf_of(2_000_000);
    let (b, c) = (
        Server::start_sending(body.clone(), "\"b\"", 10_000).await,
        Server::start(body.clone(), "\"c\"").await,
    );
    let hives = vec![("b", b.url.clone()), ("c", c.url.clone())];
    let (downloaded, asked, from_source) = download_in_fleet(&body, hives).await;
    downloaded.unwrap();
    assert_eq!((asked.len(), from_source.len()), (1, 0), "the other one has the rest");
    assert!(b.requests.lock().len() <= 2, "it is not asked again");

    // Where no other hive has it, the source does.
    let b = Server::start_sending(body.clone(), "\"b\"", 10_000).await;
    let (downloaded, asked, from_source) = download_in_fleet(&body, vec![("b", b.url.clone())]).await;
    downloaded.unwrap();
    assert_eq!(asked.len(), 2, "the fleet is asked for yet another");
    assert_eq!(asked[1].without, ["b"]);
    assert!(from_source.iter().all(|first| *first > 0), "what it sent is kept: {from_source:?}");
}

#[tokio::test]
async fn what_hives_send_must_have_the_promised_hash() {
    let body = gguf_of(2_000_000);
    let mut other = body.clone();
    *other.last_mut().unwrap() ^= 1;
    let (b, c) = (Server::start(other.clone(), "\"b\"").await, Server::start(other, "\"c\"").await);
    let hives = vec![("b", b.url.clone()), ("c", c.url.clone())];
    let (downloaded, asked, from_source) = download_in_fleet(&body, hives).await;
    downloaded.unwrap();
    assert_eq!(asked.len(), 1, "then nobody else is believed");
    assert!(from_source.contains(&0), "all of it is fetched again: {from_source:?}");
    assert!(!b.requests.lock().is_empty());
}

#[tokio::test]
async fn a_hive_that_has_something_else_is_left_out() {
    let body = gguf_of(200_000);
    for other in [gguf_of(100_000), b"no model at all, and shorter".to_vec()] {
        let b = Server::start(other, "\"b\"").await;
        let (downloaded, asked, _) = download_in_fleet(&body, vec![("b", b.url.clone())]).await;
        downloaded.unwrap();
        assert!(asked.len() <= 2, "{asked:?}");
    }
}
