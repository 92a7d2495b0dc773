//! Callers with tokens of their own: what each may do, how much of it, and for how long.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use async_nats::jetstream;
use rbee_hive::config::Role;
use reqwest::{Client, Response};
use rustix::process::Signal;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::fleet::{in_fleet, sees};
use crate::support::{
    Daemon, NatsServer, Scripted, TestHive, client_with, files_beneath, folder, merged, problem, read_until,
    serve, soon, until, write_model,
};

/// The secret of the token of that name.
pub(crate) fn secret(name: &str) -> String {
    format!("the-secret-of-{name}-0123456789abcdef")
}

fn sha256(secret: &str) -> String {
    Sha256::digest(secret).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The operation that makes a token, with these fields besides.
fn create(name: &str, more: Value) -> Value {
    json!({ "TokenCreate": merged(json!({ "name": name, "sha256": sha256(&secret(name)) }), more) })
}

/// A hive with a token for its manager, `boss`, in whose name [`TestHive`] asks from then on.
pub(crate) async fn managed(change: impl FnOnce(&mut rbee_hive::config::Config)) -> TestHive {
    let mut hive = TestHive::start_with(change).await;
    let id = hive.submit(&create("boss", json!({ "role": "manage" }))).await;
    hive.client = client_with(&secret("boss"));
    let done = async || (hive.job(&id).await["state"] == "succeeded").then_some(());
    until("the token", done).await;
    hive
}

/// A client with a token that was made with these fields.
pub(crate) async fn holder(hive: &TestHive, name: &str, more: Value) -> Client {
    let made = hive.succeed(&create(name, more)).await;
    assert_eq!((&made["name"], made.get("sha256")), (&json!(name), None), "{made}");
    client_with(&secret(name))
}

async fn post(client: &Client, hive: &TestHive, path: &str, body: &Value) -> Response {
    soon(path, client.post(format!("{}{path}", hive.url)).json(body).send()).await.expect("an answer")
}

async fn get(client: &Client, hive: &TestHive, path: &str) -> Response {
    soon(path, client.get(format!("{}{path}", hive.url)).send()).await.expect("an answer")
}

fn chat(model: &str) -> Value {
    json!({ "model": model, "max_tokens": 5, "messages": [{ "role": "user", "content": model }] })
}

/// The ids of a list of models.
async fn ids(answer: Response, list: &str, id: &str) -> Vec<String> {
    let answer: Value = answer.json().await.expect("JSON");
    let list = answer[list].as_array().unwrap_or_else(|| panic!("{answer}")).iter();
    list.map(|model| model[id].as_str().expect("an id").to_owned()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_first_token_is_the_managers_and_the_last_one_goes_last() {
    let mut hive = TestHive::start().await;
    let refused = hive.fail(&create("alice", json!({}))).await;
    assert_eq!(refused["code"], "token_refused", "{refused}");
    hive = {
        hive.stop().await;
        managed(|_| {}).await
    };
    let anybody = crate::support::client();
    problem(get(&anybody, &hive, "/v1/jobs").await, 401, "unauthorized").await;
    assert_eq!(get(&anybody, &hive, "/health").await.status(), 200);
    holder(&hive, "alice", json!({ "expires_in": "1h", "models": ["a*"], "concurrent": 2 })).await;
    let list = hive.succeed(&json!({ "TokenList": {} })).await;
    let names: Vec<_> = list.as_array().expect("tokens").iter().map(|token| &token["name"]).collect();
    assert_eq!(names, ["alice", "boss"]);
    assert_eq!(
        (&list[0]["role"], &list[0]["expired"], &list[0]["models"]),
        (&json!("use"), &json!(false), &json!(["a*"]))
    );
    assert_eq!(hive.fail(&json!({ "TokenRevoke": { "name": "boss" } })).await["code"], "token_refused");
    assert_eq!(hive.fail(&json!({ "TokenRevoke": { "name": "bob" } })).await["code"], "token_not_found");
    hive.succeed(&json!({ "TokenRevoke": { "name": "alice" } })).await;
    let mode = std::fs::metadata(hive.dir().join("data/tokens.toml")).expect("a file").permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    // With the last one gone, nobody needs one.
    let id = hive.submit(&json!({ "TokenRevoke": { "name": "boss" } })).await;
    hive.client = anybody;
    let open = async || (hive.get("/v1/jobs").await.status() == 200).then_some(());
    until("the hive to be open", open).await;
    let told: Value = hive.get("/v1/capabilities").await.json().await.expect("JSON");
    assert_eq!(told["caller"], Value::Null);
    assert!(hive.stream(&id).await.ends_with("data: [DONE]\n\n"));
    hive.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn operations_and_the_cancelling_of_jobs_ask_for_their_role() {
    let script = Scripted::new();
    let hive = managed(|config| script.serve_for(config, 1)).await;
    write_model(&hive.models_dir(), "m");
    let reader = holder(&hive, "reader", json!({ "role": "read" })).await;
    let user = holder(&hive, "user", json!({})).await;
    // What each may submit is told, too.
    for (client, role) in [(&reader, Role::Read), (&user, Role::Use), (&hive.client, Role::Manage)] {
        let told: Value = get(client, &hive, "/v1/capabilities").await.json().await.expect("JSON");
        let may: Vec<_> =
            rbee_hive::ops::TABLE.iter().filter(|row| row.role <= role).map(|row| row.name).collect();
        assert_eq!((&told["caller"]["role"], &told["caller"]["operations"]), (&json!(role), &json!(may)));
    }
    for row in rbee_hive::ops::TABLE {
        let operation = json!({ row.name: crate::support::rows::sample_fields(row) });
        assert!(row.name != "TokenList" || row.role == Role::Manage);
        for client in [&reader, &user] {
            let answer = post(client, &hive, "/v1/jobs", &operation).await;
            if row.role == Role::Read {
                assert_eq!(answer.status(), 201, "{operation}");
            } else {
                let refused = problem(answer, 403, "forbidden").await;
                let detail = refused["detail"].as_str().expect("text");
                assert!(detail.contains(row.name) && detail.contains("`manage`"), "{detail}");
            }
        }
    }
    script.set("m.loading");
    let load = hive.submit(&json!({ "ModelLoad": { "id": "m" } })).await;
    let cancel = |client: &Client| client.delete(format!("{}/v1/jobs/{load}", hive.url)).send();
    for client in [&reader, &user] {
        assert_eq!(get(client, &hive, &format!("/v1/jobs/{load}")).await.status(), 200);
        problem(soon("an answer", cancel(client)).await.expect("an answer"), 403, "forbidden").await;
    }
    assert_eq!(soon("an answer", cancel(&hive.client)).await.expect("an answer").status(), 200);
    // A load is not an act of whoever asks a model.
    script.clear("m.loading");
    problem(post(&reader, &hive, "/v1/chat/completions", &chat("m")).await, 403, "forbidden").await;
    assert_eq!(post(&user, &hive, "/v1/chat/completions", &chat("m")).await.status(), 200);
    // Others may be using it.
    let unload = json!({ "model": "m", "keep_alive": 0 });
    assert_eq!(post(&user, &hive, "/api/generate", &unload).await.status(), 403);
    assert_eq!(post(&hive.client, &hive, "/api/generate", &unload).await.status(), 200);
    hive.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_has_its_limits_in_every_dialect() {
    let script = Scripted::new();
    let hive = managed(|config| script.serve_for(config, 4)).await;
    write_model(&hive.models_dir(), "m");
    let one = holder(&hive, "one", json!({ "concurrent": 1 })).await;
    script.set("m.halfway");
    let mut answer =
        post(&one, &hive, "/v1/chat/completions", &merged(chat("m"), json!({ "stream": true }))).await;
    let mut seen = String::new();
    read_until(&mut answer, &mut seen, "assistant").await;
    let text = merged(chat("m"), json!({ "prompt": "m" }));
    for (path, kind) in
        [("/v1/chat/completions", "/error/type"), ("/v1/messages", "/error/type"), ("/api/chat", "/error")]
    {
        let refused = post(&one, &hive, path, &text).await;
        assert_eq!(
            (refused.status().as_u16(), &refused.headers()["retry-after"]),
            (429, &"1".parse().expect("a value")),
            "{path}"
        );
        let refused: Value = refused.json().await.expect("JSON");
        assert_eq!(refused["code"], "too_many_requests", "{refused}");
        let told = refused.pointer(kind).and_then(Value::as_str).expect("its dialect");
        assert!(told == "rate_limit_error" || told.contains("'one'"), "{refused}");
    }
    // Others are not held up, nor is what is no request to a model.
    assert_eq!(get(&one, &hive, "/v1/models").await.status(), 200);
    script.clear("m.halfway");
    read_until(&mut answer, &mut seen, "[DONE]").await;
    drop(answer);
    let free =
        async || (post(&one, &hive, "/v1/chat/completions", &chat("m")).await.status() == 200).then_some(());
    until("the stream to have ended", free).await;

    let two = holder(&hive, "two", json!({ "requests_per_minute": 2 })).await;
    assert_eq!(post(&two, &hive, "/v1/chat/completions", &chat("m")).await.status(), 200);
    assert_eq!(post(&two, &hive, "/v1/jobs", &json!({ "ModelList": {} })).await.status(), 201);
    for (path, body) in [("/v1/chat/completions", chat("m")), ("/v1/jobs", json!({ "ModelList": {} }))] {
        let refused = post(&two, &hive, path, &body).await;
        assert_eq!(refused.status(), 429);
        let wait: u64 = refused.headers()["retry-after"].to_str().expect("text").parse().expect("seconds");
        assert!((1..=30).contains(&wait), "{wait}");
    }
    assert_eq!(get(&two, &hive, "/v1/jobs").await.status(), 200);
    hive.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_limits_of_a_token_hold_for_all_hives_of_a_fleet_together() {
    let Some(nats) = NatsServer::start().await else { return };
    let script = Scripted::new();
    let a = managed(|config| {
        in_fleet(config, "a", &nats.url());
        script.serve_for(config, 4);
    })
    .await;
    write_model(&a.models_dir(), "m");
    let b = managed(|config| in_fleet(config, "b", &nats.url())).await;
    for hive in [&a, &b] {
        sees(hive, &["a", "b"]).await;
    }
    let holder_at = async |hive: &TestHive, name: &str, limit: Value| holder(hive, name, limit).await;
    let limit = json!({ "concurrent": 1 });
    let (one_at_a, one_at_b) = (holder_at(&a, "one", limit.clone()).await, holder_at(&b, "one", limit).await);
    let limit = json!({ "requests_per_minute": 8 });
    let (few_at_a, few_at_b) = (holder_at(&a, "few", limit.clone()).await, holder_at(&b, "few", limit).await);

    // What is answered at one hive counts at the other, until it has ended.
    script.set("m.halfway");
    let mut answer =
        post(&one_at_a, &a, "/v1/chat/completions", &merged(chat("m"), json!({ "stream": true }))).await;
    let mut seen = String::new();
    read_until(&mut answer, &mut seen, "assistant").await;
    let answers = async |expected: u16| {
        until(&format!("the status {expected}"), async || {
            let status = post(&one_at_b, &b, "/v1/chat/completions", &chat("none")).await.status();
            (status == expected).then_some(())
        })
        .await;
    };
    answers(429).await;
    script.clear("m.halfway");
    read_until(&mut answer, &mut seen, "[DONE]").await;
    drop(answer);
    answers(404).await;

    // A minute is one for both.
    for _ in 0..7 {
        assert_eq!(submit_status(&few_at_a, &a).await, 201);
    }
    let client = async_nats::connect(nats.url()).await.expect("the server");
    let workers =
        jetstream::new(client).get_key_value("rbee_home_workers").await.expect("the bucket of workers");
    until("the first one to tell", async || {
        let told = workers.get("a").await.expect("the bucket").unwrap_or_default();
        String::from_utf8_lossy(&told).contains("\"counted\":7").then_some(())
    })
    .await;
    let let_in = async {
        let mut let_in = 0;
        while submit_status(&few_at_b, &b).await == 201 {
            let_in += 1;
        }
        let_in
    };
    assert!(soon("the other hive to refuse", let_in).await < 8, "it knew of its own alone");
    a.stop().await;
    b.stop().await;
}

/// The status of a request that counts against the limit of a minute.
async fn submit_status(client: &Client, hive: &TestHive) -> u16 {
    post(client, hive, "/v1/jobs", &json!({ "ModelList": {} })).await.status().as_u16()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_is_for_its_models_alone() {
    let script = Scripted::new();
    let hive = managed(|config| script.serve_for(config, 1)).await;
    for model in ["small-1", "small-2", "large"] {
        write_model(&hive.models_dir(), model);
    }
    let set = |id: &str, aliases: Value| json!({ "ModelSettingsSet": { "id": id, "settings": { "aliases": aliases } } });
    // A name that means nothing means the large one.
    hive.succeed(&set("large", json!(["*"]))).await;
    hive.succeed(&set("small-2", json!(["quick"]))).await;
    let some = holder(&hive, "some", json!({ "models": ["small-1", "qui*"] })).await;
    assert_eq!(
        ids(get(&some, &hive, "/v1/models").await, "data", "id").await,
        ["small-1", "small-2", "quick"]
    );
    let tags = ids(get(&some, &hive, "/api/tags").await, "models", "model").await;
    assert_eq!(tags.len(), 3, "{tags:?}");
    assert_eq!(ids(hive.get("/v1/models").await, "data", "id").await.len(), 4);
    for (model, status) in [("small-1", 200), ("quick", 200), ("small-2", 200), ("large", 403), ("quiz", 403)]
    {
        let answer = post(&some, &hive, "/v1/chat/completions", &chat(model)).await;
        assert_eq!(answer.status(), status, "{model}");
        let found = get(&some, &hive, &format!("/v1/models/{model}")).await;
        assert_eq!(found.status(), status, "{model}");
    }
    for (path, body) in [
        ("/api/show", json!({ "model": "large" })),
        ("/api/chat", json!({ "model": "large" })),
        ("/api/chat", chat("large")),
        ("/api/embed", json!({ "model": "large", "input": "a" })),
        ("/v1/messages", chat("large")),
        ("/v1/messages/count_tokens", chat("large")),
        ("/v1/responses", json!({ "model": "large", "input": "a" })),
    ] {
        let answer = post(&some, &hive, path, &body).await;
        let status = answer.status();
        let answer = answer.text().await.expect("text");
        assert!(status == 403 && answer.contains("large") && answer.contains("'some'"), "{path}: {answer}");
    }
    assert!(!script.log().contains(&"start large".to_owned()), "{:?}", script.log());
    hive.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_followed_with_a_revoked_token_breaks_off() {
    let script = Scripted::new();
    let hive = managed(|config| script.serve_for(config, 1)).await;
    write_model(&hive.models_dir(), "m");
    let user = holder(&hive, "user", json!({})).await;
    let mut events = get(&user, &hive, "/v1/events").await;
    let mut seen = String::new();
    read_until(&mut events, &mut seen, "event: snapshot").await;
    let session = post(&user, &hive, "/v1/session", &json!({})).await;
    let cookie =
        session.headers()["set-cookie"].to_str().expect("text").split(';').next().expect("a pair").to_owned();
    let anybody = crate::support::client();
    let with_cookie = || {
        let request = anybody.get(format!("{}/v1/heartbeats/stream", hive.url)).header("cookie", &cookie);
        soon("an answer", request.send())
    };
    let mut beats = with_cookie().await.expect("an answer");
    read_until(&mut beats, &mut String::new(), "event: heartbeat").await;
    script.set("m.halfway");
    let mut answer =
        post(&user, &hive, "/v1/chat/completions", &merged(chat("m"), json!({ "stream": true }))).await;
    let mut said = String::new();
    read_until(&mut answer, &mut said, "assistant").await;

    hive.succeed(&json!({ "TokenRevoke": { "name": "user" } })).await;
    for stream in [events, beats] {
        let broken = soon("the end", stream.bytes()).await;
        assert!(broken.is_err(), "it does not look complete");
    }
    assert_eq!(with_cookie().await.expect("an answer").status(), 401);
    assert_eq!(get(&user, &hive, "/v1/jobs").await.status(), 401);
    // The answer is finished.
    script.clear("m.halfway");
    read_until(&mut answer, &mut said, "[DONE]").await;
    hive.stop().await;
}

/// Runs `TokenCreate` for a daemon whose callers need no token yet.
async fn first_token(daemon: &Daemon, name: &str) -> Client {
    let id = daemon.submit(&create(name, json!({ "role": "manage" }))).await;
    let client = client_with(&secret(name));
    let job = format!("{}/v1/jobs/{id}", daemon.url);
    let done = async || {
        let job: Value = client.get(&job).send().await.ok()?.json().await.ok()?;
        (job["state"] == "succeeded").then_some(())
    };
    until("the token", done).await;
    client
}

async fn status_of(client: &Client, daemon: &Daemon) -> u16 {
    // An address that stands for all of them is no host.
    let url = daemon.url.replace("0.0.0.0", "127.0.0.1");
    let answer = soon("an answer", client.get(format!("{url}/v1/jobs")).send()).await;
    answer.expect("an answer").status().as_u16()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_file_of_tokens_keeps_the_hive_from_starting() {
    let dir = folder();
    let daemon = Daemon::start(dir.path(), &[]).await;
    let boss = first_token(&daemon, "boss").await;
    let file = dir.path().join("data/tokens.toml");
    let sound = std::fs::read_to_string(&file).expect("a file");
    // A running hive keeps the tokens that it has.
    std::fs::write(&file, format!("{sound}role = 1\n")).expect("a file");
    daemon.signal(Signal::HUP);
    let reload = boss.post(format!("{}/v1/reload", daemon.url)).send();
    let refused = soon("an answer", reload).await.expect("an answer");
    let refused = problem(refused, 500, "config_invalid").await;
    assert!(refused["detail"].as_str().is_some_and(|detail| detail.contains("tokens.toml")), "{refused}");
    assert_eq!(
        (status_of(&boss, &daemon).await, status_of(&crate::support::client(), &daemon).await),
        (200, 401)
    );
    daemon.kill().await;
    let (status, said) = Daemon::refuse(serve(dir.path(), &[])).await;
    assert_eq!(status.code(), Some(78), "{said}");
    assert!(
        said.contains("tokens.toml") && said.contains("line ") && said.contains("hint: mend it"),
        "{said}"
    );
    std::fs::write(&file, sound).expect("a file");
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o644)).expect("a mode");
    let (status, said) = Daemon::refuse(serve(dir.path(), &[])).await;
    assert!(status.code() == Some(78) && said.contains("chmod 600"), "{said}");
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o600)).expect("a mode");
    // With a manager's token it may be bound beyond loopback.
    let daemon = Daemon::start(dir.path(), &["--bind", "0.0.0.0"]).await;
    assert_eq!(
        (status_of(&boss, &daemon).await, status_of(&crate::support::client(), &daemon).await),
        (200, 401)
    );
    daemon.stop().await;
}

/// Whether a file has the text in it.
fn has(file: &Path, text: &str) -> bool {
    let bytes = std::fs::read(file).unwrap_or_default();
    bytes.windows(text.len()).any(|window| window == text.as_bytes())
}

#[tokio::test(flavor = "multi_thread")]
async fn no_file_and_no_log_has_a_secret() {
    let dir = folder();
    let log = dir.path().join("log");
    let mut command = serve(dir.path(), &[]);
    command.env("RUST_LOG", "trace").stderr(std::fs::File::create(&log).expect("a log"));
    let daemon = Daemon::run(command).await;
    let boss = first_token(&daemon, "boss").await;
    let wrong = client_with("a-wrong-secret-0123456789abcdef");
    assert_eq!((status_of(&boss, &daemon).await, status_of(&wrong, &daemon).await), (200, 401));
    let session = boss.post(format!("{}/v1/session", daemon.url)).send();
    let session = soon("an answer", session).await.expect("an answer");
    let cookie = session.headers()["set-cookie"]
        .to_str()
        .expect("text")
        .split(['=', ';'])
        .nth(1)
        .expect("a value")
        .to_owned();
    daemon.stop().await;
    let files = files_beneath(dir.path());
    assert!(files.iter().any(|file| has(file, &sha256(&secret("boss")))), "the journal has its hash");
    assert!(has(&log, "token_create"), "the log has what was done");
    for file in files {
        for text in [secret("boss").as_str(), "a-wrong-secret-0123456789abcdef", &cookie] {
            assert!(!has(&file, text), "{}", file.display());
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn usage_by_caller_and_model_survives_a_restart_and_a_kill() {
    let dir = folder();
    write_model(&dir.path().join("models"), "tiny");
    let daemon = Daemon::start(dir.path(), &[]).await;
    let boss = first_token(&daemon, "boss").await;
    let ask = async |daemon: &Daemon, model: &str| {
        let request = boss.post(format!("{}/v1/chat/completions", daemon.url)).json(&chat(model));
        let answer = soon("an answer", request.send()).await.expect("an answer");
        answer.json::<Value>().await.expect("JSON")
    };
    let run = async |daemon: &Daemon, operation: Value| {
        let submit = boss.post(format!("{}/v1/jobs", daemon.url)).json(&operation).send();
        let job: Value = soon("a job", submit).await.expect("a job").json().await.expect("JSON");
        let job = format!("{}/v1/jobs/{}", daemon.url, job["job_id"].as_str().expect("an id"));
        let ended = async || {
            let job: Value = boss.get(&job).send().await.ok()?.json().await.ok()?;
            job.get("result").filter(|result| !result.is_null()).cloned()
        };
        until("the result", ended).await
    };
    let usage = async |daemon: &Daemon| run(daemon, json!({ "UsageReport": { "caller": "boss" } })).await;
    let said = ask(&daemon, "tiny").await;
    ask(&daemon, "nothing").await;
    let first = usage(&daemon).await;
    let row = |report: &Value, model: Value| {
        let rows = report["usage"].as_array().expect("rows");
        rows.iter().find(|row| row["model"] == model).cloned().unwrap_or_else(|| panic!("{report}"))
    };
    let tiny = row(&first, json!("tiny"));
    assert_eq!(
        (&tiny["requests"], &tiny["completed"], &tiny["caller"]),
        (&json!(1), &json!(1), &json!("boss"))
    );
    assert_eq!(tiny["completion_tokens"], said["usage"]["completion_tokens"], "{said}");
    assert_eq!(tiny["prompt_tokens"], said["usage"]["prompt_tokens"]);
    assert_eq!(row(&first, Value::Null)["refused"], 1);
    // The test may run over midnight.
    let days = first["days"].as_array().expect("days");
    let requests: Option<u64> = days.iter().map(|day| day["requests"].as_u64()).sum();
    assert_eq!(
        (requests, &days[0]["date"].is_string()),
        (first["total"]["requests"].as_u64(), &true),
        "{first}"
    );
    let none = run(&daemon, json!({ "UsageReport": { "until": "2020-01-01" } })).await;
    let nothing = (&json!([]), &json!([]), &json!("2019-12-02"));
    assert_eq!((&none["usage"], &none["days"], &none["since"]), nothing);
    let listed = run(&daemon, json!({ "TokenList": {} })).await;
    assert!(listed[0]["uses"].as_u64() > Some(4) && listed[0]["last_used_at"].is_string(), "{listed}");

    daemon.stop().await;
    let daemon = Daemon::start(dir.path(), &[]).await;
    assert_eq!(row(&usage(&daemon).await, json!("tiny")), tiny, "a restart loses nothing");
    ask(&daemon, "tiny").await;
    // It is written by itself.
    let written = async || {
        let files = files_beneath(&dir.path().join("data/usage"));
        files.iter().any(|file| has(file, "\"requests\":2")).then_some(())
    };
    until("the usage to be written", written).await;
    daemon.kill().await;
    let daemon = Daemon::start(dir.path(), &[]).await;
    assert_eq!(row(&usage(&daemon).await, json!("tiny"))["requests"], 2);
    daemon.stop().await;
}
