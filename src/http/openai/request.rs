//! A request in the form that engines take, checked before a worker sees it.

use std::collections::BTreeMap;

use bytes::Bytes;
use serde_json::value::RawValue;

use crate::config::Capability;
use crate::dialects::openai;
use crate::error::{Code, Failure};
use crate::http::gateway::{Call, Form, keep_alive, named};
use crate::http::numbers;
use crate::http::problem::Problem;
use crate::workers::{Conversation, Route};

/// Reads a request for a completion, a chat completion, embeddings or a ranking, whose body passes as it is.
///
/// # Errors
/// [`Code::InvalidField`] if the body is not an object, has no string `model`, or has a number outside its range
/// (see [`numbers`]).
pub(super) fn read(route: Route, body: Bytes) -> Result<Call, Problem> {
    let fields: BTreeMap<String, &RawValue> = serde_json::from_slice(&body).map_err(|error| {
        Failure::new(Code::InvalidField, format!("the body is not a request object: {error}"))
            .hint(example(route))
    })?;
    for (name, value) in &fields {
        numbers::check(name, value).map_err(|(field, failure)| Problem::from(failure).param(field))?;
    }
    let streams = fields.get("stream").is_some_and(|value| value.get() == "true");
    let conversation = conversation(&fields);
    let keep_alive = keep_alive(fields.get("keep_alive").copied())?;
    let model = fields.get("model").and_then(|value| serde_json::from_str::<String>(value.get()).ok());
    let model = model.unwrap_or_default();
    named(&model)?;
    let needs = if route == Route::Chat { needs(&fields, &body) } else { Vec::new() };
    let form = if route == Route::Embeddings { embeddings(&fields) } else { Form::Untouched };
    Ok(Call {
        model,
        route,
        body,
        streams,
        conversation,
        needs,
        keep_alive,
        context_length: None,
        ignored: Vec::new(),
        form,
        is_of_hive: false,
    })
}

/// What a chat completion needs. Most have nothing that needs anything, and are not read for it.
fn needs(fields: &BTreeMap<String, &RawValue>, body: &[u8]) -> Vec<Capability> {
    let asks =
        |name: &&str| fields.get(*name).is_some_and(|value| !["null", "[]", "{}"].contains(&value.get()));
    let has_images = || fields.get("messages").is_some_and(|messages| messages.get().contains("image_url"));
    if !["tools", "functions", "response_format"].iter().any(asks) && !has_images() {
        return Vec::new();
    }
    // What is wrong with it is for the engine to say.
    let body = serde_json::from_slice(body).unwrap_or_default();
    openai::read(&body).map(|chat| chat.needs()).unwrap_or_default()
}

/// The form of embeddings: as long as they are asked for, whatever the engine makes of that.
fn embeddings(fields: &BTreeMap<String, &RawValue>) -> Form {
    let dimensions = fields.get("dimensions").and_then(|value| serde_json::from_str::<f64>(value.get()).ok());
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "its range has been checked")]
    dimensions.map_or(Form::Untouched, |dimensions| Form::Embeddings(dimensions as usize))
}

/// A request that the route takes.
fn example(route: Route) -> &'static str {
    match route {
        Route::Completions => r#"send {"model":"ID","prompt":"Once upon a time"}"#,
        Route::Embeddings => r#"send {"model":"ID","input":"Hello"}"#,
        Route::Rerank => r#"send {"model":"ID","query":"A question","documents":["An answer"]}"#,
        _ => r#"send {"model":"ID","messages":[{"role":"user","content":"Hello"}]}"#,
    }
}

/// The conversation of the messages, or of a prompt. What is wrong with them is for the engine to say.
fn conversation(fields: &BTreeMap<String, &RawValue>) -> Conversation {
    let messages = fields.get("messages").and_then(|value| serde_json::from_str(value.get()).ok());
    let messages: Vec<&RawValue> = messages.unwrap_or_default();
    if let Some(prompt) = fields.get("prompt").filter(|_| messages.is_empty()) {
        return Conversation::of(beginnings(prompt.get()));
    }
    Conversation::of(messages.into_iter().map(RawValue::get))
}

