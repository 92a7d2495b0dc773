//! Lines of other programs, in the narration of an install.
//!
//! Existing clients take an install for a failed one where a line has one of [`MARKS`]. A compiler writes them in
//! builds that succeed: a test of cmake that found nothing, a file named `error: …`. So what other programs print is
//! narrated through [`harmless`]; whether the install failed, its end says.

use std::borrow::Cow;

/// What existing clients take for a failure, in lower case.
const MARKS: [&str; 5] = ["❌", "✗", "failed:", "error details:", "error:"];

/// The line, without what clients take for a failure: `error:` becomes `error -`.
pub(crate) fn harmless(line: &str) -> Cow<'_, str> {
    // It keeps every character's length, so that places in both are the same.
    let lower = line.to_ascii_lowercase();
    let places: Vec<_> = MARKS.iter().flat_map(|mark| lower.match_indices(mark)).collect();
    if places.is_empty() {
        return Cow::Borrowed(line);
    }
    let mut harmless = String::with_capacity(line.len() + places.len());
    for (place, character) in line.char_indices() {
        let ends_mark = places.iter().any(|(start, mark)| place == start + mark.len() - character.len_utf8());
        match character {
            ':' if ends_mark => harmless.push_str(" -"),
            '❌' | '✗' => harmless.push('×'),
            other => harmless.push(other),
        }
    }
    Cow::Owned(harmless)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_mark_of_a_failure_is_left_and_all_else_is() {
        for (line, told) in [
            ("a.cpp:3:5: error: 'x' was not declared", "a.cpp:3:5: error - 'x' was not declared"),
            ("CMake Error: FAILED: Error details: x", "CMake Error - FAILED - Error details - x"),
            ("❌ größer ✗", "× größer ×"),
            ("-- Performing Test HAS_X - Failed", "-- Performing Test HAS_X - Failed"),
            ("Building CXX object error.cpp.o", "Building CXX object error.cpp.o"),
        ] {
            let harmless = harmless(line);
            assert_eq!(harmless, told);
            let lower = harmless.to_lowercase();
            assert!(MARKS.iter().all(|mark| !lower.contains(mark)), "{harmless}");
        }
    }
}
