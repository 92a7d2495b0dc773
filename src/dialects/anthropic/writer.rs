//! Writes an answer: as a message, or as the events of one
//! (<https://platform.claude.com/docs/en/build-with-claude/streaming>).

use bytes::Bytes;
use serde_json::{Value, json};
use uuid::Uuid;

use crate::dialects::answer::{Answer, Finish, Piece, Usage};
use crate::dialects::chat::{Chat, ToolCall};
use crate::dialects::sequence::Sequence;
use crate::dialects::trouble::{Dialect, Trouble};
use crate::dialects::writer::{Writer, comment, named_event};

/// Writes the message that answers one chat.
pub(crate) struct MessageWriter {
    id: String,
    /// The model, as the client names it.
    model: String,
    /// Whether the client wants to see what the model thinks.
    shows_thinking: bool,
    /// The block that is not complete yet.
    open: Option<Open>,
    /// How many blocks have begun.
    blocks: usize,
    has_calls: bool,
    in_turn: Sequence,
    stop_string: Option<String>,
    finish: Finish,
    usage: Usage,
}

enum Open {
    Text,
    Thinking,
    Call {
        index: usize,
        /// All of them so far.
        arguments: String,
        /// Whether they go out as they arrive: they look like an object.
        is_live: bool,
    },
}

impl MessageWriter {
    pub(crate) fn new(chat: &Chat) -> Self {
        Self::with_id(format!("msg_{}", Uuid::new_v4().simple()), chat)
    }

    pub(super) fn with_id(id: String, chat: &Chat) -> Self {
        Self {
            id,
            model: chat.model.clone(),
            shows_thinking: chat.thinking.enabled != Some(false),
            open: None,
            blocks: 0,
            has_calls: false,
            in_turn: Sequence::default(),
            stop_string: None,
            finish: Finish::default(),
            usage: Usage::default(),
        }
    }

    fn message(&self, content: Vec<Value>, stop_reason: Option<&str>) -> Value {
        json!({
            "id": self.id, "type": "message", "role": "assistant", "model": self.model, "content": content,
            "stop_reason": stop_reason, "stop_sequence": self.stop_string, "usage": usage(&self.usage),
        })
    }

    fn stop_reason(&self) -> &'static str {
        match self.finish {
            Finish::Length => "max_tokens",
            Finish::Filtered => "refusal",
            Finish::ToolCalls => "tool_use",
            // Some engines do not say so.
            Finish::Stop if self.has_calls => "tool_use",
            Finish::Stop if self.stop_string.is_some() => "stop_sequence",
            Finish::Stop => "end_turn",
        }
    }

    /// The id of a call, also where an engine gives none.
    fn call_id(&self, index: usize, id: Option<String>) -> String {
        let of_message = self.id.trim_start_matches("msg_");
        id.filter(|id| !id.is_empty()).unwrap_or_else(|| format!("toolu_{of_message}_{index}"))
    }

    fn write(&mut self, piece: Piece, events: &mut String) {
        match piece {
            Piece::Reasoning(text) if self.shows_thinking => {
                if !matches!(self.open, Some(Open::Thinking)) {
                    let block = json!({"type": "thinking", "thinking": "", "signature": ""});
                    self.start(Open::Thinking, block, events);
                }
                self.delta(json!({"type": "thinking_delta", "thinking": text}), events);
            }
            Piece::Text(text) => {
                if !matches!(self.open, Some(Open::Text)) {
                    self.start(Open::Text, json!({"type": "text", "text": ""}), events);
                }
                self.delta(json!({"type": "text_delta", "text": text}), events);
            }
            Piece::Call { index, id, name, arguments } => self.call(index, id, name, &arguments, events),
            // The client did not ask for what the model thinks.
            Piece::Reasoning(_) | Piece::Logprobs(_) => {}
            Piece::StopString(stop) => self.stop_string = Some(stop),
            Piece::Finish(finish) => self.finish = finish,
            Piece::Usage(usage) => self.usage = usage,
        }
    }

    fn call(
        &mut self,
        index: usize,
        id: Option<String>,
        name: Option<String>,
        more: &str,
        events: &mut String,
    ) {
        if !matches!(&self.open, Some(Open::Call { index: open, .. }) if *open == index) {
            self.has_calls = true;
            let block = json!({"type": "tool_use", "id": self.call_id(index, id),
                               "name": name.unwrap_or_default(), "input": {}});
            self.start(Open::Call { index, arguments: String::new(), is_live: false }, block, events);
        }
        let Some(Open::Call { arguments, is_live, .. }) = &mut self.open else { return };
        if more.is_empty() {
            return;
        }
        arguments.push_str(more);
        let was_live = std::mem::replace(is_live, arguments.trim_start().starts_with('{'));
        if *is_live {
            let text = if was_live { more.to_owned() } else { arguments.clone() };
            self.delta(json!({"type": "input_json_delta", "partial_json": text}), events);
        }
    }

    fn start(&mut self, open: Open, block: Value, events: &mut String) {
        self.stop(events);
        let data = json!({"type": "content_block_start", "index": self.blocks, "content_block": block});
        *events += &named_event("content_block_start", &data);
        self.open = Some(open);
        self.blocks += 1;
    }

    fn delta(&self, delta: Value, events: &mut String) {
        let data =
            json!({"type": "content_block_delta", "index": self.blocks.saturating_sub(1), "delta": delta});
        *events += &named_event("content_block_delta", &data);
    }

    /// Ends the open block.
    fn stop(&mut self, events: &mut String) {
        match self.open.take() {
            None => return,
            Some(Open::Thinking) => {
                self.delta(json!({"type": "signature_delta", "signature": ""}), events);
            }
            Some(Open::Call { arguments, is_live: false, .. }) if !arguments.trim().is_empty() => {
                let text = input(&arguments).to_string();
                self.delta(json!({"type": "input_json_delta", "partial_json": text}), events);
            }
            Some(Open::Text | Open::Call { .. }) => {}
        }
        let data = json!({"type": "content_block_stop", "index": self.blocks.saturating_sub(1)});
        *events += &named_event("content_block_stop", &data);
    }
}

