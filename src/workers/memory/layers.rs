//! Which layers of a model go to which device where no single GPU has room for all of them.
//!
//! llama.cpp splits a model by layers (`--n-gpu-layers N`, `--tensor-split A,B`; its `load_tensors` in
//! `src/llama-model.cpp`): the blocks `blk.0` to `blk.(n-1)`, and the output as one more. `N` layers, the last
//! ones, go to the GPUs, one after another in the proportion of `A` and `B`; the processor has the others. The
//! matrix of the embeddings is always the processor's; a model without an output matrix of its own gets a copy
//! of it as its output. The KV cache of a block is where the block is.
//!
//! Older versions leave the output on the processor unless `N` is all layers, and put one more block on the
//! GPUs instead. The shares are large enough for both.

use crate::workers::device::Device;
use crate::workers::place::{Estimate, Share, margin};

/// The memory of a worker on the processor besides its model: buffers, the vocabulary, code.
pub(super) const OVERHEAD_CPU: u64 = 64 << 20;
/// How finely the room of GPUs is measured where a model does not fill them.
const STEPS: u64 = 20;

/// The bytes of the parts of a model that can be on different devices.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(in crate::workers) struct Layers {
    blocks: Vec<u64>,
    embedding: u64,
    /// The output matrix, and what belongs to no block.
    output: u64,
    has_output: bool,
    /// What goes to the first GPU whatever the split is: the projector.
    first: u64,
}

impl Layers {
    /// Counts a tensor.
    pub(super) fn add(&mut self, tensor: &str, bytes: u64) {
        /// More blocks than any model has: a number in a damaged file must not take all memory.
        const MOST_BLOCKS: usize = 4096;
        let block =
            tensor.strip_prefix("blk.").and_then(|rest| rest.split('.').next()?.parse::<usize>().ok());
        match block.filter(|block| *block < MOST_BLOCKS) {
            Some(block) => {
                self.blocks.resize(self.blocks.len().max(block + 1), 0);
                self.blocks[block] = self.blocks[block].saturating_add(bytes);
            }
            None if tensor.starts_with("token_embd.") => {
                self.embedding = self.embedding.saturating_add(bytes);
            }
            None => {
                self.has_output |= tensor.starts_with("output.");
                self.output = self.output.saturating_add(bytes);
            }
        }
    }

    /// Counts what goes to the first GPU whatever the split is.
    pub(super) fn add_first(&mut self, bytes: u64) {
        self.first = self.first.saturating_add(bytes);
    }

    /// The bytes of the weights of each layer, the output last.
    fn sizes(&self) -> Vec<u64> {
        let output = if self.has_output { self.output } else { self.output.saturating_add(self.embedding) };
        self.blocks.iter().copied().chain([output]).collect()
    }

    /// The bytes of the weights on a GPU that has all layers.
    pub(super) fn on_one_gpu(&self) -> u64 {
        self.sizes().into_iter().fold(self.first, u64::saturating_add)
    }

    /// How many layers it has, as llama.cpp counts them; `None` where its header does not tell.
    pub(in crate::workers) fn count(&self) -> Option<u32> {
        let blocks = self.blocks.len();
        (blocks > 0).then(|| u32::try_from(blocks + 1).unwrap_or(u32::MAX))
    }

    /// The split that puts as many layers on these GPUs as their rooms allow, or this many. `whole` is what the
    /// model needs on one GPU; each of several takes what that has besides weights and cache. Devices without a layer are left out; `None` where no GPU gets one.
    pub(in crate::workers) fn split(
        &self,
        whole: &Estimate,
        gpus: &[(Device, u64)],
        count: Option<u32>,
    ) -> Option<Vec<Share>> {
        let weights = self.sizes();
        let blocks = weights.len() - 1;
        let cache = whole.cache.checked_div(blocks as u64)?;
        // What is on top of weights, as in an estimate for one device.
        let with_buffers = |weights: u64| weights.saturating_add(margin(weights));
        let sizes: Vec<u64> = (0..)
            .zip(&weights)
            .map(|(layer, weights)| {
                with_buffers(*weights).saturating_add(if layer < blocks { cache } else { 0 })
            })
            .collect();
        // The block that an older version puts there instead of the output.
        let spare = sizes[..blocks].iter().copied().max()?;
        let fixed = |gpu: usize, spare: u64| {
            let first = if gpu == 0 { with_buffers(self.first) } else { 0 };
            whole.fixed().saturating_add(spare).saturating_add(first)
        };
        let rooms = |spare: u64| -> Vec<u64> {
            (0..).zip(gpus).map(|(gpu, (_, room))| room.saturating_sub(fixed(gpu, spare))).collect()
        };
        let counts = match count {
            Some(count) => vec![(count as usize).min(sizes.len())],
            None => evenly(&sizes, &rooms(0)).unwrap_or_else(|| fill(&sizes, &rooms(spare))),
        };
        let on_gpus: usize = counts.iter().sum();
        let spare = if on_gpus < sizes.len() { spare } else { 0 };
        if on_gpus == 0 && count.is_none() {
            return None;
        }
        let mut from = sizes.len() - on_gpus;
        let share = |device, from: usize, to: usize, fixed: u64| Share {
            device,
            layers: u32::try_from(to - from).unwrap_or(u32::MAX),
            bytes: sizes[from..to].iter().fold(fixed, |sum, bytes| sum.saturating_add(*bytes)),
            weights: weights[from..to].iter().fold(0, |sum, bytes| sum.saturating_add(*bytes)),
        };
        let processor = (from > 0).then(|| {
            let embedding = with_buffers(self.embedding);
            share(Device::CPU, 0, from, OVERHEAD_CPU.saturating_add(embedding))
        });
        let mut shares = Vec::new();
        for (gpu, (count, (device, _))) in counts.iter().zip(gpus).enumerate() {
            if *count > 0 || counts.len() == 1 {
                shares.push(share(*device, from, from + count, fixed(gpu, spare)));
            }
            from += count;
        }
        shares.extend(processor);
        Some(shares)
    }
}

