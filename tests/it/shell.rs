//! What the documents tell to type is run, against a hive that has the model `my-model`: the blocks that are marked
//! `sh run`, and `console run` where they also say what comes of it. All blocks of a document are one session of bash, as a
//! reader would paste them. What is not run is listed here with the reason.

mod blocks;
mod shape;

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::path::Path;

use blocks::blocks;
use shape::are_alike;
use tokio::process::Command;

use crate::contract::has_tools;
use crate::support::hub::FakeHub;
use crate::support::{
    Daemon, command, document, documents, executable, no_process_mentions, nowhere, program, soon, wrapped,
    write_model,
};

/// The blocks that are not run: the document, the first line of the block, and why.
const NOT_RUN: &[(&str, &str, &str)] = &[
    ("CONTRIBUTING.md", "just ci          # or, without just: .ci/run", "it is what runs this test"),
    ("CONTRIBUTING.md", "cargo install --locked cargo-fuzz", "it installs a program"),
    (
        "README.md",
        "cargo run --release -- quickstart   # watch a hive list, load, chat with and unload a model",
        "it builds; tests/it/quickstart.rs runs the quickstart",
    ),
    ("README.md", "cargo install --locked --path .", "it builds and installs the program"),
    (
        "docs/BENCHMARKS.md",
        "cargo bench                       # everything, about a quarter of an hour after the build",
        "it takes a quarter of an hour",
    ),
    (
        "docs/CLI.md",
        "$ rbee-hive pull bartowski/Llama-3.2-1B-Instruct-GGUF:Q4_K_M",
        "it shows a terminal's bar; tests/it/cli/terminal.rs looks at one",
    ),
    ("docs/CLI.md", "$ rbee-hive login", "it asks in a terminal; tests/it/cli/login.rs answers"),
    (
        "docs/CLI.md",
        "$ rbee-hive run my-model",
        "it is a conversation in a terminal; tests/it/cli/run.rs has one",
    ),
    (
        "docs/CLI.md",
        "$ rbee-hive events",
        "it goes on until Ctrl-C; tests/it/cli/follow.rs follows the events",
    ),
    (
        "docs/CLIENTS.md",
        "OLLAMA_HOST=http://localhost:7835 ollama run my-model \"Hi\"",
        "it needs Ollama's program",
    ),
    (
        "docs/CLIENTS.md",
        "export OPENAI_API_BASE=http://localhost:7835/v1 OPENAI_API_KEY=unused",
        "it needs aider",
    ),
    (
        "docs/CLIENTS.md",
        "export ANTHROPIC_BASE_URL=http://localhost:7835 ANTHROPIC_AUTH_TOKEN=unused",
        "it needs Claude Code",
    ),
    (
        "docs/CLIENTS.md",
        "export OPENAI_BASE_URL=http://localhost:7835/v1 OPENAI_API_KEY=unused OPENAI_MODEL=my-model",
        "it needs Qwen Code",
    ),
    (
        "docs/CLIENTS.md",
        "cline auth -p openai-compatible -k unused -m my-model -b http://localhost:7835/v1",
        "it needs Cline",
    ),
    (
        "docs/CLIENTS.md",
        "docker run --network host -e OLLAMA_BASE_URL=http://127.0.0.1:7835 ghcr.io/open-webui/open-webui:main",
        "it needs Docker and the network",
    ),
    (
        "docs/GPU.md",
        ".ci/gpu-check pack folder      # on a machine with a network: the hive, llama.cpp's sources, the check; 40 MB",
        "it needs a GPU",
    ),
    (
        "docs/METRICS.md",
        "OTEL_EXPORTER_OTLP_ENDPOINT=http://localhost:4318 rbee-hive",
        "it needs a collector and a feature; tests/it/traces.rs has both",
    ),
    ("docs/FLEET.md", "$ rbee-hive fleet up", "it needs nats-server; tests/it/fleet_setup.rs has one"),
    (
        "README.md",
        "rbee-hive fleet up                               # prints the line that joins the next machine",
        "it needs a fleet; tests/it/fleet.rs has one",
    ),
    ("docs/OPERATING.md", "sudo apt install ./rbee-hive_*.deb", "it installs a service"),
    (
        "docs/OPERATING.md",
        "sudo systemctl edit rbee-hive.socket     # [Socket] ListenStream= (empty), then ListenStream=0.0.0.0:7835",
        "it changes a service",
    ),
    (
        "docs/OPERATING.md",
        "systemctl --user enable --now rbee-hive.socket rbee-hive.service",
        "it starts a service",
    ),
    ("docs/OPERATING.md", "cp packaging/launchd/rbee-hive.plist ~/Library/LaunchAgents/", "it needs macOS"),
    (
        "docs/OPERATING.md",
        "podman build -t rbee-hive -f packaging/container/Containerfile .",
        "it needs podman; .ci/container does the same",
    ),
    (
        "docs/OPERATING.md",
        "sudo apt purge rbee-hive                # stops the service; the data stay",
        "it removes a service",
    ),
    (
        "docs/RELIABILITY.md",
        "RBEE_HIVE_TEST_ROUNDS=200 cargo test --test it faults",
        "it takes ten minutes, and is a test itself",
    ),
    (
        "docs/SHARING.md",
        "export HF_ENDPOINT=http://gpu-box:7835/hub",
        "it needs the clients; tests/it/sharing.rs runs hf",
    ),
    (
        "docs/SHARING.md",
        "ollama pull --insecure gpu-box:7835/library/smollm2:135m",
        "it needs Ollama's program",
    ),
];

