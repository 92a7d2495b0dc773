//! An item of a response's output, as it grows.

use serde_json::{Value, json};

use super::tools::{self, Called};

/// An item of the output.
#[derive(Clone, Debug)]
pub(super) struct Item {
    pub(super) id: String,
    pub(super) kind: Kind,
    /// Its text, or the arguments of the call.
    pub(super) text: String,
    pub(super) logprobs: Vec<Value>,
}

/// The kinds of items.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Reasoning,
    Message,
    /// The call of that index among the calls of the answer.
    Call {
        index: usize,
        call_id: String,
        called: Called,
    },
}

/// How far an item is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Status {
    /// Nothing of its content is there.
    New,
    Completed,
    /// It has what there was when the answer ended early.
    Incomplete,
}

impl Kind {
    /// What the ids of such items begin with.
    pub(super) fn prefix(&self) -> &'static str {
        match self {
            Self::Reasoning => "rs",
            Self::Message => "msg",
            Self::Call { called: Called { is_custom: true, .. }, .. } => "ctc",
            Self::Call { .. } => "fc",
        }
    }
}

impl Item {
    /// The item's object.
    pub(super) fn object(&self, status: Status) -> Value {
        let content = if status == Status::New { json!([]) } else { json!([self.part()]) };
        let status = match status {
            Status::New => "in_progress",
            Status::Completed => "completed",
            Status::Incomplete => "incomplete",
        };
        match &self.kind {
            Kind::Reasoning => {
                json!({"id": self.id, "type": "reasoning", "status": status, "summary": [], "content": content})
            }
            Kind::Message => json!({
                "id": self.id, "type": "message", "status": status, "role": "assistant", "content": content,
            }),
            Kind::Call { call_id, called, .. } => {
                let mut call =
                    json!({"id": self.id, "status": status, "call_id": call_id, "name": called.name});
                let (kind, field, text) = match called.is_custom {
                    true => ("custom_tool_call", "input", tools::input(&self.text)),
                    false => ("function_call", "arguments", self.text.clone()),
                };
                call["type"] = kind.into();
                call[field] = text.into();
                if let Some(namespace) = &called.namespace {
                    call["namespace"] = namespace.as_str().into();
                }
                call
            }
        }
    }

    /// The one part of the content of an item that has such.
    pub(super) fn part(&self) -> Value {
        match self.kind {
            Kind::Reasoning => json!({"type": "reasoning_text", "text": self.text}),
            _ => json!({
                "type": "output_text", "annotations": [], "logprobs": self.logprobs, "text": self.text,
            }),
        }
    }
}
