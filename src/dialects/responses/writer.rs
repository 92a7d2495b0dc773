//! Writes an answer as a response: as its events, or as its object. Both come of the same items, so that they tell
//! the same.
//!
//! One item grows at a time, and the next one begins when it is done ([`Sequence`]). After the last event of an answer
//! that is complete comes nothing; one that breaks off ends with `response.failed`, and with an `error` event, which
//! client libraries make an exception of.

use bytes::Bytes;
use serde_json::{Map, Value, json};

use super::ids::Ids;
use super::output::{Item, Kind, Status};
use super::request::Request;
use super::tools::{self, Called, Offered};
use crate::dialects::answer::{Answer, Finish, Piece, Usage};
use crate::dialects::sequence::Sequence;
use crate::dialects::trouble::{Dialect, Trouble};
use crate::dialects::writer::{Writer, named_event};
use crate::time::Instant;

/// What is done with the object of a response that is complete.
pub(crate) type Keep = Box<dyn FnOnce(&Value) + Send>;

/// Writes one response.
pub(crate) struct ResponsesWriter {
    ids: Ids,
    /// How many items the input has: those of the output are numbered after them.
    inputs: usize,
    model: String,
    created_at: i64,
    asked: Map<String, Value>,
    tools: Vec<Offered>,
    keep: Option<Keep>,
    in_turn: Sequence,
    items: Vec<Item>,
    /// The item that grows is the last one; `false` where none does.
    is_open: bool,
    /// Log probabilities of tokens whose text comes next.
    logprobs: Vec<Value>,
    finish: Finish,
    usage: Option<Usage>,
    has_begun: bool,
    /// The number of the next event.
    sequence: u64,
    /// Events that have not been given out.
    events: String,
}

impl ResponsesWriter {
    /// Writes the answer to a request. `keep` gets the response's object once it is complete.
    pub(crate) fn new(request: &Request, keep: Option<Keep>) -> Self {
        Self {
            ids: request.ids.clone(),
            inputs: request.input.len(),
            model: request.chat.model.clone(),
            created_at: Instant::now().0 / 1000,
            asked: request.asked.clone(),
            tools: request.tools.clone(),
            keep,
            in_turn: Sequence::default(),
            items: Vec::new(),
            is_open: false,
            logprobs: Vec::new(),
            finish: Finish::default(),
            usage: None,
            has_begun: false,
            sequence: 0,
            events: String::new(),
        }
    }

    /// The response's object. Unless it has an error, the last item is as complete as the answer.
    fn response(&self, status: &str, error: &Value) -> Value {
        let incomplete = match self.finish {
            Finish::Length => json!({"reason": "max_output_tokens"}),
            Finish::Filtered => json!({"reason": "content_filter"}),
            Finish::Stop | Finish::ToolCalls => Value::Null,
        };
        let last = if status == "completed" { Status::Completed } else { Status::Incomplete };
        let count = self.items.len();
        let output = self.items.iter().enumerate();
        let output =
            output.map(|(at, item)| item.object(if at + 1 < count { Status::Completed } else { last }));
        let mut response = json!({
            "id": self.ids.response(),
            "object": "response",
            "created_at": self.created_at,
            "completed_at": (status == "completed").then(|| Instant::now().0 / 1000),
            "status": status,
            "background": false,
            "error": error,
            "incomplete_details": incomplete,
            "model": self.model,
            "output": output.collect::<Vec<_>>(),
            "usage": self.usage.as_ref().map(usage),
        });
        if let Value::Object(fields) = &mut response {
            fields.extend(self.asked.clone());
        }
        response
    }

    /// Adds an event.
    fn event(&mut self, name: &str, fields: Value) {
        let mut data = Map::from_iter([
            ("type".to_owned(), name.into()),
            ("sequence_number".to_owned(), self.sequence.into()),
        ]);
        if let Value::Object(fields) = fields {
            data.extend(fields);
        }
        self.sequence += 1;
        self.events.push_str(&named_event(name, &Value::Object(data)));
    }

