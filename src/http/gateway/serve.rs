//! Serves a request of any dialect.

use std::sync::Arc;

use axum::extract::Request;
use axum::http::HeaderValue;
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use futures::FutureExt;
use serde_json::Value;
use tokio::sync::watch;

use super::attempt::{Attempt, Awaited, Begun, Shown};
use super::call::Call;
use super::elsewhere::Elsewhere;
use super::forwarded::Forwarded;
use super::output::Output;
use super::relay::relay;
use super::waits::Waits;
use crate::app::AppState;
use crate::config::Capability;
use crate::dialects::trouble::Trouble;
use crate::error::{Code, Failure};
use crate::fleet::Others;
use crate::http::body::json_bytes;
use crate::http::caller::Sender;
use crate::http::dialect::REQUEST_ID;
use crate::http::ignored::telling;
use crate::http::problem::Problem;
use crate::requests::Recorder;
use crate::residency::Asking;
use crate::workers::Preference;

/// The header by which a client of a stream asks to be told what it waits for.
const NARRATE: &str = "x-rbee-narrate";

/// What the gateway needs of a request besides its body.
#[derive(Debug)]
pub(crate) struct Head {
    sender: Sender,
    /// Whether the client asks to be told what it waits for.
    narrates: bool,
}

impl Head {
    pub(crate) fn of(request: &Request) -> Self {
        let narrates = request.headers().get(NARRATE).is_some_and(|value| value == "1");
        Self { sender: Sender::of(request.extensions()), narrates }
    }

    /// That of a request of another hive.
    pub(crate) fn of_hive(sender: Sender) -> Self {
        Self { sender, narrates: false }
    }
}

/// Answers a request. `read` makes a call of its body.
pub(crate) async fn serve(
    app: &AppState,
    request: Request,
    read: impl FnOnce(Bytes) -> Result<Call, Problem>,
) -> Response {
    let head = Head::of(&request);
    answered(app, head, async { self::read(app, request).await.and_then(read) }).await
}

/// Answers a call whose request has been read.
pub(crate) async fn serve_call(app: &AppState, head: Head, call: Call) -> Response {
    answered(app, head, async { Ok(call) }).await
}

/// Reads the body of a request.
///
/// # Errors
/// Those of [`json_bytes`].
pub(crate) async fn read(app: &AppState, request: Request) -> Result<Bytes, Problem> {
    Ok(json_bytes(request, app.in_effect().gateway.body_bytes(), *app.config.timers.request_head).await?)
}

async fn answered(app: &AppState, head: Head, call: impl Future<Output = Result<Call, Problem>>) -> Response {
    let sender = head.sender.clone();
    recorded(app, &sender, async |recorder| answer(app, head, call, &recorder).await).await
}

/// Answers a request by asking workers ([`ask`]).
pub(crate) async fn serve_questions(
    app: &AppState,
    sender: &Sender,
    work: impl AsyncFnOnce(Recorder) -> Result<Response, Problem>,
) -> Response {
    recorded(app, sender, async |recorder| {
        let response = work(recorder.clone()).await?;
        recorder.completed();
        Ok(response)
    })
    .await
}

/// Records a request, which counts against the limits of its sender until it has ended, and names its id in the
/// header of its answer.
async fn recorded(
    app: &AppState,
    sender: &Sender,
    work: impl AsyncFnOnce(Recorder) -> Result<Response, Problem>,
) -> Response {
    let recorder = Recorder::new(&app.requests, Arc::clone(&sender.name));
    let answer = match sender.begin() {
        Ok(permit) => {
            recorder.holds(permit);
            work(recorder.clone()).await
        }
        Err(limited) => Err(limited),
    };
    let mut response = answer.unwrap_or_else(|problem| {
        recorder.failed(problem.failure());
        problem.into_response()
    });
    if let Ok(id) = HeaderValue::from_str(recorder.id()) {
        response.headers_mut().insert(REQUEST_ID, id);
    }
    // For the access log.
    response.extensions_mut().insert(recorder.recorded());
    response
}

async fn answer(
    app: &AppState,
    head: Head,
    call: impl Future<Output = Result<Call, Problem>>,
    recorder: &Recorder,
) -> Result<Response, Problem> {
    let Head { sender, narrates } = head;
    let call = call.await?;
    // Another hive awaits the first byte of the answer itself.
    let streams = call.streams && !call.is_of_hive;
    let (shown, waits_for) = watch::channel(Shown::default());
    let waits = Waits::new(waits_for, narrates, (&app.config.timers).into());
    let (answer, output, ignored) = attempt(app, &sender, call, shown, recorder).await?;
    Ok(telling(relay(answer, streams, waits, output, recorder.clone()).await, &ignored))
}

