use std::path::Path;

use serde_json::{Value, json};

use super::*;
use crate::config::{Device, KeepAlive};

const FILE: &str = r#"
    [models.a]
    aliases = ["first"]
    context_length = 1000
    pinned = true
    sampling = { temperature = 0.5, top_k = 10 }
    variants.long = { context_length = 2000, aliases = ["first-long"] }
    [models.b]
    slots = 2
"#;

fn open(folder: &Path, file: &str) -> Settings {
    let config = Config { data_dir: folder.to_owned(), ..toml::from_str(file).unwrap() };
    config.validate().unwrap();
    Settings::open(&config)
}

fn change(id: &str, settings: Value, unset: &[&str]) -> Change {
    let (model, variant) =
        id.split_once('@').map_or((id, None), |(id, variant)| (id, Some(variant.to_owned())));
    let Value::Object(settings) = settings else { panic!("{settings}") };
    let unset = unset.iter().map(|&name| name.to_owned()).collect();
    Change {
        model: model.to_owned(),
        variant,
        settings,
        unset,
        taken: vec!["a".into(), "b".into(), "model-b".into()],
    }
}

#[tokio::test]
async fn operations_count_more_than_the_file_field_by_field_and_survive_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    let settings = open(folder.path(), FILE);
    let mut changes = settings.changes();
    settings
        .change(change("a", json!({"slots": 3, "sampling": {"temperature": 0.1}, "aliases": ["other"]}), &[]))
        .await
        .unwrap();
    settings.change(change("a@long", json!({"device": "cpu", "idle": -1}), &[])).await.unwrap();
    assert!(changes.has_changed().unwrap());
    changes.mark_unchanged();

    for settings in [settings, open(folder.path(), FILE)] {
        let told = settings.told("a", None);
        assert_eq!((told.settings.context_length, told.settings.slots), (Some(1000), Some(3)));
        assert_eq!((told.settings.sampling.temperature, told.settings.sampling.top_k), (Some(0.1), Some(10)));
        assert_eq!(told.settings.aliases, ["other"]);
        let sources = |name: &str| told.sources[name];
        assert_eq!((sources("slots"), sources("context_length")), (Source::Operation, Source::File));
        assert_eq!(
            (sources("sampling.temperature"), sources("sampling.top_k")),
            (Source::Operation, Source::File)
        );
        assert_eq!(*settings.of("a", None), told.settings);

        let long = settings.of("a", Some("long"));
        assert_eq!((long.context_length, long.slots, long.device), (Some(2000), Some(3), Some(Device::CPU)));
        assert_eq!((long.idle, long.pinned), (Some(KeepAlive::Forever), None), "pinned is the model's alone");
        assert_eq!(long.aliases, ["first-long"]);

        assert_eq!(settings.called("other"), Some(("a".into(), None)));
        assert_eq!(settings.called("first"), None, "the list was replaced");
        assert_eq!(settings.called("first-long"), Some(("a".into(), Some("long".into()))));
        assert_eq!(settings.called("other@long"), Some(("a".into(), Some("long".into()))));
        assert_eq!(settings.called("A@long"), Some(("A".into(), Some("long".into()))), "the catalog tells");
        assert_eq!(settings.called("a@longer"), None);
    }
}

#[tokio::test]
async fn what_is_unset_is_the_files_again() {
    let folder = tempfile::tempdir().unwrap();
    let settings = open(folder.path(), FILE);
    settings.change(change("a", json!({"slots": 3, "sampling": {"temperature": 0.1}}), &[])).await.unwrap();
    settings.change(change("a@long", json!({"slots": 5}), &[])).await.unwrap();
    settings
        .change(change("a", json!({}), &["slots", "sampling.temperature", "variants.long.slots"]))
        .await
        .unwrap();
    assert_eq!(*settings.of("a", None), *open(tempfile::tempdir().unwrap().path(), FILE).of("a", None));
    let kept: Value =
        serde_json::from_slice(&std::fs::read(folder.path().join("model-settings.json")).unwrap()).unwrap();
    assert_eq!(kept, json!({"version": 1, "models": {}}));
}

#[tokio::test]
async fn refused_settings_leave_nothing_changed() {
    let folder = tempfile::tempdir().unwrap();
    let settings = open(folder.path(), FILE);
    settings.change(change("a", json!({"slots": 3}), &[])).await.unwrap();
    let (kept, before) =
        (std::fs::read(folder.path().join("model-settings.json")).unwrap(), settings.told("a", None));
    for (id, wrong, unset, named) in [
        ("a", json!({"slots": 0}), &[][..], "settings: slots cannot be 0: 1 to 1024"),
        ("a", json!({"slots": "many"}), &[], "settings: field `slots`"),
        ("a", json!({"slot": 1}), &[], "unknown field `slot`"),
        ("a", json!({"slots": null}), &[], "settings: field `slots` is null"),
        ("a", json!({"sampling": {"top_p": 2}}), &[], "settings: sampling.top_p cannot be 2: 0 to 1"),
        ("a", json!({"sampling": {"temp": 2}}), &[], "field `sampling.temp`"),
        ("a", json!({"engine_options": {"log_file": "x"}}), &[], "expected one of `flash_attention`"),
        ("a", json!({"idle": "soon"}), &[], "'soon' is not a duration"),
        ("a", json!({"aliases": ["b"]}), &[], "'b', which is the id or the name of a model"),
        ("a", json!({"aliases": ["model-b"]}), &[], "'model-b', which is the id or the name of a model"),
        ("b", json!({"aliases": ["first"]}), &[], "'first' to 'b', and it is an alias of 'a'"),
        ("a@x y", json!({"slots": 1}), &[], "variants has 'x y'"),
        ("a@long", json!({"variants": {"x": {"slots": 1}}}), &[], "a variant has no variants"),
        ("a", json!({"chat_template": "/no/such"}), &[], "chat_template names /no/such, which is no file"),
        ("a", json!({"slots": 1}), &["slotz"], "there is no setting `slotz`"),
        ("a", json!({}), &["sampling.temp"], "there is no setting `sampling.temp`"),
    ] {
        let failure = settings.change(change(id, wrong.clone(), unset)).await.unwrap_err();
        assert_eq!((failure.code, failure.hint.is_some()), (Code::InvalidField, true), "{wrong}");
        assert!(failure.message.contains(named), "{wrong}: {}", failure.message);
    }
    assert_eq!(std::fs::read(folder.path().join("model-settings.json")).unwrap(), kept);
    assert_eq!(settings.told("a", None).settings, before.settings);
}

