//! Transfers onto a disk that fails at every place where it can.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::error::{Code, Result};
use crate::models::testing::{config, gguf_of};
use crate::models::transfer::disk::Disk;
use crate::models::{Catalog, DownloadRequest, Downloaded, Source, Status};
use crate::spawn;

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

/// Serves ranges of one file, as it should be done. Answers its URL.
async fn serve(body: Vec<u8>) -> (String, tokio::task::JoinHandle<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/m.gguf", listener.local_addr().unwrap());
    let body = Arc::new(body);
    let serving = spawn::detached(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let body = Arc::clone(&body);
            spawn::detached(async move {
                let mut head = Vec::new();
                while let Ok(byte) = stream.read_u8().await {
                    head.push(byte);
                    if !head.ends_with(b"\r\n\r\n") {
                        continue;
                    }
                    let text = String::from_utf8_lossy(&head).to_ascii_lowercase();
                    let range = text.split("range: bytes=").nth(1).and_then(|range| range.split_once('-'));
                    let (first, last) = range.expect("every request is for a range");
                    let first: usize = first.parse().unwrap();
                    let last: usize = last.lines().next().unwrap().parse().unwrap();
                    let part = &body[first..body.len().min(last + 1)];
                    let end = first + part.len() - 1;
                    let answer = format!(
                        "HTTP/1.1 206 Partial Content\r\nETag: \"1\"\r\nContent-Length: {}\r\nContent-Range: bytes \
                         {first}-{end}/{}\r\n\r\n",
                        part.len(),
                        body.len()
                    );
                    let sent = [answer.as_bytes(), part].concat();
                    if stream.write_all(&sent).await.is_err() {
                        return;
                    }
                    head.clear();
                }
            });
        }
    });
    (url, serving)
}

async fn attempt(root: &Path, disk: Arc<SmallDisk>, url: &str) -> Result<Downloaded> {
    let mut config = config(root);
    config.downloads.chunk_bytes = 4096;
    config.downloads.connections = 2;
    let catalog = Catalog::on_disk(&config, disk).unwrap();
    let listed = catalog.list().await.unwrap();
    assert!(listed.iter().all(|model| model.status != Status::Corrupt), "{listed:?}");
    let source = Source::parse(url).unwrap();
    catalog.download(&source, &DownloadRequest::default(), &CancellationToken::new()).await
}

#[tokio::test]
async fn a_disk_that_fills_at_any_write_fails_the_download_and_keeps_what_is_whole() {
    let body = gguf_of(20_000);
    let (url, serving) = serve(body.clone()).await;
    // Every byte at which a write begins or ends, and one within; the head of the journal first.
    let mut rooms: Vec<i64> = vec![0, 1, 100, 300];
    for written in (0..body.len() as i64 + 1000).step_by(4096) {
        rooms.extend([written + 350, written + 4096, written + 4100]);
    }
    for room in rooms {
        let root = tempfile::tempdir().unwrap();
        match attempt(root.path(), SmallDisk::with(room), &url).await {
            Ok(_) => assert!(room > body.len() as i64, "{room} bytes are not enough"),
            Err(failure) => {
                assert_eq!(failure.code, Code::DiskFull, "{room}: {failure:?}");
                assert!(!root.path().join("data/models/m.gguf").exists());
            }
        }
        // With room again, it goes on from whatever is there.
        attempt(root.path(), SmallDisk::with(i64::MAX), &url).await.unwrap();
        assert_eq!(fs::read(root.path().join("data/models/m.gguf")).unwrap(), body, "{room}");
        let names = fs::read_dir(root.path().join("data/models")).unwrap().count();
        assert_eq!(names, 2, "the model and its record, after {room}");
    }
    serving.abort();
}

#[tokio::test]
async fn a_disk_that_cannot_be_synced_promotes_nothing() {
    let body = gguf_of(20_000);
    let (url, serving) = serve(body.clone()).await;
    for fails in ["sync", "rename"] {
        let root = tempfile::tempdir().unwrap();
        let disk = SmallDisk::with(i64::MAX);
        let counter = if fails == "sync" { &disk.syncs } else { &disk.renames };
        counter.store(0, Ordering::SeqCst);
        let failure = attempt(root.path(), disk, &url).await.unwrap_err();
        assert_eq!(failure.code, Code::DiskFull, "{fails}: {failure:?}");
        assert!(!root.path().join("data/models/m.gguf").exists(), "{fails}");
        attempt(root.path(), SmallDisk::with(i64::MAX), &url).await.unwrap();
        assert_eq!(fs::read(root.path().join("data/models/m.gguf")).unwrap(), body, "{fails}");
    }
    serving.abort();
}
