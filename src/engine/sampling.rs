//! Chooses the next token from the logits.
//!
//! The steps have llama.cpp's order: bias and penalties, then `top_k`, `top_p` and `min_p`, each
//! applied to the tokens that the step before kept, then temperature. A token whose logit is NaN is
//! never chosen. Before them all, a [`Constraint`] takes away the tokens that may not come next.

use std::collections::{HashMap, VecDeque};

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use rbee_kernels::math::largest;

use super::constraint::Constraint;
use crate::config::Sampling;
use crate::error::{Failure, Result};

/// How many of the last tokens the repetition penalty applies to.
const REPETITION_WINDOW: usize = 64;

/// How to sample, as the request says. All numbers are finite and within their ranges, which the
/// request's parser checks.
#[derive(Clone, Debug, PartialEq)]
pub struct SamplingParams {
    /// 0 is greedy: the likeliest token is always chosen.
    pub temperature: f32,
    /// Keep the `top_k` likeliest tokens; 0 keeps all.
    pub top_k: usize,
    /// Keep the fewest tokens whose probabilities sum up to `top_p`; 1 keeps all.
    pub top_p: f32,
    /// Keep tokens at least `min_p` times as likely as the likeliest; 0 keeps all.
    pub min_p: f32,
    /// Makes the choices reproducible with the same build; random if absent.
    pub seed: Option<u64>,
    /// Divides the positive (multiplies the negative) logits of recent tokens; 1 does nothing.
    pub repetition_penalty: f32,
    /// Subtracted from a token's logit once for each time the token was generated.
    pub frequency_penalty: f32,
    /// Subtracted from a token's logit once if the token was generated.
    pub presence_penalty: f32,
    /// Added to the logits of these tokens.
    pub logit_bias: Vec<(u32, f32)>,
}

impl Default for SamplingParams {
    /// llama.cpp's defaults.
    fn default() -> Self {
        Self::from(Sampling::LLAMA_CPP)
    }
}

impl From<Sampling> for SamplingParams {
    /// These values, and for those that are not set what does nothing.
    fn from(sampling: Sampling) -> Self {
        #[expect(clippy::cast_possible_truncation, reason = "the engine computes with F32")]
        let number = |value: Option<f64>, nothing: f32| value.map_or(nothing, |value| value as f32);
        Self {
            temperature: number(sampling.temperature, 1.0),
            top_k: sampling.top_k.map_or(0, |count| count as usize),
            top_p: number(sampling.top_p, 1.0),
            min_p: number(sampling.min_p, 0.0),
            seed: sampling.seed.map(i64::cast_unsigned),
            repetition_penalty: number(sampling.repeat_penalty, 1.0),
            frequency_penalty: number(sampling.frequency_penalty, 0.0),
            presence_penalty: number(sampling.presence_penalty, 0.0),
            logit_bias: Vec::new(),
        }
    }
}

/// The sampler of one sequence.
pub struct Sampler {
    params: SamplingParams,
    constraint: Option<Constraint>,
    random: StdRng,
    /// How often each token was generated.
    generated: HashMap<u32, f32>,
    /// The last `REPETITION_WINDOW` tokens of the prompt and the generated text.
    recent: VecDeque<u32>,
    /// Ids and logits; kept to reuse the allocation.
    candidates: Vec<(u32, f32)>,
}

impl Sampler {
    /// A sampler for a sequence that begins with `prompt`.
    #[must_use]
    pub fn new(params: SamplingParams, prompt: &[u32], constraint: Option<Constraint>) -> Self {
        let random = StdRng::seed_from_u64(params.seed.unwrap_or_else(rand::random));
        let recent = prompt.iter().skip(prompt.len().saturating_sub(REPETITION_WINDOW)).copied().collect();
        Self { params, constraint, random, generated: HashMap::new(), recent, candidates: Vec::new() }
    }

    /// Chooses a token from the logits and records it for the penalties.
    ///
    /// # Errors
    /// `internal` if every logit is NaN or negative infinity: the model's weights are broken. So is a
    /// constraint that can no longer be followed.
    pub fn sample(&mut self, mut logits: Vec<f32>) -> Result<u32> {
        if let Some(constraint) = &mut self.constraint {
            constraint.mask(&mut logits)?;
        }
        self.adjust(&mut logits);
        let id = if self.params.temperature <= 0.0 { greedy(&logits) } else { self.draw(&logits) }
            .ok_or_else(|| Failure::internal("the model produced no usable logit for any token"))?;
        self.take(id)?;
        Ok(id)
    }

