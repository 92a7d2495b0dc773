//! `tokens.toml` in the data folder: the named tokens, one for each caller that is to have its own.
//!
//! Operations change the file, and so may a person. It has the version of its format. Since it decides who may do
//! what, nothing of it is guessed: a field that this version does not know, such as a misspelt limit, makes the whole
//! file invalid, and with an invalid file the hive does not start.

use std::collections::BTreeMap;
use std::fmt;
use std::num::NonZeroU32;
use std::path::Path;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::error::{Code, Failure, Result};
use crate::files;
use crate::files::versioned::{VERSION, first_version};
use crate::secret_hash::SecretHash;
use crate::time::Instant;

/// The name of whoever has the token of `--token-file`.
pub const MANAGER: &str = "manager";
/// Names that callers without a token of their own have.
const RESERVED: [&str; 2] = [MANAGER, "unknown"];
/// The longest name of a token, in bytes.
const MOST_NAME_BYTES: usize = 64;
/// The largest file, in bytes.
const MOST_BYTES: u64 = 1 << 20;
/// What is written at the top of the file.
const HEAD: &str = "\
# The named tokens of this hive. `rbee-hive token` changes this file and keeps no comments. After a change by hand,
# `POST /v1/reload` or SIGHUP takes it over. sha256 is the hash of the secret: printf %s SECRET | sha256sum

";

/// What a caller may do. Each role may do what those before it may.
#[derive(
    Clone,
    Copy,
    Debug,
    Default,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Serialize,
    Deserialize,
    clap::ValueEnum,
    ToSchema,
)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Look at everything: models, jobs, events, metrics, logs.
    Read,
    /// Use models too, which loads them where that is needed.
    #[default]
    Use,
    /// Everything: change models, workers, engines, settings and tokens, and stop the hive.
    Manage,
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Read => "read",
            Self::Use => "use",
            Self::Manage => "manage",
        })
    }
}

/// One token.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NamedToken {
    /// The hash of the secret. The hive never has the secret but in requests.
    pub sha256: SecretHash,
    /// What its holder may do.
    #[serde(default)]
    pub role: Role,
    /// When it was made.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub created_at: Option<Instant>,
    /// From when on it counts no more.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<Instant>,
    /// The most requests to models and submissions of jobs in a minute.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub requests_per_minute: Option<NonZeroU32>,
    /// The most requests to models that are answered at once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub concurrent: Option<NonZeroU32>,
    /// The models that it may use: ids, aliases, or beginnings of these with `*` at the end. Unset is every model.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub models: Option<Vec<String>>,
}

impl NamedToken {
    /// A token of that role, without limits.
    #[must_use]
    pub const fn new(sha256: SecretHash, role: Role) -> Self {
        Self {
            sha256,
            role,
            created_at: None,
            expires_at: None,
            requests_per_minute: None,
            concurrent: None,
            models: None,
        }
    }

    /// Whether it lets its holder manage the hive for as long as it is there.
    fn is_lasting_manager(&self) -> bool {
        self.role == Role::Manage && self.expires_at.is_none()
    }
}

/// What the settings require of the tokens.
#[derive(Clone, Debug)]
pub struct Exposure {
    /// Whether the manager has the token of `--token-file`.
    pub has_token_file: bool,
    /// The address by which others than this machine's users reach the hive.
    pub beyond_loopback: Option<String>,
}

/// The contents of the file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Tokens {
    #[serde(default = "first_version")]
    version: u64,
    /// The tokens, by their names.
    #[serde(default)]
    pub tokens: BTreeMap<String, NamedToken>,
}

impl Default for Tokens {
    fn default() -> Self {
        Self { version: VERSION, tokens: BTreeMap::new() }
    }
}

impl Tokens {
    /// Reads the file; where there is none, there are no tokens.
    ///
    /// # Errors
    /// [`Code::ConfigInvalid`], naming the file, the line and what to do.
    pub fn read(path: &Path) -> Result<Self> {
        let text = files::read_private("the file of tokens", path, MOST_BYTES)?;
        text.map_or_else(|| Ok(Self::default()), |text| Self::parse(&text, path))
    }

    fn parse(text: &str, path: &Path) -> Result<Self> {
        #[derive(Deserialize)]
        struct VersionField {
            version: Option<toml::Value>,
        }
        let path = path.display();
        let invalid = |why: &dyn fmt::Display| {
            let message = format!("the file of tokens {path} is not valid: {why}");
            Failure::new(Code::ConfigInvalid, message).hint(
                "mend it, or move it away: then only the token of --token-file counts; docs/CONFIGURATION.md \
                 describes it",
            )
        };
        let VersionField { version } =
            toml::from_str(text).map_err(|error| invalid(&error.to_string().trim()))?;
        if version.is_some_and(|version| version.as_integer().is_none_or(|v| v > VERSION.cast_signed())) {
            return Err(invalid(&"a newer version of rbee-hive wrote it"));
        }
        let read: Self = toml::from_str(text).map_err(|error| invalid(&error.to_string().trim()))?;
        for (name, token) in &read.tokens {
            check_name(name).map_err(|failure| invalid(&failure.message))?;
            if read.tokens.iter().any(|(other, of)| other != name && of.sha256 == token.sha256) {
                return Err(invalid(&format_args!("the token '{name}' has the secret of another one")));
            }
        }
        Ok(read)
    }

    /// The text of the file.
    ///
    /// # Errors
    /// None that is expected: they are plain data.
    pub(crate) fn to_text(&self) -> Result<String> {
        let text = toml::to_string(self)
            .map_err(|error| Failure::internal("the tokens did not serialise").detail(error))?;
        Ok(format!("{HEAD}{text}"))
    }

