//! Asking a worker how it is: `GET /health`, which needs no secret.

use std::time::Duration;

use reqwest::StatusCode;
use serde::Deserialize;

use crate::error::{Failure, Result};
use crate::http::client;
use crate::narration::Progress;

/// A healthy worker answers at once; one that takes this long has not answered.
const ANSWER_LIMIT: Duration = Duration::from_secs(2);
/// An answer is a line of JSON; more than this, in bytes, is not read.
const MAX_ANSWER_BYTES: usize = 64 << 10;

/// What a worker says of itself.
#[derive(Clone, Debug)]
pub(super) enum Health {
    /// It loads its model, and may know how far it has come.
    Loading(Option<Progress>),
    /// It answers requests.
    Ready(Counters),
}

/// What a worker counts. Engines that count less leave zeros.
#[derive(Clone, Copy, Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Counters {
    pub(super) slots: u32,
    pub(super) busy_slots: u32,
    pub(super) requests: u64,
    pub(super) tokens_generated: u64,
}

#[derive(Default, Deserialize)]
struct Loading {
    #[serde(default)]
    progress: Option<Progress>,
}

/// The hive's client for workers on loopback: no proxy of the environment, no redirects.
#[derive(Clone, Debug)]
pub(super) struct Client(reqwest::Client);

impl Client {
    pub(super) fn new() -> Result<Self> {
        client::builder(ANSWER_LIMIT)
            .no_proxy()
            .timeout(ANSWER_LIMIT)
            // Workers speak plain HTTP: a machine without root certificates will do.
            .tls_certs_only([])
            .build()
            .map(Self)
            .map_err(|error| Failure::internal("could not make the client for workers").detail(error))
    }

    /// Asks once.
    ///
    /// # Errors
    /// Where there is no answer in 2 s, or none that says ready or loading.
    pub(super) async fn ask(&self, url: &str, route: &str) -> anyhow::Result<Health> {
        let mut answer = self.0.get(format!("{url}{route}")).send().await?;
        let mut body = Vec::new();
        while let Some(chunk) = answer.chunk().await? {
            anyhow::ensure!(body.len() + chunk.len() <= MAX_ANSWER_BYTES, "the answer is too long");
            body.extend_from_slice(&chunk);
        }
        // Bodies differ between engines; the status is what they agree on.
        match answer.status() {
            StatusCode::OK => Ok(Health::Ready(serde_json::from_slice(&body).unwrap_or_default())),
            StatusCode::SERVICE_UNAVAILABLE => {
                Ok(Health::Loading(serde_json::from_slice::<Loading>(&body).unwrap_or_default().progress))
            }
            other => anyhow::bail!("it answered {other}"),
        }
    }
}
