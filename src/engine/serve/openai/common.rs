//! What the requests of a chat completion and of a completion have in common.

use serde_json::Value;

use super::format::{Wanted, wanted};
use crate::engine::sampling::SamplingParams;
use crate::engine::tokenizer::Tokenizer;
use crate::fields::{FieldError, Fields};

/// Most stop strings of a request.
const MAX_STOPS: usize = 16;
/// Longest stop string, in bytes.
const MAX_STOP_BYTES: usize = 1024;

/// Most answers to one request.
const MAX_CHOICES: u64 = 128;

/// Lower temperatures become 0, which is greedy: logits divided by them would overflow.
const MIN_TEMPERATURE: f32 = 1e-4;

/// How to generate the answer, and how to send it.
#[derive(Clone, Debug)]
pub(crate) struct Common {
    pub(super) sampling: SamplingParams,
    /// Whether the model may not end its answer.
    ignore_eos: bool,
    pub(crate) max_tokens: Option<usize>,
    pub(crate) stop: Vec<String>,
    /// The form that the answer must have.
    pub(super) wanted: Option<Wanted>,
    /// How many answers to give.
    pub(crate) choices: usize,
    pub(crate) stream: bool,
    /// Whether a stream ends with a chunk of usage.
    pub(crate) include_usage: bool,
}

impl Common {
    /// `default` is how the model is sampled where the request does not say.
    pub(super) fn read(fields: &Fields<'_>, default: SamplingParams) -> Result<Self, FieldError> {
        // The gateway routes by this field; a worker has only one model.
        fields.string("model")?;
        Ok(Self {
            sampling: sampling(fields, default)?,
            ignore_eos: fields.bool("ignore_eos")?.unwrap_or(false),
            max_tokens: max_tokens(fields)?,
            stop: stop(fields)?,
            wanted: wanted(fields)?,
            choices: choices(fields)?,
            stream: fields.bool("stream")?.unwrap_or(false),
            include_usage: match fields.object("stream_options")? {
                Some(options) => options.bool("include_usage")?.unwrap_or(false),
                None => false,
            },
        })
    }

    /// How to sample, for a model with these tokens.
    pub(crate) fn sampling(&self, tokenizer: &Tokenizer) -> SamplingParams {
        let mut sampling = self.sampling.clone();
        if self.ignore_eos {
            let ends = tokenizer.end_of_generation().iter();
            sampling.logit_bias.extend(ends.map(|id| (*id, f32::NEG_INFINITY)));
        }
        sampling
    }
}

fn choices(fields: &Fields<'_>) -> Result<usize, FieldError> {
    match fields.whole_number("n", 1)? {
        None => Ok(1),
        Some(count @ 1..=MAX_CHOICES) => Ok(count as usize),
        Some(_) => Err(fields.error("n", format_args!("must be at most {MAX_CHOICES}"))),
    }
}

/// The limit, by the first of its names. -1 is none. A limit that is larger than the context is no error:
/// the full context ends the answer.
fn max_tokens(fields: &Fields<'_>) -> Result<Option<usize>, FieldError> {
    let names = ["max_completion_tokens", "max_tokens", "n_predict"];
    let Some(name) = names.into_iter().find(|name| fields.get(name).is_some()) else { return Ok(None) };
    if fields.get(name).and_then(Value::as_f64) == Some(-1.0) {
        return Ok(None);
    }
    let tokens = fields.whole_number(name, 1)?;
    Ok(tokens.map(|tokens| usize::try_from(tokens).unwrap_or(usize::MAX)))
}

fn sampling(fields: &Fields<'_>, default: SamplingParams) -> Result<SamplingParams, FieldError> {
    let temperature = fields.number("temperature", 0.0, 100.0)?.unwrap_or(default.temperature);
    let repetition_penalty = match fields.number("repetition_penalty", 0.01, 10.0)? {
        Some(penalty) => Some(penalty),
        // llama.cpp's name for the same parameter.
        None => fields.number("repeat_penalty", 0.01, 10.0)?,
    };
    Ok(SamplingParams {
        temperature: if temperature < MIN_TEMPERATURE { 0.0 } else { temperature },
        top_k: top_k(fields)?.unwrap_or(default.top_k),
        top_p: fields.number("top_p", 0.0, 1.0)?.unwrap_or(default.top_p),
        min_p: fields.number("min_p", 0.0, 1.0)?.unwrap_or(default.min_p),
        seed: seed(fields)?,
        repetition_penalty: repetition_penalty.unwrap_or(default.repetition_penalty),
        frequency_penalty: fields.number("frequency_penalty", -2.0, 2.0)?.unwrap_or(0.0),
        presence_penalty: fields.number("presence_penalty", -2.0, 2.0)?.unwrap_or(0.0),
        logit_bias: logit_bias(fields)?,
    })
}

/// -1 is 0, which keeps all.
fn top_k(fields: &Fields<'_>) -> Result<Option<usize>, FieldError> {
    if fields.get("top_k").and_then(Value::as_f64) == Some(-1.0) {
        return Ok(Some(0));
    }
    let top_k = fields.whole_number("top_k", 0)?;
    Ok(top_k.map(|top_k| usize::try_from(top_k).unwrap_or(usize::MAX)))
}

/// Any 64-bit integer, signed (as OpenAI's) or unsigned.
fn seed(fields: &Fields<'_>) -> Result<Option<u64>, FieldError> {
    let Some(value) = fields.get("seed") else { return Ok(None) };
    value
        .as_u64()
        .or_else(|| value.as_i64().map(i64::cast_unsigned))
        .map(Some)
        .ok_or_else(|| fields.error("seed", "must be a 64-bit integer"))
}

fn logit_bias(fields: &Fields<'_>) -> Result<Vec<(u32, f32)>, FieldError> {
    let Some(value) = fields.get("logit_bias") else { return Ok(Vec::new()) };
    let biases = Fields::new("logit_bias", value)?;
    let object = value.as_object().into_iter().flatten();
    object
        .map(|(token, _)| {
            let id = token.parse().map_err(|_| biases.error(token, "is not a token id"))?;
            Ok((id, biases.number(token, -100.0, 100.0)?.unwrap_or(0.0)))
        })
        .collect()
}

/// An empty string stops nothing.
fn stop(fields: &Fields<'_>) -> Result<Vec<String>, FieldError> {
    let problem = "must be a string or an array of strings";
    let mut stops: Vec<String> = match fields.get("stop") {
        None => Vec::new(),
        Some(Value::String(stop)) => vec![stop.clone()],
        Some(Value::Array(stops)) => stops
            .iter()
            .map(|stop| stop.as_str().map(str::to_owned).ok_or_else(|| fields.error("stop", problem)))
            .collect::<Result<_, _>>()?,
        Some(_) => return Err(fields.error("stop", problem)),
    };
    stops.retain(|stop| !stop.is_empty());
    if stops.len() > MAX_STOPS {
        return Err(fields.error("stop", format_args!("has {} strings, more than {MAX_STOPS}", stops.len())));
    }
    if stops.iter().any(|stop| stop.len() > MAX_STOP_BYTES) {
        return Err(fields.error("stop", format_args!("must have strings of at most {MAX_STOP_BYTES} bytes")));
    }
    Ok(stops)
}
