use std::sync::Arc;

use axum::body::Body;
use axum::extract::Extension;
use axum::routing::get;
use bytes::Bytes;
use futures::StreamExt;
use tokio::io::AsyncReadExt;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;
use tokio_stream::wrappers::UnboundedReceiverStream;

use super::*;
use crate::http::testing::{Served, read_until, soon, status};

fn brief(change: impl FnOnce(&mut Timers)) -> Timers {
    let mut timers = Timers::default();
    change(&mut timers);
    timers
}

#[tokio::test]
async fn accepted_sockets_do_not_delay_small_packets() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let _client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
    let address = listener.local_addr().unwrap();
    let (stream, arrival) = accept(&listener.into(), &Seats::within_limits()).await;
    assert!(matches!(stream, Stream::Left(tcp) if tcp.nodelay().unwrap()));
    assert!(matches!(arrival, Arrival::Tcp { local, .. } if local == address));
}

#[tokio::test]
async fn handlers_see_the_local_address_and_a_panic_fails_one_request() {
    let app = Router::new()
        .route("/", get(|Extension(arrival): Extension<Arrival>| async move { format!("{arrival:?}") }))
        .route("/panic", get(|| async { panic!("on purpose") as () }));
    let served = Served::start(app, Timers::default()).await;
    let answer = served.ask("GET /panic HTTP/1.1\nHost: @HERE\n", "").await;
    assert_eq!(status(&answer), 500, "{answer}");
    let answer = served.ask("GET / HTTP/1.1\nHost: @HERE\n", "").await;
    let arrival = format!("Tcp {{ local: {}, peer: 127.0.0.1, ", served.address);
    assert!(answer.contains(&arrival), "{answer}");
    served.stop().await;
}

#[tokio::test]
async fn a_client_that_does_not_finish_its_head_is_disconnected() {
    let timers = brief(|timers| timers.request_head = Duration::from_millis(50).into());
    let served = Served::start(Router::new(), timers).await;
    let mut slow = served.send("GET / HTTP/1.1\r\nHost: lo").await;
    let mut rest = Vec::new();
    soon(slow.read_to_end(&mut rest)).await.unwrap();
    assert!(rest.is_empty() || rest.starts_with(b"HTTP/1.1 408"), "{}", String::from_utf8_lossy(&rest));
    served.stop().await;
}

/// Notifies when it is dropped.
struct NotifyOnDrop(Arc<Notify>);

impl Drop for NotifyOnDrop {
    fn drop(&mut self) {
        self.0.notify_one();
    }
}

#[tokio::test]
async fn a_reader_that_stalls_is_disconnected_although_the_body_never_ends() {
    let gone = Arc::new(Notify::new());
    let kept = gone.clone();
    let endless = get(move || {
        let notify = NotifyOnDrop(kept.clone());
        let chunks = futures::stream::repeat_with(move || {
            let _kept = &notify;
            Ok::<_, Infallible>(Bytes::from_static(&[b'x'; 1 << 16]))
        });
        async move { Body::from_stream(chunks) }
    });
    let timers = brief(|timers| timers.write_stall = Duration::from_millis(100).into());
    let served = Served::start(Router::new().route("/", endless), timers).await;
    let mut stalled = served.send("GET / HTTP/1.1\r\nHost: x\r\n\r\n").await;
    read_until(&mut stalled, "HTTP/1.1 200").await;
    soon(gone.notified()).await;
    served.stop().await;
}

#[tokio::test]
async fn a_shutdown_finishes_requests_in_flight_and_accepts_no_new_ones() {
    let (sender, receiver) = tokio::sync::mpsc::unbounded_channel::<&str>();
    let events = UnboundedReceiverStream::new(receiver).map(Ok::<_, Infallible>);
    let body = Arc::new(Mutex::new(Some(Body::from_stream(events))));
    let app = Router::new().route("/", get(move || async move { body.lock().take().unwrap() }));
    let served = Served::start(app, brief(|timers| timers.drain = Duration::from_secs(60).into())).await;
    let address = served.address;

    let idle = served.send("").await;
    let mut reader = served.send("GET / HTTP/1.1\r\nHost: x\r\n\r\n").await;
    sender.send("first").unwrap();
    read_until(&mut reader, "first").await;
    served.shutdown.cancel();
    let refused = async {
        while TcpStream::connect(address).await.is_ok() {
            tokio::task::yield_now().await;
        }
    };
    soon(refused).await;
    sender.send("last").unwrap();
    drop(sender);
    read_until(&mut reader, "last").await;
    served.stop().await;
    drop(idle);
}

#[tokio::test]
async fn connections_that_do_not_finish_in_time_are_closed() {
    let app = Router::new().route(
        "/",
        get(|| async {
            let first = futures::stream::iter([Ok::<_, Infallible>("data: open\n\n")]);
            Body::from_stream(first.chain(futures::stream::pending()))
        }),
    );
    let served = Served::start(app, brief(|timers| timers.drain = Duration::from_millis(50).into())).await;
    let mut reader = served.send("GET / HTTP/1.1\r\nHost: x\r\n\r\n").await;
    read_until(&mut reader, "data: open").await;
    served.stop().await;
    let mut rest = Vec::new();
    drop(soon(reader.read_to_end(&mut rest)).await);
    assert!(!String::from_utf8_lossy(&rest).contains("0\r\n\r\n"), "the body was not ended as if complete");
}
