//! Why requests are slow: what their records, their workers and the machine tell, as findings with advice.
//!
//! A pure function of [`Evidence`]. What the evidence does not tell is listed as unknown, and is no finding.

mod findings;
mod averages;

use std::sync::Arc;

use serde::Serialize;
use utoipa::ToSchema;

use crate::requests::Record;
use crate::workers::{Conditions, Worker};

pub(crate) use averages::Averages;

/// What a diagnosis is made from.
#[derive(Debug, Default)]
pub(crate) struct Evidence {
    /// The requests, the newest first.
    pub(crate) records: Vec<Arc<Record>>,
    /// The workers that they went to or would go to.
    pub(crate) workers: Vec<(Worker, Conditions)>,
    /// Processes that wanted to compute, on average over the last minute.
    pub(crate) load_average: f64,
    /// Processors of the machine.
    pub(crate) processors: usize,
    /// Whether this is about one model, so that it matters that no worker serves it.
    pub(crate) is_of_one_model: bool,
}

/// What a diagnosis says.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Diagnosis {
    /// How many requests were looked at.
    pub(crate) requests: usize,
    /// Where their time went, on average over those that have ended or, of one, so far.
    pub(crate) times: Option<Averages>,
    /// What slows them down, the most important first.
    pub(crate) findings: Vec<Finding>,
    /// What would matter, and nobody tells.
    pub(crate) unknown: Vec<String>,
}

/// One thing that takes time.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Finding {
    pub(crate) kind: &'static str,
    /// The share of the whole time that it takes, from 0 to 1, where that is known.
    pub(crate) share: Option<f64>,
    /// What it is, with its number.
    pub(crate) message: String,
    /// What to do about it.
    pub(crate) advice: String,
}

/// Diagnoses.
pub(crate) fn diagnose(evidence: &Evidence) -> Diagnosis {
    let times = Averages::over(&evidence.records);
    let (mut findings, unknown) = findings::findings(evidence, times.as_ref());
    findings.sort_by(|a, b| b.share.unwrap_or(0.0).total_cmp(&a.share.unwrap_or(0.0)));
    Diagnosis { requests: evidence.records.len(), times, findings, unknown }
}

#[cfg(test)]
mod tests;
