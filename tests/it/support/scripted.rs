//! An engine that does what a test tells it, as a real process: it is this test binary, which runs [`serve`].
//!
//! The test tells by files in a folder. While `MODEL.loading` is there, the engine loads; once `MODEL.broken` is
//! there, it ends before it is ready. While `MODEL.held` is there, an answer waits before its first byte; while
//! `MODEL.halfway` is there, after it. Where `MODEL.hangs-up` is there, the engine that is asked next takes it away,
//! closes the connection and lives on. While `MODEL.timings` is there, it ends its streams with [`TIMINGS`]. Where
//! `MODEL.answer` is there, it is the answer. The file `log` lists what the engines did.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rbee_hive::config::{Capability, Config, DeviceKind, EngineSettings, Sandboxing};
use reqwest::Response;
use serde_json::{Value, json};

use super::{TestHive, read_until};

/// What the engine says of each answer, as llama.cpp's server does: 8 tokens of the prompt were in the cache.
const TIMINGS: &str = r#"{"choices":[{"index":0,"delta":{},"finish_reason":"stop"}],"timings":{"cache_n":8,"prompt_n":92,"prompt_ms":2.5,"predicted_n":20,"predicted_ms":4.0}}"#;
const STREAM_HEAD: &str = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\
                           connection: close\r\n\r\n";
/// The pause between two looks for a file.
const POLL: Duration = Duration::from_millis(5);

/// The folder through which a test tells its engines what to do.
pub(crate) struct Scripted(tempfile::TempDir);

impl Scripted {
    pub(crate) fn new() -> Self {
        Self(tempfile::tempdir().expect("a folder"))
    }

    /// Makes this the engine of a hive. It reports so many slots.
    pub(crate) fn serve_for(&self, config: &mut Config, slots: u32) {
        let environment = [
            ("SCRIPTED_FOLDER".to_owned(), self.0.path().display().to_string()),
            ("SCRIPTED_MODEL".to_owned(), "{model_id}".to_owned()),
            ("SCRIPTED_PORT".to_owned(), "{port}".to_owned()),
            ("SCRIPTED_SLOTS".to_owned(), slots.to_string()),
        ];
        let settings = this_program("support::scripted::serve", environment.into());
        config.engines.insert("scripted".to_owned(), settings);
    }

    /// Makes this the hive's llama-server, of one slot.
    pub(crate) fn serve_as_llama_server(&self, config: &mut Config) {
        let program = self.0.path().join("llama-server");
        std::fs::write(&program, self.llama_server("4567 (0a1b2c3)")).expect("a file");
        std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).expect("a program");
        config.llama_server.enabled = true;
        config.llama_server.program = Some(program);
        // It tells the test things by files.
        config.workers.sandbox = Sandboxing::Off;
    }

    /// A build of llama-server that proves itself, and that says of each answer in a try that it wrote so many tokens a
    /// second.
    pub(crate) fn build(&self, version: &str, tokens_per_second: u32) -> Vec<u8> {
        let message = json!({ "role": "assistant", "content": "All is well with this engine." });
        let timings = json!({ "prompt_n": 200, "prompt_ms": 400, "predicted_n": 48,
                              "predicted_ms": 48_000.0 / f64::from(tokens_per_second) });
        let answer = json!({ "choices": [{ "index": 0, "message": message }], "timings": timings });
        self.answer_with("(a try of llama-server-cpu)", &answer);
        self.llama_server(version).into_bytes()
    }

    /// The program of a llama-server of one slot.
    fn llama_server(&self, version: &str) -> String {
        let (folder, this) = (self.0.path().display(), std::env::current_exe().expect("this binary"));
        format!(
            r#"#!/bin/sh
            case ${{1-}} in
                --version) echo "version: {version}" >&2; exit ;;
                --list-devices) echo "Available devices:"; exit ;;
            esac
            while [ $# -gt 0 ]; do
                case $1 in --port) port=$2 ;; --alias) model=$2 ;; esac
                shift
            done
            export SCRIPTED_PORT="$port" SCRIPTED_MODEL="$model" SCRIPTED_SLOTS=1 SCRIPTED_FOLDER='{folder}'
            exec '{}' --exact support::scripted::serve --ignored --nocapture
            "#,
            this.display()
        )
    }

    /// Makes a program the hive's llama-server that ends every load with this line. Returns its path.
    pub(crate) fn fail_as_llama_server(&self, config: &mut Config, line: &str) -> PathBuf {
        let program = self.0.path().join("failing-server");
        let script = format!(
            "#!/bin/sh\ncase ${{1-}} in\n--version) echo 'version: 1 (a)'; exit ;;\n--list-devices) exit ;;\nesac\n\
             echo \"{line}\" >&2\nexit 1\n"
        );
        std::fs::write(&program, script).expect("a file");
        std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).expect("a program");
        config.llama_server.enabled = true;
        config.llama_server.program = Some(program.clone());
        program
    }

    /// Makes every engine of the hive hold so many bytes besides its own.
    pub(crate) fn hold(config: &mut Config, bytes: u64) {
        let engine = config.engines.get_mut("scripted").expect("the engine");
        engine.env.insert("SCRIPTED_HOLDS".to_owned(), bytes.to_string());
    }

    /// Begins a stream of an answer of the model, which does not end while `MODEL.halfway` is there. Returns it, and
    /// what has arrived of it.
    pub(crate) async fn half_an_answer(&self, hive: &TestHive, model: &str) -> (Response, String) {
        self.set(&format!("{model}.halfway"));
        let messages = [json!({ "role": "user", "content": model })];
        let chat = json!({ "model": model, "messages": messages, "stream": true });
        let mut answer = hive.post("/v1/chat/completions", &chat).await;
        let mut seen = String::new();
        read_until(&mut answer, &mut seen, "assistant").await;
        (answer, seen)
    }

    /// Puts a file there.
    pub(crate) fn set(&self, name: &str) {
        std::fs::write(self.0.path().join(name), b"").expect("a file");
    }

    /// Takes a file away.
    pub(crate) fn clear(&self, name: &str) {
        std::fs::remove_file(self.0.path().join(name)).expect("it is there");
    }

    /// Makes this the answer to every request for the model: a JSON object, or the chunks of a stream, whose last one
    /// may be `"[DONE]"`.
    pub(crate) fn answer_with(&self, model: &str, answer: &Value) {
        std::fs::write(self.0.path().join(format!("{model}.answer")), answer.to_string()).expect("a file");
    }

    /// What the engines did, in its order: `start MODEL`, and `asked TEXT` and `left TEXT` for each request, with
    /// the text of its last message, or the path that is asked where it has no messages.
    pub(crate) fn log(&self) -> Vec<String> {
        let log = std::fs::read_to_string(self.0.path().join("log")).unwrap_or_default();
        log.lines().map(str::to_owned).collect()
    }

    /// The last request that an engine got.
    pub(crate) fn last_request(&self) -> Value {
        let body = std::fs::read(self.0.path().join("last-request")).expect("a request");
        serde_json::from_slice(&body).expect("JSON")
    }

    /// The texts of the requests that the engines got.
    pub(crate) fn asked(&self) -> Vec<String> {
        let log = self.log();
        log.iter().filter_map(|line| line.strip_prefix("asked ")).map(str::to_owned).collect()
    }
}

