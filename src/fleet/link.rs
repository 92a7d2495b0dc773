//! The connection to the NATS servers of a fleet. It comes back by itself.

use std::error::Error;
use std::ops::RangeInclusive;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use async_nats::jetstream::kv::{self, Store};
use async_nats::jetstream::{self, Context};
use async_nats::{Client, ConnectOptions, Event, ReconnectToServer};
use tokio::sync::watch;

use super::names::HiveName;
use crate::config;
use crate::error::{Code, Failure, Result};
use crate::files::read_private;
use crate::outgoing::install_tls;
use crate::secrets::without_credentials;

/// How long an answer of a server or of a hive may take, if nobody says otherwise.
pub(super) const ANSWER: Duration = Duration::from_secs(5);
/// The longest wait before the next attempt to connect.
const LONGEST_WAIT: Duration = Duration::from_secs(2);
/// How often the connection is tried, so that a server that vanished is noticed: every half of `heartbeat` within these
/// bounds. Two pings may be without an answer, and with the third the connection counts as lost.
const PING: RangeInclusive<Duration> = Duration::from_secs(1)..=Duration::from_secs(5);
/// The most bytes of a file of credentials.
const CREDENTIALS: u64 = 16 << 10;

/// The connection.
#[derive(Clone, Debug)]
pub(super) struct Link {
    pub(super) client: Client,
    pub(super) jetstream: Context,
    /// `None` while it is connected, else what is wrong.
    state: watch::Receiver<Option<String>>,
}

impl Link {
    /// Begins to connect, and tries until it succeeds.
    ///
    /// # Errors
    /// [`Code::ConfigInvalid`] if the credentials or certificates cannot be read.
    pub(super) async fn open(settings: &config::Fleet, hive: &HiveName) -> Result<Self> {
        install_tls();
        let (told, state) = watch::channel(Some("not connected yet".to_owned()));
        // Each server in turn, from any of them on: so another one follows where one does not do.
        let turn = AtomicUsize::new(rand::random::<u16>().into());
        let mut options = ConnectOptions::new()
            .name(format!("rbee-hive {hive}"))
            .retry_on_initial_connect()
            .connection_timeout(ANSWER)
            .request_timeout(Some(ANSWER))
            .ping_interval((*settings.heartbeat / 2).clamp(*PING.start(), *PING.end()))
            .reconnect_delay_callback(|attempts| {
                let attempts = u32::try_from(attempts).unwrap_or(u32::MAX);
                (Duration::from_millis(50) * attempts).min(LONGEST_WAIT)
            })
            .reconnect_to_server_callback(move |servers, _| {
                let next = turn.fetch_add(1, Ordering::Relaxed).checked_rem(servers.len());
                let next = next.and_then(|next| servers.get(next));
                std::future::ready(
                    next.map(|next| ReconnectToServer { addr: next.addr.clone(), delay: None }),
                )
            })
            .event_callback(move |event| {
                match event {
                    Event::Connected => drop(told.send_replace(None)),
                    Event::Disconnected => drop(told.send_replace(Some("the connection is lost".to_owned()))),
                    Event::Closed => drop(told.send_replace(Some("the connection is closed".to_owned()))),
                    Event::ServerError(error) => refused(&told, &error.to_string()),
                    Event::ClientError(error) => refused(&told, &error.to_string()),
                    Event::SlowConsumer(_) => {
                        tracing::warn!("messages of the fleet came faster than they were read");
                    }
                    Event::LameDuckMode | Event::Draining => {}
                }
                std::future::ready(())
            });
        if settings.servers().any(|server| server.starts_with("tls:")) {
            options = options.require_tls(true);
        }
        if let Some(ca) = &settings.ca {
            std::fs::metadata(ca).map_err(|error| unreadable("[fleet] ca", ca, &error))?;
            options = options.add_root_certificates(ca.clone());
        }
        if let Some(path) = &settings.credentials {
            let text = secret("the credentials of the fleet", path)?;
            options = options.credentials(&text).map_err(|error| {
                let message = format!("[fleet] credentials {} cannot be used: {error}", path.display());
                Failure::new(Code::ConfigInvalid, message)
                    .hint("give the file that was made for this hive (.creds)")
            })?;
        }
        if let Some(path) = &settings.nkey {
            options = options.nkey(secret("the nkey of the fleet", path)?.trim().to_owned());
        }
        let servers: Vec<_> = settings.servers().map(str::to_owned).collect();
        let client = options.connect(servers).await.map_err(|error| {
            Failure::new(Code::ConfigInvalid, "the connection to the fleet could not be begun")
                .hint("check [fleet] nats and its certificates")
                .cause(&error)
        })?;
        let mut jetstream = jetstream::new(client.clone());
        jetstream.set_timeout(ANSWER);
        Ok(Self { client, jetstream, state })
    }