/// The document whose blocks `clients::document` runs.
const OF_CLIENTS: &str = "docs/CLIENTS.md";

/// A test for each document with blocks that run.
macro_rules! documents_that_run {
    ($($test:ident: $document:literal,)*) => {
        const RUN: &[&str] = &[$($document,)*];
        $(
            #[tokio::test(flavor = "multi_thread")]
            async fn $test() {
                runs($document).await;
            }
        )*
    };
}

documents_that_run! {
    the_readme_runs: "README.md",
    the_api_by_example_runs: "docs/API.md",
    the_command_line_runs: "docs/CLI.md",
    the_configuration_runs: "docs/CONFIGURATION.md",
    the_engines_run: "docs/ENGINES.md",
    the_metrics_run: "docs/METRICS.md",
    operating_runs: "docs/OPERATING.md",
    sharing_runs: "docs/SHARING.md",
}

#[test]
fn every_block_for_a_shell_is_run_or_says_here_why_not() {
    let mut not_run = BTreeSet::new();
    let mut run = BTreeSet::new();
    for path in documents() {
        for block in blocks(&document(&path)).iter().filter(|block| block.is_for_a_shell()) {
            let place = format!("{path}:{}", block.line);
            let first = block.lines.first().unwrap_or_else(|| panic!("{place} is empty"));
            let listed = NOT_RUN.iter().position(|(of, line, _)| (*of, *line) == (&*path, &**first));
            assert!(
                listed.is_some() != block.is_run(),
                "{place}: mark it with `run`, or list it here: {first}"
            );
            not_run.extend(listed);
            if block.is_run() && path != OF_CLIENTS {
                run.insert(path.clone());
            }
        }
    }
    let gone: Vec<_> = (0..NOT_RUN.len()).filter(|at| !not_run.contains(at)).map(|at| NOT_RUN[at]).collect();
    assert!(gone.is_empty(), "no document has these blocks: {gone:#?}");
    assert_eq!(run.iter().map(String::as_str).collect::<Vec<_>>(), RUN, "each has its test");
}

/// Stands before the line of what is run, in what it shows.
const MARK: char = '\u{1e}';

