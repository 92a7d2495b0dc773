//! `/v1/jobs`: submitting, listing, showing and cancelling jobs.

use axum::Json;
use axum::extract::{Query, Request, State};
use axum::http::header::{HOST, LOCATION};
use axum::http::uri::Authority;
use axum::http::{Extensions, HeaderMap, HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::body::json_bytes;
use super::caller::{Sender, holder, is_browser};
use super::path::Parameter;
use super::prefix::prefix;
use super::problem::Problem;
use crate::app::AppState;
use crate::callers::Caller;
use crate::error::{Code, Failure};
use crate::jobs::job::JobSummary;
use crate::jobs::{JobFilter, JobId, JobPage, JobState};
use crate::ops::{self, By, Row};
use crate::text::clip;

/// The largest body of a submission, in bytes.
const BODY_LIMIT: usize = 1 << 20;
/// Jobs of one page by default.
const PAGE: usize = 100;
/// Jobs of one page at most.
const MOST_PAGE: usize = 1000;
/// The longest `Idempotency-Key`.
const MOST_KEY_BYTES: usize = 255;

#[derive(Serialize, ToSchema)]
#[schema(as = JobCreated)]
struct Created<'a> {
    job_id: &'a JobId,
    sse_url: String,
}

/// Submits an operation.
///
/// It becomes a job, which starts at once, whether or not anybody reads its stream. A second request with the same
/// key and the same operation answers with the first job.
#[utoipa::path(
    post,
    path = "/v1/jobs",
    operation_id = "submit_job",
    tag = "Jobs",
    params(("idempotency-key" = Option<String>, Header, min_length = 1, max_length = 255, pattern = "^[!-~]+$",
        description = "Makes a repeated request safe.")),
    request_body = ops::AnyOperation,
    responses((status = 201, description = "The job.", body = Created<'static>, headers(
        ("location" = String, description = "The path of the job."),
        ("idempotency-replayed" = Option<String>, description = "`true` where the job is that of an earlier request."),
    ))),
    extensions(("x-errors" = json!([
        Code::UnknownOperation, Code::QueenOperation, Code::NotOffered, Code::InvalidId, Code::UnknownHive,
        Code::IdempotencyConflict, Code::QueueFull, Code::ShuttingDown, Code::Io, Code::DiskFull,
        Code::FleetUnreachable, Code::HiveUnreachable, Code::NowhereToRun,
    ])))
)]
pub(super) async fn submit(State(app): State<AppState>, request: Request) -> Result<Response, Problem> {
    let key = idempotency_key(request.headers())?;
    let by = if is_browser(request.headers()) { By::Page } else { By::Api };
    let host = request_host(&request);
    let prefix = prefix(request.headers()).to_owned();
    let sender = Sender::of(request.extensions());
    let asker = sender.asker(by);
    let body = json_bytes(request, BODY_LIMIT, *app.config.timers.request_head).await?;
    let submission = ops::parse(&body)?;
    check_role(sender.holder.as_ref(), submission.row)?;
    let destination = ops::destination(&app, &submission, host.as_deref())?;
    sender.count()?;
    let submitted = ops::submit_to(&app, destination, submission, &asker, key).await?;
    let job = &submitted.job;
    let mut response = (
        StatusCode::CREATED,
        [(LOCATION, format!("{prefix}/v1/jobs/{}", job.id()))],
        Json(Created { job_id: job.id(), sse_url: job.sse_url() }),
    )
        .into_response();
    if submitted.repeated {
        response.headers_mut().insert("idempotency-replayed", HeaderValue::from_static("true"));
    }
    Ok(response)
}

#[derive(Debug, Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct ListQuery {
    /// Only jobs of this state.
    state: Option<JobState>,
    /// Only jobs of this operation, by its name in `snake_case`.
    operation: Option<String>,
    /// The jobs of that hive of the fleet, or of `all`; those of this hive if it is not given.
    hive: Option<String>,
    /// The most jobs of the page; 100 if it is not given.
    #[param(minimum = 1, maximum = 1000)]
    limit: Option<usize>,
    /// The `next_cursor` of the page before.
    cursor: Option<String>,
}

