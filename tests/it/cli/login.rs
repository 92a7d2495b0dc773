//! `login` and `logout`: the token of the Hub.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Stdio;

use serde_json::{Value, json};
use tokio::io::AsyncWriteExt;

use super::terminal::Terminal;
use super::{Ran, succeed, verb, verb_at};
use crate::support::hub::{ACCOUNT, Access, FakeHub, TOKEN};
use crate::support::{Daemon, TestHive, files_beneath, folder, nowhere, serve, soon, write_model};

/// Runs `login` with that on its standard input.
async fn login(url: &str, input: &str) -> Ran {
    let mut child = verb_at(url, &["login"]).stdin(Stdio::piped()).spawn().expect("it starts");
    let mut stdin = child.stdin.take().expect("a pipe");
    stdin.write_all(input.as_bytes()).await.expect("it reads");
    drop(stdin);
    let output = soon("its end", child.wait_with_output()).await.expect("an end");
    let text = |bytes| String::from_utf8(bytes).expect("text");
    Ran { status: output.status.code().unwrap_or(-1), out: text(output.stdout), err: text(output.stderr) }
}

/// A hive with that Hub, which keeps its token in a folder that is not there yet.
async fn hive_with(hub: &str) -> (TestHive, std::path::PathBuf) {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let file = dir.path().join("huggingface/token");
    let (hub, kept) = (hub.to_owned(), file.clone());
    let hive = TestHive::start_in(dir, |config| {
        config.hub.endpoint = Some(hub);
        config.hub.token_file = Some(kept);
    })
    .await;
    (hive, file)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_is_checked_kept_used_and_forgotten() {
    let hub = FakeHub::start().await;
    let models = tempfile::tempdir().expect("a temporary folder");
    let model = std::fs::read(write_model(models.path(), "tiny")).expect("a model");
    hub.commit("org/private-GGUF", "main", &[("tiny-Q8_0.gguf", &model)]);
    hub.set_access("org/private-GGUF", Access::Private);
    let (hive, file) = hive_with(&hub.url).await;
    let refused = verb(&hive, &["pull", "org/private-GGUF"]).await;
    assert!(refused.status == 5 && refused.err.contains("`rbee-hive login`"), "{}", refused.err);

    let wrong = login(&hive.url, "hf_another").await;
    assert!(wrong.status == 5 && wrong.err.contains("does not accept the token"), "{}", wrong.err);
    assert!(!file.exists(), "it is not kept");

    let kept = login(&hive.url, &format!("{TOKEN}\n")).await;
    assert_eq!(kept.status, 0, "{}", kept.err);
    assert!(kept.err.contains(&format!("It is a token of '{ACCOUNT}'")), "{}", kept.err);
    assert!(kept.out.contains("checked    yes") && kept.out.contains("in effect  yes"), "{}", kept.out);
    assert_eq!(std::fs::read_to_string(&file).expect("a file"), TOKEN);
    assert_eq!(std::fs::metadata(&file).expect("a file").permissions().mode() & 0o777, 0o600);
    let pulled = verb(&hive, &["pull", "org/private-GGUF"]).await;
    assert_eq!(pulled.status, 0, "{}", pulled.err);

    // Each secret of a record is refused, not kept.
    let again = hive.fail(&json!({ "HubLogin": { "token": "(hidden)" } })).await;
    assert_eq!(again["code"], "invalid_field", "{again}");
    for no_token in ["two words", &"x".repeat(4097)] {
        assert_eq!(login(&hive.url, no_token).await.status, 5, "{no_token}");
    }
    assert_eq!(login(&hive.url, " \n").await.status, 2);
    assert_eq!(std::fs::read_to_string(&file).expect("a file"), TOKEN);

    assert!(succeed(&hive, &["logout"]).await.contains("removed  yes"));
    assert!(!file.exists());
    assert!(succeed(&hive, &["logout"]).await.contains("removed  no"));
    hive.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_that_cannot_be_checked_is_kept_with_a_warning() {
    let (hive, file) = hive_with(&nowhere()).await;
    let from_file = hive.dir().join("given");
    std::fs::write(&from_file, "hf_unchecked\n").expect("a file");
    let given = from_file.to_str().expect("text");
    let ran = verb(&hive, &["login", "--hub-token-file", given]).await;
    assert!(ran.status == 0 && ran.err.contains("was not checked"), "{}", ran.err);
    assert!(ran.out.contains("checked    no"), "{}", ran.out);
    assert_eq!(std::fs::read_to_string(&file).expect("a file"), "hf_unchecked");
    hive.stop().await;

    let none = TestHive::start().await;
    let ran = login(&none.url, "hf_x").await;
    assert!(
        ran.status == 5 && ran.err.contains("token_file"),
        "the settings say that there is none: {}",
        ran.err
    );
    none.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_terminal_does_not_show_the_token() {
    let hub = FakeHub::start().await;
    let (hive, file) = hive_with(&hub.url).await;
    let mut terminal = Terminal::run(&hive, &["login"], &[]);
    terminal.shows("it is not shown").await;
    terminal.press(format!("{TOKEN}\r").as_bytes());
    assert_eq!(terminal.ended().await, 0, "{}", terminal.seen());
    terminal.shows("in effect").await;
    assert!(!terminal.seen().contains(TOKEN), "{}", terminal.seen());
    assert!(file.exists());
    hive.stop().await;
}

/// The files beneath a folder that have the text, but for one.
fn files_with(folder: &Path, text: &str, but: &Path) -> Vec<std::path::PathBuf> {
    let has = |path: &std::path::PathBuf| {
        std::fs::read(path).is_ok_and(|bytes| bytes.windows(text.len()).any(|part| part == text.as_bytes()))
    };
    files_beneath(folder).into_iter().filter(|path| path != but).filter(has).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_is_in_no_journal_log_stream_or_job() {
    let hub = FakeHub::start().await;
    let dir = folder();
    let home = dir.path().join("home");
    let log = std::fs::File::create(dir.path().join("log")).expect("a file");
    let mut command = serve(dir.path(), &[]);
    command
        .env("HF_ENDPOINT", &hub.url)
        .env("HF_HOME", &home)
        .env("HF_TOKEN", "hf_ofTheEnvironment")
        .env_remove("HF_TOKEN_PATH")
        .env_remove("HF_HUB_OFFLINE")
        .env("RUST_LOG", "trace")
        .stderr(log);
    let hive = Daemon::run(command).await;
    let kept = login(&hive.url, TOKEN).await;
    assert!(kept.status == 0 && kept.err.contains("HF_TOKEN is set"), "{}", kept.err);
    assert!(kept.out.contains("in effect  no"), "{}", kept.out);
    assert_eq!(login(&hive.url, &format!("{TOKEN}x")).await.status, 5);
    // A request of another form is refused, and its problem does not repeat it either.
    let refused = hive.try_post("/v1/jobs", &json!({ "HubLogin": { "token": { "x": TOKEN } } })).await;
    let refused = refused.expect("an answer").text().await.expect("a body");
    let jobs: Value = hive.json("/v1/jobs").await;
    let ids = jobs["jobs"].as_array().expect("jobs").iter().map(|job| job["job_id"].as_str().expect("an id"));
    let mut shown = format!("{jobs}{refused}{}{}", kept.out, kept.err);
    for id in ids {
        for path in ["", "/stream", "/stream?format=json"] {
            let answer = hive.get(&format!("/v1/jobs/{id}{path}")).await;
            shown += &answer.text().await.expect("a body");
        }
    }
    assert!(shown.contains("(hidden)") && !shown.contains(TOKEN), "{shown}");
    hive.stop().await;
    let file = home.join("token");
    assert_eq!(std::fs::read_to_string(&file).expect("a file"), TOKEN);
    assert_eq!(files_with(dir.path(), TOKEN, &file), [""; 0].map(std::path::PathBuf::from));
    let journals = files_with(dir.path(), "hub_login", &file);
    assert!(journals.len() >= 3, "its journals and the log are there: {journals:?}");
}