/// An engine that is this test binary, which runs `test`, an ignored one.
pub(super) fn this_program(test: &str, environment: BTreeMap<String, String>) -> EngineSettings {
    // An engine must take the last two. They count as names of tests, which no test has.
    let words = ["--exact", test, "--ignored", "--nocapture", "{model}", "{port}"].map(str::to_owned);
    let program = std::env::current_exe().expect("this binary").display().to_string();
    EngineSettings {
        command: [program].into_iter().chain(words).collect(),
        devices: vec![DeviceKind::Cpu],
        about: String::new(),
        env: environment,
        secret_env: "SCRIPTED_SECRET".to_owned(),
        health_route: "/health".to_owned(),
        chat_route: "/v1/chat/completions".to_owned(),
        completions_route: None,
        embeddings_route: None,
        rerank_route: None,
        metrics_route: None,
        capabilities: Some(Capability::ALL.iter().copied().collect()),
        sandbox: false,
    }
}

/// The engine's side.
struct Engine {
    folder: PathBuf,
    model: String,
    slots: u32,
}

/// Not a test: hives run it as an engine.
#[test]
#[ignore = "runs as an engine of other tests"]
fn serve() {
    let Ok(folder) = std::env::var("SCRIPTED_FOLDER") else { return };
    let read = |name: &str| std::env::var(name).expect(name);
    let slots = read("SCRIPTED_SLOTS").parse().expect("a number");
    let engine = Engine { folder: folder.into(), model: read("SCRIPTED_MODEL"), slots };
    // What it holds is in memory once it is written to.
    let held = std::env::var("SCRIPTED_HOLDS").map_or(0, |bytes| bytes.parse().expect("a number"));
    let _held = std::hint::black_box(vec![1_u8; held]);
    let listener = TcpListener::bind(format!("127.0.0.1:{}", read("SCRIPTED_PORT"))).expect("its port");
    engine.log(&format!("start {}", engine.model));
    std::thread::scope(|scope| {
        // It ends with its hive.
        scope.spawn(|| {
            while std::io::stdin().read(&mut [0]).is_ok_and(|read| read > 0) {}
            std::process::exit(0);
        });
        for connection in listener.incoming() {
            let engine = &engine;
            scope.spawn(move || engine.answer(connection.expect("a connection")));
        }
    });
}

impl Engine {
    fn has(&self, state: &str) -> bool {
        Path::exists(&self.folder.join(format!("{}.{state}", self.model)))
    }

    fn log(&self, line: &str) {
        let mut options = std::fs::OpenOptions::new();
        let mut log = options.append(true).create(true).open(self.folder.join("log")).expect("the log");
        log.write_all(format!("{line}\n").as_bytes()).expect("a line");
    }