    /// What is wrong with the connection; `None` while it is up.
    pub(super) fn trouble(&self) -> Option<String> {
        self.state.borrow().clone()
    }

    /// A bucket, made where it is not there, and kept on that many servers.
    ///
    /// # Errors
    /// [`Code::FleetUnreachable`]
    pub(super) async fn bucket(
        &self,
        name: String,
        description: &str,
        max_age: Duration,
        num_replicas: usize,
    ) -> Result<Store> {
        let made = self.jetstream.create_or_update_key_value(kv::Config {
            bucket: name.clone(),
            description: description.to_owned(),
            history: 1,
            max_age,
            num_replicas,
            ..kv::Config::default()
        });
        let bucket = match made.await {
            Ok(bucket) => Ok(bucket),
            // It is there, and cannot be changed just now.
            Err(_) => self.jetstream.get_key_value(&name).await,
        };
        bucket.map_err(|error| failed(&format!("make the bucket {name}"), &error))
    }

    /// How many bytes of events a message may have.
    pub(super) fn largest(&self) -> usize {
        // Room for the first line and the headers.
        self.client.max_payload().saturating_sub(64 << 10).max(64 << 10)
    }

    /// Connects to the next server.
    pub(super) async fn connect_to_next(&self) {
        // It fails only where the client has ended.
        let _begun = self.client.force_reconnect().await;
    }

    /// Waits until it is connected.
    pub(super) async fn up(&self) {
        let mut state = self.state.clone();
        // The sender lives as long as the client, which `self` holds.
        let _up = state.wait_for(Option::is_none).await;
    }

    /// Waits until it is lost.
    pub(super) async fn lost(&self) {
        let mut state = self.state.clone();
        let _lost = state.wait_for(Option::is_some).await;
    }
}

/// Notes what the server or the client says, while there is no connection.
fn refused(told: &watch::Sender<Option<String>>, error: &str) {
    tracing::debug!(error, "the connection to the fleet");
    told.send_if_modified(|state| {
        state.as_mut().is_some_and(|known| {
            let is_new = *known != error;
            error.clone_into(known);
            is_new
        })
    });
}

fn secret(what: &str, path: &std::path::Path) -> Result<String> {
    read_private(what, path, CREDENTIALS)?.ok_or_else(|| {
        Failure::new(Code::ConfigInvalid, format!("{what} are not there: no file {}", path.display()))
            .hint("check the path in [fleet]")
    })
}

fn unreadable(what: &str, path: &std::path::Path, error: &std::io::Error) -> Failure {
    let code = Code::ConfigInvalid;
    Failure { code, ..Failure::io(&format!("read {what}"), path, error) }
}

/// The failure of a request to the fleet's servers.
pub(super) fn failed(doing: &str, error: &(dyn Error + 'static)) -> Failure {
    let failure =
        Failure::new(Code::FleetUnreachable, format!("could not {doing}: the fleet's servers did not do it"))
            .hint("`rbee-hive fleet status` shows the connection; look at the log of nats-server too");
    let mut failure = failure.cause(error);
    for cause in &mut failure.causes {
        *cause = without_credentials(cause);
    }
    failure
}
