//! Partitions of a fleet: hives and a cluster of nats-servers in network namespaces, whose networks are cut without a
//! word while work goes on.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures::future::join_all;
use reqwest::Response;
use rustix::process::Signal;
use serde_json::{Value, json};

use crate::fleet::{act, assert_whole};
use crate::support::{Heard, Machine, Machines, Net, Scripted, read_all, read_until, until, write_model};

/// Longer than any test: nobody is taken for gone.
const NEVER: &str = "10m";
/// By when hives have come to other servers. It takes seconds on a machine that has nothing else to do.
const BOUND: Duration = Duration::from_secs(90);

/// Scripts for three hives.
fn scripts() -> [Scripted; 3] {
    std::array::from_fn(|_| Scripted::new())
}

async fn machines(gone_after: &str, scripts: &[Scripted; 3]) -> Option<Machines> {
    Machines::start(gone_after, std::array::from_fn(|hive| &scripts[hive])).await
}

/// Submits an act at every hive for every hive, and gives the jobs' ids.
async fn acts_of_all_for_all(machines: &[Machine]) -> Vec<String> {
    let mut ids = Vec::new();
    for machine in machines {
        for other in machines {
            ids.push(machine.submit(&act(other.name)).await);
        }
    }
    ids
}

/// Checks that each job has one end, each of its events once and in order, and the same bytes at every hive.
async fn are_whole_everywhere(machines: &[Machine], ids: &[String]) {
    let check = async |id: &String| {
        let streams = join_all(machines.iter().map(|machine| machine.typed(id))).await;
        assert_whole(&streams[0]);
        for (machine, stream) in machines.iter().zip(&streams) {
            assert_eq!(stream, &streams[0], "{id} at {}", machine.name);
        }
    };
    for ids in ids.chunks(16) {
        join_all(ids.iter().map(check)).await;
    }
}

/// Checks that the list of all hives' jobs has each of these once.
async fn are_listed_once(machine: &Machine, ids: &[String]) {
    let (mut listed, mut cursor) = (Vec::new(), String::new());
    loop {
        let path = format!("/v1/jobs?hive=all&limit=1000{cursor}");
        let page = until("all hives' jobs", async || {
            let page = machine.json(&path).await;
            page["jobs"].is_array().then_some(page)
        })
        .await;
        let jobs = page["jobs"].as_array().expect("jobs");
        listed.extend(jobs.iter().filter_map(|job| job["job_id"].as_str()).map(str::to_owned));
        let Some(next) = page["next_cursor"].as_str() else { break };
        cursor = format!("&cursor={next}");
    }
    for id in ids {
        assert_eq!(listed.iter().filter(|listed| *listed == id).count(), 1, "{id} of {listed:?}");
    }
}

/// Checks that something was done, that every hive is back, and that nothing of it is lost.
async fn all_is_well(machines: &[Machine], ids: &[String]) {
    assert!(!ids.is_empty());
    for machine in machines {
        machine.sees(&["a", "b", "c"]).await;
        machine.is_well().await;
    }
    are_whole_everywhere(machines, ids).await;
    are_listed_once(&machines[0], ids).await;
}

/// Begins to follow a job at a hive, and reads until that is there.
async fn followed_until(machine: &Machine, id: &str, needle: &str) -> (Response, String) {
    let mut stream = machine.follow(id).await;
    let mut seen = String::new();
    read_until(&mut stream, &mut seen, needle).await;
    (stream, seen)
}

fn load(hive: &str, model: &str) -> Value {
    json!({ "ModelLoad": { "hive_id": hive, "id": model } })
}

/// What a hive answers to an operation that it refuses.
async fn refusal(machine: &Machine, operation: &Value) -> Value {
    let answer = machine.post("/v1/jobs", operation).await;
    assert!(!answer.status().is_success(), "{operation} was taken");
    answer.json().await.expect("JSON")
}

async fn chat(machine: &Machine, model: &str) -> Response {
    let messages = [json!({ "role": "user", "content": machine.name })];
    machine.post("/v1/chat/completions", &json!({ "model": model, "messages": messages })).await
}

