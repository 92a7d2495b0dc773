//! Asking a worker how it is: `GET /health`, which needs no secret; and what it has counted, where it
//! counts for Prometheus alone.

use std::time::Duration;

use reqwest::StatusCode;
use serde::Deserialize;

use super::handle::Secret;
use crate::client;
use crate::error::{Failure, Result};
use crate::narration::Progress;

/// A healthy worker answers at once; one that takes this long has not answered.
const ANSWER_LIMIT: Duration = Duration::from_secs(2);
/// An answer is a line of JSON; more than this, in bytes, is not read.
const MAX_ANSWER_BYTES: usize = 64 << 10;
/// Metrics are a few dozen lines, in some engines several hundred; more, in bytes, is not read.
const MAX_METRICS_BYTES: usize = 1 << 20;

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

/// The metric with the tokens that an engine has generated, in the names of the engines.
const TOKENS_GENERATED: &[&str] =
    &["llamacpp:tokens_predicted_total", "vllm:generation_tokens_total", "sglang:generation_tokens_total"];
/// An engine answers this between two steps of its work; a worker that is busy is not waited for.
const METRICS_LIMIT: Duration = Duration::from_millis(250);

/// The tokens that a worker says it has generated, in Prometheus's text format
/// (<https://prometheus.io/docs/instrumenting/exposition_formats/>).
fn tokens_generated(metrics: &str) -> Option<u64> {
    let values = metrics.lines().filter_map(|line| {
        let (name, rest) = line.split_at(line.find(['{', ' '])?);
        TOKENS_GENERATED.contains(&name).then_some(())?;
        // Labels may have spaces; the value comes after them.
        let value = rest.rsplit_once('}').map_or(rest, |(_, value)| value);
        let value: f64 = value.split_whitespace().next()?.parse().ok()?;
        (value >= 0.0).then_some(value as u64)
    });
    values.reduce(u64::saturating_add)
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
        let (status, body) = read(self.0.get(format!("{url}{route}")), MAX_ANSWER_BYTES).await?;
        // Bodies differ between engines; the status is what they agree on.
        match status {
            StatusCode::OK => Ok(Health::Ready(serde_json::from_slice(&body).unwrap_or_default())),
            StatusCode::SERVICE_UNAVAILABLE => {
                Ok(Health::Loading(serde_json::from_slice::<Loading>(&body).unwrap_or_default().progress))
            }
            other => anyhow::bail!("it answered {other}"),
        }
    }

    /// Asks for the tokens that it has generated; none where its metrics have no such thing.
    ///
    /// # Errors
    /// Where there is no answer in a quarter of a second, or another one.
    pub(super) async fn tokens_generated(
        &self,
        url: &str,
        route: &str,
        secret: &Secret,
    ) -> anyhow::Result<Option<u64>> {
        let request = self.0.get(format!("{url}{route}")).bearer_auth(secret.expose()).timeout(METRICS_LIMIT);
        let (status, body) = read(request, MAX_METRICS_BYTES).await?;
        anyhow::ensure!(status == StatusCode::OK, "it answered {status}");
        Ok(tokens_generated(&String::from_utf8_lossy(&body)))
    }
}

async fn read(request: reqwest::RequestBuilder, most: usize) -> anyhow::Result<(StatusCode, Vec<u8>)> {
    let mut answer = request.send().await?;
    let mut body = Vec::new();
    while let Some(chunk) = answer.chunk().await? {
        anyhow::ensure!(body.len() + chunk.len() <= most, "the answer is too long");
        body.extend_from_slice(&chunk);
    }
    Ok((answer.status(), body))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_are_found_among_metrics() {
        let llama = "# HELP llamacpp:tokens_predicted_total Number of generation tokens processed.\n\
                     # TYPE llamacpp:tokens_predicted_total counter\nllamacpp:tokens_predicted_total 42\n\
                     llamacpp:tokens_predicted_seconds_total 0.5\n";
        assert_eq!(tokens_generated(llama), Some(42));
        let vllm = "vllm:generation_tokens_total{engine=\"0\",model_name=\"a } b\"} 1.5e+03 1700000000\n\
                    vllm:generation_tokens_total{engine=\"1\",model_name=\"a\"} 7.0\n";
        assert_eq!(tokens_generated(vllm), Some(1507));
        for none in ["", "nonsense", "llamacpp:tokens_predicted_total NaN", "vllm:generation_tokens_total{"] {
            assert_eq!(tokens_generated(none), None, "{none}");
        }
    }
}
