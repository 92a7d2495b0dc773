use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use super::*;
use crate::jobs::job::JobHeader;
use crate::jobs::log::Bounds;
use crate::jobs::{JobId, JobState};
use crate::narration::Level;
use crate::spawn;

const BOUNDS: Bounds = Bounds { events: 1000, bytes: 1 << 20 };

fn drain(dir: &Path) -> Drain {
    let header = JobHeader {
        id: JobId::new(),
        operation: "test".into(),
        kind: OperationKind::Act,
        request: RawValue::from_string("{}".into()).unwrap(),
        created_at: Instant::now(),
        idempotency_key: None,
        journal_damage: None,
    };
    let journals = Arc::new(Journals::open(dir.to_owned(), BOUNDS).unwrap());
    let log = Arc::new(Log::new(BOUNDS));
    Drain {
        journal: Some(journals.create(&header).unwrap()),
        job: Arc::new(Job::queued(header, Arc::clone(&log))),
        log,
        journals,
        hub: Arc::new(Hub::new(16)),
        counts: Arc::default(),
        progress_every: Duration::ZERO,
    }
}

fn narration(at: Instant, message: String) -> Narration {
    Narration { at, level: Level::Info, action: "test", message, progress: None }
}

#[tokio::test]
async fn a_job_has_the_times_of_its_journal() {
    let dir = tempfile::tempdir().unwrap();
    let drain = drain(dir.path());
    let (job, journals) = (Arc::clone(&drain.job), Arc::clone(&drain.journals));
    let (entries, receiver) = mpsc::unbounded_channel();
    let (end, ended) = oneshot::channel();
    // The second narration is ahead of the clock, as after the clock was set back: the end takes its time.
    let ahead = Instant(Instant::now().0 + 60_000);
    let started = narration(Instant(5), String::new());
    entries.send(Entry::Step { step: JobStep::Started, narration: started }).unwrap();
    entries.send(Entry::Narration(narration(ahead, String::new()))).unwrap();
    end.send(Terminal::Done).unwrap();
    drain.run(receiver, ended).await;
    let recalled = journals.recall(job.id()).unwrap();
    let recalled =
        Job::from_journal(recalled.header, recalled.started_at, &recalled.log, false, Instant::now());
    for job in [&*job, &recalled] {
        assert_eq!((job.started_at(), job.ended_at()), (Some(Instant(5)), Some(ahead)));
    }
}