/// Asks a worker of the model for one JSON value, for the request that is recorded.
///
/// # Errors
/// Those of every request, and what the engine answers in the place of a value, with its status.
pub(crate) async fn ask(
    app: &AppState,
    sender: &Sender,
    call: Call,
    recorder: &Recorder,
) -> Result<Value, Problem> {
    let (shown, _) = watch::channel(Shown::default());
    let (answer, ..) = attempt(app, sender, call, shown, recorder).await?;
    let Begun::Whole { by, status, body, .. } = answer.await? else {
        return Err(Failure::internal("a worker answered a question with a stream").into());
    };
    recorder.counts(&body);
    let value: Value = serde_json::from_slice(&body).unwrap_or_default();
    if status.is_success() {
        return Ok(value);
    }
    let said = Trouble::of_engine(status.as_u16(), &value).map(|trouble| trouble.message);
    let message = said.unwrap_or_else(|| format!("{by} answered {}", status.as_u16()));
    let code = if status.is_client_error() { Code::InvalidRequest } else { Code::WorkerError };
    Err(Problem::from(Failure::new(code, message)).status(status.as_u16()))
}

/// The attempt to answer a call, which begins once it is awaited; the form of the answer; and the names of what the
/// call asks for without an effect.
async fn attempt(
    app: &AppState,
    sender: &Sender,
    call: Call,
    shown: watch::Sender<Shown>,
    recorder: &Recorder,
) -> Result<(Awaited, Output, Vec<String>), Problem> {
    let others = app.fleet.others().filter(|_| !call.is_of_hive);
    let mut elsewhere = match others {
        Some(others) => elsewhere(app, others, &call.model, forwarded(&call, sender)).await?,
        None => None,
    };
    let here = match &elsewhere {
        Some(elsewhere) => elsewhere.here.clone(),
        None => Some(app.served_id(&call.model).await?),
    };
    let is_here = here.is_some();
    let model: Arc<str> = here.unwrap_or_else(|| call.model.clone()).into();
    recorder.asks(&model, call.streams);
    app.check_may_use(sender.holder.as_ref(), &model)?;
    let mut ignored = call.ignored;
    // Of a model that only others have, their gateway says what it cannot do.
    if is_here {
        let abilities = app.can(&model).await;
        let asks = call.route.capability().into_iter().chain(call.needs);
        // Many clients ask every model to think: one that cannot answers without.
        let (wishes, needs): (Vec<_>, Vec<_>) = asks.partition(|asked| *asked == Capability::Reasoning);
        match (abilities.check(&needs), &mut elsewhere) {
            // Another hive may have an engine that can.
            (Err(_), Some(elsewhere)) => elsewhere.here = None,
            (checked, _) => checked?,
        }
        ignored.extend(wishes.into_iter().filter(|wish| abilities.lacks(*wish)).map(|wish| wish.to_string()));
    }
    let attempt = Attempt {
        app: Arc::clone(app),
        asking: Asking {
            model,
            caller: Arc::clone(&sender.name),
            preference: Preference {
                conversation: call.conversation,
                avoided: None,
                context: call.context_length,
            },
        },
        route: call.route,
        body: call.body,
        least_context: call.context_length,
        keep_alive: call.keep_alive,
        elsewhere,
        shown,
        recorder: recorder.clone(),
    };
    Ok((attempt.answer().boxed(), call.form.into(), ignored))
}

/// The call as another hive gets it, but for the id of the model there.
fn forwarded(call: &Call, sender: &Sender) -> Forwarded {
    Forwarded {
        model: String::new(),
        route: call.route,
        caller: sender.name.to_string(),
        streams: call.streams,
        conversation: call.conversation.clone(),
        needs: call.needs.clone(),
        keep_alive: call.keep_alive,
        context_length: call.context_length,
    }
}

/// The other hives that may answer a call for the model; `None` where none of them may.
///
/// # Errors
/// [`Code::ModelAmbiguous`], and those of the disk.
async fn elsewhere(
    app: &AppState,
    others: Others,
    model: &str,
    call: Forwarded,
) -> Result<Option<Elsewhere>, Problem> {
    let is_ready = others.holders(&[model], None).iter().any(|holder| holder.served.ready > 0);
    let here = match is_ready {
        // That hive answers, whatever this one's disk has by now. The disk may be slow.
        true => app.known_id(model)?,
        false => match app.served_id_itself(model).await {
            Ok(id) => Some(id),
            Err(failure) if failure.code == Code::ModelNotFound => None,
            Err(failure) => return Err(failure.into()),
        },
    };
    let own = here.as_ref().and_then(|id| app.catalog.last_known(&app.settings.model_of(id)));
    let mut names = vec![model.to_owned()];
    names.extend(here.clone().filter(|id| id != model));
    let known: Vec<&str> = names.iter().map(String::as_str).collect();
    let is_known = !others.holders(&known, own.as_ref()).is_empty();
    let elsewhere = Elsewhere { others, names, here, own, call, tried: Vec::new(), lead: None };
    Ok(is_known.then_some(elsewhere))
}
