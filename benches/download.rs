//! Compares a download by the hive with one by curl, which verifies nothing, and with one by curl
//! followed by `sha256sum`, which is what people do. All download the same file, from a server on this
//! machine's loopback, to a file system in memory.
//!
//! `cargo bench --bench download`. The time that the hive waits for fsync is shown separately: in
//! memory it is almost nothing, and neither curl nor `sha256sum` calls fsync.
//!
//! The processor seconds are those of the client alone. If they and the server's add up to all that
//! the cores offer, no client can be faster.

#![expect(clippy::disallowed_methods, reason = "a bench runs other programs, outside any job")]
#![expect(clippy::print_stdout, reason = "figures are printed")]

mod gguf;
#[expect(dead_code, reason = "this bench compares three, not two")]
mod paired;

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use paired::Spread;
use serde_json::json;

const BIG: usize = 1 << 30;
const SMALL: usize = 8 << 20;

fn main() {
    let is_for_figures = paired::for_figures();
    let (size, rounds) = if is_for_figures { (BIG, 15) } else { (SMALL, 1) };
    let has_curl = Command::new("curl").arg("--version").stdout(Stdio::null()).status().is_ok();
    if !has_curl {
        println!("curl is not installed: there is nothing to compare with");
        return;
    }
    let shm = Path::new("/dev/shm");
    let folder = if shm.is_dir() { tempfile::tempdir_in(shm) } else { tempfile::tempdir() };
    let folder = folder.expect("a folder");
    let file = Arc::new(gguf::of_size(size));
    let url = serve(Arc::clone(&file));
    println!("{} bytes over loopback into {}, {rounds} round(s)", file.len(), folder.path().display());

    let (mut plain, mut checked, mut hive) = (Vec::new(), Vec::new(), Vec::new());
    let (mut memory, mut synced) = (Vec::new(), Vec::new());
    // Processor time of curl, of curl and sha256sum, of the hive, and of the server for the hive.
    let mut busy = [const { Vec::new() }; 4];
    for _ in 0..rounds {
        let target = folder.path().join("curl");
        let before = children();
        plain.push(seconds(|| curl(&url, &target)));
        busy[0].push(children() - before);
        fs::remove_file(&target).expect("curl's file");
        let before = children();
        checked.push(seconds(|| {
            curl(&url, &target);
            let sum = Command::new("sha256sum").arg(&target).stdout(Stdio::null()).status();
            assert!(sum.expect("sha256sum").success());
        }));
        busy[1].push(children() - before);
        fs::remove_file(&target).expect("curl's file");
        let served = processor_time("self");
        let download = download(folder.path(), &url);
        busy[3].push(processor_time("self") - served);
        hive.push(download.seconds);
        memory.push(download.added_mib);
        synced.push(download.fsync_ms);
        busy[2].push(download.busy);
    }
    let ratio = |of: &[f64]| Spread::of(of.iter().zip(&hive).map(|(other, hive)| other / hive));
    let megabytes = |seconds: &[f64]| file.len() as f64 / 1e6 / Spread::of(seconds.iter().copied()).median();
    println!("curl -o                  {:8.0} MB/s", megabytes(&plain));
    println!("curl -o f && sha256sum f {:8.0} MB/s", megabytes(&checked));
    println!("rbee-hive                {:8.0} MB/s", megabytes(&hive));
    println!("throughput over curl's (0.90 is the aim):               {}", ratio(&plain));
    let wall = Spread::of(hive.iter().zip(&checked).map(|(hive, checked)| hive / checked));
    println!("wall time over curl's with sha256sum (0.6 is the aim):  {wall}");
    println!("added resident MiB at the peak (32 is the aim):         {}", Spread::of(memory));
    println!("of the hive's wall time, ms for fsync:                  {}", Spread::of(synced));
    let [curl, summed, hive, server] = busy.map(Spread::of);
    println!("processor seconds: curl                                 {curl}");
    println!("processor seconds: curl and sha256sum                   {summed}");
    println!("processor seconds: rbee-hive                            {hive}");
    println!("processor seconds: the server meanwhile                 {server}");
}

fn seconds(work: impl FnOnce()) -> f64 {
    let begin = Instant::now();
    work();
    begin.elapsed().as_secs_f64()
}

fn curl(url: &str, target: &Path) {
    let status = Command::new("curl").args(["-sS", "--noproxy", "*", "-o"]).arg(target).arg(url).status();
    assert!(status.expect("curl").success());
}

/// A daemon that is killed when the bench ends early.
struct Daemon(Child);

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The cost of a download by the hive.
struct Download {
    /// From the request to the end of its stream.
    seconds: f64,
    /// Growth of the resident memory at its peak, in MiB.
    added_mib: f64,
    /// The part of `seconds` that was spent on fsync, in milliseconds.
    fsync_ms: f64,
    /// Processor time in seconds.
    busy: f64,
}

