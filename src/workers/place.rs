//! A place where a worker can go, and what it will take there.

use std::fmt;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::device::Device;
use crate::text;

/// Assumed bytes that a GPU reads of its memory in a second: those of a card of the middle class
/// (an RTX 4060 Ti reads 288 GB, an RTX 4090 1008 GB).
const GPU_BANDWIDTH: f64 = 500e9;
/// Assumed bytes that a processor reads of its memory in a second: two channels of DDR4-3200 have 51 GB.
const PROCESSOR_BANDWIDTH: f64 = 50e9;

/// An engine and the devices on which it would serve a model.
#[derive(Clone, Debug, PartialEq)]
pub struct Place {
    /// Places of a lower class are better.
    pub class: u8,
    /// The name of the engine.
    pub engine: String,
    /// The device that it computes on, the first of a split; always exact.
    pub device: Device,
    /// Which part of the model is on which device; empty where all of it is on `device`.
    pub split: Vec<Share>,
    /// What it will take on all devices together; `None` where the model's header does not tell.
    pub(super) estimate: Option<Estimate>,
    /// Why it is a choice, for people.
    pub reason: String,
}

impl Place {
    /// The class of one GPU that has the whole model.
    pub const ONE_GPU: u8 = 0;
    /// The class of several GPUs that have the whole model.
    pub const SEVERAL_GPUS: u8 = 1;
    /// The class of GPUs with as many layers as they can have if workers make room; the processor has the rest.
    pub const WITH_PROCESSOR: u8 = 2;
    /// The class of GPUs with as many layers as fit beside what is there; the processor has the rest.
    pub const BESIDE_OTHERS: u8 = 3;
    /// The class of the processor.
    pub const PROCESSOR: u8 = 4;
    /// The class of a GPU whose memory nobody tells, so that nobody can say whether the model fits.
    pub const UNKNOWN_GPU: u8 = 5;

    /// The bytes that it will take on each device at its peak; empty where that is unknown.
    #[must_use]
    pub fn needs(&self) -> Vec<(Device, u64)> {
        match &self.estimate {
            Some(estimate) if self.split.is_empty() => vec![(self.device, estimate.total())],
            Some(_) => self.split.iter().map(|share| (share.device, share.bytes)).collect(),
            None => Vec::new(),
        }
    }

    /// The layers on each GPU, if not all of the model is on one device.
    pub(super) fn layers_on_gpus(&self) -> impl Iterator<Item = &Share> {
        self.split.iter().filter(|share| !share.device.is_cpu())
    }

    /// How many times as long a token takes as it would wholly on a GPU, as far as the bytes tell that each
    /// token reads; `None` where the model is not split.
    #[must_use]
    pub fn slowdown(&self) -> Option<f64> {
        slowdown(&self.split)
    }

    /// The devices, in words.
    pub(super) fn devices(&self) -> String {
        if self.split.is_empty() {
            return self.device.to_string();
        }
        let shares =
            self.split.iter().map(|share| format!("{} ({})", share.device, text::bytes(share.bytes)));
        shares.collect::<Vec<_>>().join(" and ")
    }
}

/// The part of a model that is on one device.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Share {
    /// The device.
    pub device: Device,
    /// Layers, as llama.cpp counts them: the blocks, and one for the output.
    pub layers: u32,
    /// The memory that the part takes, with its KV cache and buffers.
    pub bytes: u64,
    /// The part of it that each token reads.
    #[serde(skip)]
    pub(super) weights: u64,
}

/// How many times as long a token takes with this split as it would with all weights on a GPU.
#[expect(clippy::cast_precision_loss, reason = "one decimal is shown")]
fn slowdown(split: &[Share]) -> Option<f64> {
    let weights: u64 = split.iter().map(|share| share.weights).sum();
    if weights == 0 {
        return None;
    }
    let seconds = |share: &Share| {
        share.weights as f64 / if share.device.is_cpu() { PROCESSOR_BANDWIDTH } else { GPU_BANDWIDTH }
    };
    let factor = split.iter().map(seconds).sum::<f64>() / (weights as f64 / GPU_BANDWIDTH);
    Some((factor * 10.0).round() / 10.0)
}

/// The assumptions behind a slowdown, in words.
pub(super) fn slowdown_in_words(factor: f64) -> String {
    format!(
        "about {factor} times slower than wholly on a GPU (estimated from the bytes that each token reads, at {:.0} GB/s \
         on a GPU and {:.0} GB/s on the processor)",
        GPU_BANDWIDTH / 1e9,
        PROCESSOR_BANDWIDTH / 1e9
    )
}

/// One part of the memory that a worker needs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub struct MemoryPart {
    /// `weights`, `kv_cache` or `overhead`.
    pub name: &'static str,
    /// Its size.
    pub bytes: u64,
}

