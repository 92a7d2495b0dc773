use super::*;

const RELEASE: &str = r#"{
    "url": "https://api.github.com/repos/ggml-org/llama.cpp/releases/1", "tag_name": "b10892", "draft": false,
    "prerelease": true, "published_at": "2026-09-09T22:14:05Z",
    "tarball_url": "https://api.github.com/repos/ggml-org/llama.cpp/tarball/b10892",
    "assets": [
        {"url": "https://api.github.com/repos/ggml-org/llama.cpp/releases/assets/1", "id": 1, "label": "",
         "name": "llama-b10892-bin-ubuntu-x64.tar.gz", "content_type": "application/gzip", "state": "uploaded",
         "size": 16814543,
         "digest": "sha256:fb262cab2adf3a94807177cd8d57c8a9d9d8d54a7be8de84d5b05ceace52c03d",
         "browser_download_url": "https://github.com/ggml-org/llama.cpp/releases/download/b10892/x"},
        {"name": "old.zip", "size": 1, "digest": null, "browser_download_url": "https://github.com/y"},
        {"name": "odd.zip", "size": 1, "digest": "md5:00", "browser_download_url": "https://github.com/z"},
        {"name": "not-yet.zip", "size": 1, "state": "open", "browser_download_url": "https://github.com/z"}
    ], "body": "text"}"#;

#[test]
fn an_answer_of_github_is_read() {
    let release = Release::parse(RELEASE.as_bytes()).unwrap();
    assert_eq!((release.tag.as_str(), release.assets.len()), ("b10892", 3));
    assert_eq!(release.published_at.unwrap().to_string(), "2026-09-09T22:14:05Z");
    assert!(release.sources.as_deref().unwrap().ends_with("/tarball/b10892"));
    let asset = release.asset("llama-b10892-bin-ubuntu-x64.tar.gz").unwrap();
    assert_eq!(asset.size, 16_814_543);
    assert!(asset.sha256.as_deref().unwrap().starts_with("fb262cab"));
    assert!(release.assets[1..].iter().all(|asset| asset.sha256.is_none()));
    assert!(release.has_archives());
    assert!(Release::parse(b"{}").is_err());
}

#[test]
fn a_version_is_a_tag_and_never_part_of_another_path() {
    let folder = tempfile::tempdir().unwrap();
    let config = Config::default();
    let releases = Releases::of(&config.engine_builds, FetchConfig::of(&config), folder.path());
    let base = "https://api.github.com/repos/ggml-org/llama.cpp/releases";
    assert_eq!(releases.url("latest").unwrap().as_str(), format!("{base}/latest"));
    assert_eq!(releases.url("b6789").unwrap().as_str(), format!("{base}/tags/b6789"));
    for version in ["", "../x", "a/b", "a?b", "-x", ".", "..", "a b", "ä", &"b".repeat(101)] {
        assert_eq!(releases.url(version).unwrap_err().code, Code::InvalidField, "{version}");
    }
}

fn answer(url: &str) -> Answer {
    let release = Release::parse(RELEASE.as_bytes()).unwrap();
    Answer { url: url.to_owned(), etag: Some("\"1\"".to_owned()), at: now(), release, unknown: Map::new() }
}

#[test]
fn answers_are_remembered_within_a_bound_and_a_newer_file_is_left_alone() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("engines/releases.json");
    for number in 0..REMEMBERED + 3 {
        write(&path, answer(&format!("https://h/{number}"))).unwrap();
    }
    write(&path, answer("https://h/9")).unwrap();
    let urls = || read(&path).unwrap().answers.into_iter().map(|answer| answer.url).collect::<Vec<_>>();
    assert_eq!(
        (urls().len(), urls()[0].as_str(), urls()[1].as_str()),
        (REMEMBERED, "https://h/9", "https://h/14")
    );
    // Fields of a later version stay.
    let mut json: Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    json["later"] = 1.into();
    json["answers"][0]["later"] = 2.into();
    std::fs::write(&path, json.to_string()).unwrap();
    write(&path, answer("https://h/new")).unwrap();
    let json: Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    assert_eq!((&json["later"], &json["answers"][1]["later"]), (&1.into(), &2.into()));

    std::fs::write(&path, r#"{"version":2}"#).unwrap();
    write(&path, answer("https://h/1")).unwrap();
    assert_eq!(std::fs::read_to_string(&path).unwrap(), r#"{"version":2}"#);
    std::fs::write(&path, "damaged").unwrap();
    write(&path, answer("https://h/1")).unwrap();
    assert_eq!(urls(), ["https://h/1"]);
    assert_eq!(std::fs::read_to_string(files::damaged_path(&path)).unwrap(), "damaged");
}

#[test]
fn a_time_that_is_still_to_come_is_not_fresh() {
    let at = |seconds: i64| Timestamp::from_second(now().as_second() + seconds).unwrap();
    let minute = Duration::from_secs(60);
    assert!(is_within(at(-5), minute) && !is_within(at(-70), minute) && !is_within(at(50), minute));
    assert!(!is_within(now(), Duration::ZERO));
}
