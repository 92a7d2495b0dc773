//! What the head of an answer tells of its file, and whether that is the file of the transfer.

use std::ops::Range;

use reqwest::StatusCode;
use reqwest::header::{CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, ETAG, LAST_MODIFIED};

use crate::error::{Code, Failure};
use crate::models::transfer::fetch::FetchResponse;
use crate::models::transfer::journal::Head;
use crate::models::transfer::remote::RemoteFile;
use crate::models::transfer::trouble::{FetchResult, Trouble, TroubleKind, download_failed};

/// An answer to a request for a file, or for bytes of it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct FileAnswer {
    /// Whether it is 416, which has no body of the file, and not 200 or 206.
    pub(crate) is_unsatisfiable: bool,
    /// The bytes of the file that the body has; `None` where it is the whole file.
    pub(crate) range: Option<Range<u64>>,
    /// The file's size, if the server tells it.
    pub(crate) size: Option<u64>,
    /// The server's name of this version of the file.
    pub(crate) validator: Option<String>,
}

/// What is known of the file in one attempt.
#[derive(Debug)]
pub(crate) struct Identity {
    pub(crate) head: Head,
    /// Whether a first answer, or the journal, tells which file this is. From then on, an answer that
    /// tells otherwise is a failure.
    pub(crate) is_known: bool,
}

/// What to do with an answer that is not a failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Judgement {
    /// Receive its body. It is the first that tells which file this is.
    First,
    /// Receive its body.
    Receive,
    /// Ask for the whole file instead.
    AskForWhole,
}

impl FileAnswer {
    /// Reads the head of the answer to a request for `asked`, or for the whole file.
    ///
    /// # Errors
    /// Where it is no success, no file, or of other bytes than were asked for.
    pub(crate) fn read(response: &FetchResponse, asked: Option<&Range<u64>>) -> FetchResult<Self> {
        let host = &response.host;
        let status = response.response.status();
        let content_range = response.header(CONTENT_RANGE).map(str::trim);
        if status == StatusCode::RANGE_NOT_SATISFIABLE && asked.is_some() {
            let size = content_range.and_then(|range| range.strip_prefix("bytes */"));
            let size = size.and_then(|size| size.trim().parse().ok());
            return Ok(Self { is_unsatisfiable: true, size, ..Self::default() });
        }
        if !matches!(status, StatusCode::OK | StatusCode::PARTIAL_CONTENT) {
            return Err(response.trouble());
        }
        let encoding = response.header(CONTENT_ENCODING);
        if encoding.is_some_and(|encoding| !encoding.eq_ignore_ascii_case("identity")) {
            return Err(Trouble::fatal(
                download_failed(format!("{host} sent the file in an encoding that was not asked for"))
                    .hint("use a URL of the file itself"),
            ));
        }
        let media_type = response.header(CONTENT_TYPE).map(|text| text.trim_start().to_ascii_lowercase());
        if media_type.is_some_and(|media_type| media_type.starts_with("text/html")) {
            return Err(Trouble::fatal(
                download_failed(format!("{host} sent a web page instead of a file"))
                    .hint("use the link of the download itself, not of the page around it"),
            ));
        }
        let (range, size) = if status == StatusCode::OK {
            (None, response.header(CONTENT_LENGTH).and_then(|length| length.trim().parse().ok()))
        } else {
            let parsed = content_range.and_then(parse_content_range);
            let (range, size) = parsed.ok_or_else(|| {
                let message = format!("{host} sent a part of the file and did not say which");
                Trouble::passing(download_failed(message))
            })?;
            (Some(range), size)
        };
        if range.as_ref().is_some_and(|range| asked.is_none_or(|asked| range.start != asked.start)) {
            let message = format!("{host} sent other bytes of the file than were asked for");
            return Err(Trouble::passing(download_failed(message)));
        }
        if size == Some(0) {
            return Err(empty_file(host));
        }
        // A weak ETag tells nothing about bytes (RFC 9110, section 13.1.5).
        let validator = response
            .header(ETAG)
            .filter(|etag| etag.starts_with('"'))
            .or_else(|| response.header(LAST_MODIFIED))
            .map(ToOwned::to_owned);
        Ok(Self { is_unsatisfiable: false, range, size, validator })
    }

