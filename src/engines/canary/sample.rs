//! The try with a small model that the hive makes, whose answer is known.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::ask::{NoAnswer, Question};
use super::attempt::{Try, Unproven, gpu_of, stopped};
use crate::disk;
use crate::engine::sample_model::{SampleModel, SampleWeights};
use crate::error::{Code, Failure, Result};
use crate::workers::engines::Engine;
use crate::workers::{Device, WhyNot};
use crate::{n, spawn, text};

/// What the model answers.
const SENTENCE: &str = "All is well with this engine.";
/// Tokens of context of the worker.
const CONTEXT: u64 = 512;
/// More tokens than the sentence has.
const TOKENS: u32 = 64;
impl Try<'_> {
    /// A worker on each kind of device answers with the sentence, and gives its memory back.
    pub(super) async fn answer_with_sample(
        &mut self,
        engine: &Arc<Engine>,
        folder: &Path,
    ) -> Result<(), Unproven> {
        let sample = Sample::write(folder.join(format!("sample-{}.gguf", self.candidate.id))).await?;
        let gpu = gpu_of(engine, self.candidate.id.kind);
        for device in gpu.into_iter().chain([Device::CPU]) {
            self.answer_on(engine, &sample.0, device).await?;
        }
        Ok(())
    }

    async fn answer_on(
        &mut self,
        engine: &Arc<Engine>,
        model: &Path,
        device: Device,
    ) -> Result<(), Unproven> {
        let tried = self.tried(engine, model, device, CONTEXT);
        let worker = match self.canary.workers.try_engine(&tried, self.stop).await {
            Ok(worker) => worker,
            Err(error) if error.why == WhyNot::NoRoom => {
                self.remark(format!(
                    "it was not tried on {device}, which has no room now: {}",
                    error.failure
                ));
                return Ok(());
            }
            Err(error) => return Err(self.not_tried("load", error)),
        };
        let question = Question { text: "Is all well?", tokens: TOKENS, goes_on: false };
        let answered = self.ask(&worker, &question).await;
        let ended = self.end(worker, &format!("on {device}, with a sample model")).await;
        let answer = match answered {
            Ok(answer) => answer,
            Err(NoAnswer::Stopped) => return Err(stopped().into()),
            Err(NoAnswer::Failed(failure)) => return Err(self.failed("answer", failure)),
        };
        ended?;
        if answer.text.trim() != SENTENCE {
            let said = text::excerpt(answer.text.trim());
            let message = format!(
                "on {device} it answers wrongly: a sample model that says '{SENTENCE}' said '{said}'"
            );
            let hint = "it computes wrongly here: install another version, or one for another kind of device";
            return Err(self.failed("answer", Failure::new(Code::WorkerFailed, message).hint(hint)));
        }
        n!(
            "worker_install_try",
            "On {device} it loaded a sample model, answered as it should, and gave its memory back"
        );
        Ok(())
    }
}

/// The file of the sample model, which goes with the value.
struct Sample(PathBuf);

impl Sample {
    async fn write(path: PathBuf) -> Result<Self> {
        let model = SampleModel {
            name: "sample".to_owned(),
            weights: SampleWeights::Sentence(SENTENCE.to_owned()),
            ..SampleModel::default()
        };
        spawn::blocking(move || {
            if let Some(folder) = path.parent() {
                disk::create_private_dir(folder)
                    .map_err(|error| Failure::io("make the folder", folder, &error))?;
            }
            let sample = Self(path);
            model.write(&sample.0)?;
            Ok(sample)
        })
        .await?
    }
}

impl Drop for Sample {
    fn drop(&mut self) {
        if let Err(error) = disk::remove_file(&self.0) {
            tracing::debug!(path = %self.0.display(), %error, "could not remove a sample model");
        }
    }
}
