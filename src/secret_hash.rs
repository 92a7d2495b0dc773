//! The hash of a secret, in whose place it is kept and compared.

use std::fmt;

use serde::de::Error;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use sha2::{Digest, Sha256};
use subtle::{Choice, ConstantTimeEq};

use crate::text::hex;

/// The SHA-256 hash of a secret. Comparing hashes takes constant time and does not reveal the secret's
/// length. Nobody finds a secret of 128 random bits or more by its hash.
#[derive(Clone, Copy)]
pub struct SecretHash([u8; 32]);

impl SecretHash {
    /// The hash of a secret.
    pub(crate) fn of(secret: &[u8]) -> Self {
        Self(Sha256::digest(secret).into())
    }

    /// Whether both are of the same secret, compared in constant time.
    pub(crate) fn matches(&self, other: &Self) -> Choice {
        self.0.ct_eq(&other.0)
    }

    /// A name for the secret, for one purpose, from which neither the secret nor its hash can be found.
    pub(crate) fn derived(&self, purpose: &str) -> String {
        let digest = Sha256::new().chain_update(purpose).chain_update(self.0).finalize();
        hex(&digest[..16])
    }

    /// The hash that 64 hexadecimal digits are.
    fn parse(text: &str) -> Option<Self> {
        let mut bytes = [0; 32];
        let digits = text.as_bytes();
        if digits.len() != 2 * bytes.len() {
            return None;
        }
        let digit = |byte: u8| char::from(byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
        for (byte, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
            *byte = digit(pair[0])? << 4 | digit(pair[1])?;
        }
        Some(Self(bytes))
    }
}

impl PartialEq for SecretHash {
    fn eq(&self, other: &Self) -> bool {
        self.matches(other).into()
    }
}

impl Eq for SecretHash {}

impl fmt::Debug for SecretHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SecretHash(..)")
    }
}

impl Serialize for SecretHash {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&hex(&self.0))
    }
}

impl<'de> Deserialize<'de> for SecretHash {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        Self::parse(&text).ok_or_else(|| {
            D::Error::custom(
                "it must be the SHA-256 of the secret: 64 hexadecimal digits, as `sha256sum` prints",
            )
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hash_is_written_as_hexadecimal_digits_and_read_back() {
        let hash = SecretHash::of(b"abc");
        let json = serde_json::to_string(&hash).unwrap();
        // The example of FIPS 180-2, appendix B.1.
        assert_eq!(json, "\"ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad\"");
        assert_eq!(serde_json::from_str::<SecretHash>(&json.to_uppercase()).unwrap(), hash);
        assert_ne!(hash, SecretHash::of(b"abd"));
        assert_eq!((hash.derived("a").len(), hash.derived("a") == hash.derived("b")), (32, false));
        assert_eq!(format!("{hash:?}"), "SecretHash(..)");
        for text in ["\"\"", "\"ba78\"", &json.replace("ba", "g0"), &json.replace("ba", "+a")] {
            assert!(serde_json::from_str::<SecretHash>(text).is_err(), "{text}");
        }
    }
}
