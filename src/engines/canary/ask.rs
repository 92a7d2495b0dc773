//! A question to a worker that tries an engine, and its answer.

use reqwest::Response;
use serde::Deserialize;
use serde_json::json;

use super::attempt::Try;
use crate::error::{Code, Failure};
use crate::narration::waiting_for;
use crate::text;
use crate::time::in_words;
use crate::workers::{Endpoint, Fate, Route, TrialWorker};

/// The longest answer, in bytes.
const MAX_ANSWER_BYTES: usize = 1 << 20;

/// What a worker is asked.
pub(super) struct Question {
    pub(super) text: &'static str,
    /// The most tokens of the answer.
    pub(super) tokens: u32,
    /// Whether the answer goes on where the model would end it, so that all answers are as long.
    pub(super) goes_on: bool,
}

/// What a worker answered.
pub(super) struct Answer {
    pub(super) text: String,
    /// How fast it was, where the engine tells.
    pub(super) speed: Option<Speed>,
}

/// Tokens in a second.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Speed {
    /// Of the prompt, which it reads.
    pub(super) prompt: f64,
    /// Of the answer, which it writes.
    pub(super) answer: f64,
}

/// Why there is no answer.
pub(super) enum NoAnswer {
    /// The job, or the worker, was stopped.
    Stopped,
    /// The engine does not work.
    Failed(Failure),
}

#[derive(Deserialize)]
struct Completion {
    #[serde(default)]
    choices: Vec<Choice>,
    #[serde(default)]
    timings: Option<Timings>,
}

#[derive(Deserialize)]
struct Choice {
    message: Message,
}

#[derive(Deserialize)]
struct Message {
    #[serde(default)]
    content: Option<String>,
    #[serde(default)]
    reasoning_content: Option<String>,
}

/// The times of llama.cpp's server.
#[derive(Deserialize)]
struct Timings {
    prompt_n: f64,
    prompt_ms: f64,
    predicted_n: f64,
    predicted_ms: f64,
}

impl Timings {
    fn speed(&self) -> Option<Speed> {
        let of = |tokens: f64, ms: f64| (tokens >= 1.0 && ms > 0.0).then(|| tokens * 1000.0 / ms);
        Some(Speed {
            prompt: of(self.prompt_n, self.prompt_ms)?,
            answer: of(self.predicted_n, self.predicted_ms)?,
        })
    }
}

impl Try<'_> {
    /// Asks a worker; it answers greedily, and without what its cache knows of an earlier prompt.
    pub(super) async fn ask(&self, worker: &TrialWorker, question: &Question) -> Result<Answer, NoAnswer> {
        let _waiting = waiting_for("a worker that tries an engine to answer".to_owned());
        let answer = tokio::select! {
            biased;
            () = self.stop.cancelled() => return Err(NoAnswer::Stopped),
            answer = tokio::time::timeout(self.canary.limit, self.post(worker, question)) => answer,
        };
        let why = match answer {
            Ok(Ok(answer)) => return Ok(answer),
            Ok(Err(why)) => why,
            Err(_) => format!("it hangs: it did not answer within {}", in_words(self.canary.limit)),
        };
        Err(match worker.fate().await {
            Fate::Crashed(failure) => NoAnswer::Failed(failure),
            Fate::Stopped => NoAnswer::Stopped,
            Fate::Lives => {
                let mut failure = Failure::new(Code::WorkerFailed, why).hint("install another version");
                let log = worker.log().await;
                failure.log_tail = log[log.len().saturating_sub(20)..].to_vec();
                NoAnswer::Failed(failure)
            }
        })
    }

    async fn post(&self, worker: &TrialWorker, question: &Question) -> Result<Answer, String> {
        let endpoint = worker.endpoint().ok_or("it accepts no request")?;
        let Endpoint { url, secret, model, guard: _guard, .. } = &endpoint;
        let path = endpoint.path(Route::Chat).ok_or("it does not chat")?;
        let body = json!({
            "model": model,
            "messages": [{ "role": "user", "content": question.text }],
            "max_tokens": question.tokens,
            "temperature": 0,
            "stream": false,
            "cache_prompt": false,
            "ignore_eos": question.goes_on,
        });
        let request =
            self.canary.client.post(format!("{url}{path}")).bearer_auth(secret.expose()).json(&body);
        let answer = request.send().await.map_err(|error| format!("it did not answer: {error}"))?;
        let status = answer.status();
        let body = read(answer).await?;
        if !status.is_success() {
            let said = text::excerpt(&String::from_utf8_lossy(&body));
            return Err(format!("it answered {status}: {said}"));
        }
        let Completion { choices, timings } = serde_json::from_slice(&body)
            .map_err(|error| format!("its answer is not a completion: {error}"))?;
        let Choice { message } = choices.into_iter().next().ok_or("its answer has no choice")?;
        let text = [message.reasoning_content, message.content].into_iter().flatten().collect();
        Ok(Answer { text, speed: timings.as_ref().and_then(Timings::speed) })
    }
}

async fn read(mut answer: Response) -> Result<Vec<u8>, String> {
    let mut body = Vec::new();
    while let Some(chunk) = answer.chunk().await.map_err(|error| format!("its answer broke off: {error}"))? {
        if body.len() + chunk.len() > MAX_ANSWER_BYTES {
            return Err("its answer does not end".to_owned());
        }
        body.extend_from_slice(&chunk);
    }
    Ok(body)
}
