//! Asks a worker for its health, which needs no secret, and for its token counter where only its
//! Prometheus metrics have one.

use std::time::Duration;

use reqwest::StatusCode;
use serde::Deserialize;

use super::secret::Secret;
use crate::error::{Failure, Result};
use crate::narration::Progress;
use crate::outgoing;

/// How long a worker may take to answer; a healthy one answers at once.
const ANSWER_LIMIT: Duration = Duration::from_secs(2);
/// The longest answer, in bytes: an answer is one line of JSON.
const MAX_ANSWER_BYTES: usize = 64 << 10;
/// The longest metrics, in bytes: they have a few dozen lines, several hundred in some engines.
const MAX_METRICS_BYTES: usize = 1 << 20;

/// The health of a worker.
#[derive(Clone, Debug)]
pub(super) enum Health {
    /// It loads its model, and may report its progress.
    Loading(Option<Progress>),
    /// It answers requests.
    Ready(Counters),
}

/// The counters of a worker; 0 where its engine does not count.
#[derive(Clone, Copy, Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Counters {
    pub(super) slots: u32,
    /// Tokens of context of each slot, where the engine tells.
    pub(super) context_length: Option<u64>,
    pub(super) busy_slots: u32,
    pub(super) requests: u64,
    pub(super) tokens_generated: u64,
}

/// The names that engines give to the metric of generated tokens.
const TOKENS_GENERATED: &[&str] =
    &["llamacpp:tokens_predicted_total", "vllm:generation_tokens_total", "sglang:generation_tokens_total"];
/// How long metrics may take: an engine answers between two steps of its work, and a busy one is not
/// waited for.
const METRICS_LIMIT: Duration = Duration::from_millis(250);

/// The generated tokens in metrics of Prometheus's text format
/// (<https://prometheus.io/docs/instrumenting/exposition_formats/>).
fn tokens_generated(metrics: &str) -> Option<u64> {
    let values = metrics.lines().filter_map(|line| {
        let (name, rest) = line.split_at(line.find(['{', ' '])?);
        TOKENS_GENERATED.contains(&name).then_some(())?;
        // Labels may contain spaces; the value follows them.
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

/// The HTTP client for the health and metrics of workers on loopback. It uses no proxy and follows no
/// redirects.
#[derive(Clone, Debug)]
pub(super) struct WorkerClient(reqwest::Client);

impl WorkerClient {
    pub(super) fn new() -> Result<Self> {
        outgoing::builder(ANSWER_LIMIT, false)
            .timeout(ANSWER_LIMIT)
            // Workers speak plain HTTP, so a machine needs no root certificates.
            .tls_certs_only([])
            .build()
            .map(Self)
            .map_err(|error| Failure::internal("could not build the client for workers").detail(error))
    }

    /// Asks a worker for its health, once.
    ///
    /// # Errors
    /// Where no answer comes within 2 s, or one that means neither ready nor loading.
    pub(super) async fn health(&self, url: &str, route: &str) -> anyhow::Result<Health> {
        let (status, body) = read(self.0.get(format!("{url}{route}")), MAX_ANSWER_BYTES).await?;
        // Engines agree on the status; their bodies differ.
        match status {
            StatusCode::OK => Ok(Health::Ready(serde_json::from_slice(&body).unwrap_or_default())),
            StatusCode::SERVICE_UNAVAILABLE => {
                Ok(Health::Loading(serde_json::from_slice::<Loading>(&body).unwrap_or_default().progress))
            }
            other => anyhow::bail!("it answered {other}"),
        }
    }

    /// Whether a worker's health route answers anything at all within 2 s.
    pub(super) async fn answers(&self, url: &str, route: &str) -> bool {
        self.0.get(format!("{url}{route}")).send().await.is_ok()
    }

    /// Asks a worker for the tokens that it has generated; `None` where its metrics do not have them.
    ///
    /// # Errors
    /// Where no answer comes within 250 ms, or one that is not 200.
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

async fn read(request: reqwest::RequestBuilder, limit: usize) -> anyhow::Result<(StatusCode, Vec<u8>)> {
    let mut answer = request.send().await?;
    let mut body = Vec::new();
    while let Some(chunk) = answer.chunk().await? {
        anyhow::ensure!(body.len() + chunk.len() <= limit, "the answer is too long");
        body.extend_from_slice(&chunk);
    }
    Ok((answer.status(), body))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn generated_tokens_are_read_from_metrics() {
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