/// A prompt in pieces, so that a longer one that begins with it is known. An editor that asks for one completion
/// after another, each a little longer, sends such.
fn beginnings(prompt: &str) -> impl Iterator<Item = &str> {
    let mut rest = prompt;
    std::iter::from_fn(move || {
        let piece = rest.get(..rest.ceil_char_boundary(PIECE)).filter(|piece| piece.len() >= PIECE)?;
        rest = &rest[piece.len()..];
        Some(piece)
    })
}

/// The length of a piece of a prompt, in bytes.
const PIECE: usize = 1024;

#[cfg(test)]
mod tests {
    use axum::body::to_bytes;
    use axum::response::IntoResponse;
    use serde_json::{Value, json};

    use super::*;
    use crate::dialects::trouble::Dialect;
    use crate::http::problem::Refusal;

    #[test]
    fn a_longer_prompt_goes_on_with_the_conversation_of_its_beginning() {
        let call = |prompt: &str| {
            let body = json!({"model": "m", "prompt": prompt}).to_string();
            read(Route::Completions, body.into()).unwrap_or_else(|_| panic!("{prompt}")).conversation
        };
        let text = "Grüße ".repeat(1000);
        assert_eq!(call(&text), call(&format!("{text}!")));
        assert_ne!(call(&text), call(&format!("{text}{text}")));
        assert_ne!(call(&text), call(&format!("!{text}")));
        // Short ones have nothing worth going on with.
        assert_eq!(call("a"), call("b"));
    }

    #[test]
    fn what_a_chat_completion_needs_is_seen() {
        let needs = |more: Value| {
            let mut body = json!({"model": "m", "messages": [{"role": "user", "content": "image_url"}]});
            body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
            read(Route::Chat, body.to_string().into()).unwrap_or_else(|_| panic!("{body}")).needs
        };
        let image = json!([{"type": "image_url", "image_url": {"url": "data:image/png;base64,AA"}}]);
        let tool = json!({"type": "function", "function": {"name": "f"}});
        for (more, needed) in [
            (json!({}), vec![]),
            (json!({"tools": [], "response_format": null}), vec![]),
            (json!({"response_format": {"type": "text"}}), vec![]),
            (json!({"tools": [tool], "tool_choice": "none"}), vec![]),
            (json!({"tools": [tool]}), vec![Capability::Tools]),
            (json!({"functions": [{"name": "f"}]}), vec![Capability::Tools]),
            (json!({"response_format": {"type": "json_object"}}), vec![Capability::JsonOutput]),
            (json!({"messages": [{"role": "user", "content": image}]}), vec![Capability::Images]),
            (json!({"tools": "wrong"}), vec![]),
        ] {
            assert_eq!(needs(more.clone()), needed, "{more}");
        }
    }

    #[tokio::test]
    async fn invalid_requests_are_refused_by_field() {
        for (body, param) in [
            ("[]", Value::Null),
            ("{}", json!("model")),
            (r#"{"model":7}"#, json!("model")),
            (r#"{"model":"a","n_discard":-1}"#, json!("n_discard")),
            (r#"{"model":"a","max_tokens":-2}"#, json!("max_tokens")),
            (r#"{"model":"a","keep_alive":"soon"}"#, json!("keep_alive")),
        ] {
            let Err(problem) = read(Route::Chat, body.into()) else { panic!("{body}") };
            let mut response = problem.into_response();
            let refusal = response.extensions_mut().remove::<Refusal>().unwrap();
            let response = refusal.write(Dialect::OpenAi, response);
            assert_eq!(response.status(), 400, "{body}");
            let bytes = to_bytes(response.into_body(), 1 << 16).await.unwrap();
            let problem: Value = serde_json::from_slice(&bytes).unwrap();
            assert_eq!(
                (&problem["code"], &problem["error"]["param"]),
                (&json!("invalid_field"), &param),
                "{body}: {problem}"
            );
        }
    }
}
