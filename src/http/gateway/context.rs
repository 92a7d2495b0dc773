//! More context for a request that asks for it, as Ollama's `num_ctx` does: the model is loaded with so much, or
//! its worker replaced by one that has it, once it is idle. What is there already is never made smaller.

use std::sync::Arc;

use crate::app::{App, AppState};
use crate::config::KeepAlive;
use crate::error::Result;
use crate::http::operation;
use crate::ops::{Asker, By};
use crate::residency::Asking;
use crate::workers::{DEFAULT_CONTEXT, Worker};

/// Sees to it that a worker of the model has at least so many tokens of context, or as many as the model was
/// trained for. `waits_for` is told of the job, which goes on where the client leaves.
///
/// # Errors
/// Those of a load.
pub(super) async fn grow(
    app: &AppState,
    Asking { model, caller, .. }: &Asking,
    least: u64,
    keep_alive: Option<KeepAlive>,
    waits_for: impl FnOnce(Arc<str>),
) -> Result<()> {
    let Some(context_length) = lacking(app, model, least).await? else { return Ok(()) };
    let keep_alive = keep_alive.unwrap_or_else(|| app.residency.idle(model));
    let load = serde_json::json!({ "ModelLoad": {
        "id": &**model, "context_length": context_length, "keep_alive": keep_alive,
        "reason": format!("a request asks for {context_length} tokens of context"),
    }});
    let asker = Asker { caller: Arc::clone(caller), by: By::Gateway };
    let job = operation::submit(app, &asker, &load)?;
    waits_for(job.id().to_string().into());
    operation::end_of(app, &job).await
}

/// How much context to load the model with; `None` where what serves it has enough, or will have by itself.
pub(crate) async fn lacking(app: &App, model: &str, least: u64) -> Result<Option<u64>> {
    let serving: Vec<Worker> =
        app.workers.of_model(model).into_iter().filter(|worker| worker.status.serves()).collect();
    // One that does not tell is left alone.
    let is_there = |least: u64| {
        serving.iter().any(|worker| worker.context_length.is_none_or(|context| context >= least))
    };
    if is_there(least) {
        return Ok(None);
    }
    let target = app.find_requested(model).await?;
    let trained = target.model.context_length.unwrap_or(u64::MAX);
    let (least, usual) = (least.min(trained), target.settings.context_length.unwrap_or(DEFAULT_CONTEXT));
    let comes_anyway = serving.is_empty() && least <= usual.min(trained);
    Ok((!comes_anyway && !is_there(least)).then_some(least))
}
