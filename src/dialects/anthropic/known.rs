//! The table of the fields that a request may have, and what becomes of each.

use serde_json::Value;

use crate::fields::{FieldError, Fields, is_empty};

/// What becomes of a field.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Treatment {
    /// It is read.
    Applied,
    /// It has no effect, of which the client is told.
    NoEffect,
    /// It is refused unless it is empty, because of this.
    Refused(&'static str),
}

use Treatment::{Applied, NoEffect, Refused};

/// Every known field: those of the API, then its betas'.
const FIELDS: &[(&str, Treatment)] = &[
    ("model", Applied),
    ("messages", Applied),
    ("system", Applied),
    ("max_tokens", Applied),
    ("tools", Applied),
    ("tool_choice", Applied),
    ("temperature", Applied),
    ("top_p", Applied),
    ("top_k", Applied),
    ("stop_sequences", Applied),
    ("stream", Applied),
    ("thinking", Applied),
    ("output_config", Applied),
    // The older name of `output_config.format`.
    ("output_format", Applied),
    // Engines keep what they have read of a prompt without being asked.
    ("cache_control", Applied),
    ("metadata", NoEffect),
    ("service_tier", NoEffect),
    ("inference_geo", NoEffect),
    ("speed", NoEffect),
    ("diagnostics", NoEffect),
    ("context_management", NoEffect),
    ("fallbacks", NoEffect),
    ("fallback_credit_token", NoEffect),
    ("billing_policy", NoEffect),
    ("user_profile_id", NoEffect),
    ("workspace_id", NoEffect),
    // Fields of the services of other companies that resell the API.
    ("anthropic_version", NoEffect),
    ("anthropic_beta", NoEffect),
    ("container", Refused("asks for a container, in which only Anthropic's own service runs code")),
    ("mcp_servers", Refused("asks for MCP servers, which only Anthropic's own service calls by itself")),
    ("thread", Refused("asks for a thread, which only Anthropic's own service keeps; send all messages")),
    ("compaction", Refused("asks for a signed summary, which only Anthropic's own service writes")),
];

/// The names of what a request has and what has no effect.
#[derive(Debug, Default)]
pub(super) struct Ignored(Vec<String>);

/// The most names that are kept.
const MOST_NAMES: usize = 64;

impl Ignored {
    /// Checks the fields of the body.
    ///
    /// # Errors
    /// The first field that asks for what cannot be done.
    pub(super) fn of_body(body: &Fields<'_>) -> Result<Self, FieldError> {
        let mut ignored = Self::default();
        for (name, value) in body.present() {
            match FIELDS.iter().find(|(known, _)| *known == name) {
                Some((_, Applied)) => {}
                Some((_, Refused(_))) if is_empty(value) => {}
                Some((_, Refused(why))) => return Err(body.error(name, why)),
                Some((_, NoEffect)) | None => ignored.note(name),
            }
        }
        Ok(ignored)
    }

    /// Notes the fields of an object that are none of these. It is known as `kind`, whichever of many it is.
    pub(super) fn others(&mut self, kind: &str, object: &Fields<'_>, known: &[&str]) {
        for (name, value) in object.present() {
            let asks = !is_empty(value) && *value != Value::Bool(false);
            if asks && !known.contains(&name) && name != "cache_control" {
                self.note(&format!("{kind}.{name}"));
            }
        }
    }

    pub(super) fn note(&mut self, name: &str) {
        let name: String = name.chars().take(64).collect();
        if self.0.len() < MOST_NAMES && !self.0.contains(&name) {
            self.0.push(name);
        }
    }

    pub(super) fn into_names(self) -> Vec<String> {
        self.0
    }
}
