//! Requests to one hive, and what its answers mean.

use std::time::Duration;

use bytes::Bytes;
use futures::{Stream, TryStreamExt};
use http::Method;
use http::header::CONTENT_TYPE;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use reqwest::{RequestBuilder, Response, Url};
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::error::{Error, Result};
use super::host::{Host, Token};
use crate::error::{Code, Failure};
use crate::outgoing::{self, Unreached};

/// How long connecting may take.
const CONNECT: Duration = Duration::from_secs(10);
/// How often a submission is sent again where its connection breaks before the answer.
const AGAIN: usize = 2;

/// The connections to one hive.
#[derive(Clone, Debug)]
pub(super) struct Connection {
    http: reqwest::Client,
    host: Host,
    /// What the paths of routes are appended to, without a `/` at its end.
    base: Url,
    token: Option<Token>,
}

impl Connection {
    pub(super) fn open(host: Host, token: Option<Token>) -> Result<Self> {
        let builder = outgoing::builder(CONNECT, !host.is_local());
        // The system's certificates take longer to load than most requests take in all.
        let builder = if host.is_secure() { builder } else { builder.tls_certs_only([]) };
        let (builder, base) = match &host {
            Host::Url(url) => (builder, url.clone()),
            Host::Unix(path) => {
                let base = Url::parse("http://localhost").map_err(|error| unusable(&host, &error))?;
                (builder.unix_socket(path.clone()), base)
            }
        };
        let http = builder.build().map_err(|error| unusable(&host, &error))?;
        Ok(Self { http, host, base, token })
    }

    pub(super) const fn host(&self) -> &Host {
        &self.host
    }

    /// A request with the hive's token. `path` begins with `/`, and may have a query.
    pub(super) fn request(&self, method: Method, path: &str) -> RequestBuilder {
        let url = format!("{}{path}", self.base.as_str().trim_end_matches('/'));
        let request = self.http.request(method, url);
        match &self.token {
            Some(token) => request.bearer_auth(token.expose()),
            None => request,
        }
    }

    /// Sends a request, and refuses an answer that is no success.
    pub(super) async fn send(&self, request: RequestBuilder) -> Result<Response> {
        let answer = request.send().await.map_err(|error| self.lost(error))?;
        self.check(answer).await
    }

    /// Sends a request that is answered with JSON.
    pub(super) async fn json<T: DeserializeOwned>(&self, request: RequestBuilder) -> Result<T> {
        let answer = self.send(request).await?;
        self.read(answer).await
    }

    /// The same, for a request that may be repeated where its connection breaks before it is answered.
    pub(super) async fn json_again<T: DeserializeOwned>(
        &self,
        request: impl Fn() -> RequestBuilder,
    ) -> Result<T> {
        let mut left = AGAIN;
        loop {
            match request().send().await {
                // Where nobody listens, nobody will a moment later.
                Err(error) if left > 0 && !error.is_connect() => left -= 1,
                Err(error) => return Err(self.lost(error)),
                Ok(answer) => return self.read(self.check(answer).await?).await,
            }
        }
    }

    /// Sends a request that is answered with bytes as they come.
    pub(super) async fn bytes(
        &self,
        request: RequestBuilder,
    ) -> Result<impl Stream<Item = Result<Bytes>> + use<>> {
        let (answer, this) = (self.send(request).await?, self.clone());
        Ok(answer.bytes_stream().map_err(move |error| this.lost(error)))
    }

    async fn read<T: DeserializeOwned>(&self, answer: Response) -> Result<T> {
        let body = answer.bytes().await.map_err(|error| self.lost(error))?;
        serde_json::from_slice(&body).map_err(|error| Error::unexpected(&error))
    }

    async fn check(&self, answer: Response) -> Result<Response> {
        let status = answer.status();
        if status.is_success() {
            return Ok(answer);
        }
        let kind = answer.headers().get(CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or_default();
        let is_problem = kind.starts_with("application/problem+json") || kind.starts_with("application/json");
        let body =
            if is_problem { answer.bytes().await.map_err(|error| self.lost(error))? } else { Bytes::new() };
        Err(match problem(&body) {
            Some(failure) => Error::Refused(failure),
            None => Error::Unreachable(
                Failure::new(
                    Code::WrongProtocol,
                    format!("what answers at {} is no hive: it says {status}", self.host),
                )
                .hint("check the address; a proxy in between may have answered in the hive's place"),
            ),
        })
    }

    /// No answer came, or it broke off.
    pub(super) fn lost(&self, error: reqwest::Error) -> Error {
        let failure = match &self.host {
            // The error's own URL is made up.
            Host::Unix(_) => {
                Failure::new(Code::ServerUnreachable, "no connection").cause(&error.without_url())
            }
            Host::Url(url) => Unreached::new(error, url, None).into_failure(Code::ServerUnreachable),
        };
        let why = match failure.causes.last() {
            Some(cause) if matches!(self.host, Host::Unix(_)) => cause.clone(),
            _ => failure.message.clone(),
        };
        let message = format!("no hive answers at {}: {why}", self.host);
        Error::Unreachable(Failure { message, causes: Vec::new(), ..failure })
    }
}

/// A part of a path, such as an id, that may have any characters.
pub(super) fn segment(text: &str) -> impl std::fmt::Display + '_ {
    utf8_percent_encode(text, NON_ALPHANUMERIC)
}

/// The failure that a problem of the hive tells of (RFC 9457).
fn problem(body: &[u8]) -> Option<Failure> {
    let Ok(Value::Object(mut members)) = serde_json::from_slice(body) else { return None };
    let detail = members.remove("detail")?;
    members.insert("message".to_owned(), detail);
    serde_json::from_value(Value::Object(members)).ok()
}

fn unusable(host: &Host, error: &(dyn std::error::Error + 'static)) -> Error {
    let message = format!("could not set up a client for {host}");
    Error::Unreachable(Failure::new(Code::ServerUnreachable, message).cause(error))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_problem_is_read_also_one_of_a_later_version() {
        let body =
            br#"{"type":"x","title":"t","status":404,"code":"model_not_found","detail":"no","hint":"yes"}"#;
        let failure = problem(body).unwrap();
        assert_eq!((failure.code, &*failure.message), (Code::ModelNotFound, "no"));
        assert_eq!(failure.hint.as_deref(), Some("yes"));
        let failure = problem(br#"{"code":"of_a_later_version","detail":"no"}"#).unwrap();
        assert_eq!((failure.code, &*failure.message), (Code::OutcomeUnknown, "no"));
        assert!(problem(b"<html>").is_none() && problem(br#"{"error":"x"}"#).is_none());
    }
}