/// Lists jobs, the newest first.
#[utoipa::path(
    get,
    path = "/v1/jobs",
    operation_id = "list_jobs",
    tag = "Jobs",
    params(ListQuery),
    responses((status = 200, description = "A page of jobs.", body = JobPage)),
    extensions(("x-errors" = json!([
        Code::UnknownHive, Code::NotInFleet, Code::FleetUnreachable, Code::HiveUnreachable,
    ])))
)]
pub(super) async fn list(
    State(app): State<AppState>,
    query: Result<Query<ListQuery>, axum::extract::rejection::QueryRejection>,
) -> Result<Json<JobPage>, Problem> {
    let Query(query) = query.map_err(|rejection| {
        Failure::new(Code::InvalidRequest, clip(&rejection.body_text(), 300)).hint(
            "the parameters are state (queued, running, succeeded, failed, cancelled), operation (such as \
             model_list), hive, limit (1 to 1000) and cursor",
        )
    })?;
    let limit = query.limit.unwrap_or(PAGE);
    if !(1..=MOST_PAGE).contains(&limit) {
        return Err(Failure::new(
            Code::InvalidRequest,
            format!("limit={limit} is not between 1 and {MOST_PAGE}"),
        )
        .hint("follow next_cursor for more")
        .into());
    }
    let before = match &query.cursor {
        None => None,
        Some(cursor) => Some(JobId::parse(cursor).ok_or_else(|| {
            Failure::new(Code::InvalidRequest, "cursor is not the next_cursor of a page")
                .hint("pass the next_cursor of the page before")
        })?),
    };
    let filter = JobFilter { state: query.state, kind: None, operation: query.operation, before };
    let own = |filter: &JobFilter| app.jobs.list(filter, limit);
    let page = match query.hive.as_deref() {
        None => own(&filter),
        Some(hive) if app.check_hive_id(hive, None).is_ok() => own(&filter),
        Some(hive) => app.fleet.list_jobs(hive, &filter, limit, own).await?,
    };
    Ok(Json(page))
}

/// Shows a job.
#[utoipa::path(
    get,
    path = "/v1/jobs/{job_id}",
    operation_id = "get_job",
    tag = "Jobs",
    params(("job_id" = String, Path, description = "The id of the job.")),
    responses((status = 200, description = "The job.", body = JobSummary)),
    extensions(("x-errors" = json!([Code::JobNotFound, Code::FleetUnreachable])))
)]
pub(super) async fn get(State(app): State<AppState>, Parameter(id): Parameter) -> Result<Response, Problem> {
    let job = app.find_job(&id).await?;
    Ok(Json(JobSummary { hive: app.fleet.hive_of(&job), ..job.summary() }).into_response())
}

#[derive(Serialize, ToSchema)]
#[schema(as = JobCancelled)]
struct Cancelled<'a> {
    job_id: &'a JobId,
    status: &'static str,
}

/// Refuses a caller whose token does not have the role that the operation needs.
fn check_role(holder: Option<&Caller>, row: &Row) -> Result<(), Failure> {
    holder.map_or(Ok(()), |holder| holder.require(row.role, row.name))
}

/// Cancels a job, and answers once it has ended. Needs the role that its operation needs.
#[utoipa::path(
    delete,
    path = "/v1/jobs/{job_id}",
    operation_id = "cancel_job",
    tag = "Jobs",
    params(("job_id" = String, Path, description = "The id of the job.")),
    responses((status = 200, description = "It is cancelled.", body = Cancelled<'static>)),
    extensions(("x-errors" = json!([
        Code::JobNotFound, Code::JobEnded, Code::FleetUnreachable, Code::HiveUnreachable,
    ])))
)]
pub(super) async fn cancel(
    State(app): State<AppState>,
    Parameter(id): Parameter,
    extensions: Extensions,
) -> Result<Response, Problem> {
    let job = app.find_job(&id).await?;
    let operation = &job.header().operation;
    let row = ops::TABLE.iter().find(|row| row.wire_name == operation);
    row.map_or(Ok(()), |row| check_role(holder(&extensions), row))?;
    match app.fleet.other_hive_of(&job) {
        Some(hive) => app.fleet.cancel(&hive, &job).await?,
        None => app.jobs.cancel(&job).await?,
    }
    Ok(Json(Cancelled { job_id: job.id(), status: "cancelled" }).into_response())
}

/// The host that the request was sent to, without its port. `security` has checked it.
fn request_host(request: &Request) -> Option<String> {
    let authority = match request.uri().authority() {
        Some(authority) => authority.as_str(),
        None => request.headers().get(HOST)?.to_str().ok()?,
    };
    let authority = authority.parse::<Authority>().ok()?;
    Some(authority.host().to_owned())
}

fn idempotency_key(headers: &HeaderMap) -> Result<Option<String>, Failure> {
    let Some(key) = headers.get("idempotency-key") else { return Ok(None) };
    match key.to_str() {
        Ok(key) if (1..=MOST_KEY_BYTES).contains(&key.len()) => Ok(Some(key.to_owned())),
        _ => Err(Failure::new(
            Code::InvalidRequest,
            format!("the Idempotency-Key is not 1 to {MOST_KEY_BYTES} visible ASCII characters"),
        )
        .hint("a UUID makes a good key")),
    }
}