    /// Adds an event of the item of that index. Those of its content name the part, which is the only one.
    fn item_event(&mut self, index: usize, name: &str, fields: Value) {
        let item = &self.items[index];
        let mut data = json!({"item_id": item.id, "output_index": index});
        if !matches!(item.kind, Kind::Call { .. }) {
            data["content_index"] = 0.into();
        }
        if let (Value::Object(data), Value::Object(fields)) = (&mut data, fields) {
            data.extend(fields);
        }
        self.event(name, data);
    }

    /// The index of the item that such a piece belongs to, which is begun where it is new.
    fn item(&mut self, kind: Kind) -> usize {
        let is_it = |item: &Item| match (&item.kind, &kind) {
            (Kind::Call { index, .. }, Kind::Call { index: wanted, .. }) => index == wanted,
            (has, wanted) => has == wanted,
        };
        let is_call = matches!(kind, Kind::Call { .. });
        let last = self.items.len().checked_sub(1);
        if let Some(last) = last.filter(|last| self.is_open && is_it(&self.items[*last])) {
            return last;
        }
        self.close(Status::Completed);
        let index = self.items.len();
        let id = self.ids.item(kind.prefix(), self.inputs + index);
        self.items.push(Item { id, kind, text: String::new(), logprobs: Vec::new() });
        self.is_open = true;
        let object = self.items[index].object(Status::New);
        self.event("response.output_item.added", json!({"output_index": index, "item": object}));
        if !is_call {
            let part = self.items[index].part();
            self.item_event(index, "response.content_part.added", json!({"part": part}));
        }
        index
    }

    /// Adds text to an item.
    fn grow(&mut self, index: usize, text: &str) {
        self.items[index].text.push_str(text);
        match self.items[index].kind {
            Kind::Reasoning => {
                self.item_event(index, "response.reasoning_text.delta", json!({"delta": text}));
            }
            Kind::Message => {
                let logprobs = std::mem::take(&mut self.logprobs);
                self.items[index].logprobs.extend(logprobs.iter().cloned());
                let fields = json!({"delta": text, "logprobs": logprobs});
                self.item_event(index, "response.output_text.delta", fields);
            }
            // The text within the arguments is known once they are whole.
            Kind::Call { called: Called { is_custom: true, .. }, .. } => {}
            Kind::Call { .. } if text.is_empty() => {}
            Kind::Call { .. } => {
                self.item_event(index, "response.function_call_arguments.delta", json!({"delta": text}));
            }
        }
    }

    /// Ends the item that grows.
    fn close(&mut self, status: Status) {
        let Some(index) = self.items.len().checked_sub(1).filter(|_| self.is_open) else { return };
        self.is_open = false;
        let item = self.items[index].clone();
        match &item.kind {
            Kind::Reasoning => {
                self.item_event(index, "response.reasoning_text.done", json!({"text": item.text}));
            }
            Kind::Message => {
                let fields = json!({"text": item.text, "logprobs": item.logprobs});
                self.item_event(index, "response.output_text.done", fields);
            }
            Kind::Call { called: Called { is_custom: true, .. }, .. } => {
                let input = tools::input(&item.text);
                self.item_event(index, "response.custom_tool_call_input.delta", json!({"delta": input}));
                self.item_event(index, "response.custom_tool_call_input.done", json!({"input": input}));
            }
            Kind::Call { called, .. } => {
                let fields = json!({"name": called.name, "arguments": item.text});
                self.item_event(index, "response.function_call_arguments.done", fields);
            }
        }
        if !matches!(item.kind, Kind::Call { .. }) {
            self.item_event(index, "response.content_part.done", json!({"part": item.part()}));
        }
        let fields = json!({"output_index": index, "item": item.object(status)});
        self.event("response.output_item.done", fields);
    }

    fn piece(&mut self, piece: Piece) {
        match piece {
            Piece::Reasoning(text) => {
                let index = self.item(Kind::Reasoning);
                self.grow(index, &text);
            }
            Piece::Text(text) => {
                let index = self.item(Kind::Message);
                self.grow(index, &text);
            }
            Piece::Call { index, id, name, arguments } => {
                let call_id = id.filter(|id| !id.is_empty()).unwrap_or_else(|| self.ids.item("call", index));
                let called = tools::called(&self.tools, &name.unwrap_or_default());
                let index = self.item(Kind::Call { index, call_id, called });
                self.grow(index, &arguments);
            }
            Piece::Logprobs(tokens) => self.logprobs.extend(tokens),
            // A response has no place for it.
            Piece::StopString(_) => {}
            Piece::Finish(finish) => self.finish = finish,
            Piece::Usage(usage) => self.usage = Some(usage),
        }
    }

