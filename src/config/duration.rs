//! Durations of settings: read from text such as `"15s"`, within bounds that the type states.

use std::borrow::Cow;
use std::fmt;
use std::ops::Deref;
use std::time::Duration;

use jiff::fmt::serde::unsigned_duration::friendly::compact::required as friendly;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use utoipa::openapi::RefOr;
use utoipa::openapi::schema::{ObjectBuilder, Schema, Type};
use utoipa::{PartialSchema, ToSchema};

/// The longest duration of a setting: 366 days.
pub(super) const LONGEST: Duration = Duration::from_secs(366 * 24 * 3600);
/// The shortest duration above 0.
const SHORTEST: Duration = Duration::from_nanos(1);

/// A regular expression for the text of a duration: numbers, each with its unit.
pub(super) const DURATION: &str = r"([0-9]+([.,][0-9]+)?\s*[A-Za-zµμ]+[,\s]*)+";

/// A duration above 0 and at most 366 days: for deadlines and intervals. A deadline of 0 fails
/// everything, and an interval of 0 repeats without a pause.
pub type PositiveDuration = SettingDuration<false>;

/// A duration from 0 to 366 days: where 0 means at once.
pub type BoundedDuration = SettingDuration<true>;

/// A duration that is always within its bounds. Text out of bounds is refused; a [`Duration`] that
/// code sets is moved to the nearest bound.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd)]
pub struct SettingDuration<const MAY_BE_ZERO: bool>(Duration);

impl<const MAY_BE_ZERO: bool> SettingDuration<MAY_BE_ZERO> {
    const FROM: Duration = if MAY_BE_ZERO { Duration::ZERO } else { SHORTEST };
}

impl<const MAY_BE_ZERO: bool> From<Duration> for SettingDuration<MAY_BE_ZERO> {
    fn from(duration: Duration) -> Self {
        Self(duration.clamp(Self::FROM, LONGEST))
    }
}

impl<const MAY_BE_ZERO: bool> Deref for SettingDuration<MAY_BE_ZERO> {
    type Target = Duration;

    fn deref(&self) -> &Duration {
        &self.0
    }
}

impl<const MAY_BE_ZERO: bool> fmt::Debug for SettingDuration<MAY_BE_ZERO> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl<'de, const MAY_BE_ZERO: bool> Deserialize<'de> for SettingDuration<MAY_BE_ZERO> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let duration: Duration = friendly::deserialize(deserializer)?;
        if (Self::FROM..=LONGEST).contains(&duration) {
            return Ok(Self(duration));
        }
        let bounds =
            if MAY_BE_ZERO { "at most 8784h (366 days)" } else { "above 0s and at most 8784h (366 days)" };
        Err(de::Error::custom(format!("it must be {bounds}")))
    }
}

impl<const MAY_BE_ZERO: bool> Serialize for SettingDuration<MAY_BE_ZERO> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        friendly::serialize(&self.0, serializer)
    }
}

impl<const MAY_BE_ZERO: bool> ToSchema for SettingDuration<MAY_BE_ZERO> {
    fn name() -> Cow<'static, str> {
        Cow::Borrowed(if MAY_BE_ZERO { "DurationOrZero" } else { "Duration" })
    }
}

impl<const MAY_BE_ZERO: bool> PartialSchema for SettingDuration<MAY_BE_ZERO> {
    fn schema() -> RefOr<Schema> {
        let least = if MAY_BE_ZERO { "0s may be set" } else { "above 0s" };
        ObjectBuilder::new()
            .schema_type(Type::String)
            .pattern(Some(format!(r"^\s*{DURATION}\s*$")))
            .examples(["500ms", "15s", "5m", "12h"])
            .description(Some(format!("A duration, at most 8784h (366 days); {least}.")))
            .into()
    }
}

#[cfg(test)]
mod tests {
    use serde::de::IntoDeserializer;
    use serde::de::value::{Error, StrDeserializer};

    use super::*;

    fn read<T: for<'de> Deserialize<'de>>(text: &str) -> Result<T, Error> {
        let deserializer: StrDeserializer<'_, Error> = text.into_deserializer();
        T::deserialize(deserializer)
    }

    #[test]
    fn text_within_the_bounds_is_read() {
        assert_eq!(*read::<PositiveDuration>("1m 30s").unwrap(), Duration::from_secs(90));
        assert_eq!(*read::<PositiveDuration>("1ns").unwrap(), SHORTEST);
        assert_eq!(*read::<BoundedDuration>("0s").unwrap(), Duration::ZERO);
        assert_eq!(*read::<BoundedDuration>("8784h").unwrap(), LONGEST);
    }

    #[test]
    fn text_out_of_bounds_is_refused() {
        assert_eq!(
            read::<PositiveDuration>("0s").unwrap_err().to_string(),
            "it must be above 0s and at most 8784h (366 days)"
        );
        read::<PositiveDuration>("8784h 1ns").unwrap_err();
        read::<BoundedDuration>("8784h 1ns").unwrap_err();
        read::<BoundedDuration>("-1s").unwrap_err();
        read::<BoundedDuration>("soon").unwrap_err();
    }

    #[test]
    fn a_duration_set_in_code_is_moved_to_the_nearest_bound() {
        assert_eq!(*PositiveDuration::from(Duration::ZERO), SHORTEST);
        assert_eq!(*BoundedDuration::from(Duration::ZERO), Duration::ZERO);
        assert_eq!(*BoundedDuration::from(Duration::MAX), LONGEST);
    }
}
