//! `bind`: the address that the hive listens at.

use std::borrow::Cow;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr};
use std::str::FromStr;

use serde::{Deserialize, Serialize, Serializer};
use utoipa::openapi::RefOr;
use utoipa::openapi::schema::{ObjectBuilder, Schema, Type};
use utoipa::{PartialSchema, ToSchema};

/// The address to listen at.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub enum Bind {
    /// An address of this machine.
    Address(IpAddr),
    /// No TCP at all: the hive serves on its Unix socket alone.
    None,
}

impl Bind {
    /// Whether only this machine can connect.
    #[must_use]
    pub const fn is_loopback(self) -> bool {
        match self {
            Self::Address(ip) => ip.is_loopback(),
            Self::None => true,
        }
    }
}

impl Default for Bind {
    fn default() -> Self {
        Self::Address(IpAddr::V4(Ipv4Addr::LOCALHOST))
    }
}

impl FromStr for Bind {
    type Err = &'static str;

    /// Takes an address, with or without the brackets of a URL, `localhost` or `none`.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text.eq_ignore_ascii_case("none") {
            return Ok(Self::None);
        }
        if text.eq_ignore_ascii_case("localhost") {
            return Ok(Self::default());
        }
        let bare = text.strip_prefix('[').and_then(|text| text.strip_suffix(']')).unwrap_or(text);
        bare.parse().map(Self::Address).map_err(|_| {
            "write an address of this machine, such as 127.0.0.1, ::1 or 0.0.0.0, or 'localhost' or 'none'"
        })
    }
}

impl TryFrom<String> for Bind {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse().map_err(|hint| format!("'{text}' is not an address to bind: {hint}"))
    }
}

impl fmt::Display for Bind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Address(ip) => ip.fmt(f),
            Self::None => f.write_str("none"),
        }
    }
}

impl Serialize for Bind {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl ToSchema for Bind {
    fn name() -> Cow<'static, str> {
        Cow::Borrowed("Bind")
    }
}

impl PartialSchema for Bind {
    fn schema() -> RefOr<Schema> {
        ObjectBuilder::new()
            .schema_type(Type::String)
            .pattern(Some(r"^([Nn][Oo][Nn][Ee]|[Ll][Oo][Cc][Aa][Ll][Hh][Oo][Ss][Tt]|\[?[0-9A-Fa-f:.]+\]?)$"))
            .examples(["127.0.0.1", "::1", "0.0.0.0", "localhost", "none"])
            .description(Some("An address of this machine, \"localhost\", or \"none\" for no TCP at all."))
            .into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_may_be_written_as_in_a_url_or_by_its_name() {
        for (text, address) in
            [("[::1]", "::1"), ("::1", "::1"), ("localhost", "127.0.0.1"), ("LocalHost", "127.0.0.1")]
        {
            assert_eq!(text.parse(), Ok(Bind::Address(address.parse().unwrap())), "{text}");
        }
        assert_eq!("none".parse(), Ok(Bind::None));
        assert!(Bind::None.is_loopback());
        for text in ["", "[::1", "localhost:80", "[127.0.0.1]x", "example.org"] {
            assert!(text.parse::<Bind>().is_err(), "{text}");
        }
    }
}
