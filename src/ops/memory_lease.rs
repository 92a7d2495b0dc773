//! `MemoryLease`: makes room for another program, for a while.

use std::num::NonZeroU64;
use std::time::Duration;

use bytesize::ByteSize;
use serde::de::Error;
use serde::{Deserialize, Deserializer, Serialize};
use utoipa::ToSchema;
use utoipa::openapi::RefOr;
use utoipa::openapi::schema::{ObjectBuilder, OneOfBuilder, Schema, Type};

use super::operation::{Context, Deadline, Operation};
use crate::error::{Code, Failure, Result};
use crate::jobs::{JobClass, OperationKind};
use crate::n;
use crate::residency::{Denied, Gone, LeaseRequest};
use crate::text;
use crate::time::{self, Instant};
use crate::workers::Device;

/// The longest lease, in seconds: a week.
const LONGEST: u64 = 7 * 24 * 3600;
/// The longest name of a holder, in bytes.
const LONGEST_HOLDER: usize = 200;

/// Asks for memory for another program. Workers go for it, once their answers have ended, and come back when the
/// lease has ended.
#[derive(Debug, Deserialize, Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct MemoryLease {
    /// How much: bytes, or text such as `"8GiB"`.
    #[serde(deserialize_with = "amount")]
    #[schema(schema_with = amount_schema)]
    bytes: NonZeroU64,
    /// The device whose memory it is: `cpu`, `cuda:0`; by default the GPU with the most memory, else the processor's.
    #[serde(default)]
    device: Device,
    /// After how many seconds it expires.
    #[serde(default = "an_hour", deserialize_with = "seconds")]
    #[schema(minimum = 1, maximum = 604_800)]
    seconds: u64,
    /// Who gets the memory, for people.
    #[serde(default)]
    holder: Option<String>,
}

const fn an_hour() -> u64 {
    3600
}

fn amount<'de, D: Deserializer<'de>>(deserializer: D) -> Result<NonZeroU64, D::Error> {
    let bytes = ByteSize::deserialize(deserializer)?.as_u64();
    NonZeroU64::new(bytes)
        .ok_or_else(|| D::Error::custom("a lease of no memory is none: ask for 1 byte or more"))
}

fn amount_schema() -> RefOr<Schema> {
    let text = ObjectBuilder::new().schema_type(Type::String).examples(["8GiB"]);
    let bytes = ObjectBuilder::new().schema_type(Type::Integer).minimum(Some(1));
    let either = OneOfBuilder::new().item(bytes).item(text);
    either.description(Some("How much: bytes, or text such as `\"8GiB\"`.")).into()
}

fn seconds<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u64, D::Error> {
    let seconds = u64::deserialize(deserializer)?;
    if (1..=LONGEST).contains(&seconds) {
        return Ok(seconds);
    }
    Err(D::Error::custom(format!("a lease lasts for 1 to {LONGEST} seconds, not {seconds}")))
}

/// The result.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = MemoryLeaseResult)]
pub(super) struct Leased {
    lease_id: String,
    device: Device,
    bytes: u64,
    expires_at: Instant,
    /// The workers that went for it, which come back.
    evicted: Vec<Gone>,
    /// What is free on the device, the lease included.
    free_bytes: u64,
}

impl Operation for MemoryLease {
    const NAME: &'static str = "MemoryLease";
    const VERB: &'static str = "lease";
    const KIND: OperationKind = OperationKind::Act;
    const CLASS: JobClass = JobClass::Acts;
    const DEADLINE: Deadline = Deadline::Act;

    type Output = Leased;

    async fn run(self, cx: Context) -> Result<Self::Output> {
        let asked = text::bytes(self.bytes.get());
        let holder = self.holder.as_deref().map(|holder| format!(" for {}", text::excerpt(holder)));
        let holder = holder.unwrap_or_default();
        n!("memory_lease", "🧮 Making room of {asked}{holder} on hive '{}'", cx.hive_id);
        if self.holder.as_ref().is_some_and(|holder| holder.len() > LONGEST_HOLDER) {
            let message = format!("the field 'holder' is longer than {LONGEST_HOLDER} bytes");
            return Err(Failure::new(Code::InvalidField, message).hint("name the program in a few words"));
        }
        let device = device(&cx, self.device).await?;
        let request = LeaseRequest {
            device,
            bytes: self.bytes.get(),
            lasts: Duration::from_secs(self.seconds),
            holder: self.holder,
        };
        let lease = cx.app.residency.lease(request, &cx.stop).await.map_err(|denied| match denied {
            Denied::Stopped => Failure::new(Code::Cancelled, "stopped before the memory was free")
                .hint("what had gone for it comes back"),
            Denied::Refused(why) => {
                Failure::new(Code::OutOfMemory, format!("there is no room for {asked} on {device}: {why}"))
                    .hint("ask for less, or for another device; ResidencyGet shows who holds the memory")
            }
        })?;
        n!(
            "memory_lease",
            "{asked} of {device} are free for {}: lease {}",
            time::in_words(lease.lasts),
            lease.id
        );
        Ok(Leased {
            lease_id: lease.id,
            device,
            bytes: self.bytes.get(),
            expires_at: Instant::now().after(lease.lasts),
            evicted: lease.gone,
            free_bytes: lease.free,
        })
    }
}

/// The device that is meant.
async fn device(cx: &Context, asked: Device) -> Result<Device> {
    let devices = cx.app.workers.measure_memory().await;
    let gpus = || devices.iter().filter(|memory| !memory.device.is_cpu());
    let meant = match asked {
        Device::Auto => gpus().max_by_key(|memory| memory.capacity).or(devices.first()),
        Device::Index(index) => gpus().nth(index as usize),
        Device::Exact { .. } => devices.iter().find(|memory| memory.device == asked),
    };
    meant.map(|memory| memory.device).ok_or_else(|| {
        let here: Vec<_> = devices.iter().map(|memory| memory.device.to_string()).collect();
        let message =
            format!("the memory of device '{asked}' is not known; known is that of {}", here.join(", "));
        Failure::new(Code::DeviceUnavailable, message).hint("ask for one of these, or for device 'auto'")
    })
}
