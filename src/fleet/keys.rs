//! The bucket of idempotency keys of operations that may run on any hive: which hive has the job of a key. The hive
//! itself knows the job.

use std::time::Duration;

use async_nats::jetstream::kv::{self, CreateErrorKind};
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
    let look = |error: &(dyn std::error::Error + 'static)| failed("look the idempotency key up", error);
    let replicas = asking.link.jetstream.get_stream(asking.names.events_stream()).await;
    let num_replicas = replicas.map_or(1, |stream| stream.cached_info().config.num_replicas);
    let bucket = match asking.link.jetstream.get_key_value(asking.names.keys_bucket()).await {
        Ok(bucket) => bucket,
        Err(_) => {
            let made = asking.link.jetstream.create_or_update_key_value(kv::Config {
                bucket: asking.names.keys_bucket(),
                description: "The hives that idempotency keys belong to".to_owned(),
                history: 1,
                max_age: keep,
                num_replicas,
                ..kv::Config::default()
            });
            made.await.map_err(|error| failed("make the bucket of idempotency keys", &error))?
        }
    };
    let key = hex(&Sha256::digest(key));
    if let Some(hive) = hive {
        match bucket.create(&key, hive.as_str().to_owned().into()).await {
            Ok(_) => return Ok(Some(hive.clone())),
            // Another request with the key was faster.
            Err(error) if error.kind() == CreateErrorKind::AlreadyExists => {}
            Err(error) => return Err(failed("keep the idempotency key", &error)),
        }
    }
    let found = bucket.get(&key).await.map_err(|error| look(&error))?;
    Ok(found.and_then(|hive| HiveName::new(std::str::from_utf8(&hive).ok()?).ok()))
}
