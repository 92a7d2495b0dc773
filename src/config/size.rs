//! Sizes of settings: a number of bytes, or text such as `"512MiB"`.

use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap};

use bytesize::ByteSize;
use serde::{Serialize, Serializer};
use utoipa::openapi::RefOr;
use utoipa::openapi::schema::{ObjectBuilder, OneOfBuilder, Schema, Type};
use utoipa::{PartialSchema, ToSchema};

use super::device::Device;

/// How a [`ByteSize`] is described to readers of the file's schema.
pub(super) struct Size;

impl ToSchema for Size {
    fn name() -> Cow<'static, str> {
        Cow::Borrowed("Size")
    }
}

impl PartialSchema for Size {
    fn schema() -> RefOr<Schema> {
        let bytes = ObjectBuilder::new().schema_type(Type::Integer).minimum(Some(0));
        let text = ObjectBuilder::new()
            .schema_type(Type::String)
            .pattern(Some(r"^\s*[0-9]+(\.[0-9]+)?\s*([KkMmGgTtPpEe]([Ii]?[Bb]?)?|[Bb])?\s*$"));
        OneOfBuilder::new()
            .item(bytes)
            .item(text)
            .description(Some("Bytes, or text such as \"512MiB\" and \"1.5 GB\"."))
            .into()
    }
}

/// Writes a size so that reading it gives the same bytes.
pub(super) fn exact<S: Serializer>(size: &ByteSize, serializer: S) -> Result<S::Ok, S::Error> {
    Exact(*size).serialize(serializer)
}

/// As [`exact`], for sizes by device.
pub(super) fn by_device<S: Serializer>(
    sizes: &HashMap<Device, ByteSize>,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    let sorted: BTreeMap<_, _> =
        sizes.iter().map(|(device, size)| (device.to_string(), Exact(*size))).collect();
    sorted.serialize(serializer)
}

struct Exact(ByteSize);

impl Serialize for Exact {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        const UNITS: [(&str, u64); 4] =
            [("TiB", 1 << 40), ("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)];
        let bytes = self.0.as_u64();
        match UNITS.iter().find(|(_, unit)| bytes >= *unit && bytes.is_multiple_of(*unit)) {
            Some((name, unit)) => serializer.collect_str(&format_args!("{} {name}", bytes / unit)),
            None => serializer.serialize_u64(bytes),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_size_is_written_as_it_would_be_read() {
        for (bytes, written) in [
            (64 << 20, "\"64 MiB\""),
            (5 << 30, "\"5 GiB\""),
            (4097, "4097"),
            (0, "0"),
            (1536 << 20, "\"1536 MiB\""),
        ] {
            let json = serde_json::to_string(&Exact(ByteSize(bytes))).unwrap();
            assert_eq!(json, written);
            assert_eq!(serde_json::from_str::<ByteSize>(&json).unwrap(), ByteSize(bytes));
        }
    }
}
