//! The settings: their schema, what `rbee-hive config` shows of them, and what is said of a wrong file.

use std::path::Path;
use std::process::{Command, Output};

use rbee_hive::config::{Config, schema};
use serde_json::{Value, json};

use crate::support::{Daemon, document, executable, folder, read_until, write_model};

/// Runs `rbee-hive config` with these words and variables.
fn config(words: &[&str], variables: &[(&str, &str)]) -> Output {
    let mut command = Command::new(executable());
    for (variable, _) in
        std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("RBEE_HIVE_"))
    {
        command.env_remove(variable);
    }
    command.arg("config").args(words).envs(variables.iter().copied()).output().expect("it runs")
}

fn printed(output: &Output) -> &str {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    std::str::from_utf8(&output.stdout).expect("UTF-8")
}

#[test]
fn the_schema_in_the_repository_is_that_of_the_code() {
    let kept = document("docs/hive.schema.json");
    let output = config(&["schema"], &[]);
    assert_eq!(
        printed(&output),
        kept,
        "`rbee-hive config schema > docs/hive.schema.json` brings it up to date"
    );
}

/// A TOML file as JSON.
fn as_json(file: &str) -> Value {
    toml::from_str::<Value>(file).unwrap_or_else(|error| panic!("{error}\n{file}"))
}

#[test]
fn the_schema_accepts_what_the_hive_accepts_and_refuses_what_it_refuses() {
    let schema = schema();
    assert!(jsonschema::meta::is_valid(&schema));
    let validator = jsonschema::validator_for(&schema).expect("a schema");
    let documented = document("docs/CONFIGURATION.md");
    let mut examples: Vec<_> =
        documented.split("```toml\n").skip(1).filter_map(|rest| rest.split("```").next()).collect();
    // That of `tokens.toml` is another file.
    examples.retain(|example| !example.contains("[tokens."));
    assert!(examples.len() >= 4, "the documentation has examples");
    examples.extend([
        "",
        "bind = \"[::1]\"\nport = 0\nhub_cache = \"\"",
        "bind = \"None\"\nunix_socket = \"/run/hive\"",
        "[timers]\nsilence = \"1h 30m\"\nreadiness = \"1.5s\"\ndrain = \"0s\"\nstall = \"2 minutes\"",
        "[residency]\nidle = -1",
        "[residency]\nidle = \"-1m\"",
        "[residency]\nidle = 0.5",
        "[models.m]\nidle = \"600\"\ndevice = 3",
        "[models.m]\ndevice = \"CUDA:1\"\nengine_options = { kv_type = \"q8_0\", rope_scaling = \"yarn\" }",
        "[models.m.variants.v]\nsampling.top_k = 1",
        "[memory]\nlimit = { cuda = \"2.5 GB\", cpu = 4096 }",
        "[gateway]\nbody_limit = \"100 MiB\"",
        "[workers]\nrestart = \"on-failure\"\nsandbox = \"off\"\nthreads = 2",
    ]);
    for example in examples {
        let told: Vec<_> = validator.iter_errors(&as_json(example)).map(|error| error.to_string()).collect();
        assert!(told.is_empty(), "{told:?}\n{example}");
        toml::from_str::<Config>(example).unwrap_or_else(|error| panic!("{error}\n{example}"));
    }
    for wrong in [
        "prot = 1",
        "port = 65536",
        "port = \"7835\"",
        "bind = \"example.org\"",
        "hive_ids = \"a\"",
        "jobs = 1",
        "[jobs]\nkeep_akts = 1",
        "[jobs]\nqueue = -1",
        "[timers]\nsilence = 15",
        "[timers]\nsilence = \"15\"",
        "[timers]\nsilence = \"-1s\"",
        "[residency]\nidle = true",
        "[residency]\nloads = 0",
        "[models.m]\ndevice = \"tpu\"",
        "[models.m]\ndevice = -1",
        "[models.m]\nsampling.temp = 1",
        "[models.m.variants.v]\nslot = 1",
        "[models.m]\nengine_options.kv_type = \"q3\"",
        "[memory]\nlimit = { cpu = \"much\" }",
        "[workers]\nrestart = \"sometimes\"",
        "[workers]\nthreads = 0",
        "[engines.x]\ndevices = [\"cpu\"]",
        "[engines.x]\ncommand = [\"x\"]\ndevices = [\"tpu\"]",
    ] {
        assert!(!validator.is_valid(&as_json(wrong)), "the schema accepts {wrong}");
        assert!(toml::from_str::<Config>(wrong).is_err(), "the hive accepts {wrong}");
    }
}

