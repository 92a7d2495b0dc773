//! Serves a request of any dialect.

use std::sync::Arc;

use axum::extract::Request;
use axum::http::{HeaderName, HeaderValue};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use futures::FutureExt;
use serde_json::Value;
use tokio::sync::watch;

use super::attempt::{Attempt, Awaited, Begun, Shown};
use super::call::Call;
use super::output::Output;
use super::relay::relay;
use super::waits::Waits;
use crate::app::App;
use crate::dialects::trouble::Trouble;
use crate::error::{Code, Failure};
use crate::http::body::json_bytes;
use crate::http::caller;
use crate::http::problem::Problem;
use crate::requests::Recorder;
use crate::residency::Asking;
use crate::workers::Preference;

/// The header with the id of a request, under which logs, events and `ModelDiagnose` know it.
const REQUEST_ID: HeaderName = HeaderName::from_static("x-rbee-request-id");
/// The header that names the fields of a request that have no effect.
const IGNORED: HeaderName = HeaderName::from_static("x-rbee-ignored-fields");
/// The header by which a client of a stream asks to be told what it waits for.
const NARRATE: &str = "x-rbee-narrate";

/// Answers a request. `read` makes a call of its body.
pub(crate) async fn serve(
    app: &App,
    request: Request,
    read: impl FnOnce(Bytes) -> Result<Call, Problem>,
) -> Response {
    let recorder = Recorder::new(&app.requests, caller::of(request.extensions()));
    let answered = answer(app, request, read, &recorder).await;
    let mut response = answered.unwrap_or_else(|problem| {
        recorder.failed(problem.failure());
        problem.into_response()
    });
    if let Ok(id) = HeaderValue::from_str(recorder.id()) {
        response.headers_mut().insert(REQUEST_ID, id);
    }
    response
}

async fn answer(
    app: &App,
    request: Request,
    read: impl FnOnce(Bytes) -> Result<Call, Problem>,
    recorder: &Recorder,
) -> Result<Response, Problem> {
    let caller = caller::of(request.extensions());
    let narrates = request.headers().get(NARRATE).is_some_and(|value| value == "1");
    let time_limit = *app.config.timers.request_head;
    let mut call = read(json_bytes(request, app.config.gateway.body_bytes(), time_limit).await?)?;
    let (streams, ignored) = (call.streams, std::mem::take(&mut call.ignored));
    let (shown, waits_for) = watch::channel(Shown::default());
    let waits = Waits::new(waits_for, narrates, (&app.config.timers).into());
    let (answer, output) = attempt(app, caller, call, shown, recorder).await?;
    let mut response = relay(answer, streams, waits, output, recorder.clone()).await;
    if !ignored.is_empty()
        && let Ok(names) = HeaderValue::from_str(&ignored.join(", "))
    {
        response.headers_mut().insert(IGNORED, names);
    }
    Ok(response)
}

/// Asks a worker of the model for one JSON value, which counts as a request of its own.
///
/// # Errors
/// Those of every request, and what the engine answers in the place of a value, with its status.
pub(crate) async fn ask(app: &App, caller: Arc<str>, call: Call) -> Result<Value, Problem> {
    let recorder = Recorder::new(&app.requests, Arc::clone(&caller));
    let (shown, _) = watch::channel(Shown::default());
    let begun = async {
        let (answer, _) = attempt(app, caller, call, shown, &recorder).await?;
        Ok::<_, Problem>(answer.await?)
    };
    let begun = begun.await.inspect_err(|problem| recorder.failed(problem.failure()))?;
    let Begun::Whole { pid, status, body, .. } = begun else {
        return Err(Failure::internal("a worker answered a question with a stream").into());
    };
    recorder.answered(status.as_u16(), &body);
    let value: Value = serde_json::from_slice(&body).unwrap_or_default();
    if status.is_success() {
        return Ok(value);
    }
    let said = Trouble::of_engine(status.as_u16(), &value).map(|trouble| trouble.message);
    let message = said.unwrap_or_else(|| format!("worker {pid} answered {}", status.as_u16()));
    let code = if status.is_client_error() { Code::InvalidRequest } else { Code::WorkerError };
    Err(Problem::from(Failure::new(code, message)).status(status.as_u16()))
}

/// The attempt to answer a call, which begins once it is awaited, and the form of the answer.
async fn attempt(
    app: &App,
    caller: Arc<str>,
    call: Call,
    shown: watch::Sender<Shown>,
    recorder: &Recorder,
) -> Result<(Awaited, Output), Problem> {
    let model: Arc<str> = app.served_id(&call.model).await?.into();
    recorder.asks(&model, call.streams);
    let needs: Vec<_> = call.route.capability().into_iter().chain(call.needs).collect();
    app.can(&model).await.check(&needs)?;
    let attempt = Attempt {
        admissions: app.residency.admissions().clone(),
        workers: app.workers.clone(),
        client: app.gateway.clone(),
        defaults: app.defaults(&model),
        asking: Asking {
            model,
            caller,
            preference: Preference { conversation: call.conversation, avoided: None },
        },
        route: call.route,
        body: call.body,
        keep_alive: call.keep_alive,
        shown,
        recorder: recorder.clone(),
    };
    Ok((attempt.answer().boxed(), call.form.into()))
}
