//! Reads how long a model may think.

use serde_json::{Map, Value};

use crate::fields::{FieldError, Fields};

/// The field that says it, in llama.cpp's words.
pub(crate) const BUDGET: &str = "thinking_budget_tokens";

/// The tokens that a model may think for an effort, where its template does not know efforts. More effort has no limit.
const OF_EFFORTS: [(&str, usize); 2] = [("minimal", 128), ("low", 512)];

/// What a request says of how long the model may think.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct ThinkingAsked {
    /// The most tokens, where the request says.
    pub(crate) budget: Option<usize>,
    /// Whether it is not to think at all.
    is_off: bool,
    /// The most tokens of its effort.
    of_effort: Option<usize>,
}

impl ThinkingAsked {
    /// `variables` are those of the chat template, which tell whether the model is to think.
    pub(super) fn read(fields: &Fields<'_>, variables: &Map<String, Value>) -> Result<Self, FieldError> {
        let is_unlimited = fields.get(BUDGET).and_then(Value::as_f64) == Some(-1.0);
        let budget = if is_unlimited { None } else { fields.whole_number(BUDGET, 0)? };
        let effort = variables.get("reasoning_effort").and_then(Value::as_str);
        Ok(Self {
            budget: budget.map(|tokens| usize::try_from(tokens).unwrap_or(usize::MAX)),
            is_off: variables.get("enable_thinking") == Some(&Value::Bool(false)),
            of_effort: OF_EFFORTS.iter().find(|(name, _)| Some(*name) == effort).map(|(_, tokens)| *tokens),
        })
    }

    /// The most tokens. `knows_effort` says that the chat template sees to the effort.
    pub(crate) fn limit(self, knows_effort: bool) -> Option<usize> {
        let off = self.is_off.then_some(0);
        off.or(self.budget).or(self.of_effort.filter(|_| !knows_effort))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_limit_is_that_of_the_budget_or_else_of_the_effort() {
        let limit = |body: Value, variables: Value, knows_effort: bool| {
            let fields = Fields::new("", &body).unwrap();
            ThinkingAsked::read(&fields, variables.as_object().unwrap()).unwrap().limit(knows_effort)
        };
        assert_eq!(limit(json!({}), json!({}), false), None);
        assert_eq!(limit(json!({BUDGET: -1}), json!({}), false), None);
        assert_eq!(limit(json!({BUDGET: 9}), json!({"reasoning_effort": "low"}), false), Some(9));
        assert_eq!(limit(json!({BUDGET: 9}), json!({"enable_thinking": false}), false), Some(0));
        assert_eq!(limit(json!({}), json!({"reasoning_effort": "low"}), false), Some(512));
        assert_eq!(limit(json!({}), json!({"reasoning_effort": "low"}), true), None);
        assert_eq!(limit(json!({}), json!({"reasoning_effort": "high"}), false), None);
    }
}
