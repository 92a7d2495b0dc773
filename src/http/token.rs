//! The bearer token: read once from a file that only its owner may read, then kept and compared as a
//! hash with what a request sends.

use std::fmt;
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use axum::http::header::AUTHORIZATION;
use axum::http::{HeaderMap, HeaderName};
use sha2::{Digest, Sha256};
use subtle::{Choice, ConstantTimeEq};

use crate::error::{Code, Failure, Result};
use crate::files;

/// The least length of a token: a shorter one can be guessed.
const LEAST_CHARACTERS: usize = 16;
/// The largest token file, in bytes: a larger one is not a token.
const MOST_BYTES: u64 = 4096;

/// The SHA-256 hash of a secret. Comparing hashes takes constant time and does not reveal the secret's
/// length.
#[derive(Clone, Copy)]
pub(crate) struct SecretHash([u8; 32]);

impl SecretHash {
    /// The hash of a secret.
    pub(crate) fn of(secret: &[u8]) -> Self {
        Self(Sha256::digest(secret).into())
    }

    /// Whether both are of the same secret, compared in constant time.
    pub(crate) fn matches(&self, other: &Self) -> Choice {
        self.0.ct_eq(&other.0)
    }
}

impl fmt::Debug for SecretHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SecretHash(..)")
    }
}

/// Reads the token of `--token-file`.
///
/// # Errors
/// [`Code::ConfigInvalid`] if it is not a regular file of this user or root, if others than its owner
/// may read or write it, or if it does not hold a single word of at least 16 characters.
pub(crate) fn read(path: &Path) -> Result<SecretHash> {
    let invalid = |message: String| Failure::new(Code::ConfigInvalid, message);
    let unreadable = |error: std::io::Error| {
        invalid(format!("could not read the token file {}: {error}", path.display()))
            .hint("check the path given with --token-file")
    };
    let file = files::open(path).map_err(unreadable)?;
    let metadata = file.metadata().map_err(unreadable)?;
    let owner = metadata.uid();
    if owner != rustix::process::geteuid().as_raw() && owner != 0 {
        return Err(invalid(format!("the token file {} belongs to another user ({owner})", path.display()))
            .hint("make a token file of your own: its owner knows the token, and can change it"));
    }
    let mode = metadata.mode() & 0o777;
    if mode & 0o077 != 0 {
        return Err(invalid(format!(
            "the token file {} can be used by others than its owner (mode {mode:04o})",
            path.display()
        ))
        .hint(format!("run `chmod 600 {}`", path.display())));
    }
    let mut text = String::new();
    file.take(MOST_BYTES + 1).read_to_string(&mut text).map_err(unreadable)?;
    if text.len() as u64 > MOST_BYTES {
        return Err(invalid(format!("the token file {} is larger than {MOST_BYTES} bytes", path.display()))
            .hint("pass a file that holds nothing but the token"));
    }
    let token = text.trim();
    let sound = token.chars().count() >= LEAST_CHARACTERS && token.bytes().all(|b| b.is_ascii_graphic());
    if !sound {
        return Err(invalid(format!(
            "the token file {} must hold one word of at least {LEAST_CHARACTERS} visible ASCII characters",
            path.display()
        ))
        .hint(format!(
            "make one with `(umask 077; head -c 32 /dev/urandom | base64 > {})`",
            path.display()
        )));
    }
    Ok(SecretHash::of(token.as_bytes()))
}

/// The token of the one `Authorization: Bearer` header (RFC 6750 section 2.1), or of the one
/// `x-api-key`, which some client libraries send in its place.
pub(crate) fn given(headers: &HeaderMap) -> Option<&[u8]> {
    let only = |name: HeaderName| {
        let mut values = headers.get_all(name).iter();
        values.next().filter(|_| values.next().is_none())
    };
    match only(AUTHORIZATION) {
        Some(header) => {
            let (scheme, token) = header.as_bytes().split_at_checked(7)?;
            scheme.eq_ignore_ascii_case(b"bearer ").then(|| token.trim_ascii())
        }
        None if headers.contains_key(AUTHORIZATION) => None,
        None => only(HeaderName::from_static("x-api-key")).map(|key| key.as_bytes().trim_ascii()),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn file(text: &str, mode: u32) -> tempfile::NamedTempFile {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), text).unwrap();
        std::fs::set_permissions(file.path(), std::fs::Permissions::from_mode(mode)).unwrap();
        file
    }

    #[test]
    fn a_private_file_with_a_long_word_is_a_token() {
        let hash = read(file("0123456789abcdef\n", 0o600).path()).unwrap();
        assert!(bool::from(hash.matches(&SecretHash::of(b"0123456789abcdef"))));
        assert!(!bool::from(hash.matches(&SecretHash::of(b"0123456789abcdeF"))));
        assert_eq!(format!("{hash:?}"), "SecretHash(..)");
    }

    #[test]
    fn any_other_file_is_refused_with_a_hint() {
        let open = read(file("0123456789abcdef", 0o640).path()).unwrap_err();
        assert_eq!(open.code, Code::ConfigInvalid);
        assert!(open.hint.unwrap().contains("chmod 600"));
        let short = read(file("  short  \n", 0o600).path()).unwrap_err();
        assert!(short.message.contains("at least 16"), "{short}");
        assert!(read(file("two words of some length", 0o400).path()).is_err());
        assert!(read(Path::new("/nonexistent/token")).unwrap_err().message.contains("/nonexistent/token"));
        assert!(read(Path::new("/dev/null")).unwrap_err().message.contains("not a regular file"));
        let longest = "x".repeat(4096);
        assert!(read(file(&longest, 0o600).path()).is_ok());
        let long = read(file(&format!("{longest}x"), 0o600).path()).unwrap_err();
        assert!(long.message.contains("larger than 4096"), "{long}");
    }

    #[test]
    fn a_fifo_and_the_file_of_another_user_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        let fifo = dir.path().join("fifo");
        rustix::fs::mkfifoat(rustix::fs::CWD, &fifo, 0o600.into()).unwrap();
        assert!(read(&fifo).unwrap_err().message.contains("not a regular file"));
        // Only root can give a file away.
        let file = file("0123456789abcdef", 0o600);
        if std::os::unix::fs::chown(file.path(), Some(12_345), None).is_ok() {
            let foreign = read(file.path()).unwrap_err();
            assert!(foreign.message.contains("another user (12345)"), "{foreign}");
        }
    }
}
