//! The settings of what is in memory, and of requests that wait for it (`[residency]`).

use std::num::NonZeroUsize;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::duration::{BoundedDuration, PositiveDuration};
use super::keep_alive::KeepAlive;

/// Which models are in memory, and how long requests wait for them.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Residency {
    /// Whether a request loads its model.
    pub on_demand: bool,
    /// How long a worker that requests loaded stays without a request.
    pub idle: KeepAlive,
    /// How long a model that has requests stays before another takes its room.
    pub min_stay: BoundedDuration,
    /// How long a model must have had no request to go before that.
    pub linger: BoundedDuration,
    /// How long a load may wait for answers under way to end.
    pub drain: PositiveDuration,
    /// How many workers may load at the same time.
    #[schema(value_type = usize, minimum = 1)]
    pub loads: NonZeroUsize,
    /// The most requests that wait for a model at the same time, in all.
    #[schema(value_type = usize, minimum = 1)]
    pub queue: NonZeroUsize,
    /// How long requests do not load a model again whose load has failed; it doubles with each further
    /// failure, up to a minute.
    pub retry: PositiveDuration,
}

impl Default for Residency {
    fn default() -> Self {
        Self {
            on_demand: true,
            idle: KeepAlive::For(Duration::from_secs(600)),
            min_stay: Duration::from_secs(10).into(),
            linger: Duration::from_secs(1).into(),
            drain: Duration::from_secs(120).into(),
            loads: NonZeroUsize::new(2).unwrap_or(NonZeroUsize::MIN),
            queue: NonZeroUsize::new(1024).unwrap_or(NonZeroUsize::MIN),
            retry: Duration::from_secs(5).into(),
        }
    }
}