#[tokio::test]
async fn fields_that_this_version_does_not_know_are_kept_and_those_beside_them_count() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("model-settings.json");
    let json = json!({"version": 1, "more": [1], "models": {"a": {
        "slots": 4, "speed": "high", "sampling": {"temperature": 0.3, "mood": 1}, "device": {"all": true},
        "variants": {"long": {"slots": 5, "speed": "low"}}
    }}});
    std::fs::write(&file, json.to_string()).unwrap();
    let settings = open(folder.path(), FILE);
    assert_eq!(
        (settings.of("a", None).slots, settings.of("a", None).sampling.temperature),
        (Some(4), Some(0.3))
    );
    assert_eq!(settings.of("a", Some("long")).slots, Some(5));
    settings.change(change("b", json!({"slots": 1}), &[])).await.unwrap();
    let mut expected = json;
    expected["models"]["b"] = json!({"slots": 1});
    assert_eq!(serde_json::from_slice::<Value>(&std::fs::read(&file).unwrap()).unwrap(), expected);
}

#[tokio::test]
async fn a_file_of_a_newer_version_is_left_alone_and_a_damaged_one_set_aside() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("model-settings.json");
    for newer in [r#"{"version":2,"models":{"a":{"slots":9}}}"#, r#"{"version":2,"models":["other"]}"#] {
        std::fs::write(&file, newer).unwrap();
        let settings = open(folder.path(), FILE);
        assert_eq!(settings.of("a", None).slots, None);
        let failure = settings.change(change("a", json!({"slots": 1}), &[])).await.unwrap_err();
        assert!(failure.message.contains("a newer version"), "{failure}");
        assert_eq!(std::fs::read_to_string(&file).unwrap(), newer);
    }

    std::fs::write(&file, "{\"version\":1,").unwrap();
    let settings = open(folder.path(), FILE);
    settings.change(change("a", json!({"slots": 1}), &[])).await.unwrap();
    assert_eq!(settings.of("a", None).slots, Some(1));
    assert_eq!(
        std::fs::read_to_string(folder.path().join("model-settings.json.damaged")).unwrap(),
        "{\"version\":1,"
    );
}

#[test]
fn a_reload_takes_the_file_over_and_keeps_what_operations_set() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("model-settings.json"), r#"{"version":1,"models":{"a":{"slots":4}}}"#)
        .unwrap();
    let settings = open(folder.path(), FILE);
    let mut changes = settings.changes();
    settings.reload(&toml::from_str::<Config>(FILE).unwrap().models);
    assert!(!changes.has_changed().unwrap(), "nothing has changed");
    settings.reload(&toml::from_str::<Config>("[models.a]\ncontext_length = 5\nslots = 1").unwrap().models);
    assert!(changes.has_changed().unwrap());
    changes.mark_unchanged();
    let now = settings.of("a", None);
    assert_eq!((now.context_length, now.slots, now.pinned), (Some(5), Some(4), None));
}

#[test]
fn a_worker_is_outdated_if_it_would_be_started_otherwise() {
    let model: crate::models::Model = serde_json::from_value(json!({
        "id": "a", "name": "a", "size_bytes": 1, "path": "/a.gguf", "source": "file:/a", "format": "gguf",
        "status": "available", "added_at": "1970-01-02T00:00:00.000Z", "loaded": false, "context_length": 4096
    }))
    .unwrap();
    let read = |toml: &str| toml::from_str::<ModelSettings>(toml).unwrap();
    let then = read("context_length = 1000\nslots = 2\nsampling.top_k = 1");
    let asked = crate::workers::Asked { slots: Some(7), ..Default::default() };
    let request = StartRequest::new(&model, Some("long"), &then, asked);
    assert_eq!(
        (request.context_length, request.slots, request.served_id().as_str()),
        (Some(1000), Some(7), "a@long")
    );
    for (now, is_outdated) in [
        ("context_length = 1000\nslots = 2", false),
        ("context_length = 1000\nslots = 5", false),
        ("context_length = 1000\nslots = 2\nidle = 0\npinned = true\nsystem_prompt = \"x\"", false),
        ("context_length = 2000\nslots = 2", true),
        ("slots = 2", true),
        ("context_length = 1000\ndevice = \"cpu\"", true),
        ("context_length = 1000\nengine = \"builtin\"", true),
        ("context_length = 1000\nchat_template = \"/t\"", true),
        ("context_length = 1000\nprojector = \"/p\"", true),
        ("context_length = 1000\nengine_options.threads = 2", true),
    ] {
        assert_eq!(request.is_outdated(&read(now)), is_outdated, "{now}");
    }
    let unknown = StartRequest { settings: None, ..request };
    assert!(!unknown.is_outdated(&read("context_length = 2000")), "of an earlier version of the hive");
}
