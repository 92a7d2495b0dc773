//! The end of a text that may go on as a mark or a stop string.

/// How many bytes at the end of `text` are the beginning of `mark`, but not all of it.
pub(super) fn overlap(text: &str, mark: &str) -> usize {
    let longest = text.len().min(mark.len().saturating_sub(1));
    (1..=longest).rev().find(|len| text.as_bytes().ends_with(&mark.as_bytes()[..*len])).unwrap_or(0)
}