/// The memory that a worker is expected to need on its devices, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Estimate {
    pub(super) weights: u64,
    pub(super) cache: u64,
    pub(super) overhead: u64,
    /// Tokens of context of each slot.
    pub(super) context: u64,
    pub(super) slots: u64,
    /// The part of it that comes only with long prompts.
    pub(super) grows: u64,
    /// What the formula says in all, where the rest was measured of an earlier worker.
    pub(super) formula: Option<u64>,
}

/// What is planned on top of weights, for what no formula has: padding, and what an engine adds in a new version.
pub(super) const fn margin(weights: u64) -> u64 {
    weights / 50
}

impl Estimate {
    /// What it has besides weights, their [`margin`] and the cache. What was measured has no margin.
    pub(super) const fn fixed(&self) -> u64 {
        match self.formula {
            Some(_) => self.overhead,
            None => self.overhead.saturating_sub(margin(self.weights)),
        }
    }

    pub(super) const fn total(&self) -> u64 {
        self.weights.saturating_add(self.cache).saturating_add(self.overhead)
    }

    /// Its parts.
    pub(super) fn parts(&self) -> Vec<MemoryPart> {
        [("weights", self.weights), ("kv_cache", self.cache), ("overhead", self.overhead)]
            .map(|(name, bytes)| MemoryPart { name, bytes })
            .into()
    }

    /// Whether it was measured of an earlier worker, or follows from a formula.
    pub(super) const fn source(&self) -> &'static str {
        if self.formula.is_some() { "measured" } else { "formula" }
    }

    /// What the formula says.
    pub(super) fn formula(&self) -> u64 {
        self.formula.unwrap_or_else(|| self.total())
    }

    /// How much more was measured than the formula says; `None` where nothing was measured.
    pub(super) fn formula_error(&self) -> Option<i64> {
        let difference = i128::from(self.total()) - i128::from(self.formula?);
        Some(i64::try_from(difference).unwrap_or(i64::MAX))
    }

    /// The estimate that was measured to be this in all.
    pub(super) fn measured(self, total: u64) -> Self {
        Self { formula: Some(self.formula()), ..self.with_total(total) }
    }

    /// The estimate with this total: what is more or less is overhead, as far as that goes.
    pub(super) const fn with_total(self, total: u64) -> Self {
        let cache = if self.cache < total { self.cache } else { total };
        let weights = if self.weights < total - cache { self.weights } else { total - cache };
        Self { weights, cache, overhead: total - cache - weights, ..self }
    }
}

impl fmt::Display for Estimate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} (weights {}, cache {} for {} slot(s) of {} tokens, overhead {})",
            text::bytes(self.total()),
            text::bytes(self.weights),
            text::bytes(self.cache),
            self.slots,
            self.context,
            text::bytes(self.overhead)
        )?;
        match self.formula_error() {
            None => Ok(()),
            Some(more) => {
                let direction = if more < 0 { "too much" } else { "too little" };
                let error = text::bytes(more.unsigned_abs());
                write!(f, ", as measured before; the formula says {error} {direction}")
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::DeviceKind;

    #[test]
    fn what_is_on_the_processor_makes_a_split_slower() {
        let share = |device, weights| Share { device, layers: 1, bytes: weights, weights };
        let gpu = |index| Device::Exact { kind: DeviceKind::Cuda, index };
        assert_eq!(slowdown(&[]), None);
        assert_eq!(slowdown(&[share(gpu(0), 100), share(gpu(1), 200)]), Some(1.0));
        assert_eq!(slowdown(&[share(gpu(0), 200), share(Device::CPU, 100)]), Some(4.0));
        assert!(slowdown_in_words(4.0).starts_with("about 4 times slower than wholly on a GPU (estimated"));
    }

    #[test]
    fn the_parts_of_an_estimate_with_another_total_sum_to_it() {
        let estimate =
            Estimate { weights: 100, cache: 20, overhead: 5, context: 1, slots: 1, grows: 0, formula: None };
        for total in [0, 10, 20, 50, 120, 300] {
            assert_eq!(estimate.with_total(total).total(), total);
        }
        assert_eq!(estimate.with_total(300).weights, 100);
        assert_eq!((estimate.source(), estimate.formula(), estimate.formula_error()), ("formula", 125, None));
        assert_eq!(estimate.fixed(), 3, "without the margin of 2");
        let measured = estimate.measured(225);
        assert_eq!(measured.fixed(), 105, "nothing is on top of what was measured");
        assert_eq!(
            (measured.source(), measured.formula(), measured.formula_error()),
            ("measured", 125, Some(100))
        );
        assert!(measured.to_string().ends_with("the formula says 100 bytes too little"), "{measured}");
    }
}
