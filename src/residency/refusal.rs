//! Why a request is not taken into the queue, or leaves it without an answer.

use std::sync::Arc;
use std::time::Duration;

use crate::error::{Code, Failure};
use crate::workers::{Status, Worker};

/// The most loaded models that a refusal names.
const MOST_NAMED: usize = 5;

/// A refusal.
#[derive(Clone, Debug)]
pub(crate) enum Refused {
    /// The code of the failure tells all.
    Plain(Arc<Failure>),
    /// The load that the request needs has failed, and is not tried again before so long.
    Load { failure: Arc<Failure>, again_in: Duration },
}

impl Refused {
    pub(crate) fn failure(&self) -> &Arc<Failure> {
        match self {
            Self::Plain(failure) | Self::Load { failure, .. } => failure,
        }
    }
}

impl From<Failure> for Refused {
    fn from(failure: Failure) -> Self {
        Self::Plain(Arc::new(failure))
    }
}

/// The refusal where too many requests wait.
pub(super) fn queue_full(limit: usize) -> Failure {
    Failure::new(Code::QueueFull, format!("{limit} requests wait for a model, which is as many as may"))
        .hint("try again in a moment; [residency] queue is how many may wait")
}

/// The refusal while the hive stops.
pub(super) fn shutting_down() -> Failure {
    Failure::new(Code::ShuttingDown, "the hive is stopping and answers no more requests")
        .hint("start the hive again, then repeat the request")
}

/// The refusal for a model whose only workers do not respond.
pub(super) fn does_not_respond(id: &str, pid: u32) -> Failure {
    let load = serde_json::json!({"ModelLoad": {"id": id}});
    Failure::new(
        Code::WorkerUnresponsive,
        format!("worker {pid} of the model '{id}' does not respond: it neither answers nor computes"),
    )
    .hint(format!("replace it with POST /v1/jobs {load}; GET /v1/workers/{pid}/log may show why it hangs"))
}

/// The refusal for a model that exists, that no worker serves, and that requests do not load.
pub(crate) fn not_loaded(id: &str, workers: &[Worker]) -> Failure {
    let load = serde_json::json!({"ModelLoad": {"id": id}});
    let serving = workers.iter().filter(|worker| worker.status.serves() && !worker.trial);
    let mut loaded: Vec<&str> = serving.map(|worker| worker.model.as_str()).collect();
    loaded.sort_unstable();
    loaded.dedup();
    let others = match &loaded[..] {
        [] => "no model is loaded".to_owned(),
        some if some.len() <= MOST_NAMED => format!("loaded are: {}", some.join(", ")),
        some => format!("loaded are {} models, such as {}", some.len(), some[..MOST_NAMED].join(", ")),
    };
    Failure::new(Code::ModelNotLoaded, format!("the model '{id}' is not loaded"))
        .hint(format!("load it with POST /v1/jobs {load}; {others}"))
}

/// The one of these workers that hangs, if none of them does or will do anything else.
pub(super) fn hung(statuses: &[(u32, Status)]) -> Option<u32> {
    let can_serve = |status: &Status| matches!(status, Status::Starting | Status::Loading) || status.serves();
    if statuses.iter().any(|(_, status)| can_serve(status)) {
        return None;
    }
    statuses.iter().find(|(_, status)| *status == Status::Unresponsive).map(|(pid, _)| *pid)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_model_that_is_not_loaded_is_refused_with_the_operation_that_loads_it() {
        assert_eq!(
            not_loaded("tiny", &[]).hint.as_deref(),
            Some(r#"load it with POST /v1/jobs {"ModelLoad":{"id":"tiny"}}; no model is loaded"#)
        );
    }

    #[test]
    fn a_worker_hangs_only_where_no_other_serves_or_is_about_to() {
        let hangs = (7, Status::Unresponsive);
        assert_eq!(hung(&[hangs]), Some(7));
        assert_eq!(hung(&[(6, Status::Stopping), hangs]), Some(7));
        for other in [Status::Starting, Status::Loading, Status::Ready, Status::Busy] {
            assert_eq!(hung(&[hangs, (8, other)]), None);
        }
        assert_eq!(hung(&[]), None);
    }
}
