//! How one model marks the parts of an answer, as its chat template and its vocabulary show.

use super::reasoning;
use crate::engine::template::ChatTemplate;
use crate::engine::tokenizer::Tokenizer;

/// How a model writes calls of tools.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Notation {
    /// The mark that begins a call.
    pub open: &'static str,
    /// The mark that ends it; without one, it goes on to the end of the answer.
    pub close: Option<&'static str>,
    /// The name of the arguments.
    pub arguments: &'static str,
    /// Whether the calls are an array between one pair of marks.
    pub array: bool,
    /// Whether an answer that is nothing but the JSON of calls needs no mark.
    pub unmarked: bool,
}

/// Hermes, Qwen and many that followed.
const HERMES: Notation = Notation {
    open: "<tool_call>",
    close: Some("</tool_call>"),
    arguments: "arguments",
    array: false,
    unmarked: false,
};
/// `SmolLM2`.
const SMOLLM: Notation = Notation { array: true, ..HERMES };
const MISTRAL: Notation =
    Notation { open: "[TOOL_CALLS]", close: None, arguments: "arguments", array: true, unmarked: false };
/// Llama 3.1 and later: an object, with a mark in front of it or without.
const LLAMA: Notation =
    Notation { open: "<|python_tag|>", close: None, arguments: "parameters", array: false, unmarked: true };
/// The notation that this engine tells to a model whose template does not know tools.
pub(super) const TOLD: Notation = Notation { unmarked: true, ..HERMES };

impl Notation {
    /// The notation that a template shows.
    fn shown(template: &ChatTemplate) -> Self {
        let shows = |text: &str| template.mentions(text);
        match () {
            () if shows("[TOOL_CALLS]") => MISTRAL,
            () if shows("<tool_call>[") => SMOLLM,
            () if shows("<tool_call>") => HERMES,
            () if shows("<|python_tag|>") || shows("\"parameters\":") => LLAMA,
            () => TOLD,
        }
    }

    /// Every text that means something to the finder of calls.
    fn marks(self) -> impl Iterator<Item = &'static str> {
        [self.open].into_iter().chain(self.close).chain(["[ARGS]", "[CALL_ID]"])
    }
}

/// How one model marks the parts of an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Style {
    /// How it writes calls.
    pub notation: Notation,
    /// Whether the chat template shows tools to the model.
    pub knows_tools: bool,
    /// Whether the chat template shows calls of tools and their results to the model.
    pub knows_calls: bool,
    /// Whether the model may think before it answers.
    pub thinks: bool,
}

impl Style {
    /// The style of a model.
    #[must_use]
    pub fn of(template: &ChatTemplate, tokenizer: &Tokenizer) -> Self {
        let traits = template.traits();
        Self {
            notation: Notation::shown(template),
            knows_tools: traits.tools,
            knows_calls: template.mentions("tool_calls"),
            thinks: traits.think_tags || tokenizer.special_id(reasoning::OPEN).is_some(),
        }
    }

    /// The control tokens that mark parts. They must be in the text, by their names, for the parts to be found.
    #[must_use]
    pub fn marks(self, tokenizer: &Tokenizer, with_calls: bool) -> Vec<u32> {
        let of_reasoning = [reasoning::OPEN, reasoning::CLOSE].into_iter().filter(|_| self.thinks);
        let of_calls = self.notation.marks().filter(|_| with_calls);
        let ids = of_reasoning.chain(of_calls).filter_map(|mark| tokenizer.special_id(mark));
        ids.filter(|id| tokenizer.is_control(*id)).collect()
    }
}

/// The mark that begins the reasoning of an answer, and the one that ends it.
pub const REASONING_MARKS: (&str, &str) = (reasoning::OPEN, reasoning::CLOSE);

/// Whether a prompt begins the reasoning of the answer.
#[must_use]
pub fn opens_reasoning(prompt: &str) -> bool {
    prompt.trim_end().ends_with(reasoning::OPEN)
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    pub(in super::super) const NOTATIONS: [(&str, Notation); 5] =
        [("hermes", HERMES), ("smollm", SMOLLM), ("mistral", MISTRAL), ("llama", LLAMA), ("told", TOLD)];

    /// A style with that notation, of a model that does not think.
    pub(in super::super) fn style(notation: &str) -> Style {
        let (_, notation) = *NOTATIONS.iter().find(|(name, _)| *name == notation).unwrap();
        Style { notation, knows_tools: true, knows_calls: true, thinks: false }
    }
}
