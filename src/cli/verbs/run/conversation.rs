//! A conversation with a model: what was said so far, and the next answer.

use std::fmt::Write as _;
use std::time::{Duration, Instant};

use serde_json::{Map, Value, json};

use super::screen::Screen;
use crate::cli::end::{End, Ended};
use crate::cli::session::{Interrupt, Interrupts, Session};
use crate::client::{ChatPart, Error};
use crate::error::Failure;
use crate::time::in_words;

/// What was said so far.
pub(super) struct Conversation {
    /// What every request has.
    request: Value,
    /// The model's name.
    pub(super) model: String,
    /// What the model is told before all else.
    pub(super) system: Option<String>,
    /// What the next question has besides its text.
    images: Vec<Value>,
    messages: Vec<Value>,
}

/// What came of a question.
#[expect(clippy::large_enum_variant, reason = "there is one of it at a time")]
pub(super) enum Received {
    /// The whole answer.
    Answer(Answer),
    /// The user stopped it. What had come stays in the conversation.
    Stopped(Interrupt),
}

impl Conversation {
    pub(super) fn new(request: Value, model: &str, system: Option<String>, images: Vec<Value>) -> Self {
        Self { request, model: model.to_owned(), system, images, messages: Vec::new() }
    }

    /// Forgets what was said.
    pub(super) fn clear(&mut self) {
        self.messages.clear();
    }

    /// Asks, and shows the answer as it comes. A question that fails is as if it had not been asked.
    pub(super) async fn ask(
        &mut self,
        session: &Session,
        text: &str,
        screen: &mut Screen,
        interrupts: &mut Interrupts,
    ) -> Ended<Received> {
        let images = self.images.clone();
        let mut content = images.clone();
        content.push(json!({ "type": "text", "text": text }));
        let content = if images.is_empty() { text.into() } else { Value::Array(content) };
        self.messages.push(json!({ "role": "user", "content": content }));
        let mut answer = Answer::default();
        let received = self.receive(session, &mut answer, screen, interrupts).await;
        let ended = screen.ends();
        match received {
            Err(end) => {
                self.messages.pop();
                return Err(end);
            }
            Ok(_) => {
                self.images.clear();
                self.messages.push(json!({ "role": "assistant", "content": answer.text }));
            }
        }
        ended?;
        Ok(match received? {
            Some(interrupt) => Received::Stopped(interrupt),
            None => Received::Answer(answer),
        })
    }

    /// Gives what stopped the answer, if something did.
    async fn receive(
        &self,
        session: &Session,
        answer: &mut Answer,
        screen: &mut Screen,
        interrupts: &mut Interrupts,
    ) -> Ended<Option<Interrupt>> {
        let mut request = self.request.clone();
        request["model"] = self.model.as_str().into();
        let system = self.system.iter().map(|text| json!({ "role": "system", "content": text }));
        request["messages"] = system.chain(self.messages.iter().cloned()).collect();
        screen.waits("waiting");
        let mut stream = tokio::select! {
            biased;
            interrupt = interrupts.next() => return Ok(Some(interrupt)),
            stream = session.hive.chat(&request) => stream.map_err(|error| session.explained(error))?,
        };
        loop {
            let part = tokio::select! {
                biased;
                interrupt = interrupts.next() => return Ok(Some(interrupt)),
                part = stream.next() => part,
            };
            match part {
                Ok(Some(ChatPart::Waiting(text))) => screen.waits(&text),
                Ok(Some(ChatPart::Chunk(chunk))) => answer.take(chunk, screen)?,
                Ok(None) => return Ok(None),
                Err(Error::Failed(failure)) if failure.hint.is_none() => {
                    let hint =
                        stream.job().map(|job| format!("`rbee-hive watch {job}` tells what its load told"));
                    return Err(End::Hive(Error::Failed(Failure { hint, ..failure })));
                }
                Err(error) => return Err(session.explained(error)),
            }
        }
    }
}

/// An answer, put together.
pub(super) struct Answer {
    asked: Instant,
    /// The members of the chunks that are about the answer as a whole.
    head: Map<String, Value>,
    text: String,
    thoughts: String,
    finish_reason: Value,
    usage: Value,
    /// llama.cpp's, where the engine tells them.
    timings: Value,
}

impl Default for Answer {
    fn default() -> Self {
        Self {
            asked: Instant::now(),
            head: Map::new(),
            text: String::new(),
            thoughts: String::new(),
            finish_reason: Value::Null,
            usage: Value::Null,
            timings: Value::Null,
        }
    }
}

