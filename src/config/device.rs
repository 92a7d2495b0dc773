//! A device that a worker computes on, as settings and clients name it.

use std::borrow::Cow;
use std::fmt;
use std::str::FromStr;

use serde::de::{self, Deserialize, Deserializer, Visitor};
use serde::{Serialize, Serializer};
use utoipa::openapi::RefOr;
use utoipa::openapi::schema::{ObjectBuilder, OneOfBuilder, Schema, Type};
use utoipa::{PartialSchema, ToSchema};

use super::engines::DeviceKind;

/// A device as a client names it: `0`, `"0"`, `"cpu"`, `"cuda:0"`, `"auto"`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Device {
    /// The one that fits best.
    #[default]
    Auto,
    /// The device of that number, from 0, among those of the requested kind; among the GPUs where no
    /// kind was requested.
    Index(u32),
    /// The device of that kind and number.
    Exact {
        /// Its kind.
        kind: DeviceKind,
        /// Its number, from 0, among those of its kind.
        index: u32,
    },
}

impl Device {
    /// The processor.
    pub const CPU: Self = Self::Exact { kind: DeviceKind::Cpu, index: 0 };

    /// Whether it is the processor.
    #[must_use]
    pub fn is_cpu(self) -> bool {
        matches!(self, Self::Exact { kind: DeviceKind::Cpu, .. })
    }

    /// Its kind, where it is exact.
    #[must_use]
    pub fn kind(self) -> Option<DeviceKind> {
        match self {
            Self::Exact { kind, .. } => Some(kind),
            Self::Auto | Self::Index(_) => None,
        }
    }

    /// The device, unless the choice is left to others.
    #[must_use]
    pub fn named(self) -> Option<Self> {
        Some(self).filter(|device| *device != Self::Auto)
    }

    /// Whether this name covers the device `actual`, which is exact.
    #[must_use]
    pub fn fits(self, actual: Self) -> bool {
        match self {
            Self::Auto => true,
            Self::Index(asked) => {
                matches!(actual, Self::Exact { kind, index } if kind != DeviceKind::Cpu && index == asked)
            }
            Self::Exact { .. } => self == actual,
        }
    }
}

impl fmt::Display for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Auto => f.write_str("auto"),
            Self::Index(index) => write!(f, "{index}"),
            Self::Exact { kind: DeviceKind::Cpu, index: 0 } => f.write_str("cpu"),
            Self::Exact { kind, index } => write!(f, "{kind}:{index}"),
        }
    }
}

impl FromStr for Device {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let refused = || format!("'{text}' is not a device: use auto, cpu, a number, or cuda:0");
        if text.eq_ignore_ascii_case("auto") {
            return Ok(Self::Auto);
        }
        if let Ok(index) = text.parse() {
            return Ok(Self::Index(index));
        }
        let (kind, index) = text.split_once(':').unwrap_or((text, "0"));
        let kind = DeviceKind::from_name(kind).ok_or_else(refused)?;
        Ok(Self::Exact { kind, index: index.parse().map_err(|_| refused())? })
    }
}

impl<'de> Deserialize<'de> for Device {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct DeviceVisitor;
        impl Visitor<'_> for DeviceVisitor {
            type Value = Device;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a device: \"auto\", \"cpu\", a number from 0, or \"cuda:0\"")
            }

            fn visit_u64<E: de::Error>(self, index: u64) -> Result<Device, E> {
                u32::try_from(index)
                    .map(Device::Index)
                    .map_err(|_| E::invalid_value(de::Unexpected::Unsigned(index), &self))
            }

            fn visit_i64<E: de::Error>(self, index: i64) -> Result<Device, E> {
                u64::try_from(index)
                    .map_err(|_| E::invalid_value(de::Unexpected::Signed(index), &self))
                    .and_then(|index| self.visit_u64(index))
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Device, E> {
                text.parse().map_err(E::custom)
            }
        }
        deserializer.deserialize_any(DeviceVisitor)
    }
}

impl Serialize for Device {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl ToSchema for Device {
    fn name() -> Cow<'static, str> {
        Cow::Borrowed("Device")
    }
}

impl PartialSchema for Device {
    fn schema() -> RefOr<Schema> {
        let any_case = |name: &str| {
            let letters = name.chars().map(|c| format!("[{}{c}]", c.to_ascii_uppercase()));
            letters.collect::<String>()
        };
        let kinds: Vec<_> = DeviceKind::ALL.iter().map(|kind| any_case(kind.name())).collect();
        let pattern = format!("^({}|[0-9]+|({})(:[0-9]+)?)$", any_case("auto"), kinds.join("|"));
        let index = ObjectBuilder::new()
            .schema_type(Type::Integer)
            .minimum(Some(0))
            .maximum(Some(u32::MAX))
            .description(Some(
                "A number among the devices of the kind that is asked for, else among the GPUs.",
            ));
        let name = ObjectBuilder::new().schema_type(Type::String).pattern(Some(pattern));
        OneOfBuilder::new()
            .item(index)
            .item(name.examples(["auto", "cpu", "cuda:0"]))
            .description(Some(
                "A device: \"auto\", \"cpu\", a number from 0, or a kind with a number: \"cuda:0\".",
            ))
            .into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(json: &str) -> Result<Device, String> {
        serde_json::from_str(json).map_err(|error| error.to_string())
    }

    #[test]
    fn every_spelling_of_the_contract_is_parsed() {
        assert_eq!(parse("0"), Ok(Device::Index(0)));
        assert_eq!(parse("\"0\""), Ok(Device::Index(0)));
        assert_eq!(parse("\"cpu\""), Ok(Device::CPU));
        assert_eq!(parse("\"auto\""), Ok(Device::Auto));
        assert_eq!(parse("\"cuda:0\""), Ok(Device::Exact { kind: DeviceKind::Cuda, index: 0 }));
        assert_eq!(parse("\"Metal\""), Ok(Device::Exact { kind: DeviceKind::Metal, index: 0 }));
        for refused in
            ["-1", "1.5", "4294967296", "\"\"", "\"cuda:\"", "\"cuda:-1\"", "\"tpu\"", "null", "[0]"]
        {
            assert!(parse(refused).is_err(), "{refused}");
        }
    }

    #[test]
    fn a_printed_device_parses_to_the_same_device() {
        for text in ["auto", "cpu", "3", "cuda:0", "vulkan:2"] {
            assert_eq!(text.parse::<Device>().unwrap().to_string(), text);
        }
    }

    #[test]
    fn a_bare_number_means_a_gpu() {
        assert!(!Device::Index(0).fits(Device::CPU));
        assert!(Device::Index(1).fits(Device::Exact { kind: DeviceKind::Cuda, index: 1 }));
        assert!(Device::Auto.fits(Device::CPU) && Device::CPU.fits(Device::CPU));
    }
}
