//! Devices of workers, which settings name too.

pub use crate::config::Device;
