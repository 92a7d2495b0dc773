//! Sums over all requests since the hive started, by model, by worker and by caller.

use std::collections::HashMap;
use std::sync::Arc;

use serde::Serialize;
use utoipa::ToSchema;

use super::record::{Outcome, Record};
use crate::histogram::Histogram;

/// The most names of one kind that have sums of their own.
const NAMES: usize = 200;
/// The name under which the sums of those are that were used longest ago.
const OTHERS: &str = "(others)";

/// The sums of all requests.
#[derive(Debug, Default)]
pub(super) struct Totals {
    models: Group,
    workers: Group,
    callers: Group,
}

/// The sums by one kind of name.
#[derive(Debug, Default)]
struct Group {
    named: HashMap<Arc<str>, (u64, Sums)>,
    others: Sums,
    /// Counts the requests, for which was used last.
    turn: u64,
}

/// The sums of some requests.
#[derive(Clone, Debug, Default)]
pub(crate) struct Sums {
    requests: u64,
    pub(crate) completed: u64,
    pub(crate) failed: u64,
    pub(crate) refused: u64,
    pub(crate) client_gone: u64,
    pub(crate) retries: u64,
    pub(crate) prompt_tokens: u64,
    pub(crate) cached_tokens: u64,
    pub(crate) completion_tokens: u64,
    pub(crate) queue: Histogram,
    pub(crate) first_token: Histogram,
    pub(crate) total: Histogram,
}

/// The sums under one name, as readers see them. The quantiles are upper ends of buckets; unset is longer than
/// the last one, or unknown.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub(crate) struct TotalsOf {
    #[schema(value_type = String)]
    name: Arc<str>,
    requests: u64,
    completed: u64,
    failed: u64,
    refused: u64,
    client_gone: u64,
    retries: u64,
    prompt_tokens: u64,
    cached_tokens: u64,
    completion_tokens: u64,
    queue_p50_ms: Option<u64>,
    queue_p95_ms: Option<u64>,
    time_to_first_token_p50_ms: Option<u64>,
    time_to_first_token_p95_ms: Option<u64>,
    total_p50_ms: Option<u64>,
    total_p95_ms: Option<u64>,
    total_seconds: u64,
}

impl TotalsOf {
    /// Whether they are of what has that name.
    pub(crate) fn is_of(&self, name: &str) -> bool {
        &*self.name == name
    }
}

impl Totals {
    pub(super) fn add(&mut self, record: &Record) {
        if let Some(model) = &record.model {
            self.models.add(model, record);
        }
        if let Some(pid) = record.worker {
            self.workers.add(&pid.to_string().into(), record);
        }
        self.callers.add(&record.caller, record);
    }

    /// By model, by worker and by caller; those with the most requests first.
    pub(super) fn view(&self) -> [Vec<TotalsOf>; 3] {
        [&self.models, &self.workers, &self.callers].map(Group::view)
    }

    /// The sums by model and by caller.
    pub(super) fn sums(&self) -> [Vec<(Arc<str>, Sums)>; 2] {
        [&self.models, &self.callers].map(Group::sums)
    }
}

impl Group {
    fn add(&mut self, name: &Arc<str>, record: &Record) {
        self.turn += 1;
        if self.named.len() == NAMES && !self.named.contains_key(name) {
            self.fold_oldest();
        }
        let (last_used, sums) = self.named.entry(Arc::clone(name)).or_default();
        *last_used = self.turn;
        sums.add(record);
    }

    fn fold_oldest(&mut self) {
        let oldest = self.named.iter().min_by_key(|(_, (last_used, _))| *last_used);
        let oldest = oldest.map(|(name, _)| Arc::clone(name));
        if let Some((_, sums)) = oldest.and_then(|name| self.named.remove(&name)) {
            self.others.merge(&sums);
        }
    }

    fn sums(&self) -> Vec<(Arc<str>, Sums)> {
        let named = self.named.iter().map(|(name, (_, sums))| (Arc::clone(name), sums.clone()));
        let others = (self.others.requests > 0).then(|| (OTHERS.into(), self.others.clone()));
        named.chain(others).collect()
    }

    fn view(&self) -> Vec<TotalsOf> {
        let named = self.named.iter().map(|(name, (_, sums))| sums.view(name));
        let mut view: Vec<_> = named.collect();
        view.sort_by(|a, b| b.requests.cmp(&a.requests).then_with(|| a.name.cmp(&b.name)));
        if self.others.requests > 0 {
            view.push(self.others.view(&OTHERS.into()));
        }
        view
    }
}

impl Sums {
    fn add(&mut self, record: &Record) {
        self.requests += 1;
        match record.outcome {
            Some(Outcome::Completed) => self.completed += 1,
            Some(Outcome::Failed) => self.failed += 1,
            Some(Outcome::Refused) => self.refused += 1,
            Some(Outcome::ClientGone) | None => self.client_gone += 1,
        }
        self.retries += u64::from(record.retries);
        self.prompt_tokens += record.tokens.prompt.unwrap_or(0);
        self.cached_tokens += record.tokens.cached.unwrap_or(0);
        self.completion_tokens += record.tokens.completion.unwrap_or(0);
        if let Some(time) = record.times.queue {
            self.queue.add(time);
        }
        if let Some(time) = record.times.first_token {
            self.first_token.add(time);
        }
        self.total.add(record.times.total);
    }

    fn merge(&mut self, other: &Self) {
        self.requests += other.requests;
        self.completed += other.completed;
        self.failed += other.failed;
        self.refused += other.refused;
        self.client_gone += other.client_gone;
        self.retries += other.retries;
        self.prompt_tokens += other.prompt_tokens;
        self.cached_tokens += other.cached_tokens;
        self.completion_tokens += other.completion_tokens;
        self.queue.merge(&other.queue);
        self.first_token.merge(&other.first_token);
        self.total.merge(&other.total);
    }

    fn view(&self, name: &Arc<str>) -> TotalsOf {
        TotalsOf {
            name: Arc::clone(name),
            requests: self.requests,
            completed: self.completed,
            failed: self.failed,
            refused: self.refused,
            client_gone: self.client_gone,
            retries: self.retries,
            prompt_tokens: self.prompt_tokens,
            cached_tokens: self.cached_tokens,
            completion_tokens: self.completion_tokens,
            queue_p50_ms: self.queue.quantile_ms(0.5),
            queue_p95_ms: self.queue.quantile_ms(0.95),
            time_to_first_token_p50_ms: self.first_token.quantile_ms(0.5),
            time_to_first_token_p95_ms: self.first_token.quantile_ms(0.95),
            total_p50_ms: self.total.quantile_ms(0.5),
            total_p95_ms: self.total.quantile_ms(0.95),
            total_seconds: self.total.sum().as_secs(),
        }
    }
}