    /// Offset in the file at which the body ends, if the server tells it.
    pub(crate) fn end(&self) -> Option<u64> {
        self.range.as_ref().map(|range| range.end).or(self.size)
    }
}

impl Identity {
    /// Whether the bytes received so far can be combined with those of another request.
    pub(crate) fn is_resumable(&self) -> bool {
        self.is_known && self.head.is_resumable()
    }

    /// Judges the answer of a server. A first answer completes the head.
    ///
    /// # Errors
    /// Where the answer is of another version of the file, or of an empty file.
    pub(crate) fn judge(
        &mut self,
        file: &RemoteFile,
        host: &str,
        answer: &FileAnswer,
    ) -> FetchResult<Judgement> {
        if answer.is_unsatisfiable {
            return match (answer.size, self.head.size.or(file.size)) {
                (Some(0), None | Some(0)) => Err(empty_file(host)),
                (Some(size), Some(known)) if size != known => Err(changed(file, host)),
                // The server may not do ranges after all.
                _ => Ok(Judgement::AskForWhole),
            };
        }
        let is_promised = file.sha256.is_some() || file.version.is_some();
        if let (Some(size), Some(promised)) = (answer.size, file.size)
            && is_promised
            && size != promised
        {
            // One of a server's machines may be behind the others, or a proxy in between.
            return Err(Trouble::passing(
                download_failed(format!("{host} has {size} bytes of the file, which should have {promised}"))
                    .hint("the server has another file than its catalog says: try again later"),
            ));
        }
        if self.is_known {
            let is_other_size = answer.size.is_some() && answer.size != self.head.size;
            let is_other_version = match (&answer.validator, &self.head.validator) {
                // An ETag cannot be compared with a date.
                (Some(one), Some(other)) => one.starts_with('"') == other.starts_with('"') && one != other,
                _ => false,
            };
            if is_other_size || is_other_version {
                return Err(changed(file, host));
            }
        }
        let can_combine = self.is_known || answer.validator.is_some() || file.sha256.is_some();
        if answer.range.is_some() && (answer.size.is_none() || !can_combine) {
            return Ok(Judgement::AskForWhole);
        }
        if self.is_known || answer.size.is_none() {
            return Ok(Judgement::Receive);
        }
        self.head.size = answer.size;
        self.head.validator.clone_from(&answer.validator);
        self.is_known = true;
        Ok(Judgement::First)
    }
}

fn changed(file: &RemoteFile, host: &str) -> Trouble {
    let failure = download_failed(format!("{host} has another version of {} now", file.name))
        .hint("the file changes while it is being downloaded: try again when that has ended");
    Trouble::new(TroubleKind::Changed, failure)
}

/// The failure of a transfer of a file without bytes.
pub(crate) fn empty_file(host: &str) -> Trouble {
    Trouble::fatal(
        Failure::new(Code::ModelCorrupt, format!("{host} sent an empty file"))
            .hint("check the URL in a browser: it must lead to the file itself"),
    )
}

/// `bytes 0-99/1000` or `bytes 0-99/*` (RFC 9110, section 14.4).
fn parse_content_range(text: &str) -> Option<(Range<u64>, Option<u64>)> {
    let (range, size) = text.strip_prefix("bytes ")?.split_once('/')?;
    let (first, last) = range.split_once('-')?;
    let (first, last): (u64, u64) = (first.trim().parse().ok()?, last.trim().parse().ok()?);
    let size = match size.trim() {
        "*" => None,
        size => Some(size.parse().ok()?),
    };
    let is_sound = first <= last && last < u64::MAX && size.is_none_or(|size| last < size);
    is_sound.then(|| (first..last + 1, size))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_content_range_is_parsed_or_refused() {
        assert_eq!(parse_content_range("bytes 0-99/1000"), Some((0..100, Some(1000))));
        assert_eq!(parse_content_range("bytes 5-5/*"), Some((5..6, None)));
        for bad in [
            "bytes */10",
            "bytes 9-3/10",
            "bytes 0-10/10",
            "items 0-1/2",
            "bytes 0-18446744073709551615/*",
            "",
        ] {
            assert_eq!(parse_content_range(bad), None, "{bad}");
        }
    }
}
