//! The Responses API. What a response says is kept in memory, so that the next request can go on with it.

use std::sync::Arc;

use axum::Json;
use axum::extract::{Query, Request, State};
use axum::http::Extensions;
use axum::http::header::CONTENT_TYPE;
use axum::response::Response;
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use utoipa::ToSchema;

use super::shape::Narrated;
use crate::app::AppState;
use crate::dialects::responses::{
    Ids, ItemList, ResponseAnswer, ResponseEvent, ResponseRequest, ResponsesWriter, read,
};
use crate::error::{Code, Failure};
use crate::http::caller;
use crate::http::gateway::{self, Call, keep_alive};
use crate::http::ignored::telling;
use crate::http::path::Parameter;
use crate::http::problem::Problem;
use crate::responses::{Conversation, Missing, Responses};

/// What the hive says of every response that it has not.
const KEPT: &str = "the hive keeps responses in memory for a day, within a bound and not over a restart; send the \
                    whole conversation as `input`, or do not send `store: false` where you go on with the response";

/// All parameters of a query.
type Parameters = Vec<(String, String)>;

/// Of a list of items.
#[derive(Debug, Deserialize, utoipa::IntoParams)]
#[into_params(parameter_in = Query)]
pub(crate) struct Page {
    /// The id of the item before the first one.
    after: Option<String>,
    #[param(minimum = 0)]
    limit: Option<usize>,
    #[param(inline)]
    order: Option<Order>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
enum Order {
    Asc,
    Desc,
}

/// The answer to a deletion.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct ResponseDeleted {
    id: String,
    object: &'static str,
    deleted: bool,
}

/// Of one response.
#[derive(Debug, Deserialize, utoipa::IntoParams)]
#[into_params(parameter_in = Query)]
pub(crate) struct Retrieval {
    /// Is refused where it is true: a response that is kept does not come as a stream again.
    stream: Option<bool>,
}

/// Makes a response, in the form of OpenAI's Responses API.
///
/// A complete one is kept in memory for a while, so that a request can go on with it.
#[utoipa::path(
    post,
    path = "/v1/responses",
    operation_id = "create_response",
    tag = "OpenAI",
    params(Narrated),
    request_body(content = ResponseRequest, example = json!({
        "model": "rbee-quickstart", "stream": true, "input": "Hello",
    })),
    responses((status = 200, description = "The response, or its events where `stream` is true.", content(
        (ResponseAnswer = "application/json"),
        (ResponseEvent = "text/event-stream"),
    ))),
    extensions(("x-errors" = json!([json!(gateway::ERRORS), Code::PreviousResponseNotFound])))
)]
pub(crate) async fn create(State(app): State<AppState>, request: Request) -> Response {
    let owner = caller::owner(request.extensions());
    gateway::serve(&app, request, |body| call(&app.responses, &owner, &body)).await
}

/// Reads a request, with the conversation that it goes on with.
fn call(responses: &Responses, owner: &Arc<str>, body: &Bytes) -> Result<Call, Problem> {
    let body: Value = serde_json::from_slice(body).unwrap_or_default();
    let earlier = match body["previous_response_id"].as_str() {
        None => Conversation::default(),
        Some(id) => responses.find(id, owner).map_err(|missing| {
            let message = format!("the response {id:?}, with which the request goes on, {}", missing.why());
            let failure = Failure::new(Code::PreviousResponseNotFound, message).hint(KEPT);
            Problem::from(failure).param("previous_response_id")
        })?,
    };
    let item = |id: &str| responses.find(&Ids::response_of(id)?, owner).ok()?.item(id);
    let request = read(&body, &earlier.items(), &item)?;
    let keep = request.stores.then(|| {
        let (responses, owner, id) = (responses.clone(), Arc::clone(owner), request.ids.response());
        let input = Value::from(request.input.clone()).to_string().into();
        let keep = move |response: &Value| {
            responses.keep(id, owner, earlier, input, response.to_string().into());
        };
        Box::new(keep) as Box<dyn FnOnce(&Value) + Send>
    });
    let writer = ResponsesWriter::new(&request, keep);
    let keep_alive = keep_alive(body.get("keep_alive"))?;
    Ok(Call { keep_alive, ..Call::chat(request.chat, Box::new(writer))? })
}

/// Shows a response that is kept.
#[utoipa::path(
    get,
    path = "/v1/responses/{id}",
    operation_id = "get_response",
    tag = "OpenAI",
    params(("id" = String, Path, description = "The id of the response."), Retrieval),
    responses((status = 200, description = "The response.", body = ResponseAnswer)),
    extensions(("x-errors" = json!([Code::ResponseNotFound])))
)]
pub(crate) async fn get(
    State(app): State<AppState>,
    Parameter(id): Parameter,
    query: Result<Query<Retrieval>, axum::extract::rejection::QueryRejection>,
    Query(parameters): Query<Parameters>,
    extensions: Extensions,
) -> Result<Response, Problem> {
    let Query(Retrieval { stream }) = query.map_err(not_a_query)?;
    if stream == Some(true) {
        let message = "a response that is kept does not come as a stream again";
        return Err(Failure::new(Code::InvalidRequest, message).hint("leave out `stream`").into());
    }
    let response = kept(&app.responses, &id, &extensions)?.response();
    Ok(telling(([(CONTENT_TYPE, "application/json")], response), &others(parameters, &["stream"])))
}

