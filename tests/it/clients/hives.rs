//! The hives that client libraries call, and how their programs are run.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use tempfile::TempDir;
use tokio::process::Command;

use crate::support::hub::FakeHub;
use crate::support::installed::{Installed, NODE, PYTHON};
use crate::support::{TestHive, command, converse_for, nowhere, soon, write_model};

/// The model, as docs/CLIENTS.md names it.
pub(super) const MODEL: &str = "my-model";
const TOKEN: &str = "a-token-of-the-tests";

/// A hive without a token, and one with. Their models can do everything.
pub(super) struct Hives {
    pub(super) open: TestHive,
    guarded: TestHive,
    /// Stands in for Ollama's library.
    _library: FakeHub,
}

impl Hives {
    pub(super) async fn start() -> Self {
        let library = FakeHub::start().await;
        let folder = tempfile::tempdir().expect("a folder");
        let pulled = std::fs::read(write_model(folder.path(), "pulled")).expect("a model");
        library.push("library/small:latest", &pulled);
        let token = folder.path().join("token");
        std::fs::write(&token, TOKEN).expect("a token");
        std::fs::set_permissions(&token, std::fs::Permissions::from_mode(0o600)).expect("its mode");
        let endpoint = library.url.clone();
        let start = async |token: Option<PathBuf>| {
            let folder = tempfile::tempdir().expect("a folder");
            std::fs::create_dir(folder.path().join("models")).expect("a folder for models");
            write_model(&folder.path().join("models"), MODEL);
            TestHive::start_in(folder, |config| {
                converse_for(config);
                config.ollama.endpoint.clone_from(&endpoint);
                config.token_file = token;
            })
            .await
        };
        Self { open: start(None).await, guarded: start(Some(token)).await, _library: library }
    }

    pub(super) async fn stop(self) {
        self.open.stop().await;
        self.guarded.stop().await;
    }
}

/// A language of client libraries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Language {
    Python,
    Node,
}

impl Language {
    pub(super) async fn folder(self) -> Option<&'static Path> {
        let installed: &'static Installed = match self {
            Self::Python => &PYTHON,
            Self::Node => &NODE,
        };
        installed.folder().await
    }

    pub(super) const fn extension(self) -> &'static str {
        match self {
            Self::Python => "py",
            Self::Node => "mjs",
        }
    }

    /// The folder of its scripts.
    pub(super) fn scripts(self) -> PathBuf {
        let name = if self == Self::Python { "python" } else { "node" };
        Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/clients").join(name)
    }

    /// A folder for a program's files, beneath the one where its libraries are.
    pub(super) fn scratch(self, folder: &Path) -> TempDir {
        tempfile::Builder::new().prefix("run-").tempdir_in(folder).expect("a folder")
    }

    /// A program that runs scripts, at home in `home`. Nobody but the hive can be reached from it, as far as it
    /// heeds proxies.
    pub(super) fn program(self, folder: &Path, home: &Path) -> Command {
        let mut program = match self {
            Self::Python => command(folder.join("bin/python")),
            Self::Node => command("node"),
        };
        settle(&mut program, folder, home);
        program
    }
}

/// Gives a program an environment of its own, in which the installed programs are found.
pub(super) fn settle(program: &mut Command, folder: &Path, home: &Path) {
    let path = std::env::var("PATH").unwrap_or_default();
    let nowhere = nowhere();
    program
        .env_clear()
        .env("PATH", format!("{}:{path}", folder.join("bin").display()))
        .env("HOME", home)
        .env("LLM_USER_PATH", home.join("llm"))
        .env("LANG", "C.UTF-8")
        .env("HTTP_PROXY", &nowhere)
        .env("HTTPS_PROXY", &nowhere)
        .env("NO_PROXY", "127.0.0.1,localhost")
        // LiteLLM asks for a list of prices.
        .env("LITELLM_LOCAL_MODEL_COST_MAP", "True")
        .env("PYTHONPYCACHEPREFIX", folder.join("pycache"))
        .current_dir(home);
}

/// Copies the files of a folder to another one.
pub(super) fn copied(from: &Path, to: &Path) -> PathBuf {
    for entry in std::fs::read_dir(from).expect("a folder") {
        let entry = entry.expect("a file");
        std::fs::copy(entry.path(), to.join(entry.file_name())).expect("a copy");
    }
    to.to_owned()
}

/// Runs a program that calls the hives, which must succeed. Gives what it says.
pub(super) async fn run(hives: &Hives, mut program: Command) -> String {
    program
        .env("RBEE_URL", &hives.open.url)
        .env("RBEE_GUARDED_URL", &hives.guarded.url)
        .env("RBEE_TOKEN", TOKEN)
        .env("RBEE_MODEL", MODEL)
        .env("RBEE_PULLED_MODEL", "small:latest");
    let output = soon("a client", program.output()).await.expect("it starts");
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    let complaints = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{}\n{said}\n{complaints}", output.status);
    said
}
