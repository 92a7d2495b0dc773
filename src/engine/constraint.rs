//! Constrained decoding: an answer that always holds a grammar, such as that of a JSON Schema.
//!
//! Before each token, the grammar says which tokens may come next; the sampler chooses among those alone. So
//! what holds, holds at every temperature. `llguidance` compiles and follows the grammars.
//!
//! Invariants:
//! - A grammar that would not be held exactly is refused while it is compiled.
//! - The answer ends with the grammar: where nothing may follow, or where the model ends it and may.
//! - White space between the parts of JSON is bounded, so that no model can write it for ever.

mod one_of;

use std::fmt;
use std::sync::Arc;

use llguidance::api::TopLevelGrammar;
use llguidance::toktrie::{ApproximateTokEnv, TokEnv, TokRxInfo, TokTrie};
use llguidance::{Matcher, ParserFactory, regex_to_lark};
use serde_json::{Value, json};

use self::one_of::as_any_of;
use super::tokenizer::Tokenizer;
use crate::error::{Failure, Result};

/// The white space that may stand between two parts of JSON: a space, or line breaks and an indentation.
const WHITE_SPACE: &str = r" |\n{1,2} {0,20}";

/// Longest token of a grammar, in bytes. The prefix tree takes no longer ones than 1024.
const MAX_TOKEN: usize = 512;

/// Compiles grammars for one vocabulary.
pub struct Grammars {
    factory: ParserFactory,
    /// The tokens that end a generation.
    ends: Arc<[u32]>,
}

/// What an answer must be.
#[derive(Clone, Debug, PartialEq)]
pub enum Form {
    /// JSON that holds the schema.
    Json(Value),
    /// A text that the regular expression describes from its beginning to its end.
    Pattern(String),
    /// One of the texts.
    Choice(Vec<String>),
}

/// A compiled grammar, and where in it one sequence is.
pub struct Constraint {
    matcher: Matcher,
    /// The tokens that end a generation.
    ends: Arc<[u32]>,
    /// The mark in the text after which the grammar begins, until then.
    begins_after: Option<&'static str>,
    /// The end of the text before the mark.
    before: String,
}

impl Grammars {
    /// Builds the prefix tree of the vocabulary, which takes up to a second for a large one.
    ///
    /// # Errors
    /// `internal` if the tree cannot be built.
    pub fn new(tokenizer: &Tokenizer) -> Result<Self> {
        let tokens: Vec<Vec<u8>> = tokenizer.ids().map(|id| spelling(tokenizer, id)).collect();
        let failed = |error: anyhow::Error| {
            Failure::internal("no grammar can be used with this vocabulary").detail(error)
        };
        let count = u32::try_from(tokens.len()).map_err(|error| failed(error.into()))?;
        let ends = tokenizer.end_of_generation();
        let mut tree = TokTrie::from(&TokRxInfo::new(count, ends.first().copied().unwrap_or(0)), &tokens);
        if !ends.is_empty() {
            tree = tree.with_eos_tokens(ends);
        }
        let environment: TokEnv = Arc::new(ApproximateTokEnv::new(tree));
        let mut factory = ParserFactory::new_simple(&environment).map_err(failed)?;
        factory.quiet();
        // Their errors would have the grammar and the text so far.
        factory.limits_mut().verbose_errors = false;
        Ok(Self { factory, ends: ends.into() })
    }

    /// A constraint to this form.
    ///
    /// # Errors
    /// Why the form cannot be held, for the caller of the API.
    pub fn form(&self, form: &Form) -> std::result::Result<Constraint, String> {
        self.lark(format!("start: {}", form.rule()))
    }

    /// A constraint to a grammar in Lark's form.
    ///
    /// # Errors
    /// As for [`form`](Self::form).
    pub fn lark(&self, grammar: String) -> std::result::Result<Constraint, String> {
        let matcher = Matcher::new(self.factory.create_parser(TopLevelGrammar::from_lark(grammar)));
        match matcher.get_error() {
            Some(error) => Err(error.lines().next().unwrap_or_default().to_owned()),
            None => Ok(Constraint {
                matcher,
                ends: Arc::clone(&self.ends),
                begins_after: None,
                before: String::new(),
            }),
        }
    }
}

