//! The endpoint of a worker: where the gateway sends one request, which counts as in flight.

use std::sync::Arc;

use futures::future::BoxFuture;
use tokio::sync::Notify;

use super::handle::Handle;
use super::route::Route;
use super::secret::Secret;
use super::state::LifeStage;
use crate::requests::ServedBy;
use crate::time::monotonic;

/// Where to send one request.
#[derive(Debug)]
pub struct Endpoint {
    /// The process id of the worker.
    pub pid: u32,
    /// The id of what it serves.
    pub model: String,
    /// Its base URL, without a slash at the end.
    pub url: String,
    /// Its secret, to be sent as a bearer token.
    pub secret: Secret,
    /// Whether it has answered the beginning of the conversation before.
    pub knows_conversation: bool,
    /// Whether its engine's requests have llama.cpp's fields besides OpenAI's.
    pub has_llama_cpp_fields: bool,
    /// Counts the request as in flight. Hold it until the last byte of the answer.
    pub guard: InFlight,
}

impl Endpoint {
    /// An endpoint of the worker, with one more request in flight; `None` where the worker accepts no
    /// requests, or has as many as it has slots. `ended` is notified when the request has ended.
    pub(super) fn open(worker: &Arc<Handle>, ended: &Arc<Notify>) -> Option<Self> {
        let url = worker.url()?;
        let slots = worker.known_slots();
        let accepted = worker.traffic.send_if_modified(|traffic| {
            let accepts = traffic.accepts() && slots.is_none_or(|slots| traffic.in_flight < slots);
            traffic.in_flight += usize::from(accepts);
            traffic.sent += u64::from(accepts);
            accepts
        });
        accepted.then(|| Self {
            pid: worker.pid,
            model: worker.model_id().to_owned(),
            knows_conversation: false,
            url,
            secret: worker.secret.clone(),
            has_llama_cpp_fields: worker.engine.has_llama_cpp_fields,
            guard: InFlight { worker: Arc::clone(worker), ended: Arc::clone(ended) },
        })
    }
}

impl Endpoint {
    /// The path under which its engine answers such a question; `None` where it does not.
    #[must_use]
    pub fn path(&self, route: Route) -> Option<String> {
        self.guard.worker.engine.path(route)
    }

    /// The worker, for the record of the request.
    pub(crate) fn served_by(&self) -> ServedBy {
        let worker = &self.guard.worker;
        ServedBy {
            pid: self.pid,
            loaded_within: worker.loaded_within(),
            knows_conversation: self.knows_conversation,
            recent: Arc::clone(&worker.recent),
        }
    }
}

/// Counts one request as in flight until it is dropped: a worker that is being stopped waits for it.
#[derive(Debug)]
#[must_use = "the request counts as ended when the guard is dropped"]
pub struct InFlight {
    worker: Arc<Handle>,
    ended: Arc<Notify>,
}

impl InFlight {
    /// Counts a request that another hive has sent to the worker.
    pub(super) fn of_another_hive(worker: &Arc<Handle>, ended: &Arc<Notify>) -> Self {
        worker.traffic.send_modify(|traffic| traffic.in_flight += 1);
        Self { worker: Arc::clone(worker), ended: Arc::clone(ended) }
    }

    /// Waits until the worker is not ready any more.
    #[must_use]
    pub fn gone(&self) -> BoxFuture<'static, ()> {
        let mut states = self.worker.state.subscribe();
        Box::pin(async move {
            // An error means that it is gone and forgotten.
            let _gone = states.wait_for(|state| state.stage != LifeStage::Ready).await.is_ok();
        })
    }

    /// Waits until the worker no longer responds.
    #[must_use]
    pub fn unresponsive(&self) -> BoxFuture<'static, ()> {
        let mut states = self.worker.state.subscribe();
        Box::pin(async move {
            let hangs = states.wait_for(|state| state.stage == LifeStage::Unresponsive).await.is_ok();
            if !hangs {
                // The worker is gone: its connection tells.
                std::future::pending::<()>().await;
            }
        })
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.worker.traffic.send_modify(|traffic| {
            traffic.in_flight -= 1;
            traffic.last_used = Some(monotonic());
        });
        self.ended.notify_one();
    }
}
