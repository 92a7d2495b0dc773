//! The description of the API against the routes, `docs/EVENTS.md` and what a running hive answers.

use std::collections::{BTreeMap, BTreeSet};

use reqwest::Response;
use serde_json::{Value, json};

use crate::support::{
    TestHive, document, read_all, read_until, rows, schema, section, soon, typed, write_embedding_model,
    write_model,
};

/// A method and a path.
type Route = (String, String);

/// The document of a running hive.
struct Description {
    document: Value,
}

impl Description {
    async fn of(hive: &TestHive) -> Self {
        let answer = hive.get("/openapi.json").await;
        assert_eq!(answer.headers()["content-type"], "application/json");
        Self { document: answer.json().await.expect("JSON") }
    }

    fn routes(&self) -> BTreeSet<Route> {
        let paths = self.document["paths"].as_object().expect("paths");
        let methods = |path: &String, methods: &Value| -> Vec<Route> {
            methods
                .as_object()
                .expect("methods")
                .keys()
                .map(|method| (method.clone(), path.clone()))
                .collect()
        };
        paths.iter().flat_map(|(path, of)| methods(path, of)).collect()
    }

    fn check(&self, what: &str, schema: &Value, value: &Value) {
        let faults = schema::faults(&self.document, schema, value);
        assert!(faults.is_empty(), "{what} is not as the description says: {faults:#?}\n{value:#}");
    }

    /// The schema of the events of a stream.
    fn stream(&self, method: &str, path: &str) -> &Value {
        let answer = &self.document["paths"][path][method]["responses"]["200"];
        let schema = &answer["content"]["text/event-stream"]["schema"];
        assert!(schema.is_object(), "{method} {path} has no stream");
        schema
    }

    /// Checks a value against a schema by its name.
    fn check_named(&self, name: &str, value: &Value) {
        assert!(self.document["components"]["schemas"][name].is_object(), "there is no schema {name}");
        self.check(name, &json!({ "$ref": format!("#/components/schemas/{name}") }), value);
    }

    /// Checks the status, the media type and the body of an answer.
    async fn check_answer(&self, method: &str, path: &str, answer: Response) -> Value {
        let status = answer.status().as_u16();
        let described = &self.document["paths"][path][method]["responses"][status.to_string()];
        assert!(described.is_object(), "{method} {path} answers {status}, which is not described");
        let kind = answer.headers().get("content-type").map(|kind| kind.to_str().expect("text").to_owned());
        let body = soon("a body", answer.bytes()).await.expect("a body");
        let Some(kind) = kind else {
            assert!(described.get("content").is_none(), "{method} {path} has no content");
            return Value::Null;
        };
        let kind = kind.split(';').next().expect("a media type").trim();
        let content = &described["content"][kind];
        assert!(content.is_object(), "{method} {path} answers {status} as {kind}, which is not described");
        if !kind.ends_with("json") {
            return Value::from(String::from_utf8_lossy(&body));
        }
        let value: Value = serde_json::from_slice(&body).expect("JSON");
        self.check(&format!("{status} of {method} {path}"), &content["schema"], &value);
        value
    }
}

/// The fields of the events of a stream, without its comments.
fn events_of(stream: &str) -> impl Iterator<Item = Value> {
    let events = stream.split("\n\n").filter(|event| event.contains("data:"));
    events.map(|event| {
        let field = |name: &str| event.lines().find_map(|line| line.strip_prefix(name));
        let name = field("event: ").unwrap_or("message");
        let lines: Vec<_> = event.lines().filter_map(|line| line.strip_prefix("data: ")).collect();
        json!({ "event": name, "data": lines.join("\n") })
    })
}

/// The routes of `src/http.rs`, with their methods.
fn routed() -> BTreeSet<Route> {
    let text = document("src/http.rs");
    let mut routes = BTreeSet::new();
    for line in text.lines().filter_map(|line| line.trim().strip_prefix(".route(\"")) {
        let (path, handlers) = line.split_once('"').expect("a path in quotes");
        let path = path.replace("{*", "{");
        for method in ["get", "post", "delete", "any"] {
            if handlers.contains(&format!("{method}(")) {
                // What takes any method is described by the one that clients use.
                let method = if method == "any" { "post" } else { method };
                routes.insert((method.to_owned(), path.clone()));
            }
        }
    }
    assert!(routes.len() > 40, "the routes are in src/http.rs: {routes:?}");
    routes
}