/// How many layers go to each GPU at the least share of the rooms at which all of them fit; `None` where they do
/// not.
fn evenly(sizes: &[u64], rooms: &[u64]) -> Option<Vec<usize>> {
    let part = |step: u64| rooms.iter().map(|room| room / STEPS * step).collect::<Vec<_>>();
    let counts = (1..STEPS).map(|step| fill(sizes, &part(step))).chain([fill(sizes, rooms)]);
    counts.into_iter().find(|counts| counts.iter().sum::<usize>() == sizes.len())
}

/// How many of the last layers fit into these rooms, one after another.
fn fill(sizes: &[u64], rooms: &[u64]) -> Vec<usize> {
    let mut rest = sizes;
    let mut counts: Vec<usize> = rooms
        .iter()
        .rev()
        .map(|room| {
            let mut left = *room;
            let fits = |size: &&u64| {
                let fits = **size <= left;
                left = left.saturating_sub(**size);
                fits
            };
            let count = rest.iter().rev().take_while(fits).count();
            rest = &rest[..rest.len() - count];
            count
        })
        .collect();
    counts.reverse();
    counts
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::DeviceKind;

    #[test]
    fn the_last_layers_fill_the_rooms_evenly_if_all_fit() {
        let sizes = [10; 9];
        assert_eq!(fill(&sizes, &[100]), [9]);
        assert_eq!(fill(&sizes, &[35]), [3]);
        assert_eq!(fill(&sizes, &[100, 35]), [6, 3]);
        assert_eq!(fill(&sizes, &[5, 5]), [0, 0]);
        assert_eq!(evenly(&sizes, &[1000, 1000]), Some(vec![4, 5]));
        assert_eq!(evenly(&sizes, &[40, 50]), Some(vec![4, 5]));
        assert_eq!(evenly(&sizes, &[20, 40]), None);
    }

    #[test]
    fn tensors_belong_to_their_blocks_and_a_tied_output_is_a_copy_of_the_embeddings() {
        let mut layers = Layers::default();
        for (name, bytes) in [
            ("token_embd.weight", 70),
            ("blk.1.attn_q.weight", 5),
            ("blk.0.attn_q.weight", 3),
            ("output_norm.weight", 1),
        ] {
            layers.add(name, bytes);
        }
        layers.add("blk.1.ffn_up.weight", 2);
        assert_eq!(layers.sizes(), [3, 7, 71]);
        layers.add("output.weight", 60);
        assert_eq!(layers.sizes(), [3, 7, 61]);
        layers.add("blk.99999999999.x", 1);
        assert_eq!(layers.sizes().len(), 3, "no block of a damaged file");
    }

    #[test]
    fn every_layer_is_on_one_device_and_the_rooms_are_kept() {
        let gib = |count: u64| count << 30;
        let mut layers = Layers::default();
        for block in 0..32 {
            layers.add(&format!("blk.{block}.x"), gib(1));
        }
        layers.add("token_embd.weight", gib(1));
        layers.add("output.weight", gib(1));
        let whole = Estimate {
            weights: gib(34),
            cache: gib(16),
            overhead: 0,
            context: 1,
            slots: 1,
            grows: 0,
            formula: None,
        };
        let gpu = |index| Device::Exact { kind: DeviceKind::Cuda, index };
        assert_eq!(layers.count(), Some(33));
        assert_eq!(layers.split(&whole, &[(gpu(0), gib(2))], None), None);
        for rooms in [vec![24], vec![24, 16], vec![48, 48], vec![8, 8, 8], vec![2, 24]] {
            let gpus: Vec<_> = (0..).zip(&rooms).map(|(index, room)| (gpu(index), gib(*room))).collect();
            let shares = layers.split(&whole, &gpus, None).unwrap();
            assert_eq!(shares.iter().map(|share| share.layers).sum::<u32>(), 33, "{shares:?}");
            for share in shares.iter().filter(|share| !share.device.is_cpu()) {
                let room = gpus.iter().find(|(device, _)| *device == share.device).unwrap().1;
                assert!(share.layers > 0 && share.bytes <= room, "{shares:?}");
            }
            let all_fit = rooms == [48, 48];
            assert_eq!(shares.iter().any(|share| share.device.is_cpu()), !all_fit, "{shares:?}");
        }
        let fixed = layers.split(&whole, &[(gpu(1), 0)], Some(5)).unwrap();
        assert_eq!((fixed[0].layers, fixed[1].layers), (5, 28));
        let none = layers.split(&whole, &[(gpu(1), 0)], Some(0)).unwrap();
        assert_eq!((none[0].layers, none[1].layers), (0, 33));
        assert_eq!(layers.split(&whole, &[(gpu(1), 0)], Some(999)).unwrap().len(), 1);
    }
}
