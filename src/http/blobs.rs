//! Files of this machine for the other hives of its fleet, by their SHA-256.
//!
//! A file that is being downloaded is given as far as it is here, and the rest as it comes. Who takes it hashes it.

use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::http::header::RANGE;
use axum::http::{HeaderMap, Method};
use axum::response::Response;
use futures::Stream;
use tokio::time::timeout;

use super::file;
use super::path::Parameter;
use super::problem::Problem;
use crate::app::AppState;
use crate::error::{Code, Failure, Result};
use crate::models::shared::GrowingFile;
use crate::spawn;

/// How much of a file is read at once, in bytes.
const PIECE: u64 = 256 << 10;

/// `GET /blobs/{sha256}`
pub(super) async fn get(
    State(app): State<AppState>,
    Parameter(sha256): Parameter,
    method: Method,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let stall = *app.config.timers.stall;
    if let Some(complete) = app.catalog.blob(&sha256).await? {
        return Ok(file::answer(complete, &method, &headers));
    }
    if let Some(growing) = app.catalog.growing(&sha256).await? {
        return Ok(answer(growing, &method, &headers, stall).await?);
    }
    // It may have become complete meanwhile.
    if let Some(complete) = app.catalog.blob(&sha256).await? {
        return Ok(file::answer(complete, &method, &headers));
    }
    Err(Failure::new(Code::SourceNotFound, "this hive has no file with that SHA-256")
        .hint("it was deleted meanwhile: ask another hive")
        .into())
}

/// Answers with a range of a file that grows.
async fn answer(
    mut growing: GrowingFile,
    method: &Method,
    headers: &HeaderMap,
    stall: Duration,
) -> Result<Response> {
    let has_size = timeout(stall, growing.shelved.wait_for(|shelved| shelved.size.is_some())).await;
    let size = has_size.ok().and_then(Result::ok).and_then(|shelved| shelved.size);
    let size = size.ok_or_else(|| {
        Failure::new(Code::SourceNotFound, "this hive does not know yet how large that file is")
            .hint("ask again later, or another hive")
    })?;
    let Some(range) = range(headers, size) else { return Ok(file::beyond(size)) };
    let told = range.start..=range.end - 1;
    let body = match *method {
        Method::HEAD => Body::empty(),
        _ => Body::from_stream(pieces(growing, range, stall)),
    };
    Ok(file::part(&told, size, body))
}

/// The range that is asked for: hives ask for one. All of the file where they do not.
fn range(headers: &HeaderMap, size: u64) -> Option<Range<u64>> {
    let Some(asked) = headers.get(RANGE) else { return Some(0..size).filter(|range| !range.is_empty()) };
    let parsed = http_range_header::parse_range_header(asked.to_str().ok()?).ok()?;
    let first = parsed.validate(size).ok()?.into_iter().next()?;
    Some(*first.start()..first.end() + 1)
}

/// The bytes of a range, as they come. It breaks off where nothing of the file comes for the time of a stall, or where
/// its transfer ends without them.
fn pieces(
    growing: GrowingFile,
    range: Range<u64>,
    stall: Duration,
) -> impl Stream<Item = io::Result<Bytes>> + Send + 'static {
    futures::stream::unfold((growing, range), move |(mut growing, mut range)| async move {
        if range.is_empty() {
            return None;
        }
        let piece = next(&mut growing, &range, stall).await;
        range.start += piece.as_ref().map_or(0, |piece| piece.len() as u64);
        Some((piece, (growing, range)))
    })
}

/// The next bytes of a range.
async fn next(growing: &mut GrowingFile, range: &Range<u64>, stall: Duration) -> io::Result<Bytes> {
    let mut has_ended = false;
    loop {
        let until = growing.shelved.borrow_and_update().end_from(range.start);
        let until = until.min(range.end).min(range.start + PIECE);
        if until > range.start {
            return read(growing, range.start..until).await;
        }
        if has_ended {
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the transfer of the file has ended"));
        }
        match timeout(stall, growing.shelved.changed()).await {
            Ok(Ok(())) => {}
            // What came last counts.
            Ok(Err(_)) => has_ended = true,
            Err(_) => return Err(io::Error::new(io::ErrorKind::TimedOut, "nothing of the file comes")),
        }
    }
}

async fn read(growing: &GrowingFile, range: Range<u64>) -> io::Result<Bytes> {
    let file = Arc::clone(&growing.file);
    let read = spawn::blocking(move || {
        let length = usize::try_from(range.end - range.start).map_err(io::Error::other)?;
        let mut bytes = vec![0; length];
        file.read_exact_at(&mut bytes, range.start)?;
        Ok(Bytes::from(bytes))
    });
    read.await.map_err(io::Error::other)?
}

#[cfg(test)]
mod tests {
    use axum::body::to_bytes;
    use axum::http::HeaderValue;
    use axum::http::header::{CONTENT_LENGTH, CONTENT_RANGE};
    use futures::StreamExt;
    use tokio::sync::Semaphore;

    use super::*;
    use crate::models::shared::testing::Growth;

    const STALL: Duration = Duration::from_secs(60);

    async fn growing(growth: &Growth) -> GrowingFile {
        growth.file(Arc::new(Semaphore::new(1)).acquire_owned().await.unwrap())
    }

    #[tokio::test]
    async fn what_is_here_is_given_at_once_and_the_rest_as_it_comes() {
        let growth = Growth::begin(10, 4);
        let headers = HeaderMap::from_iter([(RANGE, HeaderValue::from_static("bytes=2-8"))]);
        growth.store(0, b"0123");
        let response = answer(growing(&growth).await, &Method::GET, &headers, STALL).await.unwrap();
        assert_eq!(response.headers()[CONTENT_RANGE], "bytes 2-8/10");
        assert_eq!(response.headers()[CONTENT_LENGTH], "7");
        let mut body = response.into_body().into_data_stream();
        assert_eq!(body.next().await.unwrap().unwrap(), "23");
        // A later chunk first.
        growth.store(2, b"89");
        growth.store(1, b"4567");
        assert_eq!(body.next().await.unwrap().unwrap(), "45678");
        assert!(body.next().await.is_none());
    }

    #[tokio::test]
    async fn what_never_comes_breaks_the_answer_off() {
        let growth = Growth::begin(10, 4);
        growth.store(0, b"0123");
        let (all, soon) = (HeaderMap::new(), Duration::from_millis(1));
        let silent = answer(growing(&growth).await, &Method::GET, &all, soon).await.unwrap();
        assert!(to_bytes(silent.into_body(), 99).await.is_err(), "nothing comes");
        let ended = answer(growing(&growth).await, &Method::GET, &all, STALL).await.unwrap();
        let complete = HeaderMap::from_iter([(RANGE, HeaderValue::from_static("bytes=1-2"))]);
        let complete = answer(growing(&growth).await, &Method::GET, &complete, STALL).await.unwrap();
        drop(growth);
        assert!(to_bytes(ended.into_body(), 99).await.is_err(), "its transfer has ended");
        assert_eq!(to_bytes(complete.into_body(), 99).await.unwrap(), "12", "that was there");
    }
}
