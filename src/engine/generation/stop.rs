//! Stop strings, which may begin in one token and end in another.

/// Holds back text that may turn out to be the beginning of a stop string.
#[derive(Debug)]
pub(super) struct StopMatcher {
    stops: Vec<String>,
    held: String,
}

impl StopMatcher {
    /// Empty strings in `stops` are ignored: they would stop everything.
    pub(super) fn new(mut stops: Vec<String>) -> Self {
        stops.retain(|stop| !stop.is_empty());
        Self { stops, held: String::new() }
    }

    /// The text that may be shown now, and whether a stop string was completed; it and what
    /// follows it are dropped.
    pub(super) fn push(&mut self, text: &str) -> (String, bool) {
        self.held.push_str(text);
        let found = self.stops.iter().filter_map(|stop| self.held.find(stop)).min();
        if let Some(at) = found {
            self.held.truncate(at);
            return (std::mem::take(&mut self.held), true);
        }
        let keep = self.stops.iter().map(|stop| overlap(&self.held, stop)).max().unwrap_or(0);
        let shown = self.held.len() - keep;
        let rest = self.held.split_off(shown);
        (std::mem::replace(&mut self.held, rest), false)
    }

    /// What is held back and turned out to be no stop string, at the end.
    pub(super) fn finish(&mut self) -> String {
        std::mem::take(&mut self.held)
    }
}

/// How many bytes at the end of `text` are the beginning of `stop`, short of all of it.
fn overlap(text: &str, stop: &str) -> usize {
    let longest = text.len().min(stop.len() - 1);
    (1..=longest).rev().find(|len| text.as_bytes().ends_with(&stop.as_bytes()[..*len])).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(stops: &[&str], parts: &[&str]) -> (Vec<String>, bool) {
        let mut matcher = StopMatcher::new(stops.iter().map(|stop| (*stop).to_owned()).collect());
        let mut shown = Vec::new();
        for part in parts {
            let (text, stopped) = matcher.push(part);
            shown.push(text);
            if stopped {
                return (shown, true);
            }
        }
        shown.push(matcher.finish());
        (shown, false)
    }

    fn owned(parts: &[&str]) -> Vec<String> {
        parts.iter().map(|part| (*part).to_owned()).collect()
    }

    #[test]
    fn text_passes_at_once_where_nothing_can_begin() {
        assert_eq!(run(&["END"], &["a", "b"]), (owned(&["a", "b", ""]), false));
        assert_eq!(run(&[], &["a", "b"]), (owned(&["a", "b", ""]), false));
    }

    #[test]
    fn a_stop_string_across_tokens_is_never_shown() {
        assert_eq!(run(&["END"], &["xE", "N", "D y"]), (owned(&["x", "", ""]), true));
        assert_eq!(run(&["END"], &["xE", "N", "d"]), (owned(&["x", "", "ENd", ""]), false));
        assert_eq!(run(&["END"], &["xEN"]), (owned(&["x", "EN"]), false));
    }

    #[test]
    fn the_earliest_of_several_wins_and_overlaps_are_kept() {
        assert_eq!(run(&["bc", "ab"], &["xabc"]), (owned(&["x"]), true));
        assert_eq!(run(&["aab"], &["aaa", "b"]), (owned(&["a", ""]), true));
        // "é" and "è" share their first byte; what is shown is cut at characters all the same.
        assert_eq!(run(&["é!"], &["è", "é", "."]), (owned(&["è", "", "é.", ""]), false));
    }
}
