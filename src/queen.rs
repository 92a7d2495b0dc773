//! The queen: the orchestrator that a hive announces itself to, if the settings name one.
//!
//! Invariants:
//! - The hive works the same with and without a queen.
//! - The hive calls the configured URL and no other, whatever a request names.
//! - It reads the status of the queen's answer and nothing else.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use reqwest::{Client, Url};
use serde::Serialize;
use tokio_util::sync::CancellationToken;

use crate::address::Address;
use crate::config::Config;
use crate::error::{Code, Failure, Result};
use crate::outgoing::{self, Proxies, ProxyServer, Unreached};
use crate::spawn;

/// Attempts of one announcement.
const ATTEMPTS: u32 = 5;

/// The configured queen. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Queen(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    url: Url,
    ready_url: Url,
    /// The proxy through which it is asked.
    proxy: Option<ProxyServer>,
    body: Announcement,
    client: Client,
    /// The wait before the second attempt; it doubles with each further one.
    first_wait: Duration,
    /// How long one attempt may take.
    attempt_limit: Duration,
    shutdown: CancellationToken,
    announcing: AtomicBool,
}

/// The body of an announcement.
#[derive(Debug, Serialize)]
struct Announcement {
    hive_id: String,
    hive_url: String,
}

impl Queen {
    /// The queen of the settings, if they name one, for a hive that serves at `address`.
    ///
    /// # Errors
    /// [`Code::ConfigInvalid`] if `--queen-url` is no URL, or the client cannot be built.
    pub fn of(config: &Config, address: &Address, shutdown: CancellationToken) -> Result<Option<Self>> {
        let Some(text) = &config.queen_url else { return Ok(None) };
        let invalid = || {
            Failure::new(Code::ConfigInvalid, format!("--queen-url '{text}' is not an http or https URL"))
                .hint("write it as http://HOST:PORT")
        };
        let url = Url::parse(text).map_err(|_| invalid())?;
        let mut ready_url = url.clone();
        ready_url.set_query(None);
        ready_url.set_fragment(None);
        ready_url.path_segments_mut().map_err(|()| invalid())?.pop_if_empty().extend(["v1", "hive", "ready"]);
        let proxy = Proxies::default().of(&ready_url);
        let client = outgoing::builder(*config.timers.connect, proxy.is_some()).build().map_err(|error| {
            Failure::new(Code::ConfigInvalid, "could not build the HTTP client for the queen")
                .hint("check that this machine has its CA certificates (the package ca-certificates)")
                .detail(error)
        })?;
        let hive_url = config.public_url.clone().unwrap_or_else(|| own_url(address));
        Ok(Some(Self(Arc::new(Inner {
            url,
            ready_url,
            proxy,
            body: Announcement { hive_id: config.hive_ids.first().cloned().unwrap_or_default(), hive_url },
            client,
            first_wait: *config.timers.announce,
            attempt_limit: *config.timers.connect,
            shutdown,
            announcing: AtomicBool::new(false),
        }))))
    }

    /// Whether `text` is the configured URL, however it is spelled. The hive calls no other.
    #[must_use]
    pub fn is(&self, text: &str) -> bool {
        Url::parse(text).is_ok_and(|url| url == self.0.url)
    }

    /// Announces the hive in the background, unless an announcement is running.
    pub fn announce(&self) {
        if self.0.announcing.swap(true, Ordering::AcqRel) {
            return;
        }
        let queen = self.0.clone();
        drop(spawn::detached(async move {
            queen.shutdown.run_until_cancelled(queen.announce()).await;
            queen.announcing.store(false, Ordering::Release);
        }));
    }
}

impl Inner {
    async fn announce(&self) {
        let mut wait = Duration::ZERO;
        for attempt in 1..=ATTEMPTS {
            tokio::time::sleep(wait).await;
            wait = if wait.is_zero() { self.first_wait } else { wait * 2 };
            match self.attempt().await {
                Ok(()) => {
                    tracing::info!(attempt, hive_url = self.body.hive_url, "announced to the queen");
                    return;
                }
                Err(Refusal { failure, is_lasting }) => {
                    let (hint, causes) = (&failure.hint, &failure.causes);
                    tracing::warn!(
                        attempt, of = ATTEMPTS, code = %failure.code, %failure, hint, ?causes,
                        "the queen did not accept the announcement"
                    );
                    if is_lasting {
                        break;
                    }
                }
            }
        }
        tracing::error!("gave up announcing to the queen; the hive works without it");
    }

