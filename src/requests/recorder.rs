//! The recorder of one request.

use std::sync::Arc;

use parking_lot::Mutex;
use serde::Deserialize;
use tracing::Span;

use super::counted;
use super::ledger::Ledger;
use super::record::{Outcome, Record};
use super::request::{Request, ServedBy};
use crate::callers::Permit;
use crate::error::Failure;
use crate::time::monotonic;
use crate::traces::TARGET;

/// Records one request. Clones record the same one; once the last is dropped, the request has ended.
#[derive(Clone, Debug)]
pub(crate) struct Recorder(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    ledger: Ledger,
    id: Arc<str>,
    request: Arc<Mutex<Request>>,
    /// Counts the request against the limits of its caller while it is there.
    permit: Mutex<Option<Permit>>,
}

/// What a recorder records. It does not keep the request from ending.
#[derive(Clone, Debug)]
pub(crate) struct Recorded(Arc<Mutex<Request>>);

impl Recorded {
    /// What is known of the request at this moment.
    pub(crate) fn record(&self) -> Record {
        self.0.lock().record()
    }
}

impl Recorder {
    /// Records a request that was accepted now.
    pub(crate) fn new(ledger: &Ledger, caller: Arc<str>) -> Self {
        let request = Request::new(caller);
        let id = Arc::clone(&request.id);
        let request = Arc::new(Mutex::new(request));
        ledger.begin(&id, &request);
        Self(Arc::new(Inner { ledger: ledger.clone(), id, request, permit: Mutex::default() }))
    }

    /// What is recorded, for one that only looks.
    pub(crate) fn recorded(&self) -> Recorded {
        Recorded(Arc::clone(&self.0.request))
    }

    /// The answer of the worker that the request was sent to, for traces.
    pub(crate) fn span(&self) -> Span {
        self.0.request.lock().span.clone()
    }

    /// The id of the request.
    pub(crate) fn id(&self) -> &str {
        &self.0.id
    }

    /// The request counts against the limits of its caller until it ends.
    pub(crate) fn holds(&self, permit: Option<Permit>) {
        *self.0.permit.lock() = permit;
    }

    /// The request is for this model. From now on it waits for a worker.
    pub(crate) fn asks(&self, model: &str, streams: bool) {
        let record = {
            let mut request = self.0.request.lock();
            (request.model, request.streams) = (Some(model.into()), streams);
            request.asked.get_or_insert_with(monotonic);
            // Several questions may make one answer.
            request.sends = 0;
            request.record()
        };
        self.0.ledger.announce(&record);
    }

    /// The request has waited for this load.
    pub(crate) fn waited_for(&self, job_id: &Arc<str>) {
        self.0.request.lock().job_id = Some(Arc::clone(job_id));
    }

    /// The request goes to this worker.
    pub(crate) fn sent(&self, worker: ServedBy) {
        self.0.request.lock().send(worker);
    }

    /// The request goes to another hive.
    pub(crate) fn sent_to_hive(&self, hive: &str) {
        self.0.request.lock().send_to_hive(hive.into());
    }

    /// The data of an event of the answer has arrived.
    pub(crate) fn piece(&self, data: &[u8]) {
        let Some(counted) = counted::read(data) else { return };
        let record = {
            let mut request = self.0.request.lock();
            let is_first = counted.has_text && request.first_token.is_none();
            if is_first {
                request.first_token = Some(monotonic());
                tracing::debug!(target: TARGET, parent: &request.span, "first token");
            }
            request.pieces += u64::from(counted.has_text);
            request.counted.take(counted);
            is_first.then(|| request.record())
        };
        if let Some(record) = record {
            self.0.ledger.announce(&record);
        }
    }

    /// Takes the counts of an answer in JSON.
    pub(crate) fn counts(&self, body: &[u8]) {
        if let Some(counted) = counted::read(body) {
            self.0.request.lock().counted.take(counted);
        }
    }

    /// The whole answer has arrived, as JSON with this status.
    pub(crate) fn answered(&self, status: u16, body: &[u8]) {
        self.counts(body);
        match status {
            200..400 => self.end(Outcome::Completed, None),
            400..500 => self.end(Outcome::Refused, Some(error_code(body))),
            _ => self.end(Outcome::Failed, Some(error_code(body))),
        }
    }

    /// The stream has ended as it should.
    pub(crate) fn completed(&self) {
        self.end(Outcome::Completed, None);
    }

    /// The stream has ended with an error of the worker's.
    pub(crate) fn broke_off(&self, event: &[u8]) {
        self.end(Outcome::Failed, Some(error_code(event)));
    }

    /// The request has failed.
    pub(crate) fn failed(&self, failure: &Failure) {
        let is_refusal = failure.code.http_status() < 500;
        let outcome = if is_refusal { Outcome::Refused } else { Outcome::Failed };
        self.end(outcome, Some(failure.code.name().into()));
    }

    fn end(&self, outcome: Outcome, code: Option<Arc<str>>) {
        self.0.end(outcome, code);
    }
}

impl Inner {
    /// Ends the request, unless it has ended.
    fn end(&self, outcome: Outcome, code: Option<Arc<str>>) {
        let (record, recent) = {
            let mut request = self.request.lock();
            if request.ended.is_some() {
                return;
            }
            (request.ended, request.outcome, request.code) = (Some(monotonic()), Some(outcome), code);
            let record = request.record();
            request.end_span(&record);
            (record, request.served_by.as_ref().map(|worker| Arc::clone(&worker.recent)))
        };
        if let Some(recent) = recent {
            recent.add(&record);
        }
        self.ledger.end(record);
        drop(self.permit.lock().take());
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.end(Outcome::ClientGone, None);
    }
}

/// The code of an error in OpenAI's form; that of an error of a worker where it has none.
fn error_code(body: &[u8]) -> Arc<str> {
    #[derive(Deserialize)]
    struct Body {
        error: Error,
    }
    #[derive(Deserialize)]
    struct Error {
        code: Option<serde_json::Value>,
        r#type: Option<String>,
    }
    let code = serde_json::from_slice::<Body>(body).ok().and_then(|Body { error }| {
        error.code.and_then(|code| Some(code.as_str()?.to_owned())).or(error.r#type)
    });
    code.map_or_else(
        || crate::error::Code::WorkerError.name().into(),
        |code| crate::text::excerpt(&code).into(),
    )
}

#[cfg(test)]
mod tests;
