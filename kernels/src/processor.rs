//! Which instructions this processor has, and the products that use them.

#![cfg_attr(
    target_arch = "x86_64",
    expect(
        unsafe_code,
        reason = "functions for a kind of processor are called where it has been recognised"
    )
)]

use std::sync::LazyLock;

use crate::activations::View;
use crate::packed::{Chunk, Floats, Form, Lanes, ROWS};
use crate::scalar;
#[cfg(target_arch = "x86_64")]
use crate::{avx2, avx512};

/// A kind of processor that this machine's is of. There is a value only of a kind that has been recognised here, so
/// that whoever has one may use its instructions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Processor(Kind);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// Any.
    Plain,
    /// With AVX2, FMA and F16C.
    #[cfg(target_arch = "x86_64")]
    Avx2,
    /// With AVX-512 and its extensions BW, DQ, VL and VNNI, and all that `Avx2` has.
    #[cfg(target_arch = "x86_64")]
    Avx512,
}

/// The best kind of this processor.
static THIS: LazyLock<Processor> = LazyLock::new(|| Processor::all().pop().unwrap_or(Processor::PLAIN));

impl Processor {
    /// Any processor: plain Rust.
    pub const PLAIN: Self = Self(Kind::Plain);

    /// The best kind of this machine's processor, which products use by themselves.
    #[must_use]
    pub fn this() -> Self {
        *THIS
    }

    /// The kinds that this machine's processor is of, the best last.
    #[must_use]
    pub fn all() -> Vec<Self> {
        #[cfg_attr(not(target_arch = "x86_64"), expect(unused_mut, reason = "only x86 has more"))]
        let mut all = vec![Self::PLAIN];
        #[cfg(target_arch = "x86_64")]
        if is_x86_feature_detected!("avx2")
            && is_x86_feature_detected!("fma")
            && is_x86_feature_detected!("f16c")
        {
            all.push(Self(Kind::Avx2));
            // All that any function of `avx512` or `run` is compiled for: a virtual machine may have some without others.
            if is_x86_feature_detected!("avx512f")
                && is_x86_feature_detected!("avx512bw")
                && is_x86_feature_detected!("avx512dq")
                && is_x86_feature_detected!("avx512vl")
                && is_x86_feature_detected!("avx512vnni")
            {
                all.push(Self(Kind::Avx512));
            }
        }
        all
    }

    /// Its name, for people.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self.0 {
            Kind::Plain => "plain Rust",
            #[cfg(target_arch = "x86_64")]
            Kind::Avx2 => "AVX2",
            #[cfg(target_arch = "x86_64")]
            Kind::Avx512 => "AVX-512",
        }
    }

    /// As [`scalar::codes`].
    pub(crate) fn codes(
        self,
        form: Form,
        chunks: &[Chunk],
        lanes: &[Lanes],
        x: View<'_>,
        out: &mut [[f32; ROWS]],
    ) {
        match self.0 {
            Kind::Plain => scalar::codes(form, chunks, lanes, x, out),
            // SAFETY: this kind was recognised (see `Processor`).
            #[cfg(target_arch = "x86_64")]
            Kind::Avx2 => unsafe { avx2::codes(form, chunks, lanes, x, out) },
            // SAFETY: as above.
            #[cfg(target_arch = "x86_64")]
            Kind::Avx512 => unsafe { avx512::codes(form, chunks, lanes, x, out) },
        }
    }

    /// As [`scalar::floats`].
    pub(crate) fn floats(self, strip: Floats<'_>, x: &[f32], stride: usize, out: &mut [[f32; ROWS]]) {
        match self.0 {
            Kind::Plain => scalar::floats(strip, x, stride, out),
            // SAFETY: this kind was recognised (see `Processor`).
            #[cfg(target_arch = "x86_64")]
            Kind::Avx2 => unsafe { avx2::floats(strip, x, stride, out) },
            // SAFETY: as above.
            #[cfg(target_arch = "x86_64")]
            Kind::Avx512 => unsafe { avx512::floats(strip, x, stride, out) },
        }
    }

    /// Runs plain Rust that is compiled for each kind of processor, if it is inlined.
    #[inline]
    pub(crate) fn run<R>(self, work: impl FnOnce() -> R) -> R {
        #[cfg(target_arch = "x86_64")]
        #[target_feature(enable = "avx2,fma,f16c")]
        fn with_avx2<R>(work: impl FnOnce() -> R) -> R {
            work()
        }
        #[cfg(target_arch = "x86_64")]
        #[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512dq")]
        fn with_avx512<R>(work: impl FnOnce() -> R) -> R {
            work()
        }
        match self.0 {
            Kind::Plain => work(),
            // SAFETY: this kind was recognised (see `Processor`).
            #[cfg(target_arch = "x86_64")]
            Kind::Avx2 => unsafe { with_avx2(work) },
            // SAFETY: as above.
            #[cfg(target_arch = "x86_64")]
            Kind::Avx512 => unsafe { with_avx512(work) },
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    #[test]
    fn what_cannot_be_tested_on_this_processor_is_told() {
        let here: Vec<&str> = Processor::all().into_iter().map(Processor::name).collect();
        assert_eq!(
            (here[0], here.last().copied()),
            (Processor::PLAIN.name(), Some(Processor::this().name()))
        );
        let kinds: &[&str] = if cfg!(target_arch = "x86_64") { &["AVX2", "AVX-512"] } else { &[] };
        for kind in kinds.iter().filter(|kind| !here.contains(kind)) {
            // Not by `eprintln!`, whose text is shown only if the test fails.
            writeln!(std::io::stderr(), "skipped: the products with {kind}, which this processor lacks").ok();
        }
    }
}
