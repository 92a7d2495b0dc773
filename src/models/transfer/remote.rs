//! What a transfer needs to know of a file: where to get it ([`RemoteFile`]) and where to put it
//! ([`Destination`]). The transfer knows nothing of the sources that state this.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use reqwest::Url;
use reqwest::header::HeaderValue;
use serde::{Deserialize, Serialize};

use crate::error::Failure;
use crate::models::gguf::Header;
use crate::models::transfer::purpose::Purpose;
use crate::origin::without_brackets;

/// What every GGUF file begins with.
pub(crate) const GGUF_MAGIC: &[u8] = b"GGUF";

/// The scheme of the URL of a file that other hives have, and nobody else: `hive://NAME/blobs/SHA256`.
pub(crate) const HIVE: &str = "hive";

/// One remote file, resolved: what the transfer needs to know.
#[derive(Clone, Debug)]
pub(crate) struct RemoteFile {
    /// What the file is for.
    pub(crate) purpose: Purpose,
    /// The file's name in narrations.
    pub(crate) name: String,
    /// As [`crate::models::Model::source`]; without a query, which may hold a signature.
    pub(crate) source: String,
    /// One of scheme [`HIVE`] where only other hives have it. Redirects are followed, and the URL that they led to is asked directly until it refuses.
    pub(crate) url: Url,
    pub(crate) credentials: Option<Credentials>,
    /// Size in bytes, where the source says. A server that disagrees fails the transfer.
    pub(crate) size: Option<u64>,
    /// The SHA-256 that the source promises, in lower-case hexadecimal.
    pub(crate) sha256: Option<String>,
    /// The source's own name of this version of the file (an `ETag`, a digest, a commit). Of two
    /// transfers to one target, the later resumes the earlier only where these agree.
    pub(crate) version: Option<String>,
    /// The model that the file belongs to, where it is none itself.
    pub(crate) companion_of: Option<ModelFile>,
    /// The file's first bytes; empty where they may be any.
    pub(crate) magic: &'static [u8],
    /// Judges the file by its beginning, while the rest is still to come.
    pub(crate) vet: Vet,
    /// Decides which addresses may be connected to.
    pub(crate) trust: Trust,
}

/// The first file of a model, as a companion of the model remembers it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ModelFile {
    /// As [`RemoteFile::name`].
    pub(crate) name: String,
    /// The name of its target, which is in the same folder as the companion's.
    pub(crate) target: String,
}

impl RemoteFile {
    /// Whether only other hives have it.
    pub(crate) fn is_of_hives_alone(&self) -> bool {
        self.url.scheme() == HIVE
    }
}

impl ModelFile {
    /// The path of the model's file; `companion` is the target of the companion.
    pub(crate) fn beside(&self, companion: &Path) -> PathBuf {
        companion.with_file_name(Path::new(&self.target).file_name().unwrap_or_default())
    }
}

/// See [`RemoteFile::vet`]. Receives the file's name, its first bytes and, where it is known, its size.
pub(crate) type Vet = fn(&str, &[u8], Option<u64>) -> Verdict;

/// What the first bytes of a file tell.
#[derive(Debug)]
pub(crate) enum Verdict {
    /// Nothing yet: more bytes are needed.
    Undecided,
    /// The file can be used, perhaps with a warning. `header` is that of a model.
    Usable { warning: Option<String>, header: Option<Box<Header>> },
    /// The file is of no use.
    Unusable(Failure),
}

/// An `Authorization` header for one server. No other server is sent it, not after a redirect either.
#[derive(Clone)]
pub(crate) struct Credentials {
    /// Host and port of that server.
    host: (String, u16),
    https: bool,
    header: HeaderValue,
}

/// Which servers a transfer may connect to, besides those of the public internet over https.
#[derive(Clone, Debug)]
pub(crate) enum Trust {
    /// The user named the URL: where only this machine can reach the hive, its server may be on this
    /// machine's loopback.
    Named,
    /// The URL belongs to this configured endpoint, which may be anywhere, over plain http too. Where it
    /// is on loopback or a private network, it may redirect to others there.
    Endpoint(Url),
}

/// Where a file goes.
#[derive(Clone)]
pub(crate) struct Destination {
    /// The path until the file is complete, on the same file system as `target`. The journal's path has
    /// `.journal` added to it.
    pub(crate) partial: PathBuf,
    /// The path of the complete file. Jobs with the same target share one transfer.
    pub(crate) target: PathBuf,
    /// A lock file of other programs to hold while the file is written (huggingface_hub's
    /// `.locks/…/ETAG.lock`). It is created where it is missing.
    pub(crate) lock: Option<PathBuf>,
    /// Whether to replace a file that is at `target`.
    pub(crate) replace: bool,
    /// Checks the complete, verified file at the given path, and writes the records that must be on
    /// the disk before the file gets its name. Runs on the blocking pool.
    pub(crate) accept: Accept,
    /// The folders to remove, in this order, where discarding the partial file leaves them empty.
    pub(crate) empty_folders: Vec<PathBuf>,
}

/// See [`Destination::accept`].
pub(crate) type Accept = Arc<dyn Fn(&Path, &StoredFile) -> Result<(), Refusal> + Send + Sync>;

/// Why [`Destination::accept`] refuses a file.
#[derive(Debug)]
pub(crate) enum Refusal {
    /// The file is of no use: it is removed.
    Unusable(Failure),
    /// This machine could not check or record the file: it is kept, to be resumed.
    Unfinished(Failure),
}

/// A complete file under its final name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct StoredFile {
    /// Size in bytes.
    pub(crate) size: u64,
    /// In lower-case hexadecimal; `None` where the file was there already and was not hashed.
    pub(crate) sha256: Option<String>,
    /// Whether the hash was compared with one that the source promised.
    pub(crate) is_verified: bool,
}

impl From<Refusal> for Failure {
    fn from(refusal: Refusal) -> Self {
        match refusal {
            Refusal::Unusable(failure) | Refusal::Unfinished(failure) => failure,
        }
    }
}

/// The host and the port of a URL that has both. An IPv6 address has no brackets.
pub(crate) fn authority(url: &Url) -> Option<(String, u16)> {
    Some((without_brackets(url.host_str()?).to_owned(), url.port_or_known_default()?))
}

impl Credentials {
    /// A bearer token for the server of `url` alone. `None` where the token cannot be a header.
    pub(crate) fn bearer(url: &Url, token: &str) -> Option<Self> {
        let mut header = HeaderValue::from_str(&format!("Bearer {token}")).ok()?;
        header.set_sensitive(true);
        Some(Self { host: authority(url)?, https: url.scheme() == "https", header })
    }

    /// The header, if `url` is of the server that it is for, by the same scheme or a safer one.
    pub(crate) fn for_url(&self, url: &Url) -> Option<HeaderValue> {
        let same_host = authority(url).is_some_and(|host| host == self.host);
        (same_host && (!self.https || url.scheme() == "https")).then(|| self.header.clone())
    }
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credentials").field("host", &self.host).finish_non_exhaustive()
    }
}

impl fmt::Debug for Destination {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Destination").field("target", &self.target).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_shown_to_its_own_server_alone() {
        let url = |text| Url::parse(text).unwrap();
        let token = Credentials::bearer(&url("https://hub.example/api"), "secret").unwrap();
        assert!(token.for_url(&url("https://hub.example/x")).is_some());
        for other in ["http://hub.example:443/x", "https://hub.example:444/x", "https://cdn.example/x"] {
            assert!(token.for_url(&url(other)).is_none(), "{other}");
        }
        assert!(!format!("{token:?}").contains("secret"));
    }
}
