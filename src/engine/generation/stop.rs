//! Finds stop strings, which may begin in one token and end in another.

use crate::engine::overlap::overlap;

/// Holds back text that may be the beginning of a stop string.
#[derive(Debug)]
pub(super) struct StopMatcher {
    stops: Vec<String>,
    /// Text that is held back.
    held: String,
}

impl StopMatcher {
    /// A matcher for these strings. Empty ones are ignored: they would match everything.
    pub(super) fn new(mut stops: Vec<String>) -> Self {
        stops.retain(|stop| !stop.is_empty());
        Self { stops, held: String::new() }
    }

    /// Adds generated text. Returns the text that may be sent, and whether a stop string is complete;
    /// the stop string and the text after it are dropped.
    pub(super) fn push(&mut self, text: &str) -> (String, bool) {
        self.held.push_str(text);
        let first = self.stops.iter().filter_map(|stop| self.held.find(stop)).min();
        if let Some(start) = first {
            self.held.truncate(start);
            return (std::mem::take(&mut self.held), true);
        }
        let keep = self.stops.iter().map(|stop| overlap(&self.held, stop)).max().unwrap_or(0);
        let rest = self.held.split_off(self.held.len() - keep);
        (std::mem::replace(&mut self.held, rest), false)
    }

    /// Ends the text. Returns what is held back, which is no stop string.
    pub(super) fn finish(&mut self) -> String {
        std::mem::take(&mut self.held)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(stops: &[&str], parts: &[&str]) -> (Vec<String>, bool) {
        let mut matcher = StopMatcher::new(stops.iter().map(|stop| (*stop).to_owned()).collect());
        let mut sent = Vec::new();
        for part in parts {
            let (text, stopped) = matcher.push(part);
            sent.push(text);
            if stopped {
                return (sent, true);
            }
        }
        sent.push(matcher.finish());
        (sent, false)
    }

    fn owned(parts: &[&str]) -> Vec<String> {
        parts.iter().map(|part| (*part).to_owned()).collect()
    }

    #[test]
    fn text_that_begins_no_stop_string_is_sent_at_once() {
        assert_eq!(run(&["END"], &["a", "b"]), (owned(&["a", "b", ""]), false));
        assert_eq!(run(&[], &["a", "b"]), (owned(&["a", "b", ""]), false));
    }

    #[test]
    fn a_stop_string_across_tokens_is_never_sent() {
        assert_eq!(run(&["END"], &["xE", "N", "D y"]), (owned(&["x", "", ""]), true));
        assert_eq!(run(&["END"], &["xE", "N", "d"]), (owned(&["x", "", "ENd", ""]), false));
        assert_eq!(run(&["END"], &["xEN"]), (owned(&["x", "EN"]), false));
    }

    #[test]
    fn the_earliest_stop_string_wins_and_overlapping_starts_are_found() {
        assert_eq!(run(&["bc", "ab"], &["xabc"]), (owned(&["x"]), true));
        assert_eq!(run(&["aab"], &["aaa", "b"]), (owned(&["a", ""]), true));
        // "é" and "è" share their first byte; the text is still cut between characters.
        assert_eq!(run(&["é!"], &["è", "é", "."]), (owned(&["è", "", "é.", ""]), false));
    }
}
