//! `GET /openapi.json`: the description of the API, in OpenAPI 3.1 (<https://spec.openapis.org/oas/v3.1.1>).
//!
//! Each handler has its own description beside it, `#[utoipa::path]`; [`Described`] lists them. The schemas are those
//! of the types that the code reads and writes. What many routes have in common is added here: the refusals, by the
//! table of error codes, and who may call. A handler says in `x-errors` which codes are its own.
//!
//! Invariants:
//! - The routes of `http.rs`, this document and `docs/EVENTS.md` have the same methods and paths
//!   (`tests/it/openapi.rs`).
//! - The document is made at the first request for it, not at the start.

mod event;

use std::collections::BTreeMap;
use std::sync::LazyLock;

use axum::http::{HeaderMap, Method};
use axum::response::Response;
use serde_json::{Map, Value, json};
use utoipa::OpenApi;

use super::kept::Kept;
use super::{
    anthropic, capabilities, config, dialect, docs, events, heartbeats, hive, jobs, markdown, metrics,
    models, ollama, openai, problem, security, session, sharing, stream, ui, worker_log,
};
use crate::dialects::trouble::Dialect;
use crate::error::Code;
use crate::text::plain_links;

/// The handlers, in the order of the routes.
#[derive(OpenApi)]
#[openapi(
    info(
        title = "rbee-hive",
        description = "The API of a hive: a daemon that manages a machine's language models and the worker processes \
                       that serve them. All it does is an operation, submitted as a job (`POST /v1/jobs`), which \
                       narrates each of its steps on a stream."
    ),
    servers((url = ".", description = "This hive")),
    tags(
        (name = "Jobs", description = "Operations, as jobs."),
        (name = "Hive", description = "The hive as a whole."),
        (name = "OpenAI", description = "OpenAI's API for the models of the catalog."),
        (name = "Anthropic", description = "Anthropic's API for the same models."),
        (name = "Ollama", description = "Ollama's API for the same models."),
        (name = "Sharing", description = "The models' files, in the forms of the Hugging Face Hub and of Ollama's registry."),
        (name = "Page", description = "The web page, and what it needs."),
    ),
    components(schemas(
        problem::Members<'static>, problem::OpenAiProblem, problem::AnthropicProblem, problem::OllamaProblem
    )),
    paths(
        hive::index,
        ui::file,
        hive::health,
        metrics::get,
        jobs::submit,
        jobs::list,
        jobs::get,
        jobs::cancel,
        stream::stream,
        events::events,
        capabilities::get,
        heartbeats::get,
        worker_log::get,
        models::list,
        models::find,
        openai::routes::chat_completions,
        openai::routes::completions,
        openai::routes::embeddings,
        openai::routes::rerank,
        anthropic::routes::messages,
        anthropic::routes::count_tokens,
        openai::responses::create,
        openai::responses::get,
        openai::responses::delete,
        openai::responses::input_items,
        ollama::lists::version,
        ollama::lists::tags,
        ollama::lists::ps,
        ollama::show::show,
        ollama::chats::chat,
        ollama::chats::generate,
        ollama::chats::embed,
        ollama::chats::embeddings,
        ollama::pull::pull,
        ollama::acts::copy,
        ollama::acts::delete,
        sharing::hub::repository,
        sharing::hub::repository_at,
        sharing::hub::tree,
        sharing::hub::tree_of_folder,
        sharing::hub::references,
        sharing::hub::file,
        sharing::hub::manifest,
        sharing::registry::version,
        sharing::registry::manifest,
        sharing::registry::blob,
        markdown::render,
        session::create,
        session::end,
        hive::shut_down,
        config::get,
        hive::reload,
        document,
        docs::page,
        docs::file,
    )
)]
struct Described;

/// The document as it is served.
static SERVED: LazyLock<Kept> = LazyLock::new(|| Kept::new("application/json", written().to_string()));

/// This description of the API.
#[utoipa::path(
    get,
    path = "/openapi.json",
    operation_id = "get_description",
    tag = "Page",
    responses(
        (status = 200, description = "The description, in OpenAPI 3.1.", body = Object),
        (status = 304, description = "It has not changed."),
    )
)]
pub(super) async fn document(headers: HeaderMap) -> Response {
    SERVED.answer(&headers)
}

