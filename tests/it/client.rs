//! The typed client, against a real hive.

use futures::StreamExt;
use rbee_hive::client::{ChatPart, Client, Error, Follow, Followed, HiveEvent, Host, JobQuery};
use rbee_hive::error::Code;
use rbee_hive::jobs::event::{Body, Event, Terminal};
use rbee_hive::models::Model;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use crate::support::{Relay, StallingServer, TestHive, nowhere, soon, write_embedding_model, write_model};

fn client_at(url: &str) -> Client {
    Client::connect(url.parse::<Host>().expect("an address"), None).expect("a client")
}

/// The next event of a job that has one.
async fn next(follow: &mut Follow) -> Event {
    loop {
        let followed = soon("an event", follow.next()).await.expect("the hive is there");
        match followed.expect("the job has not ended") {
            Followed::Event(event) => return event,
            Followed::Elision(_) | Followed::Lost(_) => {}
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn operations_run_to_their_end() {
    let hive = TestHive::start().await;
    write_model(&hive.models_dir(), "tiny");
    let client = client_at(&hive.url);
    soon("health", client.health()).await.expect("it answers");
    let models: Vec<Model> = soon("models", client.run(&json!({ "ModelList": {} }))).await.expect("a list");
    assert_eq!(models.iter().map(|model| &*model.id).collect::<Vec<_>>(), ["tiny"]);

    let failed = client.run::<Value>(&json!({ "ModelGet": { "id": "unknown" } })).await;
    assert!(matches!(failed, Err(Error::Failed(failure)) if failure.code == Code::ModelNotFound));
    let refused = client.run::<Value>(&json!({ "ModelGet": {} })).await;
    assert!(matches!(refused, Err(Error::Refused(failure)) if failure.code == Code::InvalidField));
    let unreachable = client_at(&nowhere()).health().await;
    assert!(matches!(unreachable, Err(Error::Unreachable(failure)) if failure.message.contains("refused")));

    let page = client.jobs(&JobQuery { limit: Some(1), ..JobQuery::default() }).await.expect("a page");
    assert_eq!(page.jobs[0].operation, "model_get");
    let job = client.job(page.jobs[0].job_id.as_str()).await.expect("a job");
    assert_eq!(job.failure.expect("it failed").code, Code::ModelNotFound);
    assert!(client.capabilities().await.expect("JSON")["devices"].is_array());
    assert!(client.reload().await.is_ok());
    hive.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_that_is_followed_goes_on_after_a_lost_connection() {
    let (hive, server) = (TestHive::start().await, StallingServer::start().await);
    let relay = Relay::to(&hive.url).await;
    let client = client_at(&relay.url);
    let download = json!({ "ModelDownload": { "model": server.model("half") } });
    let job = client.submit(&download).await.expect("a job");
    let mut follow = client.follow(job.as_str());
    let mut seen = vec![next(&mut follow).await.seq];
    server.connections(1).await;
    relay.cut();
    let lost = soon("the loss", async {
        loop {
            match follow.next().await.expect("patience").expect("it has not ended") {
                Followed::Lost(failure) => return failure,
                Followed::Event(event) => seen.push(event.seq),
                Followed::Elision(_) => {}
            }
        }
    })
    .await;
    assert!(lost.message.contains("lost"), "{lost}");
    relay.mend();
    soon("the cancel", client_at(&hive.url).cancel(job.as_str())).await.expect("it runs");
    loop {
        let event = next(&mut follow).await;
        seen.push(event.seq);
        if let Body::Terminal(terminal) = event.body {
            assert!(matches!(terminal, Terminal::Cancelled));
            break;
        }
    }
    assert!(follow.next().await.expect("nothing more is asked").is_none());
    let all: Vec<u64> = (1..=seen.len() as u64).collect();
    assert_eq!(seen, all, "each event came once, in its order");
    drop(relay);
    hive.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_submission_whose_answer_is_lost_makes_one_job() {
    let hive = TestHive::start().await;
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = listener.local_addr().expect("an address");
    let target = hive.address();
    let relay = rbee_hive::spawn::detached(async move {
        // The first answer never arrives.
        let (mut near, _) = listener.accept().await.expect("a connection");
        let mut far = TcpStream::connect(target).await.expect("the hive");
        let mut buffer = [0; 16 << 10];
        let read = near.read(&mut buffer).await.expect("a request");
        far.write_all(&buffer[..read]).await.expect("it is sent");
        let answered = far.read(&mut buffer).await.expect("an answer");
        assert!(buffer[..answered].starts_with(b"HTTP/1.1 201"));
        drop(near);
        while let Ok((mut near, _)) = listener.accept().await {
            let mut far = TcpStream::connect(target).await.expect("the hive");
            let _ended = tokio::io::copy_bidirectional(&mut near, &mut far).await;
        }
    });
    let client = client_at(&format!("http://{address}"));
    let job = soon("a job", client.submit(&json!({ "ModelList": {} }))).await.expect("a job");
    let page = client_at(&hive.url).jobs(&JobQuery::default()).await.expect("a page");
    assert_eq!(page.jobs.iter().map(|job| &job.job_id).collect::<Vec<_>>(), [&job]);
    relay.abort();
    hive.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_events_of_the_hive_come_and_go_on_after_a_lost_connection() {
    let hive = TestHive::start().await;
    let relay = Relay::to(&hive.url).await;
    let mut events = client_at(&relay.url).events();
    let mut named = async |wanted: &str| {
        soon(wanted, async {
            loop {
                match events.next().await.expect("patience") {
                    HiveEvent::Event { name, data } if name == wanted => return data,
                    HiveEvent::Lost(_) if wanted == "lost" => return Value::Null,
                    _ => {}
                }
            }
        })
        .await
    };
    assert!(named("snapshot").await["models"].is_array());
    relay.cut();
    named("lost").await;
    relay.mend();
    // It happened while nobody was connected, or after that.
    hive.run(&json!({ "ModelDelete": { "id": "unknown" } })).await;
    assert_eq!(named("job").await["job"]["operation"], "model_delete");
    drop(relay);
    hive.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn models_answer_and_workers_have_logs() {
    let hive = TestHive::start().await;
    write_model(&hive.models_dir(), "tiny");
    write_embedding_model(&hive.models_dir(), "vectors");
    let client = client_at(&hive.url);
    let request =
        json!({ "model": "tiny", "temperature": 0, "messages": [{ "role": "user", "content": "Hello" }] });
    let mut answer = soon("an answer", client.chat(&request)).await.expect("an answer");
    let mut text = String::new();
    while let Some(part) = soon("a part", answer.next()).await.expect("a whole answer") {
        if let ChatPart::Chunk(chunk) = part {
            text += chunk["choices"][0]["delta"]["content"].as_str().unwrap_or_default();
        }
    }
    assert_eq!(text.trim(), "Hello from a small model.");
    let vectors = client.embeddings(&json!({ "model": "vectors", "input": "Hello" })).await.expect("vectors");
    assert!(vectors["data"][0]["embedding"].is_array(), "{vectors}");
    let unknown = client.chat(&json!({ "model": "unknown", "messages": [] })).await;
    assert!(matches!(unknown, Err(Error::Refused(_))), "{unknown:?}");

    let worker = hive.app.workers.list().first().expect("a worker").pid;
    let log = client.worker_log(worker, false).await.expect("a log");
    let log: Vec<_> = soon("the log", log.collect()).await;
    assert!(log.iter().all(Result::is_ok));
    let none = client.worker_log(u32::MAX, false).await.map(drop);
    assert!(matches!(none, Err(Error::Refused(failure)) if failure.code == Code::WorkerNotFound));
    hive.stop().await;
}
