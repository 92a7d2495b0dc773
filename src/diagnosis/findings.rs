//! The findings, one function for each kind of cause.

use std::time::Duration;

use super::{Averages, Evidence, Finding};
use crate::requests::{Outcome, Record};
use crate::workers::{Conditions, Worker};
use crate::{text, time};

/// The share of the whole time from which on a wait is worth a finding.
const WAIT: f64 = 0.1;
/// The same for the evaluation of prompts, and for what is in no other part.
const NOTABLE: f64 = 0.25;
/// The same for the generation, which is the work itself.
const MOST: f64 = 0.5;
/// A prompt of fewer tokens is computed so soon that a cache does not matter.
const SHORT: u64 = 64;
/// The share of a context that is nearly all of it.
const NEARLY_FULL: f64 = 0.9;

/// All findings, and what is unknown.
pub(super) fn findings(evidence: &Evidence, times: Option<&Averages>) -> (Vec<Finding>, Vec<String>) {
    let mut findings: Vec<Finding> = match times {
        Some(times) => {
            [queue(evidence, times), load(times), prompt(times), generation(times), unexplained(times)]
                .into_iter()
                .flatten()
                .collect()
        }
        None => vec![no_requests()],
    };
    findings.extend(cache_missed(evidence));
    findings.extend(failures(evidence));
    findings.extend(retries(evidence));
    findings.extend((evidence.is_of_one_model && evidence.workers.is_empty()).then(not_loaded));
    for (worker, conditions) in &evidence.workers {
        findings.extend(context(evidence, worker));
        findings.extend(processor(worker, conditions));
        findings.extend(layers(worker, conditions));
        findings.extend(throttled(conditions));
        findings.extend(gpu_shared(conditions));
        findings.extend(swapped(worker, conditions));
    }
    findings.extend(processor_busy(evidence));
    (findings, unknown(evidence, times))
}

fn no_requests() -> Finding {
    Finding {
        kind: "no_requests",
        share: None,
        message: "No request was seen since the hive started, so nobody knows where time goes".to_owned(),
        advice: "send a request, then diagnose again".to_owned(),
    }
}

fn queue(evidence: &Evidence, times: &Averages) -> Option<Finding> {
    let share = times.share(times.queue_ms);
    let slots: u32 = evidence.workers.iter().map(|(worker, _)| worker.slots).sum();
    let workers = match evidence.workers.len() {
        0 => String::new(),
        workers => format!("; {workers} worker(s) answer {slots} request(s) at once"),
    };
    (share >= WAIT).then(|| Finding {
        kind: "queue",
        share: Some(share),
        message: format!(
            "Requests waited {} for a worker, {} of their time{workers}",
            words(times.queue_ms),
            percent(share)
        ),
        advice: "let more requests be answered at once: ModelLoad with more \"slots\", or a further worker \
                 with WorkerSpawn"
            .to_owned(),
    })
}

fn load(times: &Averages) -> Option<Finding> {
    let share = times.share(times.load_ms);
    (share >= WAIT).then(|| Finding {
        kind: "load",
        share: Some(share),
        message: format!(
            "Requests waited {} for the model to be loaded, {} of their time",
            words(times.load_ms),
            percent(share)
        ),
        advice:
            "keep it in memory: ModelLoad loads it before it is needed, and it stays until room is needed; \
                 [residency] idle says how long a model stays that a request has loaded"
                .to_owned(),
    })
}

fn prompt(times: &Averages) -> Option<Finding> {
    let share = times.share(times.prompt_ms);
    let tokens = match (times.prompt_tokens, times.cached_tokens) {
        (Some(prompt), Some(cached)) => {
            format!(": {prompt:.0} tokens, of which {cached:.0} were in the cache")
        }
        (Some(prompt), None) => format!(": {prompt:.0} tokens"),
        _ => String::new(),
    };
    (share >= NOTABLE).then(|| Finding {
        kind: "prompt",
        share: Some(share),
        message: format!(
            "Evaluating the prompt took {}, {} of the time{tokens}",
            words(times.prompt_ms),
            percent(share)
        ),
        advice: "shorten the prompt, or keep its beginning the same from request to request, so that it is \
                 found in the cache: times and random ids belong at its end"
            .to_owned(),
    })
}

