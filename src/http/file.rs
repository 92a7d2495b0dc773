//! A file as an answer: all of it or one range (RFC 9110, section 14).
//!
//! Invariants:
//! - What is sent comes from one open file: one that takes its place meanwhile is not mixed into it.
//! - Little of the file is in memory, however slowly its reader takes it.
//! - A file that turns out to be shorter than promised breaks the connection; it never looks complete.

use std::io::{self, Seek, SeekFrom};
use std::ops::RangeInclusive;

use axum::body::{Body, Bytes};
use axum::http::header::{
    ACCEPT_RANGES, CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, ETAG, IF_MATCH, IF_RANGE, RANGE,
};
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode};
use axum::response::{IntoResponse, Response};
use futures::{Stream, StreamExt};
use tokio::io::AsyncReadExt;
use tokio_util::io::ReaderStream;

use super::kept::is_current;
use super::problem::Problem;
use crate::error::Failure;
use crate::models::shared::SharedFile;

/// How much of a file is read at once, in bytes.
const PIECE: usize = 256 << 10;

/// What a request wants of a file.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Wanted {
    All,
    Part(RangeInclusive<u64>),
    /// Nothing that is there.
    Beyond,
}

/// Answers `GET` or `HEAD` with the file. Its version is its entity tag.
pub(crate) fn answer(shared: SharedFile, method: &Method, headers: &HeaderMap) -> Response {
    let SharedFile { mut file, size, version, permit } = shared;
    let Ok(tag) = HeaderValue::try_from(format!("\"{version}\"")) else {
        return Problem::from(Failure::internal("a file has a version that no header can have"))
            .into_response();
    };
    let wanted = wanted(method, headers, &tag, size);
    let mut response = if !is_expected(headers, &tag) {
        StatusCode::PRECONDITION_FAILED.into_response()
    } else if is_current(headers, &tag) {
        StatusCode::NOT_MODIFIED.into_response()
    } else if wanted == Wanted::Beyond {
        beyond(size)
    } else {
        let (first, length) = match &wanted {
            Wanted::Part(range) => (*range.start(), range.end() - range.start() + 1),
            _ => (0, size),
        };
        let body = if *method == Method::HEAD {
            Body::empty()
        } else {
            if let Err(error) = file.seek(SeekFrom::Start(first)) {
                let failure = Failure::internal("a file could not be read").detail(error);
                return Problem::from(failure).into_response();
            }
            let read = tokio::fs::File::from_std(file).take(length);
            let whole = whole(ReaderStream::with_capacity(read, PIECE), length);
            Body::from_stream(whole.map(move |piece| {
                let _is_open = &permit;
                piece
            }))
        };
        match wanted {
            Wanted::Part(range) => part(&range, size, body),
            _ => sent(StatusCode::OK, length, body),
        }
    };
    response.headers_mut().insert(ETAG, tag);
    response.headers_mut().insert(ACCEPT_RANGES, HeaderValue::from_static("bytes"));
    response
}

/// The answer with that range of a file of that size.
pub(super) fn part(range: &RangeInclusive<u64>, size: u64, body: Body) -> Response {
    let (first, last) = (range.start(), range.end());
    let mut response = sent(StatusCode::PARTIAL_CONTENT, last - first + 1, body);
    if let Ok(range) = HeaderValue::try_from(format!("bytes {first}-{last}/{size}")) {
        response.headers_mut().insert(CONTENT_RANGE, range);
    }
    response.headers_mut().insert(ACCEPT_RANGES, HeaderValue::from_static("bytes"));
    response
}

/// The answer where a file of that size ends before the range that is asked for.
pub(super) fn beyond(size: u64) -> Response {
    (StatusCode::RANGE_NOT_SATISFIABLE, [(CONTENT_RANGE, format!("bytes */{size}"))]).into_response()
}

fn sent(status: StatusCode, length: u64, body: Body) -> Response {
    let mut response = (status, [(CONTENT_TYPE, "application/octet-stream")], body).into_response();
    response.headers_mut().insert(CONTENT_LENGTH, length.into());
    response
}

/// The pieces, and an error where they end before there are so many bytes.
fn whole(
    pieces: impl Stream<Item = io::Result<Bytes>> + Unpin + Send,
    length: u64,
) -> impl Stream<Item = io::Result<Bytes>> + Send {
    futures::stream::unfold((pieces, length), async |(mut pieces, left)| {
        let piece = match pieces.next().await {
            None if left == 0 => return None,
            None => Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the file has become shorter")),
            Some(piece) => piece,
        };
        let left = piece.as_ref().map_or(0, |piece| left.saturating_sub(piece.len() as u64));
        Some((piece, (pieces, left)))
    })
}

/// What is wanted of a file of that size. A range that is malformed, of another unit, or one of several is passed
/// over, as RFC 9110 allows (section 14.2), and so is one of another version of the file (section 13.1.5).
fn wanted(method: &Method, headers: &HeaderMap, tag: &HeaderValue, size: u64) -> Wanted {
    let is_of_this_version = headers.get(IF_RANGE).is_none_or(|version| version == tag);
    let mut ranges = headers.get_all(RANGE).iter();
    let (Some(range), None) = (ranges.next(), ranges.next()) else { return Wanted::All };
    if *method != Method::GET || !is_of_this_version {
        return Wanted::All;
    }
    let parsed = range.to_str().ok().and_then(|range| http_range_header::parse_range_header(range).ok());
    match parsed.filter(|ranges| ranges.len() == 1).map(|ranges| ranges.validate(size)) {
        None => Wanted::All,
        Some(Err(_)) => Wanted::Beyond,
        Some(Ok(valid)) => valid.into_iter().next().map_or(Wanted::All, Wanted::Part),
    }
}

