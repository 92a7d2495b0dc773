use std::os::unix::fs::PermissionsExt;

use axum::Router;
use axum::routing::get;
use tokio::io::AsyncWriteExt;

use super::*;
use crate::config::Timers;
use crate::http::body::post;
use crate::http::testing::{Served, read_until, status};
use crate::http::{problem, session};

const TOKEN: &str = "a-token-of-the-test";

async fn serve(change: impl FnOnce(&mut Config)) -> Served {
    let dir = tempfile::tempdir().unwrap();
    let mut config = Config { data_dir: dir.path().to_owned(), ..Config::default() };
    change(&mut config);
    let callers = Callers::open(&config).unwrap();
    let policy = Arc::new(AccessPolicy::new(&config, callers, Usage::default()).unwrap());
    let ok = || async { "reached" };
    let app = Router::new()
        .route("/health", get(ok))
        .route("/", get(ok))
        .route("/v1/jobs", post(ok).get(ok))
        .route("/v1/shutdown", post(ok))
        .route("/v1/jobs/{id}/stream", get(ok))
        .route("/v1/events", get(ok))
        .route("/v1/session", post(session::create).delete(session::end).with_state(policy.sessions()))
        .fallback(problem::route_not_found)
        .method_not_allowed_fallback(problem::method_not_allowed)
        .layer(axum::middleware::from_fn_with_state(policy, check_access));
    Served::start(app, Timers::default()).await
}

/// Without a wait for wrong tokens.
async fn serve_with_token() -> Served {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), TOKEN).unwrap();
    std::fs::set_permissions(file.path(), std::fs::Permissions::from_mode(0o600)).unwrap();
    serve(|config| {
        config.token_file = Some(file.path().to_owned());
        config.timers.wrong_token = std::time::Duration::ZERO.into();
    })
    .await
}