    async fn attempt(&self) -> Result<(), Refusal> {
        // The body of the answer is not read; dropping it closes the connection.
        let request = self.client.post(self.ready_url.clone()).json(&self.body).timeout(self.attempt_limit);
        let answer = request.send().await.map_err(|error| {
            let unreached = Unreached::new(error, &self.ready_url, self.proxy.as_ref());
            Refusal {
                is_lasting: unreached.is_lasting(),
                failure: unreached.into_failure(Code::ServerUnreachable),
            }
        })?;
        let status = answer.status();
        if status.is_success() {
            return Ok(());
        }
        let failure =
            Failure::new(Code::ServerUnreachable, format!("the queen answered {}", status.as_u16()))
                .hint("check that --queen-url leads to a queen");
        Err(Refusal { failure, is_lasting: false })
    }
}

/// Why an attempt failed.
struct Refusal {
    failure: Failure,
    /// Whether further attempts would fail in the same way.
    is_lasting: bool,
}

/// The URL at which others reach a hive that serves at `address`. An address that stands for every
/// interface is of no use to them, so the machine's name replaces it.
fn own_url(address: &Address) -> String {
    match address.tcp() {
        Some(tcp) if tcp.ip().is_unspecified() => {
            format!("http://{}:{}", gethostname::gethostname().to_string_lossy(), tcp.port())
        }
        _ => address.url(),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicU32;

    use axum::Router;
    use axum::http::StatusCode;
    use axum::response::IntoResponse;
    use axum::routing::post;
    use serde_json::{Value, json};
    use tokio::sync::mpsc;

    use super::*;
    use crate::config::Timers;
    use crate::http::testing::{Served, soon};

    fn tcp(text: &str) -> Address {
        Address::Tcp(text.parse().unwrap())
    }

    fn queen(url: String, shutdown: &CancellationToken) -> Queen {
        let timers = Timers { announce: Duration::from_millis(1).into(), ..Timers::default() };
        let config = Config { queen_url: Some(url), timers, ..Config::default() };
        Queen::of(&config, &tcp("127.0.0.1:7835"), shutdown.clone()).unwrap().unwrap()
    }

    #[tokio::test]
    async fn the_hive_announces_itself_until_the_queen_accepts() {
        let (sender, mut told) = mpsc::unbounded_channel::<Value>();
        let asked = Arc::new(AtomicU32::new(0));
        let ready = post(move |axum::Json(body): axum::Json<Value>| async move {
            sender.send(body).unwrap();
            match asked.fetch_add(1, Ordering::Relaxed) {
                0 => StatusCode::SERVICE_UNAVAILABLE.into_response(),
                // Followed, this would be a third request.
                1 => (StatusCode::TEMPORARY_REDIRECT, [("location", "/base/v1/hive/ready")]).into_response(),
                _ => StatusCode::OK.into_response(),
            }
        });
        let served =
            Served::start(Router::new().route("/base/v1/hive/ready", ready), Timers::default()).await;
        let shutdown = CancellationToken::new();
        let queen = queen(format!("http://{}/base/", served.address), &shutdown);
        queen.announce();
        for _ in 0..3 {
            let body = soon(told.recv()).await.unwrap();
            assert_eq!(body, json!({"hive_id": "localhost", "hive_url": "http://127.0.0.1:7835"}));
        }
        soon(async {
            while queen.0.announcing.load(Ordering::Acquire) {
                tokio::task::yield_now().await;
            }
        })
        .await;
        assert!(told.try_recv().is_err(), "the third one was accepted");
        served.stop().await;
    }

    #[tokio::test]
    async fn a_shutdown_ends_an_announcement() {
        let shutdown = CancellationToken::new();
        let vacant = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let queen = queen(format!("http://{}", vacant.local_addr().unwrap()), &shutdown);
        queen.announce();
        shutdown.cancel();
        soon(async {
            while queen.0.announcing.load(Ordering::Acquire) {
                tokio::task::yield_now().await;
            }
        })
        .await;
    }

    #[tokio::test]
    async fn only_the_configured_url_is_the_queen() {
        let queen = queen("http://queen.example:7833".into(), &CancellationToken::new());
        for same in ["http://queen.example:7833", "http://queen.example:7833/", "HTTP://Queen.Example:7833"] {
            assert!(queen.is(same), "{same}");
        }
        for other in [
            "http://queen.example",
            "https://queen.example:7833",
            "http://queen.example:7833@evil.example",
            "x",
            "",
        ] {
            assert!(!queen.is(other), "{other}");
        }
    }

    #[test]
    fn an_address_for_every_interface_is_replaced_by_a_name() {
        assert_eq!(own_url(&tcp("127.0.0.1:1")), "http://127.0.0.1:1");
        assert!(!own_url(&tcp("0.0.0.0:1")).contains("0.0.0.0"));
    }
}