    /// Records a token for the penalties and the constraint.
    ///
    /// # Errors
    /// `internal` if the constraint can no longer be followed.
    pub fn take(&mut self, id: u32) -> Result<()> {
        *self.generated.entry(id).or_default() += 1.0;
        self.recent.push_back(id);
        if self.recent.len() > REPETITION_WINDOW {
            self.recent.pop_front();
        }
        if let Some(constraint) = &mut self.constraint {
            constraint.accept(id)?;
        }
        Ok(())
    }

    /// Follows the text that the tokens make, for the constraint.
    pub fn hear(&mut self, text: &str) {
        if let Some(constraint) = &mut self.constraint {
            constraint.hear(text);
        }
    }

    /// Whether the constraint allows no further token.
    #[must_use]
    pub fn has_ended(&self) -> bool {
        self.constraint.as_ref().is_some_and(Constraint::has_ended)
    }

    /// Applies the bias and the penalties.
    fn adjust(&self, logits: &mut [f32]) {
        for (id, bias) in &self.params.logit_bias {
            if let Some(logit) = logits.get_mut(*id as usize) {
                *logit += bias;
            }
        }
        let penalty = self.params.repetition_penalty;
        #[expect(clippy::float_cmp, reason = "exactly 1 disables the penalty")]
        if penalty != 1.0 {
            let mut recent: Vec<u32> = self.recent.iter().copied().collect();
            recent.sort_unstable();
            recent.dedup();
            for id in recent {
                if let Some(logit) = logits.get_mut(id as usize) {
                    *logit = if *logit > 0.0 { *logit / penalty } else { *logit * penalty };
                }
            }
        }
        let (frequency, presence) = (self.params.frequency_penalty, self.params.presence_penalty);
        if frequency != 0.0 || presence != 0.0 {
            for (id, count) in &self.generated {
                if let Some(logit) = logits.get_mut(*id as usize) {
                    *logit -= count * frequency + presence;
                }
            }
        }
    }

    /// Filters the tokens and draws one of those left at random.
    fn draw(&mut self, logits: &[f32]) -> Option<u32> {
        let params = &self.params;
        let candidates = &mut self.candidates;
        candidates.clear();
        candidates
            .extend((0..).zip(logits.iter().map(|logit| finite(*logit))).filter(|(_, l)| *l > f32::MIN));
        let by_logit =
            |left: &(u32, f32), right: &(u32, f32)| right.1.total_cmp(&left.1).then(left.0.cmp(&right.0));
        if params.top_k > 0 && params.top_k < candidates.len() {
            candidates.select_nth_unstable_by(params.top_k - 1, by_logit);
            candidates.truncate(params.top_k);
        }
        let best = candidates.iter().map(|(_, logit)| *logit).max_by(f32::total_cmp)?;
        let total: f32 = candidates.iter().map(|(_, logit)| (logit - best).exp()).sum();
        // min_p is applied before top_p because it is cheap. The order makes no difference: both cut
        // off the tail, and the shorter result remains. Its probabilities are relative to the best.
        if params.min_p > 0.0 {
            candidates.retain(|(_, logit)| (logit - best).exp() >= params.min_p);
        }
        candidates.sort_unstable_by(by_logit);
        if params.top_p < 1.0 {
            let mut sum = 0.0;
            let kept = candidates.iter().position(|(_, logit)| {
                sum += (logit - best).exp() / total;
                sum >= params.top_p
            });
            candidates.truncate(kept.map_or(candidates.len(), |last| last + 1));
        }
        let weight = |logit: f32| ((logit - best) / params.temperature).exp();
        let total: f32 = candidates.iter().map(|(_, logit)| weight(*logit)).sum();
        let mut point = self.random.random::<f32>() * total;
        candidates
            .iter()
            .find(|(_, logit)| {
                point -= weight(*logit);
                point < 0.0
            })
            // Rounding can leave the point just above the total.
            .or(candidates.last())
            .map(|(id, _)| *id)
    }
}

/// The likeliest token; of equally likely ones, the lowest id. NaN and negative infinity are never chosen.
fn greedy(logits: &[f32]) -> Option<u32> {
    let best = largest(logits);
    let id = logits.iter().position(|logit| *logit == best).filter(|_| best > f32::MIN)?;
    u32::try_from(id).ok()
}

