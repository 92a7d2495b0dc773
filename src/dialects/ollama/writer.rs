//! Answers in Ollama's form: lines of JSON, the last of which has `done`, the counts and the times.

use std::time::{Duration, Instant};

use bytes::Bytes;
use serde_json::{Map, Value, json};

use crate::dialects::answer::{Answer, Finish, Piece, Usage};
use crate::dialects::chat::ToolCall;
use crate::dialects::trouble::{Dialect, Trouble};
use crate::dialects::writer::Writer;
use crate::time;

/// Which of the two routes an answer is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Form {
    /// `/api/chat`: a `message`.
    Chat,
    /// `/api/generate`: a `response`.
    Generate,
}

/// Writes one answer.
#[derive(Debug)]
pub(crate) struct OllamaWriter {
    form: Form,
    /// As the client named it.
    model: String,
    asked: Instant,
    /// When the first piece came.
    first: Option<Instant>,
    /// The calls, finish and usage so far, and log probabilities whose text comes next. Its texts stay empty.
    so_far: Answer,
}

impl OllamaWriter {
    pub(crate) fn new(form: Form, model: &str) -> Self {
        Self {
            form,
            model: model.to_owned(),
            asked: time::monotonic(),
            first: None,
            so_far: Answer::default(),
        }
    }

    /// An object with this part of the answer.
    fn object(&self, text: &str, reasoning: &str, calls: &[ToolCall]) -> Map<String, Value> {
        let mut object = Map::from_iter([
            ("model".to_owned(), self.model.as_str().into()),
            ("created_at".to_owned(), time::Instant::now().to_string().into()),
        ]);
        let mut said = Map::new();
        if !reasoning.is_empty() {
            said.insert("thinking".to_owned(), reasoning.into());
        }
        if !calls.is_empty() {
            said.insert("tool_calls".to_owned(), calls.iter().enumerate().map(in_ollamas_form).collect());
        }
        match self.form {
            Form::Chat => {
                said.insert("role".to_owned(), "assistant".into());
                said.insert("content".to_owned(), text.into());
                object.insert("message".to_owned(), said.into());
            }
            Form::Generate => {
                object.insert("response".to_owned(), text.into());
                object.extend(said);
            }
        }
        object.insert("done".to_owned(), false.into());
        object
    }

    /// An object with this part of the answer and the log probabilities that came before it.
    fn part(&mut self, text: &str, reasoning: &str, calls: &[ToolCall]) -> Map<String, Value> {
        let mut object = self.object(text, reasoning, calls);
        let tokens = std::mem::take(&mut self.so_far.logprobs);
        if !tokens.is_empty() {
            object.insert("logprobs".to_owned(), tokens.into());
        }
        object
    }

    /// Makes an object the last one.
    fn finish(&self, object: &mut Map<String, Value>) {
        let reason = match self.so_far.finish {
            Finish::Length => "length",
            Finish::Stop | Finish::ToolCalls | Finish::Filtered => "stop",
        };
        object.insert("done".to_owned(), true.into());
        object.insert("done_reason".to_owned(), reason.into());
        let usage = self.so_far.usage.unwrap_or_default();
        let times = Times::of(&usage, self.asked, self.first);
        for (name, number) in [
            ("total_duration", times.total),
            ("load_duration", times.load),
            ("prompt_eval_count", usage.prompt_tokens),
            ("prompt_eval_duration", times.prompt),
            ("eval_count", usage.completion_tokens),
            ("eval_duration", times.answer),
        ] {
            object.insert(name.to_owned(), number.into());
        }
    }

    /// The lines of a piece of a stream.
    fn piece(&mut self, piece: Piece, lines: &mut Vec<Value>) {
        self.first.get_or_insert_with(time::monotonic);
        match piece {
            Piece::Text(text) => lines.push(self.part(&text, "", &[]).into()),
            Piece::Reasoning(text) => lines.push(self.part("", &text, &[]).into()),
            other => self.so_far.push(other),
        }
    }
}

