//! Embeddings of the length that a client asks for, where an engine makes longer ones only.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;

use crate::fields::FieldError;

/// Makes every embedding of an engine's answer `dimensions` long. One that is so long already stays as it is.
///
/// # Errors
/// `dimensions` is more than the engine's embeddings have.
pub(crate) fn shorten(answer: &mut Value, dimensions: usize) -> Result<(), FieldError> {
    for row in answer["data"].as_array_mut().into_iter().flatten() {
        let embedding = &mut row["embedding"];
        let Some(numbers) = numbers(embedding) else { continue };
        if numbers.len() < dimensions {
            let problem = format_args!("is more than the {} that the model's vectors have", numbers.len());
            return Err(FieldError::new("dimensions", problem));
        }
        if numbers.len() > dimensions {
            let shorter = beginning(&numbers, dimensions);
            *embedding = match embedding {
                Value::String(_) => coded(&shorter).into(),
                _ => shorter.into(),
            };
        }
    }
    Ok(())
}

/// The first numbers of an embedding, at length 1 again.
pub(crate) fn beginning(numbers: &[f64], dimensions: usize) -> Vec<f64> {
    let kept = &numbers[..dimensions.min(numbers.len())];
    let length = kept.iter().map(|number| number * number).sum::<f64>().sqrt();
    let length = if length > 0.0 { length } else { 1.0 };
    kept.iter().map(|number| number / length).collect()
}

/// An embedding's numbers, from an array or from the Base64 of 32-bit numbers.
fn numbers(embedding: &Value) -> Option<Vec<f64>> {
    match embedding {
        Value::Array(numbers) => numbers.iter().map(Value::as_f64).collect(),
        Value::String(text) => {
            let bytes = STANDARD.decode(text).ok()?;
            let (numbers, rest) = bytes.as_chunks();
            rest.is_empty().then(|| numbers.iter().map(|bytes| f32::from_le_bytes(*bytes).into()).collect())
        }
        _ => None,
    }
}

fn coded(numbers: &[f64]) -> String {
    #[expect(clippy::cast_possible_truncation, reason = "they came from numbers of 32 bits")]
    let bytes: Vec<u8> = numbers.iter().flat_map(|number| (*number as f32).to_le_bytes()).collect();
    STANDARD.encode(bytes)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn an_embedding_is_cut_in_the_form_that_it_has() {
        let coding = coded(&[3.0, 4.0, 12.0]);
        let rows = json!([{"embedding": [3.0, 4.0, 12.0]}, {"embedding": coding}, {"embedding": [1.0, 0.0]}]);
        let mut answer = json!({"data": rows});
        shorten(&mut answer, 2).unwrap();
        let short =
            json!([{"embedding": [0.6, 0.8]}, {"embedding": coded(&[0.6, 0.8])}, {"embedding": [1.0, 0.0]}]);
        assert_eq!(answer["data"], short);
        assert!(shorten(&mut answer, 3).unwrap_err().to_string().contains("more than the 2"));
    }
}
