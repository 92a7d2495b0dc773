//! What a model is for and what its chat template knows, as its file tells.

use crate::models::gguf::Header;

/// What the file of a model tells of what the model can do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Traits {
    /// What it is for.
    pub task: Task,
    /// Whether the file says how the vectors of tokens become one vector of the text.
    pub states_pooling: bool,
    /// What its chat template knows; `None` where it has none.
    pub template: Option<TemplateTraits>,
}

/// What a model is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Task {
    /// It writes text.
    Text,
    /// It makes embeddings.
    Embeddings,
    /// It ranks documents for a query.
    Reranking,
}

/// What a chat template knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TemplateTraits {
    /// Whether it shows tools to the model.
    pub tools: bool,
    /// Whether it is of a model that thinks before it answers.
    pub reasoning: bool,
    /// Whether those thoughts stand between `<think>` and `</think>`.
    pub think_tags: bool,
}

/// What begins the thoughts of most models that think.
const THINK_TAG: &str = "<think>";

/// How the vectors of tokens become one: llama.cpp's `enum llama_pooling_type`.
mod pooling {
    pub(super) const NONE: u64 = 0;
    pub(super) const RANK: u64 = 4;
}

impl Traits {
    /// What the header tells. A model that writes text has no pooling, but for one that was made from it for
    /// embeddings (Qwen3-Embedding); rerankers have a head that scores.
    #[must_use]
    pub fn of(header: &Header) -> Self {
        let architecture = header.architecture().unwrap_or_default();
        let stated = header.metadata.u64(&format!("{architecture}.pooling_type"));
        let pooling = stated.filter(|pooling| *pooling != pooling::NONE);
        let task = match pooling {
            Some(pooling::RANK) => Task::Reranking,
            Some(_) => Task::Embeddings,
            None if header.tensor("cls.output.weight").is_some() => Task::Reranking,
            None if is_encoder(architecture) => Task::Embeddings,
            None => Task::Text,
        };
        let template = header.metadata.chat_template().map(TemplateTraits::of);
        Self { task, states_pooling: pooling.is_some(), template }
    }
}

/// Whether models of that architecture only read text. Among llama.cpp's are `bert`, `nomic-bert-moe`,
/// `jina-bert-v3`, `eurobert`, `gemma-embedding`, `llama-embed` and `t5encoder`.
pub(crate) fn is_encoder(architecture: &str) -> bool {
    architecture.contains("bert")
        || architecture.ends_with("-embedding")
        || architecture.ends_with("-embed")
        || architecture == "t5encoder"
}

impl TemplateTraits {
    /// What the template's source, in Jinja, tells.
    #[must_use]
    pub fn of(source: &str) -> Self {
        /// Variables, fields and marks of thoughts.
        const OF_REASONING: [&str; 7] = [
            "enable_thinking",
            "reasoning_content",
            "reasoning_effort",
            "thinking_budget",
            THINK_TAG,
            "[THINK]",
            "<|channel|>analysis",
        ];
        let code: Vec<&str> = code_of(source).collect();
        let has_word = |word: &str| code.iter().any(|code| words_of(code).any(|found| found == word));
        Self {
            tools: has_word("tools"),
            reasoning: OF_REASONING.iter().any(|mark| source.contains(mark)) || has_word("thinking"),
            think_tags: source.contains(THINK_TAG),
        }
    }
}

/// What stands within `{% … %}` and `{{ … }}`. Comments and plain text are left out.
fn code_of(source: &str) -> impl Iterator<Item = &str> {
    let mut rest = source;
    std::iter::from_fn(move || {
        loop {
            let (at, end) = ["%}", "}}", "#}"]
                .into_iter()
                .zip(["{%", "{{", "{#"])
                .filter_map(|(end, begin)| Some((rest.find(begin)?, end)))
                .min()?;
            let inside = &rest[at + 2..];
            let (code, after) = inside.split_once(end).unwrap_or((inside, ""));
            rest = after;
            if end != "#}" {
                return Some(code);
            }
        }
    })
}

fn words_of(code: &str) -> impl Iterator<Item = &str> {
    code.split(|c: char| !c.is_alphanumeric() && c != '_')
}

#[cfg(test)]
mod tests {
    use std::io::Cursor;

    use super::*;
    use crate::models::gguf::{Arrays, TensorType, Value, Writer};

