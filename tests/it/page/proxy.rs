//! The page below a path of a proxy, which cuts that path off.

use axum::body::Body;
use axum::extract::Request;
use axum::response::Response;
use serde_json::json;
use tokio::net::TcpListener;

use crate::support::{Browser, TestHive, client, write_model};

const TOKEN: &str = "correct-horse-battery-staple-0123456789";

/// Passes what is below `/hive` and `/other` on to the hive at `url`. Refuses the rest.
async fn serve_below_a_path(url: String) -> String {
    let forward = async move |request: Request| {
        let (parts, body) = request.into_parts();
        let target = parts.uri.path_and_query().map_or("/", |target| target.as_str());
        let Some(target) = target.strip_prefix("/hive/").or_else(|| target.strip_prefix("/other/")) else {
            return Response::builder().status(404).body(Body::empty()).expect("an answer");
        };
        let request = client().request(parts.method, format!("{url}/{target}")).headers(parts.headers);
        let body = axum::body::to_bytes(body, 1 << 20).await.expect("a body");
        let answer = request.body(body).send().await.expect("the hive answers");
        let mut response = Response::builder().status(answer.status());
        // The connection's own headers are not for the next one.
        let own = ["connection", "transfer-encoding"];
        for (name, value) in answer.headers().iter().filter(|(name, _)| !own.contains(&name.as_str())) {
            response = response.header(name, value);
        }
        response.body(Body::from_stream(answer.bytes_stream())).expect("an answer")
    };
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.expect("a free port");
    let address = listener.local_addr().expect("an address");
    let router = axum::Router::new().fallback(forward);
    drop(rbee_hive::spawn::detached(axum::serve(listener, router).into_future()));
    format!("http://{address}")
}

#[tokio::test(flavor = "multi_thread")]
async fn the_page_and_its_streams_work_below_a_path_of_a_proxy() {
    let Some(browser) = Browser::start().await else { return };
    let hive = TestHive::start_with(|config| {
        let file = config.data_dir.with_file_name("token");
        std::fs::write(&file, TOKEN).expect("a token");
        let private = std::os::unix::fs::PermissionsExt::from_mode(0o600);
        std::fs::set_permissions(&file, private).expect("a mode");
        config.token_file = Some(file);
    })
    .await;
    write_model(&hive.models_dir(), "tiny");
    let proxy = serve_below_a_path(hive.url.clone()).await;
    browser.open(&format!("{proxy}/hive/#/models")).await;
    browser.shows("dialog", "This hive asks for a token").await;
    browser.fill("#token", TOKEN).await;
    browser.click("dialog", "Continue").await;
    // The cookie of the session reaches the stream of events, and a job its own stream.
    browser.shows("#connection", "Live").await;
    browser.shows("main", "tiny").await;
    let refresh = "const done = arguments[0]; let job;\
        import(new URL('lib/api.js', document.querySelector('script').src))\
            .then(({run}) => run({ModelList: {}}, {onJob: (id) => (job = id)})).then(([{id}]) => done([id, job]));";
    let found = browser.run_async(refresh).await;
    assert_eq!(found[0], json!("tiny"));

    let job = found[1].as_str().expect("an id");
    browser.run(&format!("location.hash = '#/jobs/{job}'")).await;
    browser.click("main .page-head", "Copy as curl").await;
    let command = "[...document.querySelectorAll('.code pre')].map((e) => e.textContent).find((text) => text.startsWith('curl'))";
    let command = browser.eval(command).await;
    let command = command.as_str().expect("a command");
    assert!(command.starts_with(&format!("curl -sS {proxy}/hive/v1/jobs ")), "{command}");

    // Other tabs of this hive get the token. A hive below another path is another hive.
    let asks = "const done = arguments[0]; const tabs = new BroadcastChannel('rbee.token/hive');\
        tabs.onmessage = ({data}) => data.token && done(data.token); tabs.postMessage({asks: true});";
    assert_eq!(browser.run_async(asks).await, json!(TOKEN));
    browser.open(&format!("{proxy}/other/")).await;
    browser.shows("dialog", "This hive asks for a token").await;
    drop(browser);
    hive.stop().await;
}