    fn take(&mut self, pieces: Vec<Piece>) {
        for piece in pieces {
            self.in_turn.take(piece).into_iter().for_each(|piece| self.piece(piece));
        }
    }

    /// Writes what still waits for the end of a call.
    fn take_rest(&mut self) {
        self.in_turn.end().into_iter().for_each(|piece| self.piece(piece));
    }

    /// Ends the answer, and gives the response to where it is kept.
    fn complete(&mut self) -> Value {
        self.take_rest();
        let is_complete = matches!(self.finish, Finish::Stop | Finish::ToolCalls);
        let has_said = self.items.iter().any(|item| item.kind != Kind::Reasoning);
        let is_message = self.items.last().is_some_and(|item| item.kind == Kind::Message);
        // Clients look for a message in every answer. The last tokens of one may have no text.
        if (is_complete && !has_said) || (is_message && !self.logprobs.is_empty()) {
            self.piece(Piece::Text(String::new()));
        }
        self.close(if is_complete { Status::Completed } else { Status::Incomplete });
        let response = self.response(if is_complete { "completed" } else { "incomplete" }, &Value::Null);
        if let Some(keep) = self.keep.take() {
            keep(&response);
        }
        response
    }

    fn given_out(&mut self) -> Bytes {
        std::mem::take(&mut self.events).into()
    }
}

impl Writer for ResponsesWriter {
    fn dialect(&self) -> Dialect {
        Dialect::OpenAi
    }

    fn begin(&mut self) -> Bytes {
        self.has_begun = true;
        for name in ["response.created", "response.in_progress"] {
            let response = self.response("in_progress", &Value::Null);
            self.event(name, json!({"response": response}));
        }
        self.given_out()
    }

    fn pieces(&mut self, pieces: Vec<Piece>) -> Bytes {
        self.take(pieces);
        self.given_out()
    }

    fn end(&mut self) -> Bytes {
        let response = self.complete();
        let name = format!("response.{}", response["status"].as_str().unwrap_or_default());
        self.event(&name, json!({"response": response}));
        self.given_out()
    }

    fn fail(&mut self, trouble: &Trouble) -> Bytes {
        if self.has_begun {
            self.take_rest();
            let error = json!({"code": trouble.code, "message": trouble.message});
            let response = self.response("failed", &error);
            self.event("response.failed", json!({"response": response}));
        }
        let mut fields = Value::Object(self.dialect().error(trouble));
        for name in ["code", "message", "param"] {
            fields[name] = fields["error"][name].clone();
        }
        self.event("error", fields);
        self.given_out()
    }

    fn whole(&mut self, answer: Answer) -> Value {
        let Answer { reasoning, text, calls, logprobs, finish, usage, stop_string: _ } = answer;
        let said = |text: String| Some(text).filter(|text| !text.is_empty());
        let mut pieces: Vec<Piece> = said(reasoning).map(Piece::Reasoning).into_iter().collect();
        if let Some(text) = said(text) {
            pieces.extend([Piece::Logprobs(logprobs), Piece::Text(text)]);
        }
        pieces.extend(calls.into_iter().enumerate().map(|(index, call)| Piece::Call {
            index,
            id: Some(call.id),
            name: Some(call.name),
            arguments: call.arguments,
        }));
        pieces.push(Piece::Finish(finish));
        pieces.extend(usage.map(Piece::Usage));
        self.take(pieces);
        self.complete()
    }
}

fn usage(usage: &Usage) -> Value {
    json!({
        "input_tokens": usage.prompt_tokens,
        "input_tokens_details": {
            "cached_tokens": usage.cached_tokens.unwrap_or(0),
            "cache_write_tokens": 0,
        },
        "output_tokens": usage.completion_tokens,
        "output_tokens_details": {"reasoning_tokens": usage.reasoning_tokens.unwrap_or(0)},
        "total_tokens": usage.prompt_tokens + usage.completion_tokens,
    })
}
