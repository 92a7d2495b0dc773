use serde_json::value::RawValue;

use super::*;
use crate::jobs::event::Terminal;
use crate::jobs::job::JournalDamage;

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
        journal_damage: None,
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
    assert_eq!(recalled.journal, JournalState::WithoutEnd);
    journals.rewrite(&id, recalled.started_at, &recalled.log).unwrap();

    let text = std::fs::read_to_string(journals.path(&id)).unwrap();
    let lines: Vec<_> = text.lines().collect();
    assert_eq!(lines.len(), 3);
    assert!(lines[0].starts_with(r#"{"version":2,"job":{"id":"#), "{}", lines[0]);
    assert!(lines[0].contains(r#""of_a_newer_version":[1.50]"#), "{}", lines[0]);
    assert!(lines[0].contains(r#""later":{"z":[1.5]}"#), "{}", lines[0]);
    assert!(lines[0].contains(r#""started_at":"2026-01-01T00:00:00.000Z""#), "{}", lines[0]);
    assert_eq!(lines[1], STARTED);
    assert!(lines[2].starts_with(r#"{"event":"failed""#), "{}", lines[2]);
    assert_eq!(outcome(&journals.recall(&id).unwrap()), Some(Code::Interrupted));
}

#[test]
fn a_rewrite_drops_the_lines_that_the_log_dropped() {
    let dir = tempfile::tempdir().unwrap();
    let journals = journals(dir.path());
    let id = write(&journals, r#""version":2,"#, &[STARTED, DONE]);
    let log = Log::new(BOUNDS);
    log.restore_elision(Elision { from: 1, to: 1, count: 1 });
    log.append([Arc::new(Event::from_line(DONE.as_bytes()).unwrap())]);
    journals.rewrite(&id, Some(Instant(0)), &log).unwrap();
    let text = std::fs::read_to_string(journals.path(&id)).unwrap();
    assert!(text.lines().next().unwrap().contains(r#""elided":{"from":1,"to":1,"count":1}"#), "{text}");
    assert_eq!(text.lines().skip(1).collect::<Vec<_>>(), [DONE]);
    let recalled = journals.recall(&id).unwrap();
    assert_eq!(recalled.started_at, Some(Instant(0)));
    assert!(recalled.log.is_elided());
}

#[test]
fn a_journal_of_a_newer_version_is_not_read() {
    let dir = tempfile::tempdir().unwrap();
    let journals = journals(dir.path());
    for version in ["3", "\"next\"", "-1"] {
        let id = write(&journals, &format!(r#""version":{version},"#), &[STARTED, DONE]);
        let error = journals.recall(&id).unwrap_err();
        assert!(matches!(&error, RecallError::Newer(_)), "{error:?}");
        let failure = Failure::from(error);
        assert!(failure.message.contains("newer version of rbee-hive"), "{failure}");
        assert!(failure.message.contains(id.as_str()) && failure.hint.is_some(), "{failure}");
    }
}

/// The code of the failure that a job ended with.
fn outcome(job: &RecalledJob) -> Option<Code> {
    match job.log.outcome().expect("every job that is read back has an end") {
        Terminal::Failed(failure) => Some(failure.code),
        Terminal::Done | Terminal::Cancelled => None,
    }
}

fn messages(job: &RecalledJob) -> Vec<String> {
    let message = |event: &Arc<Event>| match &event.body {
        Body::Narration { message, .. } => message.clone(),
        _ => event.kind().name().to_owned(),
    };
    job.log.snapshot().1.iter().map(message).collect()
}

fn narration(seq: u64) -> String {
    STARTED.replace(r#""step":"started","#, "").replace(r#""seq":1"#, &format!(r#""seq":{seq}"#))
}

#[test]
fn a_damaged_line_does_not_hide_those_that_follow() {
    let dir = tempfile::tempdir().unwrap();
    let journals = journals(dir.path());
    let (two, three, done) = (narration(2), narration(3), DONE.replace(r#""seq":2"#, r#""seq":4"#));
    let torn = &two[..two.len() / 2];
    for lost in ["", "{", torn, "\0\0\0", &narration(1), &narration(9)] {
        let id = write(&journals, r#""version":2,"#, &[STARTED, lost, &three, &done]);
        let before = std::fs::read(journals.path(&id)).unwrap();
        let job = journals.recall(&id).unwrap();
        assert_eq!(job.journal, JournalState::Damaged, "{lost}");
        assert_eq!(outcome(&job), None, "{lost}: the end that can be read decides");
        let said = messages(&job);
        assert_eq!((said.len(), &*said[3]), (4, "done"), "{lost}: {said:?}");
        assert!(said[2].contains("1 line(s)") && said[2].contains(".damaged"), "{said:?}");

        journals.replace_damaged(&job).unwrap();
        let kept_as = damaged_path(&journals.path(&id));
        assert_eq!(std::fs::read(&kept_as).unwrap(), before, "the evidence is kept");
        let again = journals.recall(&id).unwrap();
        assert_eq!((again.journal, messages(&again)), (JournalState::Whole, said), "{lost}");
        let damage = JournalDamage { lines: 1, kept_as: kept_as.display().to_string() };
        assert_eq!(again.header.journal_damage, Some(damage));
        journals.remove(&HashSet::from([&id]));
        assert!(kept_as.exists() && !journals.path(&id).exists(), "what is pruned is not the evidence");
    }
}

#[test]
fn an_end_that_cannot_be_read_is_not_made_up() {
    let dir = tempfile::tempdir().unwrap();
    let journals = journals(dir.path());
    let job = |lines: &[&str]| journals.recall(&write(&journals, r#""version":2,"#, lines)).unwrap();
    let damaged = DONE.replace("}}", "}x");
    assert_eq!(outcome(&job(&[STARTED, &damaged])), Some(Code::OutcomeUnknown));
    assert_eq!(outcome(&job(&[STARTED, &DONE.replace("done", "paused")])), Some(Code::OutcomeUnknown));
    assert_eq!(outcome(&job(&[STARTED])), Some(Code::Interrupted));
    assert_eq!(outcome(&job(&[STARTED, "{", &narration(3)])), Some(Code::Interrupted));
    let result =
        r#"{"event":"result","data":{"seq":2,"at":"2026-01-01T00:00:01.000Z","operation":"x","data":1}}"#;
    let succeeded = job(&[STARTED, result, &damaged]);
    assert_eq!(outcome(&succeeded), None, "a result is written with its end alone");
    let said = messages(&succeeded);
    assert!(said[1].contains("1 line(s)"), "{said:?}");
    assert_eq!(said[2..], ["result", "done"], "the result stands before the end");
    // A write that was cut off is no damage.
    let id = write(&journals, r#""version":2,"#, &[STARTED]);
    let text = std::fs::read_to_string(journals.path(&id)).unwrap() + &DONE[..40];
    std::fs::write(journals.path(&id), text).unwrap();
    let torn = journals.recall(&id).unwrap();
    assert_eq!((torn.journal, outcome(&torn)), (JournalState::WithoutEnd, Some(Code::Interrupted)));
}

#[test]
fn an_interrupted_job_says_what_its_last_progress_kept() {
    let dir = tempfile::tempdir().unwrap();
    let journals = journals(dir.path());
    let progress = |seq: u64, kept: &str| {
        let progress = format!(r#""progress":{{"done":3000,"total":4096,"unit":"bytes"{kept}}},"message""#);
        narration(seq).replace(r#""message""#, &progress)
    };
    let end = |lines: &[&str]| {
        let job = journals.recall(&write(&journals, r#""version":2,"#, lines)).unwrap();
        let Some(Terminal::Failed(failure)) = job.log.outcome() else { panic!("it failed") };
        assert_eq!(failure.code, Code::Interrupted);
        (failure.message.clone(), failure.hint.clone().unwrap_or_default())
    };
    let (message, hint) =
        end(&[STARTED, &progress(2, r#","kept":1024"#), &progress(3, r#","kept":2048"#), &narration(4)]);
    assert!(message.ends_with("under way: at least 2.0 KiB of 4.0 KiB are kept"), "{message}");
    assert_eq!(hint, "submit model_unload again: it goes on from there");
    for kept in ["", r#","kept":0"#] {
        let (message, hint) = end(&[STARTED, &progress(2, kept)]);
        assert!(message.ends_with("was under way") && hint == "submit it again", "{message}: {hint}");
    }
}

#[test]
fn a_job_without_its_first_line_has_what_the_rest_tells() {
    let dir = tempfile::tempdir().unwrap();
    let journals = journals(dir.path());
    for (text, operation) in
        [(format!("{{\"job\":\n{STARTED}\n{DONE}\n"), "model_unload"), (String::new(), "unknown")]
    {
        let id = JobId::new();
        std::fs::write(journals.path(&id), text).unwrap();
        let job = journals.recall(&id).unwrap();
        assert_eq!((&job.header.id, &*job.header.operation), (&id, operation));
        assert!(job.header.created_at > Instant(0), "the id tells it");
        assert_eq!(outcome(&job).is_some(), operation == "unknown");
        journals.replace_damaged(&job).unwrap();
        assert_eq!(journals.recall(&id).unwrap().header.operation, operation);
    }
}

/// Whatever byte of a journal is damaged: a job that succeeded has not failed for any other reason than
/// that its end cannot be read, and the file as it was found is still there.
#[test]
fn no_flipped_byte_rewrites_history() {
    let dir = tempfile::tempdir().unwrap();
    let journals = journals(dir.path());
    let id = write(&journals, r#""version":2,"#, &[STARTED, DONE]);
    let (path, kept_as) = (journals.path(&id), damaged_path(&journals.path(&id)));
    let sound = std::fs::read(&path).unwrap();
    for (at, bit) in (0..sound.len()).flat_map(|at| [0, 5, 7].map(|bit| (at, bit))) {
        let mut damaged = sound.clone();
        damaged[at] ^= 1 << bit;
        std::fs::write(&path, &damaged).unwrap();
        let Ok(job) = journals.recall(&id) else {
            assert_eq!(std::fs::read(&path).unwrap(), damaged, "it is taken for a newer version's");
            continue;
        };
        let code = outcome(&job);
        assert!(matches!(code, None | Some(Code::OutcomeUnknown)), "byte {at}, bit {bit}: {code:?}");
        assert_ne!(job.journal, JournalState::WithoutEnd, "byte {at}, bit {bit}");
        if job.journal == JournalState::Damaged {
            journals.replace_damaged(&job).unwrap();
            assert_eq!(std::fs::read(&kept_as).unwrap(), damaged);
            let again = journals.recall(&id).unwrap();
            assert_eq!((messages(&again), outcome(&again)), (messages(&job), code));
            std::fs::remove_file(&kept_as).unwrap();
        }
    }
}

#[test]
fn the_newest_damaged_journals_are_kept() {
    let dir = tempfile::tempdir().unwrap();
    let journals = journals(dir.path());
    let ids: Vec<_> = (0..=MAX_DAMAGED).map(|_| write(&journals, r#""version":2,"#, &["{", DONE])).collect();
    for id in &ids {
        journals.replace_damaged(&journals.recall(id).unwrap()).unwrap();
    }
    let kept: Vec<_> = ids[1..].iter().map(|id| damaged_path(&journals.path(id))).collect();
    assert_eq!(journals.damaged().unwrap(), kept);
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
