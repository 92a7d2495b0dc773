//! Whether a model fits: the memory that its worker will need, against what is free.

mod holders;
mod free;
mod cgroup;
mod footprint;
mod layers;

use super::device::Device;
use super::place::{Estimate, Place};
use super::start_error::StartError;
use crate::error::{Code, Failure};
use crate::{n, text};

pub(crate) use footprint::DEFAULT_CONTEXT;
pub(super) use footprint::{ModelFootprint, length};
pub(super) use free::FreeMemory;
pub(crate) use free::{DeviceMemory, free_ram};
pub(super) use holders::MemoryHolders;
pub use holders::{ForeignProcess, StoppableWorker};

/// Narrates how much memory a worker will need, and how much is free.
pub(super) fn narrate(estimate: &Estimate, place: &Place, model_id: &str, free: &FreeMemory) {
    let devices = place.devices();
    match free.on(place.device) {
        Some(bytes) if place.split.is_empty() => {
            let free = text::bytes(bytes);
            n!("memory_check", "'{model_id}' needs about {estimate} on {devices}; {free} are free");
        }
        Some(_) => {
            let free = place.split.iter().filter_map(|share| free.on(share.device)).map(text::bytes);
            let free = free.collect::<Vec<_>>().join(" and ");
            n!("memory_check", "'{model_id}' needs about {estimate} on {devices}; {free} are free there");
        }
        None => {
            n!(
                "memory_check",
                "'{model_id}' needs about {estimate} on {devices}, whose free memory is unknown"
            );
        }
    }
}

/// What the devices lack of these needs. A device whose free memory is unknown lacks nothing.
pub(super) fn missing(needs: &[(Device, u64)], free: &FreeMemory) -> Vec<(Device, u64)> {
    let lacks = |(device, bytes): &(Device, u64)| {
        (*device, bytes.saturating_sub(free.on(*device).unwrap_or(u64::MAX)))
    };
    needs.iter().map(lacks).filter(|(_, missing)| *missing > 0).collect()
}

/// All of these bytes.
pub(super) fn sum(amounts: &[(Device, u64)]) -> u64 {
    amounts.iter().fold(0, |sum, (_, bytes)| sum.saturating_add(*bytes))
}

/// Checks that a worker's memory is free, or that `force` is set.
///
/// # Errors
/// [`Code::OutOfMemory`], temporary, because memory can be freed.
pub(super) fn check(
    estimate: &Estimate,
    place: &Place,
    model_id: &str,
    free: &FreeMemory,
    force: bool,
    holders: impl Fn(Device) -> MemoryHolders,
) -> Result<(), StartError> {
    let missing = missing(&place.needs(), free);
    let Some((device, missing)) = missing.into_iter().max_by_key(|(_, bytes)| *bytes) else { return Ok(()) };
    if force {
        n!(warn: "memory_check", "About {} are missing; loading it anyway, because force is set", text::bytes(missing));
        return Ok(());
    }
    let which = if place.split.is_empty() { String::new() } else { format!(" of {device}") };
    let mut failure = Failure::new(
        Code::OutOfMemory,
        format!(
            "'{model_id}' needs about {estimate} on {}, and {}{which} are free: {} are missing",
            place.devices(),
            text::bytes(free.on(device).unwrap_or(0)),
            text::bytes(missing)
        ),
    )
    .stage("preflight");
    let holders = holders(device);
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
        let estimate = Estimate {
            weights: 3 << 30,
            cache: 1 << 30,
            overhead: 0,
            context: 8192,
            slots: 1,
            grows: 0,
            formula: None,
        };
        let free = FreeMemory::of(1 << 30, Vec::new());
        let on = |device| Place {
            class: Place::PROCESSOR,
            engine: "e".to_owned(),
            device,
            split: Vec::new(),
            estimate: Some(estimate),
            reason: String::new(),
        };
        let check =
            |device, force| check(&estimate, &on(device), "m", &free, force, |_| MemoryHolders::default());
        let StartError { kind, failure: refused } = check(Device::CPU, false).unwrap_err();
        assert_eq!(kind, StartErrorKind::Temporary);
        assert_eq!((refused.code, refused.stage.as_deref()), (Code::OutOfMemory, Some("preflight")));
        assert!(refused.message.ends_with("3.0 GiB are missing"), "{}", refused.message);
        assert!(check(Device::CPU, true).is_ok());
        let unknown = Device::Exact { kind: DeviceKind::Vulkan, index: 0 };
        assert!(check(unknown, false).is_ok());
    }
}
