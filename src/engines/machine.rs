//! What this machine has that an engine can be built for.

use crate::config::DeviceKind;

/// A machine, as far as the choice of an engine depends on it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Machine {
    /// `linux`, `macos` or `windows`.
    pub os: &'static str,
    /// `x86_64` or `aarch64`, as Rust names them.
    pub arch: &'static str,
    /// The kinds of devices that were found, the preferred one first; the processor is always the last.
    pub kinds: Vec<KindHere>,
}

/// A kind of device that the machine has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KindHere {
    /// The kind.
    pub kind: DeviceKind,
    /// What was found, for people: `NVIDIA H200, driver 570.86`.
    pub detail: String,
    /// The newest CUDA that the driver supports: `(12, 8)`. `None` for other kinds, and where the driver does not
    /// tell.
    pub cuda: Option<(u32, u32)>,
    /// CUDA's compute capabilities of its GPUs, such as `8.9`.
    pub compute_capabilities: Vec<String>,
}
