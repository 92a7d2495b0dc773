//! The gateway's routes, and the choice of a worker for a request.

use std::sync::Arc;

use axum::Json;
use axum::extract::{Request, State};
use axum::http::{HeaderName, HeaderValue};
use axum::response::{IntoResponse, Response};

use super::card::{Card, Cards};
use super::completion::Completion;
use super::problem::GatewayProblem;
use super::relay::relay;
use crate::app::{App, AppState};
use crate::error::{Code, Failure, Result};
use crate::http::path::Parameter;
use crate::models::{Catalog, Model};
use crate::requests::Recorder;
use crate::workers::{Conversation, Device, Endpoint, Supervisor};

/// The header with the id of a request, under which logs, events and `ModelDiagnose` know it.
const REQUEST_ID: HeaderName = HeaderName::from_static("x-rbee-request-id");
/// The most loaded models that a refusal names.
const MOST_NAMED: usize = 5;

/// `GET /v1/models`
pub(crate) async fn models(State(app): State<AppState>) -> Result<Json<Cards>, GatewayProblem> {
    let models = app.catalog.list().await?;
    let cards: Vec<Card> = models.iter().map(|model| card(&app, model)).collect();
    Ok(Json(Cards::from(cards)))
}

/// `GET /v1/models/{*id}`: ids have slashes.
pub(crate) async fn model(
    State(app): State<AppState>,
    Parameter(id): Parameter,
) -> Result<Json<Card>, GatewayProblem> {
    Ok(Json(card(&app, &app.catalog.find(&id).await?)))
}

/// `POST /v1/chat/completions`
pub(crate) async fn chat_completions(State(app): State<AppState>, request: Request) -> Response {
    let recorder = Recorder::new(&app.requests, Arc::from("unknown"));
    let id = HeaderValue::from_str(recorder.id());
    let mut response = complete(&app, request, &recorder).await.unwrap_or_else(|problem| {
        recorder.failed(problem.failure());
        problem.into_response()
    });
    if let Ok(id) = id {
        response.headers_mut().insert(REQUEST_ID, id);
    }
    response
}

async fn complete(app: &App, request: Request, recorder: &Recorder) -> Result<Response, GatewayProblem> {
    let completion = Completion::read(request, *app.config.timers.request_head).await?;
    let endpoint = endpoint(&app.catalog, &app.workers, &completion.model).await?;
    recorder.asks(&endpoint.model, completion.streams);
    recorder.sent(endpoint.served_by());
    let (path, recorder) = (endpoint.chat_route.clone(), recorder.clone());
    let (upstream, in_flight) = endpoint.into();
    let silence = *app.config.timers.keep_alive;
    Ok(relay(&app.gateway, upstream, &path, completion, silence, recorder, in_flight).await?)
}

fn card(app: &App, model: &Model) -> Card {
    Card::of(model, app.workers.serves(&model.id))
}

/// A worker that serves the model of that id or unique name. Asks the catalog only if no worker serves a
/// model of exactly that id.
async fn endpoint(catalog: &Catalog, workers: &Supervisor, wanted: &str) -> Result<Endpoint> {
    if let Some(endpoint) = workers.endpoint(wanted, &Conversation::default()) {
        return Ok(endpoint);
    }
    let model = catalog.find(wanted).await?;
    workers.endpoint(&model.id, &Conversation::default()).ok_or_else(|| {
        if let [hung, ..] = &workers.unresponsive(&model.id, &Device::Auto)[..] {
            return does_not_respond(&model.id, hung.pid);
        }
        let serving = workers.list().into_iter().filter(|worker| worker.status.serves());
        let mut loaded: Vec<String> = serving.map(|worker| worker.model).collect();
        loaded.sort_unstable();
        loaded.dedup();
        not_loaded(&model.id, &loaded)
    })
}

/// The refusal for a model whose only workers do not respond.
fn does_not_respond(id: &str, pid: u32) -> Failure {
    let load = serde_json::json!({"ModelLoad": {"id": id}});
    Failure::new(
        Code::WorkerUnresponsive,
        format!("worker {pid} of the model '{id}' does not respond: it neither answers nor computes"),
    )
    .hint(format!("replace it with POST /v1/jobs {load}; GET /v1/workers/{pid}/log may show why it hangs"))
}

/// The refusal for a model that exists and that no worker serves. `loaded` are the loaded models.
fn not_loaded(id: &str, loaded: &[String]) -> Failure {
    let load = serde_json::json!({"ModelLoad": {"id": id}});
    let others = match loaded {
        [] => "no model is loaded".to_owned(),
        some if some.len() <= MOST_NAMED => format!("loaded are: {}", some.join(", ")),
        some => format!("loaded are {} models, such as {}", some.len(), some[..MOST_NAMED].join(", ")),
    };
    Failure::new(Code::ModelNotLoaded, format!("the model '{id}' is not loaded"))
        .hint(format!("load it with POST /v1/jobs {load}; {others}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;

    #[tokio::test]
    async fn an_unknown_model_and_one_that_is_not_loaded_have_different_codes() {
        let folder = tempfile::tempdir().unwrap();
        let config = Config {
            data_dir: folder.path().join("data"),
            hub_cache: Some(std::path::PathBuf::new()),
            models_dirs: vec![folder.path().to_owned()],
            ..Config::default()
        };
        let (catalog, workers) = (Catalog::new(&config).unwrap(), Supervisor::new(&config).unwrap());
        // Damaged, but in the catalog, which is enough here.
        std::fs::write(folder.path().join("tiny.gguf"), b"GGUF").unwrap();

        let unknown = endpoint(&catalog, &workers, "tinny").await.unwrap_err();
        assert_eq!(unknown.code, Code::ModelNotFound);
        let failure = endpoint(&catalog, &workers, "tiny").await.unwrap_err();
        assert_eq!(failure.code, Code::ModelNotLoaded);
        assert!(failure.hint.unwrap().contains(r#"{"ModelLoad":{"id":"tiny"}}; no model is loaded"#));
    }

    #[test]
    fn the_refusal_for_a_model_that_is_not_loaded_says_how_to_load_it() {
        let failure = not_loaded("tiny", &["big".into()]);
        assert_eq!(
            failure.hint.unwrap(),
            r#"load it with POST /v1/jobs {"ModelLoad":{"id":"tiny"}}; loaded are: big"#
        );
    }
}
