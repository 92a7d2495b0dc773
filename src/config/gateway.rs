//! `[gateway]`: the routes that forward requests to workers.

use bytesize::ByteSize;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::size::{self, Size};

/// The most that `body_limit` may be.
pub const MAX_BODY_LIMIT: ByteSize = ByteSize::gib(4);

/// Limits of requests to models.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Gateway {
    /// The most bytes of a request's body: images travel in it.
    #[schema(value_type = Size)]
    #[serde(serialize_with = "size::exact")]
    pub body_limit: ByteSize,
}

impl Default for Gateway {
    fn default() -> Self {
        Self { body_limit: ByteSize::mib(64) }
    }
}

impl Gateway {
    /// The most bytes of a request's body, as this machine counts.
    #[must_use]
    pub fn body_bytes(&self) -> usize {
        usize::try_from(self.body_limit.as_u64()).unwrap_or(usize::MAX)
    }

    /// The first setting that cannot work, and what is wrong with it.
    pub(super) fn problem(&self) -> Option<(&'static str, String)> {
        let bounds = ByteSize::kib(1)..=MAX_BODY_LIMIT;
        (!bounds.contains(&self.body_limit))
            .then(|| ("body_limit", format!("cannot be {}: 1 KiB to 4 GiB may be set", self.body_limit)))
    }
}

#[cfg(test)]
mod tests {
    use crate::config::Config;

    #[test]
    fn the_limit_of_bodies_is_read_and_bounded() {
        let read = |text: &str| toml::from_str::<Config>(&format!("[gateway]\nbody_limit = {text}")).unwrap();
        assert_eq!(Config::default().gateway.body_limit.as_u64(), 64 << 20);
        assert_eq!(read("\"100 MiB\"").gateway.body_limit.as_u64(), 100 << 20);
        read("4096").validate().unwrap();
        for wrong in ["0", "\"5 GiB\""] {
            let failure = read(wrong).validate().unwrap_err();
            assert!(failure.message.starts_with("[gateway] body_limit cannot be "), "{failure}");
        }
    }
}
