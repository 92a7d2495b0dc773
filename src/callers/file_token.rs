//! The token of `--token-file`: read once from a file that only its owner may read, then kept as a hash.

use std::path::Path;

use crate::error::{Code, Failure, Result};
use crate::files;
use crate::secret_hash::SecretHash;

/// The least length of a token: a shorter one can be guessed.
const LEAST_CHARACTERS: usize = 16;
/// The largest token file, in bytes: a larger one is not a token.
const MOST_BYTES: u64 = 4096;

/// Reads the token of `--token-file`.
///
/// # Errors
/// [`Code::ConfigInvalid`] if it is not a regular file of this user or root, if others than its owner
/// may read or write it, or if it does not hold a single word of at least 16 characters.
pub(super) fn read(path: &Path) -> Result<SecretHash> {
    let invalid = |message: String| Failure::new(Code::ConfigInvalid, message);
    let shown = path.display();
    let Some(text) = files::read_private("the token file", path, MOST_BYTES)? else {
        return Err(invalid(format!("could not read the token file {shown}: there is no such file"))
            .hint("check the path given with --token-file"));
    };
    let token = text.trim();
    let sound = token.chars().count() >= LEAST_CHARACTERS && token.bytes().all(|b| b.is_ascii_graphic());
    if !sound {
        let message = format!(
            "the token file {shown} must hold one word of at least {LEAST_CHARACTERS} visible ASCII characters"
        );
        let hint = format!("make one with `(umask 077; head -c 32 /dev/urandom | base64 > {shown})`");
        return Err(invalid(message).hint(hint));
    }
    Ok(SecretHash::of(token.as_bytes()))
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
