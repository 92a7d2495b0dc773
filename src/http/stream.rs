//! `GET /v1/jobs/{job_id}/stream`: a job's log as Server-Sent Events.

use std::sync::Arc;

use axum::extract::{RawQuery, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use futures::stream;

use super::path::Parameter;
use super::problem::Problem;
use super::sse::{self, Encoding, TypedEvent};
use crate::app::AppState;
use crate::error::{Code, Failure};
use crate::jobs::Job;
use crate::jobs::log::{Cursor, Log};
use crate::readers::{self, Stream};

/// Follows a job, from its first event or after one that the reader has.
///
/// The stream ends after the job's terminal event. Plain, it is lines for people. With `format=json` its events have
/// names and ids, and their data is JSON.
#[utoipa::path(
    get,
    path = "/v1/jobs/{job_id}/stream",
    operation_id = "follow_job",
    tag = "Jobs",
    params(
        ("job_id" = String, Path, description = "The id of the job."),
        ("format" = inline(Option<Encoding>), Query, description = "The form of the events; `plain` by default."),
        ("after" = Option<u64>, Query, description = "The number of the last event that the reader has."),
        ("last-event-id" = Option<u64>, Header, description = "The same; it counts where both are given."),
    ),
    responses(
        (status = 200, description = "The events.", body = TypedEvent, content_type = "text/event-stream"),
        (status = 204, description = "The job has ended, and the reader has its last event."),
    ),
    extensions(("x-errors" = json!([Code::JobNotFound, Code::FleetUnreachable])))
)]
pub(super) async fn stream(
    State(app): State<AppState>,
    Parameter(id): Parameter,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let job = app.find_job(&id).await?;
    let query = StreamQuery::parse(query.as_deref().unwrap_or_default())?;
    let resume = match headers.get("last-event-id") {
        Some(id) => Some(resume_point("Last-Event-ID", id.to_str().unwrap_or("?"))?),
        None => query.after.as_deref().map(|after| resume_point("after", after)).transpose()?,
    };
    let log = app.jobs.log(&job).await?;
    let after = match start(&log, resume)? {
        Start::After(after) => after,
        Start::AtEnd => return Ok(StatusCode::NO_CONTENT.into_response()),
    };
    let reader = Reader {
        cursor: log.follow(after),
        keep_alive: *app.config.timers.keep_alive,
        encoding: query.encoding,
        job,
        _counted: app.readers.of(Stream::Job),
    };
    let body = stream::unfold(reader, |mut reader| async {
        let chunk = reader.next().await?;
        Some((chunk, reader))
    });
    Ok(sse::response(body))
}

#[derive(Debug, Default)]
struct StreamQuery {
    encoding: Encoding,
    after: Option<String>,
}

impl StreamQuery {
    /// Unknown parameters are ignored: browsers' tools add their own.
    fn parse(query: &str) -> Result<Self, Failure> {
        let mut parsed = Self::default();
        for pair in query.split('&') {
            match pair.split_once('=').unwrap_or((pair, "")) {
                ("format", "json") => parsed.encoding = Encoding::Typed,
                ("format", "plain") => parsed.encoding = Encoding::Plain,
                ("format", other) => {
                    return Err(Failure::new(
                        Code::InvalidRequest,
                        format!("format={} is unknown", crate::text::excerpt(other)),
                    )
                    .hint("leave it out for plain text, or ask for format=json"));
                }
                ("after", after) => parsed.after = Some(after.to_owned()),
                _ => {}
            }
        }
        Ok(parsed)
    }
}

fn resume_point(name: &str, text: &str) -> Result<u64, Failure> {
    text.trim().parse().map_err(|_| {
        Failure::new(
            Code::InvalidRequest,
            format!("{name} '{}' is not the id of an event", crate::text::excerpt(text)),
        )
        .hint("ids are whole numbers; leave it out to start with the first event")
    })
}

/// Where a reader starts.
enum Start {
    /// After the event of that number.
    After(u64),
    /// The reader has the terminal event already.
    AtEnd,
}

fn start(log: &Log, resume: Option<u64>) -> Result<Start, Failure> {
    let Some(after) = resume else { return Ok(Start::After(0)) };
    // The terminal event before the number: in the other order, a job that ends in between would refuse a
    // reader that resumes after its last event.
    let terminal = log.terminal();
    let last = log.last_seq();
    match terminal {
        Some(_) if after == last => Ok(Start::AtEnd),
        // A crash lost events that the reader has seen: only the end is left for it.
        Some(_) if after > last => Ok(Start::After(last - 1)),
        None if after > last => {
            Err(Failure::new(Code::InvalidRequest, format!("event {after} is beyond the job's last, {last}"))
                .hint("resume after an event that this job's stream has given out"))
        }
        _ => Ok(Start::After(after)),
    }
}

struct Reader {
    job: Arc<Job>,
    cursor: Cursor,
    encoding: Encoding,
    keep_alive: std::time::Duration,
    _counted: readers::Reader,
}

impl Reader {
    /// The next chunk of the body; `None` at the end.
    async fn next(&mut self) -> Option<Bytes> {
        loop {
            let batch = match self.encoding {
                Encoding::Plain => self.cursor.next().await?,
                Encoding::Typed => match tokio::time::timeout(self.keep_alive, self.cursor.next()).await {
                    Ok(batch) => batch?,
                    Err(_) => return Some(Bytes::from_static(sse::COMMENT)),
                },
            };
            let chunk = sse::encode(&batch, self.encoding, &self.job.header().operation);
            // On a plain stream a batch of debug narrations alone is empty.
            if !chunk.is_empty() {
                return Some(chunk);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_query_is_parsed_or_refused() {
        let parse = |query| StreamQuery::parse(query).unwrap();
        assert_eq!(parse("").encoding, Encoding::Plain);
        assert_eq!(parse("format=json&after=3").encoding, Encoding::Typed);
        assert_eq!(parse("format=json&after=3").after.as_deref(), Some("3"));
        assert!(StreamQuery::parse("format=xml").is_err());
        assert!(resume_point("after", "-1").is_err());
        assert!(resume_point("after", "x").is_err());
        assert_eq!(resume_point("after", "18").unwrap(), 18);
    }
}
