//! The pieces of an answer, one block after the other: a text, what the model thinks, or a call.
//!
//! Engines may mix the pieces of several calls with each other and with text. In the forms whose blocks end before
//! the next one begins, what is not of the open call waits until its arguments are complete, or the answer ends.
//!
//! Invariants:
//! - The pieces of a call come in one run, and all pieces of a kind in their order.
//! - Nothing is lost but what an engine adds to a call after its arguments were complete and another block began.

use std::collections::{BTreeSet, VecDeque};

use serde::de::IgnoredAny;
use serde_json::Value;

use super::answer::Piece;

#[derive(Debug, Default)]
pub(crate) struct Sequence {
    /// The call whose arguments may go on, and all of them so far.
    open: Option<(usize, String)>,
    /// The calls that have begun.
    begun: BTreeSet<usize>,
    /// What waits for the end of the open call. Each call is one piece of it.
    held: VecDeque<Piece>,
    /// Of the piece that comes next. Only texts have a place for them.
    logprobs: Vec<Value>,
}

impl Sequence {
    /// The pieces whose turn it is now that this one has come.
    pub(crate) fn take(&mut self, piece: Piece) -> Vec<Piece> {
        match piece {
            Piece::StopString(_) | Piece::Finish(_) | Piece::Usage(_) => vec![piece],
            Piece::Logprobs(tokens) => {
                self.logprobs.extend(tokens);
                Vec::new()
            }
            Piece::Text(_) => {
                let tokens = self.of_text();
                tokens.into_iter().chain([piece]).flat_map(|piece| self.order(piece)).collect()
            }
            Piece::Reasoning(_) | Piece::Call { .. } => {
                self.logprobs.clear();
                self.order(piece)
            }
        }
    }

    fn of_text(&mut self) -> Option<Piece> {
        Some(std::mem::take(&mut self.logprobs)).filter(|tokens| !tokens.is_empty()).map(Piece::Logprobs)
    }

    fn order(&mut self, piece: Piece) -> Vec<Piece> {
        if let (Piece::Call { index, arguments, .. }, Some((open, so_far))) = (&piece, &mut self.open)
            && index == open
        {
            so_far.push_str(arguments);
            let mut turn = vec![piece];
            while self.open_is_complete()
                && let Some(next) = self.held.pop_front()
            {
                turn.push(self.begin(next));
            }
            return turn;
        }
        match &piece {
            Piece::Call { index, .. } if self.begun.contains(index) => Vec::new(),
            _ if self.held.is_empty() && self.open_is_complete() => vec![self.begin(piece)],
            _ => {
                self.hold(piece);
                Vec::new()
            }
        }
    }

    /// What still waits at the end of the answer.
    pub(crate) fn end(&mut self) -> Vec<Piece> {
        let held = std::mem::take(&mut self.held);
        let held: Vec<Piece> = held.into_iter().map(|piece| self.begin(piece)).collect();
        held.into_iter().chain(self.of_text()).collect()
    }

    /// Whether there is no call whose arguments may go on.
    fn open_is_complete(&self) -> bool {
        self.open.as_ref().is_none_or(|(_, arguments)| {
            arguments.trim_end().ends_with('}') && serde_json::from_str::<IgnoredAny>(arguments).is_ok()
        })
    }

    fn begin(&mut self, piece: Piece) -> Piece {
        self.open = match &piece {
            Piece::Call { index, arguments, .. } => {
                self.begun.insert(*index);
                Some((*index, arguments.clone()))
            }
            _ => None,
        };
        piece
    }

    fn hold(&mut self, piece: Piece) {
        let Piece::Call { index: of, id, name, arguments } = piece else {
            self.held.push_back(piece);
            return;
        };
        let same = self.held.iter_mut().find_map(|held| match held {
            Piece::Call { index, id, name, arguments } if *index == of => Some((id, name, arguments)),
            _ => None,
        });
        match same {
            Some((known, called, so_far)) => {
                *known = id.or(known.take());
                *called = name.or(called.take());
                so_far.push_str(&arguments);
            }
            None => self.held.push_back(Piece::Call { index: of, id, name, arguments }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn call(index: usize, arguments: &str) -> Piece {
        Piece::Call { index, id: None, name: None, arguments: arguments.to_owned() }
    }

    fn text(text: &str) -> Piece {
        Piece::Text(text.to_owned())
    }

    #[test]
    fn log_probabilities_stay_with_their_text() {
        let tokens = |text: &str| Piece::Logprobs(vec![text.into()]);
        let mut sequence = Sequence::default();
        assert_eq!(sequence.take(tokens("hm")), []);
        assert_eq!(sequence.take(Piece::Reasoning("hm".to_owned())), [Piece::Reasoning("hm".to_owned())]);
        assert_eq!(sequence.take(tokens("a")), []);
        assert_eq!(sequence.take(text("a")), [tokens("a"), text("a")]);
        sequence.take(call(0, "{"));
        for piece in [tokens("b"), text("b"), tokens("}")] {
            assert_eq!(sequence.take(piece), []);
        }
        assert_eq!(sequence.take(call(0, "}")), [call(0, "}"), tokens("b"), text("b")]);
        assert_eq!(sequence.take(tokens("end")), []);
        assert_eq!(sequence.end(), [tokens("end")]);
    }

    #[test]
    fn what_is_not_of_the_open_call_waits_for_its_end() {
        let mut sequence = Sequence::default();
        assert_eq!(sequence.take(text("a")), [text("a")]);
        assert_eq!(sequence.take(call(0, "{")), [call(0, "{")]);
        for held in [call(1, "{"), call(2, "{"), text("b"), call(1, r#""x""#)] {
            assert_eq!(sequence.take(held), []);
        }
        assert_eq!(sequence.take(call(0, "}")), [call(0, "}"), call(1, r#"{"x""#)]);
        assert_eq!(sequence.take(call(0, "}")), [], "it is complete");
        assert_eq!(sequence.take(call(2, "}")), []);
        assert_eq!(sequence.take(call(1, ":1}")), [call(1, ":1}"), call(2, "{}"), text("b")]);
        assert_eq!(sequence.take(call(3, "no")), [call(3, "no")]);
        assert_eq!(sequence.take(text("c")), []);
        assert_eq!(sequence.take(call(4, "{}")), []);
        assert_eq!(sequence.end(), [text("c"), call(4, "{}")]);
    }
}
