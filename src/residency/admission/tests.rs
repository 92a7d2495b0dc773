//! Admission to real workers, which `fixtures/fake-worker.sh` of the workers' tests plays: they have four
//! slots, and the id of their model says how they behave.

use tokio_util::sync::CancellationToken;

use super::*;
use crate::config::{Config, Sandboxing};
use crate::error::Code;
use crate::spawn;
use crate::workers::{Device, StartRequest};

/// Longer than anything in a test takes.
const LONG: Duration = Duration::from_secs(30);
/// The model of the workers.
const MODEL: &str = "healthy";

const RULES: AdmissionRules = AdmissionRules { on_demand: true, queue: 8, retry: Duration::from_secs(5) };

struct Hive {
    admissions: Admissions,
    workers: Supervisor,
    _folder: tempfile::TempDir,
}

impl Hive {
    fn new(rules: AdmissionRules) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mut config = Config {
            data_dir: folder.path().to_owned(),
            worker_program: Some(
                concat!(env!("CARGO_MANIFEST_DIR"), "/src/workers/fixtures/fake-worker.sh").into(),
            ),
            ..Config::default()
        };
        config.llama_server.enabled = false;
        // The script runs this test binary, which it gets for a model.
        config.workers.sandbox = Sandboxing::Off;
        let workers =
            Supervisor::new(&config, crate::engine_store::EngineStore::open(config.engines_dir())).unwrap();
        let admissions = Admissions::new(workers.clone(), rules, workers.activity());
        Self { admissions, workers, _folder: folder }
    }

    async fn load(&self) {
        let request = StartRequest {
            model_id: MODEL.to_owned(),
            model_path: std::env::current_exe().unwrap(),
            engine: "cpu".to_owned(),
            device: Device::Index(0),
            context_length: Some(512),
            ..StartRequest::default()
        };
        self.workers.start(request, &CancellationToken::new()).await.unwrap();
    }

    fn admit(&self, caller: &str) -> Result<Admission, Refused> {
        let asking = Asking { model: MODEL.into(), caller: caller.into(), preference: Preference::default() };
        self.admissions.admit(&asking)
    }

    fn wait(&self, caller: &str) -> Waiter {
        match self.admit(caller).unwrap() {
            Admission::Waiting(waiter) => waiter,
            Admission::Now(endpoint) => panic!("it was to wait, and got {endpoint:?}"),
        }
    }

    fn waiting(&self) -> usize {
        self.admissions.demand(monotonic()).iter().map(|demand| demand.waiting).sum()
    }

    async fn finish(self) {
        self.workers.stop_all(LONG).await;
    }
}

async fn soon(waiter: Waiter) -> Settled {
    tokio::time::timeout(LONG, waiter).await.expect("it settles")
}

fn place(waiter: &Waiter) -> Option<(usize, usize)> {
    waiter.watch().wait().map(|wait| (wait.place.position, wait.place.of))
}

fn code(refused: &Refused) -> Code {
    refused.failure().code
}

#[tokio::test]
async fn who_waits_gets_a_slot_in_turn_and_who_leaves_holds_up_nobody() {
    let hive = Hive::new(RULES);
    let [first, gone, second, other] = ["a", "a", "a", "b"].map(|caller| hive.wait(caller));
    assert_eq!([&first, &other, &gone, &second].map(place), [1, 2, 3, 4].map(|at| Some((at, 4))));
    drop(gone);
    assert_eq!([&first, &other, &second].map(place), [1, 2, 3].map(|at| Some((at, 3))));
    hive.load().await;
    hive.admissions.dispatch();
    let first = soon(first).await.outcome.unwrap();
    let (other, second) = (soon(other).await, soon(second).await);
    assert!(other.outcome.is_ok() && second.outcome.is_ok() && other.job_id.is_none());
    let Admission::Now(last) = hive.admit("a").unwrap() else { panic!("one slot of four is free") };
    let waits = hive.wait("a");
    hive.admissions.dispatch();
    assert_eq!(place(&waits), Some((1, 1)), "every slot is taken");
    drop(first);
    assert_eq!(place(&hive.wait("a")), Some((2, 2)), "nobody overtakes");
    hive.admissions.dispatch();
    let endpoint = soon(waits).await.outcome.unwrap();
    // Who holds it as its slot hands it on without the owner.
    let (slot, waits) = (hive.admissions.slot(&MODEL.into(), endpoint.guard), hive.wait("a"));
    drop(slot);
    soon(waits).await.outcome.unwrap();
    assert_eq!(hive.waiting(), 0);
    drop((last, other, second));
    hive.finish().await;
}

#[tokio::test]
async fn a_slot_that_a_request_is_handed_in_the_moment_it_goes_is_the_next_ones() {
    let hive = Hive::new(RULES);
    let [going, next] = ["a", "b"].map(|caller| hive.wait(caller));
    hive.load().await;
    let held: Vec<_> = (0..3).map(|_| hive.workers.endpoint(MODEL, &Preference::default())).collect();
    hive.admissions.dispatch();
    assert_eq!((place(&going), place(&next)), (None, Some((1, 1))), "the one free slot was handed out");
    // The permit that the hand-outs left must not hide what follows.
    let wake = hive.workers.activity();
    tokio::time::timeout(LONG, wake.notified()).await.unwrap();
    drop(going);
    tokio::time::timeout(LONG, wake.notified()).await.expect("the owner is woken");
    hive.admissions.dispatch();
    soon(next).await.outcome.unwrap();
    drop(held);
    hive.finish().await;
}

