//! Chat templates: they render the messages of a conversation to the prompt.
//!
//! A model's file contains its template (`tokenizer.chat_template`), written in Jinja for Hugging
//! Face's `transformers`, whose environment [`rendering`] reproduces. A template is untrusted code. It has
//! no access to files or the network, and each rendering is a process of its own ([`sandbox`]) with
//! limits of time and memory, so that nothing a template does harms the worker.
//!
//! The texts of the messages and the tools are shielded ([`Shield`]): they never become special tokens. The variables of a
//! request (`chat_template_kwargs`, `reasoning_effort`) are not: they are settings of the template, which
//! compares them with what it knows.
//!
//! The files from top to bottom:
//!
//! - [`sandbox`]: runs one rendering in a process.
//! - [`rendering`]: one rendering, from the template's source to the text.
//! - `environment`: what a template may use. Its own files: `builtins`, `json`, `python`, `values`, `dialect`.
//! - [`message`]: a message, as a template sees it. `tool`: a tool.

pub mod sandbox;
pub mod rendering;
mod environment;
mod builtins;
mod json;
mod python;
mod values;
mod dialect;
pub mod message;
mod tool;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use serde_json::{Map, Value, json};

use super::tokenizer::{Shield, Tokenizer};
use crate::error::Result;
use crate::models::TemplateTraits;
use crate::models::gguf::Metadata;
use crate::spawn;
use message::{Message, texts};
use rendering::Rendering;
use sandbox::Sandbox;

/// `ChatML`, for a file without a template: most models saw it in training.
const CHATML: &str = "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' + '\\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}";

/// What a template renders.
#[derive(Clone, Debug, Default)]
pub struct Conversation {
    /// The messages so far.
    pub messages: Vec<Message>,
    /// The tools that the answer may call, in OpenAI's form.
    pub tools: Vec<Value>,
    /// Further variables of the template.
    pub variables: Map<String, Value>,
}

/// A rendered conversation, in which special tokens come only from the template, never from a message (see
/// [`Shield`]).
#[derive(Debug)]
pub struct Prompt {
    rendered: String,
    shield: Shield,
}

impl Prompt {
    /// Its tokens. This may take long: not for an async task.
    ///
    /// # Errors
    /// Those of [`Tokenizer::encode`].
    pub fn tokens(&self, tokenizer: &Tokenizer) -> Result<Vec<u32>> {
        tokenizer.encode_prompt(&self.rendered, &self.shield)
    }

    /// Its text.
    #[must_use]
    pub fn text(&self) -> String {
        self.shield.uncover(&self.rendered)
    }
}

/// The template of one model.
#[derive(Debug)]
pub struct ChatTemplate {
    /// The template's text.
    source: Arc<str>,
    bos: String,
    eos: String,
    sandbox: Sandbox,
}

impl ChatTemplate {
    /// The template of a model: `chosen`, else that of its file, else `ChatML`. An empty one is none, as it
    /// would drop what the user says.
    #[must_use]
    pub fn new(chosen: Option<String>, metadata: &Metadata, tokenizer: &Tokenizer, sandbox: Sandbox) -> Self {
        let source = chosen.or_else(|| metadata.chat_template().map(str::to_owned));
        let source = source.filter(|source| !source.trim().is_empty()).unwrap_or_else(|| {
            tracing::warn!("no chat template: using ChatML");
            CHATML.to_owned()
        });
        let spelling = |id: Option<u32>| id.and_then(|id| tokenizer.token(id)).unwrap_or_default().to_owned();
        let (bos, eos) = (spelling(tokenizer.bos()), spelling(tokenizer.eos()));
        Self { source: source.into(), bos, eos, sandbox }
    }

    /// Checks that the template compiles.
    ///
    /// # Errors
    /// `model_unsupported`, with the line.
    pub async fn check(&self) -> Result<()> {
        let input = sandbox::input(&Rendering { source: Arc::clone(&self.source), context: None })?;
        sandbox::text(&self.sandbox.run(input).await?).map(drop)
    }

    /// What the template knows.
    #[must_use]
    pub fn traits(&self) -> TemplateTraits {
        TemplateTraits::of(&self.source)
    }

    /// Whether the template's source has this text.
    #[must_use]
    pub fn mentions(&self, text: &str) -> bool {
        self.source.contains(text)
    }

    /// The prompt of a conversation, which ends where the assistant's next message begins.
    ///
    /// # Errors
    /// `invalid_field` if the template refuses the messages, `model_unsupported` if it fails or
    /// exceeds its limits.
    pub async fn render(
        self: &Arc<Self>,
        tokenizer: &Arc<Tokenizer>,
        conversation: Conversation,
    ) -> Result<Prompt> {
        // A conversation may have megabytes: going through one takes too long for an async task.
        let (template, tokenizer) = (Arc::clone(self), Arc::clone(tokenizer));
        let (shield, input) = spawn::blocking(move || template.shielded(&tokenizer, conversation)).await??;
        let answer = self.sandbox.run(input).await?;
        spawn::blocking(move || Ok(Prompt { rendered: sandbox::text(&answer)?, shield })).await?
    }

    /// The sandbox's input for this conversation, and the shield that covers its texts there.
    fn shielded(&self, tokenizer: &Tokenizer, conversation: Conversation) -> Result<(Shield, Vec<u8>)> {
        let Conversation { messages, tools, variables } = conversation;
        let of_request = messages.iter().map(|message| &message.fields).chain([&variables]);
        let of_tools = tools.iter().filter_map(Value::as_object);
        let all: Vec<&str> = of_request.chain(of_tools).flat_map(texts).chain([&*self.source]).collect();
        let shield = Shield::for_texts(all.into_iter());
        let special_tokens = tokenizer.special_tokens();
        let cover = |text: &str| shield.cover(special_tokens, text);
        let covered: Vec<Message> = messages.iter().map(|message| message.with_texts(cover)).collect();
        let tools: Vec<Value> = tools.iter().map(|tool| tool::with_texts(tool, &cover)).collect();
        let context = Some(self.context(&covered, &tools, variables));
        let input = sandbox::input(&Rendering { source: Arc::clone(&self.source), context })?;
        Ok((shield, input))
    }

    /// The variables of a template: those that `transformers` passes, and those of the request.
    fn context(
        &self,
        messages: &[Message],
        tools: &[Value],
        mut variables: Map<String, Value>,
    ) -> Map<String, Value> {
        let own = [
            ("messages", json!(messages)),
            ("add_generation_prompt", true.into()),
            ("bos_token", self.bos.as_str().into()),
            ("eos_token", self.eos.as_str().into()),
            // Templates compare these two with none.
            ("tools", if tools.is_empty() { Value::Null } else { tools.into() }),
            ("documents", Value::Null),
        ];
        variables.extend(own.map(|(name, value)| (name.to_owned(), value)));
        variables
    }
}
