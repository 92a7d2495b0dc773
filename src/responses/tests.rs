use std::collections::BTreeMap;

use proptest::collection::vec;
use proptest::prelude::*;
use serde_json::json;

use super::*;

const TURN: usize = 100;

fn bounds() -> Bounds {
    Bounds { bytes: 2000, conversation: 1000, turn: TURN, idle: Duration::from_secs(3600) }
}

/// Keeps a response that takes so many bytes.
fn keep(responses: &Responses, id: &str, earlier: Conversation, bytes: usize) {
    keep_for(responses, "me", id, earlier, bytes);
}

fn keep_for(responses: &Responses, owner: &str, id: &str, earlier: Conversation, bytes: usize) {
    let response = json!({"id": id, "output": [{"id": format!("out-{id}")}]}).to_string();
    let input = |text: &str| json!([{"id": format!("in-{id}"), "text": text}]).to_string();
    let least = TURN + response.len() + input("").len();
    let input = input(&"x".repeat(bytes.saturating_sub(least)));
    responses.keep(id.into(), owner.into(), earlier, input.into(), response.into());
}

fn ids(conversation: &Conversation) -> Vec<String> {
    conversation.items().iter().map(|item| item["id"].as_str().unwrap().to_owned()).collect()
}

fn total(responses: &Responses) -> usize {
    responses.0.bytes.load(Ordering::Relaxed)
}

#[test]
fn a_conversation_has_what_was_said_before_whatever_became_of_the_responses() {
    let responses = Responses::within(bounds());
    keep(&responses, "a", Conversation::default(), 200);
    keep(&responses, "b", responses.find("a", "me").unwrap(), 200);
    // Another branch of the same conversation.
    keep(&responses, "c", responses.find("a", "me").unwrap(), 200);
    assert_eq!(responses.forget("a", "me"), Ok(()));
    assert_eq!(responses.forget("a", "me"), Err(Missing::Unknown));
    let b = responses.find("b", "me").unwrap();
    assert_eq!(ids(&b), ["in-a", "out-a", "in-b", "out-b"]);
    assert_eq!(b.input()[0]["id"], "in-b");
    assert_eq!(b.item("out-b").unwrap()["id"], "out-b");
    assert!(b.item("out-a").is_none());
    assert_eq!(ids(&responses.find("c", "me").unwrap()), ["in-a", "out-a", "in-c", "out-c"]);
    assert_eq!(total(&responses), 600);
    drop(b);
    for id in ["b", "c"] {
        responses.forget(id, "me").unwrap();
    }
    assert_eq!(total(&responses), 0);
    let kept = responses.0.kept.lock();
    assert!(kept.conversations.is_empty() && kept.roots.is_empty());
}

#[test]
fn nobody_finds_what_is_kept_for_another() {
    let responses = Responses::within(bounds());
    keep(&responses, "a", Conversation::default(), 200);
    keep(&responses, "long", Conversation::default(), 1001);
    for id in ["a", "long"] {
        assert_eq!(responses.find(id, "you").err(), Some(Missing::Unknown));
        assert_eq!(responses.forget(id, "you"), Err(Missing::Unknown));
    }
    assert!(responses.find("a", "me").is_ok());
    assert_eq!(responses.find("long", "me").err(), Some(Missing::TooLong));
}

#[test]
fn a_long_conversation_drives_out_neither_those_in_use_nor_itself() {
    let responses = Responses::within(bounds());
    keep(&responses, "old", Conversation::default(), 300);
    keep(&responses, "other", Conversation::default(), 300);
    keep(&responses, "mine", Conversation::default(), 500);
    let found = |id: &str| responses.find(id, "me").err();
    let mut last = responses.find("mine", "me").unwrap();
    for at in 0..20 {
        let id = format!("mine-{at}");
        assert_eq!(found("other"), None);
        keep(&responses, &id, last.clone(), 200);
        match responses.find(&id, "me") {
            Ok(next) => last = next,
            Err(missing) => assert_eq!((at >= 2, missing), (true, Missing::TooLong), "{id}"),
        }
    }
    assert_eq!([found("old"), found("other"), found("mine"), found("mine-1")], [None; 4]);
    // A new one takes the place of the one that was used longest ago.
    found("old");
    keep(&responses, "new", Conversation::default(), 700);
    assert_eq!(found("new"), None);
    assert_eq!([found("old"), found("other")], [None, Some(Missing::Unknown)]);
    assert_eq!([found("mine"), found("mine-1")], [None; 2]);
}