/// The workers of a hive.
async fn workers(machine: &Machine) -> Vec<Value> {
    machine.succeed(&json!({ "WorkerProcessList": {} })).await.as_array().expect("workers").clone()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hive_that_is_cut_off_from_everything_serves_its_own_and_adopts_what_was_decided() {
    let scripts = scripts();
    let Some(mut all) = machines("6s", &scripts).await else { return };
    let machines = all.machines();
    let [a, b, c] = &machines;
    let heard = Heard::at(a).await;
    for model in ["long", "short"] {
        write_model(c.models(), model);
        scripts[2].set(&format!("{model}.loading"));
    }
    // Two acts of the hive, asked for by the first and followed at the second.
    let (long, short) = (a.submit(&load("c", "long")).await, a.submit(&load("c", "short")).await);
    let (mut long_stream, mut long_seen) = followed_until(b, &long, "narration").await;
    let (mut short_stream, mut short_seen) = followed_until(b, &short, "narration").await;

    all.cut_hive(2, &[Net::Nats, Net::Hives]).await;
    a.shows("c", Some("unreachable")).await;
    assert_eq!(refusal(a, &act("c")).await["code"], "hive_unreachable");
    // It serves its own, and waits for nobody.
    let own = tokio::time::timeout(Duration::from_secs(20), async {
        scripts[2].clear("short.loading");
        let ended = c.typed(&short).await;
        assert!(ended.contains("event: done"), "{ended}");
        let mut ids = Vec::new();
        for _ in 0..5 {
            ids.push(c.submit(&act("localhost")).await);
            assert_whole(&c.typed(ids.last().expect("an act")).await);
        }
        ids
    });
    let mut ids = own.await.expect("it waits for somebody");
    assert_eq!(chat(c, "short").await.status(), 200);
    until("the hive to say that it is alone", async || (c.status().await["is_in"] == false).then_some(()))
        .await;
    assert_eq!(c.status().await["trouble"]["code"], "fleet_unreachable");
    assert_eq!(refusal(c, &act("a")).await["code"], "fleet_unreachable");

    // The others go on without it, and what it had under way is ended for it.
    ids.extend(acts_of_all_for_all(&machines[..2]).await);
    for (stream, seen) in [(&mut long_stream, &mut long_seen), (&mut short_stream, &mut short_seen)] {
        read_until(stream, seen, "event: failed").await;
        assert!(seen.contains("hive 'c' has been silent"), "{seen}");
    }
    long_seen += &read_all(long_stream).await;
    short_seen += &read_all(short_stream).await;
    a.shows("c", None).await;
    heard.hears("c", &["unreachable", "gone"]).await;
    assert_eq!(c.json(&format!("/v1/jobs/{long}")).await["state"], "running");

    all.mend_hive(2, &[Net::Nats, Net::Hives]).await;
    for machine in &machines {
        machine.sees(&["a", "b", "c"]).await;
    }
    for (id, seen) in [(&long, &long_seen), (&short, &short_seen)] {
        until("the end that the fleet recorded", async || (c.typed(id).await == *seen).then_some(())).await;
    }
    ids.extend([long, short]);
    are_whole_everywhere(&machines, &ids).await;
    are_listed_once(b, &ids).await;
    heard.hears("c", &["unreachable", "gone", "joined"]).await;
    // What it did is done, and what still ran is stopped.
    let left = workers(c).await;
    assert_eq!(left.iter().map(|worker| &worker["model"]).collect::<Vec<_>>(), ["short"], "{left:?}");
    all.kill_hive(2).await;
    all.start_hive(2).await;
    are_whole_everywhere(&machines, &ids).await;
    all.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hive_that_is_cut_off_from_the_servers_alone_asks_the_others_directly() {
    let scripts = scripts();
    let Some(all) = machines(NEVER, &scripts).await else { return };
    let machines = all.machines();
    let [a, b, c] = &machines;
    for machine in [a, c] {
        let model = format!("of-{}", machine.name);
        write_model(machine.models(), &model);
        machine.succeed(&load("localhost", &model)).await;
    }
    for (machine, model) in [(a, "of-c"), (c, "of-a")] {
        until(model, async || (chat(machine, model).await.status() == 200).then_some(())).await;
    }
    let (heard, heard_there) = (Heard::at(b).await, Heard::at(c).await);
    let mut ids = acts_of_all_for_all(&machines).await;
    // An answer that stands still in its middle.
    scripts[2].set("of-c.halfway");
    let messages = [json!({ "role": "user", "content": "of-c" })];
    let streamed = json!({ "model": "of-c", "messages": messages, "stream": true });
    let (mut answer, mut seen) = (a.post("/v1/chat/completions", &streamed).await, String::new());
    read_until(&mut answer, &mut seen, "assistant").await;

    all.cut_hive(2, &[Net::Nats]).await;
    for machine in [a, b] {
        machine.shows("c", Some("unreachable")).await;
    }
    until("the hive to say that it is alone", async || (c.status().await["is_in"] == false).then_some(()))
        .await;
    assert_eq!(refusal(b, &act("c")).await["code"], "hive_unreachable");
    assert_eq!(refusal(c, &act("b")).await["code"], "fleet_unreachable");
    // It goes on with what it knew, directly; who hears the others does not ask it.
    assert_eq!(chat(c, "of-a").await.status(), 200);
    for _ in 0..5 {
        ids.push(c.submit(&act("localhost")).await);
    }
    ids.extend(acts_of_all_for_all(&machines[..2]).await);
    scripts[2].clear("of-c.halfway");
    read_until(&mut answer, &mut seen, "[DONE]").await;
    assert_eq!(chat(c, "of-c").await.status(), 200);

    all.mend_hive(2, &[Net::Nats]).await;
    for machine in &machines {
        machine.sees(&["a", "b", "c"]).await;
    }
    are_whole_everywhere(&machines, &ids).await;
    are_listed_once(a, &ids).await;
    heard.hears("c", &["unreachable", "back"]).await;
    // Who hears nobody judges nobody.
    for hive in ["a", "b"] {
        assert!(heard_there.of(hive).is_empty(), "{:?}", heard_there.of(hive));
    }
    all.stop().await;
}

/// Cuts the server that leads the stream of events off from these networks. Work goes on, every hive comes to a server
/// that serves it, and nothing is lost.
async fn cut_off_the_leading_server(networks: &[Net]) {
    let scripts = scripts();
    let Some(all) = machines(NEVER, &scripts).await else { return };
    let machines = all.machines();
    let mut ids = acts_of_all_for_all(&machines).await;
    let leader = all.leader();
    all.cut_node(leader, networks).await;
    let goes_on = tokio::time::timeout(BOUND, async {
        let ids = acts_of_all_for_all(&machines).await;
        for machine in &machines {
            machine.is_well().await;
        }
        ids
    });
    ids.extend(goes_on.await.expect("the hives come to other servers"));
    are_whole_everywhere(&machines, &ids).await;
    all.mend_node(leader, networks).await;
    ids.extend(acts_of_all_for_all(&machines).await);
    for machine in &machines {
        machine.sees(&["a", "b", "c"]).await;
    }
    are_whole_everywhere(&machines, &ids).await;
    are_listed_once(&machines[0], &ids).await;
    all.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_is_cut_off_from_the_hives_is_left_by_them() {
    cut_off_the_leading_server(&[Net::Nats]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_is_cut_off_from_the_others_is_left_by_the_hives() {
    cut_off_the_leading_server(&[Net::Routes]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_is_cut_off_from_everything_is_left_by_the_hives() {
    cut_off_the_leading_server(&[Net::Nats, Net::Routes]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn slow_servers_lose_nothing_and_let_nobody_be_taken_for_gone() {
    let scripts = scripts();
    let Some(all) = machines("8s", &scripts).await else { return };
    let machines = all.machines();
    let heard = join_all(machines.iter().map(Heard::at)).await;
    let is_over = AtomicBool::new(false);
    let pulses = async {
        for _ in 0..4 {
            for node in 0..3 {
                all.signal_node(node, Signal::STOP);
                tokio::time::sleep(Duration::from_millis(700)).await;
                all.signal_node(node, Signal::CONT);
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
        is_over.store(true, Ordering::Release);
    };
    let flow = acts_while(&machines, &is_over);
    let ((), ids) = tokio::join!(pulses, flow);
    all_is_well(&machines, &ids).await;
    for heard in &heard {
        for hive in ["a", "b", "c"] {
            assert!(!heard.of(hive).iter().any(|change| change == "gone"), "{:?}", heard.of(hive));
        }
    }
    all.stop().await;
}

/// Submits acts at every hive for every hive, again and again. Gives those that were taken.
async fn acts_while(machines: &[Machine], is_over: &AtomicBool) -> Vec<String> {
    let flows = machines.iter().map(|machine| async move {
        let mut ids = Vec::new();
        while !is_over.load(Ordering::Acquire) {
            for other in machines {
                ids.extend(machine.try_submit(&act(other.name)).await);
            }
            // A hive that is down is asked again in a moment.
            tokio::time::sleep(Duration::from_millis(300)).await;
        }
        ids
    });
    join_all(flows).await.concat()
}

#[tokio::test(flavor = "multi_thread")]
async fn three_hives_and_three_servers_are_killed_in_turn_and_every_stream_is_whole() {
    let scripts = scripts();
    let Some(mut all) = machines(NEVER, &scripts).await else { return };
    let machines = all.machines();
    let is_over = AtomicBool::new(false);
    let faults = async {
        for hive in 0..3 {
            all.kill_hive(hive).await;
            let (next, other) = (&machines[(hive + 1) % 3], &machines[(hive + 2) % 3]);
            let id = next.submit(&act(other.name)).await;
            assert_whole(&next.typed(&id).await);
            all.start_hive(hive).await;
            machines[hive].is_well().await;
        }
        for node in 0..3 {
            all.kill_node(node).await;
            for machine in &machines {
                let id = machine.submit(&act(machines[node].name)).await;
                assert_whole(&machine.typed(&id).await);
            }
            all.start_node(node);
            for machine in &machines {
                machine.is_well().await;
            }
        }
        is_over.store(true, Ordering::Release);
    };
    let ((), ids) = tokio::join!(faults, acts_while(&machines, &is_over));
    all_is_well(&machines, &ids).await;
    all.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_for_a_model_that_is_loaded_nowhere_are_answered_while_a_server_is_away() {
    let scripts = scripts();
    let Some(mut all) = machines(NEVER, &scripts).await else { return };
    let machines = all.machines();
    for machine in &machines {
        write_model(machine.models(), "m");
        machine.succeed(&json!({ "ModelList": {} })).await;
    }
    for machine in &machines {
        until("the model at all hives", async || {
            let cards = machine.json("/v1/models").await;
            (cards["data"][0]["hives"].as_array()?.len() == 3).then_some(())
        })
        .await;
    }
    all.kill_node(all.leader()).await;
    for answer in join_all(machines.iter().map(|machine| chat(machine, "m"))).await {
        assert_eq!(answer.status(), 200, "{}", answer.text().await.expect("a body"));
    }
    all.stop().await;
}
