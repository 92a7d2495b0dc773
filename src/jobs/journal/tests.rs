use super::*;
use crate::jobs::event::Terminal;
use crate::jobs::job::OperationKind;

const BOUNDS: Bounds = Bounds { events: 1000, bytes: 1 << 20 };

fn journals(dir: &Path) -> Journals {
    Journals::open(dir.to_owned(), BOUNDS).unwrap()
}

/// Writes a journal with these lines behind the first one, whose fields are `first`.
fn write(journals: &Journals, first: &str, lines: &[&str]) -> JobId {
    let id = JobId::new();
    let header = JobHeader {
        id: id.clone(),
        operation: "model_unload".to_owned(),
        kind: OperationKind::Act,
        request: RawValue::from_string(r#"{"operation":"model_unload","x":1.0}"#.to_owned()).unwrap(),
        created_at: Instant(1),
        idempotency_key: None,
    };
    let job = json(&header).replace(r#""kind""#, r#""of_a_newer_version":[1.50],"kind""#);
    let text = format!("{{{first}\"job\":{job}}}\n{}\n", lines.join("\n"));
    std::fs::write(journals.path(&id), text).unwrap();
    id
}

const STARTED: &str = r#"{"event":"narration","step":"started","data":{"seq":1,"at":"2026-01-01T00:00:00.000Z","level":"debug","operation":"model_unload","action":"renamed","message":"x","later":{"b":2,"a":1.50}},"later":true}"#;
const DONE: &str =
    r#"{"event":"done","data":{"seq":2,"at":"2026-01-01T00:00:01.000Z","operation":"model_unload"}}"#;

#[test]
fn a_new_journal_has_the_version_of_its_format() {
    let dir = tempfile::tempdir().unwrap();
    let journals = journals(dir.path());
    let id = write(&journals, "", &[]);
    let header = journals.recall(&id).unwrap().header;
    let _journal = journals.create(&header).unwrap();
    let text = std::fs::read_to_string(journals.path(&id)).unwrap();
    assert!(text.starts_with(&format!("{{\"version\":{FORMAT_VERSION},\"job\":")), "{text}");
}

#[test]
fn a_rewrite_keeps_unknown_fields() {
    let dir = tempfile::tempdir().unwrap();
    let journals = journals(dir.path());
    let id = write(&journals, r#""version":2,"later":{"z":[1.50]},"#, &[STARTED]);
    let recalled = journals.recall(&id).unwrap();
    assert!(recalled.started_at.is_some(), "the step tells it, whatever the action is called");
    let end = Event { seq: 2, at: Instant(2), body: Body::Terminal(Terminal::Cancelled) };
    recalled.log.append([Arc::new(end)]);
    journals.rewrite(&id, recalled.started_at, &recalled.log).unwrap();

    let text = std::fs::read_to_string(journals.path(&id)).unwrap();
    let lines: Vec<_> = text.lines().collect();
    assert_eq!(lines.len(), 3);
    assert!(lines[0].starts_with(r#"{"version":2,"job":{"id":"#), "{}", lines[0]);
    assert!(lines[0].contains(r#""of_a_newer_version":[1.50]"#), "{}", lines[0]);
    assert!(lines[0].contains(r#""later":{"z":[1.5]}"#), "{}", lines[0]);
    assert!(lines[0].contains(r#""started_at":"2026-01-01T00:00:00.000Z""#), "{}", lines[0]);
    assert_eq!(lines[1], STARTED);
    assert!(lines[2].starts_with(r#"{"event":"cancelled""#), "{}", lines[2]);
    assert!(matches!(journals.recall(&id).unwrap().log.outcome(), Some(Terminal::Cancelled)));
}

#[test]
fn a_rewrite_drops_the_lines_that_the_log_dropped() {
    let dir = tempfile::tempdir().unwrap();
    let journals = journals(dir.path());
    let id = write(&journals, r#""version":2,"#, &[STARTED, DONE]);
    let log = Log::new(BOUNDS);
    log.restore_elision(Elision { from: 1, to: 1, count: 1 });
    log.append([Arc::new(Event::from_line(DONE).unwrap())]);
    journals.rewrite(&id, Some(Instant(0)), &log).unwrap();
    let text = std::fs::read_to_string(journals.path(&id)).unwrap();
    assert!(text.lines().next().unwrap().contains(r#""elided":{"from":1,"to":1,"count":1}"#), "{text}");
    assert_eq!(text.lines().skip(1).collect::<Vec<_>>(), [DONE]);
    let recalled = journals.recall(&id).unwrap();
    assert_eq!(recalled.started_at, Some(Instant(0)));
    assert!(recalled.log.is_elided());
}

#[test]
fn a_journal_of_a_newer_version_and_a_damaged_one_have_different_errors() {
    let dir = tempfile::tempdir().unwrap();
    let journals = journals(dir.path());
    let newer_versions = ["3", "\"next\"", "-1"]
        .map(|version| write(&journals, &format!(r#""version":{version},"#), &[STARTED, DONE]));
    let unknown_event = write(&journals, r#""version":2,"#, &[STARTED, &DONE.replace("done", "paused")]);
    for id in newer_versions.into_iter().chain([unknown_event]) {
        let error = journals.recall(&id).unwrap_err();
        assert!(matches!(&error, RecallError::Newer(_)), "{error:?}");
        let failure = Failure::from(error);
        assert!(failure.message.contains("newer version of rbee-hive"), "{failure}");
        assert!(failure.message.contains(id.as_str()) && failure.hint.is_some(), "{failure}");
    }
    let torn = write(&journals, r#""version":2,"#, &[STARTED, &DONE[..20]]);
    assert_eq!(journals.recall(&torn).unwrap().log.last_seq(), 1);
    let damaged = JobId::new();
    std::fs::write(journals.path(&damaged), "{\"job\":").unwrap();
    assert!(matches!(journals.recall(&damaged), Err(RecallError::Unreadable(_))));
}

#[test]
fn the_steps_of_version_1_are_read_from_its_actions() {
    let dir = tempfile::tempdir().unwrap();
    let journals = journals(dir.path());
    let old = STARTED.replace(r#""step":"started","#, "").replace("renamed", "job_started");
    let id = write(&journals, "", &[&old, DONE]);
    assert!(journals.recall(&id).unwrap().started_at.is_some());
    let id = write(&journals, r#""version":2,"#, &[&old, DONE]);
    assert_eq!(journals.recall(&id).unwrap().started_at, None);
}

#[test]
fn opening_removes_incomplete_journals_and_nothing_else() {
    let dir = tempfile::tempdir().unwrap();
    let job = JobId::new();
    let names = [format!("{job}.jsonl"), format!("{job}.tmp"), "notes.tmp".to_owned()];
    for name in &names {
        std::fs::write(dir.path().join(name), "x").unwrap();
    }
    assert_eq!(journals(dir.path()).ids().unwrap(), [job]);
    let left = names.map(|name| dir.path().join(name).exists());
    assert_eq!(left, [true, false, true]);
}

#[test]
fn removing_a_job_removes_the_logs_of_its_failed_workers() {
    let dir = tempfile::tempdir().unwrap();
    let journals = journals(dir.path());
    let (gone, kept) = (JobId::new(), JobId::new());
    let names = [format!("{gone}.jsonl"), format!("{gone}.w1.log"), format!("{kept}.jsonl"), "x.log".into()];
    for name in &names {
        std::fs::write(dir.path().join(name), "x").unwrap();
    }
    journals.remove(&HashSet::from([&gone]));
    assert_eq!(names.map(|name| dir.path().join(name).exists()), [false, false, true, true]);
}