/// The logit as a finite number. NaN becomes the lowest one, which is never chosen.
fn finite(logit: f32) -> f32 {
    if logit.is_nan() { f32::MIN } else { logit.clamp(f32::MIN, f32::MAX) }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Sampling without any filter.
    fn unfiltered() -> SamplingParams {
        SamplingParams { seed: Some(7), ..SamplingParams::from(Sampling::default()) }
    }

    /// The tokens that are chosen in many draws from the same logits.
    fn drawn_tokens(params: SamplingParams, logits: &[f32]) -> Vec<u32> {
        let mut sampler = Sampler::new(params, &[], None);
        let mut tokens: Vec<u32> = (0..2000).map(|_| sampler.sample(logits.to_vec()).unwrap()).collect();
        tokens.sort_unstable();
        tokens.dedup();
        tokens
    }

    #[test]
    fn temperature_zero_chooses_the_likeliest_token_and_the_lowest_id_of_equals() {
        let mut sampler = Sampler::new(SamplingParams { temperature: 0.0, ..unfiltered() }, &[], None);
        assert_eq!(sampler.sample(vec![1.0, 3.0, 3.0, 2.0]).unwrap(), 1);
    }

    #[test]
    fn a_token_without_a_finite_logit_is_never_chosen() {
        let logits = [f32::NAN, 1.0, f32::NEG_INFINITY, 1.0];
        assert_eq!(drawn_tokens(unfiltered(), &logits), [1, 3]);
        let mut greedy = Sampler::new(SamplingParams { temperature: 0.0, ..unfiltered() }, &[], None);
        assert_eq!(greedy.sample(logits.to_vec()).unwrap(), 1);
        assert!(greedy.sample(vec![f32::NAN; 4]).is_err());
        assert!(Sampler::new(unfiltered(), &[], None).sample(vec![f32::NAN; 4]).is_err());
        assert_eq!(drawn_tokens(unfiltered(), &[f32::INFINITY, 0.0]), [0]);
    }

    #[test]
    fn each_filter_removes_the_least_likely_tokens() {
        // Probabilities 1/2, 1/4, 1/8, 1/8.
        let logits = [8f32.ln(), 4f32.ln(), 2f32.ln(), 2f32.ln()];
        assert_eq!(drawn_tokens(unfiltered(), &logits), [0, 1, 2, 3]);
        assert_eq!(drawn_tokens(SamplingParams { top_k: 2, ..unfiltered() }, &logits), [0, 1]);
        assert_eq!(drawn_tokens(SamplingParams { top_p: 0.6, ..unfiltered() }, &logits), [0, 1]);
        // 0.4 of 1/2 is 1/5: only 1/4 is above it.
        assert_eq!(drawn_tokens(SamplingParams { min_p: 0.4, ..unfiltered() }, &logits), [0, 1]);
        assert_eq!(drawn_tokens(SamplingParams { temperature: 1e-6, ..unfiltered() }, &logits), [0]);
    }

    #[test]
    fn the_same_seed_repeats_the_choices() {
        let draw = |seed| {
            let mut sampler = Sampler::new(SamplingParams { seed: Some(seed), ..unfiltered() }, &[], None);
            (0..50).map(|_| sampler.sample(vec![1.0; 100]).unwrap()).collect::<Vec<_>>()
        };
        assert_eq!(draw(1), draw(1));
        assert_ne!(draw(1), draw(2));
    }

    #[test]
    fn penalties_and_bias_change_the_choice() {
        let greedy = SamplingParams { temperature: 0.0, ..unfiltered() };
        let choices = |params: SamplingParams, prompt: &[u32]| {
            let mut sampler = Sampler::new(params, prompt, None);
            (0..3).map(|_| sampler.sample(vec![2.0, 1.5, -1.0]).unwrap()).collect::<Vec<_>>()
        };
        assert_eq!(choices(greedy.clone(), &[]), [0, 0, 0]);
        // 2 / 2 is less than 1.5; afterwards both are penalised.
        assert_eq!(choices(SamplingParams { repetition_penalty: 2.0, ..greedy.clone() }, &[0]), [1, 0, 0]);
        // After one 0: 2 - 1 < 1.5; after one of each: 1 > 0.5.
        assert_eq!(choices(SamplingParams { presence_penalty: 1.0, ..greedy.clone() }, &[]), [0, 1, 0]);
        // 2, 1.5 -> 1.4, 1.5 -> 1.4, 0.9.
        assert_eq!(choices(SamplingParams { frequency_penalty: 0.6, ..greedy.clone() }, &[]), [0, 1, 0]);
        assert_eq!(choices(SamplingParams { logit_bias: vec![(2, 100.0)], ..greedy }, &[]), [2, 2, 2]);
    }
}
