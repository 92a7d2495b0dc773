//! How long a worker stays without a request, as people and Ollama's clients write it.

use std::borrow::Cow;
use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use jiff::SignedDuration;
use jiff::fmt::friendly::SpanPrinter;
use serde::de::{self, Deserialize, Deserializer, Visitor};
use serde::{Serialize, Serializer};
use utoipa::openapi::RefOr;
use utoipa::openapi::schema::{ObjectBuilder, OneOfBuilder, Schema, Type};
use utoipa::{PartialSchema, ToSchema};

use super::duration::{DURATION, LONGEST};

/// How long a worker stays in memory without a request: `"10m"`, a number of seconds, `0` (it goes at once) or
/// `-1` (it stays until its room is needed). These are the values of Ollama's `keep_alive`, in which every
/// negative number and duration means the same.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum KeepAlive {
    /// For so long; zero is at once.
    For(Duration),
    /// Until its room is needed.
    #[default]
    Forever,
}

const EXPECTED: &str =
    "a duration such as \"10m\", a number of seconds, 0 (at once) or -1 (until room is needed)";

impl KeepAlive {
    fn from_seconds(seconds: f64) -> Result<Self, String> {
        if seconds < 0.0 {
            return Ok(Self::Forever);
        }
        Duration::try_from_secs_f64(seconds)
            .map_err(|_| format!("{seconds} is not a time"))
            .and_then(Self::bounded)
    }

    fn bounded(duration: Duration) -> Result<Self, String> {
        if duration > LONGEST {
            return Err("it must be at most 8784h (366 days); -1 stands for no limit".to_owned());
        }
        Ok(Self::For(duration))
    }
}

impl FromStr for KeepAlive {
    type Err = String;

    /// Takes a duration, or a number of seconds.
    fn from_str(text: &str) -> Result<Self, String> {
        let text = text.trim();
        if let Ok(seconds) = text.parse::<f64>() {
            return Self::from_seconds(seconds);
        }
        // Go's durations, which Ollama's clients send, have the sign in front too.
        let duration =
            |text: &str| text.parse::<SignedDuration>().map_err(|_| format!("'{text}' is not {EXPECTED}"));
        match text.strip_prefix('-') {
            Some(positive) => duration(positive).map(|_| Self::Forever),
            None => Duration::try_from(duration(text)?).map_or(Ok(Self::Forever), Self::bounded),
        }
    }
}

impl fmt::Display for KeepAlive {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Forever => f.write_str("-1"),
            Self::For(duration) => f.write_str(&SpanPrinter::new().unsigned_duration_to_string(duration)),
        }
    }
}

impl<'de> Deserialize<'de> for KeepAlive {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct KeepAliveVisitor;
        impl Visitor<'_> for KeepAliveVisitor {
            type Value = KeepAlive;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(EXPECTED)
            }

            fn visit_u64<E: de::Error>(self, seconds: u64) -> Result<KeepAlive, E> {
                KeepAlive::bounded(Duration::from_secs(seconds)).map_err(E::custom)
            }

            fn visit_i64<E: de::Error>(self, seconds: i64) -> Result<KeepAlive, E> {
                u64::try_from(seconds).map_or(Ok(KeepAlive::Forever), |seconds| self.visit_u64(seconds))
            }

            fn visit_f64<E: de::Error>(self, seconds: f64) -> Result<KeepAlive, E> {
                KeepAlive::from_seconds(seconds).map_err(E::custom)
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<KeepAlive, E> {
                text.parse().map_err(E::custom)
            }
        }
        deserializer.deserialize_any(KeepAliveVisitor)
    }
}

impl Serialize for KeepAlive {
    /// As it is read: `-1`, or text.
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Forever => serializer.serialize_i64(-1),
            Self::For(_) => serializer.collect_str(self),
        }
    }
}

impl ToSchema for KeepAlive {
    fn name() -> Cow<'static, str> {
        Cow::Borrowed("KeepAlive")
    }
}

impl PartialSchema for KeepAlive {
    fn schema() -> RefOr<Schema> {
        let seconds = ObjectBuilder::new().schema_type(Type::Number);
        let text = ObjectBuilder::new()
            .schema_type(Type::String)
            .pattern(Some(format!(r"^\s*-?([0-9]+(\.[0-9]+)?|{DURATION})\s*$")))
            .examples(["10m", "1h30m", "-1"]);
        OneOfBuilder::new().item(seconds).item(text).description(Some(format!("It is {EXPECTED}."))).into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_values_of_ollamas_keep_alive_are_read() {
        let minutes = |minutes: u64| KeepAlive::For(Duration::from_secs(60 * minutes));
        for (json, meant) in [
            ("\"10m\"", minutes(10)),
            ("\"1h30m\"", minutes(90)),
            ("\"600\"", minutes(10)),
            ("600", minutes(10)),
            ("0.5", KeepAlive::For(Duration::from_millis(500))),
            ("0", minutes(0)),
            ("\"0s\"", minutes(0)),
            ("\"0\"", minutes(0)),
            ("-1", KeepAlive::Forever),
            ("-0.5", KeepAlive::Forever),
            ("\"-1\"", KeepAlive::Forever),
            ("\"-1m\"", KeepAlive::Forever),
        ] {
            let read: KeepAlive = serde_json::from_str(json).unwrap();
            assert_eq!(read, meant, "{json}");
            let again = serde_json::to_string(&read).unwrap();
            assert_eq!(serde_json::from_str::<KeepAlive>(&again).unwrap(), meant, "{again}");
        }
        for refused in ["\"soon\"", "\"\"", "\"-\"", "null", "[]", "true", "\"8785h\"", "1e300", "\"NaN\""] {
            assert!(serde_json::from_str::<KeepAlive>(refused).is_err(), "{refused}");
        }
        let read: KeepAlive =
            toml::from_str::<toml::Table>("idle = -1").unwrap()["idle"].clone().try_into().unwrap();
        assert_eq!(read, KeepAlive::Forever);
    }
}
