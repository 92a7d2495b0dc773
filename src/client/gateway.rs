//! Answers of models, as they are written.

mod comments;

use std::pin::Pin;

use futures::{Stream, StreamExt, TryStreamExt};
use http::Method;
use serde_json::Value;
use sse_stream::{Sse, SseByteStream};
use tokio::sync::mpsc;

use super::connection::Connection;
use super::error::{Error, Result};
use crate::error::{Code, Failure};
use crate::jobs::JobId;
use comments::Comments;

/// What a comment has before the job of the load that the request waits for.
const JOB: &str = "; x-rbee-job-id: ";

/// What comes of one request.
#[derive(Clone, Debug)]
pub enum ChatPart {
    /// What the request waits for, in words: `waiting: 1 of 1; loading 'tiny': 41 %, about 12 s`.
    Waiting(String),
    /// A piece of the answer: a `chat.completion.chunk` of OpenAI's API.
    Chunk(Value),
}

/// The parts of one answer.
pub struct ChatStream {
    job: Option<JobId>,
    comments: mpsc::UnboundedReceiver<String>,
    events: Pin<Box<dyn Stream<Item = Result<Sse, sse_stream::Error>> + Send>>,
    is_ended: bool,
}

impl std::fmt::Debug for ChatStream {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ChatStream").field("job", &self.job).finish_non_exhaustive()
    }
}

impl ChatStream {
    pub(super) async fn open(connection: &Connection, request: &Value) -> Result<Self> {
        let mut request = request.clone();
        request["stream"] = true.into();
        let asked = connection.request(Method::POST, "/v1/chat/completions").json(&request);
        let asked = asked.header("x-rbee-narrate", "1");
        let answer = connection.send(asked).await?;
        let job = answer.headers().get("x-rbee-job-id").and_then(|id| JobId::parse(id.to_str().ok()?));
        let (sender, comments) = mpsc::unbounded_channel();
        let mut found = Comments::new(sender);
        let bytes = answer.bytes_stream().inspect_ok(move |bytes| found.pass(bytes));
        let bytes = bytes.map_err(std::io::Error::other);
        Ok(Self { job, comments, events: Box::pin(SseByteStream::new(Box::pin(bytes))), is_ended: false })
    }

    /// The job that loads the model for this answer, where one does.
    #[must_use]
    pub const fn job(&self) -> Option<&JobId> {
        self.job.as_ref()
    }

    /// The next part; `None` at the end of the answer. May be dropped before it is ready, and called again.
    ///
    /// # Errors
    /// [`Error::Failed`] where the answer breaks off, with what the hive tells of it.
    pub async fn next(&mut self) -> Result<Option<ChatPart>> {
        while !self.is_ended {
            let event = tokio::select! {
                biased;
                Some(comment) = self.comments.recv() => return Ok(Some(self.waiting(comment))),
                event = self.events.next() => event,
            };
            let event = match event {
                Some(Ok(event)) => event,
                Some(Err(error)) => return Err(broken(&error.to_string())),
                None => return Err(broken("its stream ended early")),
            };
            let Some(data) = event.data else { continue };
            if data == "[DONE]" {
                break;
            }
            let chunk: Value = serde_json::from_str(&data).map_err(|error| Error::unexpected(&error))?;
            if let Some(error) = chunk.get("error") {
                self.is_ended = true;
                let code = serde_json::from_value(error["code"].clone()).unwrap_or(Code::WorkerError);
                let message = error["message"].as_str().unwrap_or("the answer broke off");
                return Err(Error::Failed(Failure::new(code, message)));
            }
            return Ok(Some(ChatPart::Chunk(chunk)));
        }
        self.is_ended = true;
        Ok(None)
    }

    fn waiting(&mut self, mut comment: String) -> ChatPart {
        if let Some(at) = comment.find(JOB) {
            self.job = JobId::parse(&comment[at + JOB.len()..]).or(self.job.take());
            comment.truncate(at);
        }
        ChatPart::Waiting(comment)
    }
}

fn broken(why: &str) -> Error {
    Error::Failed(Failure::new(Code::WorkerError, format!("the answer broke off: {why}")).hint("ask again"))
}
