use super::day::{MOST_ROWS, OTHERS};
use super::*;

fn sums(requests: u64) -> Sums {
    Sums { requests, completed: requests, prompt_tokens: 10 * requests, ..Sums::default() }
}

fn all() -> Asked {
    Asked { since: before(today(), DAYS), until: today(), caller: None, model: None }
}

fn opened() -> (tempfile::TempDir, Usage) {
    let dir = tempfile::tempdir().unwrap();
    let usage = Usage::open(dir.path().join("usage"));
    (dir, usage)
}

#[test]
fn what_is_written_and_what_is_not_yet_are_counted_once() {
    let (dir, usage) = opened();
    usage.add("a", Some("m"), &sums(1));
    usage.write().unwrap();
    usage.write().unwrap();
    usage.add("a", Some("m"), &sums(2));
    usage.add("b", None, &sums(1));
    let whole = usage.report(&all());
    let rows = whole.rows.clone();
    let row = |caller: &str, model: Option<&str>, requests| Row {
        caller: caller.into(),
        model: model.map(str::to_owned),
        sums: sums(requests),
    };
    assert_eq!(rows, [row("a", Some("m"), 3), row("b", None, 1)]);
    assert_eq!(whole.days, BTreeMap::from([(today(), sums(4))]));
    let of = |caller: Option<&str>, model: Option<&str>| {
        let asked = Asked { caller: caller.map(str::to_owned), model: model.map(str::to_owned), ..all() };
        usage.report(&asked).rows.iter().map(|row| row.sums.requests).sum::<u64>()
    };
    assert_eq!((of(Some("a"), None), of(None, Some("m")), of(Some("b"), Some("m"))), (3, 3, 0));
    // As after a kill.
    assert_eq!(Usage::open(dir.path().join("usage")).report(&all()).rows, [row("a", Some("m"), 1)]);
    usage.write().unwrap();
    assert_eq!(Usage::open(dir.path().join("usage")).report(&all()), whole);
    assert_eq!(usage.report(&Asked { until: before(today(), 1), ..all() }), Reported::default());
}

#[test]
fn what_cannot_be_written_is_written_the_next_time() {
    let (dir, usage) = opened();
    let folder = dir.path().join("usage");
    std::fs::write(&folder, "in the way").unwrap();
    usage.add("a", Some("m"), &sums(1));
    usage.write().unwrap_err();
    usage.add("a", Some("m"), &sums(1));
    std::fs::remove_file(&folder).unwrap();
    usage.write().unwrap();
    assert_eq!(Usage::open(folder).report(&all()).rows[0].sums, sums(2));
}

#[test]
fn files_of_newer_versions_stay_and_damaged_ones_are_set_aside() {
    let (dir, usage) = opened();
    let folder = dir.path().join("usage");
    std::fs::create_dir(&folder).unwrap();
    let file = folder.join(format!("{}.json", today()));
    std::fs::write(&file, "{\"version\":2}").unwrap();
    usage.add("a", Some("m"), &sums(1));
    usage.write().unwrap_err();
    assert_eq!(std::fs::read_to_string(&file).unwrap(), "{\"version\":2}");
    assert_eq!(usage.report(&all()).rows[0].sums, sums(1), "it is still counted");
    std::fs::write(&file, "{\"rows\":[").unwrap();
    usage.write().unwrap();
    assert_eq!(std::fs::read_to_string(format!("{}.damaged", file.display())).unwrap(), "{\"rows\":[");
    std::fs::write(&file, format!("{{\"later\":7,{}", &std::fs::read_to_string(&file).unwrap()[1..]))
        .unwrap();
    usage.add("a", Some("m"), &sums(1));
    usage.write().unwrap();
    let text = std::fs::read_to_string(&file).unwrap();
    assert!(
        text.contains("\"later\":7") && text.contains("\"requests\":2"),
        "unknown fields are kept: {text}"
    );
}

#[test]
fn there_are_so_many_days_and_so_many_rows_in_each() {
    let (dir, usage) = opened();
    let folder = dir.path().join("usage");
    std::fs::create_dir(&folder).unwrap();
    for days in [0, 1, DAYS, DAYS + 1, 3000] {
        let name = format!("{}.json", before(today(), days));
        std::fs::write(folder.join(name), r#"{"rows":[{"caller":"old","requests":1}]}"#).unwrap();
    }
    std::fs::write(folder.join("mine.json"), "mine").unwrap();
    for n in 0..MOST_ROWS + 50 {
        usage.add(&format!("caller {n:04}"), Some("m"), &sums(1));
        usage.used(&format!("token {n:04}"));
    }
    usage.write().unwrap();
    assert_eq!(files_of(&folder).len(), 3);
    assert!(folder.join("mine.json").exists());
    let rows = usage.report(&Asked { since: today(), ..all() }).rows;
    assert_eq!(rows.len(), MOST_ROWS + 1);
    // One is of the file.
    assert_eq!((&*rows[0].caller, rows[0].sums.requests), (OTHERS, 51));
    assert_eq!(rows.iter().map(|row| row.sums.requests).sum::<u64>(), 1051);
    assert_eq!(usage.of_tokens()[OTHERS].0, 50);
}

#[test]
fn tokens_know_when_they_were_used_last() {
    let (dir, usage) = opened();
    usage.used("ci");
    usage.write().unwrap();
    usage.used("ci");
    let (uses, last) = usage.of_tokens()["ci"];
    assert_eq!(uses, 2);
    assert!(last <= Instant::now());
    usage.write().unwrap();
    assert_eq!(Usage::open(dir.path().join("usage")).of_tokens()["ci"], (2, last));
}
