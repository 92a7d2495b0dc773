//! The try with a model of this machine: how fast the build is, and whether the version before was faster.

use std::sync::Arc;

use super::ask::{Answer, NoAnswer, Question, Speed};
use super::attempt::{Try, Unproven, gpu_of, stopped};
use crate::engine_store::{Build, Measured};
use crate::error::{Code, Failure, Result};
use crate::models::{Model, Status, Task};
use crate::n;
use crate::workers::engines::Engine;
use crate::workers::{Device, TrialWorker, Tried, WhyNot};

/// What the models are asked: long enough that the speed of reading it can be measured.
const PROMPT: &str = "A hive is a place where many work together. Each bee has a task of its own: some clean the \
    cells, some feed the young, some build the comb, some guard the entrance, and the oldest fly out and bring back \
    nectar, pollen and water. Nobody gives orders. A bee that comes home with news of a good field dances, and the \
    others read the direction and the distance from the dance. When the comb is full, wax is made and new cells are \
    built; when it is hot, water is spread and wings fan the air; when it is cold, they gather in a ball and take \
    turns in its middle. A hive of forty thousand bees so keeps its temperature within one degree through the whole \
    summer, stores what it needs for the winter, and decides by many small votes where to move when it has grown too \
    large. Explain in a few sentences what an engineer who builds a system of many small programs could learn from \
    this, and what would be different.";
/// Tokens of each answer.
const TOKENS: u32 = 48;
/// Tokens of context of the workers: enough for the prompt in any vocabulary.
const CONTEXT: u64 = 1024;
/// The most models that are tried until one can be measured.
const MODELS: usize = 3;
/// The least part of the speed of the version before that a new one must have.
const LEAST: f64 = 0.8;
/// Who answers when: so neither gains from a machine that gets slower or faster.
const TURNS: [Turn; 6] = [Turn::Old, Turn::New, Turn::New, Turn::Old, Turn::New, Turn::Old];

#[derive(Clone, Copy, PartialEq, Eq)]
enum Turn {
    Old,
    New,
}

/// How the try with one model ended, unless the build failed.
enum Ended {
    Measured(Speed),
    /// It cannot be measured with this model.
    Skipped(String),
}

/// What one version did in a comparison.
#[derive(Default)]
struct Runs {
    speeds: Vec<Speed>,
    text: String,
}