#[track_caller]
fn assert_refused(answer: &str, expected: u16, code: &str) {
    assert_eq!(status(answer), expected, "{answer}");
    assert!(answer.contains(&format!(r#""code":"{code}""#)), "{answer}");
    assert!(answer.contains("content-type: application/problem+json"), "{answer}");
    assert!(!answer.contains("reached"), "{answer}");
}

#[tokio::test]
async fn only_hosts_of_this_machine_and_allowed_ones_are_answered() {
    let served = serve(|config| config.allow_hosts = vec!["hive.example".into()]).await;
    for host in ["@HERE", "localhost", "LOCALHOST:1", "a.localhost", "[::1]:7835", "hive.example:8080"] {
        let answer = served.ask(&format!("GET /v1/jobs HTTP/1.1\nHost: {host}\n"), "").await;
        assert_eq!(status(&answer), 200, "{host}: {answer}");
        assert!(
            answer.contains("x-content-type-options: nosniff") && answer.contains("cache-control: no-store")
        );
    }
    for host in
        ["evil.example", "evil.example:7835", "0.0.0.0:7835", "192.0.2.1", "hive.example.evil.example"]
    {
        let answer = served.ask(&format!("GET /v1/jobs HTTP/1.1\nHost: {host}\n"), "").await;
        assert_refused(&answer, 403, "host_refused");
    }
    for head in ["", "Host: @HERE\nHost: evil.example\n", "Host: user@localhost\n", "Host:\n"] {
        let answer = served.ask(&format!("GET /v1/jobs HTTP/1.1\n{head}"), "").await;
        assert_refused(&answer, 400, "invalid_request");
    }
    let answer = served.ask("GET http://evil.example/v1/jobs HTTP/1.1\nHost: @HERE\n", "").await;
    assert_refused(&answer, 403, "host_refused");
    let answer = served.ask("GET http://localhost/v1/jobs HTTP/1.1\nHost: evil.example\n", "").await;
    assert_eq!(status(&answer), 200, "{answer}");
    served.stop().await;
}

#[tokio::test]
async fn pages_of_other_origins_are_refused_unless_allowed() {
    let served = serve(|config| {
        config.allow_origins = vec!["http://localhost:3000".into(), "app://obsidian.md".into()];
    })
    .await;
    let with = |origin: &str| format!("GET /v1/jobs HTTP/1.1\nHost: @HERE\nOrigin: {origin}\n");
    for origin in [
        "https://evil.example",
        "app://obsidian",
        "tauri://obsidian.md",
        "chrome-extension://abc",
        "null",
        "http://localhost:3001",
        "https://localhost:3000",
        "file://",
        "a\nOrigin: b",
    ] {
        let answer = served.ask(&with(origin), "").await;
        assert_refused(&answer, 403, "origin_refused");
        assert!(!answer.contains("access-control-allow-origin"), "{answer}");
    }
    let own = served.ask(&with("http://@HERE"), "").await;
    assert_eq!(status(&own), 200, "{own}");
    assert!(!own.contains("access-control-allow-origin"), "{own}");
    let program = served.ask(&with("app://obsidian.md"), "").await;
    assert!(program.contains("access-control-allow-origin: app://obsidian.md"), "{program}");
    let allowed = served.ask(&with("http://localhost:3000"), "").await;
    assert_eq!(status(&allowed), 200, "{allowed}");
    for header in [
        "access-control-allow-origin: http://localhost:3000",
        "vary: Origin",
        "access-control-expose-headers: Location, Request-Id, Retry-After, X-Rbee-Ignored-Fields, X-Rbee-Job-Id, X-Rbee-Request-Id",
    ] {
        assert!(allowed.contains(header), "{allowed}");
    }
    served.stop().await;
}

#[tokio::test]
async fn what_a_browser_marks_as_of_another_site_reaches_the_page_alone() {
    let served = serve(|config| config.allow_origins = vec!["http://page.example".into()]).await;
    let get = |path: &str, more: &str| format!("GET {path} HTTP/1.1\nHost: @HERE\n{more}");
    for site in ["cross-site", "same-site"] {
        let marked = format!("Sec-Fetch-Site: {site}\nSec-Fetch-Mode: no-cors\n");
        for path in ["/v1/jobs", "/v1/events", "/health", "/nothing"] {
            assert_refused(&served.ask(&get(path, &marked), "").await, 403, "origin_refused");
        }
        let navigation =
            format!("Sec-Fetch-Site: {site}\nSec-Fetch-Mode: navigate\nSec-Fetch-Dest: document\n");
        assert_refused(&served.ask(&get("/v1/jobs", &navigation), "").await, 403, "origin_refused");
        assert_eq!(status(&served.ask(&get("/", &navigation), "").await), 200);
        let post = format!("POST /v1/shutdown HTTP/1.1\nHost: @HERE\n{marked}");
        assert_refused(&served.ask(&post, "").await, 403, "origin_refused");
        let allowed = format!("{marked}Origin: http://page.example\n");
        assert_eq!(status(&served.ask(&get("/v1/jobs", &allowed), "").await), 200);
    }
    for site in ["same-origin", "none"] {
        let answer = served.ask(&get("/v1/jobs", &format!("Sec-Fetch-Site: {site}\n")), "").await;
        assert_eq!(status(&answer), 200, "{site}: {answer}");
    }
    served.stop().await;
}

#[tokio::test]
async fn the_preflight_of_an_allowed_page_needs_no_token() {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), TOKEN).unwrap();
    let served = serve(|config| {
        config.token_file = Some(file.path().to_owned());
        config.allow_origins = vec!["http://page.example".into()];
    })
    .await;
    let preflight = |origin: &str| {
        format!(
            "OPTIONS /v1/jobs HTTP/1.1\nHost: @HERE\nOrigin: {origin}\nAccess-Control-Request-Method: POST\n\
             Access-Control-Request-Headers: authorization,x-stainless-os\n"
        )
    };
    let answer = served.ask(&preflight("http://page.example"), "").await;
    assert_eq!(status(&answer), 204, "{answer}");
    for header in [
        "access-control-allow-origin: http://page.example",
        "access-control-allow-methods: GET, POST, DELETE",
        "access-control-allow-headers: authorization,x-stainless-os",
        "vary: Origin",
    ] {
        assert!(answer.contains(header), "{answer}");
    }
    assert_refused(&served.ask(&preflight("http://evil.example"), "").await, 403, "origin_refused");
    // The page must be able to read the refusal of the request itself.
    let answer = served.ask("GET /v1/jobs HTTP/1.1\nHost: @HERE\nOrigin: http://page.example\n", "").await;
    assert_refused(&answer, 401, "unauthorized");
    assert!(answer.contains("access-control-allow-origin: http://page.example"), "{answer}");
    assert!(!answer.contains("access-control-allow-credentials"), "{answer}");
    // The streams that the cookie is for accept it.
    let answer = served.ask("GET /v1/events HTTP/1.1\nHost: @HERE\nOrigin: http://page.example\n", "").await;
    assert!(answer.contains("access-control-allow-credentials: true"), "{answer}");
    served.stop().await;
}

#[tokio::test]
async fn x_api_key_has_the_same_token_and_makes_up_for_no_wrong_one() {
    let served = serve_with_token().await;
    let (bearer, key) = (format!("Authorization: Bearer {TOKEN}\n"), format!("x-api-key: {TOKEN}\n"));
    for (headers, expected) in [
        (key.clone(), 200),
        (format!("{bearer}{key}"), 200),
        // Client libraries send a key of another service along.
        (format!("{bearer}x-api-key: another\n"), 200),
        ("x-api-key: another\n".to_owned(), 401),
        (format!("x-api-key: Bearer {TOKEN}\n"), 401),
        (format!("{key}x-api-key: another\n"), 401),
        (format!("Authorization: Bearer another\n{key}"), 401),
        (format!("Authorization: Basic another\n{key}"), 401),
    ] {
        let answer = served.ask(&format!("GET /v1/jobs HTTP/1.1\nHost: @HERE\n{headers}"), "").await;
        assert_eq!(status(&answer), expected, "{headers}: {answer}");
    }
    let guess = served.ask("GET /v1/jobs HTTP/1.1\nHost: @HERE\nx-api-key: another\n", "").await;
    assert!(guess.contains("the token is not this hive's"), "it counts as a guess: {guess}");
    served.stop().await;
}

#[tokio::test]
async fn every_path_but_the_health_check_and_the_page_needs_the_token() {
    let served = serve_with_token().await;
    for path in ["/health", "/"] {
        let answer = served.ask(&format!("GET {path} HTTP/1.1\nHost: @HERE\n"), "").await;
        assert_eq!(status(&answer), 200, "{answer}");
    }
    let guess = format!("Authorization: Bearer {TOKEN}x\n");
    let twice = format!("Authorization: Bearer {TOKEN}\nAuthorization: Bearer {TOKEN}\n");
    for header in
        ["", guess.as_str(), "Authorization: Bearer \n", "Authorization: Basic abc\n", twice.as_str()]
    {
        for path in ["/v1/jobs", "/v1/events", "/nothing", "/health/x", "/v1/jobs?x=/health"] {
            let answer = served.ask(&format!("GET {path} HTTP/1.1\nHost: @HERE\n{header}"), "").await;
            assert_refused(&answer, 401, "unauthorized");
            assert!(answer.contains("www-authenticate: Bearer"), "{answer}");
        }
    }
    assert_refused(&served.ask("POST /health HTTP/1.1\nHost: @HERE\n", "").await, 401, "unauthorized");
    for header in [format!("authorization: bearer {TOKEN}"), format!("X-Api-Key: {TOKEN}")] {
        let right = format!("GET /v1/jobs HTTP/1.1\nHost: @HERE\n{header}\n");
        assert_eq!(status(&served.ask(&right, "").await), 200);
    }
    for header in ["X-Api-Key: wrong".to_owned(), format!("Authorization: Basic x\nX-Api-Key: {TOKEN}")] {
        let wrong = format!("GET /v1/jobs HTTP/1.1\nHost: @HERE\n{header}\n");
        assert_refused(&served.ask(&wrong, "").await, 401, "unauthorized");
    }
    served.stop().await;
}

#[tokio::test]
async fn a_session_gives_access_to_event_streams_alone() {
    let served = serve_with_token().await;
    let answer = served.ask("POST /v1/session HTTP/1.1\nHost: @HERE\n", "").await;
    assert_refused(&answer, 401, "unauthorized");
    let open = format!("POST /v1/session HTTP/1.1\nHost: @HERE\nAuthorization: Bearer {TOKEN}\n");
    let answer = served.ask(&open, "").await;
    assert_eq!(status(&answer), 204, "{answer}");
    let set = answer.lines().find_map(|line| line.strip_prefix("set-cookie: ")).unwrap();
    let cookie = set.split(';').next().unwrap();
    assert!(!answer.contains(TOKEN));

    let with = |line: &str| format!("{line} HTTP/1.1\nHost: @HERE\nCookie: {cookie}\n");
    for path in ["/v1/events", "/v1/jobs/job-1/stream"] {
        let answer = served.ask(&with(&format!("GET {path}")), "").await;
        assert_eq!(status(&answer), 200, "{answer}");
    }
    for line in
        ["POST /v1/jobs", "GET /v1/jobs", "POST /v1/events", "POST /v1/session", "GET /v1/jobs//stream"]
    {
        assert_refused(&served.ask(&with(line), "").await, 401, "unauthorized");
    }
    assert_refused(&served.ask("DELETE /v1/session HTTP/1.1\nHost: @HERE\n", "").await, 401, "unauthorized");
    let ended = served.ask(&with("DELETE /v1/session"), "").await;
    assert_eq!(status(&ended), 204, "{ended}");
    assert!(ended.contains("set-cookie: rbee_session=; ") && ended.contains("; Max-Age=0"), "{ended}");
    for line in ["GET /v1/events", "DELETE /v1/session"] {
        assert_refused(&served.ask(&with(line), "").await, 401, "unauthorized");
    }
    served.stop().await;
}

#[tokio::test]
async fn a_wrong_token_is_answered_late_and_the_right_one_at_once() {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), TOKEN).unwrap();
    let served = serve(|config| {
        config.token_file = Some(file.path().to_owned());
        config.timers.wrong_token = std::time::Duration::from_secs(3600).into();
    })
    .await;
    let with =
        |token: &str| format!("GET /v1/jobs HTTP/1.1\r\nHost: localhost\r\nX-Api-Key: {token}\r\n\r\n");
    let mut guesser = served.send("").await;
    for _ in 0..5 {
        guesser.write_all(with("a-guess").as_bytes()).await.unwrap();
        read_until(&mut guesser, "unauthorized").await;
    }
    // Its answer takes an hour; the answers to others from the same address do not wait for that.
    guesser.write_all(with("a-guess").as_bytes()).await.unwrap();
    let mut user = served.send(&with(TOKEN)).await;
    read_until(&mut user, "reached").await;
    let mut without = served.send("GET /v1/jobs HTTP/1.1\r\nHost: localhost\r\n\r\n").await;
    read_until(&mut without, "this hive asks for a token").await;
    assert!(guesser.try_read(&mut [0; 1]).is_err_and(|error| error.kind() == std::io::ErrorKind::WouldBlock));
    drop(guesser);
    served.stop().await;
}

