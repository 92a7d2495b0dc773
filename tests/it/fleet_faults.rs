//! What goes wrong in a fleet beside hives and servers that die: a full disk, a clock that is off, another version.

use std::time::Duration;

use async_nats::jetstream::{self, kv};
use futures::StreamExt;
use serde_json::{Value, json};

use crate::fleet::{act, assert_whole, hive, in_fleet_of, sees, status, stop, typed_at};
use crate::support::{Clock, Daemon, NatsServer, folder, soon, until};

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_of_the_servers_holds_events_back_and_loses_none() {
    let Some(mut nats) = NatsServer::start().await else { return };
    let (a, b) = (hive("a", &nats.url()).await, hive("b", &nats.url()).await);
    sees(&a, &["a", "b"]).await;
    sees(&b, &["a", "b"]).await;
    nats.kill().await;
    nats.has_room("60KB");
    nats.start_again().await;
    let mut ids = Vec::new();
    let filling = async {
        // Those that are only under way are fewer.
        while status(&b).await["unpublished"].as_u64() <= Some(20) {
            ids.push(b.submit(&act("localhost")).await);
        }
    };
    soon("a full disk", filling).await;
    // What concerns this hive alone goes on, and its streams are whole.
    let last = b.submit(&act("localhost")).await;
    assert_whole(&typed_at(&b.url, &last, None).await);
    ids.push(last);
    nats.kill().await;
    nats.has_room("1GB");
    nats.start_again().await;
    sees(&a, &["a", "b"]).await;
    until("all events to be published", async || {
        let status = status(&b).await;
        (status["is_in"] == true && status["unpublished"] == 0).then_some(())
    })
    .await;
    for id in &ids {
        let here = typed_at(&a.url, id, None).await;
        assert_whole(&here);
        assert_eq!(here, typed_at(&b.url, id, None).await);
    }
    stop([a, b]).await;
}

#[cfg(debug_assertions)]
#[tokio::test(flavor = "multi_thread")]
async fn a_hive_whose_clock_is_off_is_in_its_fleet_as_any_other() {
    let Some(nats) = NatsServer::start().await else { return };
    let a = hive("a", &nats.url()).await;
    let dir = folder();
    let clock = Clock::new(dir.path());
    clock.turn(-30 * 24 * 3600, Duration::ZERO);
    let config = dir.path().join("hive.toml");
    let text = format!("[fleet]\nnats = \"{}\"\nheartbeat = \"500ms\"\ngone_after = \"3s\"\n", nats.url());
    std::fs::write(&config, text).expect("a file");
    let config = config.to_str().expect("UTF-8");
    let b =
        Daemon::start_with(dir.path(), &["--config", config, "--hive-id", "b"], &[clock.environment()]).await;
    in_fleet_of(&b).await;
    sees(&a, &["a", "b"]).await;
    let mut ids = Vec::new();
    // A month behind, and then a month ahead: nobody is taken for silent, and every stream is whole.
    for days in [-30, 30] {
        clock.turn(days * 24 * 3600, Duration::ZERO);
        for hive in ["a", "b"] {
            ids.push(a.submit(&act(hive)).await);
            ids.push(b.submit(&act(hive)).await);
        }
        sees(&a, &["a", "b"]).await;
    }
    for id in &ids {
        let here = typed_at(&a.url, id, None).await;
        assert_whole(&here);
        assert_eq!(here, typed_at(&b.url, id, None).await);
    }
    let listed: Value = a.get("/v1/jobs?hive=all&operation=memory_lease").await.json().await.expect("JSON");
    let listed: Vec<_> =
        listed["jobs"].as_array().expect("jobs").iter().map(|job| job["job_id"].as_str()).collect();
    assert!(ids.iter().all(|id| listed.contains(&Some(id.as_str()))), "{listed:?}");
    b.stop().await;
    a.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hive_of_another_version_is_understood_as_far_as_it_can_be() {
    let Some(nats) = NatsServer::start().await else { return };
    let a = hive("a", &nats.url()).await;
    sees(&a, &["a"]).await;
    let client = async_nats::connect(nats.url()).await.expect("the server");
    let stream = jetstream::new(client.clone());
    let bucket = async |name: &str| -> kv::Store { stream.get_key_value(name).await.expect("a bucket") };
    let (hives, models) = (bucket("rbee_home_hives").await, bucket("rbee_home_models").await);

    // An older one tells less, a later one more; what is no entry at all is nobody's.
    for (key, entry) in [
        ("old", r#"{"hive":"old","folder":"f","run":"r","version":"0.0.1"}"#),
        (
            "new",
            r#"{"hive":"new","folder":"g","run":"r","version":"9.0.0","later":{"a":[1]},"direct":"quic://x"}"#,
        ),
        ("odd", "not JSON"),
    ] {
        hives.put(key, entry.into()).await.expect("an entry");
    }
    models.put("old.1", r#"{"id":"m","later":1}"#.into()).await.expect("an entry");
    sees(&a, &["a", "new", "old"]).await;
    let listed: Value = a.get("/v1/models").await.json().await.expect("JSON");
    assert_eq!(listed["data"], json!([]), "what is not understood is not offered");

    // A request that this hive does not know, or that is of another form, is refused with the reason.
    let ask = async |verb: &str, request: &'static str| -> Value {
        let answer = client.request(format!("rbee.home.hives.a.{verb}"), request.into()).await;
        serde_json::from_slice(&answer.expect("an answer").payload).expect("JSON")
    };
    let refused = ask("teleport", "{}").await;
    assert!(
        refused["refused"]["message"].as_str().is_some_and(|text| text.contains("'teleport'")),
        "{refused}"
    );
    assert!(refused["refused"]["hint"].as_str().is_some_and(|hint| hint.contains("update")), "{refused}");
    assert_eq!(ask("submit", "{\"later\":1}").await["refused"]["code"], "invalid_json");

    // What the other one answers is told, also where it cannot be understood.
    let mut requests = client.subscribe("rbee.home.hives.old.*").await.expect("a subscription");
    let answering = client.clone();
    let answers = async move {
        let refusal = r#"{"refused":{"code":"unknown_operation","message":"no such operation here"}}"#;
        for answer in [refusal, "gibberish"] {
            let request = requests.next().await.expect("a request");
            answering.publish(request.reply.expect("an inbox"), answer.into()).await.expect("sent");
        }
    };
    let asked = async {
        let list = json!({ "ModelList": { "hive_id": "old" } });
        let first: Value = a.post("/v1/jobs", &list).await.json().await.expect("JSON");
        let second: Value = a.post("/v1/jobs", &list).await.json().await.expect("JSON");
        (first, second)
    };
    let ((), (first, second)) = tokio::join!(answers, asked);
    assert_eq!(
        (&first["code"], &first["detail"]),
        (&json!("unknown_operation"), &json!("no such operation here"))
    );
    assert_eq!(second["code"], "hive_unreachable");
    assert!(second["detail"].as_str().is_some_and(|text| text.contains("was not understood")), "{second}");
    a.stop().await;
}
