//! Pooling: one vector for a text, from the states of its tokens.

/// How a model makes an embedding, after the key `{architecture}.pooling_type` of its file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pooling {
    /// The mean of all tokens' states.
    Mean,
    /// The state of the first token.
    First,
    /// The state of the last token.
    Last,
}

impl Pooling {
    /// The pooling with llama.cpp's number; `None` for no pooling and for that of rerankers.
    #[must_use]
    pub fn of_number(number: u64) -> Option<Self> {
        match number {
            1 => Some(Self::Mean),
            2 => Some(Self::First),
            3 => Some(Self::Last),
            _ => None,
        }
    }

    /// llama.cpp's number.
    #[must_use]
    pub fn number(self) -> u32 {
        match self {
            Self::Mean => 1,
            Self::First => 2,
            Self::Last => 3,
        }
    }
}

/// Pools the states of one text, which arrive in parts.
#[derive(Debug)]
pub(super) struct Pooler {
    pooling: Pooling,
    sum: Vec<f32>,
    tokens: usize,
}

impl Pooler {
    pub(super) fn new(pooling: Pooling, width: usize) -> Self {
        Self { pooling, sum: vec![0.0; width], tokens: 0 }
    }

    /// Takes the states of the next tokens, a row per token.
    pub(super) fn add(&mut self, states: &[f32]) {
        for state in states.chunks_exact(self.sum.len()) {
            match self.pooling {
                Pooling::Mean => self.sum.iter_mut().zip(state).for_each(|(sum, x)| *sum += x),
                Pooling::First if self.tokens > 0 => {}
                Pooling::First | Pooling::Last => self.sum.copy_from_slice(state),
            }
            self.tokens += 1;
        }
    }

    /// The vector, of the length that pooling gives it.
    pub(super) fn finish(self) -> Vec<f32> {
        match self.pooling {
            #[expect(clippy::cast_precision_loss, reason = "a context has far fewer tokens than 2^24")]
            Pooling::Mean => self.sum.iter().map(|x| x / self.tokens.max(1) as f32).collect(),
            Pooling::First | Pooling::Last => self.sum,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_pooling_takes_its_states_in_any_parts() {
        let states = [1.0, 2.0, 3.0, 4.0, 8.0, 0.0];
        for (pooling, expected) in
            [(Pooling::Mean, [4.0, 2.0]), (Pooling::First, [1.0, 2.0]), (Pooling::Last, [8.0, 0.0])]
        {
            for split in [0, 2, 4] {
                let mut pooler = Pooler::new(pooling, 2);
                pooler.add(&states[..split]);
                pooler.add(&states[split..]);
                assert_eq!(pooler.finish(), expected);
            }
            assert_eq!(Pooling::of_number(pooling.number().into()), Some(pooling));
        }
        assert_eq!((Pooling::of_number(0), Pooling::of_number(4)), (None, None));
    }
}