#[test]
fn what_is_not_used_for_long_is_gone() {
    let responses = Responses::within(Bounds { idle: Duration::ZERO, ..bounds() });
    keep(&responses, "a", Conversation::default(), 200);
    assert_eq!(responses.find("a", "me").err(), Some(Missing::Unknown));
    assert_eq!(total(&responses), 0);
}

#[test]
fn a_conversation_of_very_many_turns_is_dropped() {
    let responses = Responses::within(Bounds { bytes: usize::MAX, conversation: usize::MAX, ..bounds() });
    let mut last = Conversation::default();
    for at in 0..50_000 {
        responses.keep(at.to_string(), "me".into(), last, Bytes::new(), Bytes::new());
        last = responses.find(&at.to_string(), "me").unwrap();
    }
    drop(last);
    drop(responses);
}

#[derive(Clone, Debug)]
enum Act {
    /// Goes on with the response of that place, if there is one.
    Keep {
        after: Option<usize>,
        bytes: usize,
    },
    Find(usize),
    Forget(usize),
}

fn act() -> impl Strategy<Value = Act> {
    prop_oneof![
        4 => (proptest::option::of(any::<usize>()), 0..900_usize)
            .prop_map(|(after, bytes)| Act::Keep { after, bytes }),
        2 => any::<usize>().prop_map(Act::Find),
        1 => any::<usize>().prop_map(Act::Forget),
    ]
}

/// The conversations, the one used last first, and the bytes of each.
fn conversations(responses: &Responses) -> Vec<(Arc<str>, usize)> {
    let kept = responses.0.kept.lock();
    let conversations = kept.conversations.iter().map(|(root, branches)| {
        let turns = branches.responses.values().flat_map(Conversation::turns);
        let turns: BTreeMap<*const Turn, usize> = turns.map(|turn| (&raw const *turn, turn.bytes)).collect();
        (Arc::clone(root), turns.values().sum())
    });
    conversations.collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_bounds_hold_and_the_conversations_used_longest_ago_go(acts in vec(act(), 1..60)) {
        let responses = Responses::within(bounds());
        // What each response has before it.
        let mut said: Vec<Vec<String>> = Vec::new();
        for act in acts {
            let id = |place: usize| (!said.is_empty()).then(|| (place % said.len()).to_string());
            let mut before = conversations(&responses);
            match act {
                Act::Keep { after, bytes } => {
                    let after = after.and_then(id);
                    let earlier = after.as_deref().map(|id| responses.find(id, "me"));
                    let Ok(earlier) = earlier.transpose() else { continue };
                    before = conversations(&responses);
                    let mut all = after.map(|id| said[id.parse::<usize>().unwrap()].clone()).unwrap_or_default();
                    let id = said.len().to_string();
                    all.extend([format!("in-{id}"), format!("out-{id}")]);
                    said.push(all);
                    keep(&responses, &id, earlier.unwrap_or_default(), bytes);
                }
                Act::Find(place) => drop(id(place).map(|id| responses.find(&id, "me"))),
                Act::Forget(place) => drop(id(place).map(|id| responses.forget(&id, "me"))),
            }
            let now = conversations(&responses);
            let bytes: usize = now.iter().map(|(_, bytes)| bytes).sum();
            prop_assert_eq!(total(&responses), bytes, "nothing else has memory");
            prop_assert!(bytes <= 2000 && now.iter().all(|(_, bytes)| *bytes <= 1000));
            // What has gone was needed, and was used before what has stayed.
            let is_there = |root: &str| now.iter().any(|(there, _)| &**there == root);
            let gone = before.iter().rev().take_while(|(root, _)| !is_there(root));
            let gone: Vec<_> = gone.collect();
            if matches!(act, Act::Keep { .. }) {
                prop_assert!(before.iter().rev().skip(gone.len()).all(|(root, _)| is_there(root)));
                prop_assert!(gone.last().is_none_or(|(_, last)| bytes + last > 2000));
            }
        }
        let kept = responses.0.kept.lock();
        for (root, branches) in &kept.conversations {
            for (id, conversation) in &branches.responses {
                prop_assert_eq!(&kept.roots[id], root);
                prop_assert_eq!(&ids(conversation), &said[id.parse::<usize>().unwrap()]);
            }
        }
        let count: usize = kept.conversations.iter().map(|(_, branches)| branches.responses.len()).sum();
        prop_assert_eq!(kept.roots.len(), count);
    }
}
