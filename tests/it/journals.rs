//! Journals of other versions of the hive: those of older ones are read, those of newer ones are left as
//! they are.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rbee_hive::config::Config;
use rbee_hive::error::Code;
use rbee_hive::events::Hub;
use rbee_hive::jobs::{JobId, Registry};
use rbee_hive::time::Instant;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::support::{TestHive, check_of, data_lines, quick};

/// What the hive that wrote a journal answered for its job.
#[derive(Clone, Deserialize)]
struct Expected {
    /// What became of the job.
    what: String,
    job: Value,
    events: Vec<(String, Value)>,
}

impl Expected {
    /// Whether the job had no end when the hive was killed: the next start gives it one, at its own time.
    fn was_killed(&self) -> bool {
        self.what.starts_with("killed")
    }

    fn without_end_time(mut self) -> Self {
        self.job["ended_at"] = Value::Null;
        if let Some((_, end)) = self.events.last_mut() {
            end["at"] = Value::Null;
        }
        self
    }
}

/// The journals of one version, with today's date: a hive prunes acts that are a year old.
struct Fixtures {
    dir: PathBuf,
    /// The day on which they were made, and today, as instants begin.
    days: (String, String),
    expected: BTreeMap<String, Expected>,
}

impl Fixtures {
    /// Those of every version.
    fn all() -> Vec<Self> {
        let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/records/jobs");
        let entries = std::fs::read_dir(dir).expect("a folder").map(|entry| entry.expect("an entry").path());
        entries.filter(|path| path.is_dir()).map(Self::read).collect()
    }

