//! How several machines become one fleet, and stop being one: `fleet up`, `invite`, `join`, `leave` and `expel`, with a
//! real nats-server.

use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use rbee_hive::config::Config;
use reqwest::{Certificate, Client, Identity};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use tempfile::TempDir;

use crate::fleet::act;
use crate::support::{
    Daemon, TestHive, files_beneath, folder, nats_server, no_process_mentions, program, serve, soon, until,
    write_model,
};

/// A secret of an invitation.
const SECRET: &str = "a-secret-of-an-invitation";

fn sha256(text: &str) -> String {
    Sha256::digest(text).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// A hive of that name.
pub(crate) fn named(name: &str, server: &Path) -> impl FnOnce(&mut Config) {
    move |config| {
        config.hive_ids = vec![name.to_owned()];
        config.fleet.server = Some(server.to_owned());
        config.fleet.heartbeat = Duration::from_millis(500).into();
        config.fleet.gone_after = Duration::from_secs(60).into();
        config.fleet.listen = Some("127.0.0.1:0".parse().expect("an address"));
    }
}

fn up(secret: &str) -> Value {
    json!({ "FleetUp": {
        "listen": "127.0.0.1:0", "join_listen": "127.0.0.1:0", "advertise": "127.0.0.1", "sha256": sha256(secret),
    } })
}

/// The operation that joins by an invitation.
fn join(invitation: &Value, secret: &str) -> Value {
    let line = invitation["join"].as_str().expect("a line");
    let words: Vec<_> = line.split(' ').collect();
    assert_eq!(words[..3], ["rbee-hive", "fleet", "join"]);
    json!({ "FleetJoin": { "address": words[3], "code": format!("{}{secret}", words[4]) } })
}

async fn invite(hive: &TestHive, secret: &str, expires_in: &str) -> Value {
    hive.succeed(&json!({ "FleetInvite": { "sha256": sha256(secret), "expires_in": expires_in } })).await
}

async fn status(hive: &TestHive) -> Value {
    hive.succeed(&json!({ "FleetStatus": {} })).await
}

/// Waits until a hive sees these as reachable, and no others at all.
async fn sees(hive: &TestHive, names: &[&str]) {
    until(&format!("a fleet of {names:?}"), async || {
        let status = status(hive).await;
        let hives = status["hives"].as_array()?;
        let seen: Vec<_> = hives
            .iter()
            .filter(|hive| hive["presence"] == "reachable")
            .filter_map(|hive| hive["hive"].as_str())
            .collect();
        (status["is_in"] == true && seen == names).then_some(())
    })
    .await;
}

fn fleet_folder(hive: &TestHive) -> PathBuf {
    hive.dir().join("data/fleet")
}

/// Stops the hive, and checks that its nats-server has ended.
async fn stop(hive: TestHive) -> TempDir {
    let settings = fleet_folder(&hive).join("nats-server.conf");
    let dir = hive.stop().await;
    assert!(no_process_mentions(settings.to_str().expect("text")), "a nats-server outlived its hive");
    dir
}

#[tokio::test(flavor = "multi_thread")]
async fn two_machines_become_one_fleet() {
    let Some(server) = nats_server() else { return };
    let first = TestHive::start_with(named("one", &server)).await;
    let made = first.succeed(&up(SECRET)).await;
    assert_eq!((&made["fleet"], &made["hive"], &made["made"]), (&json!("home"), &json!("one"), &json!(true)));
    let second = TestHive::start_with(named("two", &server)).await;
    let joined = second.succeed(&join(&made["invitation"], SECRET)).await;
    assert_eq!((&joined["fleet"], &joined["hive"]), (&json!("home"), &json!("two")));
    assert_eq!(joined["nats"], json!([format!("tls://{}", made["listen"].as_str().expect("an address"))]));
    sees(&first, &["one", "two"]).await;
    sees(&second, &["one", "two"]).await;

    for hive in [&first, &second] {
        let folder = fleet_folder(hive);
        let mode = |path: &Path| std::fs::metadata(path).expect("it is there").permissions().mode() & 0o777;
        assert_eq!(mode(&folder), 0o700);
        let own = std::fs::read_dir(&folder).expect("a folder").map(|entry| entry.expect("an entry").path());
        // nats-server's own log and streams are within the folder.
        let own: Vec<_> = own.filter(|path| path.is_file() && !path.ends_with("nats-server.log")).collect();
        assert!(own.len() >= 5, "{own:?}");
        own.iter().for_each(|path| assert_eq!(mode(path), 0o600, "{}", path.display()));
    }
    // What lets others in stays where it was made.
    for name in ["authority.json", "ca.key", "ledger.json", "nats-server.conf"] {
        assert!(fleet_folder(&first).join(name).exists() && !fleet_folder(&second).join(name).exists());
    }

    let again = first.succeed(&up("another-secret-of-an-invitation")).await;
    assert_eq!((&again["made"], &again["listen"]), (&json!(false), &made["listen"]));
    assert!(again["invitation"]["join"].is_string());
    assert_eq!(first.fail(&join(&again["invitation"], SECRET)).await["code"], "in_fleet");
    assert_eq!(second.fail(&up(SECRET)).await["code"], "in_fleet");
    let invited = second.fail(&json!({ "FleetInvite": { "sha256": sha256("x") } })).await;
    assert_eq!(invited["code"], "not_in_fleet");

    let refused = first.fail(&json!({ "FleetLeave": {} })).await;
    assert_eq!(refused["code"], "in_fleet");
    assert!(refused["message"].as_str().expect("text").contains("no hive of the fleet hears"), "{refused}");
    let left = second.succeed(&json!({ "FleetLeave": {} })).await;
    assert_eq!(left, json!({ "fleet": "home", "stopped_server": false, "forgotten": true }));
    assert!(!fleet_folder(&second).exists());
    assert_eq!(status(&second).await["fleet"], Value::Null);
    sees(&first, &["one"]).await;
    assert_eq!(second.fail(&json!({ "FleetLeave": {} })).await["code"], "not_in_fleet");

    let left = first.succeed(&json!({ "FleetLeave": { "force": true } })).await;
    assert_eq!(left, json!({ "fleet": "home", "stopped_server": true, "forgotten": false }));
    let settings = fleet_folder(&first).join("nats-server.conf");
    assert!(no_process_mentions(settings.to_str().expect("text")));
    let back = first.succeed(&up("a-third-secret-of-an-invitation")).await;
    assert_eq!((&back["made"], &back["listen"]), (&json!(false), &made["listen"]));
    let forgotten = first.succeed(&json!({ "FleetLeave": { "force": true, "forget": true } })).await;
    assert_eq!(forgotten["forgotten"], true);
    assert!(!fleet_folder(&first).exists());
    stop(first).await;
    stop(second).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_invitation_lets_one_hive_in_and_nobody_else() {
    let Some(server) = nats_server() else { return };
    let first = TestHive::start_with(named("one", &server)).await;
    let made = first.succeed(&up(SECRET)).await;
    let invitation = &made["invitation"];
    let second = TestHive::start_with(named("two", &server)).await;
    let nothing = |hive: &TestHive| {
        let data = hive.dir().join("data");
        ["fleet", "fleet.new", "fleet.gone"].iter().all(|name| !data.join(name).exists())
    };
    let refused = async |hive: &TestHive, operation: &Value, told: &str| {
        let failure = hive.fail(operation).await;
        assert_eq!(failure["code"], "invitation_refused", "{failure}");
        assert!(failure["message"].as_str().expect("text").contains(told), "{failure}");
        assert!(failure["hint"].is_string(), "{failure}");
        assert!(nothing(hive), "something is left behind");
        assert_eq!(status(hive).await["fleet"], Value::Null);
    };

    refused(&second, &join(invitation, "not-the-secret-of-an-invitation"), "knows no such invitation").await;
    // The code of another fleet: another authority's hash.
    let mut other = join(invitation, SECRET);
    let code = other["FleetJoin"]["code"].as_str().expect("a code").to_owned();
    let mut hash = BASE64_URL_SAFE_NO_PAD.decode(&code[..44]).expect("base64");
    hash[32] ^= 1;
    other["FleetJoin"]["code"] = format!("{}{}", BASE64_URL_SAFE_NO_PAD.encode(hash), &code[44..]).into();
    refused(&second, &other, "is not the machine that made this code").await;
    // A name that the machine does not have.
    let mut elsewhere = join(invitation, SECRET);
    let address =
        elsewhere["FleetJoin"]["address"].as_str().expect("an address").replace("127.0.0.1", "127.0.0.2");
    elsewhere["FleetJoin"]["address"] = address.into();
    let failure = second.fail(&elsewhere).await;
    // It listens at 127.0.0.1 alone.
    assert_eq!(failure["code"], "fleet_unreachable", "{failure}");
    let expired = invite(&first, "a-secret-that-expires-at-once", "1ms").await;
    refused(&second, &join(&expired, "a-secret-that-expires-at-once"), "expired").await;

    // None of that has used the invitation up.
    second.succeed(&join(invitation, SECRET)).await;
    let third = TestHive::start_with(named("three", &server)).await;
    refused(&third, &join(invitation, SECRET), "was used by hive 'two'").await;
    // A name that is taken.
    let namesake = TestHive::start_with(named("two", &server)).await;
    let invitation = invite(&first, "a-secret-for-a-namesake-of-two", "1h").await;
    let failure = namesake.fail(&join(&invitation, "a-secret-for-a-namesake-of-two")).await;
    assert_eq!(failure["code"], "hive_name_taken", "{failure}");
    assert!(nothing(&namesake));
    for hive in [namesake, third, second, first] {
        stop(hive).await;
    }
}

/// Waits until a hive tells that the server does not let it in.
async fn is_told_of_its_expulsion(hive: &TestHive) {
    until("a refusal", async || {
        let trouble = status(hive).await["trouble"].to_string().to_lowercase();
        (trouble.contains("authorization") || trouble.contains("revoked")).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_expelled_hive_is_out_at_once_and_comes_back_by_an_invitation_alone() {
    let Some(server) = nats_server() else { return };
    let first = TestHive::start_with(named("one", &server)).await;
    let made = first.succeed(&up(SECRET)).await;
    let second = TestHive::start_with(named("two", &server)).await;
    second.succeed(&join(&made["invitation"], SECRET)).await;
    sees(&second, &["one", "two"]).await;
    assert_eq!(first.fail(&json!({ "FleetExpel": { "name": "three" } })).await["code"], "unknown_hive");
    assert_eq!(first.fail(&json!({ "FleetExpel": { "name": "one" } })).await["code"], "invalid_field");
    assert_eq!(second.fail(&json!({ "FleetExpel": { "name": "one" } })).await["code"], "not_in_fleet");

    first.succeed(&json!({ "FleetExpel": { "name": "two" } })).await;
    until("the hive to be out", async || (status(&second).await["is_in"] == false).then_some(())).await;
    sees(&first, &["one"]).await;
    is_told_of_its_expulsion(&second).await;
    // It asks nobody any more, and does its own.
    let elsewhere = second.post("/v1/jobs", &json!({ "ModelList": { "hive_id": "one" } })).await;
    assert_eq!(elsewhere.status(), 503);
    second.succeed(&act("localhost")).await;
    second.succeed(&json!({ "ModelList": {} })).await;
    // Nor is it let in after a restart, of itself and of the server.
    let (first_dir, second_dir) = (stop(first).await, stop(second).await);
    let first = TestHive::start_in(first_dir, named("one", &server)).await;
    let second = TestHive::start_in(second_dir, named("two", &server)).await;
    sees(&first, &["one"]).await;
    is_told_of_its_expulsion(&second).await;

    second.succeed(&json!({ "FleetLeave": {} })).await;
    let invitation = invite(&first, "a-secret-for-who-comes-back", "1h").await;
    second.succeed(&join(&invitation, "a-secret-for-who-comes-back")).await;
    sees(&first, &["one", "two"]).await;
    stop(second).await;
    stop(first).await;
}

/// The process of the nats-server of a hive.
fn server_pid(hive: &TestHive) -> Option<i32> {
    let settings = fleet_folder(hive).join("nats-server.conf");
    let pids =
        std::fs::read_dir("/proc").ok()?.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
    pids.into_iter().find(|pid: &i32| {
        let words = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        let mut words = words.split(|byte| *byte == 0);
        let is_server = words.next().is_some_and(|word| word.ends_with(b"nats-server"));
        is_server && words.any(|word| word == settings.to_string_lossy().as_bytes())
    })
}

#[tokio::test(flavor = "multi_thread")]
#[cfg(target_os = "linux")]
async fn the_fleet_is_back_after_a_restart_and_after_the_end_of_its_server() {
    let Some(server) = nats_server() else { return };
    let first = TestHive::start_with(named("one", &server)).await;
    let made = first.succeed(&up(SECRET)).await;
    let second = TestHive::start_with(named("two", &server)).await;
    second.succeed(&join(&made["invitation"], SECRET)).await;
    let dir = stop(first).await;
    let first = TestHive::start_in(dir, named("one", &server)).await;
    sees(&first, &["one", "two"]).await;
    sees(&second, &["one", "two"]).await;
    let dir = stop(second).await;
    let second = TestHive::start_in(dir, named("two", &server)).await;
    sees(&second, &["one", "two"]).await;

    let pid = server_pid(&first).expect("a nats-server");
    let killed = rustix::process::Pid::from_raw(pid).expect("a process");
    rustix::process::kill_process(killed, rustix::process::Signal::KILL).expect("it is killed");
    until("another nats-server", async || server_pid(&first).filter(|other| *other != pid)).await;
    sees(&second, &["one", "two"]).await;
    // Machines can join after a restart too.
    let invitation = invite(&first, "a-secret-of-a-later-invitation", "1h").await;
    let third = TestHive::start_with(named("three", &server)).await;
    third.succeed(&join(&invitation, "a-secret-of-a-later-invitation")).await;
    sees(&third, &["one", "three", "two"]).await;
    for hive in [third, second, first] {
        stop(hive).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_fails_to_come_up_leaves_nothing() {
    let hive = TestHive::start().await;
    let failure = hive.fail(&up(SECRET)).await;
    assert_eq!(failure["code"], "fleet_server_failed", "{failure}");
    assert!(failure["hint"].as_str().expect("text").contains("go install"), "{failure}");
    assert!(!fleet_folder(&hive).exists());
    hive.stop().await;

    let Some(server) = nats_server() else { return };
    let hive = TestHive::start_with(named("one", &server)).await;
    let taken = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let taken = taken.local_addr().map(|address| (taken, address.to_string())).expect("an address");
    for field in ["listen", "join_listen"] {
        let mut operation = up(SECRET);
        operation["FleetUp"][field] = taken.1.clone().into();
        let failure = hive.fail(&operation).await;
        assert_eq!(failure["code"], "port_in_use", "{failure}");
        assert!(!fleet_folder(&hive).exists());
    }
    for (field, value) in [("name", "My fleet"), ("advertise", "a b"), ("advertise", "a:1")] {
        let mut operation = up(SECRET);
        operation["FleetUp"][field] = value.into();
        assert_eq!(hive.fail(&operation).await["code"], "invalid_field", "{field} {value}");
    }
    // A program that says what it is, and then ends.
    hive.stop().await;
    let dir = tempfile::tempdir().expect("a folder");
    let broken = dir.path().join("nats-server");
    std::fs::write(
        &broken,
        "#!/bin/sh\ncase $1 in --version) echo 'nats-server: v2.12.0';; *) echo broken; exit 3;; esac\n",
    )
    .expect("it is written");
    std::fs::set_permissions(&broken, std::fs::Permissions::from_mode(0o755)).expect("it is a program");
    let hive = TestHive::start_with(named("one", &broken)).await;
    let failure = hive.fail(&up(SECRET)).await;
    assert_eq!(failure["code"], "fleet_server_failed", "{failure}");
    assert_eq!(failure["log_tail"], json!(["broken"]), "{failure}");
    assert!(!fleet_folder(&hive).exists());
    assert_eq!(status(&hive).await["fleet"], Value::Null);
    hive.stop().await;
}

/// Runs a verb at a hive, which must succeed, and gives what it prints.
async fn verb(url: &str, words: &[&str]) -> String {
    let mut command = program();
    command.args(words).args(["--host", url]).stderr(Stdio::piped());
    let output = soon("the verb", command.output()).await.expect("it runs");
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{words:?}: {said}");
    String::from_utf8(output.stdout).expect("text")
}

/// A client that shows the certificate of a hive, as a hive does, and reaches `one` at this address.
fn with_certificate_of(hive: Option<&TestHive>, ca: &TestHive, one: SocketAddr) -> Client {
    let read = |hive: &TestHive, name: &str| std::fs::read(fleet_folder(hive).join(name)).expect("a file");
    let ca = Certificate::from_pem(&read(ca, "ca.pem")).expect("a certificate");
    let client = Client::builder().no_proxy().tls_certs_only([ca]).resolve("one.hive.rbee.internal", one);
    let client = match hive {
        Some(hive) => {
            let identity = [read(hive, "hive.pem"), read(hive, "hive.key")].concat();
            client.identity(Identity::from_pem(&identity).expect("an identity"))
        }
        None => client,
    };
    client.build().expect("a client")
}

#[tokio::test(flavor = "multi_thread")]
async fn hives_that_joined_ask_each_other_with_their_certificates_and_nobody_else_does() {
    let Some(server) = nats_server() else { return };
    let first = TestHive::start_with(named("one", &server)).await;
    let made = first.succeed(&up(SECRET)).await;
    let second = TestHive::start_with(named("two", &server)).await;
    second.succeed(&join(&made["invitation"], SECRET)).await;
    for hive in [&first, &second] {
        sees(hive, &["one", "two"]).await;
    }
    write_model(&second.models_dir(), "tiny");
    let chat =
        json!({ "model": "tiny", "messages": [{ "role": "user", "content": "Hi" }], "temperature": 0 });
    until("the model of the other hive", async || {
        let answer = first.post("/v1/chat/completions", &chat).await;
        let answer: Value = answer.json().await.expect("JSON");
        (answer["choices"][0]["message"]["content"] == "Hello from a small model.").then_some(())
    })
    .await;

    let direct = status(&first).await["direct"].as_str().expect("an address").to_owned();
    let address: SocketAddr =
        direct.strip_prefix("https://").and_then(|address| address.parse().ok()).expect("an address of TLS");
    let url = format!("https://one.hive.rbee.internal:{}/show", address.port());
    let ask = async |client: &Client, says: &str| {
        let question = json!({ "model": "nothing", "verbose": false });
        let answer = client.post(&url).header("rbee-hive", says).json(&question).send().await.ok()?;
        Some(answer.status().as_u16())
    };
    let (own, stranger) =
        (with_certificate_of(Some(&second), &first, address), with_certificate_of(None, &first, address));
    assert_eq!(ask(&own, "two").await, Some(404), "let in, and no such model");
    assert_eq!(ask(&own, "one").await, Some(401), "its certificate is for another name");
    assert_eq!(ask(&stranger, "two").await, None, "without a certificate there is no connection");
    // Who is expelled is shown no more, so its certificate opens nothing.
    first.succeed(&json!({ "FleetExpel": { "name": "two" } })).await;
    sees(&first, &["one"]).await;
    assert_eq!(ask(&own, "two").await, Some(401));
    let answer = first.post("/v1/chat/completions", &chat).await;
    assert_eq!(answer.status(), 404);
    for hive in [second, first] {
        stop(hive).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_printed_line_joins_and_a_killed_hive_leaves_no_server_and_no_secret() {
    let Some(server) = nats_server() else { return };
    let start = async |name: &str| {
        let dir = folder();
        let file = dir.path().join("hive.toml");
        std::fs::write(
            &file,
            format!("[fleet]\nserver = {server:?}\nheartbeat = \"1s\"\nlisten = \"127.0.0.1:0\"\n"),
        )
        .expect("a file");
        let log = std::fs::File::create(dir.path().join("log")).expect("a log");
        let config = file.to_str().expect("text").to_owned();
        let mut command = serve(dir.path(), &["--config", &config, "--hive-id", name]);
        command.stderr(log).env("RUST_LOG", "debug");
        (Daemon::run(command).await, dir)
    };
    let (first, first_dir) = start("one").await;
    let (second, second_dir) = start("two").await;
    let listen = ["--listen", "127.0.0.1:0", "--join-listen", "127.0.0.1:0", "--advertise", "127.0.0.1"];
    let printed = verb(&first.url, &[&["fleet", "up"], &listen[..]].concat()).await;
    let line =
        printed.lines().map(str::trim).find_map(|line| line.strip_prefix("rbee-hive ")).expect("a line");
    let words: Vec<_> = line.split(' ').collect();
    assert!(verb(&second.url, &words).await.contains("home"));
    let status = verb(&second.url, &["fleet", "status"]).await;
    assert!(status.contains("one") && status.contains("two") && status.contains("reachable"), "{status}");
    let invited = verb(&first.url, &["fleet", "invite", "--expires", "10m", "--json"]).await;
    let invited: Value = serde_json::from_str(&invited).expect("JSON");

    let settings = first_dir.path().join("data/fleet/nats-server.conf");
    let settings = settings.to_str().expect("text");
    assert!(!no_process_mentions(settings));
    first.kill().await;
    until("the server to end", async || no_process_mentions(settings).then_some(())).await;

    // The secret stands at the end of a line, in hexadecimal digits.
    for line in [line, invited["join"].as_str().expect("a line")] {
        let secret = &line[line.len() - 32..];
        for dir in [&first_dir, &second_dir] {
            let files = files_beneath(dir.path());
            assert!(files.iter().any(|file| file.ends_with("log")) && files.len() > 10, "{files:?}");
            for file in files {
                let bytes = std::fs::read(&file).unwrap_or_default();
                let is_in = bytes.windows(secret.len()).any(|part| part == secret.as_bytes());
                assert!(!is_in, "{} has the secret", file.display());
            }
        }
    }
    second.stop().await;
}