/// Drops a response that is kept.
#[utoipa::path(
    delete,
    path = "/v1/responses/{id}",
    operation_id = "delete_response",
    tag = "OpenAI",
    params(("id" = String, Path, description = "The id of the response.")),
    responses((status = 200, description = "It is dropped.", body = ResponseDeleted)),
    extensions(("x-errors" = json!([Code::ResponseNotFound])))
)]
pub(crate) async fn delete(
    State(app): State<AppState>,
    Parameter(id): Parameter,
    extensions: Extensions,
) -> Result<Json<ResponseDeleted>, Problem> {
    app.responses.forget(&id, &caller::owner(&extensions)).map_err(|missing| not_kept(&id, missing))?;
    Ok(Json(ResponseDeleted { id, object: "response", deleted: true }))
}

/// Lists the items of the input of a response that is kept, the last first.
#[utoipa::path(
    get,
    path = "/v1/responses/{id}/input_items",
    operation_id = "list_input_items",
    tag = "OpenAI",
    params(("id" = String, Path, description = "The id of the response."), Page),
    responses((status = 200, description = "A page of items.", body = ItemList)),
    extensions(("x-errors" = json!([Code::ResponseNotFound])))
)]
pub(crate) async fn input_items(
    State(app): State<AppState>,
    Parameter(id): Parameter,
    query: Result<Query<Page>, axum::extract::rejection::QueryRejection>,
    Query(parameters): Query<Parameters>,
    extensions: Extensions,
) -> Result<Response, Problem> {
    let Query(page) = query.map_err(not_a_query)?;
    let list = list(kept(&app.responses, &id, &extensions)?.input(), &page);
    Ok(telling(Json(list), &others(parameters, &["after", "limit", "order"])))
}

/// The names of the parameters of a query that have no effect.
fn others(parameters: Parameters, known: &[&str]) -> Vec<String> {
    let names = parameters.into_iter().map(|(name, _)| name);
    names.filter(|name| !known.contains(&name.as_str())).collect()
}

/// A page of items in OpenAI's form: the last ones first, unless it says otherwise.
fn list(mut items: Vec<Value>, page: &Page) -> Value {
    if page.order != Some(Order::Asc) {
        items.reverse();
    }
    if let Some(after) = &page.after {
        let after = items.iter().position(|item| item["id"] == after.as_str());
        items = items.split_off(after.map_or(items.len(), |at| at + 1));
    }
    let rest = items.split_off(page.limit.unwrap_or(20).clamp(1, 100).min(items.len()));
    let id = |item: Option<&Value>| item.map_or(Value::Null, |item| item["id"].clone());
    json!({
        "object": "list", "first_id": id(items.first()), "last_id": id(items.last()),
        "has_more": !rest.is_empty(), "data": items,
    })
}

fn kept(responses: &Responses, id: &str, extensions: &Extensions) -> Result<Conversation, Problem> {
    responses.find(id, &caller::owner(extensions)).map_err(|missing| not_kept(id, missing))
}

fn not_kept(id: &str, missing: Missing) -> Problem {
    let message = format!("the response {id:?} {}", missing.why());
    Failure::new(Code::ResponseNotFound, message).hint(KEPT).into()
}

fn not_a_query(rejection: axum::extract::rejection::QueryRejection) -> Problem {
    Failure::new(Code::InvalidRequest, format!("a query parameter is not valid: {rejection}"))
        .hint("`order` is `asc` or `desc`, `limit` a number from 1 to 100, `after` the id of an item")
        .into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn items_are_listed_page_by_page() {
        let items: Vec<Value> = (0..5).map(|n| json!({"id": format!("msg_{n}")})).collect();
        let ids = |after: Option<&str>, limit, order| {
            let list = list(items.clone(), &Page { after: after.map(str::to_owned), limit, order });
            let ids = list["data"].as_array().unwrap().iter();
            let ids: Vec<String> = ids.map(|item| item["id"].as_str().unwrap()[4..].to_owned()).collect();
            if let (Some(first), Some(last)) = (ids.first(), ids.last()) {
                assert_eq!(list["first_id"], format!("msg_{first}"));
                assert_eq!(list["last_id"], format!("msg_{last}"));
            }
            (ids.concat(), list["has_more"] == true)
        };
        assert_eq!(ids(None, None, None), ("43210".into(), false));
        assert_eq!(ids(None, Some(2), Some(Order::Asc)), ("01".into(), true));
        assert_eq!(ids(Some("msg_1"), Some(2), Some(Order::Asc)), ("23".into(), true));
        assert_eq!(ids(Some("msg_3"), Some(2), Some(Order::Asc)), ("4".into(), false));
        assert_eq!(ids(Some("msg_9"), None, None), (String::new(), false));
        assert_eq!(ids(None, Some(0), None), ("4".into(), true));
    }
}
