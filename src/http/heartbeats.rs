//! `GET /v1/heartbeats/stream`: the health of this hive and its workers, one event for each telemetry sample.
//!
//! The queen reads this stream. It drops a worker that lacks any of its twelve keys, so a sample always
//! has all of them. It does not read `system`.

use axum::extract::State;
use axum::response::Response;
use bytes::{Bytes, BytesMut};
use futures::{Stream, StreamExt};
use serde::Serialize;
use tokio_stream::wrappers::WatchStream;
use tokio_util::sync::CancellationToken;
use utoipa::ToSchema;

use super::sse;
use crate::app::{App, AppState};
use crate::readers;
use crate::text::json;
use crate::workers::telemetry::{HeartbeatWorker, MachineUsage, Sample};
use crate::workers::{Status, Worker};

/// Follows the health of the hive and its workers, once a second.
///
/// The queen reads this stream.
#[utoipa::path(
    get,
    path = "/v1/heartbeats/stream",
    operation_id = "follow_heartbeats",
    tag = "Hive",
    responses((status = 200, description = "Events `heartbeat`.", body = Heartbeat<'static>,
        content_type = "text/event-stream"))
)]
pub(crate) async fn get(State(app): State<AppState>) -> Response {
    let samples = WatchStream::from_changes(app.telemetry.subscribe());
    let quiet = app.quiet.clone();
    let counted = app.readers.of(readers::Stream::Heartbeats);
    let events = samples.map(move |sample| {
        let _counted = &counted;
        heartbeat(&app, &sample).event()
    });
    stream(events, quiet)
}

/// The heartbeat of a sample.
pub(crate) fn heartbeat<'a>(app: &'a App, sample: &'a Sample) -> Heartbeat<'a> {
    let trouble = Trouble::of(&app.workers.list());
    Heartbeat::new(app.hive_id(), &app.hostname, app.address.port(), trouble, sample)
}

/// The hive, as each heartbeat describes it.
#[derive(Debug, Serialize, ToSchema)]
struct HiveInfo<'a> {
    id: &'a str,
    hostname: &'a str,
    port: u16,
    /// Always `ready`: the stream of a hive that stops ends.
    operational_status: &'static str,
    health_status: Health,
    version: &'static str,
}

/// The health of a hive.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
#[serde(tag = "status", rename_all = "snake_case")]
enum Health {
    /// Nothing is wrong.
    Healthy,
    /// A part of it does not work.
    Degraded {
        /// What is wrong, for a person.
        reason: String,
    },
    /// It cannot do its work.
    Unhealthy {
        /// What is wrong, for a person.
        reason: String,
    },
}

/// The least free space on the disk of the data folder: with less, a hive cannot write journals.
const LEAST_DISK_BYTES: u64 = 16 << 20;

/// How many workers are in trouble.
#[derive(Clone, Copy, Debug, Default)]
struct Trouble {
    crashed: usize,
    unresponsive: usize,
}

impl Trouble {
    fn of(workers: &[Worker]) -> Self {
        let count = |status| workers.iter().filter(|worker| worker.status == status).count();
        Self { crashed: count(Status::Crashed), unresponsive: count(Status::Unresponsive) }
    }

    /// What is wrong, for a person; `None` where nothing is.
    fn reason(self) -> Option<String> {
        let counts = [(self.unresponsive, "not responding"), (self.crashed, "crashed")];
        let some = counts.iter().filter(|(count, _)| *count > 0);
        let reason = some.map(|(count, what)| format!("{count} worker(s) {what}")).collect::<Vec<_>>();
        (!reason.is_empty()).then(|| reason.join(", "))
    }
}

impl Health {
    /// The health of a hive with such trouble and so much free space on the disk of its data.
    fn of(trouble: Trouble, disk_free_bytes: u64) -> Self {
        if disk_free_bytes < LEAST_DISK_BYTES {
            let reason = format!("the disk of the data folder has {disk_free_bytes} bytes left");
            Self::Unhealthy { reason }
        } else if let Some(reason) = trouble.reason() {
            Self::Degraded { reason }
        } else {
            Self::Healthy
        }
    }
}

/// One heartbeat.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Heartbeat<'a> {
    r#type: &'static str,
    hive_id: &'a str,
    hive_info: HiveInfo<'a>,
    #[schema(format = DateTime)]
    timestamp: &'a str,
    #[schema(value_type = Vec<HeartbeatWorker>)]
    workers: &'a [HeartbeatWorker],
    system: &'a MachineUsage,
}

