//! Asking another server for a file, hop by hop.
//!
//! Redirects are followed here and not by the client, so that each target is vetted ([`Guard`]).
//! Nothing that the other server wrote appears in a failure: only its host and its status.

use std::sync::Once;
use std::time::Duration;

use bytes::Bytes;
use reqwest::header::{ACCEPT_ENCODING, CONTENT_ENCODING, CONTENT_TYPE, LOCATION};
use reqwest::{Client, StatusCode, Url, redirect};
use tokio::time::Instant;

use super::guard::{Guard, Vetted, authority};
use super::units;
use crate::config::Timers;
use crate::error::{Code, Failure, Result};
use crate::n;

/// How many redirects are followed.
const MAX_REDIRECTS: usize = 10;

/// An answer whose body has not been read yet.
#[derive(Debug)]
pub(super) struct Answer {
    response: reqwest::Response,
    /// The host that gave it.
    pub(super) host: String,
    /// Size of the body in bytes, where the server says.
    pub(super) length: Option<u64>,
    stall: Duration,
}

/// Asks for `url`, follows its redirects, and answers once a `200` has begun.
pub(super) async fn open(url: &Url, guard: &Guard, timers: &Timers) -> Result<Answer> {
    let mut url = url.clone();
    for _ in 0..=MAX_REDIRECTS {
        guard.vet(&url).await?;
        let (host, port) = authority(&url).unwrap_or_default();
        n!(debug: "model_download_connect", "Asking {host} (port {port})");
        let request = client(&url, guard.vetted.clone(), timers)?.get(url.clone());
        // The deadline is armed before the connection is, so a server that never answers is
        // noticed as well.
        let response = tokio::time::timeout(timers.stall, request.header(ACCEPT_ENCODING, "identity").send())
            .await
            .map_err(|_| {
                failed(format!("{host} did not answer within {}", units::duration(timers.stall)))
                    .hint("the server hangs, or a firewall drops the connection: try again later")
            })?
            .map_err(|error| {
                failed(format!("{host} could not be asked")).cause(&error.without_url()).hint(
                    "check the URL and this machine's network; behind a proxy, allow a direct connection",
                )
            })?;
        if !response.status().is_redirection() {
            return check(response, host, timers.stall);
        }
        let location = response.headers().get(LOCATION).and_then(|value| value.to_str().ok());
        let mut next = location.and_then(|location| url.join(location).ok()).ok_or_else(|| {
            failed(format!("{host} redirected ({}) to no valid address", response.status().as_u16()))
        })?;
        // The client would make an Authorization header of them.
        let _ = (next.set_username(""), next.set_password(None));
        n!(debug: "model_download_connect", "{host} redirects to {}", next.host_str().unwrap_or_default());
        url = next;
    }
    let host = url.host_str().unwrap_or_default();
    Err(failed(format!("more than {MAX_REDIRECTS} redirects, the last to {host}"))
        .hint("check the URL in a browser"))
}

impl Answer {
    /// The next piece of the body; `None` at its end. May be dropped and called again without loss.
    ///
    /// # Errors
    /// Where nothing came for as long as a stall takes, counted from `last`, or the transfer broke.
    pub(super) async fn chunk(&mut self, last: Instant) -> Result<Option<Bytes>> {
        match tokio::time::timeout_at(last + self.stall, self.response.chunk()).await {
            Ok(Ok(chunk)) => Ok(chunk),
            Ok(Err(error)) => {
                Err(failed(format!("{} broke off the transfer", self.host)).cause(&error.without_url()))
            }
            Err(_) => Err(failed(format!(
                "{} sent nothing for {}: the transfer has stalled",
                self.host,
                units::duration(self.stall)
            ))),
        }
    }
}

fn check(response: reqwest::Response, host: String, stall: Duration) -> Result<Answer> {
    let status = response.status();
    let header = |name| response.headers().get(name).and_then(|value| value.to_str().ok());
    match status {
        StatusCode::OK => {}
        StatusCode::NOT_FOUND | StatusCode::GONE => {
            return Err(Failure::new(
                Code::SourceNotFound,
                format!("{host} has no such file ({})", status.as_u16()),
            )
            .hint("check the URL's path"));
        }
        StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => {
            return Err(failed(format!("{host} does not give the file to everybody ({})", status.as_u16()))
                .hint("fetch the file with your own credentials and import it with file:/path"));
        }
        StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE => {
            return Err(failed(format!("{host} is too busy ({})", status.as_u16())).hint("try again later"));
        }
        _ => {
            return Err(failed(format!("{host} answered {} where 200 was expected", status.as_u16()))
                .hint("check the URL in a browser"));
        }
    }
    if header(CONTENT_ENCODING).is_some_and(|encoding| !encoding.eq_ignore_ascii_case("identity")) {
        return Err(failed(format!("{host} sent the file in an encoding that was not asked for"))
            .hint("use a URL of the file itself"));
    }
    if header(CONTENT_TYPE)
        .is_some_and(|kind| kind.trim_start().to_ascii_lowercase().starts_with("text/html"))
    {
        return Err(failed(format!("{host} sent a web page instead of a file"))
            .hint("use the link of the download itself, not of the page around it"));
    }
    let length = response.content_length();
    Ok(Answer { response, host, length, stall })
}

/// A download that went wrong at the other end; where more is known, another hint takes this one's
/// place.
pub(super) fn failed(message: String) -> Failure {
    Failure::new(Code::DownloadFailed, message)
        .hint("try again; where it fails again, ask whoever runs that server or use another source")
}

fn client(url: &Url, vetted: Vetted, timers: &Timers) -> Result<Client> {
    static PROVIDER: Once = Once::new();
    // An error means that the process has a provider already, which serves as well.
    PROVIDER.call_once(|| drop(rustls::crypto::ring::default_provider().install_default()));
    let builder = Client::builder()
        .user_agent(concat!("rbee-hive/", env!("CARGO_PKG_VERSION")))
        .redirect(redirect::Policy::none())
        .referer(false)
        // A proxy would resolve the name again, past the guard.
        .no_proxy()
        .dns_resolver(vetted)
        .connect_timeout(timers.connect);
    // Plain HTTP works on a machine without root certificates, too.
    let builder = if url.scheme() == "http" { builder.tls_certs_only([]) } else { builder };
    builder.build().map_err(|error| {
        failed("the HTTPS client could not be set up".into())
            .cause(&error)
            .hint("the machine needs root certificates: install the package ca-certificates")
    })
}
