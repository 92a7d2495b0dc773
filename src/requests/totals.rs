//! Sums over all requests since the hive started, by model, by worker and by caller.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;
use utoipa::ToSchema;

use super::record::{Outcome, Record};
use crate::histogram::Histogram;
use crate::usage;

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
    /// What is counted of them for the usage too.
    pub(crate) counts: usage::Sums,
    pub(crate) retries: u64,
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
    /// Adds a request that has ended, with what [`counts_of`] says of it.
    pub(super) fn add(&mut self, record: &Record, counts: &usage::Sums) {
        if let Some(model) = &record.model {
            self.models.add(model, record, counts);
        }
        if let Some(pid) = record.worker {
            self.workers.add(&pid.to_string().into(), record, counts);
        }
        self.callers.add(&record.caller, record, counts);
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
    fn add(&mut self, name: &Arc<str>, record: &Record, counts: &usage::Sums) {
        self.turn += 1;
        if self.named.len() == NAMES && !self.named.contains_key(name) {
            self.fold_oldest();
        }
        let (last_used, sums) = self.named.entry(Arc::clone(name)).or_default();
        *last_used = self.turn;
        sums.add(record, counts);
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
        let others = (self.others.counts.requests > 0).then(|| (OTHERS.into(), self.others.clone()));
        named.chain(others).collect()
    }

    fn view(&self) -> Vec<TotalsOf> {
        let named = self.named.iter().map(|(name, (_, sums))| sums.view(name));
        let mut view: Vec<_> = named.collect();
        view.sort_by(|a, b| b.requests.cmp(&a.requests).then_with(|| a.name.cmp(&b.name)));
        if self.others.counts.requests > 0 {
            view.push(self.others.view(&OTHERS.into()));
        }
        view
    }
}

impl Sums {
    fn add(&mut self, record: &Record, counts: &usage::Sums) {
        self.counts.merge(counts);
        self.retries += u64::from(record.retries);
        if let Some(time) = record.times.queue {
            self.queue.add(time);
        }
        if let Some(time) = record.times.first_token {
            self.first_token.add(time);
        }
        self.total.add(record.times.total);
    }

    fn merge(&mut self, other: &Self) {
        self.counts.merge(&other.counts);
        self.retries += other.retries;
        self.queue.merge(&other.queue);
        self.first_token.merge(&other.first_token);
        self.total.merge(&other.total);
    }

    fn view(&self, name: &Arc<str>) -> TotalsOf {
        let counts = &self.counts;
        TotalsOf {
            name: Arc::clone(name),
            requests: counts.requests,
            completed: counts.completed,
            failed: counts.failed,
            refused: counts.refused,
            client_gone: counts.client_gone,
            retries: self.retries,
            prompt_tokens: counts.prompt_tokens,
            cached_tokens: counts.cached_tokens,
            completion_tokens: counts.completion_tokens,
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

/// What is counted of one request that has ended.
pub(super) fn counts_of(record: &Record) -> usage::Sums {
    let Record { times, tokens, outcome, .. } = record;
    let ms = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
    // One that ended in no other way was dropped with its connection.
    let outcome = outcome.unwrap_or(Outcome::ClientGone);
    let is = |wanted| u64::from(outcome == wanted);
    usage::Sums {
        requests: 1,
        completed: is(Outcome::Completed),
        failed: is(Outcome::Failed),
        refused: is(Outcome::Refused),
        client_gone: is(Outcome::ClientGone),
        prompt_tokens: tokens.prompt.unwrap_or(0),
        cached_tokens: tokens.cached.unwrap_or(0),
        completion_tokens: tokens.completion.unwrap_or(0),
        queue_ms: ms(times.queue.unwrap_or_default() + times.load.unwrap_or_default()),
        total_ms: ms(times.total),
    }
}
