//! What the objects of one answer have in common.

use serde_json::{Value, json};

/// The head of each object of one answer.
pub(super) struct Head {
    id: String,
    /// `chat.completion` or `text_completion`.
    object: &'static str,
    /// Seconds since the Unix epoch.
    created: i64,
    model: String,
    /// Whether a stream ends with a chunk of usage. Its other chunks then have `"usage": null`.
    include_usage: bool,
    /// The fields of the request that were ignored, which the answer names.
    ignored: Vec<String>,
}

impl Head {
    /// `prefix` is that of the answer's id.
    pub(super) fn new(
        prefix: &str,
        object: &'static str,
        model: &str,
        include_usage: bool,
        ignored: Vec<String>,
    ) -> Self {
        Self {
            id: format!("{prefix}-{}", uuid::Uuid::new_v4().simple()),
            object,
            created: jiff::Timestamp::now().as_second(),
            model: model.to_owned(),
            include_usage,
            ignored,
        }
    }

    /// The object of the complete answer.
    pub(super) fn whole(&self, choices: Vec<Value>, usage: &Value, timings: Value) -> Value {
        let mut whole = self.object(self.object.to_owned(), choices.into());
        whole["usage"] = usage.clone();
        whole["timings"] = timings;
        self.name_ignored(&mut whole);
        whole
    }

    /// A chunk of a stream.
    pub(super) fn chunk(&self, choices: Value) -> Value {
        let suffix = if self.object == "text_completion" { "" } else { ".chunk" };
        let mut chunk = self.object(format!("{}{suffix}", self.object), choices);
        if self.include_usage {
            chunk["usage"] = Value::Null;
        }
        chunk
    }

    /// The chunk in which a choice finishes.
    pub(super) fn last_chunk(&self, choices: Value, timings: Value) -> Value {
        let mut chunk = self.chunk(choices);
        chunk["timings"] = timings;
        self.name_ignored(&mut chunk);
        chunk
    }

    /// The last chunk of all, if the request has `stream_options.include_usage`.
    pub(super) fn usage_chunk(&self, usage: &Value) -> Option<Value> {
        self.include_usage.then(|| {
            let mut chunk = self.chunk(json!([]));
            chunk["usage"] = usage.clone();
            chunk
        })
    }

    fn object(&self, object: String, choices: Value) -> Value {
        json!({"id": self.id, "object": object, "created": self.created, "model": self.model, "choices": choices})
    }

    fn name_ignored(&self, answer: &mut Value) {
        if !self.ignored.is_empty() {
            answer["ignored_fields"] = json!(self.ignored);
        }
    }
}
