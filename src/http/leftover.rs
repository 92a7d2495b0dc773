//! What an answer leaves unread of its request's body.
//!
//! A refusal is often ready before the body was read. The next request of a pooled client would follow the
//! rest of that body on the same connection, which hyper then closes without a word. So every answer passes
//! here: the rest is read and thrown away, within limits, or the answer says that the connection closes.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::HttpBody;
use axum::http::header::{CONNECTION, EXPECT};
use axum::http::{HeaderValue, Request, StatusCode};
use axum::response::Response;
use bytes::Bytes;
use http_body_util::BodyExt;
use hyper::body::{Frame, Incoming, SizeHint};
use tokio::sync::oneshot;

/// The most bytes that are thrown away to keep the connection.
const MOST_BYTES: u64 = 8 << 20;

/// A request's body, which comes back to its [`Leftover`] when the handler drops it.
pub(super) struct Lent {
    /// Unset once it is on its way back.
    body: Option<Incoming>,
    back: Option<oneshot::Sender<Incoming>>,
}

/// Gets the body back that was lent to a handler.
pub(super) struct Leftover {
    back: oneshot::Receiver<Incoming>,
    /// The client waits for leave to send the body, which a refusal does not give.
    waits_for_leave: bool,
}

/// Lends the request's body to a handler.
pub(super) fn lend(request: Request<Incoming>) -> (Request<Lent>, Leftover) {
    let waits_for_leave = request.headers().contains_key(EXPECT);
    let (sender, back) = oneshot::channel();
    (request.map(|body| Lent { body: Some(body), back: Some(sender) }), Leftover { back, waits_for_leave })
}

impl Leftover {
    /// Reads what is left of the body, for `time_limit` at most, or else says in `response` that the
    /// connection closes. Returns whether the body was read to its end.
    pub(super) async fn settle(mut self, response: &mut Response, time_limit: Duration) -> bool {
        // Nothing came back if the body was read to its end, or is still being read.
        let Ok(rest) = self.back.try_recv() else { return true };
        // A body that came too slowly has had its time.
        let is_worth_it = !self.waits_for_leave && response.status() != StatusCode::REQUEST_TIMEOUT;
        let is_read = is_worth_it && tokio::time::timeout(time_limit, discard(rest)).await == Ok(true);
        if !is_read {
            response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
        }
        is_read
    }
}

/// Whether the body ended within [`MOST_BYTES`].
async fn discard(mut rest: Incoming) -> bool {
    let mut left = MOST_BYTES;
    loop {
        if rest.size_hint().lower() > left {
            return false;
        }
        match rest.frame().await {
            None => return true,
            Some(Err(_)) => return false,
            Some(Ok(frame)) => {
                let bytes = frame.data_ref().map_or(0, |data| data.len() as u64);
                left = left.saturating_sub(bytes);
            }
        }
        if left == 0 {
            return false;
        }
    }
}

impl HttpBody for Lent {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        match &mut self.body {
            Some(body) => Pin::new(body).poll_frame(cx),
            None => Poll::Ready(None),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.body.as_ref().is_none_or(HttpBody::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.body.as_ref().map_or_else(SizeHint::default, HttpBody::size_hint)
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        if let (Some(body), Some(back)) = (self.body.take(), self.back.take())
            && !body.is_end_stream()
        {
            // Fails if the answer was sent before: then hyper closes the connection.
            let _returned = back.send(body);
        }
    }
}
