//! Which worker gets a request, and how many it gets at once.

use super::*;

fn pids(endpoints: &[Endpoint]) -> Vec<u32> {
    endpoints.iter().map(|endpoint| endpoint.pid).collect()
}

#[tokio::test]
async fn a_worker_gets_no_more_requests_at_once_than_it_has_slots() {
    let hive = Hive::new();
    let worker = hive.start("healthy").await.unwrap();
    assert_eq!(worker.slots, 4, "it says so itself");
    let ended = hive.workers.activity();
    let open = || hive.workers.endpoint("healthy", &Preference::default());
    let mut full: Vec<_> = (0..4).map(|_| open().expect("a free slot")).collect();
    assert!(open().is_none(), "every slot has its request");
    drop(full.pop());
    tokio::time::timeout(LONG, ended.notified()).await.expect("the end is told");
    full.push(open().expect("the slot is free again"));
    assert!(open().is_none());
    drop(full);
    hive.finish().await;
}

#[tokio::test]
async fn a_conversation_goes_where_its_cache_is_as_long_as_there_is_a_slot() {
    let hive = Hive::new();
    let first = hive.start("healthy").await.unwrap();
    let second = hive.start("healthy").await.unwrap();
    let open = |messages: &[&str]| {
        let conversation = Conversation::of(messages.iter().copied());
        let preference = Preference { conversation, ..Preference::default() };
        hive.workers.endpoint("healthy", &preference).expect("a free slot")
    };
    let one = open(&["system", "one"]);
    let other = open(&["system", "other"]);
    assert_ne!(one.pid, other.pid, "other conversations go where there are fewer requests");
    let [a, b] = [one.pid, other.pid];
    // More requests in flight do not matter, as long as there is a slot.
    let more = [open(&["system", "one", "answer", "more"]), open(&["system", "one"])];
    assert_eq!(pids(&more), [a, a]);
    assert_eq!(open(&["system", "other", "answer", "more"]).pid, b);
    let last = open(&["system", "one", "answer", "more", "answer", "and more"]);
    assert_eq!(last.pid, a);
    // All four slots of that worker have requests now.
    assert_eq!(open(&["system", "one"]).pid, b);
    let conversation = Conversation::of(["system", "one"]);
    let elsewhere = Preference { conversation, avoided: Some(a), context: None };
    drop((one, other, more, last));
    assert_eq!(hive.workers.endpoint("healthy", &elsewhere).map(|endpoint| endpoint.pid), Some(b));

    // A worker that is gone is nobody's choice.
    hive.workers.stop(a, LONG).await.unwrap();
    assert_eq!(open(&["system", "one", "answer"]).pid, b);
    let nowhere_else = Preference { avoided: Some(b), ..Preference::default() };
    assert!(hive.workers.endpoint("healthy", &nowhere_else).is_some());
    assert!([first.pid, second.pid].contains(&b));
    hive.finish().await;
}
