use std::time::{Duration, Instant};

use super::super::record::{Record, State};
use super::*;
use crate::error::Code;
use crate::requests::Recent;

/// A recorder of a request that was sent to worker 7, and its ledger.
fn sent() -> (Ledger, Recorder, Arc<Recent>) {
    let (ledger, recent) = (Ledger::default(), Arc::<Recent>::default());
    let recorder = Recorder::new(&ledger, "me".into());
    recorder.asks("tiny", true);
    recorder.sent(ServedBy {
        pid: 7,
        loaded_within: None,
        knows_conversation: false,
        recent: Arc::clone(&recent),
    });
    (ledger, recorder, recent)
}

fn text(text: &str) -> Vec<u8> {
    serde_json::json!({"choices": [{"delta": {"content": text}}]}).to_string().into_bytes()
}

/// The request that ended last.
fn last(ledger: &Ledger) -> Arc<Record> {
    ledger.of_model(None, 1).remove(0)
}

#[test]
fn a_request_ends_once_whatever_follows() {
    let (ledger, recorder, recent) = sent();
    let id = recorder.id().to_owned();
    assert_eq!(ledger.find(&id).unwrap().state, State::Started);
    recorder.piece(&text("a"));
    assert_eq!(ledger.find(&id).unwrap().state, State::Answering);
    recorder
        .piece(br#"{"timings":{"cache_n":1,"prompt_n":2,"prompt_ms":4,"predicted_n":20,"predicted_ms":40}}"#);
    recorder.completed();
    recorder.failed(&Failure::new(Code::WorkerError, "late"));
    drop(recorder);
    let record = ledger.find(&id).unwrap();
    assert_eq!((record.state, record.outcome, &record.code), (State::Ended, Some(Outcome::Completed), &None));
    assert_eq!((record.worker, record.model.as_deref(), &*record.caller), (Some(7), Some("tiny"), "me"));
    let tokens = &record.tokens;
    assert_eq!((tokens.prompt, tokens.cached, tokens.completion), (Some(3), Some(1), Some(20)));
    assert_eq!((tokens.per_second, tokens.are_estimated), (Some(500.0), false));
    assert_eq!(ledger.of_model(Some(&["tiny".to_owned()]), 10).len(), 1);
    assert!(ledger.of_model(Some(&["other".to_owned()]), 10).is_empty());
    assert_eq!(recent.averages().cached_tokens, Some(1.0));
}

#[test]
fn an_engine_that_counts_nothing_is_estimated_by_its_pieces() {
    let (ledger, recorder, _) = sent();
    for word in ["", "a", "b", "c"] {
        recorder.piece(&text(word));
    }
    recorder.completed();
    let tokens = &last(&ledger).tokens;
    assert_eq!((tokens.prompt, tokens.completion, tokens.are_estimated), (None, Some(3), true));
}

#[test]
fn whoever_ends_a_request_is_told_apart() {
    let (ledger, recorder, recent) = sent();
    drop(recorder);
    assert_eq!(last(&ledger).outcome, Some(Outcome::ClientGone));
    for (end, outcome, code) in [
        ((|r| r.answered(200, b"{}")) as fn(&Recorder), Outcome::Completed, None),
        (
            |r| r.answered(400, br#"{"error":{"code":"context_length_exceeded"}}"#),
            Outcome::Refused,
            Some("context_length_exceeded"),
        ),
        (
            |r| r.answered(400, br#"{"error":{"code":400,"type":"invalid"}}"#),
            Outcome::Refused,
            Some("invalid"),
        ),
        (|r| r.answered(500, b"{}"), Outcome::Failed, Some("worker_error")),
        (|r| r.broke_off(b""), Outcome::Failed, Some("worker_error")),
        (|r| r.failed(&Failure::new(Code::ModelNotFound, "no")), Outcome::Refused, Some("model_not_found")),
        (
            |r| r.failed(&Failure::new(Code::WorkerUnreachable, "no")),
            Outcome::Failed,
            Some("worker_unreachable"),
        ),
    ] {
        let recorder = Recorder::new(&ledger, "me".into());
        end(&recorder);
        let record = last(&ledger);
        assert_eq!((record.outcome, record.code.as_deref()), (Some(outcome), code));
        assert_eq!(record.model, None);
    }
    assert_eq!(recent.averages().tokens_per_second, None, "none of them was a whole answer");
    let [models, workers, callers] = ledger.totals().map(|totals| serde_json::to_value(totals).unwrap());
    assert_eq!((&models[0]["name"], &models[0]["requests"]), (&"tiny".into(), &1.into()));
    assert_eq!((&workers[0]["name"], &workers[0]["client_gone"]), (&"7".into(), &1.into()));
    let callers = &callers[0];
    assert_eq!(
        (&callers["requests"], &callers["failed"], &callers["refused"]),
        (&8.into(), &3.into(), &3.into())
    );
}

#[test]
fn what_is_remembered_is_bounded() {
    let ledger = Ledger::default();
    for number in 0..1100 {
        let recorder = Recorder::new(&ledger, format!("caller-{number}").into());
        recorder.asks("tiny", false);
        recorder.completed();
    }
    assert_eq!(ledger.of_model(None, usize::MAX).len(), 1000);
    assert_eq!(&*last(&ledger).caller, "caller-1099");
    let [_, _, callers] = ledger.totals().map(|totals| serde_json::to_value(totals).unwrap());
    let callers = callers.as_array().unwrap();
    let others = callers.last().unwrap();
    assert_eq!((callers.len(), &others["name"], &others["requests"]), (201, &"(others)".into(), &900.into()));
}

#[test]
fn a_wait_for_a_load_is_told_apart_from_a_wait_for_others() {
    let times = |loaded: fn(Instant) -> (Instant, Instant)| {
        let (ledger, recent) = (Ledger::default(), Arc::<Recent>::default());
        let recorder = Recorder::new(&ledger, "me".into());
        recorder.asks("tiny", true);
        let asked = monotonic();
        recorder.sent(ServedBy {
            pid: 7,
            loaded_within: Some(loaded(asked)),
            knows_conversation: false,
            recent,
        });
        recorder.completed();
        let times = last(&ledger).times.clone();
        (times.queue.unwrap(), times.load.unwrap(), times.total)
    };
    let minute = Duration::from_secs(60);
    let (_, load, _) = times(|asked| (asked - Duration::from_secs(60), asked - Duration::from_secs(30)));
    assert_eq!(load, Duration::ZERO, "it was loaded before");
    let (queue, load, total) =
        times(|asked| (asked - Duration::from_secs(60), asked + Duration::from_secs(60)));
    assert!(load > Duration::ZERO && queue + load <= total && total < minute, "{queue:?} {load:?} {total:?}");
}
