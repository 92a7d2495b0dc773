//! The ids of engines that can be installed.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use utoipa::openapi::RefOr;
use utoipa::openapi::schema::{ObjectBuilder, Schema, Type};
use utoipa::{PartialSchema, ToSchema};

use crate::config::DeviceKind;

/// What stands before the kind of device in an id.
const FAMILY: &str = "llama-server";

/// An engine that can be installed: llama.cpp's server, built for one kind of device. Its text is the `worker_id`
/// of the wire: `llama-server-cuda`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct EngineId {
    /// What it is built for, besides the processor.
    pub kind: DeviceKind,
}

impl PartialSchema for EngineId {
    fn schema() -> RefOr<Schema> {
        ObjectBuilder::new()
            .schema_type(Type::String)
            .enum_values(Some(Self::ALL.iter().map(ToString::to_string)))
            .description(Some(
                "An engine that the hive can install: llama.cpp's server for one kind of device.",
            ))
            .into()
    }
}

impl ToSchema for EngineId {}

impl EngineId {
    /// Every id, the one for the processor alone first.
    pub const ALL: &'static [Self] = &[
        Self { kind: DeviceKind::Cpu },
        Self { kind: DeviceKind::Cuda },
        Self { kind: DeviceKind::Metal },
        Self { kind: DeviceKind::Rocm },
        Self { kind: DeviceKind::Vulkan },
    ];
}

impl fmt::Display for EngineId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{FAMILY}-{}", self.kind)
    }
}

/// A text that is the id of no engine.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("'{0}' is the id of no engine")]
pub struct UnknownEngine(pub String);

impl FromStr for EngineId {
    type Err = UnknownEngine;

    fn from_str(text: &str) -> Result<Self, UnknownEngine> {
        let is_it = |id: &&Self| id.to_string() == text;
        Self::ALL.iter().find(is_it).copied().ok_or_else(|| UnknownEngine(text.to_owned()))
    }
}

impl TryFrom<String> for EngineId {
    type Error = UnknownEngine;

    fn try_from(text: String) -> Result<Self, UnknownEngine> {
        text.parse()
    }
}

impl From<EngineId> for String {
    fn from(id: EngineId) -> Self {
        id.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_id_has_its_text() {
        for id in EngineId::ALL {
            assert_eq!(id.to_string().parse(), Ok(*id));
        }
        assert_eq!(EngineId::ALL[1].to_string(), "llama-server-cuda");
        assert_eq!("llama-server".parse::<EngineId>(), Err(UnknownEngine("llama-server".to_owned())));
    }
}
