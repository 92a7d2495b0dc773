//! The clocks; instants in the format of the wire (RFC 3339, UTC, with milliseconds); durations for people.
//!
//! The wall clock, [`Instant::now`], says when something happened, and may be set back and on at any time.
//! How long something takes is measured by [`monotonic`], which always goes on. Tests turn both.

mod turned;

use std::time::Duration;

use jiff::Timestamp;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use utoipa::ToSchema;

#[cfg(test)]
pub(crate) use turned::turn_wall;

/// An instant in milliseconds since the Unix epoch; serialised as RFC 3339 in UTC with exactly
/// three fractional digits, such as `2026-11-23T12:00:00.123Z`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, ToSchema)]
#[schema(value_type = String, format = DateTime, examples("2026-11-23T12:00:00.123Z"))]
pub struct Instant(pub i64);

impl Instant {
    /// The current time.
    #[must_use]
    pub fn now() -> Self {
        Self(Timestamp::now().as_millisecond().saturating_add(turned::now().wall_ms))
    }

    /// The instant that much later.
    #[must_use]
    pub fn after(self, duration: Duration) -> Self {
        Self(self.0.saturating_add(i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)))
    }

    /// The instant that much earlier.
    #[must_use]
    pub fn earlier(self, duration: Duration) -> Self {
        Self(self.0.saturating_sub(i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)))
    }

    /// Whether it is now or was before.
    #[must_use]
    pub fn is_past(self) -> bool {
        self <= Self::now()
    }

    /// Milliseconds from `earlier` to this instant; 0 if the clock was set back.
    #[must_use]
    pub fn since_ms(self, earlier: Self) -> u64 {
        u64::try_from(self.0 - earlier.0).unwrap_or(0)
    }
}

impl From<std::time::SystemTime> for Instant {
    fn from(time: std::time::SystemTime) -> Self {
        Self(Timestamp::try_from(time).map_or(0, Timestamp::as_millisecond))
    }
}

impl std::fmt::Display for Instant {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let timestamp = Timestamp::from_millisecond(self.0).unwrap_or(Timestamp::UNIX_EPOCH);
        write!(f, "{timestamp:.3}")
    }
}

impl Serialize for Instant {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Instant {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
        text.parse::<Timestamp>().map(|at| Self(at.as_millisecond())).map_err(serde::de::Error::custom)
    }
}

/// The current time of a clock that nobody can set, for durations.
#[must_use]
pub fn monotonic() -> std::time::Instant {
    std::time::Instant::now() + Duration::from_millis(turned::now().monotonic_ms)
}

/// When something was last done that is to be done only once in a while.
#[derive(Debug, Default)]
pub struct Pace(Option<std::time::Instant>);

impl Pace {
    /// Whether `pause` has passed since this last said so; then it says so now.
    pub fn is_due(&mut self, pause: Duration) -> bool {
        let now = monotonic();
        let is_due = self.0.is_none_or(|at| now.duration_since(at) >= pause);
        if is_due {
            self.0 = Some(now);
        }
        is_due
    }
}

/// A duration for people: `800 ms`, `12.3 s`, `4 min 5 s`, `2 h 1 min`.
#[must_use]
pub fn in_words(duration: Duration) -> String {
    match duration.as_secs() {
        0 => format!("{} ms", duration.as_millis()),
        seconds @ 1..60 => match duration.subsec_millis() / 100 {
            0 => format!("{seconds} s"),
            tenths => format!("{seconds}.{tenths} s"),
        },
        seconds @ 60..3600 => format!("{} min {} s", seconds / 60, seconds % 60),
        seconds => format!("{} h {} min", seconds / 3600, seconds % 3600 / 60),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_instant_has_three_fractional_digits_and_is_read_back() {
        let json = serde_json::to_string(&Instant(1_763_899_200_120)).unwrap();
        assert_eq!(json, r#""2025-11-23T12:00:00.120Z""#);
        assert_eq!(serde_json::from_str::<Instant>(&json).unwrap(), Instant(1_763_899_200_120));
    }

    #[test]
    fn durations_have_at_most_two_units() {
        let words = |ms| in_words(Duration::from_millis(ms));
        assert_eq!(
            [words(9), words(2000), words(2310), words(61_000), words(7_260_000)],
            ["9 ms", "2 s", "2.3 s", "1 min 1 s", "2 h 1 min"]
        );
    }
}
