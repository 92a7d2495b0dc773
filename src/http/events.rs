//! `GET /v1/events`: the changes of the whole hive, on one connection.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::{RawQuery, State};
use axum::http::HeaderMap;
use axum::response::Response;
use bytes::{Bytes, BytesMut};
use futures::stream;
use serde::Serialize;
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::{broadcast, watch};
use utoipa::ToSchema;

use super::sse;
use crate::app::{AppState, ModelChange};
use crate::events::HubReader;
use crate::fleet::HiveChange;
use crate::jobs::drain::JobChange;
use crate::jobs::job::JobSummary;
use crate::jobs::{JobFilter, OperationKind};
use crate::models::Model;
use crate::readers::{self, Stream};
use crate::requests::{Feed, Record};
use crate::residency::ResidencyView;
use crate::text::{each_member, json};
use crate::workers::telemetry::Sample;
use crate::workers::{Worker, WorkerChange};

/// The most acts of a snapshot, the newest.
const SNAPSHOT_JOBS: usize = 100;

/// The state of the hive, for a new reader.
#[derive(Serialize, ToSchema)]
#[schema(as = SnapshotEvent)]
struct Snapshot<'a> {
    hive_id: &'a str,
    version: &'static str,
    #[serde(serialize_with = "each_member")]
    jobs: Vec<JobSummary>,
    #[serde(serialize_with = "each_member")]
    models: Vec<Model>,
    #[serde(serialize_with = "each_member")]
    workers: Vec<Worker>,
    residency: ResidencyView,
    /// The fleet; left out where the hive stands alone.
    #[serde(skip_serializing_if = "Option::is_none")]
    fleet: Option<crate::fleet::Status>,
}

/// The heartbeat, and each worker as in its `worker` events: whether a worker is busy and how much it has
/// generated makes no event of its own.
#[derive(Serialize, ToSchema)]
#[schema(as = TelemetryEvent)]
struct Telemetry<'a> {
    #[serde(flatten)]
    heartbeat: super::heartbeats::Heartbeat<'a>,
    #[serde(serialize_with = "each_member")]
    worker_states: Vec<Worker>,
}

/// The data of an event, by its name.
#[derive(ToSchema)]
#[serde(untagged)]
#[schema(as = HiveEvent)]
#[expect(dead_code, reason = "the description of the API reads it")]
enum EventData {
    Snapshot(Box<Snapshot<'static>>),
    Job(JobChange<'static>),
    Model(ModelChange<'static>),
    Worker(WorkerChange),
    Request(Record),
    /// In the place of events `request` that are left out.
    LeftOut {
        state: String,
        count: u64,
    },
    Residency(ResidencyView),
    Hive(HiveChange),
    Telemetry(Telemetry<'static>),
}

/// Follows the whole hive: every change, on one connection.
///
/// The first event is a snapshot, unless the reader goes on where it was. The events are `snapshot`, `job`, `model`,
/// `worker`, `request`, `residency`, `hive` and `telemetry`; their data is JSON. The stream ends when the hive stops.
#[utoipa::path(
    get,
    path = "/v1/events",
    operation_id = "follow_hive",
    tag = "Hive",
    params(
        ("after" = Option<String>, Query, description = "The id of the last event that the reader has."),
        ("last-event-id" = Option<String>, Header, description = "The same; it counts where both are given."),
    ),
    responses((status = 200, description = "The events.", body = EventData, content_type = "text/event-stream"))
)]
pub(super) async fn events(
    State(app): State<AppState>,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
) -> Response {
    let after =
        query.as_deref().and_then(|query| query.split('&').find_map(|pair| pair.strip_prefix("after=")));
    let last_event_id = headers.get("last-event-id").and_then(|id| id.to_str().ok()).or(after);
    let reader = Reader {
        hub: app.events.follow(last_event_id),
        telemetry: app.telemetry.subscribe(),
        requests: app.requests.follow(),
        keep_alive: *app.config.timers.keep_alive,
        _counted: app.readers.of(Stream::Events),
        app,
    };
    sse::response(stream::unfold(reader, |mut reader| async {
        let chunk = reader.next().await?;
        Some((chunk, reader))
    }))
}

struct Reader {
    app: AppState,
    hub: HubReader,
    telemetry: watch::Receiver<Arc<Sample>>,
    requests: broadcast::Receiver<Arc<str>>,
    keep_alive: Duration,
    _counted: readers::Reader,
}

impl Reader {
    /// The next chunk of the body; `None` when the hive stops.
    async fn next(&mut self) -> Option<Bytes> {
        let mut out = BytesMut::new();
        if let Some(id) = self.hub.take_snapshot_id() {
            sse::event(&mut out, "snapshot", Some(&id), &json(&self.snapshot().await));
            return Some(out.freeze());
        }
        let quiet = self.app.quiet.clone();
        tokio::select! {
            biased;
            events = self.hub.next() => {
                for event in &events {
                    sse::event(&mut out, event.topic.name(), Some(&self.hub.id(event)), &event.data);
                }
            }
            () = quiet.cancelled() => return None,
            Ok(()) = self.telemetry.changed() => {
                let sample = Arc::clone(&self.telemetry.borrow_and_update());
                let telemetry = Telemetry {
                    heartbeat: super::heartbeats::heartbeat(&self.app, &sample),
                    worker_states: self.app.workers.list(),
                };
                sse::event(&mut out, "telemetry", None, &json(&telemetry));
            }
            request = self.requests.recv() => match request {
                Ok(request) => sse::event(&mut out, "request", None, &request),
                Err(RecvError::Lagged(count)) => {
                    sse::event(&mut out, "request", None, &Feed::left_out(count));
                }
                // Impossible: `self` holds the ledger, which sends.
                Err(RecvError::Closed) => return None,
            },
            () = tokio::time::sleep(self.keep_alive) => return Some(Bytes::from_static(sse::COMMENT)),
        }
        // Empty only if the reader missed events: a snapshot is next.
        if out.is_empty() { Box::pin(self.next()).await } else { Some(out.freeze()) }
    }

    async fn snapshot(&self) -> Snapshot<'_> {
        let page = self
            .app
            .jobs
            .list(&JobFilter { kind: Some(OperationKind::Act), ..JobFilter::default() }, SNAPSHOT_JOBS);
        Snapshot {
            hive_id: self.app.hive_id(),
            version: env!("CARGO_PKG_VERSION"),
            jobs: page.jobs,
            // ModelList and HiveCheck report a disk that does not answer.
            models: self.app.list_models().await.unwrap_or_else(|_| self.app.known_models()),
            workers: self.app.workers.list(),
            residency: self.app.residency.view().await,
            fleet: self.app.fleet.is_on().then(|| self.app.fleet.status()),
        }
    }
}