impl Form {
    /// The right side of a rule of a Lark grammar.
    #[must_use]
    pub fn rule(&self) -> String {
        match self {
            Self::Json(schema) => format!("%json {}", with_bounded_space(as_any_of(schema))),
            Self::Pattern(pattern) => format!("/{}/", regex_to_lark(pattern, "")),
            Self::Choice(texts) => {
                let texts: Vec<String> =
                    texts.iter().map(|text| Value::from(text.as_str()).to_string()).collect();
                texts.join(" | ")
            }
        }
    }
}

impl Constraint {
    /// A constraint that begins after `mark` in the text, such as the end of the reasoning.
    #[must_use]
    pub fn after(self, mark: &'static str) -> Self {
        Self { begins_after: Some(mark), ..self }
    }

    /// Follows the text, which may have the mark after which the grammar begins.
    pub(super) fn hear(&mut self, text: &str) {
        let Some(mark) = self.begins_after else { return };
        self.before.push_str(text);
        if self.before.contains(mark) {
            (self.begins_after, self.before) = (None, String::new());
        } else {
            let keep = self.before.len().saturating_sub(mark.len());
            self.before.drain(..self.before.floor_char_boundary(keep));
        }
    }

    /// Makes every token impossible that may not come next.
    ///
    /// # Errors
    /// `internal` if the grammar becomes too complex to follow.
    pub(super) fn mask(&mut self, logits: &mut [f32]) -> Result<()> {
        if self.begins_after.is_some() {
            // The answer does not end before the grammar has begun.
            for end in self.ends.iter() {
                if let Some(logit) = logits.get_mut(*end as usize) {
                    *logit = f32::NEG_INFINITY;
                }
            }
            return Ok(());
        }
        let allowed = self.matcher.compute_mask().map_err(lost)?;
        for (id, logit) in (0..).zip(logits) {
            if !allowed.is_allowed(id) {
                *logit = f32::NEG_INFINITY;
            }
        }
        Ok(())
    }

    /// Follows the chosen token.
    ///
    /// # Errors
    /// As for [`mask`](Self::mask).
    pub(super) fn accept(&mut self, token: u32) -> Result<()> {
        if self.begins_after.is_some() {
            return Ok(());
        }
        self.matcher.consume_token(token).map_err(lost)
    }

    /// Whether the grammar is complete and nothing can follow.
    pub(super) fn has_ended(&self) -> bool {
        self.matcher.is_stopped()
    }
}

impl Clone for Constraint {
    /// A constraint that shares nothing that changes with the first.
    fn clone(&self) -> Self {
        Self {
            matcher: self.matcher.deep_clone(),
            ends: Arc::clone(&self.ends),
            begins_after: self.begins_after,
            before: self.before.clone(),
        }
    }
}

impl fmt::Debug for Constraint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Constraint").field(&self.matcher.stop_reason()).finish()
    }
}

/// The schema with the white space that this engine allows. A setting of the request's own, which is no part of JSON
/// Schema, has no effect.
fn with_bounded_space(mut schema: Value) -> Value {
    // `true` is a schema too.
    if schema == Value::Bool(true) {
        schema = json!({});
    }
    if let Some(schema) = schema.as_object_mut() {
        schema.insert("x-guidance".to_owned(), json!({"whitespace_pattern": WHITE_SPACE}));
    }
    schema
}

/// What a token is for a grammar: its bytes, or a mark and its name for a control token. Without bytes, it
/// can never be chosen.
fn spelling(tokenizer: &Tokenizer, id: u32) -> Vec<u8> {
    let mut bytes = Vec::new();
    if tokenizer.is_control(id) {
        bytes.push(TokTrie::SPECIAL_TOKEN_MARKER);
        bytes.extend(tokenizer.token(id).unwrap_or_default().bytes());
    } else {
        bytes = tokenizer.bytes(id);
    }
    if bytes.len() > MAX_TOKEN { Vec::new() } else { bytes }
}

fn lost(error: anyhow::Error) -> Failure {
    Failure::internal("the grammar of the answer could not be followed").stage("generate").detail(error)
}

#[cfg(test)]
pub(super) mod tests;
