//! Workers that try an engine.

use rustix::process::Signal;

use super::*;
use crate::config::DeviceKind;
use crate::engine::sample_model::SampleModel;

/// What tries the fake llama-server, which behaves as told.
async fn tried(hive: &Hive, behaviour: &str) -> Tried {
    let program = format!("{FIXTURES}/fake-llama-server.sh");
    let engine = hive.workers.describe("llama-server-cpu", program.as_ref()).await.unwrap();
    Tried {
        engine,
        shown_as: behaviour.to_owned(),
        model: std::env::current_exe().unwrap(),
        device: Device::CPU,
        context: 512,
    }
}

async fn start(hive: &Hive, behaviour: &str) -> TrialWorker {
    hive.workers.try_engine(&tried(hive, behaviour).await, &CancellationToken::new()).await.unwrap()
}

#[tokio::test]
async fn one_is_listed_as_what_it_is_and_no_request_can_name_it() {
    let hive = Hive::new();
    let trial = start(&hive, "healthy").await;
    let workers = &hive.workers;
    let [listed] = &workers.list()[..] else { panic!("{:?}", workers.list()) };
    assert_eq!((listed.trial, &*listed.engine, listed.status), (true, "llama-server-cpu", Status::Ready));
    assert!(workers.engines().await.iter().all(|engine| engine.name != "llama-server-cpu"));
    assert_eq!(workers.residents().len(), 1, "its memory counts");
    assert_eq!(workers.statuses("healthy"), []);
    assert!(workers.endpoint("healthy", &Preference::default()).is_none());
    assert!(!workers.serves("healthy") && !workers.has_loaded("healthy"));
    assert!(workers.of_model("healthy").is_empty() && workers.served_files().is_empty());
    assert!(workers.start_of(listed.pid).is_none(), "it is not started again");
    let pid = listed.pid;
    assert!(trial.endpoint().is_some());
    assert!(matches!(trial.fate().await, Fate::Lives));
    assert_eq!(trial.end(false).await, None);
    assert!(gone(pid) && workers.list().is_empty());
    hive.finish().await;
}

#[tokio::test]
async fn a_crash_is_told_to_its_caller_alone_and_a_dropped_one_ends() {
    let hive = Hive::with(|config| config.workers.restart = crate::config::RestartPolicy::OnFailure);
    let trial = start(&hive, "healthy").await;
    signal(hive.pids()[0], Signal::ILL);
    let Fate::Crashed(failure) = trial.fate().await else { panic!("it lives") };
    assert_eq!(failure.signal.as_deref(), Some("SIGILL"));
    assert!(failure.hint.unwrap().contains("another processor"));
    assert!(hive.workers.list().is_empty(), "it is neither kept nor restarted");
    drop(trial);

    let trial = start(&hive, "family").await;
    let pid = hive.pids()[0];
    drop(trial);
    until("the worker to be gone", async || gone(pid) && hive.workers.list().is_empty()).await;
    hive.finish().await;
}

#[tokio::test]
async fn a_stop_of_the_hive_ends_one_and_so_does_the_next_hive() {
    let hive = Hive::with(adoption::leave_workers);
    let _trial = start(&hive, "healthy").await;
    let pid = hive.pids()[0];
    // As after a kill of the first one, which does not know of it.
    let next = Supervisor::new(&hive.config, hive.store.clone()).unwrap();
    next.adopt().await;
    let found = next.adoption().unwrap();
    let [(ended, reason)] = &found.ended[..] else { panic!("{found:?}") };
    assert_eq!((*ended, reason.starts_with("it tried an engine")), (pid, true), "{reason}");
    assert!(gone(pid));

    let _trial = start(&hive, "healthy").await;
    let pid = hive.pids()[0];
    let hive = adoption::restart_hive(hive, || {}).await;
    assert!(gone(pid), "workers are left running, but not this one");
    hive.finish().await;
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn processes_that_leave_its_group_are_seen_and_ended() {
    let hive = Hive::new();
    let trial = start(&hive, "strays").await;
    let remains = trial.end(false).await.unwrap();
    assert!(remains.contains("left 1 process(es) behind"), "{remains}");
    hive.finish().await;
}

#[tokio::test]
async fn one_starts_only_beside_what_is_there_and_a_build_that_does_not_run_says_why() {
    let hive = Hive::with(|config| {
        config.memory = toml::from_str("reserve = { cpu = \"1000TB\" }").unwrap();
    });
    let model = hive.folder.path().join("sample.gguf");
    SampleModel::default().write(&model).unwrap();
    let tried = Tried { model, ..tried(&hive, "healthy").await };
    assert!(!hive.workers.has_room_for(&tried, 1).await.unwrap());
    let refused = hive.workers.try_engine(&tried, &CancellationToken::new()).await.unwrap_err();
    assert_eq!(refused.why, WhyNot::NoRoom, "{refused:?}");

    let stopped = CancellationToken::new();
    stopped.cancel();
    let tried = Tried { model: std::env::current_exe().unwrap(), ..tried };
    let cancelled = hive.workers.try_engine(&tried, &stopped).await.unwrap_err();
    assert_eq!(cancelled.why, WhyNot::Stopped);
    assert_eq!(tried.engine.devices, [DeviceKind::Cpu]);

    let none = hive.workers.describe("x", "/no/such/program".as_ref()).await.unwrap_err();
    assert_eq!((none.why, none.failure.stage.as_deref()), (WhyNot::Engine, Some("start")));
    hive.finish().await;
}
