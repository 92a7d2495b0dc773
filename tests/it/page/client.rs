//! The client for browsers and Node: its example in the documents, and its streams over a connection that breaks.

use serde_json::{Value, json};

use crate::support::{
    Browser, Relay, StallingServer, TestHive, command, document, section, skipped, soon, write_model,
};

/// The example, for a hive at this address.
fn example(url: &str) -> String {
    let text = document("docs/API.md");
    let section = section(&text, "## From a browser or Node");
    let code = section.split("```js\n").nth(1).and_then(|rest| rest.split("```").next()).expect("an example");
    assert!(code.contains("http://localhost:7835"), "{code}");
    code.replace("http://localhost:7835", url)
}

/// Fails unless the example has said what it should.
fn check(said: &str) {
    for part in ["Loading model 'my-model'", " is ready", " done ", "model_not_found: ", "snapshot "] {
        assert!(said.contains(part), "'{part}' is not in what the example says:\n{said}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_example_of_the_client_runs_in_a_browser() {
    let Some(browser) = Browser::start().await else { return };
    let hive = TestHive::start().await;
    write_model(&hive.models_dir(), "my-model");
    browser.open(&format!("{}/#/jobs", hive.url)).await;
    let example = example(&hive.url);
    let (import, rest) = example.split_once('\n').expect("lines");
    assert_eq!(import, "import { Hive, Problem } from \"./rbee-hive.mjs\";");
    // What a driver runs is no module, and cannot have an `import` of its own.
    let script = format!(
        "const done = arguments[0]; const said = []; const console = {{log: (...words) => said.push(words.join(' '))}};\
         (async () => {{ const {{ Hive, Problem }} = await import('{}/ui/client.js');\n{rest}\n}})()\
         .then(() => done(said.join('\\n')), (error) => done(String(error)));",
        hive.url
    );
    check(browser.run_async(&script).await.as_str().expect("text"));
    drop(browser);
    hive.stop().await;
}

/// Whether Node is here, of a version that the client runs in.
async fn has_node() -> bool {
    let version = command("node").arg("--version").output().await;
    let version =
        version.map(|output| String::from_utf8_lossy(&output.stdout).into_owned()).unwrap_or_default();
    let major = version.trim_start_matches('v').split('.').next().and_then(|major| major.parse::<u32>().ok());
    if major.is_none_or(|major| major < 21) && !version.starts_with("v20.") {
        skipped("no Node of version 20.3 or later on this machine");
        return false;
    }
    true
}

#[tokio::test(flavor = "multi_thread")]
async fn the_example_of_the_client_runs_in_node() {
    if !has_node().await {
        return;
    }
    let hive = TestHive::start().await;
    write_model(&hive.models_dir(), "my-model");
    let client = hive.get("/ui/client.js").await.text().await.expect("text");
    std::fs::write(hive.dir().join("rbee-hive.mjs"), client).expect("a file");
    let file = hive.dir().join("example.mjs");
    std::fs::write(&file, example(&hive.url)).expect("a file");
    let output = soon("the example", command("node").arg(file).output()).await.expect("it runs");
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{said}\n{}", String::from_utf8_lossy(&output.stderr));
    check(&said);
    hive.stop().await;
}

/// Follows a job and the changes of the hive, and collects their ids in `window`.
const FOLLOW: &str = "const done = arguments[0]; window.seen = []; window.changed = []; window.lost = [];\
    import(URL_OF_CLIENT).then(async ({Hive}) => {\
        const hive = new Hive();\
        (async () => { for await (const {id} of hive.changes({onLost: (lost) => window.lost.push(lost)})) window.changed.push(id); })();\
        (async () => { for await (const {id, event} of hive.follow(JOB)) window.seen.push([id, event]); window.ended = true; })();\
        done(true);\
    });";

#[tokio::test(flavor = "multi_thread")]
async fn the_client_resumes_streams_that_break() {
    let Some(browser) = Browser::start().await else { return };
    let hive = TestHive::start().await;
    let relay = Relay::to(&hive.url).await;
    let server = StallingServer::start().await;
    let job = hive.submit(&json!({ "ModelDownload": { "model": server.model("slow") } })).await;
    server.connections(1).await;
    browser.open(&format!("{}/#/jobs", relay.url)).await;
    let follow = FOLLOW
        .replace("URL_OF_CLIENT", &format!("'{}/ui/client.js'", relay.url))
        .replace("JOB", &format!("'{job}'"));
    browser.run_async(&follow).await;
    browser.until("events of both", "window.seen.length && window.changed.length").await;
    relay.cut();
    browser.until("the loss", "window.lost.includes(true)").await;
    assert_eq!(hive.delete(&format!("/v1/jobs/{job}")).await.status(), 200);
    relay.mend();
    browser.until("the end of the job", "window.ended").await;
    browser.until("the changes again", "window.lost.at(-1) === false").await;
    let seen = browser.eval("window.seen").await;
    let seen = seen.as_array().expect("events");
    let ids: Vec<usize> = seen.iter().filter_map(|event| event[0].as_str()?.parse().ok()).collect();
    assert_eq!(ids, (1..=seen.len()).collect::<Vec<_>>(), "none is lost or comes twice");
    assert_eq!(seen.last().map(|event| &event[1]), Some(&json!("cancelled")));
    let twice = "window.changed.filter(Boolean).length !== new Set(window.changed.filter(Boolean)).size";
    assert_eq!(browser.eval(twice).await, Value::Bool(false));
    drop(browser);
    hive.stop().await;
}

/// A server whose first answer has an event without an id after one that has one, and breaks off; then the client.
const BREAKS: &str = r#"
import { createServer } from "node:http";
import { Hive } from "./rbee-hive.mjs";
const asked = [];
const server = createServer((request, response) => {
  asked.push(request.headers["last-event-id"] ?? "none");
  response.writeHead(200, { "content-type": "text/event-stream" });
  if (asked.length > 1) return response.write('event: job\nid: e-6\ndata: 6\n\n');
  response.write('event: job\nid: e-5\ndata: 5\n\nevent: telemetry\ndata: 0\n\n', () => response.destroy());
});
server.listen(0, "127.0.0.1", async () => {
  const hive = new Hive(`http://127.0.0.1:${server.address().port}`);
  for await (const { data } of hive.changes()) if (data === 6) break;
  console.log(asked.join());
  process.exit(0);
});
"#;

#[tokio::test(flavor = "multi_thread")]
async fn the_client_goes_on_after_the_last_event_that_has_an_id() {
    if !has_node().await {
        return;
    }
    let dir = tempfile::tempdir().expect("a folder");
    std::fs::copy(concat!(env!("CARGO_MANIFEST_DIR"), "/ui/client.js"), dir.path().join("rbee-hive.mjs"))
        .expect("a copy");
    let file = dir.path().join("breaks.mjs");
    std::fs::write(&file, BREAKS).expect("a file");
    let output = soon("the client", command("node").arg(file).output()).await.expect("it runs");
    let said = String::from_utf8_lossy(&output.stdout);
    assert_eq!(said.trim(), "none,e-5", "{}", String::from_utf8_lossy(&output.stderr));
}
