//! Whether a model fits: the memory that its worker will need, against what is free.

mod holders;
mod free;
mod cgroup;
mod estimate;

use super::device::Device;
use super::start_error::StartError;
use crate::error::{Code, Failure};
use crate::{n, text};

pub use estimate::MemoryPart;
pub(super) use estimate::{DEFAULT_CONTEXT, Estimate, ModelFootprint, length};
pub(crate) use free::DeviceMemory;
pub(super) use free::FreeMemory;
pub(super) use holders::MemoryHolders;
pub use holders::{ForeignProcess, StoppableWorker};

/// Narrates how much memory a worker will need, and how much is free.
pub(super) fn narrate(estimate: &Estimate, model_id: &str, device: Device, free: &FreeMemory) {
    match free.on(device) {
        Some(free) => {
            let free = text::bytes(free);
            n!("memory_check", "'{model_id}' needs about {estimate} on {device}; {free} are free");
        }
        None => {
            n!(
                "memory_check",
                "'{model_id}' needs about {estimate} on {device}, whose free memory is unknown"
            );
        }
    }
}

/// The bytes that are missing; 0 where either number is unknown.
pub(super) fn missing(required: Option<u64>, free: Option<u64>) -> u64 {
    match (required, free) {
        (Some(required), Some(free)) => required.saturating_sub(free),
        _ => 0,
    }
}

/// Checks that a worker's memory is free, or that `force` is set.
///
/// # Errors
/// [`Code::OutOfMemory`], temporary, because memory can be freed.
pub(super) fn check(
    estimate: &Estimate,
    model_id: &str,
    device: Device,
    free: &FreeMemory,
    holders: &MemoryHolders,
    force: bool,
) -> Result<(), StartError> {
    let free = free.on(device);
    let missing = missing(Some(estimate.total()), free);
    let Some(free) = free.filter(|_| missing > 0) else { return Ok(()) };
    if force {
        n!(warn: "memory_check", "About {} are missing; loading it anyway, because force is set", text::bytes(missing));
        return Ok(());
    }
    let mut failure = Failure::new(
        Code::OutOfMemory,
        format!(
            "'{model_id}' needs about {estimate} on {device}, and {} are free: {} are missing",
            text::bytes(free),
            text::bytes(missing)
        ),
    )
    .stage("preflight");
    failure.causes = holders.sentences(device);
    let first = if holders.stoppable_workers.is_empty() {
        ""
    } else {
        "stop a worker (ModelUnload, WorkerProcessDelete), or "
    };
    Err(StartError::temporary(failure.hint(format!(
        "{first}ask for a shorter context_length, fewer slots or a smaller quantization; \"force\": true loads it anyway"
    ))))
}

#[cfg(test)]
mod tests {
    use super::super::start_error::StartErrorKind;
    use super::*;
    use crate::config::DeviceKind;

    #[test]
    fn a_model_that_does_not_fit_is_refused_unless_forced() {
        let estimate = Estimate { weights: 3 << 30, cache: 1 << 30, overhead: 0, context: 8192, slots: 1 };
        let free = FreeMemory { ram: 1 << 30, ..FreeMemory::default() };
        let holders = MemoryHolders::default();
        let error = check(&estimate, "m", Device::CPU, &free, &holders, false).unwrap_err();
        let StartError { kind, failure: refused } = error;
        assert_eq!(kind, StartErrorKind::Temporary);
        assert_eq!((refused.code, refused.stage.as_deref()), (Code::OutOfMemory, Some("preflight")));
        assert!(refused.message.ends_with("3.0 GiB are missing"), "{}", refused.message);
        assert!(check(&estimate, "m", Device::CPU, &free, &holders, true).is_ok());
        let unknown = Device::Exact { kind: DeviceKind::Vulkan, index: 0 };
        assert!(check(&estimate, "m", unknown, &free, &holders, false).is_ok());
    }
}
