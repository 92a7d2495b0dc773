//! Which instructions this processor has, and the products that use them.

#![expect(unsafe_code, reason = "functions for a kind of processor are called where it has been recognised")]

use std::sync::LazyLock;

use crate::activations::View;
use crate::packed::{Chunk, Floats, Form, Lanes, ROWS};
use crate::scalar;
#[cfg(target_arch = "x86_64")]
use crate::{avx2, avx512};

/// A kind of processor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Processor {
    /// Any.
    Plain,
    /// With AVX2, FMA and F16C.
    #[cfg(target_arch = "x86_64")]
    Avx2,
    /// With AVX-512, its byte and word instructions and VNNI, and all that `Avx2` has.
    #[cfg(target_arch = "x86_64")]
    Avx512,
}

/// The kind of this processor.
static THIS: LazyLock<Processor> = LazyLock::new(|| Processor::all().pop().unwrap_or(Processor::Plain));

impl Processor {
    /// That of this machine.
    pub(crate) fn this() -> Self {
        *THIS
    }

    /// The kinds that this machine's processor is of, the best last.
    pub(crate) fn all() -> Vec<Self> {
        #[cfg_attr(not(target_arch = "x86_64"), expect(unused_mut, reason = "only x86 has more"))]
        let mut all = vec![Self::Plain];
        #[cfg(target_arch = "x86_64")]
        if is_x86_feature_detected!("avx2")
            && is_x86_feature_detected!("fma")
            && is_x86_feature_detected!("f16c")
        {
            all.push(Self::Avx2);
            if is_x86_feature_detected!("avx512f")
                && is_x86_feature_detected!("avx512bw")
                && is_x86_feature_detected!("avx512vnni")
            {
                all.push(Self::Avx512);
            }
        }
        all
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
        match self {
            Self::Plain => scalar::codes(form, chunks, lanes, x, out),
            // SAFETY: the processor has the instructions.
            #[cfg(target_arch = "x86_64")]
            Self::Avx2 => unsafe { avx2::codes(form, chunks, lanes, x, out) },
            // SAFETY: as above.
            #[cfg(target_arch = "x86_64")]
            Self::Avx512 => unsafe { avx512::codes(form, chunks, lanes, x, out) },
        }
    }

    /// As [`scalar::floats`].
    pub(crate) fn floats(self, strip: Floats<'_>, x: &[f32], stride: usize, out: &mut [[f32; ROWS]]) {
        match self {
            Self::Plain => scalar::floats(strip, x, stride, out),
            // SAFETY: the processor has the instructions.
            #[cfg(target_arch = "x86_64")]
            Self::Avx2 => unsafe { avx2::floats(strip, x, stride, out) },
            // SAFETY: as above.
            #[cfg(target_arch = "x86_64")]
            Self::Avx512 => unsafe { avx512::floats(strip, x, stride, out) },
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
        match self {
            Self::Plain => work(),
            // SAFETY: the processor has the instructions.
            #[cfg(target_arch = "x86_64")]
            Self::Avx2 => unsafe { with_avx2(work) },
            // SAFETY: as above.
            #[cfg(target_arch = "x86_64")]
            Self::Avx512 => unsafe { with_avx512(work) },
        }
    }
}
