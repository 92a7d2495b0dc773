use super::*;

fn hub(config: config::Hub, environment: &[(&str, &str)]) -> Result<Hub> {
    let config = Config { hub: config, ..Config::default() };
    Hub::new(&config, |name| {
        environment.iter().find(|(known, _)| *known == name).map(|(_, value)| value.into())
    })
}

#[test]
fn settings_beat_the_environment_which_beats_defaults() {
    let plain = hub(config::Hub::default(), &[]).unwrap();
    assert_eq!(plain.endpoint.as_str(), "https://huggingface.co/");
    assert!(!plain.is_offline && plain.credentials().is_none());

    let environment =
        [("HF_ENDPOINT", "https://mirror.example/hub/"), ("HF_HUB_OFFLINE", "1"), ("HF_TOKEN", "hf_x\n")];
    let told = hub(config::Hub::default(), &environment).unwrap();
    assert_eq!(told.endpoint.as_str(), "https://mirror.example/hub/");
    assert!(told.is_offline && told.credentials().is_some());
    let url = api::file_url(&told.endpoint, "o/r", &"c".repeat(40), "a b.gguf").unwrap();
    assert_eq!(url.as_str(), format!("https://mirror.example/hub/o/r/resolve/{}/a%20b.gguf", "c".repeat(40)));

    let settings = config::Hub {
        endpoint: Some("http://127.0.0.1:1".into()),
        token_file: Some(PathBuf::new()),
        offline: Some(false),
    };
    let set = hub(settings, &environment).unwrap();
    assert_eq!(set.endpoint.as_str(), "http://127.0.0.1:1/");
    assert!(!set.is_offline && set.credentials().is_none());

    assert_eq!(
        hub(config::Hub::default(), &[("HF_ENDPOINT", "nonsense")]).unwrap_err().code,
        Code::ConfigInvalid
    );
}

#[test]
fn the_token_file_is_the_one_of_hf_auth_login_and_read_anew() {
    let home = tempfile::tempdir().unwrap();
    let path = home.path().to_str().unwrap();
    let hub = hub(config::Hub::default(), &[("HF_HOME", path), ("HOME", "/nowhere")]).unwrap();
    assert!(hub.credentials().is_none());
    fs::write(home.path().join("token"), "hf_secret\n").unwrap();
    let credentials = hub.credentials().unwrap();
    let header = credentials.for_url(&hub.endpoint).unwrap();
    assert_eq!(header.to_str().unwrap(), "Bearer hf_secret");
    assert!(!format!("{hub:?}").contains("hf_secret"));
}

#[test]
fn a_revision_is_given_once() {
    let name = |text: &str| HubName::parse(text).unwrap().unwrap();
    let request = |revision: &str| Request { revision: revision.into(), ..Request::default() };
    assert_eq!(revision_of(&name("o/r"), &request("main")).unwrap(), "main");
    assert_eq!(revision_of(&name("o/r"), &request("v1")).unwrap(), "v1");
    assert_eq!(revision_of(&name("o/r@v1"), &request("main")).unwrap(), "v1");
    assert_eq!(revision_of(&name("o/r@v1"), &request("v1")).unwrap(), "v1");
    for (text, revision) in [("o/r@v1", "v2"), ("o/r", "../x")] {
        let failure = revision_of(&name(text), &request(revision)).unwrap_err();
        assert_eq!(failure.code, Code::InvalidField);
    }
}
