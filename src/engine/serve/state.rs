//! The state that all requests to a worker share: the progress of the load, then the loaded model.

use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Instant;

use axum::http::StatusCode;
use tokio::runtime::Handle;
use tokio_util::sync::CancellationToken;

use super::error::ApiError;
use super::options::WorkerOptions;
use crate::config::Sampling;
use crate::engine::answer::Style;
use crate::engine::answer::required::Shape;
use crate::engine::constraint::{Constraint, Grammars};
use crate::engine::generation::{GenerationHandle, Generator};
use crate::engine::load::{LoadedModel, load};
use crate::engine::model_error::in_file;
use crate::engine::pooling::Pooling;
use crate::engine::sampling::SamplingParams;
use crate::engine::template::ChatTemplate;
use crate::engine::template::sandbox::Sandbox;
use crate::engine::tokenizer::Tokenizer;
use crate::error::{Failure, Result};
use crate::files;

/// The context of a slot, in tokens, if the options do not set it: recent models are trained for far
/// more, and its memory would surprise the user.
const DEFAULT_CONTEXT: usize = 8192;

pub(super) struct WorkerState {
    pub(super) secret: Option<String>,
    pub(super) loaded_bytes: AtomicU64,
    pub(super) total_bytes: AtomicU64,
    ready: OnceLock<ReadyModel>,
}

/// A loaded model that serves requests.
pub(super) struct ReadyModel {
    pub(super) model_id: String,
    /// When the load ended, in seconds since the Unix epoch.
    pub(super) loaded_at: i64,
    pub(super) slots: usize,
    pub(super) tokenizer: Arc<Tokenizer>,
    pub(super) template: Arc<ChatTemplate>,
    pub(super) style: Style,
    /// How it is sampled where a request does not say: as its makers recommend, else as llama.cpp does.
    pub(super) sampling: SamplingParams,
    pub(super) generation: GenerationHandle,
    /// How it makes an embedding of a text, if it is an embedding model.
    pub(super) pooling: Option<Pooling>,
    /// How long its vectors are.
    pub(super) width: usize,
    /// Made when a request first needs them.
    grammars: OnceLock<Result<Grammars>>,
}

impl ReadyModel {
    /// The constraint to the shape that this field of a request asks for, after the reasoning if that is `opened`.
    ///
    /// # Errors
    /// The field asks for what cannot be held.
    pub(super) fn constraint(
        &self,
        asked: Option<(&str, Shape)>,
        opened: bool,
    ) -> Result<Option<Constraint>, ApiError> {
        let Some((field, shape)) = asked else { return Ok(None) };
        let compiled = shape.constraint(self.grammars()?, self.style.notation, &self.tokenizer, opened);
        compiled.map(Some).map_err(|reason| {
            ApiError::field(field, format_args!("asks for what the built-in engine cannot hold: {reason}"))
        })
    }

    /// Compiles grammars for the model's vocabulary. The first call may take a second: not for an async task.
    ///
    /// # Errors
    /// `internal` if no grammar can be used with the vocabulary.
    fn grammars(&self) -> Result<&Grammars> {
        self.grammars.get_or_init(|| Grammars::new(&self.tokenizer)).as_ref().map_err(Clone::clone)
    }
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

    /// The loaded model.
    ///
    /// # Errors
    /// `model_loading` (503) until the model is loaded.
    pub(super) fn ready(&self) -> Result<&ReadyModel, ApiError> {
        self.ready.get().ok_or_else(|| {
            ApiError::new(StatusCode::SERVICE_UNAVAILABLE, "model_loading", "the model is still loading")
        })
    }

    /// Loads the model and generates until [`stop`](Self::stop). Blocks. `sandbox` renders its chat
    /// template, in processes that `runtime` awaits.
    pub(super) fn load_and_run(
        &self,
        options: &WorkerOptions,
        sandbox: Sandbox,
        runtime: &Handle,
        stop: &CancellationToken,
    ) -> Result<()> {
        let started = Instant::now();
        let loaded = load(&options.model, &mut |done, total| {
            self.total_bytes.store(total, Ordering::Relaxed);
            self.loaded_bytes.store(done, Ordering::Relaxed);
        });
        let (generator, ready) = loaded
            .and_then(|loaded| prepare(loaded, options, sandbox))
            .map_err(|failure| failure.stage("load"))?;
        let check = runtime.block_on(ready.template.check());
        check.map_err(in_file(&options.model)).map_err(|failure| failure.stage("load"))?;
        tracing::info!(
            model = ready.model_id,
            context_length = ready.generation.context_length(),
            slots = ready.slots,
            seconds = started.elapsed().as_secs_f64(),
            "the model is loaded"
        );
        if self.ready.set(ready).is_err() {
            unreachable!("a worker loads one model");
        }
        if !stop.is_cancelled() {
            generator.run();
        }
        Ok(())
    }

    /// Ends the generation thread, if the model is loaded.
    pub(super) fn stop(&self) {
        if let Some(ready) = self.ready.get() {
            ready.generation.stop();
        }
    }
}

fn prepare(
    loaded: LoadedModel,
    options: &WorkerOptions,
    sandbox: Sandbox,
) -> Result<(Generator, ReadyModel)> {
    let LoadedModel { model, header } = loaded;
    let tokenizer = Tokenizer::from_metadata(&header.metadata).map_err(in_file(&options.model))?;
    let tokenizer = Arc::new(tokenizer);
    let chosen = options.chat_template.as_deref().map(chat_template).transpose()?;
    let template = Arc::new(ChatTemplate::new(chosen, &header.metadata, &tokenizer, sandbox));
    let trained_for = model.context_length();
    let (pooling, width) = (model.pooling(), model.width());
    let requested = options.context_length.unwrap_or(DEFAULT_CONTEXT.min(trained_for));
    if requested > trained_for {
        tracing::warn!(
            requested,
            trained_for,
            "the context is limited to the one that the model was trained for"
        );
    }
    let slots = options.slots.max(1);
    let context = requested.clamp(1, trained_for.max(1));
    let (generator, generation) = Generator::new(model, Arc::clone(&tokenizer), slots, context);
    let stem = || options.model.file_stem().unwrap_or_default().to_string_lossy().into_owned();
    let ready = ReadyModel {
        model_id: options.model_id.clone().unwrap_or_else(stem),
        loaded_at: jiff::Timestamp::now().as_second(),
        slots,
        style: Style::of(&template, &tokenizer),
        tokenizer,
        template,
        sampling: header.sampling().unwrap_or_default().or(Sampling::LLAMA_CPP).into(),
        generation,
        pooling,
        width,
        grammars: OnceLock::new(),
    };
    Ok((generator, ready))
}

/// The chat template in a file.
fn chat_template(path: &Path) -> Result<String> {
    files::read_text(path).map_err(|error| Failure::io("read the chat template", path, &error))
}
