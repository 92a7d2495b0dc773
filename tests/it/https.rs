//! Downloads over HTTPS from a server whose certificate the daemon trusts through `SSL_CERT_FILE`.

use std::path::Path;

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use crate::support::{Daemon, client, data_lines, soon, tls_acceptor, write_model};

/// A server that answers every request with `body`. Its certificate for `localhost` is from an authority
/// whose own certificate is written to `authority`. Gives the server's port.
async fn serve_tls(body: Vec<u8>, authority: &Path) -> u16 {
    let acceptor = tls_acceptor(authority);
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let port = listener.local_addr().expect("an address").port();
    rbee_hive::spawn::detached(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let (acceptor, body) = (acceptor.clone(), body.clone());
            rbee_hive::spawn::detached(async move {
                // A client that does not trust the certificate disconnects here.
                let Ok(mut stream) = acceptor.accept(stream).await else { return };
                let mut request = Vec::new();
                while !request.windows(4).any(|window| window == b"\r\n\r\n") {
                    match stream.read_buf(&mut request).await {
                        Ok(1..) => {}
                        _ => return,
                    }
                }
                let head =
                    format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\nConnection: close\r\n\r\n", body.len());
                let body = if request.starts_with(b"HEAD ") { &[][..] } else { &body[..] };
                let _sent = stream.write_all(&[head.as_bytes(), body].concat()).await;
                let _closed = stream.shutdown().await;
            });
        }
    });
    port
}

/// Submits a download to the daemon and gives the lines of its stream.
async fn download(daemon: &Daemon, url: &str) -> Vec<String> {
    let client = client();
    let operation = json!({ "ModelDownload": { "model": url } });
    let answer =
        client.post(format!("{}/v1/jobs", daemon.url)).json(&operation).send().await.expect("an answer");
    let answer: Value = answer.json().await.expect("JSON");
    let stream = format!("{}{}", daemon.url, answer["sse_url"].as_str().expect("a job"));
    let stream = client.get(stream).send().await.expect("a stream");
    data_lines(&soon("the end of the download", stream.text()).await.expect("a whole stream"))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_model_is_downloaded_over_https_from_a_trusted_server_only() {
    let dir = tempfile::tempdir().expect("a folder");
    let model = std::fs::read(write_model(dir.path(), "original")).expect("a model");
    let authority = dir.path().join("authority.pem");
    let port = serve_tls(model.clone(), &authority).await;
    let url = format!("https://localhost:{port}/over-https.gguf");

    let trusting = ("SSL_CERT_FILE", authority.to_str().expect("UTF-8"));
    let daemon = Daemon::start_with(dir.path(), &[], &[trusting]).await;
    let lines = download(&daemon, &url).await;
    assert_eq!(lines.last().map(String::as_str), Some("[DONE]"), "{lines:#?}");
    let result: Value = serde_json::from_str(&lines[lines.len() - 2]).expect("a result");
    assert_eq!((&result["id"], &result["source"]), (&json!("over-https"), &json!(url)));
    let path = result["path"].as_str().expect("a path");
    assert_eq!(std::fs::read(path).expect("the file"), model);
    daemon.signal(rustix::process::Signal::TERM);
    assert!(daemon.ended().await.success());

    // Another authority's server is not trusted.
    let other = tempfile::tempdir().expect("a folder");
    let stranger = serve_tls(model, &dir.path().join("stranger.pem")).await;
    let daemon = Daemon::start_with(other.path(), &[], &[trusting]).await;
    let lines = download(&daemon, &format!("https://localhost:{stranger}/x.gguf")).await;
    let last = lines.last().expect("a terminal event");
    assert!(last.starts_with("[ERROR] "), "{lines:#?}");
    let told = format!("the certificate of localhost:{stranger} is of no authority that this machine trusts");
    assert!(last.contains(&told), "{last}");
    assert!(!lines.iter().any(|line| line.contains("trying again")), "it would fail again: {lines:#?}");
    daemon.signal(rustix::process::Signal::TERM);
    assert!(daemon.ended().await.success());
}

/// A proxy that answers each `CONNECT` by a connection to `port`, whatever server it names. Gives its address
/// and what it was asked.
async fn serve_proxy(port: u16) -> (String, tokio::sync::mpsc::UnboundedReceiver<String>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = listener.local_addr().expect("an address");
    let (sender, asked) = tokio::sync::mpsc::unbounded_channel();
    rbee_hive::spawn::detached(async move {
        while let Ok((mut client, _)) = listener.accept().await {
            let sender = sender.clone();
            rbee_hive::spawn::detached(async move {
                let mut head = Vec::new();
                while !head.ends_with(b"\r\n\r\n") {
                    match client.read_u8().await {
                        Ok(byte) => head.push(byte),
                        Err(_) => return,
                    }
                }
                // No test waits for the requests any more.
                let _unheard = sender.send(String::from_utf8_lossy(&head).into_owned());
                let mut server =
                    tokio::net::TcpStream::connect(("127.0.0.1", port)).await.expect("it serves");
                let _told = client.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await;
                let _ended = tokio::io::copy_bidirectional(&mut client, &mut server).await;
            });
        }
    });
    (address.to_string(), asked)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_proxy_of_the_environment_is_used_and_resolves_names() {
    let dir = tempfile::tempdir().expect("a folder");
    let model = std::fs::read(write_model(dir.path(), "original")).expect("a model");
    let authority = dir.path().join("authority.pem");
    let (proxy, mut asked) = serve_proxy(serve_tls(model.clone(), &authority).await).await;
    let environment = [
        ("SSL_CERT_FILE", authority.to_str().expect("UTF-8")),
        ("HTTPS_PROXY", &*format!("http://me:secret@{proxy}")),
        ("NO_PROXY", "direct.example"),
    ];
    let daemon = Daemon::start_with(dir.path(), &[], &environment).await;
    // Only the proxy knows this name. The server's certificate is for another one.
    let lines = download(&daemon, "https://far.example/over-proxy.gguf").await;
    let last = lines.last().expect("a terminal event");
    let told =
        format!("the certificate of far.example:443, asked through the proxy http://{proxy}, is for another");
    assert!(last.contains(&told), "{lines:#?}");
    let head = soon("the proxy", asked.recv()).await.expect("it was asked");
    assert!(head.starts_with("CONNECT far.example:443 "), "{head}");
    assert!(head.to_lowercase().contains("proxy-authorization: basic "), "{head}");
    // Addresses that stand in the URL are vetted all the same, and the schemes.
    for (url, why) in [
        ("https://10.0.0.1/x.gguf", "not of the public internet"),
        ("http://far.example/x.gguf", "plain http"),
    ] {
        let lines = download(&daemon, url).await;
        assert!(lines.last().is_some_and(|last| last.contains(why)), "{lines:#?}");
    }
    assert!(asked.try_recv().is_err(), "nothing was asked for them");
    let check = daemon.succeed(&json!({ "HiveCheck": {} })).await.to_string();
    assert!(check.contains(&format!("https goes through http://{proxy} (HTTPS_PROXY)")), "{check}");
    assert!(!check.contains("secret") && !lines.concat().contains("secret"), "{check}");
    daemon.stop().await;
}