impl Writer for OllamaWriter {
    fn dialect(&self) -> Dialect {
        Dialect::Ollama
    }

    fn content_type(&self) -> &'static str {
        "application/x-ndjson"
    }

    /// A line without text: there are no comments.
    fn waiting(&self, _: &str) -> Option<Bytes> {
        Some(line(&self.object("", "", &[]).into()))
    }

    fn pieces(&mut self, pieces: Vec<Piece>) -> Bytes {
        let mut lines = Vec::new();
        for piece in pieces {
            self.piece(piece, &mut lines);
        }
        lines.iter().flat_map(line).collect()
    }

    /// Calls are written whole, so they stand at the end.
    fn end(&mut self) -> Bytes {
        let calls = named(std::mem::take(&mut self.so_far.calls));
        let has_rest = !calls.is_empty() || !self.so_far.logprobs.is_empty();
        let rest = has_rest.then(|| Value::from(self.part("", "", &calls)));
        let mut last = self.object("", "", &[]);
        self.finish(&mut last);
        rest.into_iter().chain([last.into()]).flat_map(|value| line(&value)).collect()
    }

    fn fail(&mut self, trouble: &Trouble) -> Bytes {
        line(&Dialect::Ollama.error(trouble).into())
    }

    fn whole(&mut self, answer: Answer) -> Value {
        let answer = Answer { calls: named(answer.calls), ..answer };
        self.so_far = answer.clone();
        let mut object = self.part(&answer.text, &answer.reasoning, &answer.calls);
        self.finish(&mut object);
        object.into()
    }
}

/// The answer to a request that only loads or unloads a model: `done_reason` is `load` or `unload`.
pub(crate) fn idle_answer(form: Form, model: &str, done_reason: &str) -> Value {
    let mut object = OllamaWriter::new(form, model).object("", "", &[]);
    object.insert("done".to_owned(), true.into());
    object.insert("done_reason".to_owned(), done_reason.into());
    object.into()
}

/// How long an answer took, in nanoseconds.
struct Times {
    total: u64,
    /// What is in no other part: the wait for a worker and the load.
    load: u64,
    prompt: u64,
    answer: u64,
}

impl Times {
    /// As the engine tells; where it does not, as it looked from here.
    fn of(usage: &Usage, asked: Instant, first: Option<Instant>) -> Self {
        let now = time::monotonic();
        let nanoseconds = |duration: Duration| u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX);
        let told = |milliseconds: Option<f64>| {
            let duration = Duration::try_from_secs_f64(milliseconds? / 1e3).ok()?;
            Some(nanoseconds(duration))
        };
        let total = nanoseconds(now.saturating_duration_since(asked));
        let since_first = first.map_or(0, |first| nanoseconds(now.saturating_duration_since(first)));
        let answer = told(usage.completion_ms).unwrap_or(if first.is_some() { since_first } else { total });
        let prompt = told(usage.prompt_ms).unwrap_or_else(|| total.saturating_sub(answer));
        Self { total, load: total.saturating_sub(prompt).saturating_sub(answer), prompt, answer }
    }
}

fn line(value: &Value) -> Bytes {
    Bytes::from(format!("{value}\n"))
}

/// The calls that say which tool they call. An engine that skips an index leaves a gap in their list.
fn named(mut calls: Vec<ToolCall>) -> Vec<ToolCall> {
    calls.retain(|call| !call.name.is_empty());
    calls
}

/// A call, with its arguments as an object.
fn in_ollamas_form((index, call): (usize, &ToolCall)) -> Value {
    let arguments = match serde_json::from_str(&call.arguments) {
        Ok(Value::Object(arguments)) => arguments,
        _ if call.arguments.trim().is_empty() => Map::new(),
        // Nothing that the model wrote is lost, even where it is no object.
        _ => Map::from_iter([("arguments".to_owned(), call.arguments.as_str().into())]),
    };
    json!({"id": call.id, "function": {"index": index, "name": call.name, "arguments": arguments}})
}