    fn read(dir: PathBuf) -> Self {
        const DAY: usize = "2026-01-01T".len();
        let text = std::fs::read_to_string(dir.join("expected.json")).expect("a file");
        let (_, created_at) = text.split_once(r#""created_at":""#).expect("an instant");
        let days = (created_at[..DAY].to_owned(), Instant::now().to_string()[..DAY].to_owned());
        let expected = serde_json::from_str(&text.replace(&days.0, &days.1)).expect("JSON");
        Self { dir, days, expected }
    }

    /// Copies the journals of a folder to where a hive looks for them.
    fn copy(&self, folder: &str, config: &Config) {
        for entry in std::fs::read_dir(self.dir.join(folder)).expect("a folder") {
            let path = entry.expect("an entry").path();
            if path.extension().is_some_and(|extension| extension == "jsonl") {
                let text = std::fs::read_to_string(&path).expect("a journal");
                let copy = config.jobs_dir().join(path.file_name().expect("a name"));
                std::fs::write(copy, text.replace(&self.days.0, &self.days.1)).expect("a copy");
            }
        }
    }
}

/// Settings with the bounds that the journals were made with, and room for every act.
fn settings(dir: &Path) -> Config {
    let mut config = quick(dir);
    config.jobs.keep_acts = usize::MAX;
    config.jobs.log_events = 60;
    std::fs::create_dir_all(config.jobs_dir()).expect("a folder");
    config
}

fn open(config: &Config) -> Registry {
    Registry::open(config, Arc::new(Hub::new(8))).expect("a registry")
}

/// A job's summary and its typed events, as a stream gives them.
async fn read(registry: &Registry, id: &str) -> (Value, Vec<(String, Value)>) {
    let job = registry.get(id).unwrap_or_else(|failure| panic!("{failure}"));
    let mut cursor = registry.log(&job).await.expect("a log").follow(0);
    let mut events = Vec::new();
    while let Some(batch) = cursor.next().await {
        events.extend(batch.elision.map(|elision| ("elision".to_owned(), json!(elision))));
        for event in batch.events {
            let data = event.to_json(&job.header().operation);
            events.push((event.kind().name().to_owned(), serde_json::from_str(&data).expect("JSON")));
        }
    }
    (json!(job.summary()), events)
}

#[tokio::test]
async fn the_journals_of_every_version_are_read_as_their_own_hive_read_them() {
    for fixtures in Fixtures::all() {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let config = settings(dir.path());
        fixtures.copy("", &config);
        let (expected, place) = (&fixtures.expected, fixtures.dir.display());
        let text = |id: &str| {
            std::fs::read_to_string(config.jobs_dir().join(format!("{id}.jsonl"))).expect("a journal")
        };
        let before: BTreeMap<_, _> = expected.keys().map(|id| (id, text(id))).collect();

        let registry = open(&config);
        let mut found = BTreeMap::new();
        for (id, expected) in expected {
            let (job, events) = read(&registry, id).await;
            found.insert(id, Expected { what: expected.what.clone(), job, events });
        }
        drop(registry);
        let registry = open(&config);
        for (id, expected) in expected {
            let what = &expected.what;
            let (job, events) = read(&registry, id).await;
            let first = found.remove(id).expect("it was read");
            assert_eq!((&job, &events), (&first.job, &first.events), "{place}: {what}: read twice");
            if expected.was_killed() {
                let (expected, first) = (expected.clone().without_end_time(), first.without_end_time());
                assert_eq!((first.job, first.events), (expected.job, expected.events), "{place}: {what}");
                let (kept, after) = (&before[id], text(id));
                let lines = after.lines().count();
                assert!(lines > 2, "{place}: {what}");
                let unchanged = after.lines().take(lines - 1).skip(1).all(|line| kept.contains(line));
                assert!(unchanged, "{place}: {what}: what was there stays as it was");
            } else {
                assert_eq!((&job, &events), (&expected.job, &expected.events), "{place}: {what}");
                assert_eq!(text(id), before[id], "{place}: {what}: nothing is rewritten");
            }
        }
    }
}

#[tokio::test]
async fn journals_to_which_an_older_hive_added_the_end_are_read() {
    for fixtures in Fixtures::all() {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let config = settings(dir.path());
        fixtures.copy("mended", &config);
        let registry = open(&config);
        for (id, expected) in fixtures.expected.iter().filter(|(_, expected)| expected.was_killed()) {
            let Expected { what, job, events } = expected.clone();
            assert_eq!(read(&registry, id).await, (job, events), "{}: {what}", fixtures.dir.display());
        }
    }
}

#[tokio::test]
async fn journals_of_a_newer_version_are_left_as_they_are() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let mut config = settings(dir.path());
    // Nothing else is kept: what is still there was not pruned.
    config.jobs.keep_acts = 0;
    let newer = [
        r#"{"version":1000000,"jobs":["in a form that nobody knows yet"]}"#,
        concat!(
            r#"{"version":2,"job":{"id":"ID","operation":"x","kind":"act","request":{},"#,
            r#""created_at":"2026-01-01T00:00:00.000Z"}}"#,
            "\n",
            r#"{"event":"paused","data":{"seq":1,"at":"2026-01-01T00:00:00.000Z","operation":"x"}}"#,
            "\n"
        ),
    ];
    let journals = newer.map(|text| {
        let id = JobId::new().to_string();
        let path = config.jobs_dir().join(format!("{id}.jsonl"));
        let text = text.replace("ID", &id);
        std::fs::write(&path, &text).expect("a journal");
        (id, path, text)
    });
    for _ in 0..2 {
        let registry = open(&config);
        registry.prune();
        for (id, path, text) in &journals {
            assert_eq!(registry.get(id).expect_err("it is not understood").code, Code::JobNotFound);
            assert_eq!(&std::fs::read_to_string(path).expect("it is there"), text);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_journal_is_told_and_set_aside() {
    let hive = TestHive::start().await;
    let id = hive.submit(&json!({ "ModelDelete": { "id": "nothing" } })).await;
    hive.stream(&id).await;
    let dir = hive.stop().await;
    let path = dir.path().join(format!("data/jobs/{id}.jsonl"));
    let damaged =
        std::fs::read_to_string(&path).expect("a journal").replacen("\"narration\"", "\"narration", 1);
    std::fs::write(&path, &damaged).expect("a damaged journal");

    let kept_as = dir.path().join(format!("data/jobs/{id}.jsonl.damaged"));
    let mut dir = dir;
    for _ in 0..2 {
        let hive = TestHive::start_in(dir, |_| {}).await;
        let stream = hive.stream(&id).await;
        let lines = data_lines(&stream);
        assert!(stream.contains("1 line(s) of this job's journal are damaged"), "{stream}");
        assert!(lines.last().is_some_and(|end| end.starts_with("[ERROR] ")), "the end can be read: {stream}");
        let listed = hive.get("/v1/jobs").await.json::<Value>().await.expect("JSON");
        let job = &listed["jobs"][0];
        assert_eq!((&job["job_id"], &job["failure"]["code"]), (&json!(id), &json!("model_not_found")));
        assert_eq!(job["journal_damage"], json!({ "lines": 1, "kept_as": kept_as }));
        let report = hive.succeed(&json!({ "HiveCheck": {} })).await;
        let history = check_of(&report, "history");
        assert_eq!(history["ok"], false);
        assert!(history["detail"].as_str().expect("text").contains(kept_as.to_str().expect("UTF-8")));
        assert_eq!(std::fs::read_to_string(&kept_as).expect("the evidence"), damaged);
        dir = hive.stop().await;
    }
}