impl Try<'_> {
    /// Measures the build with a model of this machine, and compares it with the version before.
    pub(super) async fn measure(
        &mut self,
        engine: &Arc<Engine>,
        before: Option<&Build>,
    ) -> Result<(), Unproven> {
        let before = match before {
            Some(build) => self.version_before(build).await?,
            None => None,
        };
        let models = self.models().await;
        if models.is_empty() {
            self.remark("it was not measured: there is no model for text here".to_owned());
        }
        for model in &models {
            let measured = match &before {
                Some(before) => self.compare(model, before, engine).await?,
                None => self.measure_alone(model, engine).await?,
            };
            match measured {
                Ended::Measured(speed) => {
                    let Speed { prompt, answer } = speed;
                    n!(
                        "worker_install_try",
                        "With '{}' it reads {prompt:.0} and writes {answer:.1} tokens a second",
                        model.id
                    );
                    self.proof.measured = Some(Measured {
                        model: model.id.clone(),
                        prompt_per_second: prompt,
                        tokens_per_second: answer,
                    });
                    return Ok(());
                }
                Ended::Skipped(why) => self.remark(format!("it was not measured with '{}': {why}", model.id)),
            }
        }
        Ok(())
    }

    /// The engine of the version before; `None` where that does not run any more.
    async fn version_before(&mut self, build: &Build) -> Result<Option<Arc<Engine>>, Unproven> {
        let name = self.candidate.id.to_string();
        let described = self.canary.workers.describe(&name, &build.program);
        tokio::select! {
            () = self.stop.cancelled() => Err(stopped().into()),
            described = described => Ok(match described {
                Ok(engine) => Some(engine),
                Err(error) => {
                    self.remark(format!("the version before, {}, does not run any more: {}", build.version, error.failure));
                    None
                }
            }),
        }
    }

    /// The models that it may be measured with: those that were asked most first, then the smallest.
    async fn models(&self) -> Vec<Model> {
        let is_for_text =
            |model: &Model| model.traits.as_ref().is_some_and(|traits| traits.task == Task::Text);
        // Where a disk does not answer, it is not measured.
        let mut models = self.canary.catalog.list().await.unwrap_or_default();
        models.retain(|model| model.status == Status::Available && is_for_text(model));
        let [by_model, ..] = self.canary.requests.totals();
        let rank =
            |model: &Model| by_model.iter().position(|total| total.is_of(&model.id)).unwrap_or(usize::MAX);
        models.sort_by_key(|model| (rank(model), model.size_bytes));
        models.truncate(MODELS);
        models
    }

    /// Measures the build alone.
    async fn measure_alone(&mut self, model: &Model, engine: &Arc<Engine>) -> Result<Ended, Unproven> {
        let tried = self.with_model(model, engine, None);
        if let Some(skipped) = self.lacks_room(&tried, 1).await {
            return Ok(skipped);
        }
        let worker = match self.canary.workers.try_engine(&tried, self.stop).await {
            Ok(worker) => worker,
            Err(error) if self.stop.is_cancelled() => return Err(error.failure.into()),
            // It may be the model's fault: no version is known that runs it.
            Err(error) => return Ok(Ended::Skipped(error.failure.message)),
        };
        let answered = self.ask(&worker, &question()).await;
        self.end(worker, &format!("with '{}'", model.id)).await?;
        match answered {
            Ok(Answer { speed: Some(speed), .. }) => Ok(Ended::Measured(speed)),
            Ok(_) => Ok(Ended::Skipped("it does not tell its speed".to_owned())),
            Err(NoAnswer::Stopped) => Ok(Ended::Skipped("it was stopped by another request".to_owned())),
            Err(NoAnswer::Failed(failure)) => Err(self.failed("answer", failure)),
        }
    }

    /// Compares the build with the version before.
    async fn compare(
        &mut self,
        model: &Model,
        before: &Arc<Engine>,
        engine: &Arc<Engine>,
    ) -> Result<Ended, Unproven> {
        let (old, new) =
            (self.with_model(model, before, Some(engine)), self.with_model(model, engine, Some(before)));
        if let Some(skipped) = self.lacks_room(&new, 2).await {
            return Ok(skipped);
        }
        n!("worker_install_try", "Comparing it with the version before on '{}', on {}", model.id, new.device);
        let old = match self.canary.workers.try_engine(&old, self.stop).await {
            Ok(worker) => worker,
            Err(error) if self.stop.is_cancelled() => return Err(error.failure.into()),
            Err(error) => {
                return Ok(Ended::Skipped(format!("the version before does not load it: {}", error.failure)));
            }
        };
        let new = match self.canary.workers.try_engine(&new, self.stop).await {
            Ok(worker) => worker,
            Err(error) => {
                let _end = old.end(self.stop.is_cancelled()).await;
                return match error.why {
                    WhyNot::NoRoom => Ok(Ended::Skipped(error.failure.message)),
                    WhyNot::Stopped if !self.stop.is_cancelled() => Ok(Ended::Skipped(error.failure.message)),
                    _ => Err(self.not_tried("load", error)),
                };
            }
        };
        let compared = self.rounds(model, &old, &new).await;
        let _end = old.end(self.stop.is_cancelled()).await;
        let ended = self.end(new, &format!("with '{}'", model.id)).await;
        let compared = compared?;
        ended?;
        Ok(compared)
    }

    /// Asks both in turns. Where the new one seems much slower, once more: it has to be so twice.
    async fn rounds(
        &mut self,
        model: &Model,
        old: &TrialWorker,
        new: &TrialWorker,
    ) -> Result<Ended, Unproven> {
        let mut suspects: Option<Vec<Slower>> = None;
        loop {
            let (was, is) = match self.round(old, new).await {
                Ok(round) => round,
                Err(Round::Skipped(why)) => return Ok(Ended::Skipped(why)),
                Err(Round::Failed(failure)) => return Err(self.failed("answer", failure)),
            };
            if suspects.is_none() && was.text != is.text {
                self.remark(format!("it answers otherwise than the version before with '{}'", model.id));
            }
            let (Some(was), Some(is)) = (median(&was.speeds), median(&is.speeds)) else {
                return Ok(Ended::Skipped("an engine does not tell its speed".to_owned()));
            };
            let slower = slower(was, is);
            let again = suspects.replace(slower.clone());
            if slower.is_empty() {
                return Ok(Ended::Measured(is));
            }
            match again {
                None => {
                    n!("worker_install_try", "It seems slower than the version before: measuring once more");
                }
                Some(before) => {
                    let is_confirmed =
                        |slower: &&Slower| before.iter().any(|other| other.what == slower.what);
                    let Some(Slower { what, was, is }) = slower.iter().find(is_confirmed) else {
                        return Ok(Ended::Measured(Speed { prompt: is.prompt, answer: is.answer }));
                    };
                    let message = format!(
                        "it is slower: with '{}' it {what} {is:.1} tokens a second, the version before {was:.1}",
                        model.id
                    );
                    let hint = "the version before stays in use; try a later one, or one that is built on this machine";
                    return Err(self.failed("speed", Failure::new(Code::WorkerFailed, message).hint(hint)));
                }
            }
        }
    }

    /// Asks both in turns, three times each.
    async fn round(&self, old: &TrialWorker, new: &TrialWorker) -> Result<(Runs, Runs), Round> {
        let (mut was, mut is) = (Runs::default(), Runs::default());
        for turn in TURNS {
            let (worker, runs) = match turn {
                Turn::Old => (old, &mut was),
                Turn::New => (new, &mut is),
            };
            match self.ask(worker, &question()).await {
                Ok(Answer { text, speed }) => {
                    runs.speeds.extend(speed);
                    runs.text = text;
                }
                Err(NoAnswer::Stopped) => return Err(Round::Skipped("it was stopped".to_owned())),
                Err(NoAnswer::Failed(failure)) if turn == Turn::Old => {
                    return Err(Round::Skipped(format!("the version before does not answer: {failure}")));
                }
                Err(NoAnswer::Failed(failure)) => return Err(Round::Failed(failure)),
            }
        }
        Ok((was, is))
    }

    /// The try with a model, on the device that both engines prefer.
    fn with_model(&self, model: &Model, engine: &Arc<Engine>, other: Option<&Arc<Engine>>) -> Tried {
        let gpu = gpu_of(engine, self.candidate.id.kind);
        let is_of_both = |gpu: &Device| other.is_none_or(|other| other.usable().contains(gpu));
        let context = model.context_length.map_or(CONTEXT, |most| most.min(CONTEXT));
        self.tried(engine, &model.path, gpu.filter(is_of_both).unwrap_or(Device::CPU), context)
    }

    async fn lacks_room(&self, tried: &Tried, count: u64) -> Option<Ended> {
        let times = if count == 1 { "once" } else { "twice, for both versions," };
        match self.canary.workers.has_room_for(tried, count).await {
            Ok(true) => None,
            Ok(false) => Some(Ended::Skipped(format!("it does not fit {times} beside what is in memory"))),
            Err(failure) => Some(Ended::Skipped(failure.message)),
        }
    }
}