#[tokio::test]
async fn without_a_token_no_session_is_made() {
    let served = serve(|_| {}).await;
    let answer = served.ask("POST /v1/session HTTP/1.1\nHost: @HERE\n", "").await;
    assert_eq!(status(&answer), 204, "{answer}");
    assert!(!answer.contains("set-cookie"), "{answer}");
    served.stop().await;
}

#[tokio::test]
async fn a_post_must_be_json_or_have_no_body() {
    let served = serve(|_| {}).await;
    let post = |headers: &str| format!("POST /v1/jobs HTTP/1.1\nHost: @HERE\n{headers}");
    for headers in [
        "Content-Type: text/plain\nContent-Length: 2\n",
        "Content-Type: application/x-www-form-urlencoded\nContent-Length: 2\n",
        "Content-Type: text/plain\n",
        "Content-Length: 2\n",
        "Content-Type: application/json\nContent-Type: text/plain\nContent-Length: 2\n",
    ] {
        assert_refused(&served.ask(&post(headers), "{}").await, 415, "unsupported_media_type");
    }
    let chunked = served.ask(&post("Transfer-Encoding: chunked\n"), "2\r\n{}\r\n0\r\n\r\n").await;
    assert_refused(&chunked, 415, "unsupported_media_type");
    let json = post("Content-Type: application/json; charset=utf-8\nContent-Length: 2\n");
    assert_eq!(status(&served.ask(&json, "{}").await), 200);
    for headers in ["", "Content-Length: 0\n"] {
        let answer = served.ask(&format!("POST /v1/shutdown HTTP/1.1\nHost: @HERE\n{headers}"), "").await;
        assert_eq!(status(&answer), 200, "{answer}");
    }
    served.stop().await;
}
