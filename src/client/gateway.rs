//! Answers of models, as they are written.

use std::pin::Pin;

use futures::{Stream, StreamExt, TryStreamExt};
use http::Method;
use serde_json::Value;
use sse_stream::{Sse, SseByteStream};

use super::connection::Connection;
use super::error::{Error, Result};
use crate::error::{Code, Failure};
use crate::jobs::JobId;

/// The chunks of one answer.
pub struct ChatStream {
    job: Option<JobId>,
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
        let answer = connection.send(asked).await?;
        let job = answer.headers().get("x-rbee-job-id").and_then(|id| JobId::parse(id.to_str().ok()?));
        let bytes = answer.bytes_stream().map_err(std::io::Error::other);
        Ok(Self { job, events: Box::pin(SseByteStream::new(Box::pin(bytes))), is_ended: false })
    }

    /// The job that loads the model for this answer, where one does.
    #[must_use]
    pub const fn job(&self) -> Option<&JobId> {
        self.job.as_ref()
    }

    /// The next chunk (`chat.completion.chunk` of OpenAI's API); `None` at the end of the answer.
    ///
    /// # Errors
    /// [`Error::Failed`] where the answer breaks off, with what the hive tells of it.
    pub async fn next(&mut self) -> Result<Option<Value>> {
        while !self.is_ended {
            let event = match self.events.next().await {
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
            return Ok(Some(chunk));
        }
        self.is_ended = true;
        Ok(None)
    }
}

fn broken(why: &str) -> Error {
    Error::Failed(Failure::new(Code::WorkerError, format!("the answer broke off: {why}")).hint("ask again"))
}
