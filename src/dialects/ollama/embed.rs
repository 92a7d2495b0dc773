//! Embeddings: `/api/embed`, and the older `/api/embeddings` of one text.

use serde_json::{Value, json};

use crate::dialects::embeddings::beginning;
use crate::fields::{FieldError, Fields};

/// A request for embeddings.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Embed {
    pub(crate) model: String,
    input: Value,
    dimensions: Option<usize>,
    /// Whether the answer has one embedding, in the older form.
    is_single: bool,
    /// The names of the fields that have no effect.
    pub(crate) ignored: Vec<String>,
    /// How long the model is to stay in memory, as the client wrote it.
    pub(crate) keep_alive: Option<Value>,
}

impl Embed {
    /// The body of `/api/embed`.
    pub(crate) fn read(body: &Value) -> Result<Self, FieldError> {
        let fields = Fields::new("", body)?;
        let input = match fields.get("input") {
            Some(text @ Value::String(_)) => text.clone(),
            Some(texts @ Value::Array(items)) if items.iter().all(Value::is_string) => texts.clone(),
            _ => return Err(fields.error("input", "must be a string or an array of strings")),
        };
        let dimensions = fields.whole_number("dimensions", 1)?.and_then(|count| usize::try_from(count).ok());
        let mut known = vec!["model", "input", "dimensions", "keep_alive"];
        // What happens anyway: a text that is too long is refused.
        known.extend((fields.bool("truncate")? == Some(false)).then_some("truncate"));
        Self::of(&fields, input, dimensions, false, &known)
    }

    /// The body of `/api/embeddings`.
    pub(crate) fn read_single(body: &Value) -> Result<Self, FieldError> {
        let fields = Fields::new("", body)?;
        let prompt = fields.string("prompt")?.ok_or_else(|| fields.error("prompt", "must be a string"))?;
        Self::of(&fields, prompt.into(), None, true, &["model", "prompt", "keep_alive"])
    }

    fn of(
        fields: &Fields<'_>,
        input: Value,
        dimensions: Option<usize>,
        is_single: bool,
        known: &[&str],
    ) -> Result<Self, FieldError> {
        let model = fields.string("model")?.filter(|model| !model.is_empty());
        let model = model.ok_or_else(|| fields.error("model", "must be the name of a model"))?.to_owned();
        Ok(Self {
            model,
            input,
            dimensions,
            is_single,
            ignored: fields.others(known),
            keep_alive: fields.get("keep_alive").cloned(),
        })
    }

    /// The request as engines take it.
    pub(crate) fn for_engine(&self) -> Value {
        json!({"model": self.model, "input": self.input, "encoding_format": "float"})
    }

    /// Whether nothing is asked for: Ollama answers an empty list with an empty list.
    pub(crate) fn is_empty(&self) -> bool {
        self.input.as_array().is_some_and(Vec::is_empty)
    }

    /// The engine's answer in Ollama's form.
    pub(crate) fn answer(&self, engines: &Value, total_nanoseconds: u64) -> Value {
        let mut rows: Vec<&Value> = engines["data"].as_array().into_iter().flatten().collect();
        rows.sort_by_key(|row| row["index"].as_u64());
        let embeddings: Vec<Value> = rows.into_iter().map(|row| self.shortened(&row["embedding"])).collect();
        if self.is_single {
            return json!({"embedding": embeddings.into_iter().next().unwrap_or_else(|| json!([]))});
        }
        json!({
            "model": self.model, "embeddings": embeddings, "total_duration": total_nanoseconds, "load_duration": 0,
            "prompt_eval_count": engines["usage"]["prompt_tokens"].as_u64().unwrap_or(0),
        })
    }

    /// The embedding, of the length that is asked for.
    fn shortened(&self, embedding: &Value) -> Value {
        let numbers: Vec<f64> =
            embedding.as_array().into_iter().flatten().filter_map(Value::as_f64).collect();
        match self.dimensions.filter(|count| *count < numbers.len()) {
            Some(count) => beginning(&numbers, count).into(),
            None => embedding.clone(),
        }
    }
}