#[tokio::test]
async fn a_failed_load_fails_who_waits_and_for_a_while_who_comes() {
    let hive = Hive::new(RULES);
    let model = MODEL.into();
    let (job, failed) = ("job-1".into(), Arc::new(Failure::new(Code::OutOfMemory, "it does not fit")));
    let news = LoadNews { job_id: job, doing: "loading".to_owned(), progress: None };
    let waiter = hive.wait("a");
    hive.admissions.tell(&model, Some(news.clone()));
    assert_eq!(waiter.watch().wait().and_then(|wait| wait.load), Some(news));
    hive.admissions.tell(&model, None);
    hive.admissions.fail(&model, Arc::clone(&failed));
    let Settled { outcome, job_id } = soon(waiter).await;
    assert_eq!(job_id.as_deref(), Some("job-1"));
    assert!(matches!(outcome, Err(Refused::Load { failure, again_in })
        if Arc::ptr_eq(&failure, &failed) && again_in <= RULES.retry && !again_in.is_zero()));
    let again_in = || match hive.admit("a") {
        Err(Refused::Load { again_in, .. }) => again_in,
        other => panic!("it was to be refused: {other:?}"),
    };
    assert!(again_in() <= RULES.retry);
    hive.admissions.fail(&model, Arc::clone(&failed));
    assert!(again_in() > RULES.retry && again_in() <= RULES.retry * 2, "it doubles");
    for _ in 0..9 {
        hive.admissions.fail(&model, Arc::clone(&failed));
    }
    assert!(again_in() <= LONGEST_COOL_DOWN);
    hive.admissions.reset(MODEL);
    drop(hive.wait("a"));
    hive.admissions.fail(&model, failed);
    assert!(again_in() <= RULES.retry, "it begins anew");

    // A worker of the model serves on, whatever becomes of another.
    hive.load().await;
    assert!(matches!(hive.admit("a"), Ok(Admission::Now(_))));
    hive.finish().await;
}

#[tokio::test]
async fn a_full_queue_refuses_its_greediest_caller() {
    let hive = Hive::new(AdmissionRules { queue: 2, ..RULES });
    let [oldest, newest] = ["a", "a"].map(|caller| hive.wait(caller));
    assert_eq!(hive.admit("a").map(|_| ()).map_err(|refused| code(&refused)), Err(Code::QueueFull));
    let other = hive.wait("b");
    assert_eq!(code(&soon(newest).await.outcome.unwrap_err()), Code::QueueFull);
    assert_eq!((place(&oldest), place(&other)), (Some((1, 2)), Some((2, 2))));
    hive.admissions.close();
    assert_eq!(code(&soon(oldest).await.outcome.unwrap_err()), Code::ShuttingDown);
    assert_eq!(code(&hive.admit("a").unwrap_err()), Code::ShuttingDown);
    assert_eq!(hive.waiting(), 0);
    hive.finish().await;
}

#[tokio::test]
async fn a_request_waits_only_for_what_comes() {
    let hive = Hive::new(AdmissionRules { on_demand: false, ..RULES });
    assert_eq!(code(&hive.admit("a").unwrap_err()), Code::ModelNotLoaded);
    // Somebody loads it.
    let news = LoadNews { job_id: "job-1".into(), doing: "loading".to_owned(), progress: None };
    hive.admissions.tell(&MODEL.into(), Some(news));
    let waiter = hive.wait("a");
    hive.admissions.dispatch();
    assert_eq!(place(&waiter), Some((1, 1)));
    hive.admissions.tell(&MODEL.into(), None);
    hive.admissions.dispatch();
    assert_eq!(code(&soon(waiter).await.outcome.unwrap_err()), Code::ModelNotLoaded);

    // All workers of the model go while requests wait for a slot.
    hive.load().await;
    let held: Vec<_> = (0..4).map(|_| hive.workers.endpoint(MODEL, &Preference::default())).collect();
    let waiter = hive.wait("a");
    let (workers, pid) = (hive.workers.clone(), hive.workers.list()[0].pid);
    let stop = spawn::task(async move { workers.stop(pid, Duration::ZERO).await });
    stop.await.unwrap().unwrap();
    hive.admissions.dispatch();
    assert_eq!(code(&soon(waiter).await.outcome.unwrap_err()), Code::ModelNotLoaded);
    drop(held);
    hive.finish().await;
}

#[tokio::test]
async fn changes_are_told_to_who_watches() {
    let hive = Hive::new(RULES);
    let [first, second] = ["a", "a"].map(|caller| hive.wait(caller));
    let mut watch = second.watch();
    assert_eq!(watch.wait().unwrap().place, Place { position: 2, of: 2 });
    drop(first);
    tokio::time::timeout(LONG, watch.changed()).await.unwrap();
    assert_eq!(watch.wait().unwrap().place, Place { position: 1, of: 1 });
    drop(second);
    assert_eq!(watch.wait(), None);
    hive.finish().await;
}