    fn answer(&self, mut connection: TcpStream) {
        let mut reader = BufReader::new(connection.try_clone().expect("a socket"));
        let (mut line, mut length) = (String::new(), 0);
        let mut head = String::new();
        while reader.read_line(&mut line).is_ok_and(|read| read > 2) {
            let lower = line.to_ascii_lowercase();
            if let Some(value) = lower.strip_prefix("content-length:") {
                length = value.trim().parse().expect("a length");
            }
            head.push_str(&line);
            line.clear();
        }
        let mut body = vec![0; length];
        // The end of an answer is nobody's but its client's business.
        let _gone = if reader.read_exact(&mut body).is_err() {
            Ok(())
        } else if head.starts_with("GET") {
            self.health(&mut connection)
        } else {
            let path = head.split(' ').nth(1).expect("a path");
            self.complete(&mut connection, path, &body)
        };
    }

    fn health(&self, connection: &mut TcpStream) -> std::io::Result<()> {
        if self.has("broken") {
            let _written = writeln!(std::io::stdout(), "the script says that the model is broken");
            std::process::exit(1);
        }
        if self.has("loading") {
            let progress = json!({ "done": 41, "total": 100, "unit": "percent" });
            return whole(connection, 503, &json!({ "status": "loading", "progress": progress }));
        }
        whole(connection, 200, &json!({ "status": "ok", "slots": self.slots }))
    }

    fn complete(&self, connection: &mut TcpStream, path: &str, body: &[u8]) -> std::io::Result<()> {
        let request: Value = serde_json::from_slice(body).expect("JSON");
        let message = request["messages"].as_array().and_then(|messages| messages.last());
        let text = message.map_or(path, |message| message["content"].as_str().unwrap_or_default());
        std::fs::write(self.folder.join("last-request"), body).expect("a file");
        self.log(&format!("asked {text}"));
        let answered = self.write_answer(connection, &request);
        if answered.is_err() {
            self.log(&format!("left {text}"));
        }
        answered
    }

    fn write_answer(&self, connection: &mut TcpStream, request: &Value) -> std::io::Result<()> {
        if std::fs::remove_file(self.folder.join(format!("{}.hangs-up", self.model))).is_ok() {
            return Err(std::io::ErrorKind::ConnectionAborted.into());
        }
        self.wait_while(connection, "held")?;
        if let Ok(answer) = std::fs::read(self.folder.join(format!("{}.answer", self.model))) {
            return write_told(connection, &serde_json::from_slice(&answer).expect("JSON"));
        }
        let answer = json!({ "role": "assistant", "content": std::process::id().to_string() });
        if request["stream"] != true {
            self.wait_while(connection, "halfway")?;
            return whole(connection, 200, &json!({ "choices": [{ "index": 0, "message": answer }] }));
        }
        connection.write_all(STREAM_HEAD.as_bytes())?;
        chunk(connection, &json!({ "choices": [{ "index": 0, "delta": answer }] }).to_string())?;
        self.wait_while(connection, "halfway")?;
        if self.has("timings") {
            chunk(connection, TIMINGS)?;
        }
        chunk(connection, "[DONE]")?;
        connection.write_all(b"0\r\n\r\n")
    }

    /// Waits while the file is there. Fails where the client has gone.
    fn wait_while(&self, connection: &TcpStream, state: &str) -> std::io::Result<()> {
        connection.set_read_timeout(Some(POLL))?;
        while self.has(state) {
            match connection.peek(&mut [0]) {
                Ok(0) => return Err(std::io::ErrorKind::ConnectionAborted.into()),
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
                other => drop(other?),
            }
        }
        Ok(())
    }
}

/// Writes an answer that the test has told, with the status that it has, if any.
fn write_told(connection: &mut TcpStream, answer: &Value) -> std::io::Result<()> {
    let Value::Array(chunks) = answer else {
        let status = answer["error"]["code"].as_u64().and_then(|status| u16::try_from(status).ok());
        return whole(connection, status.unwrap_or(200), answer);
    };
    connection.write_all(STREAM_HEAD.as_bytes())?;
    for data in chunks {
        chunk(connection, &data.as_str().map_or_else(|| data.to_string(), str::to_owned))?;
    }
    connection.write_all(b"0\r\n\r\n")
}

fn whole(connection: &mut TcpStream, status: u16, body: &Value) -> std::io::Result<()> {
    let body = body.to_string();
    let length = body.len();
    let head = format!(
        "HTTP/1.1 {status} -\r\ncontent-type: application/json\r\ncontent-length: {length}\r\n\
         connection: close\r\n\r\n"
    );
    connection.write_all((head + &body).as_bytes())
}

fn chunk(connection: &mut TcpStream, data: &str) -> std::io::Result<()> {
    let event = format!("data: {data}\n\n");
    connection.write_all(format!("{:x}\r\n{event}\r\n", event.len()).as_bytes())
}
