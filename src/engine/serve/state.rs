//! What all requests to a worker share: the load's progress, then the loaded model.

use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Instant;

use axum::http::StatusCode;
use tokio_util::sync::CancellationToken;

use super::WorkerOptions;
use super::openai::ApiError;
use crate::engine::generation::{Engine, Handle};
use crate::engine::load::{Loaded, load};
use crate::engine::template::ChatTemplate;
use crate::engine::tokenizer::Tokenizer;
use crate::error::{Failure, Result};

/// The context of a slot, in tokens, where nobody asked for another: models of today are trained
/// for far more, and its memory would come as a surprise.
const DEFAULT_CONTEXT: usize = 8192;

pub(super) struct WorkerState {
    pub(super) secret: Option<String>,
    pub(super) loaded_bytes: AtomicU64,
    pub(super) total_bytes: AtomicU64,
    ready: OnceLock<Ready>,
}

/// A model that is loaded.
pub(super) struct Ready {
    pub(super) model_id: String,
    /// Seconds since the Unix epoch.
    pub(super) since: i64,
    pub(super) slots: usize,
    pub(super) tokenizer: Arc<Tokenizer>,
    pub(super) template: ChatTemplate,
    pub(super) engine: Handle,
}

impl WorkerState {
    pub(super) fn new(secret: Option<String>) -> Self {
        Self {
            secret,
            loaded_bytes: AtomicU64::new(0),
            total_bytes: AtomicU64::new(0),
            ready: OnceLock::new(),
        }
    }

    /// The loaded model, or the answer to who comes too early.
    pub(super) fn ready(&self) -> Result<&Ready, ApiError> {
        self.ready.get().ok_or_else(|| {
            ApiError::new(StatusCode::SERVICE_UNAVAILABLE, "model_loading", "the model is still loading")
        })
    }

    /// Loads the model and serves it until the engine is stopped. Blocks.
    pub(super) fn load_and_run(&self, options: &WorkerOptions, stop: &CancellationToken) -> Result<()> {
        let started = Instant::now();
        let loaded = load(&options.model, &mut |done, total| {
            self.total_bytes.store(total, Ordering::Relaxed);
            self.loaded_bytes.store(done, Ordering::Relaxed);
        });
        let (engine, ready) = loaded
            .and_then(|loaded| prepare(loaded, options))
            .map_err(|failure| of_file(failure, &options.model))?;
        tracing::info!(
            model = ready.model_id,
            context_length = ready.engine.context_length(),
            slots = ready.slots,
            seconds = started.elapsed().as_secs_f64(),
            "the model is loaded"
        );
        if self.ready.set(ready).is_err() {
            unreachable!("a worker loads one model");
        }
        if !stop.is_cancelled() {
            engine.run();
        }
        Ok(())
    }

    /// Stops the engine, where there is one yet.
    pub(super) fn stop(&self) {
        if let Some(ready) = self.ready.get() {
            ready.engine.stop();
        }
    }
}

/// What reads the file's contents names the field at fault. Whoever is told here needs the file, too.
fn of_file(mut failure: Failure, path: &Path) -> Failure {
    let path = path.display().to_string();
    if !failure.message.contains(&path) {
        failure.message = format!("{path}: {}", failure.message);
    }
    failure.stage("load")
}

fn prepare(loaded: Loaded, options: &WorkerOptions) -> Result<(Engine, Ready)> {
    let Loaded { model, header, .. } = loaded;
    let tokenizer = Arc::new(Tokenizer::from_metadata(&header.metadata)?);
    let template = ChatTemplate::from_metadata(&header.metadata, &tokenizer)?;
    let trained_for = model.context_length();
    let asked_for = options.context_length.unwrap_or(DEFAULT_CONTEXT.min(trained_for));
    if asked_for > trained_for {
        tracing::warn!(asked_for, trained_for, "the context is limited to what the model was trained for");
    }
    let slots = options.slots.max(1);
    let context = asked_for.clamp(1, trained_for.max(1));
    let (engine, handle) = Engine::new(model, Arc::clone(&tokenizer), slots, context);
    let stem = || options.model.file_stem().unwrap_or_default().to_string_lossy().into_owned();
    let ready = Ready {
        model_id: options.model_id.clone().unwrap_or_else(stem),
        since: jiff::Timestamp::now().as_second(),
        slots,
        tokenizer,
        template,
        engine: handle,
    };
    Ok((engine, ready))
}