    fn traits(architecture: &str, pooling: Option<u32>, tensor: &str, template: Option<&str>) -> Traits {
        let mut writer = Writer::default();
        writer.metadata("general.architecture", Value::String(architecture.to_owned()));
        if let Some(pooling) = pooling {
            writer.metadata(format!("{architecture}.pooling_type"), Value::U32(pooling));
        }
        if let Some(template) = template {
            writer.metadata("tokenizer.chat_template", Value::String(template.to_owned()));
        }
        writer.tensor(tensor, &[32], TensorType::F32, vec![0; 128]);
        let mut bytes = Vec::new();
        writer.write(&mut bytes).unwrap();
        Traits::of(&Header::from_reader(Cursor::new(&bytes), bytes.len() as u64, Arrays::Skip).unwrap())
    }

    #[test]
    fn the_header_tells_what_a_model_is_for() {
        use Task::{Embeddings, Reranking, Text};
        for (architecture, pooling, tensor, task, states_pooling) in [
            ("llama", None, "output.weight", Text, false),
            ("qwen3", None, "output.weight", Text, false),
            ("qwen3", Some(0), "output.weight", Text, false),
            // Qwen3-Embedding, Qwen3-Reranker.
            ("qwen3", Some(3), "output.weight", Embeddings, true),
            ("qwen3", Some(4), "cls.output.weight", Reranking, true),
            // bge-small, all-MiniLM; a file that does not say; bge-reranker, new and old.
            ("bert", Some(2), "token_embd.weight", Embeddings, true),
            ("bert", Some(1), "token_embd.weight", Embeddings, true),
            ("bert", None, "token_embd.weight", Embeddings, false),
            ("bert", Some(0), "token_embd.weight", Embeddings, false),
            ("bert", Some(4), "cls.output.weight", Reranking, true),
            ("bert", None, "cls.output.weight", Reranking, false),
            ("nomic-bert", Some(1), "token_embd.weight", Embeddings, true),
            ("nomic-bert-moe", None, "token_embd.weight", Embeddings, false),
            ("jina-bert-v2", Some(1), "token_embd.weight", Embeddings, true),
            ("jina-bert-v3", Some(4), "cls.weight", Reranking, true),
            ("modern-bert", None, "token_embd.weight", Embeddings, false),
            ("eurobert", None, "token_embd.weight", Embeddings, false),
            ("gemma-embedding", Some(1), "token_embd.weight", Embeddings, true),
            ("llama-embed", None, "token_embd.weight", Embeddings, false),
            ("t5encoder", None, "token_embd.weight", Embeddings, false),
            ("t5", None, "token_embd.weight", Text, false),
            ("pangu-embedded", None, "token_embd.weight", Text, false),
        ] {
            let found = traits(architecture, pooling, tensor, None);
            let what = format!("{architecture} {pooling:?} {tensor}");
            assert_eq!((found.task, found.states_pooling), (task, states_pooling), "{what}");
            assert_eq!(found.template, None, "{what}");
        }
    }

    #[test]
    fn the_template_tells_of_tools_and_reasoning() {
        for (template, tools, reasoning) in [
            ("{% for message in messages %}{{ message.content }}{% endfor %}", false, false),
            ("You may use tools.{{ messages }}{# tools #}", false, false),
            ("{%- if tools is not none %}{{ tools | tojson }}{% endif %}", true, false),
            ("{{- 'x' }}{%- if custom_tools %}{% set tools = custom_tools %}{% endif %}", true, false),
            ("{% if builtin_tools_used %}{% endif %}", false, false),
            ("{% if enable_thinking is false %}{% endif %}", false, true),
            ("{{ message.reasoning_content }}", false, true),
            ("{{ '<|im_start|>assistant\n<think>\n' }}", false, true),
            ("{% if thinking %}{% endif %}{{ tools }}", true, true),
            ("I am thinking.{{ messages }}", false, false),
            ("{{ '<|channel|>analysis<|message|>' }}", false, true),
            ("{% if tools", true, false),
        ] {
            let found = traits("llama", None, "output.weight", Some(template));
            let think_tags = template.contains("<think>");
            assert_eq!(found.template, Some(TemplateTraits { tools, reasoning, think_tags }), "{template}");
        }
        assert_eq!(traits("llama", None, "output.weight", Some(" \n")).template, None, "a blank one is none");
    }
}