/// A file in the folder with that text.
fn file(dir: &Path, text: &str) -> String {
    let path = dir.join("hive.toml");
    std::fs::write(&path, text).expect("a file");
    path.to_str().expect("UTF-8").to_owned()
}

#[test]
fn config_shows_each_value_and_where_it_comes_from() {
    let dir = folder();
    let file = file(dir.path(), "port = 1\nhive_ids = [\"a\"]\n\n[timers]\nsilence = \"2s\"\n");
    let variables = [
        ("RBEE_HIVE_PORT", "2"),
        ("RBEE_HIVE_BIND", "::1"),
        ("RBEE_HIVE_MODELS_DIR", "/a:/b"),
        ("HOME", "/h"),
    ];
    let words = ["--config", &file, "--bind", "127.0.0.2", "--json"];
    let told: Value = serde_json::from_str(printed(&config(&words, &variables))).expect("JSON");
    let of_file = |line: u32| json!({ "from": "file", "file": file, "line": line });
    let of_variable = |variable: &str| json!({ "from": "environment", "variable": variable });
    let setting = |name: &str, value: Value, source: Value| json!({ "name": name, "value": value, "source": source, "reloadable": false });
    assert_eq!(
        told,
        json!([
            setting("port", json!(2), of_variable("RBEE_HIVE_PORT")),
            setting("bind", json!("127.0.0.2"), json!({ "from": "flag", "flag": "--bind" })),
            setting("models_dirs", json!(["/a", "/b"]), of_variable("RBEE_HIVE_MODELS_DIR")),
            setting("hive_ids", json!(["a"]), of_file(2)),
            setting("timers.silence", json!("2s"), of_file(5)),
        ])
    );

    let text = config(&["show", "--config", &file], &variables);
    let expected = format!(
        "port = 2                   # environment RBEE_HIVE_PORT\n\
         bind = \"::1\"               # environment RBEE_HIVE_BIND\n\
         models_dirs = [\"/a\",\"/b\"]  # environment RBEE_HIVE_MODELS_DIR\n\
         hive_ids = [\"a\"]           # file {file}, line 2\n\
         \n\
         [timers]\n\
         silence = \"2s\"  # file {file}, line 5\n"
    );
    assert_eq!(printed(&text), expected);

    let all = config(&["--all", "--json"], &[]);
    let all: Vec<Value> = serde_json::from_str(printed(&all)).expect("JSON");
    let keep = all.iter().find(|setting| setting["name"] == "jobs.keep_acts").expect("it is shown");
    assert_eq!(
        (&keep["value"], &keep["source"]["from"], &keep["reloadable"]),
        (&json!(1000), &json!("default"), &json!(true))
    );
    assert_eq!(printed(&config(&[], &[])), "# every setting has its default: --all shows them\n");
}

#[test]
fn a_wrong_file_is_told_by_line_and_name_with_what_is_near() {
    let dir = folder();
    let path = file(dir.path(), "port = 1\nsilence = \"1s\"\n[job]\nqueue = 1\n[hub]\nofline = true\n");
    let refused = config(&["--config", &path], &[]);
    let said = String::from_utf8_lossy(&refused.stderr);
    assert_eq!(refused.status.code(), Some(78), "{said}");
    for told in [
        "hive.toml is not valid: line 2: there is no setting 'silence'; that setting stands in [timers]",
        "line 3: there is no setting 'job'; the nearest is 'jobs'",
        "line 6: there is no setting 'ofline' in [hub]; the nearest is 'offline'",
        "rbee-hive config --all",
    ] {
        assert!(said.contains(told), "{told}: {said}");
    }
}