/// Downloads with a new hive.
fn download(folder: &Path, url: &str) -> Download {
    let data = folder.join("hive");
    let child = Command::new(env!("CARGO_BIN_EXE_rbee-hive"))
        .args(["serve", "--port", "0", "--data-dir"])
        .arg(&data)
        .env("HF_HUB_CACHE", folder.join("no-hub-cache"))
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn();
    let mut daemon = Daemon(child.expect("the daemon"));
    let mut ready = String::new();
    let out = daemon.0.stdout.take().expect("a pipe");
    BufReader::new(out).read_line(&mut ready).expect("the ready line");
    let address = ready.split("http://").nth(1).and_then(|rest| rest.split_whitespace().next());
    let address = address.expect("an address").trim_end_matches('/').to_owned();
    let before = resident(daemon.0.id(), "VmRSS:");
    let busy_before = processor_time(&daemon.0.id().to_string());
    let begin = Instant::now();
    let body = json!({ "ModelDownload": { "model": url } }).to_string();
    let answer = request(&address, "POST", "/v1/jobs", &body);
    let path =
        answer.split("\"sse_url\":\"").nth(1).and_then(|rest| rest.split('"').next()).expect("a stream");
    let stream = request(&address, "GET", path, "");
    assert!(stream.contains("[DONE]"), "{stream}");
    let took = begin.elapsed().as_secs_f64();
    let peak = resident(daemon.0.id(), "VmHWM:");
    let busy = processor_time(&daemon.0.id().to_string()) - busy_before;
    // Only the typed stream has this message.
    let typed = request(&address, "GET", &format!("{path}?format=json"), "");
    let said = typed.split("The disk took ").nth(1).and_then(|rest| rest.split(' ').next());
    let fsync_ms = said.and_then(|number| number.parse().ok()).expect("the time of fsync");
    drop(daemon);
    fs::remove_dir_all(&data).expect("the hive's folder");
    Download { seconds: took, added_mib: (peak - before) / 1024.0, fsync_ms, busy }
}

/// Processor time of a process in seconds. Linux counts it in ticks of a hundredth of a second.
fn processor_time(pid: &str) -> f64 {
    fields_of(pid)[..2].iter().sum()
}

/// Processor time of this process's ended children, in seconds.
fn children() -> f64 {
    fields_of("self")[2..].iter().sum()
}

/// The fields `utime`, `stime`, `cutime` and `cstime` of `/proc/PID/stat`, in seconds.
fn fields_of(pid: &str) -> [f64; 4] {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    // The fields follow the name, which may contain any character and ends with the last bracket.
    let rest = stat.rsplit_once(')').map_or("", |(_, rest)| rest);
    let fields: Vec<_> = rest.split_whitespace().collect();
    let ticks = |at: usize| fields.get(at).and_then(|ticks| ticks.parse::<f64>().ok()).unwrap_or(0.0);
    [11, 12, 13, 14].map(|at| ticks(at) / 100.0)
}

/// The value of a line of `/proc/PID/status`, in KiB.
fn resident(pid: u32, key: &str) -> f64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix(key)).unwrap_or("0");
    line.split_whitespace().next().and_then(|number| number.parse().ok()).unwrap_or(0.0)
}

fn request(address: &str, method: &str, path: &str, body: &str) -> String {
    let mut stream = TcpStream::connect(address).expect("the hive");
    let length = body.len();
    write!(
        stream,
        "{method} {path} HTTP/1.1\r\nHost: {address}\r\nContent-Type: application/json\r\nContent-Length: \
         {length}\r\nConnection: close\r\n\r\n{body}"
    )
    .expect("a request");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("an answer");
    answer
}

/// Serves the file and ranges of it. Returns its URL.
fn serve(file: Arc<Vec<u8>>) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let url = format!("http://{}/model.gguf", listener.local_addr().expect("an address"));
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let (Ok(stream), file) = (stream, Arc::clone(&file)) else { continue };
            std::thread::spawn(move || serve_connection(stream, &file));
        }
    });
    url
}

fn serve_connection(stream: TcpStream, file: &[u8]) {
    let mut writer = stream.try_clone().expect("the same socket");
    writer.set_write_timeout(Some(Duration::from_secs(60))).expect("a timeout");
    let mut lines = BufReader::new(stream).lines();
    let mut range = None;
    while let Some(Ok(line)) = lines.next() {
        if let Some((first, last)) =
            line.strip_prefix("range: bytes=").and_then(|range| range.split_once('-'))
        {
            range = first.parse().ok().zip(last.parse().ok());
        }
        if !line.is_empty() {
            continue;
        }
        let size = file.len();
        let requested: Option<(usize, usize)> = range.take();
        let (first, end) = requested.map_or((0, size), |(first, last)| (first, size.min(last + 1)));
        let mut head = if requested.is_some() {
            format!("HTTP/1.1 206 Partial Content\r\nContent-Range: bytes {first}-{}/{size}\r\n", end - 1)
        } else {
            "HTTP/1.1 200 OK\r\n".to_owned()
        };
        head += &format!("ETag: \"one\"\r\nContent-Length: {}\r\n\r\n", end - first);
        if writer.write_all(head.as_bytes()).and_then(|()| writer.write_all(&file[first..end])).is_err() {
            return;
        }
    }
}
