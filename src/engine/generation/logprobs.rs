//! The probabilities that the model gave to tokens, as logarithms.

/// The probability of a generated token, of the model's own distribution: before temperature, penalties and
/// constraints.
#[derive(Clone, Debug, PartialEq)]
pub struct TokenLogprob {
    /// The token.
    pub token: u32,
    /// The natural logarithm of its probability.
    pub logprob: f32,
    /// The likeliest tokens in its place, with theirs, best first.
    pub top: Vec<(u32, f32)>,
}

impl TokenLogprob {
    /// That of `token`, which was chosen with these logits, with as many of the likeliest.
    pub(super) fn new(token: u32, logits: &[f32], count: usize) -> Self {
        let best = logits.iter().copied().filter(|logit| !logit.is_nan()).fold(f32::MIN, f32::max);
        let sum: f64 =
            logits.iter().filter(|logit| !logit.is_nan()).map(|logit| f64::from(logit - best).exp()).sum();
        #[expect(clippy::cast_possible_truncation, reason = "the engine computes with F32")]
        let total = best + sum.ln() as f32;
        let logprob =
            |id: u32| logits.get(id as usize).map_or(f32::MIN, |logit| (logit - total).max(-9999.0));
        let mut order: Vec<u32> = (0..).take(logits.len()).collect();
        let by_logit = |left: &u32, right: &u32| {
            logits[*right as usize].total_cmp(&logits[*left as usize]).then(left.cmp(right))
        };
        let count = count.min(order.len());
        if count > 0 {
            order.select_nth_unstable_by(count - 1, by_logit);
        }
        order.truncate(count);
        order.sort_unstable_by(by_logit);
        Self { token, logprob: logprob(token), top: order.into_iter().map(|id| (id, logprob(id))).collect() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn probabilities_are_those_of_the_distribution() {
        let logits = [4f32.ln(), 2f32.ln(), f32::NEG_INFINITY, 2f32.ln()];
        let found = TokenLogprob::new(3, &logits, 2);
        assert!((found.logprob - 0.25f32.ln()).abs() < 1e-6, "{found:?}");
        assert_eq!(found.top.iter().map(|(id, _)| *id).collect::<Vec<_>>(), [0, 1]);
        assert!((found.top[0].1 - 0.5f32.ln()).abs() < 1e-6);
        assert_eq!(TokenLogprob::new(2, &logits, 9).top.len(), 4);
        assert_eq!(
            TokenLogprob::new(2, &logits, 0),
            TokenLogprob { token: 2, logprob: -9999.0, top: Vec::new() }
        );
    }
}