impl Writer for MessageWriter {
    fn dialect(&self) -> Dialect {
        Dialect::Anthropic
    }

    fn waiting(&self, text: &str) -> Option<Bytes> {
        Some(Bytes::from(comment(text) + &ping()))
    }

    fn begin(&mut self) -> Bytes {
        let start = json!({"type": "message_start", "message": self.message(Vec::new(), None)});
        Bytes::from(named_event("message_start", &start) + &ping())
    }

    fn pieces(&mut self, pieces: Vec<Piece>) -> Bytes {
        let mut events = String::new();
        for piece in pieces {
            self.in_turn.take(piece).into_iter().for_each(|piece| self.write(piece, &mut events));
        }
        if events.is_empty() {
            // Something arrived that is not shown, or not yet: the client hears that it goes on.
            events = ping();
        }
        Bytes::from(events)
    }

    fn end(&mut self) -> Bytes {
        let mut events = String::new();
        self.in_turn.end().into_iter().for_each(|piece| self.write(piece, &mut events));
        self.stop(&mut events);
        let delta = json!({"stop_reason": self.stop_reason(), "stop_sequence": self.stop_string});
        let delta = json!({"type": "message_delta", "delta": delta, "usage": usage(&self.usage)});
        events += &named_event("message_delta", &delta);
        events += &named_event("message_stop", &json!({"type": "message_stop"}));
        Bytes::from(events)
    }

    fn fail(&mut self, trouble: &Trouble) -> Bytes {
        Bytes::from(named_event("error", &Value::Object(Dialect::Anthropic.error(trouble))))
    }

    fn whole(&mut self, answer: Answer) -> Value {
        let Answer { reasoning, text, calls, stop_string, finish, usage, .. } = answer;
        (self.stop_string, self.finish, self.usage) = (stop_string, finish, usage.unwrap_or_default());
        let mut content = Vec::new();
        if self.shows_thinking && !reasoning.is_empty() {
            content.push(json!({"type": "thinking", "thinking": reasoning, "signature": ""}));
        }
        if !text.is_empty() {
            content.push(json!({"type": "text", "text": text}));
        }
        for (index, ToolCall { id, name, arguments }) in calls.into_iter().enumerate() {
            self.has_calls = true;
            content.push(json!({"type": "tool_use", "id": self.call_id(index, Some(id)), "name": name,
                                "input": input(&arguments)}));
        }
        self.message(content, Some(self.stop_reason()))
    }
}

/// What clients skip, wherever it stands.
fn ping() -> String {
    named_event("ping", &json!({"type": "ping"}))
}

/// The tokens of the prompt are told apart, as at Anthropic: those that were in the cache, and the others.
fn usage(usage: &Usage) -> Value {
    let cached = usage.cached_tokens.unwrap_or(0).min(usage.prompt_tokens);
    let mut counts = json!({
        "input_tokens": usage.prompt_tokens - cached, "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": cached, "output_tokens": usage.completion_tokens,
    });
    if let Some(tokens) = usage.reasoning_tokens {
        counts["output_tokens_details"] = json!({"thinking_tokens": tokens});
    }
    counts
}

/// The arguments of a call. What is no JSON is told as it is, in a string.
fn input(arguments: &str) -> Value {
    if arguments.trim().is_empty() {
        return json!({});
    }
    serde_json::from_str(arguments).unwrap_or_else(|_| arguments.into())
}