/// The routes of the tables of `docs/EVENTS.md`: the names in the first cell of a row. One without a method has that
/// before it, and `post` where there is none.
fn documented() -> BTreeSet<Route> {
    let text = document("docs/EVENTS.md");
    let mut routes = BTreeSet::new();
    for row in text.lines().filter_map(|line| line.strip_prefix("| `")) {
        let cell = format!("`{}", row.split(" | ").next().unwrap_or_default());
        let mut method = "post".to_owned();
        for name in cell.split('`').skip(1).step_by(2) {
            let path = match name.split_once(" /") {
                Some((verb, path)) => {
                    method = verb.to_lowercase();
                    format!("/{path}")
                }
                None => name.to_owned(),
            };
            if path.starts_with('/') {
                routes.insert((method.clone(), path));
            }
        }
    }
    routes
}

#[tokio::test(flavor = "multi_thread")]
async fn the_routes_the_description_and_the_document_of_the_api_are_the_same() {
    let hive = TestHive::start().await;
    let described = Description::of(&hive).await.routes();
    let difference =
        |other: &BTreeSet<Route>| -> Vec<Route> { described.symmetric_difference(other).cloned().collect() };
    assert_eq!(difference(&routed()), [], "src/http.rs");
    // What has a section of its own is in no table.
    let mut documented = documented();
    documented.extend(["/v1/jobs"].map(|path| ("post".to_owned(), path.to_owned())));
    documented
        .extend(["/v1/jobs/{job_id}/stream", "/v1/events"].map(|path| ("get".to_owned(), path.to_owned())));
    assert_eq!(difference(&documented), [], "docs/EVENTS.md");
    hive.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_operation_has_the_fields_and_defaults_that_are_documented() {
    let hive = TestHive::start().await;
    let description = Description::of(&hive).await;
    let schemas = description.document["components"]["schemas"].as_object().expect("schemas");
    let spellings = schemas["Operation"]["oneOf"].as_array().expect("spellings");
    assert_eq!(spellings.len(), 2 * rbee_hive::ops::TABLE.len());
    for row in rbee_hive::ops::TABLE {
        let section = section(rows::events_document(), &format!("### {}", row.name));
        let fields: BTreeMap<_, _> = section
            .lines()
            .skip_while(|line| !line.starts_with("| field | type | default"))
            .take_while(|line| line.starts_with('|'))
            .skip(2)
            .map(|line| {
                let cells: Vec<_> = line.split('|').map(str::trim).collect();
                (cells[1].trim_matches('`').to_owned(), cells[3].trim_matches('`').to_owned())
            })
            .collect();
        let described: BTreeMap<_, _> = schemas[row.name]["properties"]
            .as_object()
            .expect("fields")
            .iter()
            .filter(|(name, _)| *name != "hive_id")
            .map(|(name, field)| {
                let default = field.get("default").map(|default| match default.as_str() {
                    Some(text) if !fields.get(name).is_some_and(|default| default.starts_with('"')) => {
                        text.to_owned()
                    }
                    _ => default.to_string(),
                });
                (name.clone(), default.unwrap_or_default())
            })
            .collect();
        assert_eq!(fields, described, "{}", row.name);
        let body = json!({ row.name: rows::sample_fields(row) });
        description.check_named("Operation", &body);
        let mut body = rows::sample_fields(row).as_object().cloned().unwrap_or_default();
        body.insert("operation".to_owned(), row.wire_name.into());
        description.check_named("Operation", &body.clone().into());
        body.insert("unheard".to_owned(), 1.into());
        let operation = json!({ "$ref": "#/components/schemas/Operation" });
        let faults = schema::faults(&description.document, &operation, &body.into());
        assert!(!faults.is_empty(), "{} takes an unknown field", row.name);
    }
    hive.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_hive_answers_is_as_it_is_described() {
    let hive = TestHive::start().await;
    write_model(&hive.models_dir(), "tiny");
    write_embedding_model(&hive.models_dir(), "vectors");
    let description = Description::of(&hive).await;
    // Every read, and acts with their results.
    let worker = hive.load("tiny").await;
    let pid = worker["pid"].clone();
    for (name, fields) in [
        ("HiveCheck", json!({})),
        ("ModelList", json!({})),
        ("ModelGet", json!({ "id": "tiny" })),
        ("ModelLoad", json!({ "id": "tiny" })),
        ("ModelLoad", json!({ "id": "vectors", "dry_run": true })),
        ("ModelDiagnose", json!({})),
        ("ModelSettingsGet", json!({ "id": "tiny" })),
        ("ModelSettingsSet", json!({ "id": "tiny", "settings": { "sampling": { "top_k": 3 } } })),
        ("WorkerSpawn", json!({ "model": "tiny", "worker": "cpu" })),
        ("WorkerProcessList", json!({})),
        ("WorkerProcessGet", json!({ "pid": pid })),
        ("ResidencyGet", json!({})),
        ("MemoryLease", json!({ "bytes": 1, "device": "cpu" })),
        ("WorkerListInstalled", json!({})),
        ("WorkerProcessDelete", json!({ "pid": pid })),
        ("ModelUnload", json!({ "id": "tiny" })),
        ("ModelDelete", json!({ "id": "vectors", "force": true })),
    ] {
        let operation = json!({ name: fields });
        description.check_named("Operation", &operation);
        let answer = hive.post("/v1/jobs", &operation).await;
        let created = description.check_answer("post", "/v1/jobs", answer).await;
        let id = created["job_id"].as_str().expect("a job").to_owned();
        let stream = hive.typed_stream(&id).await;
        assert!(typed(&stream).iter().any(|event| event.event == "done"), "{name}: {stream}");
        let schema = description.stream("get", "/v1/jobs/{job_id}/stream");
        for text in [stream, hive.stream(&id).await] {
            events_of(&text).for_each(|event| description.check(name, schema, &event));
        }
        let path = "/v1/jobs/{job_id}";
        let job = description.check_answer("get", path, hive.get(&format!("/v1/jobs/{id}")).await).await;
        description.check_named(&format!("{name}Result"), &job["result"]);
    }
    // A failure, refusals, and what the gateway answers.
    let failed = hive.submit(&json!({ "ModelGet": { "id": "nothing" } })).await;
    let stream = hive.typed_stream(&failed).await;
    let failure = typed(&stream).pop().expect("an end").data;
    description.check_named("JobFailedEvent", &failure);
    let message = json!([{ "role": "user", "content": "Hello" }]);
    for (path, body) in [
        ("/v1/jobs", json!({ "ModelLst": {} })),
        ("/v1/jobs", json!({ "Infer": {} })),
        ("/v1/jobs", json!({ "ModelGet": { "id": "-" } })),
        ("/v1/jobs", json!({ "ModelList": { "hive_id": "another" } })),
        ("/v1/markdown", json!({ "text": "*a*" })),
        ("/v1/markdown", json!({})),
        ("/v1/session", json!({})),
        ("/v1/reload", json!({})),
        ("/v1/chat/completions", json!({ "model": "tiny", "messages": message })),
        ("/v1/chat/completions", json!({ "model": "nothing", "messages": message })),
        ("/v1/completions", json!({ "model": "tiny", "prompt": "Hello" })),
        ("/v1/embeddings", json!({ "model": "tiny", "input": "Hello" })),
        ("/v1/rerank", json!({ "model": "tiny", "query": "a", "documents": ["b"] })),
        ("/v1/messages", json!({ "model": "tiny", "max_tokens": 9, "messages": message })),
        ("/v1/messages", json!({ "model": "nothing", "messages": message })),
        ("/v1/messages/count_tokens", json!({ "model": "tiny", "messages": message })),
        ("/v1/responses", json!({ "model": "tiny", "input": "Hello" })),
        ("/api/show", json!({ "model": "tiny" })),
        ("/api/show", json!({ "model": "nothing" })),
        ("/api/chat", json!({ "model": "tiny", "messages": message, "stream": false })),
        ("/api/generate", json!({ "model": "tiny", "prompt": "Hello", "stream": false })),
        ("/api/embed", json!({ "model": "tiny", "input": "Hello" })),
        ("/api/copy", json!({ "source": "tiny", "destination": "small" })),
        ("/api/pull", json!({ "model": "file:/nowhere.gguf", "stream": false })),
        ("/api/create", json!({})),
    ] {
        let kept = description.check_answer("post", path, hive.post(path, &body).await).await;
        if path == "/v1/responses" {
            let id = kept["id"].as_str().expect("a response");
            for (method, path) in [
                ("get", "/v1/responses/{id}"),
                ("get", "/v1/responses/{id}/input_items"),
                ("delete", "/v1/responses/{id}"),
                ("delete", "/v1/responses/{id}"),
            ] {
                let at = path.replace("{id}", id);
                let answer = if method == "get" { hive.get(&at).await } else { hive.delete(&at).await };
                description.check_answer(method, path, answer).await;
            }
        }
    }
    for (path, body) in [
        ("/v1/chat/completions", json!({ "model": "tiny", "stream": true, "messages": message })),
        ("/v1/completions", json!({ "model": "tiny", "stream": true, "prompt": "Hello" })),
        ("/v1/messages", json!({ "model": "tiny", "stream": true, "messages": message })),
        ("/v1/responses", json!({ "model": "tiny", "stream": true, "input": "Hello" })),
    ] {
        let schema = description.stream("post", path);
        let text = read_all(hive.post(path, &body).await).await;
        let events: Vec<_> = events_of(&text).collect();
        assert!(events.len() > 1, "{path}: {text}");
        events.iter().for_each(|event| description.check(path, schema, event));
        let nothing = json!({ "event": "message", "data": "{}" });
        assert!(
            !schema::faults(&description.document, schema, &nothing).is_empty(),
            "{path} may say nothing"
        );
    }
    for (path, at) in [
        ("/", "/"),
        ("/ui/{path}", "/ui/main.js"),
        ("/health", "/health"),
        ("/openapi.json", "/openapi.json"),
        ("/docs", "/docs"),
        ("/docs/{path}", "/docs/swagger-ui.css"),
        ("/docs/{path}", "/docs/nothing"),
        ("/v1/jobs", "/v1/jobs?limit=2&kind="),
        ("/v1/jobs", "/v1/jobs?limit=2"),
        ("/v1/jobs/{job_id}", "/v1/jobs/nothing"),
        ("/v1/capabilities", "/v1/capabilities"),
        ("/capabilities", "/capabilities"),
        ("/v1/models", "/v1/models"),
        ("/v1/models/{id}", "/v1/models/tiny"),
        ("/v1/models/{id}", "/v1/models/nothing"),
        ("/v1/workers/{pid}/log", "/v1/workers/1/log"),
        ("/v1/workers/{pid}/log", "/v1/workers/x/log"),
        ("/hub/api/models/{org}/{repo}", "/hub/api/models/org/repo"),
        ("/hub/{org}/{repo}/resolve/{revision}/{path}", "/hub/org/repo/resolve/main/m.gguf"),
        ("/v2", "/v2"),
        ("/v2/{namespace}/{name}/manifests/{tag}", "/v2/library/tiny/manifests/latest"),
        ("/v2/{namespace}/{name}/blobs/{digest}", "/v2/library/tiny/blobs/sha256:0"),
        ("/api/version", "/api/version"),
        ("/api/tags", "/api/tags"),
        ("/api/ps", "/api/ps"),
    ] {
        description.check_answer("get", path, hive.get(at).await).await;
    }
    for path in ["/v1/models", "/v1/models/tiny"] {
        let request =
            hive.client.get(format!("{}{path}", hive.url)).header("anthropic-version", "2023-06-01");
        let answer = soon(path, request.send()).await.expect("an answer");
        let described = if path == "/v1/models" { "/v1/models" } else { "/v1/models/{id}" };
        description.check_answer("get", described, answer).await;
    }
    hive.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_events_of_the_hive_are_as_they_are_described() {
    let hive = TestHive::start().await;
    write_model(&hive.models_dir(), "tiny");
    let description = Description::of(&hive).await;
    let schema = description.stream("get", "/v1/events");
    let mut events = hive.get("/v1/events").await;
    hive.load("tiny").await;
    let body = json!({ "model": "tiny", "messages": [{ "role": "user", "content": "Hello" }] });
    assert_eq!(hive.post("/v1/chat/completions", &body).await.status(), 200);
    let wanted = ["snapshot", "job", "model", "worker", "request", "residency", "telemetry"];
    let mut text = String::new();
    for name in wanted {
        read_until(&mut events, &mut text, &format!("event: {name}\n")).await;
    }
    // Only whole events.
    let (whole, _) = text.rsplit_once("\n\n").expect("an event");
    for event in events_of(whole) {
        description.check(&event["event"].to_string(), schema, &event);
    }
    hive.stop().await;
}

/// The properties of a schema, also of those that it is composed of.
fn properties(schemas: &Value, schema: &Value) -> BTreeSet<String> {
    let named = schema["$ref"].as_str().and_then(|path| path.rsplit('/').next());
    let schema = named.map_or(schema, |name| &schemas[name]);
    let own = schema["properties"].as_object().into_iter().flat_map(|own| own.keys().cloned());
    let parts = schema["allOf"].as_array().into_iter().flatten();
    own.chain(parts.flat_map(|part| properties(schemas, part))).collect()
}

/// The types of the page's scripts that are objects of the API, and their schemas.
const TYPES_OF_THE_PAGE: [(&str, &str); 26] = [
    ("Model", "Model"),
    ("Worker", "Worker"),
    ("DeviceMemory", "MemoryView"),
    ("Resident", "ResidentView"),
    ("ResidentLoad", "LoadView"),
    ("WaitingLine", "QueueView"),
    ("Residency", "ResidencyView"),
    ("Progress", "Progress"),
    ("Failure", "Failure"),
    ("Choice", "ModelChoice"),
    ("Job", "Job"),
    ("Gpu", "Gpu"),
    ("System", "MachineUsage"),
    ("HiveInfo", "HiveInfo"),
    ("Plan", "DownloadPlan"),
    ("LoadPlan", "LoadPlan"),
    ("Eviction", "Eviction"),
    ("ModelSettings", "SettingsView"),
    ("EngineOffer", "EngineOffer"),
    ("EngineBuild", "EngineBuild"),
    ("InstalledEngine", "InstalledEngine"),
    ("FailedBuild", "FailedEngine"),
    ("Device", "DeviceCard"),
    ("Capabilities", "HiveCapabilities"),
    ("Token", "NamedToken"),
    ("UsageSums", "UsageSums"),
];

/// What the page's scripts know of a type, the description has.
#[tokio::test(flavor = "multi_thread")]
async fn the_types_of_the_page_are_described() {
    let hive = TestHive::start().await;
    let description = Description::of(&hive).await;
    let schemas = &description.document["components"]["schemas"];
    let text = document("ui/client.js") + &document("ui/lib/types.js");
    for (name, schema) in TYPES_OF_THE_PAGE {
        let (_, of) =
            text.split_once(&format!(" * @typedef {{object}} {name}\n")).expect("a type of the page");
        let known = of.lines().take_while(|line| line.starts_with(" * @property")).filter_map(|line| {
            let (_, name) = line.strip_prefix(" * @property {")?.rsplit_once("} ")?;
            Some(name.split(' ').next()?.trim_matches(['[', ']']).to_owned())
        });
        let described = properties(schemas, &schemas[schema]);
        // What the page itself adds to a job from its events.
        let added = |property: &str| name == "Job" && ["message", "progress"].contains(&property);
        let unknown: Vec<_> =
            known.filter(|property| !described.contains(property) && !added(property)).collect();
        assert!(unknown.is_empty(), "{name} has {unknown:?}, {schema} has not: {described:?}");
    }
    hive.stop().await;
}
