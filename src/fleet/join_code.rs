//! The code of an invitation: what a machine needs that joins a fleet, in one word.
//!
//! It begins with a version and the hash of the certificate of the fleet's authority, so that who joins trusts nothing
//! else, and ends with a secret that is for one hive and one use. The hive that invites makes the beginning; it never
//! has the secret, only its hash, so that no journal and no log has it.

use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;

use crate::error::{Code, Failure, Result};

/// The first byte of a code.
const VERSION: u8 = 1;
/// How many characters the version and the hash are: 33 bytes of six bits a character.
const BEGINNING: usize = 44;
/// The fewest characters of a secret: 128 bits, of six bits a character.
const SHORTEST: usize = 22;
/// The most characters of a secret.
const LONGEST: usize = 128;

/// A code that was read.
pub(super) struct JoinCode {
    /// The hash of the authority's certificate.
    pub(super) authority: [u8; 32],
    pub(super) secret: String,
}

/// The beginning of the codes of a fleet; the secret comes behind it.
pub(super) fn beginning(authority: &[u8; 32]) -> String {
    let mut bytes = vec![VERSION];
    bytes.extend_from_slice(authority);
    BASE64_URL_SAFE_NO_PAD.encode(bytes)
}

impl JoinCode {
    /// Reads a code.
    ///
    /// # Errors
    /// [`Code::InvalidField`], without the code.
    pub(super) fn parse(text: &str) -> Result<Self> {
        let invalid = |what: &str| {
            Failure::new(Code::InvalidField, format!("code: {what}"))
                .hint("copy the whole line that `rbee-hive fleet invite` prints on the machine of the fleet")
        };
        let text = text.trim();
        let (beginning, secret) = text
            .split_at_checked(BEGINNING)
            .ok_or_else(|| invalid("too short for a code of an invitation"))?;
        let is_plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_');
        if !(SHORTEST..=LONGEST).contains(&secret.len()) || !secret.chars().all(is_plain) {
            return Err(invalid("its end is not the secret of an invitation"));
        }
        let bytes =
            BASE64_URL_SAFE_NO_PAD.decode(beginning).map_err(|_| invalid("not a code of an invitation"))?;
        match bytes.split_first() {
            Some((&VERSION, hash)) => Ok(Self {
                authority: hash.try_into().map_err(|_| invalid("not a code of an invitation"))?,
                secret: secret.to_owned(),
            }),
            _ => {
                Err(invalid("of another version of rbee-hive").hint("use the same version on both machines"))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_code_is_read_back_and_damaged_ones_are_refused_without_being_shown() {
        let secret = "s3cret-s3cret_s3cret-s3cret";
        let code = format!("{}{secret}", beginning(&[7; 32]));
        let read = JoinCode::parse(&format!(" {code}\n")).unwrap();
        assert_eq!((read.authority, read.secret.as_str()), ([7; 32], secret));
        // A command line would take it for a flag.
        assert!(!code.starts_with('-'));
        let other_version = format!("C{}", &code[1..]);
        for damaged in ["", &code[..50], &code[1..], &format!("{code}!"), &other_version, &format!("é{code}")]
        {
            let failure = JoinCode::parse(damaged).err().unwrap();
            assert_eq!(failure.code, Code::InvalidField, "{damaged}");
            assert!(!format!("{failure:?}").contains("s3cret"), "{failure:?}");
        }
    }
}