/// Runs the blocks of a document, which must succeed and show what it says.
async fn runs(path: &str) {
    if !has_tools().await {
        return;
    }
    let dir = tempfile::tempdir().expect("a temporary folder");
    let hub = hub(dir.path()).await;
    let models = dir.path().join("home/models");
    std::fs::create_dir_all(&models).expect("a folder for models");
    write_model(&models, "my-model");
    write_model(&dir.path().join("home"), "file");
    let settings =
        format!("[ollama]\nendpoint = '{}'\n[engine_builds]\nreleases = '{}'\n", hub.url, nowhere());
    std::fs::write(dir.path().join("settings.toml"), settings).expect("a file");

    let mut serve = as_a_reader(program(), dir.path(), &hub);
    serve.args(["serve", "--port", "0"]);
    let daemon = Daemon::run(serve).await;
    let address = daemon.url.trim_start_matches("http://");
    let text = document(path);
    let commands: Vec<_> =
        blocks(&text).iter().filter(|block| block.is_run()).flat_map(blocks::Block::commands).collect();
    let mut script = include_str!("shell/prelude.sh").to_owned();
    for command in &commands {
        writeln!(script, "printf '{MARK}%s\\n' {}\n{}", command.line, command.text).expect("text");
    }
    let file = dir.path().join("script.sh");
    std::fs::write(&file, script.replace("localhost:7835", address)).expect("a file");

    let mut bash = command("bash");
    bash.args(["-c", "exec bash -euo pipefail \"$@\" 2>&1", "bash"]).arg(file);
    let mut bash = as_a_reader(wrapped(bash, &program()), dir.path(), &hub);
    let output = soon(path, bash.output()).await.expect("bash runs");
    let shown = String::from_utf8_lossy(&output.stdout).into_owned();
    let parts: Vec<_> = shown.split(MARK).skip(1).filter_map(|part| part.split_once('\n')).collect();
    for (at, (line, shown)) in parts.iter().enumerate() {
        let command = &commands[at];
        let ended = at + 1 < parts.len() || output.status.success();
        assert!(ended, "{path}:{line} fails ({}):\n{}\n{shown}", output.status, command.text);
        if let Some(said) = &command.shows {
            let shown: Vec<_> = shown.lines().collect();
            let said_and_shown = || format!("{}\n\nshows\n\n{}", said.join("\n"), shown.join("\n"));
            assert!(are_alike(said, &shown), "{path}:{line}: {}\n\n{}", command.text, said_and_shown());
        }
    }
    assert_eq!(parts.len(), commands.len(), "{path}: {}\n{shown}", output.status);
    daemon.end().await;
    assert!(no_process_mentions(dir.path().to_str().expect("text")), "{path} leaves a process");
}

/// A Hub, which is Ollama's library too, with the models that the documents name.
async fn hub(dir: &Path) -> FakeHub {
    let hub = FakeHub::start().await;
    let model = std::fs::read(write_model(dir, "of-the-hub")).expect("a model");
    let repo = "HuggingFaceTB/SmolLM2-360M-Instruct-GGUF";
    hub.commit(repo, "main", &[("smollm2-360m-instruct-q8_0.gguf", &model)]);
    hub.push("library/smollm2:135m", &model);
    hub
}

/// A program at home in a folder of the test.
fn as_a_reader(mut command: Command, dir: &Path, hub: &FakeHub) -> Command {
    for (name, _) in std::env::vars_os() {
        let text = name.to_string_lossy();
        if ["HF_", "HUGGING_FACE_", "OLLAMA_", "XDG_", "OTEL_"].iter().any(|start| text.starts_with(start)) {
            command.env_remove(&name);
        }
    }
    let home = dir.join("home");
    let folder = executable().parent().expect("a folder").display().to_string();
    let path = std::env::var("PATH").unwrap_or_default();
    command
        .env_remove("HF_HUB_CACHE")
        .env_remove("HF_TOKEN_PATH")
        .env("HF_ENDPOINT", &hub.url)
        .env("HOME", &home)
        .env("TMPDIR", dir)
        .env("PATH", format!("{folder}:{path}"))
        .env("LANG", "C.UTF-8")
        .env("RBEE_HIVE_CONFIG", dir.join("settings.toml"))
        .env("RBEE_HIVE_MODELS_DIR", home.join("models"))
        .current_dir(home);
    command
}