impl<'a> Heartbeat<'a> {
    fn new(hive_id: &'a str, hostname: &'a str, port: u16, trouble: Trouble, sample: &'a Sample) -> Self {
        let Sample { timestamp, system, workers } = sample;
        let disk_free_bytes = system.disk_total_bytes.saturating_sub(system.disk_used_bytes);
        // A disk that could not be read has a size of 0: that is no shortage of space.
        let disk_free_bytes = if system.disk_total_bytes == 0 { u64::MAX } else { disk_free_bytes };
        let hive_info = HiveInfo {
            id: hive_id,
            hostname,
            port,
            operational_status: "ready",
            health_status: Health::of(trouble, disk_free_bytes),
            version: env!("CARGO_PKG_VERSION"),
        };
        Self { r#type: "telemetry", hive_id, hive_info, timestamp, workers, system }
    }

    /// The heartbeat as one event of the stream.
    fn event(&self) -> Bytes {
        let mut out = BytesMut::new();
        sse::event(&mut out, "heartbeat", None, &json(self));
        out.freeze()
    }
}

/// Streams `events` until they end or the hive stops.
fn stream(events: impl Stream<Item = Bytes> + Send + 'static, shutdown: CancellationToken) -> Response {
    sse::response(events.take_until(shutdown.cancelled_owned()))
}

#[cfg(test)]
mod tests {
    use axum::Router;
    use axum::routing::get;
    use serde_json::{Value, json};
    use tokio::sync::mpsc;
    use tokio_stream::wrappers::UnboundedReceiverStream;

    use super::*;
    use crate::config::Timers;
    use crate::http::testing::{Served, read_until};

    #[test]
    fn a_heartbeat_has_the_keys_that_the_queen_reads_in_order() {
        let trouble = Trouble { crashed: 1, unresponsive: 2 };
        let sample = Sample { timestamp: "2026-11-23T12:00:00.123Z".into(), ..Sample::default() };
        let event = Heartbeat::new("localhost", "machine", 7835, trouble, &sample).event();
        let text = std::str::from_utf8(&event).unwrap();
        let data = text.strip_prefix("event: heartbeat\ndata: ").unwrap().strip_suffix("\n\n").unwrap();
        let value: Value = serde_json::from_str(data).unwrap();
        let keys: Vec<_> = value.as_object().unwrap().keys().collect();
        assert_eq!(keys, ["type", "hive_id", "hive_info", "timestamp", "workers", "system"]);
        let info: Vec<_> = value["hive_info"].as_object().unwrap().keys().collect();
        assert_eq!(info, ["id", "hostname", "port", "operational_status", "health_status", "version"]);
        assert_eq!(
            value["hive_info"]["health_status"],
            json!({"status": "degraded", "reason": "2 worker(s) not responding, 1 worker(s) crashed"})
        );
        assert_eq!(
            serde_json::to_value(Health::of(Trouble::default(), 1 << 30)).unwrap(),
            json!({"status": "healthy"})
        );
        assert!(
            matches!(Health::of(trouble, 0), Health::Unhealthy { reason } if reason.contains("0 bytes left"))
        );
    }

    #[tokio::test]
    async fn the_stream_ends_when_the_hive_stops() {
        let (sender, receiver) = mpsc::unbounded_channel();
        let receiver = parking_lot::Mutex::new(Some(receiver));
        let stop = CancellationToken::new();
        let token = stop.clone();
        let receiver = std::sync::Arc::new(receiver);
        let app = Router::new().route(
            "/",
            get(move || async move {
                stream(UnboundedReceiverStream::new(receiver.lock().take().unwrap()), token)
            }),
        );
        let served = Served::start(app, Timers::default()).await;
        let mut reader = served.send("GET / HTTP/1.1\r\nHost: x\r\n\r\n").await;
        sender.send(Bytes::from_static(b"event: heartbeat\ndata: {}\n\n")).unwrap();
        let head = read_until(&mut reader, "data: {}\n\n").await;
        assert!(head.contains("content-type: text/event-stream"), "{head}");
        stop.cancel();
        read_until(&mut reader, "0\r\n\r\n").await;
        served.stop().await;
    }
}
