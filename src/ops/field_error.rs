//! What is wrong with one field of a request.

use crate::error::{Code, Failure};
use crate::text::{clip, excerpt};

/// The most characters of a decoder's message that are shown: it may quote what the caller sent.
const MOST_PROBLEM_CHARS: usize = 300;

/// What is wrong with which field.
pub(super) struct FieldError {
    /// The path of the field; empty where the object itself is wrong.
    path: String,
    problem: String,
    /// Whether the field is an id of the right type outside the grammar of ids.
    outside_grammar: bool,
}

impl FieldError {
    pub(super) fn of_field(path: &str, problem: &str) -> Self {
        Self { path: path.to_owned(), problem: problem.to_owned(), outside_grammar: false }
    }

    pub(super) fn of_object(problem: String) -> Self {
        Self { path: String::new(), problem, outside_grammar: false }
    }

    /// An id that is a string, but not one of the grammar.
    pub(super) fn of_id(path: String, problem: String) -> Self {
        Self { path, problem, outside_grammar: true }
    }

    /// The failure of a request for the operation of that name.
    pub(super) fn into_failure(self, operation: &str) -> Failure {
        let code = if self.outside_grammar { Code::InvalidId } else { Code::InvalidField };
        let problem = clip(&self.problem, MOST_PROBLEM_CHARS);
        let message = if self.path.is_empty() {
            format!("{operation}: {problem}")
        } else {
            format!("{operation}: field `{}`: {problem}", excerpt(&self.path))
        };
        Failure::new(code, message).hint(if self.outside_grammar {
            "take the id from ModelList; an id has letters and digits of any script and ._/:@+~-, 1 to 255 bytes, \
             and does not begin with -"
        } else {
            "docs/EVENTS.md lists the fields of every operation with their types and defaults"
        })
    }
}