#[test]
fn the_journal_has_an_event_before_anybody_can_read_it() {
    let dir = tempfile::tempdir().unwrap();
    // More than a pipe holds: the write of such an event cannot end before the test reads it.
    let long = "x".repeat(256 << 10);
    let (journal, writer) = std::io::pipe().unwrap();
    let mut journal = BufReader::new(journal);
    let mut drain = drain(dir.path());
    drain.journal = Some(Journal::to_file(File::from(OwnedFd::from(writer)), "test"));
    let (job, log, hub) = (Arc::clone(&drain.job), Arc::clone(&drain.log), Arc::clone(&drain.hub));
    let (entries, receiver) = mpsc::unbounded_channel();
    let (end, ended) = oneshot::channel();
    let draining = spawn::thread("drain", move || {
        tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(drain.run(receiver, ended));
    })
    .unwrap();

    let started = narration(Instant(5), long.clone());
    entries.send(Entry::Step { step: JobStep::Started, narration: started }).unwrap();
    assert!(!journal.fill_buf().unwrap().is_empty(), "the write has begun");
    assert_eq!((log.last_seq(), hub.last(), job.state()), (0, 0, JobState::Queued));
    let mut line = String::new();
    journal.read_line(&mut line).unwrap();
    assert!(line.contains(r#""seq":1"#));

    let result = RawValue::from_string(format!("\"{long}\"")).unwrap();
    entries.send(Entry::Result { at: Instant(6), data: result }).unwrap();
    end.send(Terminal::Done).unwrap();
    assert!(!journal.fill_buf().unwrap().is_empty(), "the write of the end has begun");
    assert_eq!((log.last_seq(), job.state()), (1, JobState::Running));
    let mut rest = String::new();
    journal.read_to_string(&mut rest).unwrap();
    assert_eq!(rest.lines().count(), 2);
    draining.join().unwrap();
    assert_eq!((log.last_seq(), job.state()), (3, JobState::Succeeded));
}

#[tokio::test]
async fn work_that_outlives_its_job_cannot_delay_the_terminal_event() {
    let dir = tempfile::tempdir().unwrap();
    let drain = drain(dir.path());
    let log = Arc::clone(&drain.log);
    let (entries, receiver) = mpsc::unbounded_channel();
    let (end, ended) = oneshot::channel();
    let stop = Arc::new(AtomicBool::new(false));
    let narrators: Vec<_> = (0..4)
        .map(|_| {
            let (entries, stop) = (entries.clone(), Arc::clone(&stop));
            let narrate = move || {
                let entry = Entry::Narration(narration(Instant(0), String::new()));
                entries.send(entry).is_ok() && !stop.load(Ordering::Relaxed)
            };
            spawn::thread("narrator", move || while narrate() {}).unwrap()
        })
        .collect();
    end.send(Terminal::Done).unwrap();
    let drained = tokio::time::timeout(Duration::from_secs(20), drain.run(receiver, ended)).await;
    stop.store(true, Ordering::Relaxed);
    for thread in narrators {
        thread.join().unwrap();
    }
    assert!(drained.is_ok() && log.terminal().is_some(), "the terminal event was delayed");
}

#[tokio::test]
async fn a_journal_that_fails_is_narrated_and_written_at_the_end() {
    let dir = tempfile::tempdir().unwrap();
    for entries_before_end in [0, 1] {
        let mut drain = drain(dir.path());
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        drain.journal = Some(Journal::to_file(File::from(OwnedFd::from(writer)), "test"));
        let (job, log, journals) =
            (Arc::clone(&drain.job), Arc::clone(&drain.log), Arc::clone(&drain.journals));
        let (entries, receiver) = mpsc::unbounded_channel();
        let (end, ended) = oneshot::channel();
        for _ in 0..entries_before_end {
            entries.send(Entry::Narration(narration(Instant(5), "before".to_owned()))).unwrap();
        }
        let result = RawValue::from_string("[1]".to_owned()).unwrap();
        entries.send(Entry::Result { at: Instant(6), data: result }).unwrap();
        end.send(Terminal::Done).unwrap();
        drain.run(receiver, ended).await;
        let kinds = |log: &Log| {
            let events = log.snapshot().1;
            assert!(events.iter().map(|event| event.seq).eq(1..=events.len() as u64));
            events.iter().map(|event| event.kind().name()).collect::<Vec<_>>()
        };
        let told = kinds(&log);
        assert_eq!(told[told.len() - 3..], ["narration", "result", "done"]);
        let note = &log.snapshot().1[entries_before_end];
        let Body::Narration { level, action, message, .. } = &note.body else { panic!("{note:?}") };
        assert_eq!((*level, &**action), (Level::Warn, NOT_JOURNALLED));
        assert!(message.contains("Broken pipe"), "{message}");
        assert_eq!(kinds(&journals.recall(job.id()).unwrap().log), told, "there was room at the end");
    }
}

#[tokio::test]
async fn a_job_without_any_journal_leaves_nothing_that_looks_interrupted() {
    let dir = tempfile::tempdir().unwrap();
    let mut drain = drain(dir.path());
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    drain.journal = Some(Journal::to_file(File::from(OwnedFd::from(writer)), "test"));
    let (job, journals) = (Arc::clone(&drain.job), Arc::clone(&drain.journals));
    // The draft cannot be made: no journal can be put in place.
    std::fs::create_dir(dir.path().join(format!("{}.tmp", job.id()))).unwrap();
    let (_entries, receiver) = mpsc::unbounded_channel();
    let (end, ended) = oneshot::channel();
    end.send(Terminal::Done).unwrap();
    drain.run(receiver, ended).await;
    assert_eq!(job.state(), JobState::Succeeded);
    assert!(journals.recall(job.id()).is_err() && !job.is_journalled());
}
