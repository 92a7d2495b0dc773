//! The serving part of the fake workers.

use std::io::{Read, Write};
use std::net::TcpListener;
use std::time::{Duration, Instant};

use crate::spawn;

/// How many bytes the worker `leaks` leaks with each health check.
pub(super) const LEAK_BYTES: usize = 8 << 20;

/// Not a test: the scripts run it as a worker, in a process of its own. It behaves as
/// `FAKE_WORKER_BEHAVIOUR` says.
#[test]
#[ignore = "runs as a worker of other tests"]
fn serve() {
    let Ok(behaviour) = std::env::var("FAKE_WORKER_BEHAVIOUR") else { return };
    let report = std::env::var("FAKE_WORKER_REPORT").unwrap_or_default();
    let port = std::env::var("FAKE_WORKER_PORT").unwrap_or("0".to_owned());
    spawn::thread("lifeline", || {
        if std::io::stdin().read(&mut [0]).unwrap_or(0) == 0 {
            std::process::exit(0);
        }
    })
    .unwrap();
    let listener = TcpListener::bind(format!("127.0.0.1:{port}")).unwrap();
    let write_report = |text: String| {
        if report.is_empty() {
            return;
        }
        let new = format!("{report}.new");
        std::fs::write(&new, text).unwrap();
        std::fs::rename(&new, &report).unwrap();
    };
    let port = listener.local_addr().unwrap().port();
    write_report(format!(r#"{{"state":"listening","port":{port},"pid":{}}}"#, std::process::id()));
    if behaviour == "flashes" {
        eprintln!("unknown model architecture: 'x'");
        std::process::exit(1);
    }
    let (mut leaked, mut stuck, started) = (Vec::new(), false, Instant::now());
    for (requests, connection) in listener.incoming().enumerate() {
        let mut connection = connection.unwrap();
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            match connection.read(&mut byte) {
                Ok(1) => head.push(byte[0]),
                _ => break,
            }
        }
        let head = String::from_utf8_lossy(&head).to_lowercase();
        assert!(!head.contains("authorization") || head.starts_with("get /metrics"));
        let loading =
            |done| format!(r#"{{"status":"loading","progress":{{"done":{done},"total":8,"unit":"bytes"}}}}"#);
        let ready =
            r#"{"status":"ok","slots":4,"busy_slots":0,"requests":7,"tokens_generated":99}"#.to_owned();
        let (status, body) = match behaviour.as_str() {
            "stuck" => (503, loading(1)),
            once if once.starts_with("once:") => {
                let mark = once.trim_start_matches("once:");
                if std::fs::exists(mark).unwrap() && requests == 0 {
                    stuck = true;
                }
                std::fs::write(mark, "").unwrap();
                if stuck { (503, loading(1)) } else { (200, ready) }
            }
            "grows" if started.elapsed() < Duration::from_secs(3) => {
                leaked.push(std::hint::black_box(vec![7_u8; 1 << 20]));
                (503, r#"{"error":{"code":503,"message":"Loading model"}}"#.to_owned())
            }
            "quits" if requests > 1 => std::process::exit(7),
            "quits" => (503, loading(requests)),
            "leaks" => {
                // Memory counts as used only once it is written to.
                leaked.push(std::hint::black_box(vec![7_u8; LEAK_BYTES]));
                (200, ready)
            }
            // Ready at its first answer; then it computes and answers nothing until the file is there.
            thinks if thinks.starts_with("thinks:") => {
                while requests > 0 && !std::fs::exists(thinks.trim_start_matches("thinks:")).unwrap() {}
                (200, ready)
            }
            "slow" if requests < 8 => (503, loading(requests)),
            "breaks" if requests > 2 => {
                println!("the tensor is bad");
                write_report(
                    r#"{"state":"failed","failure":{"code":"model_unsupported","message":"no"}}"#.into(),
                );
                std::process::exit(69);
            }
            "breaks" => (503, loading(requests)),
            _ => (200, ready),
        };
        let answer = format!(
            "HTTP/1.1 {status} -\r\nconnection: close\r\ncontent-length: {}\r\n\r\n{body}",
            body.len()
        );
        let _written = connection.write_all(answer.as_bytes());
    }
}
