use std::time::Duration;

use serde_json::json;

use super::*;
use crate::config::DeviceKind;
use crate::requests::{Outcome, State, Times, Tokens};
use crate::time::Instant;
use crate::workers::{Device, ForeignProcess, Status};

/// A request of one second: its queue, its prompt and its generation in milliseconds.
fn record(queue: u64, prompt: u64, generation: u64) -> Record {
    let ms = |ms| Some(Duration::from_millis(ms));
    Record {
        request_id: "req-1".into(),
        state: State::Ended,
        started_at: Instant(0),
        caller: "me".into(),
        model: Some("tiny".into()),
        hive: None,
        worker: Some(7),
        job_id: None,
        streams: true,
        continues: false,
        outcome: Some(Outcome::Completed),
        code: None,
        times: Times {
            queue: ms(queue),
            load: ms(0),
            first_token: ms(queue + prompt),
            prompt: ms(prompt),
            generation: ms(generation),
            total: Duration::from_secs(1),
        },
        tokens: Tokens { prompt: Some(100), cached: Some(10), completion: Some(20), ..Tokens::default() },
        retries: 0,
    }
}

fn worker() -> Worker {
    Worker {
        worker_id: "w".to_owned(),
        pid: 7,
        model: "tiny".to_owned(),
        device: "cuda:0".to_owned(),
        port: None,
        url: None,
        engine: "e".to_owned(),
        trial: false,
        status: Status::Busy,
        started_at: String::new(),
        uptime_seconds: 1,
        cpu_percent: 0.0,
        rss_bytes: 0,
        vram_bytes: None,
        context_length: Some(4096),
        slots: 1,
        requests: 1,
        tokens_generated: 1,
        recent: crate::requests::Averages::default(),
        last_exit: None,
    }
}

/// A worker on a GPU that nothing slows down.
fn undisturbed() -> Conditions {
    Conditions {
        device: Device::Exact { kind: DeviceKind::Cuda, index: 0 },
        gpus: vec![("cuda:0".to_owned(), "RTX".to_owned())],
        throttled_by: Some(Vec::new()),
        swapped_bytes: Some(0),
        ..Conditions::default()
    }
}

fn evidence(records: Vec<Record>, conditions: Conditions) -> Evidence {
    Evidence {
        records: records.into_iter().map(Arc::new).collect(),
        workers: vec![(worker(), conditions)],
        load_average: 0.5,
        processors: 2,
        is_of_one_model: true,
    }
}

fn kinds(evidence: &Evidence) -> Vec<&'static str> {
    diagnose(evidence).findings.iter().map(|finding| finding.kind).collect()
}

#[test]
fn the_part_that_takes_the_most_time_comes_first() {
    let slow = evidence(vec![record(600, 300, 50)], undisturbed());
    let diagnosis = diagnose(&slow);
    assert_eq!(kinds(&slow), ["queue", "prompt"]);
    assert_eq!(diagnosis.findings[0].share, Some(0.6));
    let queue = &diagnosis.findings[0].message;
    assert_eq!(
        queue,
        "Requests waited 600 ms for a worker, 60 % of their time; 1 worker(s) answer 1 request(s) at once"
    );
    assert!(diagnosis.findings[1].message.contains("100 tokens, of which 10 were in the cache"));
    let times = diagnosis.times.unwrap();
    assert_eq!(times.queue_ms + times.prompt_ms + times.generation_ms + times.other_ms, times.total_ms);

    assert_eq!(kinds(&evidence(vec![record(0, 100, 890)], undisturbed())), ["generation"]);
    assert_eq!(kinds(&evidence(vec![record(0, 100, 100)], undisturbed())), ["unexplained"]);
    let both = diagnose(&evidence(vec![record(0, 0, 900), record(400, 0, 500)], undisturbed()));
    assert_eq!(both.findings[1].share, Some(0.2), "on average over both");
}

#[test]
fn what_disturbs_a_worker_is_found() {
    let fine = || vec![record(0, 200, 400)];
    let found = |conditions: Conditions| kinds(&evidence(fine(), conditions));
    let none: [&str; 1] = ["unexplained"];
    assert_eq!(found(undisturbed()), none);
    assert_eq!(
        found(Conditions { throttled_by: Some(vec!["it is too hot"]), ..undisturbed() })[1],
        "throttled"
    );
    assert_eq!(found(Conditions { swapped_bytes: Some(1), ..undisturbed() })[1], "swapped");
    assert_eq!(found(Conditions { device: Device::CPU, ..undisturbed() })[1], "processor");
    let other = ForeignProcess { pid: 9, name: Some("game".to_owned()), held_bytes: 1 << 30 };
    assert_eq!(found(Conditions { foreign_processes: vec![other], ..undisturbed() })[1], "gpu_shared");

    let share = |device, layers| json!({"device": device, "layers": layers, "bytes": 1_u64 << 30});
    let split = serde_json::from_value(json!([share("cuda:0", 30), share("cpu", 3)])).unwrap();
    let split = evidence(fine(), Conditions { split, ..undisturbed() });
    assert_eq!(kinds(&split)[1], "layers_on_processor");
    let message = &diagnose(&split).findings[1].message;
    assert!(message.starts_with("3 of 33 layers of worker 7 and their cache (1.0 GiB)"), "{message}");
    let mut loaded = record(100, 100, 400);
    loaded.times.load = Some(Duration::from_millis(400));
    assert_eq!(kinds(&evidence(vec![loaded], undisturbed())), ["load", "queue"]);

    let mut busy = evidence(fine(), undisturbed());
    busy.load_average = 9.0;
    assert_eq!(kinds(&busy)[1], "processor_busy");
    let mut full = record(0, 200, 400);
    full.tokens.prompt = Some(4000);
    assert_eq!(kinds(&evidence(vec![full], undisturbed()))[1], "context_full");
    assert_eq!(
        kinds(&evidence(vec![Record { continues: true, ..record(0, 200, 400) }], undisturbed()))[1],
        "cache_missed"
    );
    let failed = Record {
        outcome: Some(Outcome::Failed),
        code: Some("worker_error".into()),
        retries: 1,
        ..record(0, 200, 400)
    };
    assert_eq!(kinds(&evidence(vec![failed], undisturbed()))[1..], ["failures", "retries"]);
}

#[test]
fn what_nobody_tells_is_unknown_and_no_finding() {
    let mut silent = record(0, 0, 900);
    silent.tokens = Tokens { completion: Some(3), are_estimated: true, ..Tokens::default() };
    let diagnosis = diagnose(&evidence(
        vec![silent],
        Conditions { throttled_by: None, swapped_bytes: None, ..undisturbed() },
    ));
    assert_eq!(diagnosis.findings.len(), 1);
    assert_eq!(diagnosis.unknown.len(), 4, "{:?}", diagnosis.unknown);

    let nothing = Evidence { is_of_one_model: true, ..Evidence::default() };
    assert_eq!(kinds(&nothing), ["no_requests", "not_loaded"]);
    assert!(diagnose(&nothing).times.is_none());
}
