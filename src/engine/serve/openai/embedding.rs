//! The request for embeddings, `POST /v1/embeddings`, and its answer.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use super::completion::{Text, texts};
use super::known;
use crate::engine::serve::error::ApiError;
use crate::fields::Fields;

/// A valid request. Only the model can still refuse it.
#[derive(Debug)]
pub(crate) struct EmbeddingRequest {
    /// At least one.
    pub(crate) input: Vec<Text>,
    /// Whether a vector is its bytes in base64 instead of an array of numbers.
    base64: bool,
    /// The length of a vector, if it is to be shorter than the model's.
    pub(crate) dimensions: Option<usize>,
    ignored: Vec<String>,
}

impl EmbeddingRequest {
    pub(crate) fn parse(body: &Value) -> Result<Self, ApiError> {
        let fields = Fields::new("", body)?;
        let ignored = known::check(&fields, &[known::EMBEDDING])?;
        fields.string("model")?;
        let base64 = match fields.string("encoding_format")? {
            None | Some("float") => false,
            Some("base64") => true,
            Some(_) => return Err(fields.error("encoding_format", "must be float or base64").into()),
        };
        let dimensions = fields.whole_number("dimensions", 1)?;
        Ok(Self {
            input: texts(&fields, "input")?,
            base64,
            dimensions: dimensions.map(|length| usize::try_from(length).unwrap_or(usize::MAX)),
            ignored,
        })
    }

    /// The answer with these vectors, each of the length that the model gives it.
    pub(crate) fn answer(&self, model: &str, vectors: Vec<Vec<f32>>, tokens: usize) -> Value {
        let embedding = |vector: Vec<f32>| {
            let vector = normalised(vector, self.dimensions);
            match self.base64 {
                true => {
                    STANDARD.encode(vector.iter().flat_map(|x| x.to_le_bytes()).collect::<Vec<_>>()).into()
                }
                false => json!(vector),
            }
        };
        let data = vectors.into_iter().enumerate();
        let data = data.map(
            |(index, vector)| json!({"object": "embedding", "index": index, "embedding": embedding(vector)}),
        );
        let mut answer = json!({
            "object": "list",
            "data": data.collect::<Vec<_>>(),
            "model": model,
            "usage": {"prompt_tokens": tokens, "total_tokens": tokens},
        });
        if !self.ignored.is_empty() {
            answer["ignored_fields"] = json!(self.ignored);
        }
        answer
    }
}

/// The first `dimensions` of the vector, of the length 1.
fn normalised(mut vector: Vec<f32>, dimensions: Option<usize>) -> Vec<f32> {
    vector.truncate(dimensions.unwrap_or(usize::MAX));
    let length = vector.iter().map(|x| x * x).sum::<f32>().sqrt();
    if length > 0.0 {
        vector.iter_mut().for_each(|x| *x /= length);
    }
    vector
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_vector_is_cut_before_it_is_normalised() {
        let request = |extra: Value| {
            let mut body = json!({"input": "a"});
            body.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
            EmbeddingRequest::parse(&body).unwrap().answer("m", vec![vec![3.0, 4.0, 12.0]], 2)
        };
        assert_eq!(
            request(json!({"dimensions": 2, "user": "u"}))["data"][0]["embedding"],
            json!([0.6f32, 0.8f32])
        );
        let whole = request(json!({"encoding_format": "float", "odd": 1}));
        assert_eq!(whole["data"][0]["embedding"], json!([3.0f32 / 13.0, 4.0f32 / 13.0, 12.0f32 / 13.0]));
        assert_eq!((&whole["usage"]["total_tokens"], &whole["ignored_fields"]), (&json!(2), &json!(["odd"])));
        let coded = request(json!({"encoding_format": "base64", "dimensions": 1}));
        assert_eq!(
            STANDARD.decode(coded["data"][0]["embedding"].as_str().unwrap()).unwrap(),
            1f32.to_le_bytes()
        );
    }

    #[test]
    fn every_known_field_is_applied_refused_or_harmless() {
        known::tests::assert_true(
            known::EMBEDDING,
            |_| json!(7),
            |name, value| {
                let mut body = json!({"input": "a"});
                body[name] = value;
                EmbeddingRequest::parse(&body).map(drop).map_err(|error| error.body().to_string())
            },
        );
    }

    #[test]
    fn what_embeddings_do_not_have_is_refused_by_name() {
        for (body, param) in [
            (json!({}), "input"),
            (json!({"input": "a", "encoding_format": "hex"}), "encoding_format"),
            (json!({"input": "a", "dimensions": 0}), "dimensions"),
            (json!({"input": "a", "embd_normalize": 1}), "embd_normalize"),
        ] {
            assert_eq!(EmbeddingRequest::parse(&body).unwrap_err().body()["error"]["param"], param, "{body}");
        }
    }
}
