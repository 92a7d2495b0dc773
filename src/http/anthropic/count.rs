//! Counts the tokens of a prompt, which only the engine of the model can.

use serde_json::{Value, json};

use crate::app::AppState;
use crate::dialects::chat::{Chat, Output, Part};
use crate::dialects::engine;
use crate::error::{Code, Failure};
use crate::http::caller::Sender;
use crate::http::gateway::{Call, ask};
use crate::http::problem::Problem;
use crate::requests::Recorder;
use crate::workers::Route;

/// What asks for a count.
pub(super) struct Counter<'a> {
    pub(super) app: &'a AppState,
    pub(super) sender: &'a Sender,
    pub(super) recorder: Recorder,
}

impl Counter<'_> {
    /// The tokens of the prompt that a chat becomes. An engine that cannot tell them begins an answer and says what it
    /// has read.
    pub(super) async fn count(&self, mut chat: Chat) -> Result<u64, Problem> {
        // The answer's form is none of the prompt's business.
        chat.streams = false;
        chat.output = Output::Text;
        let told = match self.prompt(&chat).await? {
            Some(prompt) => self.tokens(&chat, &prompt).await?,
            None => None,
        };
        match told {
            Some(tokens) => Ok(tokens),
            None => self.read(chat).await,
        }
    }

    /// The prompt of a chat, if the engine tells it whole: images stand in it as mere marks.
    async fn prompt(&self, chat: &Chat) -> Result<Option<String>, Problem> {
        let mut parts = chat.messages.iter().flat_map(|message| &message.content);
        if parts.any(|part| !matches!(part, Part::Text(_))) {
            return Ok(None);
        }
        let question = Call::question(&chat.model, Route::ApplyTemplate, &engine::request(chat));
        let answer = known(self.ask(question).await)?;
        Ok(answer.and_then(|answer| answer["prompt"].as_str().map(str::to_owned)))
    }

    /// The number of the tokens of a prompt, with those that the engine puts around it.
    async fn tokens(&self, chat: &Chat, prompt: &str) -> Result<Option<u64>, Problem> {
        let body = json!({"content": prompt, "add_special": true, "parse_special": true});
        let question = Call::question(&chat.model, Route::Tokenize, &body);
        let answer = known(self.ask(question).await)?;
        Ok(answer.and_then(|answer| answer["tokens"].as_array().map(|tokens| tokens.len() as u64)))
    }

    /// What the engine has read of the chat before the first token of an answer.
    async fn read(&self, mut chat: Chat) -> Result<u64, Problem> {
        chat.max_tokens = Some(1);
        let question = Call::question(&chat.model, Route::Chat, &engine::request(&chat));
        let answer = self.ask(question).await?;
        answer["usage"]["prompt_tokens"].as_u64().ok_or_else(|| {
            Failure::new(Code::WorkerError, format!("the engine of '{}' counts no tokens", chat.model))
                .hint("load the model with another engine: docs/CONFIGURATION.md has them")
                .into()
        })
    }

    async fn ask(&self, question: Call) -> Result<Value, Problem> {
        ask(self.app, self.sender, question, &self.recorder).await
    }
}

/// An answer; `None` where the engine knows no such question, or does not like it. In the latter case it says so to
/// the chat itself.
fn known(answer: Result<Value, Problem>) -> Result<Option<Value>, Problem> {
    match answer {
        Err(problem) if matches!(problem.failure().code, Code::NotOffered | Code::InvalidRequest) => Ok(None),
        answer => answer.map(Some),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_engine_that_knows_no_such_question_or_dislikes_it_is_asked_the_chat_itself() {
        let of = |code| known(Err(Failure::new(code, "no").into()));
        for code in [Code::NotOffered, Code::InvalidRequest] {
            assert!(of(code).is_ok_and(|answer| answer.is_none()), "{code}");
        }
        for code in [Code::WorkerError, Code::WorkerUnreachable, Code::ModelNotFound, Code::QueueFull] {
            assert_eq!(of(code).err().map(|problem| problem.failure().code), Some(code));
        }
        assert_eq!(known(Ok(json!({"prompt": "a"}))).ok(), Some(Some(json!({"prompt": "a"}))));
    }
}