/// Whether `If-Match` allows an answer, by strong comparison (RFC 9110, section 13.1.1).
fn is_expected(headers: &HeaderMap, tag: &HeaderValue) -> bool {
    let mut given = headers.get_all(IF_MATCH).iter().filter_map(|line| line.to_str().ok()).peekable();
    let Ok(tag) = tag.to_str() else { return false };
    given.peek().is_none()
        || given.flat_map(|line| line.split(',')).any(|given| ["*", tag].contains(&given.trim()))
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::io::Write;
    use std::sync::Arc;

    use axum::body::to_bytes;
    use tokio::sync::Semaphore;

    use super::*;

    const TEXT: &[u8] = b"0123456789";

    async fn shared(file: &tempfile::NamedTempFile, places: &Arc<Semaphore>) -> SharedFile {
        let file = File::open(file.path()).unwrap();
        let size = file.metadata().unwrap().len();
        let permit = Arc::clone(places).acquire_owned().await.unwrap();
        SharedFile { file, size, version: "v1".into(), permit }
    }

    fn file() -> tempfile::NamedTempFile {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(TEXT).unwrap();
        file
    }

    /// Status, `Content-Range`, `Content-Length` and body.
    async fn ask(method: Method, headers: &[(&str, &str)]) -> (u16, String, String, Vec<u8>) {
        let headers: HeaderMap =
            headers.iter().map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap())).collect();
        let response = answer(shared(&file(), &Arc::new(Semaphore::new(1))).await, &method, &headers);
        assert_eq!(response.headers()["etag"], "\"v1\"");
        assert_eq!(response.headers()["accept-ranges"], "bytes");
        let header = |name: &str| {
            response.headers().get(name).map(|value| value.to_str().unwrap().to_owned()).unwrap_or_default()
        };
        let (range, length, status) = (header("content-range"), header("content-length"), response.status());
        (status.as_u16(), range, length, to_bytes(response.into_body(), 99).await.unwrap().into())
    }

    #[tokio::test]
    async fn a_file_is_sent_whole_or_in_one_range() {
        for (range, status, content_range, body) in [
            ("bytes=0-3", 206, "bytes 0-3/10", "0123"),
            ("bytes=7-", 206, "bytes 7-9/10", "789"),
            ("bytes=7-99", 206, "bytes 7-9/10", "789"),
            ("bytes=-2", 206, "bytes 8-9/10", "89"),
            ("bytes=-99", 206, "bytes 0-9/10", "0123456789"),
            ("bytes=9-9", 206, "bytes 9-9/10", "9"),
            ("bytes=10-", 416, "bytes */10", ""),
            ("bytes=10-12", 416, "bytes */10", ""),
            ("bytes=0-1,4-5", 200, "", "0123456789"),
            ("bytes=5-2", 200, "", "0123456789"),
            ("bytes=x", 200, "", "0123456789"),
            ("lines=1-2", 200, "", "0123456789"),
        ] {
            let (got, told, length, sent) = ask(Method::GET, &[("range", range)]).await;
            assert_eq!((got, &*told, &*sent), (status, content_range, body.as_bytes()), "{range}");
            assert!(status == 416 || length == body.len().to_string(), "{range}: {length}");
        }
        let (status, _, length, body) = ask(Method::HEAD, &[("range", "bytes=0-3")]).await;
        assert_eq!((status, &*length, &*body), (200, "10", &b""[..]), "a range is for GET");
    }

    #[tokio::test]
    async fn what_a_request_expects_of_the_version_counts() {
        let part = ("range", "bytes=0-3");
        for (headers, status) in [
            (&[part, ("if-range", "\"v1\"")][..], 206),
            (&[part, ("if-range", "\"v2\"")], 200),
            (&[part, ("if-range", "W/\"v1\"")], 200),
            (&[part, ("if-range", "Sat, 29 Oct 1994 19:43:31 GMT")], 200),
            (&[("if-none-match", "\"v1\"")], 304),
            (&[("if-none-match", "\"v2\"")], 200),
            (&[("if-match", "\"v2\", \"v1\"")], 200),
            (&[("if-match", "*")], 200),
            (&[("if-match", "W/\"v1\"")], 412),
            (&[part, ("if-match", "\"v2\"")], 412),
        ] {
            assert_eq!(ask(Method::GET, headers).await.0, status, "{headers:?}");
        }
    }

    #[tokio::test]
    async fn what_is_sent_is_of_one_file_and_complete_or_broken_off() {
        let (place, places) = (file(), Arc::new(Semaphore::new(1)));
        let headers = HeaderMap::new();
        let response = answer(shared(&place, &places).await, &Method::GET, &headers);
        assert_eq!(places.available_permits(), 0, "it is open");
        let mut other = tempfile::NamedTempFile::new_in(place.path().parent().unwrap()).unwrap();
        other.write_all(b"abcdefghij").unwrap();
        other.persist(place.path()).unwrap();
        assert_eq!(to_bytes(response.into_body(), 99).await.unwrap(), TEXT);
        assert_eq!(places.available_permits(), 1, "it is closed");

        let response = answer(shared(&place, &places).await, &Method::GET, &headers);
        File::options().write(true).open(place.path()).unwrap().set_len(4).unwrap();
        assert!(to_bytes(response.into_body(), 99).await.is_err(), "it is shorter than was promised");
    }
}