    /// Checks that these tokens let in whom they should: not everybody on the network, and somebody who can manage
    /// the hive.
    ///
    /// # Errors
    /// [`Code::ConfigInvalid`], saying what to do.
    pub fn check(&self, exposure: &Exposure) -> Result<()> {
        if exposure.has_token_file {
            return Ok(());
        }
        if self.tokens.is_empty() {
            let Some(address) = &exposure.beyond_loopback else { return Ok(()) };
            let message = format!("binding {address} without a token would let anyone on the network in");
            return Err(Failure::new(Code::ConfigInvalid, message).hint(
                "make a token with `(umask 077; head -c 32 /dev/urandom | base64 > hive.token)` and pass \
                 --token-file hive.token, or bind 127.0.0.1",
            ));
        }
        if self.tokens.values().any(NamedToken::is_lasting_manager) {
            return Ok(());
        }
        let message = "no token with the role `manage` that does not expire would be left: nobody could manage the hive";
        Err(Failure::new(Code::ConfigInvalid, message)
            .hint("make one with the role `manage` first, or start the hive with --token-file"))
    }
}

/// Checks the name of a token: it stands for its holder in lists, logs and counts, and looks like no address there.
///
/// # Errors
/// [`Code::InvalidField`].
pub fn check_name(name: &str) -> Result<()> {
    let is_name = name.len() <= MOST_NAME_BYTES
        && name.starts_with(|c: char| c.is_ascii_alphabetic())
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'));
    if is_name && !RESERVED.contains(&name) {
        return Ok(());
    }
    let name = crate::text::excerpt(name);
    Err(Failure::new(Code::InvalidField, format!("'{name}' cannot be the name of a token")).hint(
        "a name begins with a letter and has letters, digits and `._-`, 64 at most; `manager` and `unknown` are taken",
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHA: &str = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";

    fn parse(text: &str) -> Result<Tokens> {
        Tokens::parse(text, Path::new("/data/tokens.toml"))
    }

    fn open() -> Exposure {
        Exposure { has_token_file: false, beyond_loopback: None }
    }

    #[test]
    fn what_is_written_is_read_back() {
        let text = format!(
            "[tokens.ci]\nsha256 = \"{SHA}\"\nrole = \"manage\"\nexpires_at = \"2027-01-01T00:00:00Z\"\n\
             requests_per_minute = 60\nconcurrent = 2\nmodels = [\"a/b:Q4_K_M\", \"small*\"]\n"
        );
        let read = parse(&text).unwrap();
        assert_eq!(read.tokens["ci"].models.as_ref().map(Vec::len), Some(2));
        let written = read.to_text().unwrap();
        assert!(written.starts_with("# The named tokens"), "{written}");
        assert_eq!(parse(&written).unwrap(), read);
        assert_eq!(parse("").unwrap(), Tokens::default());
        let least = parse(&format!("[tokens.a]\nsha256 = \"{SHA}\"\n")).unwrap();
        assert_eq!((least.tokens["a"].role, &least.tokens["a"].models), (Role::Use, &None));
    }

    #[test]
    fn what_is_not_understood_is_refused_with_the_file_and_the_line() {
        let token = format!("[tokens.ci]\nsha256 = \"{SHA}\"\n");
        for (text, told) in [
            (format!("{token}requests_per_minutes = 5\n"), "line 3"),
            (format!("{token}concurrent = 0\n"), "line 3"),
            (format!("{token}role = \"root\"\n"), "line 3"),
            ("[tokens.ci]\nsha256 = \"secret\"\n".to_owned(), "64 hexadecimal digits"),
            ("[tokens.ci]\nrole = \"use\"\n".to_owned(), "sha256"),
            ("[tokens".to_owned(), "line 1"),
            ("[token.ci]\n".to_owned(), "token"),
            ("version = 2\n[keys]\n".to_owned(), "newer version"),
            ("version = \"1\"\n".to_owned(), "newer version"),
            (format!("{token}[tokens.b]\nsha256 = \"{SHA}\"\n"), "the secret of another"),
            (token.replace("ci", "manager"), "'manager'"),
            (token.replace("ci", "\"127.0.0.1\""), "'127.0.0.1'"),
        ] {
            let failure = parse(&text).expect_err(&text);
            assert_eq!(failure.code, Code::ConfigInvalid);
            assert!(
                failure.message.contains("/data/tokens.toml") && failure.message.contains(told),
                "{failure}"
            );
            assert!(failure.hint.is_some());
        }
    }

    #[test]
    fn somebody_can_manage_the_hive_and_not_everybody_on_the_network_is_let_in() {
        let with = |more: &str| parse(&format!("[tokens.a]\nsha256 = \"{SHA}\"\n{more}")).unwrap();
        let beyond = Exposure { beyond_loopback: Some("0.0.0.0".to_owned()), ..open() };
        let file = Exposure { has_token_file: true, ..beyond.clone() };
        Tokens::default().check(&open()).unwrap();
        Tokens::default().check(&beyond).unwrap_err();
        Tokens::default().check(&file).unwrap();
        let brief = "role = \"manage\"\nexpires_at = \"2999-01-01T00:00:00Z\"\n";
        for (more, is_enough) in [("", false), (brief, false), ("role = \"manage\"\n", true)] {
            for exposure in [open(), beyond.clone()] {
                assert_eq!(with(more).check(&exposure).is_ok(), is_enough, "{more}");
            }
            with(more).check(&file).unwrap();
        }
    }

    #[test]
    fn names_look_like_no_address() {
        for name in ["ci", "Alice.laptop-2", "a"] {
            check_name(name).unwrap();
        }
        for name in
            ["", "1a", "127.0.0.1", "::1", "user 1000", "manager", "unknown", "a/b", "ä", &"a".repeat(65)]
        {
            assert!(check_name(name).is_err(), "{name}");
        }
    }
}
