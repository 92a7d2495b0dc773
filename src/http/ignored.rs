//! Tells a client which fields of its request have no effect.

use axum::http::{HeaderName, HeaderValue};
use axum::response::{IntoResponse, Response};

/// The header that names them.
const IGNORED: HeaderName = HeaderName::from_static("x-rbee-ignored-fields");

/// The answer, with the header that names the fields without effect, if there are some.
pub(super) fn telling(answer: impl IntoResponse, ignored: &[String]) -> Response {
    let mut response = answer.into_response();
    if !ignored.is_empty()
        && let Ok(names) = HeaderValue::from_str(&in_a_header(ignored))
    {
        response.headers_mut().insert(IGNORED, names);
    }
    response
}

/// The names of fields as one header has room for them. They are the client's own, and may be anything.
fn in_a_header(names: &[String]) -> String {
    const MOST: usize = 50;
    let shown = |character: char| if character.is_ascii_graphic() { character } else { '?' };
    let mut listed: Vec<String> =
        names.iter().take(MOST).map(|name| name.chars().take(100).map(shown).collect()).collect();
    if names.len() > MOST {
        listed.push(format!("and {} more", names.len() - MOST));
    }
    listed.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_names_of_any_fields_fit_in_a_header() {
        let names = |names: &[&str]| {
            let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
            telling((), &names).headers()[IGNORED].clone()
        };
        assert_eq!(names(&["truncation", "input[0].detail"]), "truncation, input[0].detail");
        assert_eq!(names(&["gr\u{fc}n", "a\r\nset-cookie: b"]), "gr?n, a??set-cookie:?b");
        let many = names(&["x".repeat(1000).as_str(); 1000]);
        assert!(many.len() < 6000 && many.to_str().unwrap().ends_with(", and 950 more"));
        assert!(telling((), &[]).headers().get(IGNORED).is_none());
    }
}