/// The whole document.
fn written() -> Value {
    let mut document = json!(Described::openapi());
    let paths = document["paths"].as_object_mut().expect("a document has paths");
    add_others(paths);
    for (path, methods) in paths {
        for (method, operation) in methods.as_object_mut().into_iter().flatten() {
            complete(path, method, operation);
        }
    }
    document["components"]["securitySchemes"] = json!({
        "bearer": { "type": "http", "scheme": "bearer", "description": "The token of the hive's `--token-file`." },
        "key": { "type": "apiKey", "in": "header", "name": "x-api-key", "description": "The same token." },
        "session": { "type": "apiKey", "in": "cookie", "name": session::COOKIE_NAME,
                     "description": "What `POST /v1/session` set; for event streams alone." },
    });
    plain_links(&mut document);
    document
}

/// The routes that share a handler: another path of the same, and what Ollama offers and the hive does not.
fn add_others(paths: &mut Map<String, Value>) {
    let mut same = paths["/v1/capabilities"].clone();
    same["get"]["operationId"] = "get_capabilities_for_queen".into();
    paths.insert("/capabilities".to_owned(), same);
    for path in ollama::NOT_OFFERED {
        let name = path.split('/').nth(2).unwrap_or_default();
        let mut operation = json!({
            "tags": ["Ollama"], "summary": "Is not offered.", "operationId": format!("ollama_{name}"),
            "description": "The hint of the answer names what to use instead.",
            "responses": {}, "x-errors": [Code::NotOffered],
        });
        if path.contains("{digest}") {
            let digest =
                json!({ "name": "digest", "in": "path", "required": true, "schema": { "type": "string" } });
            operation["parameters"] = json!([digest]);
        }
        paths.insert(path.to_owned(), json!({ "post": operation }));
    }
}

/// Adds what many routes have in common.
fn complete(path: &str, method: &str, operation: &mut Value) {
    let is_open = security::is_open(&method.to_uppercase().parse::<Method>().unwrap_or_default(), path);
    let is_stream = method == "get" && security::is_event_stream(path);
    let dialect = dialect::of(&path.parse().unwrap_or_default(), &HeaderMap::new());
    operation["security"] = match (is_open, is_stream) {
        (true, _) => json!([]),
        (false, true) => json!([{}, { "bearer": [] }, { "key": [] }, { "session": [] }]),
        (false, false) => json!([{}, { "bearer": [] }, { "key": [] }]),
    };
    let mut codes = vec![Code::InvalidRequest, Code::HostRefused, Code::OriginRefused, Code::Internal];
    codes.extend((!is_open).then_some(Code::Unauthorized));
    if method == "post" {
        codes.push(Code::UnsupportedMediaType);
    }
    if operation.get("requestBody").is_some() {
        codes.extend([
            Code::InvalidJson,
            Code::InvalidField,
            Code::BodyTooLarge,
            Code::UnsupportedMediaType,
            Code::RequestTimeout,
        ]);
    }
    codes.extend(own_errors(&operation["x-errors"]));
    codes.sort_unstable_by_key(|code| Code::ALL.iter().position(|known| known == code));
    codes.dedup();
    operation["x-errors"] = json!(codes);
    let waits = codes.contains(&Code::WorkerUnreachable);
    let mut by_status: BTreeMap<u16, Vec<Code>> = BTreeMap::new();
    for code in codes {
        by_status.entry(code.http_status()).or_default().push(code);
    }
    if waits {
        // A load that failed says why, and may be tried again.
        by_status.entry(503).or_default();
    }
    for (status, codes) in by_status {
        operation["responses"][status.to_string()] = refusal(dialect, status, &codes);
    }
    event::complete(path, operation);
    if waits {
        for (status, answer) in operation["responses"].as_object_mut().into_iter().flatten() {
            if status.starts_with(['4', '5']) {
                add_refusal_of_engine(&mut answer["content"]);
            }
            answer["headers"] = gateway_headers(status, answer["headers"].take());
        }
    }
}

/// The codes that a handler names as its own.
fn own_errors(named: &Value) -> Vec<Code> {
    match named {
        Value::Array(codes) => codes.iter().flat_map(own_errors).collect(),
        code => serde_json::from_value(code.clone()).into_iter().collect(),
    }
}