impl Answer {
    /// Takes a chunk, and shows what is in it.
    fn take(&mut self, mut chunk: Value, screen: &mut Screen) -> Ended {
        let delta = &chunk["choices"][0]["delta"];
        for name in ["reasoning_content", "reasoning"] {
            let thought = delta[name].as_str().unwrap_or_default();
            self.thoughts += thought;
            screen.thinks(thought)?;
        }
        let text = delta["content"].as_str().unwrap_or_default();
        self.text += text;
        screen.says(text)?;
        let keep = |kept: &mut Value, new: Value| {
            if !new.is_null() {
                *kept = new;
            }
        };
        // The last chunk may have the usage alone.
        let reason = chunk.pointer_mut("/choices/0/finish_reason").map(Value::take);
        keep(&mut self.finish_reason, reason.unwrap_or_default());
        keep(&mut self.usage, chunk["usage"].take());
        keep(&mut self.timings, chunk["timings"].take());
        if self.head.is_empty()
            && let Value::Object(members) = chunk
        {
            self.head = members
                .into_iter()
                .filter(|(name, _)| ["id", "created", "model"].contains(&&**name))
                .collect();
        }
        Ok(())
    }

    /// The answer as OpenAI's API gives it where it is not streamed.
    pub(super) fn document(&self) -> Value {
        let mut message = json!({ "role": "assistant", "content": self.text });
        if !self.thoughts.is_empty() {
            message["reasoning_content"] = self.thoughts.as_str().into();
        }
        let mut document = Value::Object(self.head.clone());
        document["object"] = "chat.completion".into();
        document["choices"] =
            json!([{ "index": 0, "message": message, "finish_reason": self.finish_reason }]);
        document["usage"] = self.usage.clone();
        if !self.timings.is_null() {
            document["timings"] = self.timings.clone();
        }
        document
    }

    /// Why the answer is not whole, if it is not.
    pub(super) fn cut_off(&self) -> Option<&'static str> {
        (self.finish_reason == "length").then_some(
            "The answer is cut off: it has as many tokens as --max-tokens or the model's context let it have",
        )
    }

    /// What the answer took, a line for each figure.
    pub(super) fn costs(&self) -> String {
        let mut text = format!("\ntotal duration:    {}\n", in_words(self.asked.elapsed()));
        for (title, tokens, ms) in
            [("prompt", "prompt_n", "prompt_ms"), ("answer", "predicted_n", "predicted_ms")]
        {
            let of_usage = if title == "prompt" { "prompt_tokens" } else { "completion_tokens" };
            let count = self.timings[tokens].as_u64().or(self.usage[of_usage].as_u64());
            // Writing to a string cannot fail.
            if let Some(count) = count {
                let _ = writeln!(text, "{title} tokens:     {count}");
            }
            if let Some(ms) = self.timings[ms].as_f64()
                && let Ok(time) = Duration::try_from_secs_f64(ms / 1000.0)
            {
                let _ = writeln!(text, "{title} duration:   {}", in_words(time));
            }
            if let Some(rate) = self.timings[format!("{}_per_second", tokens.trim_end_matches("_n"))].as_f64()
            {
                let _ = writeln!(text, "{title} rate:       {rate:.1} tokens/s");
            }
        }
        if let Some(cached) = self.timings["cache_n"].as_u64().filter(|cached| *cached > 0) {
            let _ = writeln!(text, "cached tokens:     {cached}");
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chunks_become_one_answer() {
        let mut answer = Answer::default();
        for chunk in [
            json!({"id": "x", "created": 1, "model": "tiny", "object": "chat.completion.chunk",
                   "choices": [{"delta": {"role": "assistant", "reasoning_content": "hm"}}]}),
            json!({"id": "x", "choices": [{"delta": {"content": "Hel"}, "finish_reason": null}]}),
            json!({"choices": [{"delta": {"content": "lo"}, "finish_reason": "length"}],
                   "timings": {"prompt_n": 3, "prompt_ms": 30.0, "prompt_per_second": 100.0}}),
            json!({"choices": [], "usage": {"prompt_tokens": 3, "completion_tokens": 2}}),
        ] {
            answer.take(chunk, &mut Screen::silent()).unwrap();
        }
        assert_eq!(
            answer.document(),
            json!({"id": "x", "created": 1, "model": "tiny", "object": "chat.completion",
                   "choices": [{"index": 0, "finish_reason": "length",
                                "message": {"role": "assistant", "content": "Hello", "reasoning_content": "hm"}}],
                   "usage": {"prompt_tokens": 3, "completion_tokens": 2},
                   "timings": {"prompt_n": 3, "prompt_ms": 30.0, "prompt_per_second": 100.0}})
        );
        assert!(answer.cut_off().is_some());
        let costs = answer.costs();
        for line in [
            "prompt tokens:     3",
            "prompt duration:   30 ms",
            "prompt rate:       100.0 tokens/s",
            "answer tokens:     2",
        ] {
            assert!(costs.lines().any(|told| told == line), "{line}:\n{costs}");
        }
    }
}
