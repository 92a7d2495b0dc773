//! The grammar of an answer that must call a tool, in the model's own notation.

use serde_json::{Value, json};

use super::call::Tool;
use super::reasoning;
use super::style::Notation;
use crate::engine::constraint::{Constraint, Form, Grammars};
use crate::engine::tokenizer::Tokenizer;

/// What the text of an answer must be.
#[derive(Clone, Debug, Default)]
pub struct Shape {
    /// The form of an answer in text.
    pub form: Option<Form>,
    /// The tools of which one must be called; none if the answer is a text.
    pub tools: Vec<Tool>,
    /// Whether several calls may be made.
    pub several: bool,
    /// Whether the form may be a text all the same, where there are tools.
    pub or_text: bool,
}

impl Shape {
    /// Compiles the shape. With `after_reasoning`, it begins when the reasoning ends.
    ///
    /// # Errors
    /// Why the shape cannot be held, for the caller of the API.
    pub fn constraint(
        &self,
        grammars: &Grammars,
        notation: Notation,
        tokenizer: &Tokenizer,
        after_reasoning: bool,
    ) -> Result<Constraint, String> {
        let mut rules = Vec::new();
        let mut answers = Vec::new();
        if !self.tools.is_empty() {
            answers.push("calls");
            self.calls(notation, tokenizer, &mut rules);
        }
        if let Some(form) = self.form.as_ref().filter(|_| self.tools.is_empty() || self.or_text) {
            answers.push("form");
            rules.push(format!("form: {}", form.rule()));
        }
        let space = if after_reasoning { "SPACE? " } else { "" };
        rules.push(format!("start: {space}({})", answers.join(" | ")));
        if after_reasoning {
            rules.push(r"SPACE: /[ \n]{1,3}/".to_owned());
        }
        let constraint = grammars.lark(rules.join("\n"))?;
        Ok(if after_reasoning { constraint.after(reasoning::CLOSE) } else { constraint })
    }

    /// The rules of the calls.
    fn calls(&self, notation: Notation, tokenizer: &Tokenizer, rules: &mut Vec<String>) {
        let call = (0..self.tools.len()).map(|index| format!("call_{index}")).collect::<Vec<_>>().join(" | ");
        rules.push(format!("call: {call}"));
        for (index, tool) in self.tools.iter().enumerate() {
            // Each schema is a document of its own, in which its references hold.
            let start = format!("{{\"name\": {}, \"{}\": ", json!(tool.name), notation.arguments);
            let none = || json!({"type": "object", "properties": {}, "additionalProperties": false});
            let schema = of_object(tool.parameters.clone().unwrap_or_else(none));
            rules.push(format!("call_{index}: {} arguments_{index} \"}}\"", text(&start)));
            rules.push(format!("arguments_{index}: {}", Form::Json(schema).rule()));
        }
        let mark = |name: &str| match tokenizer.special_id(name).filter(|id| tokenizer.is_control(*id)) {
            Some(id) => format!("<[{id}]>"),
            None => text(name),
        };
        let more = |between: &str, next: &str| match self.several {
            true => format!(" ({} {next})*", text(between)),
            false => String::new(),
        };
        let open = mark(notation.open);
        let close = notation.close.map(mark).unwrap_or_default();
        let calls = match (notation.array, notation.close) {
            (true, _) => format!("{open} \"[\" call{} \"]\" {close}", more(", ", "call")),
            (false, Some(_)) => {
                rules.push(format!("marked: {open} \"\\n\" call \"\\n\" {close}"));
                format!("marked{}", more("\n", "marked"))
            }
            // Llama's templates show no second call.
            (false, None) => "call".to_owned(),
        };
        rules.push(format!("calls: {calls}"));
    }
}

/// The schema of arguments, which are an object always: only an object is recognised in an answer.
fn of_object(mut schema: Value) -> Value {
    if schema == Value::Bool(true) {
        schema = json!({});
    }
    if let Some(schema) = schema.as_object_mut() {
        schema.entry("type").or_insert_with(|| "object".into());
    }
    schema
}

/// A text in a grammar.
fn text(text: &str) -> String {
    Value::from(text).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::answer::style::tests::style;
    use crate::engine::constraint::tests::model;
    use crate::engine::sample_model::SampleTokenizer;

    #[test]
    fn arguments_are_an_object_where_their_schema_does_not_say() {
        assert_eq!(of_object(json!(true)), json!({"type": "object"}));
        let schema = json!({"properties": {"a": {"type": "string"}}});
        let typed = json!({"type": "object", "properties": {"a": {"type": "string"}}});
        assert_eq!((of_object(schema), of_object(typed.clone())), (typed.clone(), typed));
    }

    #[test]
    fn another_call_may_follow_where_several_may_be_made() {
        let (_, tokenizer) = model(SampleTokenizer::Bpe);
        let grammars = Grammars::new(&tokenizer).unwrap();
        let call = r#"{"name": "f", "arguments": {}}"#;
        for (notation, one, another) in [
            ("hermes", format!("<tool_call>\n{call}\n</tool_call>"), format!("\n<tool_call>\n{call}")),
            ("smollm", format!("<tool_call>[{call}"), format!(", {call}")),
            ("mistral", format!("[TOOL_CALLS][{call}"), format!(", {call}")),
        ] {
            for several in [true, false] {
                let tools = vec![Tool { name: "f".to_owned(), parameters: None }];
                let shape = Shape { tools, several, ..Shape::default() };
                let notation = style(notation).notation;
                let mut constraint = shape.constraint(&grammars, notation, &tokenizer, false).unwrap();
                let mut writes = |text: &str| {
                    let tokens = tokenizer.encode(text, true).unwrap();
                    tokens.into_iter().try_for_each(|token| constraint.accept(token)).is_ok()
                };
                assert!(writes(&one), "{one}");
                assert_eq!(writes(&another), several, "{one}{another}");
            }
        }
    }
}
