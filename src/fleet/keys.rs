//! The bucket of idempotency keys of operations that may run on any hive: which hive has the job of a key. The hive
//! itself knows the job.

use std::time::Duration;

use async_nats::jetstream::kv::CreateErrorKind;
use sha2::{Digest, Sha256};

use super::asking::Asking;
use super::link::failed;
use super::names::HiveName;
use crate::error::Result;
use crate::text::hex;

/// The hive that a key belongs to. Where it belongs to none, it belongs to `hive` from now on.
pub(super) async fn hive_of(
    asking: &Asking,
    keep: Duration,
    key: &str,
    hive: Option<&HiveName>,
) -> Result<Option<HiveName>> {
    let name = asking.names.keys_bucket();
    let bucket = asking.bucket(name, "The hives that idempotency keys belong to", keep).await?;
    let key = hex(&Sha256::digest(key));
    if let Some(hive) = hive {
        match bucket.create(&key, hive.as_str().to_owned().into()).await {
            Ok(_) => return Ok(Some(hive.clone())),
            // Another request with the key was faster.
            Err(error) if error.kind() == CreateErrorKind::AlreadyExists => {}
            Err(error) => return Err(failed("keep the idempotency key", &error)),
        }
    }
    let found = bucket.get(&key).await.map_err(|error| failed("look the idempotency key up", &error))?;
    Ok(found.and_then(|hive| HiveName::new(std::str::from_utf8(&hive).ok()?).ok()))
}