/// One setting of `GET /v1/config`: its value, and where it comes from.
async fn in_effect(daemon: &Daemon, name: &str) -> (Value, Value) {
    let told = daemon.json("/v1/config").await;
    let settings = told["settings"].as_array().expect("settings");
    let setting = settings.iter().find(|setting| setting["name"] == name).expect("the setting");
    (setting["value"].clone(), setting["source"].clone())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reload_takes_effect_at_once_and_is_told_everywhere() {
    let dir = folder();
    write_model(&dir.path().join("models"), "tiny");
    let path = file(dir.path(), "[gateway]\nbody_limit = \"1 MiB\"\n");
    let daemon = Daemon::start(dir.path(), &["--config", &path]).await;
    let of_line = |line: u32| json!({ "from": "file", "file": path, "line": line });
    assert_eq!(in_effect(&daemon, "gateway.body_limit").await, (json!("1 MiB"), of_line(2)));
    let (mut events, mut seen) = (daemon.get("/v1/events").await, String::new());
    read_until(&mut events, &mut seen, "event: snapshot").await;
    let ask = async |length: usize| {
        let messages = json!([{ "role": "user", "content": "a".repeat(length) }]);
        let body = json!({ "model": "tiny", "max_tokens": 1, "messages": messages });
        let answer = daemon.try_post("/v1/chat/completions", &body).await.expect("an answer");
        (answer.status().as_u16(), answer.json::<Value>().await.expect("JSON")["code"].clone())
    };
    let verb = |words: &[&str]| {
        let output =
            Command::new(executable()).args(words).args(["--host", &daemon.url]).output().expect("it runs");
        printed(&output).to_owned()
    };
    let reload = async |text: &str| {
        file(dir.path(), text);
        let answer = daemon.try_post("/v1/reload", &json!({})).await.expect("an answer");
        (answer.status().as_u16(), answer.json::<Value>().await.expect("JSON"))
    };

    let text = "port = 1\n[residency]\non_demand = false\n[gateway]\nbody_limit = 2048\n";
    let told = json!({
        "file": path,
        "applied": ["gateway.body_limit", "residency.on_demand"],
        "restart_needed": ["port"],
    });
    assert_eq!(reload(text).await, (200, told.clone()));
    read_until(&mut events, &mut seen, "event: config").await;
    read_until(&mut events, &mut seen, &format!("data: {told}")).await;
    assert_eq!(in_effect(&daemon, "gateway.body_limit").await, (json!("2 KiB"), of_line(5)));
    assert_eq!(in_effect(&daemon, "residency.on_demand").await, (json!(false), of_line(3)));
    assert_eq!(in_effect(&daemon, "port").await.1["from"], "flag", "a flag counts more than the file");
    assert_eq!(daemon.json("/v1/config").await["restart_needed"], json!(["port"]));
    let shown = verb(&["config", "running"]);
    for line in [
        "body_limit = \"2 KiB\"  # file ",
        "on_demand = false  # file ",
        "\n# needs a restart of the hive: port\n",
    ] {
        assert!(shown.contains(line), "{line}: {shown}");
    }
    assert_eq!(ask(4096).await.0, 413);
    assert_eq!(ask(1).await, (404, json!("model_not_loaded")));

    // A wrong file changes nothing.
    let (status, problem) = reload("[gateway]\nbody_limit = \"1 MiB\"\n[residenzy]\n").await;
    assert_eq!((status, &problem["code"]), (500, &json!("config_invalid")), "{problem}");
    assert!(problem["detail"].as_str().expect("text").contains("the nearest is 'residency'"), "{problem}");
    assert_eq!(ask(4096).await.0, 413);

    let (_, told) = reload("").await;
    assert_eq!((&told["applied"].as_array().map(Vec::len), &told["restart_needed"]), (&Some(2), &json!([])));
    assert_eq!(in_effect(&daemon, "residency.on_demand").await, (json!(true), json!({ "from": "default" })));
    assert_ne!(ask(4096).await.0, 413);
    assert_eq!(verb(&["reload"]), format!("nothing has changed in {path}\n"));
    daemon.stop().await;
}
