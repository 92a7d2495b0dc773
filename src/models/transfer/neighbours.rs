//! Other hives of the fleet that have a file, or are downloading it. The transfer does not know what a fleet is: whoever
//! knows that sets a [`Neighbours`].

use std::fmt;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use futures::future::BoxFuture;
use reqwest::header::{ACCEPT_ENCODING, HeaderMap, HeaderValue, RANGE};
use reqwest::{Client, Url};
use tokio::time::timeout;
use tokio_util::sync::DropGuard;

use crate::error::Code;
use crate::models::transfer::fetch::FetchResponse;
use crate::models::transfer::trouble::{FetchResult, Trouble, TroubleKind, download_failed};
use crate::outgoing::Unreached;
use crate::time::in_words;

/// Knows which other hives have a file.
pub(crate) trait Neighbours: fmt::Debug + Send + Sync {
    /// Finds who has a file. Takes a moment, also where nobody answers.
    fn find(self: Arc<Self>, wanted: WantedFile) -> BoxFuture<'static, Found>;
}

/// A file that is wanted.
#[derive(Clone, Debug)]
pub(crate) struct WantedFile {
    /// In lower-case hexadecimal.
    pub(crate) sha256: String,
    /// The hives that are not to be asked, because they have failed.
    pub(crate) without: Vec<String>,
    /// Whether this hive can get the file otherwise, and so may do that for all.
    pub(crate) can_lead: bool,
}

/// Who has a file.
#[derive(Debug, Default)]
pub(crate) struct Found {
    pub(crate) holders: Vec<Holder>,
    /// Held where this hive downloads the file for all that want it, until it has it or gives up. The others get it
    /// from here meanwhile.
    pub(crate) lead: Option<DropGuard>,
}

/// Another hive that has a file.
#[derive(Debug)]
pub(crate) struct Holder {
    /// The name of the hive.
    pub(crate) hive: String,
    /// Where it serves the file.
    pub(crate) url: Url,
    pub(crate) client: Client,
    /// What it is to be asked with.
    pub(crate) headers: HeaderMap,
    /// Whether it has all of the file. Otherwise it gives what it has, and the rest as it comes.
    pub(crate) is_complete: bool,
    /// Bytes of the file that came from it.
    pub(crate) received: AtomicU64,
}

impl Holder {
    /// Asks for bytes of the file.
    ///
    /// # Errors
    /// Where no answer begins within the time of a stall.
    pub(crate) async fn ask(&self, range: &Range<u64>, stall: Duration) -> FetchResult<FetchResponse> {
        let host = self.to_string();
        tracing::debug!(%host, ?range, "asking for a file");
        let request = self
            .client
            .get(self.url.clone())
            .headers(self.headers.clone())
            .header(ACCEPT_ENCODING, HeaderValue::from_static("identity"))
            .header(RANGE, format!("bytes={}-{}", range.start, range.end - 1));
        let sent = timeout(stall, request.send()).await.map_err(|_| {
            let failure = download_failed(format!("{host} did not answer within {}", in_words(stall)));
            Trouble::new(TroubleKind::Stalled, failure)
        })?;
        let response = sent.map_err(|error| {
            Trouble::passing(Unreached::new(error, &self.url, None).into_failure(Code::DownloadFailed))
        })?;
        Ok(FetchResponse::direct(response, self.url.clone(), host))
    }
}

impl fmt::Display for Holder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "hive '{}'", self.hive)
    }
}