/// The worker had the conversation, and computed most of it again all the same.
fn cache_missed(evidence: &Evidence) -> Option<Finding> {
    let continued: Vec<(u64, u64)> = evidence
        .records
        .iter()
        .filter(|record| record.continues)
        .filter_map(|record| record.tokens.prompt.zip(record.tokens.cached))
        .collect();
    let missed: Vec<&(u64, u64)> =
        continued.iter().filter(|(prompt, cached)| *prompt >= SHORT && cached * 2 < *prompt).collect();
    let (prompt, cached) = missed.iter().fold((0, 0), |(p, c), (prompt, cached)| (p + prompt, c + cached));
    (!missed.is_empty()).then(|| Finding {
        kind: "cache_missed",
        share: None,
        message: format!(
            "{} of {} request(s) that continued a conversation had most of it computed again: {cached} of {prompt} \
             tokens were in the cache",
            missed.len(),
            continued.len()
        ),
        advice: "other conversations took its place in the cache: more \"slots\" keep more of them; and a client \
                 that changes earlier messages, such as a time in the system prompt, makes all after them new"
            .to_owned(),
    })
}

fn generation(times: &Averages) -> Option<Finding> {
    let share = times.share(times.generation_ms);
    let speed = times.tokens_per_second.map_or_else(String::new, |speed| format!(", at {speed} tokens/s"));
    let tokens = times.completion_tokens.map_or_else(String::new, |tokens| format!(": {tokens:.0} tokens"));
    (share >= MOST).then(|| Finding {
        kind: "generation",
        share: Some(share),
        message: format!(
            "Generating the answer took {}, {} of the time{tokens}{speed}",
            words(times.generation_ms),
            percent(share)
        ),
        advice: "this is the work itself: a smaller model or quantization, a faster device or a lower \
                 max_tokens make it shorter"
            .to_owned(),
    })
}

fn unexplained(times: &Averages) -> Option<Finding> {
    let share = times.share(times.other_ms);
    (share >= NOTABLE).then(|| Finding {
        kind: "unexplained",
        share: Some(share),
        message: format!(
            "{}, {} of the time, were in none of these parts",
            words(times.other_ms),
            percent(share)
        ),
        advice: "the engine did not tell what it did then: its log may, with GET /v1/workers/PID/log; a \
                 streamed request shows when its first token comes"
            .to_owned(),
    })
}

fn failures(evidence: &Evidence) -> Option<Finding> {
    let is_failure = |record: &&Record| matches!(record.outcome, Some(Outcome::Failed | Outcome::Refused));
    let failed: Vec<&Record> = evidence.records.iter().map(|record| &**record).filter(is_failure).collect();
    let last = failed.first()?;
    let code = last.code.as_deref().unwrap_or("an unknown code");
    Some(Finding {
        kind: "failures",
        share: None,
        message: format!(
            "{} of {} request(s) failed or were refused, the last one with {code}",
            failed.len(),
            evidence.records.len()
        ),
        advice: match last.worker {
            Some(pid) => format!("GET /v1/workers/{pid}/log may show why, and so may the hive's own log"),
            None => "the hive's own log says why".to_owned(),
        },
    })
}

fn retries(evidence: &Evidence) -> Option<Finding> {
    let retried = evidence.records.iter().filter(|record| record.retries > 0).count();
    (retried > 0).then(|| Finding {
        kind: "retries",
        share: None,
        message: format!("{retried} request(s) went to a second worker, because the first one was lost"),
        advice: "WorkerProcessList shows crashed workers, and their logs why they crashed".to_owned(),
    })
}

fn not_loaded() -> Finding {
    Finding {
        kind: "not_loaded",
        share: None,
        message: "No worker serves the model: the next request waits for its load".to_owned(),
        advice: "ModelLoad loads it beforehand".to_owned(),
    }
}

#[expect(clippy::cast_precision_loss, reason = "counts of tokens are far below 2^53")]
fn context(evidence: &Evidence, worker: &Worker) -> Option<Finding> {
    let context = worker.context_length?;
    let of_it = evidence.records.iter().filter(|record| record.worker == Some(worker.pid));
    let used = of_it.filter_map(|record| Some(record.tokens.prompt? + record.tokens.completion.unwrap_or(0)));
    let most = used.max()?;
    (most as f64 >= context as f64 * NEARLY_FULL).then(|| Finding {
        kind: "context_full",
        share: None,
        message: format!("A request took {most} of the {context} tokens of context that it has"),
        advice: "ModelLoad with a longer \"context_length\", or a shorter conversation: close to its end, \
                 an engine may cut answers or compute the whole prompt again"
            .to_owned(),
    })
}