/// Why a round of a comparison did not come to its end.
enum Round {
    Skipped(String),
    Failed(Failure),
}

/// A speed of which the new version has too little.
#[derive(Clone, Debug, PartialEq)]
struct Slower {
    what: &'static str,
    was: f64,
    is: f64,
}

const fn question() -> Question {
    Question { text: PROMPT, tokens: TOKENS, goes_on: true }
}

/// In what the new version is much slower.
fn slower(was: Speed, is: Speed) -> Vec<Slower> {
    let both = [("writes", was.answer, is.answer), ("reads", was.prompt, is.prompt)];
    let slower = both.into_iter().filter(|(_, was, is)| *is < was * LEAST);
    slower.map(|(what, was, is)| Slower { what, was, is }).collect()
}

/// The median of each speed.
fn median(speeds: &[Speed]) -> Option<Speed> {
    let middle = |of: fn(&Speed) -> f64| {
        let mut values: Vec<f64> = speeds.iter().map(of).collect();
        values.sort_by(f64::total_cmp);
        values.get(values.len() / 2).copied()
    };
    Some(Speed { prompt: middle(|speed| speed.prompt)?, answer: middle(|speed| speed.answer)? })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_counts_and_a_fifth_less_is_no_failure() {
        let speed = |prompt, answer| Speed { prompt, answer };
        let old = median(&[speed(100.0, 10.0), speed(1.0, 12.0), speed(110.0, 11.0)]).unwrap();
        assert_eq!(old, speed(100.0, 11.0), "an outlier does not count");
        assert_eq!(slower(old, speed(81.0, 9.0)), []);
        assert_eq!(slower(old, speed(400.0, 8.0)), [Slower { what: "writes", was: 11.0, is: 8.0 }]);
        assert_eq!(slower(old, speed(79.0, 20.0)), [Slower { what: "reads", was: 100.0, is: 79.0 }]);
        assert_eq!(median(&[]), None);
    }
}
