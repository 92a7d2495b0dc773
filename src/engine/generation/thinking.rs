//! The limit of what a model thinks before it answers: once it is reached, the mark that ends the reasoning comes
//! next, and the model goes on with its answer.

use std::sync::Arc;

/// How much a model may think.
#[derive(Clone, Debug)]
pub struct ThinkingLimit {
    /// Most tokens of the reasoning.
    pub tokens: usize,
    /// Whether the prompt has begun the reasoning.
    pub opened: bool,
    /// The mark that begins the reasoning, and the one that ends it.
    pub marks: (&'static str, &'static str),
    /// The tokens that spell the mark at the end.
    pub end: Arc<[u32]>,
}

/// Where a sequence is in its reasoning.
#[derive(Debug)]
pub(super) struct Thinking {
    limit: ThinkingLimit,
    state: State,
    /// The end of the text so far, which may have the beginning of a mark.
    heard: String,
}

#[derive(Debug)]
enum State {
    /// The reasoning may begin.
    Before,
    /// So many of its tokens have been generated.
    Inside(usize),
    /// So many tokens of the mark at its end have been taken.
    Ending(usize),
    Over,
}

impl Thinking {
    pub(super) fn new(limit: ThinkingLimit) -> Self {
        let state = if limit.opened { State::Inside(0) } else { State::Before };
        Self { limit, state, heard: String::new() }
    }

    /// The token that must come next, where the limit has been reached.
    pub(super) fn due(&mut self) -> Option<u32> {
        if matches!(self.state, State::Inside(tokens) if tokens >= self.limit.tokens) {
            self.state = State::Ending(0);
        }
        let State::Ending(taken) = &mut self.state else { return None };
        let next = self.limit.end.get(*taken).copied();
        *taken += 1;
        if next.is_none() {
            self.state = State::Over;
        }
        next
    }

    /// Follows the text of one more token.
    pub(super) fn hear(&mut self, text: &str) {
        let (open, close) = self.limit.marks;
        match &mut self.state {
            State::Before => {
                self.heard.push_str(text);
                let begun = self.heard.trim_start();
                if begun.starts_with(open) {
                    self.state = State::Inside(0);
                    self.heard.clear();
                } else if !open.starts_with(begun) {
                    self.state = State::Over;
                }
            }
            State::Inside(tokens) => {
                *tokens += 1;
                self.heard.push_str(text);
                if self.heard.contains(close) {
                    self.state = State::Over;
                }
                let keep = self.heard.len().saturating_sub(close.len());
                self.heard.drain(..self.heard.floor_char_boundary(keep));
            }
            State::Ending(_) | State::Over => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The tokens of which each text is one, and those that come by themselves.
    fn forced(tokens: usize, opened: bool, texts: &[&str]) -> Vec<usize> {
        let limit = ThinkingLimit { tokens, opened, marks: ("<think>", "</think>"), end: Arc::new([7, 8]) };
        let mut thinking = Thinking::new(limit);
        let mut forced = Vec::new();
        for (at, text) in texts.iter().enumerate() {
            while let Some(token) = thinking.due() {
                assert!([7, 8].contains(&token));
                forced.push(at);
                thinking.hear("</think>");
            }
            thinking.hear(text);
        }
        forced
    }

    #[test]
    fn the_mark_comes_once_where_the_limit_is_reached_and_the_model_still_thinks() {
        assert_eq!(forced(2, true, &["a", "b", "c", "d", "e"]), [2, 2]);
        assert_eq!(forced(0, true, &["a", "b"]), [0, 0]);
        assert_eq!(forced(1, false, &[" ", "<thi", "nk>", "a", "b"]), [4, 4]);
        assert_eq!(forced(1, false, &["Hi", "<think>", "a", "b"]), [0; 0]);
        assert_eq!(forced(3, true, &["a", "</th", "ink>", "b", "c", "d"]), [0; 0]);
    }
}