/// Layers on the processor have their part of the KV cache there too.
fn layers(worker: &Worker, conditions: &Conditions) -> Option<Finding> {
    let part = conditions.split.iter().find(|share| share.device.is_cpu())?;
    let all: u32 = conditions.split.iter().map(|share| share.layers).sum();
    Some(Finding {
        kind: "layers_on_processor",
        share: None,
        message: format!(
            "{} of {all} layers of worker {} and their cache ({}) are on the processor, and each token waits for them",
            part.layers,
            worker.pid,
            text::bytes(part.bytes)
        ),
        advice:
            "free memory of the GPU and load the model again, with a shorter \"context_length\" or fewer \
                 \"slots\", or use a smaller quantization"
                .to_owned(),
    })
}

fn processor(worker: &Worker, conditions: &Conditions) -> Option<Finding> {
    let gpu = conditions.gpus.first();
    conditions.device.is_cpu().then(|| Finding {
        kind: "processor",
        share: None,
        message: match gpu {
            Some((id, name)) => format!(
                "Worker {} computes on the processor, although this machine has a GPU: {id}, {name}",
                worker.pid
            ),
            None => format!("Worker {} computes on the processor: this machine has no GPU", worker.pid),
        },
        advice: match gpu {
            Some((id, _)) => {
                format!("ModelLoad with \"device\": \"{id}\"; HiveCheck shows which engines can use it")
            }
            None => "a smaller model or quantization makes it faster".to_owned(),
        },
    })
}

fn throttled(conditions: &Conditions) -> Option<Finding> {
    let reasons = conditions.throttled_by.as_deref().filter(|reasons| !reasons.is_empty())?;
    Some(Finding {
        kind: "throttled",
        share: None,
        message: format!("{} runs slower than it could: {}", conditions.device, reasons.join(", ")),
        advice:
            "nvidia-smi -q -d PERFORMANCE,TEMPERATURE,POWER shows more: improve its cooling, or raise its \
                 limits"
                .to_owned(),
    })
}

fn gpu_shared(conditions: &Conditions) -> Option<Finding> {
    let first = conditions.foreign_processes.first()?;
    let held: u64 = conditions.foreign_processes.iter().map(|process| process.held_bytes).sum();
    let name = first.name.as_deref().unwrap_or("of another container");
    Some(Finding {
        kind: "gpu_shared",
        share: None,
        message: format!(
            "{} other process(es) hold {} of {}, the most of it process {} ({name})",
            conditions.foreign_processes.len(),
            text::bytes(held),
            conditions.device,
            first.pid
        ),
        advice: "what they compute takes time of the GPU: end them, or load the model on another device"
            .to_owned(),
    })
}

fn swapped(worker: &Worker, conditions: &Conditions) -> Option<Finding> {
    let swapped = conditions.swapped_bytes.filter(|bytes| *bytes > 0)?;
    Some(Finding {
        kind: "swapped",
        share: None,
        message: format!("{} of worker {} are swapped out", text::bytes(swapped), worker.pid),
        advice: "free memory: unload other models, end other programs, or load it with a shorter context"
            .to_owned(),
    })
}

#[expect(clippy::cast_precision_loss, reason = "a machine has few processors")]
fn processor_busy(evidence: &Evidence) -> Option<Finding> {
    let Evidence { load_average, processors, .. } = evidence;
    let own: f32 = evidence.workers.iter().map(|(worker, _)| worker.cpu_percent / 100.0).sum();
    (*processors > 0 && *load_average > *processors as f64 * 1.2).then(|| Finding {
        kind: "processor_busy",
        share: None,
        message: format!(
            "{load_average:.1} threads want to compute on {processors} processor(s); the workers take {own:.1} of them"
        ),
        advice: "end other work on this machine, or run fewer workers on the processor".to_owned(),
    })
}

fn unknown(evidence: &Evidence, times: Option<&Averages>) -> Vec<String> {
    let mut unknown = Vec::new();
    if let Some(times) = times {
        if times.cached_tokens.is_none() {
            unknown.push("how much of the prompts was in the cache: the engine does not tell".to_owned());
        }
        if evidence.records.iter().any(|record| record.tokens.are_estimated) {
            unknown.push(
                "exact counts of tokens: the engine does not tell, so pieces of streams count".to_owned(),
            );
        }
    }
    for (worker, conditions) in &evidence.workers {
        let device = conditions.device;
        if !device.is_cpu() && conditions.throttled_by.is_none() {
            unknown.push(format!("whether the clocks of {device} are held back: its driver does not tell"));
        }
        if conditions.swapped_bytes.is_none() {
            unknown
                .push(format!("how much of worker {} is swapped out: the system does not tell", worker.pid));
        }
    }
    unknown
}

fn words(ms: f64) -> String {
    time::in_words(Duration::try_from_secs_f64(ms / 1000.0).unwrap_or_default())
}

fn percent(share: f64) -> String {
    format!("{:.0} %", share * 100.0)
}
