//! The steps of the generation thread, one by one.

use super::*;
use crate::engine::forward::PASSES;
use crate::engine::load::{LoadedModel, load};
use crate::engine::sample_model::SampleModel;
use crate::engine::sampling::SamplingParams;

/// A generator whose steps a test makes.
struct Steps {
    generator: Generator,
    handle: GenerationHandle,
    /// Of all requests: one that is dropped cancels its request.
    events: Vec<mpsc::UnboundedReceiver<GenerationEvent>>,
}

/// What one step did.
#[derive(Debug, PartialEq)]
struct Step {
    /// How often tokens went through the model.
    passes: usize,
    /// Tokens of prompts.
    read: u64,
    /// Tokens of answers.
    written: u64,
}

impl Steps {
    fn with(slots: usize) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("sample.gguf");
        let sample = SampleModel { embedding: 64, feed_forward: 96, layers: 1, ..SampleModel::default() };
        sample.write(&path).unwrap();
        let LoadedModel { model, header } = load(&path, &mut |_, _| {}).unwrap();
        let tokenizer = Arc::new(Tokenizer::from_metadata(&header.metadata).unwrap());
        let (generator, handle) = Generator::new(model, tokenizer, slots, 1024);
        Self { generator, handle, events: Vec::new() }
    }

    /// Asks for an answer, which only its limit ends, to a prompt of so many tokens.
    fn ask(&mut self, prompt: u32, answer: usize) {
        let ends = self.generator.tokenizer.end_of_generation();
        let logit_bias = ends.iter().map(|id| (*id, -100.0)).collect();
        let first = 7 * self.events.len() as u32;
        let request = GenerationRequest {
            prompt: (0..prompt).map(|i| (first + i * 37) % 300).collect(),
            begins_text: true,
            sampling: SamplingParams { temperature: 0.0, logit_bias, ..SamplingParams::default() },
            constraint: None,
            thinking: None,
            max_tokens: Some(answer),
            stop: Vec::new(),
            marks: Arc::default(),
            logprobs: None,
        };
        self.events.push(self.handle.submit(request).unwrap());
    }

    fn step(&mut self) -> Step {
        let counts = |steps: &Self| {
            let counters = steps.handle.counters();
            (PASSES.get(), counters.prompt_tokens(), counters.tokens_generated())
        };
        let before = counts(self);
        self.generator.queue_received();
        self.generator.start_waiting();
        self.generator.step();
        let after = counts(self);
        Step { passes: after.0 - before.0, read: after.1 - before.1, written: after.2 - before.2 }
    }
}

#[test]
fn all_sequences_go_through_the_model_together() {
    let mut steps = Steps::with(4);
    for prompt in 2..6 {
        steps.ask(prompt, 5);
    }
    assert_eq!(steps.step(), Step { passes: 1, read: 2 + 3 + 4 + 5, written: 4 });
    for _ in 1..5 {
        assert_eq!(steps.step(), Step { passes: 1, read: 0, written: 4 });
    }
    assert_eq!(steps.step(), Step { passes: 0, read: 0, written: 0 });
}

#[test]
fn an_answer_goes_on_between_the_parts_of_a_long_prompt() {
    let mut steps = Steps::with(2);
    steps.ask(3, 100);
    steps.step();
    steps.ask(300, 100);
    for _ in 0..4 {
        assert_eq!(steps.step(), Step { passes: 1, read: 64, written: 1 });
    }
    assert_eq!(steps.step(), Step { passes: 1, read: 300 - 4 * 64, written: 2 });
}

#[test]
fn a_step_has_no_more_tokens_than_memory_is_planned_for() {
    let mut steps = Steps::with(8);
    for _ in 0..8 {
        steps.ask(200, 1);
    }
    let made: Vec<Step> = (0..7).map(|_| steps.step()).collect();
    assert!(made.iter().all(|step| step.passes == 1 && step.read <= MAX_BATCH as u64), "{made:?}");
    assert_eq!(made.iter().map(|step| step.read).sum::<u64>(), 8 * 200);
    assert_eq!(made.iter().map(|step| step.written).sum::<u64>(), 8);
}
