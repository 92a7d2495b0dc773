//! One request of a client, read and checked, in the form that engines take.

use bytes::Bytes;
use serde::{Deserialize, Deserializer};
use serde_json::Value;
use serde_json::value::to_raw_value;

use crate::config::{Capability, KeepAlive};
use crate::dialects::chat::Chat;
use crate::dialects::engine;
use crate::dialects::writer::Writer;
use crate::error::{Code, Failure};
use crate::http::numbers;
use crate::http::problem::Problem;
use crate::workers::{Conversation, Route};

/// A request.
pub(crate) struct Call {
    /// The model, as the client names it.
    pub(crate) model: String,
    /// What is asked.
    pub(crate) route: Route,
    /// In the form that engines take.
    pub(crate) body: Bytes,
    /// Whether the answer is to come as a stream.
    pub(crate) streams: bool,
    /// Its messages, by which it finds the worker that knows them.
    pub(crate) conversation: Conversation,
    /// What it needs of the model and its engine, besides an answer on the route.
    pub(crate) needs: Vec<Capability>,
    /// How long the worker that answers it stays without a request.
    pub(crate) keep_alive: Option<KeepAlive>,
    /// The least context in tokens: a worker with less is replaced once it is idle.
    pub(crate) context_length: Option<u64>,
    /// The fields of the client's request that have no effect, of which it is told.
    pub(crate) ignored: Vec<String>,
    pub(crate) form: Form,
    /// Whether another hive asks: then no other one is asked.
    pub(crate) is_of_hive: bool,
}

/// The form of the answer.
pub(crate) enum Form {
    /// As the engine writes it.
    Untouched,
    /// As the engine writes it, but its embeddings are of this length.
    Embeddings(usize),
    /// As a dialect writes it.
    Written(Box<dyn Writer>),
}

impl Call {
    /// A chat, whose answer `writer` writes.
    ///
    /// # Errors
    /// [`Code::InvalidField`] for a number outside its range (see [`numbers`]).
    pub(crate) fn chat(chat: Chat, writer: Box<dyn Writer>) -> Result<Self, Problem> {
        let body = engine::request(&chat);
        check(&body)?;
        let messages: Vec<String> =
            body["messages"].as_array().into_iter().flatten().map(Value::to_string).collect();
        let needs = chat.needs();
        let Chat { model, streams, ignored, .. } = chat;
        Ok(Self {
            model: named(&model)?.to_owned(),
            route: Route::Chat,
            conversation: Conversation::of(messages.iter().map(String::as_str)),
            body: body.to_string().into(),
            streams,
            needs,
            keep_alive: None,
            context_length: None,
            ignored,
            form: Form::Written(writer),
            is_of_hive: false,
        })
    }

    /// A prompt that the model continues as it is, whose answer `writer` writes.
    ///
    /// # Errors
    /// As [`Self::chat`].
    pub(crate) fn completion(
        model: &str,
        body: &Value,
        streams: bool,
        writer: Box<dyn Writer>,
    ) -> Result<Self, Problem> {
        check(body)?;
        let question = Self::question(named(model)?, Route::Completions, body);
        Ok(Self { streams, form: Form::Written(writer), ..question })
    }

    /// A question of one JSON value, whose answer is one.
    pub(crate) fn question(model: &str, route: Route, body: &Value) -> Self {
        Self {
            model: model.to_owned(),
            route,
            body: body.to_string().into(),
            streams: false,
            conversation: Conversation::default(),
            needs: Vec::new(),
            keep_alive: None,
            context_length: None,
            ignored: Vec::new(),
            form: Form::Untouched,
            is_of_hive: false,
        }
    }
}

/// How long the worker that answers is to stay without a request: a field of Ollama's, which every dialect takes.
///
/// # Errors
/// [`Code::InvalidField`].
pub(crate) fn keep_alive<'de>(
    said: Option<impl Deserializer<'de, Error = serde_json::Error>>,
) -> Result<Option<KeepAlive>, Problem> {
    said.map(KeepAlive::deserialize).transpose().map_err(|error| {
        let failure = Failure::new(Code::InvalidField, format!("'keep_alive' is not valid: {error}"))
            .hint(r#"send a duration such as "10m", seconds, -1 for as long as there is room, or 0"#);
        Problem::from(failure).param("keep_alive")
    })
}

/// Checks the numbers of a body for an engine.
fn check(body: &Value) -> Result<(), Problem> {
    for (name, value) in body.as_object().into_iter().flatten() {
        if value.is_number()
            && let Ok(value) = to_raw_value(value)
        {
            numbers::check(name, &value).map_err(|(field, failure)| Problem::from(failure).param(field))?;
        }
    }
    Ok(())
}

/// The name of a model, which is not empty.
///
/// # Errors
/// [`Code::InvalidField`].
pub(crate) fn named(model: &str) -> Result<&str, Problem> {
    if !model.is_empty() {
        return Ok(model);
    }
    let failure = Failure::new(Code::InvalidField, "the request has no string 'model'")
        .hint("GET /v1/models lists the models and says which are loaded");
    Err(Problem::from(failure).param("model"))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::dialects::chat::{Message, Part};
    use crate::dialects::ollama::{Form as Of, OllamaWriter};

    #[test]
    fn a_chat_is_known_by_its_messages_as_engines_get_them() {
        let chat = |texts: &[&str]| {
            let of =
                |text: &&str| Message { content: vec![Part::Text((*text).into())], ..Message::default() };
            let messages = texts.iter().map(of).collect();
            let chat = Chat { model: "m".to_owned(), messages, ..Chat::default() };
            Call::chat(chat, Box::new(OllamaWriter::new(Of::Chat, "m"))).unwrap()
        };
        let call = chat(&["a", "b"]);
        let body: Value = serde_json::from_slice(&call.body).unwrap();
        let messages: Vec<_> = body["messages"].as_array().unwrap().iter().map(Value::to_string).collect();
        assert_eq!(messages.len(), 2);
        assert_eq!(call.conversation, Conversation::of(messages.iter().map(String::as_str)));
        assert_ne!(call.conversation, chat(&["a", "c"]).conversation);
    }

    #[test]
    fn the_numbers_of_every_call_are_checked() {
        let writer = || Box::new(OllamaWriter::new(Of::Generate, "m"));
        let options = json!({"top_k": -40});
        let chat = Chat {
            model: "m".to_owned(),
            options: options.as_object().cloned().unwrap_or_default(),
            ..Chat::default()
        };
        let calls = [Call::chat(chat, writer()), Call::completion("m", &options, false, writer())];
        for call in calls {
            let failure = call.err().map(|problem| problem.failure().code);
            assert_eq!(failure, Some(Code::InvalidField));
        }
    }
}
