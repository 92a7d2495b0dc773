//! The numbers of a generation request, checked before any engine sees them.
//!
//! Engines have used such numbers unchecked (a negative `n_discard` overran llama.cpp's buffers,
//! CVE-2026-21869). A number outside its range is refused, not changed, so that a client gets what it asked
//! for. A string is not a number. The engine judges fields that are not listed, and values of other types
//! (`logprobs` may be `true`).

use serde_json::Number;
use serde_json::value::RawValue;

use crate::error::{Code, Failure, Result};

/// The range of a field.
enum Range {
    /// A whole number between the two, inclusive.
    Whole(i64, i64),
    /// A number between the two, inclusive.
    Real(f64, f64),
}

use Range::{Real, Whole};

/// More tokens than any model's context holds.
const TOKENS: i64 = 1 << 24;
/// More entries than any vocabulary has.
const VOCABULARY: i64 = 1 << 22;

/// The fields of OpenAI's API and of llama.cpp's and vLLM's extensions to it. -1 is in range for fields in
/// which it has a meaning.
const FIELDS: [(&str, Range); 34] = [
    ("n", Whole(1, 128)),
    ("best_of", Whole(1, 128)),
    ("max_tokens", Whole(-1, TOKENS)),
    ("max_completion_tokens", Whole(-1, TOKENS)),
    ("min_tokens", Whole(0, TOKENS)),
    ("n_predict", Whole(-1, TOKENS)),
    ("n_discard", Whole(0, TOKENS)),
    ("n_keep", Whole(-1, TOKENS)),
    ("n_indent", Whole(0, 1024)),
    ("n_probs", Whole(0, 1024)),
    ("min_keep", Whole(0, VOCABULARY)),
    ("top_k", Whole(-1, VOCABULARY)),
    ("top_logprobs", Whole(0, 128)),
    ("logprobs", Whole(0, 128)),
    ("prompt_logprobs", Whole(0, 128)),
    ("repeat_last_n", Whole(-1, TOKENS)),
    ("dry_penalty_last_n", Whole(-1, TOKENS)),
    ("dry_allowed_length", Whole(0, TOKENS)),
    ("id_slot", Whole(-1, 65_535)),
    ("truncate_prompt_tokens", Whole(-1, TOKENS)),
    ("t_max_predict_ms", Whole(-1, 86_400_000)),
    ("dimensions", Whole(1, 1 << 20)),
    ("seed", Whole(i64::MIN, i64::MAX)),
    ("mirostat", Whole(0, 2)),
    ("temperature", Real(0.0, 100.0)),
    ("top_p", Real(0.0, 1.0)),
    ("min_p", Real(0.0, 1.0)),
    ("typical_p", Real(0.0, 1.0)),
    ("top_n_sigma", Real(-1.0, 1000.0)),
    ("presence_penalty", Real(-2.0, 2.0)),
    ("frequency_penalty", Real(-2.0, 2.0)),
    ("repeat_penalty", Real(0.0, 100.0)),
    ("repetition_penalty", Real(0.0, 100.0)),
    ("length_penalty", Real(-100.0, 100.0)),
];

/// The fields with the least and the most that each may be.
pub(super) fn ranges() -> impl Iterator<Item = (&'static str, f64, f64)> {
    FIELDS.iter().map(|(name, range)| match *range {
        #[expect(clippy::cast_precision_loss, reason = "seeds may be any number")]
        Whole(least, most) => (*name, least as f64, most as f64),
        Real(least, most) => (*name, least, most),
    })
}

/// Checks one field of the request.
///
/// # Errors
/// The name of the field, and [`Code::InvalidField`] with its range.
pub(crate) fn check(field: &str, value: &RawValue) -> Result<(), (&'static str, Failure)> {
    let Some((name, range)) = FIELDS.iter().find(|(name, _)| *name == field) else { return Ok(()) };
    let text = value.get();
    if !text.starts_with(['-', '0', '1', '2', '3', '4', '5', '6', '7', '8', '9', '"']) {
        return Ok(());
    }
    let fits = serde_json::from_str::<Number>(text).is_ok_and(|number| match range {
        Whole(least, most) => whole(&number).is_some_and(|n| (*least..=*most).contains(&n)),
        Real(least, most) => number.as_f64().is_some_and(|n| (*least..=*most).contains(&n)),
    });
    if fits {
        return Ok(());
    }
    let allowed = match range {
        Whole(i64::MIN, i64::MAX) => "a whole number of 64 bits".to_owned(),
        Whole(least, most) => format!("a whole number between {least} and {most}"),
        Real(least, most) => format!("a number between {least} and {most}"),
    };
    let shown: String = text.chars().take(40).collect();
    let failure = Failure::new(Code::InvalidField, format!("'{name}' is {shown}, but must be {allowed}"))
        .hint(format!("leave '{name}' out for the engine's default"));
    Err((name, failure))
}

/// The number as an integer. `8.0` counts as one: some client libraries send every number so.
fn whole(number: &Number) -> Option<i64> {
    number.as_i64().or_else(|| {
        // Every whole number of this size has an exact f64.
        let real = number.as_f64().filter(|real| real.fract() == 0.0 && real.abs() < 9.0e15)?;
        format!("{real}").parse().ok()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn passes(field: &str, value: &str) -> bool {
        let value = RawValue::from_string(value.to_owned()).unwrap();
        check(field, &value).is_ok()
    }

    #[test]
    fn requests_of_real_clients_pass() {
        for (field, value) in [
            ("max_tokens", "16"),
            ("max_tokens", "null"),
            ("max_tokens", "-1"),
            ("max_completion_tokens", "-1"),
            ("top_k", "-1"),
            ("n", "1"),
            ("top_k", "40"),
            ("top_k", "40.0"),
            ("seed", "-1"),
            ("temperature", "0"),
            ("temperature", "0.7"),
            ("top_p", "1.0"),
            ("logprobs", "true"),
            ("n_keep", "-1"),
            ("messages", "[{\"n_discard\":-1}]"),
            ("unknown", "-1"),
        ] {
            assert!(passes(field, value), "{field}: {value}");
        }
    }

    #[test]
    fn numbers_out_of_range_and_of_the_wrong_type_are_refused_with_their_field() {
        for (field, value) in [
            ("n_discard", "-1"),
            ("max_tokens", "-5"),
            ("max_tokens", "1e300"),
            ("max_tokens", "1e999"),
            ("max_tokens", "99999999999999999999"),
            ("max_tokens", "1.5"),
            ("max_tokens", "\"16\""),
            ("n", "0"),
            ("n", "1000000"),
            ("top_k", "-40"),
            ("temperature", "-0.1"),
            ("top_p", "1.1"),
            ("seed", "9223372036854775808"),
        ] {
            let raw = RawValue::from_string(value.to_owned()).unwrap();
            let (name, failure) = check(field, &raw).expect_err(value);
            assert_eq!((name, failure.code), (field, Code::InvalidField));
            assert!(failure.message.contains(field), "{failure}");
        }
    }
}