/// The answer of a status that some codes have.
fn refusal(dialect: Dialect, status: u16, codes: &[Code]) -> Value {
    let meaning = |code: &Code| format!("`{code}`: {}.", code.title());
    let mut meanings: Vec<_> = codes.iter().map(meaning).collect();
    if meanings.is_empty() {
        meanings.push("A load failed, with its own code.".to_owned());
    }
    let (kind, schema) = match dialect {
        Dialect::Hive => ("application/problem+json", "Problem"),
        Dialect::OpenAi => ("application/problem+json", "OpenAiProblem"),
        Dialect::Anthropic => ("application/problem+json", "AnthropicProblem"),
        Dialect::Ollama => ("application/json", "OllamaProblem"),
    };
    let schema = json!({ "$ref": format!("#/components/schemas/{schema}") });
    let mut headers = Map::new();
    let mut header = |name: &str, about: &str, of: &str| {
        headers.insert(name.to_owned(), json!({ "description": about, "schema": { "type": of } }));
    };
    match status {
        401 => header("www-authenticate", "`Bearer`.", "string"),
        429 | 503 => header("retry-after", "Seconds after which the request may succeed.", "integer"),
        _ => {}
    }
    json!({ "description": meanings.join(" "), "content": { kind: { "schema": schema } }, "headers": headers })
}

/// An engine may refuse a request too, and says why in words of its own.
fn add_refusal_of_engine(content: &mut Value) {
    let told = json!({
        "type": "object", "required": ["error"], "properties": { "error": {} },
        "description": "What the engine says, as clients of this dialect know an error.",
    });
    let known = content["application/json"]["schema"].take();
    let schema = if known.is_null() { told } else { json!({ "anyOf": [known, told] }) };
    content["application/json"] = json!({ "schema": schema });
}

/// The headers of an answer of the gateway, besides its own.
fn gateway_headers(status: &str, own: Value) -> Value {
    let text = |about: &str| json!({ "description": about, "schema": { "type": "string" } });
    let mut headers = match own {
        Value::Object(own) => own,
        _ => Map::new(),
    };
    headers.insert("x-rbee-request-id".to_owned(), text("The id of the request."));
    headers.insert("x-rbee-job-id".to_owned(), text("The load that the request waited for."));
    if status == "200" {
        headers.insert("x-rbee-ignored-fields".to_owned(), text("The fields that have no effect."));
    }
    Value::Object(headers)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    /// Every value of the document, with the keys that lead to it.
    fn walk<'a>(value: &'a Value, path: &str, found: &mut Vec<(String, &'a Value)>) {
        found.push((path.to_owned(), value));
        match value {
            Value::Array(items) => {
                items.iter().enumerate().for_each(|(at, item)| walk(item, &format!("{path}/{at}"), found));
            }
            Value::Object(members) => {
                members.iter().for_each(|(name, member)| walk(member, &format!("{path}/{name}"), found));
            }
            _ => {}
        }
    }

    #[test]
    fn every_reference_has_a_target_and_every_schema_is_used() {
        let document = written();
        let mut all = Vec::new();
        walk(&document, "", &mut all);
        let references: BTreeSet<_> = all
            .iter()
            .filter(|(path, _)| path.ends_with("/$ref"))
            .map(|(path, value)| (value.as_str().unwrap(), path))
            .map(|(target, path)| {
                let pointer = target.strip_prefix('#').unwrap_or_else(|| panic!("{path}: {target}"));
                assert!(document.pointer(pointer).is_some(), "{path}: there is no {target}");
                target.rsplit('/').next().unwrap().to_owned()
            })
            .collect();
        let schemas: BTreeSet<_> =
            document["components"]["schemas"].as_object().unwrap().keys().cloned().collect();
        // Those of a generic list are written in its place.
        let listed = |name: &&String| ["OllamaAvailable", "OllamaRunning"].contains(&name.as_str());
        assert_eq!(
            schemas.difference(&references).filter(|name| !listed(name)).collect::<Vec<_>>(),
            Vec::<&String>::new(),
            "nothing uses them"
        );
    }

    #[test]
    fn every_operation_has_a_name_of_its_own_a_summary_and_answers_that_say_what_they_are() {
        let document = written();
        let mut names = BTreeSet::new();
        for (path, methods) in document["paths"].as_object().unwrap() {
            for (method, operation) in methods.as_object().unwrap() {
                let name = operation["operationId"].as_str().unwrap();
                assert!(names.insert(name), "two operations are called {name}");
                assert!(
                    operation["summary"].as_str().is_some_and(|text| text.len() < 120),
                    "{method} {path}"
                );
                for (status, answer) in operation["responses"].as_object().unwrap() {
                    assert!(
                        answer["description"].as_str().is_some_and(|text| !text.is_empty()),
                        "{name} {status}"
                    );
                }
            }
        }
        assert!(names.len() > 40, "{names:?}");
    }

    #[test]
    fn descriptions_are_for_readers_of_the_api() {
        let document = written();
        let mut all = Vec::new();
        walk(&document, "", &mut all);
        for (path, value) in all {
            let Some(text) = value.as_str() else { continue };
            assert!(!text.contains("[`") && !text.contains("crate::"), "{path}: {text}");
        }
    }
}
